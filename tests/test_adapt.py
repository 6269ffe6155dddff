"""Adaptation on a target: what is spent, what the gates say, and that ξ stays where it is."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sim2real
from sim2real.adapt import adapt
from sim2real.adaptation.gate import by_likelihood, by_return
from sim2real.adaptation.rehearsal import MARGIN, Rehearsal, around, rehearsal_worlds, rehearse
from sim2real.bridges.adapt.context import ContextAdapter, from_posterior
from sim2real.bridges.adapt.search import PATIENCE, search
from sim2real.cli import main
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.logs.npz import EpisodeLog, read_logs
from sim2real.deploy.robots.protocol import Kind
from sim2real.evaluate import play
from sim2real.identification.posterior import Posterior
from sim2real.policy.policy import Policy
from sim2real.serve import SimulatedRobot
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

STRENGTH = 3  # motor_strength, 0.75 on a `worn` hopper


def gullible(policy: Policy, when: float, side: int) -> Policy:
    """The policy, except that it throws itself down (every motor at full force) when it is told a
    motor strength below (side -1) or above (side 1) `when`: two more neurons in its network."""
    layers: list[Any] = [deepcopy(layer) for layer in policy.network]
    first, _, second, _, last = layers
    column = first.in_features - 5 + STRENGTH
    center, scale = (float(x) for x in policy_statistics(policy, column))

    def wider(layer: nn.Linear, rows: int, columns: int) -> nn.Linear:
        new = nn.Linear(layer.in_features + columns, layer.out_features + rows)
        nn.init.zeros_(new.weight)
        nn.init.zeros_(new.bias)
        new.weight.data[: layer.out_features, : layer.in_features] = layer.weight.data
        new.bias.data[: layer.out_features] = layer.bias.data
        return new

    first, second, last = wider(first, 1, 0), wider(second, 1, 1), wider(last, 0, 1)
    first.weight.data[-1, column] = side * 100 * scale  # tanh(±100 (told - when))
    first.bias.data[-1] = side * 100 * (center - when)
    second.weight.data[-1, -1] = 5
    last.weight.data[:, -1] = 20
    last.bias.data += 20
    network = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last)
    return Policy(policy.spec, network, deepcopy(policy.normalizer), policy.log_std).eval()


def policy_statistics(policy: Policy, column: int) -> tuple[float, float]:
    """(mean, deviation) of one entry, from what the normaliser makes of two numbers."""
    x = torch.zeros(2, policy.spec.feature_size)
    x[1, column] = 1.0
    base = torch.nn.functional.one_hot(torch.tensor(column), policy.spec.feature_size)
    a, b = policy.normalizer(x * base)[:, column]
    deviation = 1 / (b - a)
    return float(-a * deviation), float(deviation)


def posterior_at(robot: Robot, strength: float, n: int = 40) -> Posterior:
    """An invented posterior: certain of a motor strength, and of nothing else."""
    space = robot.space
    samples = space.prior().sample(np.random.default_rng(0), n)
    samples[:, STRENGTH] = strength + np.linspace(-0.01, 0.01, n)
    return Posterior(
        env="hopper", names=tuple(space.names), units=tuple(space.units), samples=samples,
        weights=np.full(n, 1 / n), low=np.array(space.low), high=np.array(space.high),
        prior_std=np.array(space.prior().std()), log_likelihood=-1.0, log_likelihood_nominal=-2.0,
        gain_error=0.1,
        windows=10, residual={},
    )  # fmt: skip


def returned(log: EpisodeLog) -> float:
    assert log.reward is not None
    return float(log.reward.sum())


def episodes_in(folder: Path) -> list[EpisodeLog]:
    return [log for f in folder.rglob("*.npz") if f.name != "golden.npz" for log in read_logs(f)]


# The gates, by hand


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        ([10.0, 20.0], [30.0, 40.0], True),  # gain 20, standard error √(25 + 25) = 7.1
        ([10.0, 20.0], [22.0, 30.0], False),  # gain 11, error √(25 + 16) = 6.4
        ([10.0, 20.0], [10.0, 20.0], False),
        ([30.0, 40.0], [10.0, 20.0], False),
        ([5.0], [5.0], False),
    ],
)
def test_the_gate_on_returns(before, after, accepted):
    assert by_return(np.array(before), np.array(after))[0] == accepted


def test_the_gate_says_what_it_saw():
    accepted, said = by_return(np.array([10.0, 20.0]), np.array([30.0, 40.0]))
    assert accepted
    assert said == "return 15 before, 35 after, standard error 7.1"


def test_the_gate_on_held_out_windows(hopper):
    posterior = posterior_at(hopper, 0.7)
    assert by_likelihood(posterior)[0]
    gain = posterior.log_likelihood - posterior.log_likelihood_nominal
    assert not by_likelihood(replace(posterior, gain_error=0.6 * gain))[0]
    assert not by_likelihood(replace(posterior, log_likelihood=-2.0))[0]
    assert not by_likelihood(replace(posterior, log_likelihood=float("nan")))[0]


# Rehearsal


def test_a_context_with_which_it_falls_more_is_refused_in_rehearsal(policy, hopper):
    told = np.array(hopper.space.nominal)
    told[STRENGTH] = 0.7
    nominal = np.array(hopper.space.nominal, float)
    worlds, draw = rehearsal_worlds(policy, hopper), posterior_at(hopper, 0.7).distribution()
    worse = rehearse(gullible(policy, 0.85, -1), worlds, draw, told, nominal)
    assert not worse.passed
    assert worse.adapted > 2 * worse.unadapted
    better = rehearse(gullible(policy, 0.85, 1), worlds, draw, told, nominal)
    assert better.passed
    assert (better.adapted, better.unadapted) != (worse.adapted, worse.unadapted)


def test_a_rehearsal_is_an_episode_in_each_of_the_worlds_that_are_drawn(policy, hopper):
    """The same worlds serve any number of rehearsals, as if they were new."""
    names, nominal = [t.name for t in policy.spec.terms], np.array(hopper.space.nominal, float)
    told, draw = np.array(hopper.space.low, float), hopper.space.prior()
    worlds = rehearsal_worlds(policy, hopper)
    rehearse(policy, worlds, posterior_at(hopper, 0.7).distribution(), told, nominal, seed=1)
    found = rehearse(policy, worlds, draw, told, nominal, seed=5)
    for context, rate in zip((told, nominal), found, strict=True):
        fresh = Worlds(hopper, 32, observe=names, draw=draw, seed=5)
        played = play(policy, fresh, fresh.reset(), np.tile(context, (32, 1)))
        assert rate == played.falls.sum() / played.seconds.sum()
        assert len(np.unique(played.xi, axis=0)) == 32


@pytest.mark.parametrize(
    ("adapted", "unadapted", "passed"),
    [(0.0, 0.0, True), (0.01, 0.0, False), (1.09, 1.0, True), (1.11, 1.0, False)],
)
def test_where_nothing_fell_nothing_may(adapted, unadapted, passed):
    assert MARGIN == 0.1
    assert Rehearsal(adapted, unadapted).passed == passed


def test_what_a_context_claims_is_drawn_around_it(policy, hopper):
    low, high = np.array(hopper.space.low, float), np.array(hopper.space.high, float)
    middle = (low + high) / 2
    x = around(policy, middle, samples=20_000).sample(np.random.default_rng(0), 20_000)
    np.testing.assert_allclose(x.mean(0), middle, atol=0.002 * (high - low).max())
    np.testing.assert_allclose(x.std(0), 0.05 * (high - low), rtol=0.03)
    at_the_end = around(policy, low).sample(np.random.default_rng(0), 256)
    assert (at_the_end >= low).all()
    assert (at_the_end <= high).all()
    assert (at_the_end == low).any()


# On a target: each verdict for real


@pytest.fixture(scope="module")
def refused(once, trained):
    """A policy that falls with what identification finds, on a worn hopper."""

    def make(folder: Path) -> None:
        gullible(sim2real.load(trained / "policy"), 0.88, -1).save(folder / "policy")
        words = ["adapt", str(folder / "policy"), "hopper/worn", "--out", str(folder / "out")]
        opened: list[str] = []
        listening = [True]

        def listen(event: str, arguments: tuple[object, ...]) -> None:
            if listening[0] and event == "open":
                opened.append(str(arguments[0]))

        sys.addaudithook(listen)
        try:
            with redirect_stdout(io.StringIO()) as said:
                status = main([*words, "--episodes", "4", "--seed", "1", "--json"])
        finally:
            listening[0] = False
        record = {"status": status, "said": said.getvalue(), "opened": opened}
        (folder / "record.json").write_text(json.dumps(record))

    return once("refused", make)


@pytest.fixture(scope="module")
def accepted(once, trained, logs):
    """A policy that stands only with what identification finds, adapted from logs."""

    def make(folder: Path) -> None:
        gullible(sim2real.load(trained / "policy"), 0.9, 1).save(folder / "policy")
        adapt(folder / "policy", logs, out=folder / "out")

    return once("accepted", make)


def verdict(folder: Path):
    return json.loads((folder / "out" / "adaptation.json").read_text())


def test_what_does_not_help_is_rolled_back(refused, hopper):
    said = verdict(refused)
    assert said["accepted"] is False
    assert "rehearsed" in said["reason"]
    assert said["rehearsal"]["adapted"] > said["rehearsal"]["unadapted"]
    z = AdaptedState.read(refused / "out" / "z.json")
    assert not z.accepted
    np.testing.assert_array_equal(z.value, hopper.space.nominal)
    np.testing.assert_allclose(z.std, hopper.space.prior().std())
    assert set(said["stages"]) == {"gather"}  # the robot never met the new context


def test_a_state_that_was_rolled_back_is_not_run(refused, serving, tmp_path, capsys):
    with serving() as address:
        artifact, z = str(refused / "out" / "artifact"), str(refused / "out" / "z.json")
        status = main(["run", artifact, "--robot", address, "--z", z, "--log", str(tmp_path)])
    assert status == 2
    assert "was not accepted" in capsys.readouterr().err


def test_what_helps_is_accepted_and_runs(accepted, serving, tmp_path):
    said = verdict(accepted)
    assert said["accepted"] is True, said
    assert 0.6 <= said["context"]["motor_strength"] < 0.9
    assert said["rehearsal"]["adapted"] < said["rehearsal"]["unadapted"]
    z = AdaptedState.read(accepted / "out" / "z.json")
    assert z.accepted
    assert dict(zip(z.names, z.value, strict=True)) == said["context"]
    assert Posterior.load(accepted / "out" / "posterior.json").names == z.names
    with serving(gap="worn", seed=2) as address:
        words = ["run", str(accepted / "out" / "artifact"), "--robot", address]
        for name, more in (("before", []), ("after", ["--z", str(accepted / "out" / "z.json")])):
            assert main([*words, *more, "--episodes", "3", "--log", str(tmp_path / name)]) == 0
    before, after = (
        np.mean([returned(log) for log in read_logs(tmp_path / name)])
        for name in ("before", "after")
    )
    assert after > 1.5 * before


def test_logs_as_target_count_what_they_hold(accepted, logs):
    said = verdict(accepted)
    held = read_logs(logs)
    assert said["episodes"] == len(held)
    assert said["seconds"] == pytest.approx(sum(len(x.command) for x in held) * 0.008)
    assert said["falls"] == sum(x.info.terminated for x in held)
    assert not (accepted / "out" / "logs").exists()


def test_the_gate_compares_alternating_episodes_and_everything_counts(trained, serving, tmp_path):
    with serving(gap="mild", seed=3) as address:
        result = adapt(trained / "policy", address, episodes=6, seed=2, out=tmp_path)
    done = episodes_in(tmp_path)
    assert result.spent.episodes == len(done) == 6
    assert result.spent.falls == sum(log.info.terminated for log in done)
    assert result.spent.seconds == pytest.approx(sum(len(log.command) for log in done) * 0.008)
    assert {stage: len(r) for stage, r in result.stages.items()} == {
        "gather": 2, "before": 2, "after": 2
    }  # fmt: skip
    before, after = (np.array(result.stages[s]) for s in ("before", "after"))
    assert (result.accepted, result.reason) == by_return(before, after)
    done.sort(key=lambda log: log.info.seed or 0)
    order = [log.info.z and log.info.z.value for log in done][2:]
    assert order[0] == order[2] != order[1] == order[3]
    assert [log.info.excitation for log in done] == [0.1, 0.1, 0.0, 0.0, 0.0, 0.0]


def test_a_budget_of_seconds_is_kept(trained, serving, tmp_path):
    (tmp_path / "logs" / "gather").mkdir(parents=True)  # of an earlier adaptation: not read
    (tmp_path / "logs" / "gather" / "old.npz").write_bytes(b"not a log")
    with serving(gap="worn", seed=3) as address:
        result = adapt(trained / "policy", address, episodes=5, seconds=2.0, out=tmp_path)
    assert 1.0 < result.spent.seconds <= 2.0 + 1e-9
    (tmp_path / "logs" / "gather" / "old.npz").unlink()
    done = episodes_in(tmp_path)
    assert result.spent.episodes == len(done) <= 5
    assert sum(len(log.command) for log in done) * 0.008 == pytest.approx(result.spent.seconds)


def test_a_budget_that_leaves_nothing_to_compare_is_rolled_back(trained, serving, tmp_path):
    with serving(gap="worn", seed=3) as address:
        result = adapt(trained / "policy", address, episodes=3, seconds=0.5, out=tmp_path)
    assert not result.accepted
    assert result.spent.seconds <= 0.5 + 1e-9


def test_the_command_line_answers_no_with_status_0(refused):
    """Rolled back is an answer, not an error."""
    record = json.loads((refused / "record.json").read_text())
    assert record["status"] == 0
    assert json.loads(record["said"]) == verdict(refused)


def test_the_adapting_process_never_opens_the_gap(refused):
    """What the robot's physics is stands in one file; another process reads it."""
    opened = json.loads((refused / "record.json").read_text())["opened"]
    assert [name for name in opened if name.endswith("env.yaml")]
    assert not [name for name in opened if "worn" in name]


