"""A policy with fast numbers, on a target: gradient steps after every episode, and then with and
without what they found."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sim2real.adapt import adapt
from sim2real.adaptation.stepped import Stepped
from sim2real.bridges.adapt.gradient.fast import FARTHEST, FastAdapter
from sim2real.cli import main
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.logs.npz import read_logs
from sim2real.identification.trajectories import read_trajectories
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, FastSpec, PolicySpec, TermSpec
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

torch.set_num_threads(1)
STEPS, RATE = 2, 1.0


def stepping(right: float = 1.0) -> Policy:
    """A pole that is balanced as soon as its first fast number has risen above a half, and thrown
    over until then. It foretells that every place and velocity grows by the first number, less
    `right`: what stands about still draws it to that."""
    robot = Robot.load("inverted_pendulum")
    terms = tuple(
        TermSpec(t.name, t.size, t.unit, t.frame, t.sensor, t.access, t.elements)
        for t in robot.observation("measured")
    )
    low, high = robot.command_range
    spec = PolicySpec(
        "stepping", "inverted_pendulum", terms,
        ActuatorSpec(robot.actuators, robot.config.command_unit, tuple(low), tuple(high)),
        robot.control_period, episodes=10, fast=FastSpec(2, STEPS, ()),
    )  # fmt: skip
    torch.manual_seed(0)
    network = mlp([spec.network_size, 8, spec.action_size])
    policy = Policy(spec, network, Normalizer.identity(spec.feature_size)).requires_grad_(False)
    assert policy.prediction is not None
    layer = policy.prediction.network[0]
    layer.get_parameter("weight").zero_()
    layer.get_parameter("weight")[:, -2] = 1.0
    layer.get_parameter("bias").fill_(-right)
    policy.prediction.log_rate.fill_(np.log(RATE / 2))
    first, last = (policy.network[i].get_parameter("weight") for i in (0, 2))
    bias, out = (policy.network[i].get_parameter("bias") for i in (0, 2))
    first[:], last[:], bias[:], out[:] = 0.0, 0.0, 0.0, 0.0
    first[0, -2], bias[0], last[0, 0], out[0] = -6.0, 3.0, 2.0, 2.0
    first[1, [0, 1, 2, 3]] = torch.tensor([0.05, 0.08, 1.0, 0.2])  # far below tanh's bend
    last[0, 1] = 5.0
    return policy.eval()


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    out = tmp_path_factory.mktemp("helped")
    return adapt(stepping(), "inverted_pendulum/worn", episodes=8, seed=1, out=out), out


def test_what_the_steps_found_helps_and_is_kept(helped):
    result, out = helped
    assert result.accepted, result.reason
    assert {k: len(v) for k, v in result.stages.items()} == {"steps": 3, "before": 2, "after": 2}
    assert np.mean(result.stages["after"]) > np.mean(result.stages["before"])
    assert result.spent.episodes == 7
    assert AdaptedState.read(out / "z.json") == result.z
    assert (result.z.state, result.z.names, result.z.std) == ("fast", (), ())
    assert result.z.value[0] > 0.5
    assert result.artifact == out / "artifact"


def test_it_steps_after_every_episode_on_all_that_was_logged(helped):
    """The second episode is driven with what the first one told."""
    result, out = helped
    (folder,) = out.glob("logs/*/steps")
    files = sorted(folder.rglob("*.npz"))
    robot, policy = Robot.load("inverted_pendulum"), stepping()
    adapter = FastAdapter(policy)
    z = adapter.prior(np.random.default_rng(0))
    for n, file in enumerate(files):
        (log,) = read_logs(file)
        obs = np.concatenate([log.obs[t.name] for t in policy.spec.terms], axis=1)
        first = torch.as_tensor(obs[:1], dtype=torch.float32)
        state = policy.given(policy.initial(1), "fast", z)
        _, raw, _ = policy.forward_full(first, state, torch.ones(1, 1))
        np.testing.assert_allclose(log.raw[0], raw[0], atol=1e-5)
        z = adapter.adapt(z, read_trajectories(files[: n + 1], robot))
    np.testing.assert_allclose(z, result.z.value, atol=1e-6)


def test_what_does_not_help_is_rolled_back_and_does_not_run(tmp_path, serving, capsys):
    """It foretells what drives its number the wrong way."""
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(stepping(right=-1.0), address, episodes=8, out=tmp_path)
        assert not result.accepted
        assert set(result.z.value) == {0.0}
        words = ["run", str(tmp_path / "artifact"), "--robot", address]
        assert main([*words, "--z", str(tmp_path / "z.json")]) == 2
    assert "was not accepted" in capsys.readouterr().err


def test_without_a_reward_falls_decide(tmp_path, serving, monkeypatch):
    home = sys.modules["sim2real.serve"]
    usual = home._describe
    monkeypatch.setattr(home, "_describe", lambda *of: replace(usual(*of), reward=False))
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(stepping(), address, episodes=7, out=tmp_path)
    assert result.stages == {}
    assert result.reason.startswith("falls per second")
    assert result.accepted


def test_a_robot_without_an_episode_limit_is_refused(tmp_path, serving, monkeypatch):
    home = sys.modules["sim2real.serve"]
    usual = home._describe
    monkeypatch.setattr(home, "_describe", lambda *of: replace(usual(*of), episode_steps=None))
    with (
        serving("inverted_pendulum", seed=2) as address,
        pytest.raises(InputError, match="has no episode limit"),
    ):
        adapt(stepping(), address, episodes=8, seconds=10, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logs_and_search_are_refused_before_anything_is_written(helped, tmp_path):
    _, out = helped
    (logs,) = out.glob("logs/*/steps")
    with pytest.raises(InputError, match=r"adapted to what it met itself.* is a log; give HOST"):
        adapt(stepping(), logs, out=tmp_path / "out")
    with pytest.raises(InputError, match=r"search is for a context.*gradient steps find it out"):
        adapt(stepping(), "inverted_pendulum/worn", engine="search", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_episode_is_learned_of_until_a_value_is_not_finite(helped, tmp_path, caplog):
    """A guard may let single ones pass."""
    _, out = helped
    shutil.copytree(out / "logs", tmp_path / "logs")
    files = sorted(tmp_path.glob("logs/*/steps/**/*.npz"))
    method = Stepped(stepping(), Robot.load("inverted_pendulum"), 0, 0.0)
    whole = method._beginnings(files)
    assert len(whole) == len(files) == 3
    with np.load(files[0]) as held:
        arrays = dict(held)
    name = "obs/pole_rate"
    arrays[name][2] = np.nan
    np.savez(files[0], **arrays)
    cut = method._beginnings(files)
    assert [len(e.command) for e in cut] == [1, *(len(e.command) for e in whole[1:])]
    np.testing.assert_array_equal(cut[0].command, whole[0].command[:1])
    assert "'pole_rate' in tick 2; it is read in 2 pieces" in caplog.text
    arrays[name][:] = np.nan
    np.savez(files[0], **arrays)
    assert len(method._beginnings(files)) == 2
    assert "nothing is learned of it" in caplog.text


def test_a_budget_that_leaves_nothing_to_compare_is_rolled_back(tmp_path, serving):
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(stepping(), address, episodes=8, seconds=0.1, out=tmp_path)
    assert not result.accepted
    assert "budget was used up" in result.reason
    assert result.spent.seconds <= 0.1 + 1e-9


def test_fast_numbers_that_no_training_saw_are_refused(helped, tmp_path: Path):
    result, _ = helped
    far = replace(result.z, value=(FARTHEST + 1.0, 0.0))
    with pytest.raises(InputError, match=r"fast\[0\] = 6 lies outside \[-5, 5\]"):
        far.check(Artifact.load(result.artifact).contract)
