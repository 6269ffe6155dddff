"""Episodes of a trial: what lives from one to the next, and what never meets."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from sim2real import cli
from sim2real.evaluate import evaluate
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, FastSpec, MemorySpec, PolicySpec, TermSpec
from sim2real.simulation.robot import Robot
from sim2real.trial import trial
from sim2real.types import InputError

torch.set_num_threads(1)


EIGHT = MemorySpec(8)


def hopper(memory: MemorySpec | None = EIGHT):
    """A policy of chance; what it remembers shows in what it does."""
    robot = Robot.load("hopper")
    terms = tuple(
        TermSpec(t.name, t.size, t.unit, t.frame, t.sensor, t.access, t.elements)
        for t in robot.observation("measured")
    )
    low, high = robot.command_range
    spec = PolicySpec(
        "chance", "hopper", terms,
        ActuatorSpec(robot.actuators, robot.config.command_unit, tuple(low), tuple(high)),
        robot.control_period, memory=memory,
    )  # fmt: skip
    torch.manual_seed(0)
    network = mlp([spec.network_size, 16, spec.action_size])
    policy = Policy(spec, network, Normalizer.identity(spec.feature_size))
    with torch.no_grad():
        policy.network[-1].get_parameter("weight").mul_(3)
    return policy.requires_grad_(False)


def test_one_episode_is_what_evaluate_runs():
    policy = hopper()
    once = trial(policy, gap="worn", robots=5, episodes=1, seed=3)
    same = evaluate(policy, gap="worn", episodes=5, seed=3)
    np.testing.assert_array_equal(once.returns[:, 0], same.returns)
    np.testing.assert_array_equal(once.seconds[:, 0], same.seconds)
    np.testing.assert_array_equal(once.falls[:, 0], same.falls)
    np.testing.assert_array_equal(once.xi, same.xi)


def test_a_memory_lives_over_episodes_and_forgets_where_it_is_told_to():
    kept, lost = (trial(hopper(), robots=6, episodes=3, forget=f) for f in (False, True))
    np.testing.assert_array_equal(kept.returns[:, 0], lost.returns[:, 0])
    assert (kept.returns[:, 1:] != lost.returns[:, 1:]).all()
    plain = hopper(memory=None)
    kept, lost = (trial(plain, robots=6, episodes=3, forget=f) for f in (False, True))
    np.testing.assert_array_equal(kept.returns, lost.returns)


def test_no_robot_meets_the_memory_of_another():
    space = Robot.load("hopper").space
    xi = np.stack([space.nominal, space.low, space.high])
    together = trial(hopper(), xi=xi, robots=3, episodes=2)
    alone = trial(hopper(), xi=xi[:1], robots=1, episodes=2)
    np.testing.assert_allclose(together.returns[0], alone.returns[0], rtol=1e-4)
    np.testing.assert_array_equal(together.xi, xi)


def test_a_policy_that_shares_its_memory_is_found_out(monkeypatch):
    """The control arm of the test above: z of all robots is the last one's."""
    xi = np.stack([Robot.load("hopper").space.nominal] * 3)
    xi[1:, 0] *= 1.3
    alone = trial(hopper(), xi=xi[:1], robots=1, episodes=2)
    policy = hopper()
    forward = policy.forward

    def shared(obs, z, reset=None):
        command, z = forward(obs, z, reset)
        return command, tuple(part[-1:].expand_as(part) for part in z)

    monkeypatch.setattr(policy, "forward", shared)
    together = trial(policy, xi=xi, robots=3, episodes=2)
    assert np.abs(together.returns[0] / alone.returns[0] - 1).max() > 1e-3


def test_evaluating_changes_no_weight():
    policy = hopper()
    before = {k: v.clone() for k, v in policy.state_dict().items()}
    trial(policy, robots=2, episodes=2)
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())


def test_gains_are_paired_and_told():
    result = trial(hopper(), robots=8, episodes=3)
    assert [g.mean for g in result.gains] == pytest.approx(
        (result.returns - result.returns[:, :1]).mean(axis=0)
    )
    assert result.gains[0] == (0, 0, 0)
    told = result.to_dict()
    assert [e["return"]["mean"] for e in told["episodes"]] == pytest.approx(
        result.returns.mean(axis=0)
    )
    assert told["robots"] == 8


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="episodes is 0"):
        trial(hopper(), episodes=0)
    with pytest.raises(InputError, match="the policy was trained for 'hopper'"):
        trial(hopper(), "halfcheetah")
    with pytest.raises(InputError, match="robots is 0"):
        trial(hopper(), robots=0)


def test_the_command_prints_a_row_an_episode(tmp_path, capsys):
    hopper().save(tmp_path / "p")
    policy = str(tmp_path / "p")
    assert cli.main(["evaluate", policy, "--trial", "2", "--episodes", "3"]) == 0
    out = capsys.readouterr().out
    assert "above the first" in out
    assert [line[:4] for line in out.splitlines() if line[:3] in ("│ 1", "│ 2")] == ["│ 1 ", "│ 2 "]
    assert cli.main(["evaluate", policy, "--trial", "2", "--grid", "torso_mass"]) != 0
    assert "give one of them" in capsys.readouterr().err
    both = ["--reference", policy, "--oracle", policy]
    assert cli.main(["evaluate", policy, "--trial", "2", *both]) != 0
    assert "--trial follows one policy" in capsys.readouterr().err


def fast(policy: Policy) -> Policy:
    """The same with fast numbers, which show in what it does."""
    spec = replace(policy.spec, memory=None, fast=FastSpec(2, 2, (8,)))
    torch.manual_seed(1)
    network = mlp([spec.network_size, 16, spec.action_size])
    found = Policy(spec, network, Normalizer.identity(spec.feature_size))
    with torch.no_grad():
        found.network[-1].get_parameter("weight").mul_(3)
    return found.requires_grad_(False)


def test_fast_numbers_follow_from_all_episodes_of_a_robot_and_of_no_other(monkeypatch):
    home = sys.modules["sim2real.trial"]
    given: list[list[int]] = []
    usual = home.FastAdapter.adapt

    def seen(self, z, episodes):
        given.append([len(e.command) for e in episodes])
        return usual(self, z, episodes)

    monkeypatch.setattr(home.FastAdapter, "adapt", seen)
    policy = fast(hopper())
    xi = np.stack([Robot.load("hopper").space.nominal, Robot.load("hopper").space.low])
    both = trial(policy, xi=xi, robots=2, episodes=3, seed=3)
    period = Robot.load("hopper").control_period
    ticks = np.round(both.seconds / period).astype(int)
    for row in ticks:
        for n in (1, 2, 3):
            assert given.count(row[:n].tolist()) == 1
    assert len(given) == 6
    none = trial(policy, xi=xi, robots=2, episodes=3, seed=3, steps=0)
    lost = trial(policy, xi=xi, robots=2, episodes=3, seed=3, forget=True)
    np.testing.assert_array_equal(none.returns, lost.returns)
    np.testing.assert_array_equal(none.returns[:, 0], both.returns[:, 0])
    assert (none.returns[:, 1:] != both.returns[:, 1:]).all()
    with pytest.raises(InputError, match="steps is -1"):
        trial(policy, steps=-1)
    with pytest.raises(InputError, match="steps are of fast numbers, and policy 'chance' has none"):
        trial(hopper(), steps=3)