# A robot without a reward


@pytest.fixture
def unrewarded(monkeypatch):
    """Every simulated robot that is served from now on declares no reward."""
    home = sys.modules["sim2real.serve"]
    usual = home._describe
    monkeypatch.setattr(home, "_describe", lambda *of: replace(usual(*of), reward=False))


def test_without_a_reward_held_out_windows_decide(trained, serving, tmp_path, unrewarded):
    with serving(gap="worn", seed=5) as address:
        result = adapt(trained / "policy", address, episodes=4, out=tmp_path)
    assert result.stages == {}
    done = episodes_in(tmp_path)
    assert result.spent.episodes == len(done) == 1  # that gathered: there is no comparison
    assert all(log.reward is None for log in done)
    assert result.rehearsal is not None
    assert result.rehearsal.passed
    assert result.posterior is not None
    assert (result.accepted, result.reason) == by_likelihood(result.posterior)
    assert "held-out log-likelihood per window" in result.reason
    assert AdaptedState.read(tmp_path / "z.json") == result.z


def test_search_without_a_reward_is_refused_before_anything_moves(
    trained, serving, tmp_path, unrewarded, monkeypatch
):
    asked: list[Kind] = []
    usual = SimulatedRobot.answer
    monkeypatch.setattr(SimulatedRobot, "answer", lambda robot, message: (
        asked.append(message.kind), usual(robot, message))[1])  # fmt: skip
    with serving(gap="worn") as address, pytest.raises(InputError) as refused:
        adapt(trained / "policy", address, engine="search", out=tmp_path / "out")
    assert str(refused.value) == (
        f"search needs a reward, and hopper at {address} declares none; use identify"
    )
    assert asked == []
    assert not (tmp_path / "out").exists()


