"""The arm: its models against the tool that writes them, and what it is asked for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from sim2real.simulation.robot import Robot
from sim2real.simulation.servos import servos
from sim2real.simulation.tasks.arm import JointTrajectory, ReachPose
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

CURRENT: Any = Robot.load("ur10e")
REACH: Any = Robot.load("ur10e_reach")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "build_ur10e.py"


def worlds(robot, n=3, **options):
    w = Worlds(robot, n, observe="measured", threads=1, **options)
    w.reset()
    return w


def test_the_models_are_what_the_figures_give():
    subprocess.run([sys.executable, str(TOOL), "--check"], check=True)


def test_the_flange_is_where_the_makers_kinematics_put_it():
    """With all joints at zero the arm lies along -x: the sums of the maker's link lengths."""
    data = mujoco.MjData(CURRENT.model)
    mujoco.mj_kinematics(CURRENT.model, data)
    place = data.site("flange").xpos
    np.testing.assert_allclose(
        place, (-0.6127 - 0.57155, -0.17415 - 0.11655, 0.1807 - 0.11985), atol=1e-9
    )


def test_one_is_driven_by_currents_and_the_other_by_positions():
    assert not servos(CURRENT.model).any()
    assert servos(REACH.model).all()
    data = mujoco.MjData(CURRENT.model)
    data.ctrl[:] = 1.0
    mujoco.mj_forward(CURRENT.model, data)
    np.testing.assert_allclose(data.qfrc_actuator, (12.19, 11.91, 9.73, 9.78, 10.24, 10.76))


def test_a_trajectory_begins_at_rest_at_home_and_its_velocity_is_its_slope():
    goals = CURRENT.task.goals(np.random.default_rng(0))
    place, rate = goals[:, :6], goals[:, 6:]
    np.testing.assert_allclose(place[0], CURRENT.task.init_qpos, atol=0.01)
    assert np.abs(rate[0]).max() < 0.1
    slope = np.gradient(place, 0.01, axis=0)
    np.testing.assert_allclose(slope[1:-1], rate[1:-1], atol=2e-3)
    assert np.abs(place - CURRENT.task.init_qpos).max() <= JointTrajectory.reach
    assert CURRENT.task.period == pytest.approx(CURRENT.control_period)


def test_what_is_asked_changes_with_every_step():
    w = worlds(CURRENT, 2)
    start = w.starts[0]
    assert start is not None
    for tick in range(5):
        np.testing.assert_array_equal(w.data["goal"][0], start.goals[tick])
        w.advance(np.zeros((2, 6)))


def test_a_perfect_follower_gets_the_whole_reward():
    w = worlds(CURRENT, 1)
    data = {**w.data, "qpos": w.data["goal"][:, :6].copy()}
    reward, parts = CURRENT.task.reward(data, np.zeros((1, 6)), np.zeros((1, 6)), 0.01)
    assert parts["error"] == pytest.approx(0)
    assert parts["reward_tracking"] == pytest.approx(0.01)
    assert reward == pytest.approx(0.01)


def test_a_goal_is_a_pose_that_the_flange_can_have():
    """The joints that it was drawn with bring the flange there: no distance and no turn."""
    rng = np.random.default_rng(3)
    again = np.random.default_rng(3)
    (goal,) = REACH.task.goals(rng)
    data = mujoco.MjData(REACH.model)
    while True:
        data.qpos[:] = REACH.task.init_qpos + again.uniform(-1, 1, 6)
        mujoco.mj_kinematics(REACH.model, data)
        if data.site("flange").xpos[2] > 0.15:
            break
    seen = {
        "goal": goal[None],
        "site_xpos": data.site_xpos[None],
        "site_xmat": data.site_xmat[None],
    }
    place, turned = REACH.task._away(seen)
    assert np.abs(place).max() < 1e-12
    assert turned[0] < 1e-6
    tilted = np.zeros(4)
    mujoco.mju_mulQuat(tilted, goal[3:], np.array([np.cos(0.2), np.sin(0.2), 0, 0]))
    _, turned = REACH.task._away(seen | {"goal": np.concatenate((goal[:3], tilted))[None]})
    assert turned[0] == pytest.approx(0.4)


def test_the_servos_reach_a_commanded_pose():
    w = worlds(REACH, 1)
    aim = w.task.rest + 0.2
    for _ in range(100):
        w.advance(aim[None])
    np.testing.assert_allclose(w.data["qpos"][0], aim, atol=0.03)


def test_an_arm_needs_its_parts():
    with pytest.raises(InputError, match="keyframe 'home'"):
        JointTrajectory(Robot.load("reacher").model)
    with pytest.raises(InputError, match="one actuator each"):
        ReachPose(Robot.load("go1").model)
