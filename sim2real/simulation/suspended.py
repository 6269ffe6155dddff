"""A robot hung up on a stand: its base stays where it is, and nothing touches the ground.

Its drives can then be identified without contacts, which are rough, and before its body.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import mujoco
import numpy as np

from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.tasks.base import Task
from sim2real.types import Array, InputError

STAND, REST = 1e5, 100.0
"""Inertia that the stand lends the base [kg and kg m²], and the rate at which it takes its velocity
[1/s]: pulled at by 100 N the base moves by 0.1 mm in ten seconds. Its coordinates stay in the
state, and so all terms and logs as they are."""
LIFT = 2.0
"""By which the base hangs higher than it stands [m]."""


class SuspendedRobot(MjcfRobot):
    """A robot with a floating base, on a stand."""

    def compile(self, gap: Gap | None = None) -> mujoco.MjModel:
        model = super().compile(gap)
        for dof in floating(model):
            model.dof_armature[dof : dof + 6] = STAND
            model.dof_damping[dof : dof + 6] = REST * STAND
        return model

    @cached_property
    def task(self) -> Task:
        task = super().task
        for dof in floating(self.model):
            joint = self.model.dof_jntid[dof]
            task.init_qpos[self.model.jnt_qposadr[joint] + 2] += LIFT
        object.__setattr__(task, "terminated", _never)
        return task


def on_stand(robot: Robot) -> SuspendedRobot:
    """The robot on a stand.

    Raises:
        InputError: steps that are opaque, or a base that does not float.
    """
    if not isinstance(robot, MjcfRobot):
        raise InputError(f"{robot.name} is a Gymnasium environment, whose steps are opaque")
    if not floating(robot.model):
        raise InputError(
            f"{robot.name} has no floating base (no free joint above its actuators in "
            f"{robot.model_path}): it needs no stand"
        )
    return SuspendedRobot(**{name: getattr(robot, name) for name in robot.__dataclass_fields__})


def floating(model: mujoco.MjModel) -> list[int]:
    """The first degree of freedom of every free joint that carries actuators: not of a thing that
    lies about."""
    of_joints = model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    driven = model.actuator_trnid[of_joints, 0]
    trees = model.body_rootid[model.jnt_bodyid[driven]]
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    base = free[np.isin(model.body_rootid[model.jnt_bodyid[free]], trees)]
    return [int(dof) for dof in model.jnt_dofadr[base]]


def _never(data: Mapping[str, Array]) -> Array:
    """(B,) On a stand nothing falls."""
    return np.zeros(len(data["qpos"]), bool)
