"""On a stand the base stays where it is, and the rest of the robot does not."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.suspended import LIFT, floating, on_stand
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

GO1 = Robot.load("go1")
assert isinstance(GO1, MjcfRobot)
HUNG = on_stand(GO1)


def moved(robot):
    """Worlds under smooth commands for two seconds, and where they were at the begin."""
    worlds = Worlds(robot, 3, observe=["joint_positions", "gravity", "gyro"], seed=0, threads=1)
    worlds.reset(xi=robot.space.prior().sample(np.random.default_rng(0), 3))
    begin = worlds.data["qpos"].copy()
    low, high = robot.command_range
    for t in range(round(2 / robot.control_period)):
        swing = 0.4 * np.sin(0.1 * t + np.arange(12)) * (high - low) / 2
        worlds.advance(np.tile(np.clip(robot.task.rest + swing, low, high), (3, 1)))
    return worlds, begin


def test_the_base_stays_and_the_legs_move():
    worlds, begin = moved(HUNG)
    away = np.abs(worlds.data["qpos"] - begin)
    assert away[:, :7].max() < 5e-3  # what an episode begins with, for a hundredth of a second
    assert away[:, 7:].max() > 0.2
    free, start = moved(GO1)  # the control arm: on the ground it does move
    assert np.abs(free.data["qpos"] - start)[:, :7].max() > 0.02


def test_nothing_touches_the_ground_and_all_terms_are_those_of_the_robot():
    assert isinstance(GO1, MjcfRobot)
    assert HUNG.task.init_qpos[2] == pytest.approx(GO1.task.init_qpos[2] + LIFT)
    data = mujoco.MjData(HUNG.model)
    data.qpos[:] = HUNG.task.init_qpos
    mujoco.mj_forward(HUNG.model, data)
    assert data.ncon == 0
    assert list(HUNG.terms) == list(GO1.terms)
    assert HUNG.space.names == GO1.space.names
    np.testing.assert_array_equal(HUNG.space.nominal, GO1.space.nominal)
    assert floating(GO1.model) == [0]
    assert GO1.model.dof_armature[:6].max() == 0  # the robot itself is as it was


@pytest.mark.parametrize(
    ("name", "said"),
    [("ur10e", "no floating base"), ("hopper", "no floating base"), ("fetch_reach", "opaque")],
)
def test_what_needs_no_stand_is_told(name, said):
    with pytest.raises(InputError, match=f"^{name}.*{said}"):
        on_stand(Robot.load(name))


def test_a_thing_that_lies_about_is_no_base():
    model = mujoco.MjModel.from_xml_string("""
    <mujoco><worldbody>
      <body><joint name="j" axis="0 1 0"/><geom size="0.1" mass="1"/></body>
      <body pos="1 0 0"><freejoint/><geom size="0.1" mass="1"/></body>
    </worldbody><actuator><motor joint="j"/></actuator></mujoco>""")
    assert floating(model) == []


def test_nothing_falls_on_a_stand():
    """An ant above its own limit of height; the control arm is the ant on the ground."""
    ant = Robot.load("ant")
    high = {"qpos": np.tile(on_stand(ant).task.init_qpos, (2, 1)), "qvel": np.zeros((2, 14))}
    assert isinstance(ant, MjcfRobot)
    assert ant.task.terminated(high).all()
    assert not on_stand(ant).task.terminated(high).any()
