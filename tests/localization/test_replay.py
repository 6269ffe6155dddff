"""Worlds that repeat a log against the worlds that wrote it."""

from __future__ import annotations

from typing import cast

import numpy as np

from sim2real.localization.replay import Plan, Replay
from sim2real.simulation.gap import Gap, Latency
from sim2real.simulation.robot import MjcfRobot, Robot

HOPPER = cast(MjcfRobot, Robot.load("hopper"))


def test_a_nominal_replay_of_exact_logs_is_exact(logged):
    replay = Replay(HOPPER, logged(HOPPER, terms=["v5"], ticks=20))
    told = replay(Plan.of(replay.model.nv, 2), 0)
    there = np.isfinite(replay.obs[:, 1:])
    for world in told:
        np.testing.assert_allclose(world[there], replay.obs[:, 1:][there], atol=1e-7)


def test_late_commands_are_those_of_the_gap(logged):
    """A control arm: the replay with the robot's own latency is close, the nominal one is not.
    Under RK4 the last stage of a step reads the next command, so it is not exact."""
    ms = 1000 * HOPPER.control_period / 2
    episodes = logged(HOPPER, Gap(latency=Latency(action_ms=ms)), terms=["v5"], ticks=20)
    replay = Replay(HOPPER, episodes)
    plan = Plan.of(replay.model.nv, 2)
    plan.delay[1] = HOPPER.config.frame_skip // 2
    error = np.abs(replay(plan, 0) - replay.obs[:, 1:])
    steady = error[:, :, 2:]  # a delayed actuator reads its first command before it came
    assert np.nanmax(steady[0]) > 0.01
    assert np.nanmedian(steady[1]) < 0.1 * np.nanmedian(steady[0])
