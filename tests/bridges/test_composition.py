"""The four bridges in one recipe: every pair that makes sense trains, and each has its effect."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim2real import schema
from sim2real.bridges.adapt.context import ContextAdapter
from sim2real.bridges.align import aligned
from sim2real.bridges.align.adversarial import Aligned
from sim2real.identification.excitation import excite
from sim2real.identification.posterior import Posterior
from sim2real.identification.windows import Trajectory
from sim2real.policy.actor import Actor
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe
from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.train import train
from sim2real.types import InputError

GAP = """
actuators: {strength: 0.6}
sensors: {v5: {bias: 0.3}}
"""
ROBOT = "inverted_pendulum"
BRIDGES: dict[str, Any] = {
    "uniform": {"randomize": "uniform"},
    "epopt": {"randomize": {"method": "epopt", "episodes": 16, "min_kept": 4, "warm_up": 0.0}},
    "doraemon": {"randomize": {"method": "doraemon", "success": 5.0, "every": 16}},
    "adr": {"randomize": {"method": "adr", "high": 5.0, "low": 1.0, "buffer": 2}},
    "darc": {"correct": {"method": "darc", "target": "GAP", "target_steps": 400, "initial": 200,
                         "warm_up": 256}},
    "posterior": {"randomize": {"method": "posterior", "file": "LOGGED"}},
    "reidentify": {"randomize": {"method": "reidentify", "target": "GAP", "rounds": 1,
                                 "episodes": 3, "target_steps": 100}},
    "dann": {"align": {"method": "dann", "gap": "GAP", "observations": 800, "steps": 200}},
    "confusion": {"align": {"method": "confusion", "gap": "GAP", "observations": 800,
                            "steps": 200}},
    "context": {"adapt": "context"},
}  # fmt: skip
PPO = {"network": [16], "settings": {"n_steps": 32, "batch_size": 64, "n_epochs": 1}}
SAC = {"algorithm": "sac", "network": [16],
       "settings": {"batch_size": 32, "learning_starts": 64, "gradient_steps": 2}}  # fmt: skip


def recipe(tmp_path: Path, names: tuple[str, ...], learner: dict[str, Any]) -> dict[str, Any]:
    gap = tmp_path / "robot.yaml"
    gap.write_text(GAP)
    plain: dict[str, Any] = {
        "description": "a test", "env": ROBOT, "randomize": "none", "correct": "none",
        "align": "none", "adapt": "none", "steps": 1_024, "worlds": 8, "threads": 1,
        "learner": learner,
    }  # fmt: skip
    for name in names:
        plain |= BRIDGES[name]
    logged().save(tmp_path / "posterior.json")
    text = schema.dump(plain).replace("GAP", str(gap))
    text = text.replace("LOGGED", str(tmp_path / "posterior.json"))
    (tmp_path / "recipe.yaml").write_text(text)
    return schema.load(tmp_path / "recipe.yaml")


def logged() -> Posterior:
    """As of a robot whose ξ lies a quarter into each range."""
    space = Robot.load(ROBOT).space
    width, rng = space.high - space.low, np.random.default_rng(0)
    x = space.low + width * np.clip(0.25 + 0.05 * rng.standard_normal((64, space.K)), 0, 1)
    return Posterior(
        env=ROBOT, names=space.names, units=space.units, samples=x, weights=np.full(64, 1 / 64),
        low=np.array(space.low), high=np.array(space.high), prior_std=width / np.sqrt(12),
        log_likelihood=-1.0, log_likelihood_nominal=-2.0, gain_error=0.1, windows=10, residual={},
    )  # fmt: skip


def adapted(policy: Policy) -> np.ndarray:
    """(K,) what the context becomes after this policy, with much noise, drove a robot of other
    physics: from the four longest episodes, for it lets the pole fall within a second."""
    robot = Robot.load(ROBOT)
    names = [t.name for t in policy.spec.terms]
    gap = Gap(xi={"motor_strength": 0.7, "cart_mass": 1.4})
    worlds = Worlds(robot, 1, gap=gap, observe=names, seed=5, threads=1)
    logs = excite(
        worlds, Actor(policy), episodes=300, steps=1500, rng=np.random.default_rng(0),
        excitation=1.0,
    )  # fmt: skip
    longest = sorted(logs.episodes, key=lambda e: len(e.command))[-4:]
    short = [Trajectory({n: x[:26] for n, x in e.obs.items()}, e.command[:25]) for e in longest]
    adapter = ContextAdapter(robot)
    return adapter.adapt(adapter.prior(np.random.default_rng(0)), short).value


def check(
    out: Path, names: tuple[str, ...], drawn: list[np.ndarray], alignments: list[Aligned]
) -> None:
    """That each bridge did something."""
    with (out / "log/progress.csv").open() as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> list[float]:
        return [float(r[name]) for r in rows if r.get(name)]

    policy = Policy.load(out)
    spread = np.ptp(np.concatenate(drawn), axis=0)
    randomized = {"uniform", "epopt", "doraemon", "adr", "posterior", "reidentify"}
    randomized = randomized.intersection(names)
    assert (spread > 0).any() == bool(randomized)  # ξ varies
    if "epopt" in names:
        assert set(column("rollout/kept")) == {4.0}
    if "doraemon" in names:
        entropy = column("randomize/entropy")
        assert entropy[-1] > entropy[0] + 0.05  # it widens
    if "darc" in names:
        assert any(size > 0 for size in column("darc/delta_r_size"))  # Δr is not zero
        assert column("darc/target_steps")[-1] <= 400
    if "posterior" in names:  # ξ varies around what was logged, not around the nominal
        middle, mean = logged().mean, np.concatenate(drawn).mean(axis=0)
        nominal = np.array(Robot.load(ROBOT).space.nominal)
        assert np.linalg.norm((mean - middle) / spread) < np.linalg.norm((mean - nominal) / spread)
    if "reidentify" in names:  # and after the logs around what these said
        assert 0 < column("randomize/target_steps")[-1] <= 100
    assert (policy.estimator is not None) == bool({"dann", "confusion"}.intersection(names))
    assert len(alignments) == (policy.estimator is not None)
    for made in alignments:  # the discriminator learns: it guesses at first, and not for good
        domain = made.history["domain"]
        assert domain[0] == pytest.approx(np.log(2), abs=0.15)
        assert domain.min() < min(np.log(2), domain[0]) - 0.02
        assert made.history["task"][-1] < 0.5 * made.history["task"][0]
        kept = np.genfromtxt(out / "log/align.csv", delimiter=",", names=True)
        np.testing.assert_allclose(kept["domain"], domain)
    if policy.estimator is not None:  # the encoder is not the identity
        obs = torch.randn(20, policy.spec.obs_size)
        assert not torch.allclose(policy.estimator(obs), obs, atol=1e-3)
    if "context" in names:  # what the policy is told changes what it does
        obs = torch.randn(20, policy.spec.obs_size)
        *rest, _ = policy.initial(20)
        low, high = (
            policy(obs, (*rest, torch.tensor([ends] * 20).float()))[0]
            for ends in (
                [p.low for p in policy.spec.context],
                [p.high for p in policy.spec.context],
            )
        )
        assert not torch.equal(low, high)
        space = Robot.load(ROBOT).space
        moved = (adapted(policy) - space.nominal) / (space.high - space.low)
        assert moved[space.names.index("motor_strength")] < -0.1  # z moves, towards the weak motors


@pytest.fixture
def drawn(monkeypatch) -> list[np.ndarray]:
    """ξ of every episode that the training's worlds begin."""
    seen: list[np.ndarray] = []
    write = Worlds._write

    def noting(self: Any, worlds: Any, xi: Any) -> None:
        if self.num_worlds == 8:
            seen.append(np.array(xi))
        write(self, worlds, xi)

    monkeypatch.setattr(Worlds, "_write", noting)
    return seen