# Search


def bowl(robot: Robot, best: np.ndarray):
    low, high = np.array(robot.space.low), np.array(robot.space.high)
    return lambda x: 100 - 100 * float((((x - best) / (high - low)) ** 2).sum())


def test_search_finds_the_top_of_a_bowl(hopper):
    best = np.array([1.6, 1.7, 0.8, 0.75, 6.0])
    found, returns = search(bowl(hopper, best), hopper.space, episodes=200)
    assert len(returns) == 200
    assert bowl(hopper, best)(found) == max(returns) > 99
    assert (np.abs(found - best) < 0.1 * (hopper.space.high - hopper.space.low)).all()


@pytest.mark.parametrize("episodes", [1, 2, 5, 9])
def test_search_asks_as_often_as_it_may_and_within_the_ranges(hopper, episodes):
    asked = []

    def ask(x):
        asked.append(x)
        return float(len(asked))

    found, returns = search(ask, hopper.space, episodes=episodes)
    assert len(asked) == episodes
    np.testing.assert_array_equal(found, asked[-1])  # the best was the last
    assert (np.array(asked) >= hopper.space.low).all()
    assert (np.array(asked) <= hopper.space.high).all()
    assert returns == list(range(1, episodes + 1))


def test_search_ends_where_the_budget_does(hopper):
    values = iter([1.0, 3.0, float("nan"), 9.0])
    _, returns = search(lambda x: next(values), hopper.space, episodes=10)
    assert returns == [1.0, 3.0]
    found, returns = search(lambda x: float("nan"), hopper.space, episodes=10)
    np.testing.assert_array_equal(found, hopper.space.nominal)
    assert returns == []


