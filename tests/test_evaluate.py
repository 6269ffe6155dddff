"""How good a policy is: intervals, gap closed, what the policy is told, grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

import sim2real
from sim2real.cli import main
from sim2real.evaluate import between, bootstrap, evaluate, gap_closed, grid, tell
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.recipe import read
from sim2real.simulation.gap import Draw, Gap
from sim2real.simulation.robot import Robot
from sim2real.train import describe
from sim2real.types import InputError

# Intervals


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).exponential(100, size=40)
    ours = bootstrap(values)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile"
    ).confidence_interval
    error = values.std() / np.sqrt(40)
    assert ours.mean == values.mean()
    assert abs(ours.low - theirs.low) < 0.15 * error
    assert abs(ours.high - theirs.high) < 0.15 * error


def test_the_interval_of_equal_values_is_that_value():
    assert bootstrap(np.full(20, 7.5)) == (7.5, 7.5, 7.5)


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(1).normal(size=20)
    assert bootstrap(values) == bootstrap(values)


# Gap closed = (J_adapted - J_0) / (J_oracle - J_0)


@pytest.mark.parametrize(
    ("adapted", "zero_shot", "oracle", "closed"),
    [
        (50, 0, 100, 0.5),
        (100, 60, 100, 1.0),
        (120, 60, 100, 1.5),  # better than the oracle: not clipped
        (30, 60, 100, -0.75),  # worse than before
        (-15, -20, -10, 0.5),
        (95, 89, 100, 6 / 11),  # 11 is above a tenth of 100 ...
    ],
)
def test_gap_closed_by_hand(adapted, zero_shot, oracle, closed):
    result = gap_closed(*(np.full(5, float(v)) for v in (adapted, zero_shot, oracle)))
    assert result is not None
    np.testing.assert_allclose(result, (closed, closed, closed), rtol=1e-12)


@pytest.mark.parametrize(
    ("zero_shot", "oracle"),
    [
        ([90.0] * 5, [100.0] * 5),  # ... and 10 is not
        ([100.0] * 5, [100.0] * 5),
        ([110.0] * 5, [100.0] * 5),
        ([40.0] * 4, [0.0, 200.0, 0.0, 200.0]),  # the mean is far above, the lower bound is not
    ],
)
def test_no_gap(zero_shot, oracle):
    assert gap_closed(np.full(5, 60.0), np.array(zero_shot), np.array(oracle)) is None


def test_the_interval_of_gap_closed_holds_the_point_and_narrows_with_more_episodes():
    rng = np.random.default_rng(2)

    def widths(n):
        a, z, o = (rng.normal(mean, 30, n) for mean in (70, 0, 100))
        result = gap_closed(a, z, o)
        assert result is not None
        assert result.low < result.mean < result.high
        assert result.mean == pytest.approx((a.mean() - z.mean()) / (o.mean() - z.mean()))
        return result.high - result.low

    assert widths(1000) < widths(10) / 5


# Episodes


def test_the_same_seed_gives_the_same_episodes(policy):
    a, b = (evaluate(policy, "hopper", gap="worn", episodes=3, seed=4) for _ in range(2))
    for x, y in ((a.returns, b.returns), (a.seconds, b.seconds), (a.xi, b.xi)):
        np.testing.assert_array_equal(x, y)
    other = evaluate(policy, "hopper", gap="worn", episodes=3, seed=5)
    assert not np.array_equal(a.returns, other.returns)


def test_an_episode_is_that_of_the_gymnasium_environment(policy):
    names = [t.name for t in policy.spec.terms]
    env = sim2real.make_env("hopper", observe=names, xi={"torso_mass": 1.4}, seed=6)
    obs, _ = env.reset(seed=6)
    z, reset = policy.initial(1), torch.ones(1, 1)
    total, ticks, done, fell = 0.0, 0, False, False
    with torch.no_grad():
        while not done:
            command, z = policy(torch.tensor(obs[None], dtype=torch.float32), z, reset)
            obs, reward, terminated, truncated, _ = env.step(command[0].numpy())
            total, ticks = total + float(reward), ticks + 1
            done, fell = terminated or truncated, terminated
            reset = torch.zeros(1, 1)
    result = evaluate(policy, "hopper", xi={"torso_mass": 1.4}, episodes=1, seed=6)
    assert result.returns[0] == total
    assert result.seconds[0] == pytest.approx(ticks * 0.008)
    assert result.falls[0] == fell
    assert result.xi[0, 0] == 1.4


def test_what_the_task_counts_is_the_mean_over_the_steps_of_an_episode(capsys, tmp_path):
    """A quadruped that stands, against steps of the Gymnasium environment; and what is printed."""
    robot: Any = Robot.load("go1")
    recipe = {"description": "stands", "env": "go1", "observe": "measured", "randomize": "none",
              "correct": "none", "align": "none", "adapt": "none", "steps": 1}  # fmt: skip
    spec = describe("stands", robot, read(recipe)[1])
    network: Any = mlp([spec.feature_size, 4, spec.action_size], "relu")
    torch.nn.init.zeros_(network[-1].weight)
    torch.nn.init.zeros_(network[-1].bias)
    stands = Policy(spec, network, Normalizer.identity(spec.feature_size))
    env = sim2real.make_env("go1", observe="measured", seed=3)
    env.reset(seed=3)
    rows, done = [], False
    while not done:
        _, _, terminated, truncated, info = env.step(np.asarray(robot.task.rest, np.float32))
        rows.append([float(np.ravel(info[name])[0]) for name in robot.figures])
        done = terminated or truncated
    result = evaluate(stands, seed=3, episodes=1)
    assert list(result.figures) == ["speed_error", "yaw_error", "power"]
    means = [values[0] for values in result.figures.values()]
    np.testing.assert_allclose(means, np.mean(rows, axis=0), rtol=1e-5)  # commands are float32
    assert result.to_dict()["figures"]["power"]["mean"] == pytest.approx(means[2])
    stands.save(tmp_path / "stands")
    assert main(["evaluate", str(tmp_path / "stands"), "--episodes", "2"]) == 0
    assert "speed error [m/s]" in capsys.readouterr().out


def test_a_family_of_gaps_is_another_robot_in_every_episode(policy):
    family = Gap(xi={"torso_mass": Draw("uniform", 0.7, 1.9), "motor_strength": 0.9})
    result = evaluate(policy, "hopper", gap=family, episodes=8)
    mass, strength = result.xi[:, 0], result.xi[:, 3]
    assert len(set(mass)) == 8
    assert (mass >= 0.7).all()
    assert (mass <= 1.9).all()
    assert (strength == 0.9).all()


def test_figures_are_plain_and_add_up(policy):
    result = evaluate(policy, gap="mild", episodes=4)
    figures = result.to_dict()
    assert figures["env"] == "hopper"
    assert figures["gap"] == "mild"
    assert figures["episodes"] == len(figures["returns"]) == 4
    assert figures["return"] == pytest.approx(np.mean(figures["returns"]))
    assert figures["low"] <= figures["return"] <= figures["high"]
    assert figures["falls"] <= 4


# What the policy is told


def test_contexts_by_hand(policy, hopper):
    assert list(hopper.space.low) == [0.7, 0.6, 0.6, 0.65, 0]
    assert list(hopper.space.high) == [1.8, 2.0, 1.3, 1.15, 8]
    xi = np.array([[1.5, 1.0, 1.0, 0.5, 8.0]])  # motor_strength below the range of training
    assert hopper.space.names == (
        "torso_mass", "joint_damping", "floor_friction", "motor_strength", "action_latency"
    )  # fmt: skip
    by_hand: dict[Any, list[float]] = {
        "nominal": [1, 1, 1, 1, 0],
        "true": [1.5, 1.0, 1.0, 0.65, 8.0],
        "other": [1.0, 1.6, 0.9, 1.15, 0.0],  # low + high - xi, within the ranges
    }
    for context, told in by_hand.items():
        given: Any = tell(policy, xi, hopper, context)
        np.testing.assert_allclose(given, [told])
    given = tell(policy, xi, hopper, np.full(5, 0.7))
    np.testing.assert_array_equal(given, np.full((1, 5), 0.7))


def test_what_is_told_changes_what_the_policy_does(policy):
    results = {
        context: evaluate(policy, "hopper", gap="worn", episodes=3, context=context)
        for context in ("nominal", "true", "other")
    }
    assert len({tuple(r.returns) for r in results.values()}) == 3
    for context, result in results.items():
        assert result.told == context
        np.testing.assert_array_equal(result.xi, results["nominal"].xi)


def test_where_nothing_differs_the_true_context_is_the_nominal_one(policy):
    a, b = (evaluate(policy, "hopper", episodes=2, context=c) for c in ("nominal", "true"))
    np.testing.assert_array_equal(a.returns, b.returns)


def test_a_context_that_is_none_is_refused(policy):
    with pytest.raises(InputError, match=r"context is 'treu'.*did you mean 'true'"):
        evaluate(policy, "hopper", context="treu")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"episodes": "ten"}, "episodes is 'ten'; it must be a whole number of at least 1"),
        ({"episodes": 0}, "episodes is 0; it must be a whole number of at least 1"),
        ({"episodes": 2.0}, "episodes is 2.0; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"xi": np.ones((3, 5))}, r"xi has shape \(3, 5\); it must be \(5,\), or \(2, 5\)"),
        ({"xi": np.ones((2, 4))}, r"has shape \(2, 4\).*the 5 parameters torso_mass"),
        ({"xi": np.full(5, np.nan)}, "must be a finite number"),
        ({"xi": {"torso_mass": "heavy"}}, "xi: torso_mass is 'heavy'; it must be a number"),
        ({"context": np.ones(4)}, r"has shape \(4,\).*the 5 parameters"),
        (
            {"context": np.ones((3, 5))},
            r"context has shape \(3, 5\); it must be \(5,\) or \(2, 5\)",
        ),
        ({"gap": 5}, "gap is 5; it must be the name of a gap"),
        ({"env": 5}, "env is 5; it must be the name of a robot or its folder"),
    ],
)
def test_wrong_arguments_are_refused(policy, how, sentence):
    arguments: Any = {"episodes": 2, **how}
    with pytest.raises(InputError, match=sentence):
        evaluate(policy, **arguments)


def test_what_is_no_policy_is_refused():
    nothing: Any = None
    with pytest.raises(InputError, match="policy is a NoneType; it must be a policy or the folder"):
        evaluate(nothing)


def test_physics_may_be_given_for_each_episode(policy, hopper):
    xi = np.tile(hopper.space.nominal, (2, 1))
    xi[1, 0] = 1.5
    np.testing.assert_array_equal(evaluate(policy, xi=xi, episodes=2).xi, xi)


# Between a reference and an oracle


def test_between_is_three_evaluations_on_the_same_robots(trained, policy):
    """The policy, told the truth, between one that throws itself down and itself untold."""
    reckless = sim2real.load(trained / "policy")
    with torch.no_grad():
        reckless.network[-1].get_parameter("bias").fill_(50.0)
    how: Any = {"gap": "worn", "episodes": 4, "seed": 2}
    three = between(trained / "policy", reckless, policy, context="true", **how)
    for ours, alone in (
        (three.policy, evaluate(policy, context="true", **how)),
        (three.reference, evaluate(reckless, **how)),
        (three.oracle, evaluate(policy, **how)),
    ):
        np.testing.assert_array_equal(ours.returns, alone.returns)
        np.testing.assert_array_equal(ours.xi, three.policy.xi)
        assert ours.told == alone.told
    ends = three.policy.returns, three.reference.returns, three.oracle.returns
    assert three.closed is not None
    assert three.closed == gap_closed(*ends)
    said = three.to_dict()
    assert said["closed"] == three.closed._asdict()
    assert said["return"] == three.policy.returns.mean()
    assert said["oracle"] == three.oracle.to_dict()
    same = between(policy, policy, policy, **how)
    assert same.closed is None
    assert same.to_dict()["closed"] is None


def test_an_oracle_for_another_robot_is_refused(policy, monkeypatch):
    monkeypatch.setattr(torch, "no_grad", lambda: pytest.fail("an episode was run"))
    other = Robot.load("walker2d")
    with pytest.raises(InputError, match="the policy was trained for 'hopper'"):
        between(policy, policy, policy, other, episodes=1)


# Grids


def test_a_grid_over_one_parameter(policy, hopper):
    map_ = grid(policy, hopper, ["torso_mass"], points=3, episodes=2)
    assert map_.names == ("torso_mass",)
    np.testing.assert_allclose(map_.values[0], [0.7, 1.25, 1.8])
    assert map_.mean.shape == (3,)
    assert map_.returns.shape == (3, 2)
    for i in range(3):
        interval = bootstrap(map_.returns[i])
        assert (map_.mean[i], map_.low[i], map_.high[i]) == pytest.approx(interval, rel=1e-12)
    assert (map_.low < map_.mean).all()
    assert (map_.mean < map_.high).all()
    figures = map_.to_dict()
    assert figures["parameters"] == ["torso_mass"]
    for name in ("mean", "low", "high", "returns"):
        np.testing.assert_array_equal(figures[name], getattr(map_, name))


def test_every_cell_of_a_grid_is_an_evaluation_at_its_place(policy, hopper):
    axes = ["motor_strength", "torso_mass"]
    map_ = grid(policy, hopper, axes, points=2, episodes=1, seed=9)
    assert map_.mean.shape == map_.low.shape == map_.high.shape == (2, 2)
    assert map_.returns.shape == (2, 2, 1)
    for i, strength in enumerate((0.6, 1.2)):
        for j, mass in enumerate((0.6, 2.0)):
            xi = {"motor_strength": strength, "torso_mass": mass}
            cell = evaluate(policy, hopper, xi=xi, episodes=1, seed=9 + 2 * i + j)
            # the network's last bits depend on the size of the batch, and contacts enlarge them
            assert map_.mean[i, j] == pytest.approx(cell.returns[0], rel=0.05)
    assert np.ptp(map_.mean) > 0.1 * map_.mean.mean()  # not all alike


def test_a_grid_keeps_the_gap(policy, hopper):
    plain, noisy = (
        grid(policy, hopper, ["torso_mass"], gap=gap, points=2, episodes=1).mean
        for gap in (None, "worn")
    )
    assert (plain != noisy).all()


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        (["torso_mas"], "did you mean 'torso_mass'"),
        (["torso_mass", "joint_damping", "motor_strength"], "one or two different parameters"),
        (["torso_mass", "torso_mass"], "one or two different parameters"),
        ([], "one or two different parameters"),
    ],
)
def test_a_grid_over_what_is_not_there_is_refused(policy, hopper, axes, sentence):
    with pytest.raises(InputError, match=sentence):
        grid(policy, hopper, axes)


# Another robot


@pytest.mark.parametrize("env", ["halfcheetah", "walker2d", "inverted_pendulum"])
def test_another_robot_is_refused(policy, env):
    with pytest.raises(InputError, match=f"the policy was trained for 'hopper' and .*'{env}'"):
        evaluate(policy, Robot.load(env), episodes=1)
