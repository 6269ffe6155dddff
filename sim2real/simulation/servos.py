"""Which actuators are servos: they are told where to be, and hold it."""

from __future__ import annotations

import mujoco

from sim2real.types import Array

DC_MOTOR_MODE, DC_MOTOR_VOLTAGE, DC_MOTOR_POSITION = 8, 0, 1
"""Where MuJoCo's DC motor keeps in gainprm what its command is, and two of its values."""


def servos(model: mujoco.MjModel) -> Array:
    """(A,) bool: the actuators that take a position of their joint."""
    mode = model.actuator_gainprm[:, DC_MOTOR_MODE]
    motor = model.actuator_gaintype == int(mujoco.mjtGain.mjGAIN_DCMOTOR)
    affine = model.actuator_biastype == int(mujoco.mjtBias.mjBIAS_AFFINE)
    feeds_back = affine & (model.actuator_biasprm[:, 1] != 0)
    return feeds_back | (motor & (mode == DC_MOTOR_POSITION))


def is_servo(model: mujoco.MjModel, actuator: int) -> bool:
    """Whether it takes a position or a speed and feeds it back; a constant bias feeds nothing
    back, and the command stays a force."""
    if int(model.actuator_gaintype[actuator]) == int(mujoco.mjtGain.mjGAIN_DCMOTOR):
        return int(model.actuator_gainprm[actuator, DC_MOTOR_MODE]) != DC_MOTOR_VOLTAGE
    bias = int(model.actuator_biastype[actuator])
    feedback = model.actuator_biasprm[actuator, 1:3]  # of length and of velocity
    affine = bias == int(mujoco.mjtBias.mjBIAS_AFFINE) and bool(feedback.any())
    return affine or bias == int(mujoco.mjtBias.mjBIAS_SO3)