def test_what_may_not_be_tried_is_drawn_anew(hopper):
    best = np.array([1.6, 1.7, 0.8, 0.75, 6.0])
    asked = []

    def ask(x):
        asked.append(x)
        return bowl(hopper, best)(x)

    found, returns = search(ask, hopper.space, episodes=30, allowed=lambda x: x[STRENGTH] > 0.9)
    assert len(returns) == len(asked) == 30
    assert all(x[STRENGTH] > 0.9 for x in asked)
    assert found[STRENGTH] > 0.9


def test_a_search_that_may_try_nothing_ends(hopper):
    proposed = []
    found, returns = search(
        lambda x: pytest.fail("it was tried"), hopper.space, episodes=50,
        allowed=lambda x: bool(proposed.append(x)),
    )  # fmt: skip
    np.testing.assert_array_equal(found, hopper.space.nominal)
    assert returns == []
    assert len(proposed) == PATIENCE
    assert len(np.unique(proposed, axis=0)) == PATIENCE


def test_a_search_drives_the_robot_only_with_what_was_rehearsed(policy, serving, tmp_path):
    with serving(gap="mild", seed=1) as address:
        result = adapt(
            gullible(policy, 0.95, -1), address, episodes=6, engine="search", seed=4, out=tmp_path
        )
    driven = [log.info.z.value for log in episodes_in(tmp_path) if log.info.z is not None]
    assert result.spent.episodes == len(driven) == 6
    assert result.refused > 0
    # tanh(100 (0.95 - told)): told above 0.98 it does not throw itself down, below 0.93 it does
    assert min(value[STRENGTH] for value in driven) > 0.93
    assert result.rehearsal is not None
    assert result.rehearsal.passed
    said = json.loads((tmp_path / "adaptation.json").read_text())
    assert said["refused"] == result.refused
    assert said["rehearsal"] == result.rehearsal._asdict()


