"""The exact grid: what `fit` is held against, and its own limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sim2real.identification.identify import explain, restricted
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

ROBOT = Robot.load("inverted_pendulum")
NOISE = 0.004
"""Of the logs."""


def test_one_parameter_agrees_with_the_fit(pendulum_logs):
    robot = restricted(ROBOT, ["motor_strength"])
    logs = pendulum_logs(0, motor_strength=0.8)
    exact, linear = (explain(robot, logs, method=m) for m in ("grid", "fit"))
    k = ROBOT.space.names.index("motor_strength")
    assert abs(exact.mean[k] - 0.8) < 3 * exact.std[k]
    assert abs(exact.mean[k] - linear.mean[k]) < exact.std[k]
    assert 0.75 < linear.std[k] / exact.std[k] < 1.5
    for size in exact.noise.values():
        assert size == pytest.approx(NOISE, rel=0.4)
    assert exact.log_likelihood > exact.log_likelihood_nominal


def test_two_parameters_keep_their_correlation(pendulum_logs):
    """A heavier cart and a stronger motor look alike."""
    robot = restricted(ROBOT, ["cart_mass", "motor_strength"])
    logs = pendulum_logs(1, cart_mass=1.3, motor_strength=0.8)
    posterior = explain(robot, logs, method="grid", cells=8)
    both = [ROBOT.space.names.index(n) for n in ("cart_mass", "motor_strength")]
    off = posterior.mean[both] - [1.3, 0.8]
    covariance = posterior.covariance[np.ix_(both, both)]
    assert covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]) > 0.5
    assert off @ np.linalg.solve(covariance, off) < 9.2  # 99 % of a chi-square of two


def test_the_grid_is_refused_where_it_would_be_too_large_or_a_point(pendulum_logs):
    logs = pendulum_logs(0)
    with pytest.raises(InputError, match=r"one or two parameters, and 6 are free.*with --only"):
        explain(ROBOT, logs, method="grid")
    fixed = [replace(p, high=p.low) for p in ROBOT.config.parameters]
    point = replace(ROBOT, config=replace(ROBOT.config, parameters=fixed))
    with pytest.raises(InputError, match="the range of every parameter is a point"):
        explain(point, logs)


def test_the_same_seed_gives_the_same_samples(pendulum_logs):
    robot, logs = restricted(ROBOT, ["motor_strength"]), pendulum_logs(0, episodes=1, ticks=14)
    a, b, c = (explain(robot, logs, method="grid", cells=6, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.samples, b.samples)
    assert not np.array_equal(a.samples, c.samples)