@pytest.fixture
def alignments(monkeypatch) -> list[Aligned]:
    """What alignment gave while training."""
    seen: list[Aligned] = []
    align = aligned.align

    def noting(*args: Any, **more: Any) -> Aligned:
        seen.append(align(*args, **more))
        return seen[-1]

    monkeypatch.setattr(aligned, "align", noting)
    return seen


PAIRS = [
    ("uniform", "darc"), ("uniform", "dann"), ("uniform", "context"), ("epopt", "darc"),
    ("epopt", "dann"), ("epopt", "context"), ("doraemon", "darc"), ("doraemon", "dann"),
    ("doraemon", "context"), ("adr", "darc"), ("adr", "dann"), ("adr", "context"),
    ("darc", "dann"), ("uniform", "darc", "context"), ("uniform", "dann", "context"),
    ("epopt", "darc", "dann", "context"), ("posterior", "darc"), ("posterior", "confusion"),
    ("posterior", "context"), ("uniform", "confusion"), ("darc", "confusion"),
    ("reidentify", "darc"), ("reidentify", "dann"), ("reidentify", "context"),
]  # fmt: skip


@pytest.mark.parametrize("names", PAIRS, ids="+".join)
def test_bridges_go_together(names, tmp_path, drawn, alignments):
    train(recipe(tmp_path, names, PPO), out=tmp_path / "run")
    check(tmp_path / "run", names, drawn, alignments)