def test_a_search_whose_every_context_is_refused_leaves_the_robot_alone(
    trained, serving, tmp_path, monkeypatch, hopper
):
    monkeypatch.setattr(
        sys.modules["sim2real.adaptation.told"], "rehearse", lambda *_, **how: Rehearsal(2.0, 1.0)
    )
    with serving(gap="mild", seed=1) as address:
        result = adapt(trained / "policy", address, engine="search", out=tmp_path)
    assert not result.accepted
    assert result.reason == f"rehearsal refused all {PATIENCE} contexts that the search proposed"
    assert (result.refused, result.rehearsal) == (PATIENCE, Rehearsal(2.0, 1.0))
    assert (result.spent.episodes, result.stages) == (0, {})
    assert episodes_in(tmp_path) == []
    np.testing.assert_array_equal(result.z.value, hopper.space.nominal)


def test_search_over_the_wire(trained, serving, tmp_path):
    with serving(gap="worn", seed=1) as address:
        result = adapt(
            trained / "policy", address, episodes=6, engine="search", seed=4, out=tmp_path
        )
    assert {s: len(r) for s, r in result.stages.items()} == {"search": 2, "before": 2, "after": 2}
    assert result.posterior is None
    assert result.spent.episodes == len(episodes_in(tmp_path)) == 6
    assert not (tmp_path / "posterior.json").exists()


