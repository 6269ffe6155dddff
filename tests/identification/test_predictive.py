"""Whether any ξ explains a log: the alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim2real.identification.identify import explain, restricted
from sim2real.identification.posterior import ALARM
from sim2real.identification.predictive import check
from sim2real.simulation.gap import Actuators, Gap, Sensor
from sim2real.simulation.robot import Robot

ROBOT = restricted(Robot.load("inverted_pendulum"), ["cart_mass", "motor_strength"])
OUTSIDE = {
    "play": Gap(actuators=Actuators(backlash=0.4)),
    "stiction": Gap(actuators=Actuators(stiction=0.5)),
    "a bent sensor": Gap(sensors={"pole_angle": Sensor(bias=0.05)}),
}


def misfit(logs: list[Any], **settings: int) -> float:
    return check(ROBOT, logs, explain(ROBOT, logs, candidates=24, rounds=10), **settings).misfit


@pytest.mark.parametrize("seed", range(2))
def test_it_is_silent_where_some_physics_explains_the_log(seed, pendulum_logs):
    logs = pendulum_logs(seed, ticks=40, cart_mass=1.3, motor_strength=0.8)
    assert misfit(logs) < ALARM


@pytest.mark.parametrize("name", OUTSIDE)
def test_it_rings_where_none_does(name, pendulum_logs):
    logs = pendulum_logs(0, ticks=40, gap=OUTSIDE[name], cart_mass=1.3, motor_strength=0.8)
    assert misfit(logs) > ALARM


def test_the_same_seed_imagines_the_same_robots(pendulum_logs):
    logs = pendulum_logs(0, episodes=1, ticks=20)
    found = explain(ROBOT, logs, candidates=16, rounds=3)
    a, b, c = (check(ROBOT, logs, found, imagined=3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.imagined, b.imagined)
    assert a.correlation == b.correlation
    assert not np.array_equal(a.imagined, c.imagined)


def test_where_the_posterior_is_densest_counts_though_its_mean_lies_beside(pendulum_logs):
    """As of draws along a curve, or cut off by the ranges. The control arm is told the mean
    alone."""
    logs = pendulum_logs(0, ticks=40, cart_mass=1.3, motor_strength=0.8)
    found = explain(ROBOT, logs, candidates=24, rounds=10)
    moved = np.clip(found.samples + 6 * found.std, found.low, found.high)
    np.testing.assert_allclose(found.best, found.mean, atol=2 * found.std.max())
    beside = replace(found, samples=moved)
    np.testing.assert_array_equal(beside.best, found.best)
    told, alone = (check(ROBOT, logs, p) for p in (beside, replace(beside, said=None)))
    assert told.correlation < alone.correlation
