"""Training: the same twice, killed and resumed, and what a run leaves on the disk."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import sim2real
from sim2real import schema
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe, read
from sim2real.simulation.robot import Robot
from sim2real.types import InputError


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return dict(policy.state_dict())


def same(a: Policy, b: Policy) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("[0-9]*"))


def curve(run: Path) -> list[int]:
    """The step counts in progress.csv."""
    rows = csv.DictReader(io.StringIO((run / "log" / "progress.csv").read_text()))
    return [int(row["time/total_timesteps"]) for row in rows]


@pytest.fixture(scope="module")
def small(once):
    """A finished run of SMALL."""

    def make(folder: Path) -> None:
        sim2real.train(SMALL, out=folder / "run")

    return once("small", make) / "run"


SMALL: dict[str, Any] = {
    "description": "", "env": "hopper", "observe": "measured", "history": 2,
    "learner": {"network": [8], "settings": {"n_steps": 32, "batch_size": 64, "n_epochs": 2}},
    "randomize": "uniform", "correct": "none", "align": "none", "adapt": "context",
    "steps": 2048, "worlds": 8, "threads": 1, "seed": 7, "checkpoint": 512,
}  # fmt: skip


# The same twice


def test_the_same_seed_trains_the_same_policy_on_any_number_of_threads(small, tmp_path):
    again = sim2real.train(SMALL, out=tmp_path / "again", overrides=["threads=2"])
    assert same(again, sim2real.load(small))
    other = sim2real.train(SMALL, out=tmp_path / "other", seed=8)
    assert not same(other, again)


def test_what_train_returns_is_what_it_saved(tmp_path):
    policy = sim2real.train(SMALL, out=tmp_path / "run", overrides=["steps=256"])
    assert same(policy, sim2real.load(tmp_path / "run"))


# The folder of a run


def test_a_run_is_described_beside_it(small):
    assert schema.read(Recipe, small / "recipe.yaml") == read(SMALL)[1]
    facts = json.loads((small / "run.json").read_text())
    assert facts["seed"] == 7
    assert facts["versions"]["torch"] == torch.__version__
    assert {"sim2real", "python", "mujoco", "stable-baselines3"} <= set(facts["versions"])
    assert [c.name for c in checkpoints(small)] == ["000000001536", "000000002048"]
    assert {p.name for p in small.iterdir()} == {
        "recipe.yaml", "run.json", "log", "checkpoints", "policy.pt", "policy.json"
    }  # fmt: skip


def test_the_learning_curve_is_logged_for_people_and_for_tensorboard(small):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert curve(small) == list(range(256, 2049, 256))
    (file,) = (small / "log").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file))
    events.Reload()
    logged = events.Scalars("rollout/ep_rew_mean")
    assert [e.step for e in logged] == curve(small)


def test_overrides_reach_the_run_and_are_written_down(tmp_path):
    sim2real.train(
        SMALL, out=tmp_path, seed=11, overrides=["steps=256", "learner.learning_rate=1e-3"]
    )
    resolved = schema.read(Recipe, tmp_path / "recipe.yaml")
    assert (resolved.steps, resolved.seed, resolved.learner.learning_rate) == (256, 11, 1e-3)
    assert curve(tmp_path) == [256]


def test_a_run_is_not_overwritten(small):
    before = contents(small)
    with pytest.raises(InputError, match="already holds a run; choose another --out, or continue"):
        sim2real.train(SMALL, out=small)
    assert contents(small) == before


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("env=hoper", "no such name or folder"),
        ("observe=mesured", "mesured"),
        ("randomize={method: uniform, ranges: {torso_mas: [1, 2]}}", "torso_mass"),
        ("randomize={method: uniform, ranges: {torso_mass: [1.2, 2]}}", "nominal 1.0 lies outside"),
        ("learner.settings={n_stepz: 3}", "n_stepz"),
        ("learner.settings={n_steps: 1, batch_size: 0}", "ppo says"),
    ],
)
def test_a_recipe_that_is_wrong_leaves_nothing_behind(tmp_path, override, sentence):
    with pytest.raises(InputError, match=sentence):
        sim2real.train(SMALL, out=tmp_path / "run", overrides=[override])
    assert not (tmp_path / "run").exists()


# Killed and resumed


def start(tmp_path: Path) -> subprocess.Popen[str]:
    """A run that would take hours, in a process of its own."""
    schema.write({**SMALL, "steps": 100_000_000, "checkpoint": 256}, tmp_path / "long.yaml")
    command = ["train", str(tmp_path / "long.yaml"), "--out", str(tmp_path / "run")]
    return subprocess.Popen(
        [sys.executable, "-m", "sim2real", *command],
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell without job control has its background jobs ignore Ctrl-C, and they inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], there: Any) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_whole(run: Path) -> None:
    """Every file that has its name is whole."""
    read = schema.read(Recipe, run / "recipe.yaml")
    assert read.seed == SMALL["seed"]
    if (run / "run.json").exists():
        assert json.loads((run / "run.json").read_text())["seed"] == read.seed
    for checkpoint in checkpoints(run):
        assert {p.name for p in checkpoint.iterdir()} == {"model.zip", "normalize.pkl"}
        assert zipfile.ZipFile(checkpoint / "model.zip").testzip() is None
    assert not (run / "policy.pt").exists()


def check_parameters(policy: Policy, checkpoint: Path) -> None:
    """The policy is that of the checkpoint, read past Stable-Baselines3, bit for bit."""
    with zipfile.ZipFile(checkpoint / "model.zip") as archive, archive.open("policy.pth") as file:
        saved = torch.load(io.BytesIO(file.read()), weights_only=True)
    given = weights(policy)
    assert torch.equal(given["log_std"], saved["log_std"])
    assert torch.equal(given["network.0.weight"], saved["mlp_extractor.policy_net.0.weight"])
    assert torch.equal(given["network.2.bias"], saved["action_net.bias"])


def resume(run: Path, steps: int) -> Policy:
    recipe = {**SMALL, "steps": steps, "checkpoint": 256}
    return sim2real.train(recipe, out=run, resume=True)


def test_a_run_that_is_killed_at_a_random_moment_is_resumed(tmp_path):
    process, run = start(tmp_path), tmp_path / "run"
    wait_for(process, (run / "recipe.yaml").exists)
    moment = random.uniform(0, 2)
    time.sleep(moment)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, moment
    check_whole(run)
    done = int(checkpoints(run)[-1].name) if checkpoints(run) else 0
    policy = resume(run, done + 512)
    assert same(policy, sim2real.load(run))
    assert int(checkpoints(run)[-1].name) == done + 512
    assert not list((run / "checkpoints").glob(".*"))
    steps = curve(run)
    assert steps == list(range(steps[0], done + 513, 256)), moment  # no gap, no step twice


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    process, run = start(tmp_path), tmp_path / "run"
    wait_for(process, lambda: checkpoints(run))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1] == (f"sim2real: interrupted; continue with --resume --out {run}")
    assert "Traceback" not in said
    check_whole(run)
    last = checkpoints(run)[-1]
    check_parameters(resume(run, int(last.name)), last)


def test_what_stops_a_training_leaves_a_checkpoint(tmp_path, monkeypatch):
    """As a target does that says NaN halfway."""
    module = importlib.import_module("sim2real.train")

    def breaks(self: Any) -> None:
        if self.num_timesteps >= 1_024:
            raise InputError("correct: the target's observation is nan")

    monkeypatch.setattr(module._Run, "_on_rollout_start", breaks)
    with pytest.raises(InputError, match="is nan"):
        sim2real.train(SMALL, out=tmp_path / "run")
    (kept,) = checkpoints(tmp_path / "run")
    monkeypatch.undo()
    check_parameters(resume(tmp_path / "run", int(kept.name)), kept)


def test_a_resumed_run_has_the_parameters_of_its_checkpoint_bit_for_bit(small, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(small, run)
    (run / "policy.pt").unlink()
    last = checkpoints(run)[-1]
    policy = sim2real.train(SMALL, out=run, resume=True)  # no step is left to do
    check_parameters(policy, last)
    assert same(policy, sim2real.load(small))  # normaliser included: the run had ended there


def test_resuming_twice_from_one_checkpoint_gives_the_same_and_new_episodes(small, tmp_path):
    policies = []
    for name in ("a", "b"):
        shutil.copytree(small, tmp_path / name)
        policies.append(sim2real.train(SMALL, out=tmp_path / name, resume=True,
                                       overrides=["steps=2560"]))  # fmt: skip
    assert same(*policies)
    assert curve(tmp_path / "a") == list(range(256, 2561, 256))


def test_the_episodes_after_resuming_are_not_those_of_the_beginning(small, tmp_path, monkeypatch):
    """Loading a model, Stable-Baselines3 seeds its environment as at the beginning."""
    module = importlib.import_module("sim2real.train")
    worlds = []

    def make(*arguments: Any, **how: Any) -> Any:
        made = module.TrainingEnv(*original(*arguments, **how))
        worlds.append(made.worlds)
        return made

    original = module.make_training_env
    monkeypatch.setattr(module, "make_training_env", make)
    shutil.copytree(small, tmp_path / "resumed")
    sim2real.train(
        SMALL, out=tmp_path / "resumed", resume=True, overrides=["steps=2304", "threads=2"]
    )
    sim2real.train(SMALL, out=tmp_path / "fresh", overrides=["steps=256"])
    resumed, fresh = ({start.noise[0] for start in w.starts} for w in worlds)
    assert fresh == {7 + i for i in range(8)}
    assert not resumed & fresh


def test_another_recipe_is_not_resumed(small, tmp_path):
    before = contents(small)
    with pytest.raises(InputError, match="differs from the recipe given in learner, seed; resume"):
        sim2real.train(SMALL, out=small, resume=True, seed=9, overrides=["learner.gamma=0.9"])
    with pytest.raises(InputError, match="holds no run to resume"):
        sim2real.train(SMALL, out=tmp_path / "none", resume=True)
    assert contents(small) == before
    assert not (tmp_path / "none").exists()


# What the reward is made of


def test_every_term_of_a_weighted_reward_is_logged(tmp_path):
    """And PPO's actions reach the whole range of the commands, which is not -1 to 1."""
    walk = {**SMALL, "env": "go1", "adapt": "none", "steps": 512}
    policy = sim2real.train(walk, out=tmp_path / "run")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "run/log/progress.csv").read_text())))
    weights_ = {k.removeprefix("task/reward_"): float(v) for k, v in rows[-1].items()
                if k.startswith("task/reward_")}  # fmt: skip
    assert {"alive", "track_linear", "power", "foot_slip"} <= weights_.keys()
    robot = Robot.load("go1")
    assert weights_["alive"] == pytest.approx(robot.config.rewards["alive"])  # it is always one
    assert weights_["power"] < 0
    assert float(rows[-1]["task/speed_error"]) > 0
    spec = policy.spec
    low, high = torch.tensor(spec.actuators.low), torch.tensor(spec.actuators.high)
    torch.testing.assert_close(torch.tensor(spec.action_offset), (low + high) / 2)
    torch.testing.assert_close(torch.tensor(spec.action_scale), (high - low) / 2)
    command, _ = policy(torch.zeros(1, spec.obs_size), policy.initial(1))
    assert ((command >= low) & (command <= high)).all()
    assert (command - (low + high) / 2).abs().max() < 0.2  # untrained, it stays near the pose


def test_the_hopper_logs_no_terms(small):
    assert "task/" not in (small / "log" / "progress.csv").read_text()