# The adapter


def test_the_adapter_changes_z_between_episodes_only(hopper):
    adapter = ContextAdapter(hopper)
    rng = np.random.default_rng(0)
    z = adapter.prior(rng)
    np.testing.assert_array_equal(z.value, hopper.space.nominal)
    assert adapter.begin_episode(z, rng) is z
    assert adapter.observe(z, None) is z  # type: ignore[arg-type]


def test_what_the_logs_do_not_tell_stays_near_nominal(hopper):
    posterior = posterior_at(hopper, 0.7, n=2000)
    context = from_posterior(posterior, hopper.space)
    assert context[STRENGTH] == pytest.approx(0.7, abs=1e-6)
    others = np.arange(5) != STRENGTH
    spread = np.array(hopper.space.high) - hopper.space.low
    away = np.abs(context - hopper.space.nominal) / spread
    assert (away[others] < 0.06).all()


# Refused


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"target": "nowhere"}, "no HOST:PORT, no log, and no ENV/GAP such as hopper/worn"),
        ({"target": "hopper/wron"}, "did you mean 'worn'"),
        ({"target": "hoper/worn"}, "did you mean 'hopper'"),
        ({"target": "127.0.0.1:70000"}, "a port lies in 1 to 65535"),
        ({"target": "there/is/no.npz"}, "no log at"),
        ({"episodes": 2}, "adaptation needs at least 3"),
        ({"seconds": 0.001}, "at least one control period"),
        ({"excitation": 3.0}, "a share of half the command range"),
        ({"excitation": "much"}, "a share of half the command range"),
        ({"seconds": "soon"}, "at least one control period"),
        ({"episodes": 4.5}, "episodes is 4.5; it must be a whole number"),
        ({"episodes": "ten"}, "episodes is 'ten'; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0"),
        ({"engine": "serch"}, r"engine is 'serch'; .* identify or search .*did you mean 'search'"),
        ({"target": 47800}, "target is 47800; it must be HOST:PORT"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(trained, tmp_path, how, sentence):
    arguments: dict[str, Any] = {"target": "hopper/worn", **how}
    with pytest.raises(InputError, match=sentence):
        adapt(trained / "policy", out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_search_in_logs_is_refused(trained, logs, tmp_path):
    with pytest.raises(InputError, match=r"search drives the robot, and '.*' is a log of it"):
        adapt(trained / "policy", logs, engine="search", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_policy_without_a_context_is_refused(policy, tmp_path):
    spec = replace(policy.spec, context=(), parameters=policy.spec.context)
    first, *rest = deepcopy(policy.network)
    narrow = nn.Linear(first.in_features - 5, first.out_features)
    normalizer = type(policy.normalizer).identity(spec.feature_size)
    plain = Policy(spec, nn.Sequential(narrow, *rest), normalizer)
    with pytest.raises(
        InputError, match="has no context to adapt, no memory and no fast numbers; train"
    ):
        adapt(plain, "hopper/worn", out=tmp_path / "out")