@pytest.mark.parametrize(
    ("algorithm", "names"),
    [("sac", ("uniform", "darc")), ("sac", ("doraemon", "dann")),
     ("sac", ("uniform", "darc", "dann", "context")), ("tqc", ("adr", "darc", "dann"))],
    ids=lambda x: x if isinstance(x, str) else "+".join(x),
)  # fmt: skip
def test_bridges_go_together_with_sac_and_tqc(algorithm, names, tmp_path, drawn, alignments):
    train(recipe(tmp_path, names, SAC | {"algorithm": algorithm}), out=tmp_path / "run")
    check(tmp_path / "run", names, drawn, alignments)


@pytest.mark.parametrize("names", [("doraemon", "darc", "dann"), ("adr",)], ids="+".join)
def test_what_the_bridges_know_is_kept_in_a_checkpoint(names, tmp_path):
    plain = recipe(tmp_path, names, PPO) | {"checkpoint": 256}
    train(plain, out=tmp_path / "run")
    longer = plain | {"steps": 1_536}
    train(longer, out=tmp_path / "run", resume=True)
    folder = sorted((tmp_path / "run/checkpoints").iterdir())[-1]
    files = {p.name for p in folder.iterdir()}
    assert "curriculum.json" in files
    assert ("darc.pt" in files) == ("darc" in names)
    assert (tmp_path / "run/estimator.pt").is_file() == ("dann" in names)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"learner": {"algorithm": "sac"}, "randomize": "epopt"}, r"epopt.*ppo.*is sac"),
        ({"align": {"method": "dann"}}, r"align: gap is missing"),
        ({"adapt": "context"}, r"adapt: context tells.*randomize: none"),
        ({"gap": "mild", "correct": {"method": "darc", "target": "mild"}},
         r"correct: darc bridges.*gap: mild already"),
        ({"gap": "mild", "align": {"method": "dann", "gap": "mild"}}, r"align bridges.*already"),
        ({"gap": "mild", "randomize": {"method": "reidentify", "target": "mild"}},
         r"randomize: reidentify bridges.*already"),
        ({"correct": {"method": "darc", "target": "mild"},
          "align": {"method": "dann", "gap": "worn"}},
         r"correct.target: mild, align.gap: worn: .*one target"),
        ({"randomize": {"method": "reidentify", "target": "worn"},
          "correct": {"method": "darc", "target": "mild"}},
         r"randomize.target: worn, correct.target: mild: .*name the same"),
        ({"distill": {"teacher": ["v5"], "steps": 10},
          "correct": {"method": "darc", "target": "mild"}}, r"correct: darc.*distill"),
        ({"learner": {"algorithm": "sac", "her": True},
          "align": {"method": "dann", "gap": "mild"}}, r"align needs flat.*her"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_together_is_refused(changes, sentence):
    plain = {
        "description": "a test", "env": "hopper", "randomize": "none", "correct": "none",
        "align": "none", "adapt": "none", "steps": 100,
    }  # fmt: skip
    with pytest.raises(InputError, match=sentence):
        schema.read(Recipe, plain | changes)
