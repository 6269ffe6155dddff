"""Walk with the velocity that somebody commands: for robots with a free trunk and feet that feel.

The reward is a sum of the plain functions below, weighted in env.yaml. Their forms are those that
legged robots are usually trained with (Rudin et al. 2021, table 2; Ji et al. 2022 for the
clearance of feet), written for arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mujoco
import numpy as np

from sim2real.simulation.tasks.base import Task, rest_of
from sim2real.simulation.terms import turned_back
from sim2real.types import Array, InputError

TRACKING = 0.25
"""Squared error of a velocity at which its reward has fallen to 1/e [m²/s², rad²/s²]."""
CLEARANCE = 0.08
"""Height that the middle of a moving foot is to have over the ground of the trunk's feet [m]."""
CONTACT = 1.0
"""Force above which a foot stands [N]."""
STANDING = 0.1
"""A command below this speed asks to stand [m/s, rad/s]."""


@dataclass(frozen=True)
class Moment:
    """What one control step was, for B worlds with J joints and F feet."""

    command: Array
    """(B, 3) forward and sideways velocity [m/s] and yaw rate [rad/s], in the trunk's frame."""
    velocity: Array
    """(B, 3) of the trunk, in its frame [m/s]"""
    rate: Array
    """(B, 3) angular velocity of the trunk, in its frame [rad/s]"""
    gravity: Array
    """(B, 3) unit vector, in the trunk's frame"""
    joints: Array
    """(B, J) positions less those of the pose `home` [rad]"""
    beyond: Array
    """(B, J) how far a joint is beyond 95 % of its range [rad]"""
    joint_speed: Array
    """(B, J) [rad/s]"""
    torque: Array
    """(B, J) [N m]"""
    action: Array
    """(B, J) commanded position less that of the pose [rad]"""
    action_change: Array
    """(B, J) since the step before [rad]"""
    standing: Array
    """(B, F) bool: feet on the ground"""
    foot_height: Array
    """(B, F) of the middle of a foot above that of the lowest, or of one that stands on flat ground
    [m]; on rough ground a foot on a bump counts as lifted"""
    foot_velocity: Array
    """(B, F, 2) horizontal [m/s]"""

    @property
    def moving(self) -> Array:
        """(B,) bool: whether the command asks to move."""
        return np.abs(self.command).max(axis=1) > STANDING


def track_linear(m: Moment) -> Array:
    """exp(-|error|²/σ) of the planar velocity."""
    error = np.square(m.command[:, :2] - m.velocity[:, :2]).sum(axis=1)
    return np.exp(-error / TRACKING)


def track_yaw(m: Moment) -> Array:
    """exp(-error²/σ) of the yaw rate."""
    return np.exp(-np.square(m.command[:, 2] - m.rate[:, 2]) / TRACKING)


def alive(m: Moment) -> Array:
    return np.ones(len(m.command))


def vertical_velocity(m: Moment) -> Array:
    return np.square(m.velocity[:, 2])


def roll_pitch_rate(m: Moment) -> Array:
    return np.square(m.rate[:, :2]).sum(axis=1)


def tilt(m: Moment) -> Array:
    """Squared sine of the angle from upright."""
    return np.square(m.gravity[:, :2]).sum(axis=1)


def pose(m: Moment) -> Array:
    """Squared distance of the joints from the pose."""
    return np.square(m.joints).sum(axis=1)


def stand_still(m: Moment) -> Array:
    """Distance of the joints from the pose where the command asks to stand."""
    return np.abs(m.joints).sum(axis=1) * ~m.moving


def joint_limits(m: Moment) -> Array:
    return m.beyond.sum(axis=1)


def torque(m: Moment) -> Array:
    return np.square(m.torque).sum(axis=1)


def power(m: Moment) -> Array:
    """Σ |torque · speed|: what the motors give and take [W]."""
    return np.abs(m.torque * m.joint_speed).sum(axis=1)


def action_rate(m: Moment) -> Array:
    return np.square(m.action_change).sum(axis=1)


def foot_slip(m: Moment) -> Array:
    """Squared velocity of the feet that stand."""
    return (np.square(m.foot_velocity).sum(axis=2) * m.standing).sum(axis=1)


def foot_clearance(m: Moment) -> Array:
    """How far moving feet are from their height, times their speed (Ji et al. 2022)."""
    speed = np.sqrt(np.square(m.foot_velocity).sum(axis=2))
    return (np.square(m.foot_height - CLEARANCE) * speed).sum(axis=1)


TERMS = (
    track_linear, track_yaw, alive, vertical_velocity, roll_pitch_rate, tilt, pose, stand_still,
    joint_limits, torque, power, action_rate, foot_slip, foot_clearance,
)  # fmt: skip


class Velocity(Task):
    """Follow a planar velocity, commanded anew every five seconds, without falling.

    The model has a free joint first and its joints driven one each, in the order of the actuators;
    a keyframe `home`, in which it stands; and a `touch` sensor with a site of its own at every
    foot. The observation `v5` is the whole state that matters, and privileged.
    """

    fields = ("site_xpos", "sensordata", "actuator_force")
    episode_steps = 1000
    goal_names = ("forward", "sideways", "yaw")
    goal_steps = 250
    figures = MappingProxyType({"speed_error": "m/s", "yaw_error": "rad/s", "power": "W"})
    reward_terms = MappingProxyType({f.__name__: f for f in TERMS})

    fastest = np.array([1.0, 0.5, 1.0])
    """Commands are drawn between these and their negatives [m/s, m/s, rad/s]."""
    share_standing = 0.1
    """Of the commands, those that ask to stand."""
    start_spacing = 2.0
    """Episodes begin on a square lattice of this width, where rough ground has flat pads [m]."""
    fallen = np.cos(1.0)
    """Cosine of the tilt from which the robot has fallen."""
    lowest = 0.12
    """Height of the trunk's middle above the feet's ground below which it has fallen [m]."""

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        keys = [model.key(i).name for i in range(model.nkey)]
        if "home" not in keys:
            raise InputError("the task velocity needs a keyframe 'home', in which the robot stands")
        if model.njnt != model.nu + 1 or int(model.jnt_type[0]) != int(mujoco.mjtJoint.mjJNT_FREE):
            raise InputError(
                "the task velocity needs a free joint and then one actuator for every joint; the "
                f"model has {model.njnt} joints and {model.nu} actuators"
            )
        if (model.actuator_trnid[:, 0] != np.arange(1, model.njnt)).any():
            raise InputError("the task velocity needs the actuators in the order of the joints")
        touch = model.sensor_type == int(mujoco.mjtSensor.mjSENS_TOUCH)
        if not touch.any():
            raise InputError("the task velocity needs a touch sensor at every foot")
        self.init_qpos = model.key("home").qpos.copy()
        self.home = self.init_qpos[7:].copy()
        self.rest = rest_of(model)
        self._feet = model.sensor_objid[touch]  # (F,) sites
        self._touch = model.sensor_adr[touch]
        free = model.jnt_limited[1:] == 0
        low, high = np.where(free, -np.inf, model.jnt_range[1:].T[0]), model.jnt_range[1:].T[1]
        high = np.where(free, np.inf, high)
        margin = 0.025 * np.where(free, 0.0, model.jnt_range[1:, 1] - model.jnt_range[1:, 0])
        self._low, self._high = low + margin, high - margin
        state = mujoco.MjData(model)
        state.qpos[:] = self.init_qpos
        mujoco.mj_kinematics(model, state)
        self._sole = float(state.site_xpos[self._feet, 2].min())  # height of a foot that stands

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos, qvel = self.init_qpos.copy(), self.init_qvel.copy()
        yaw = rng.uniform(-np.pi, np.pi)
        qpos[:2] = self.start_spacing * rng.integers(-3, 4, 2) + rng.uniform(-0.05, 0.05, 2)
        qpos[3:7] = np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)
        qpos[7:] += rng.uniform(-0.1, 0.1, len(self.home))
        qvel[:6] = rng.uniform(-0.2, 0.2, 6)
        return qpos, qvel

    def goals(self, rng: np.random.Generator) -> Array:
        n = -(-self.episode_steps // self.goal_steps)
        asked = rng.uniform(-1.0, 1.0, (n, 3)) * self.fastest
        stand = rng.random(n) < self.share_standing
        return np.where(stand[:, None], 0.0, asked)

    def observe(self, data: Mapping[str, Array]) -> Array:
        velocity, gravity = self._velocity_gravity(data)
        touch = np.minimum(data["sensordata"][:, self._touch] / 100.0, 3.0)
        return np.concatenate(
            (velocity, data["qvel"][:, 3:6], gravity, data["qpos"][:, 2:3],
             data["qpos"][:, 7:] - self.home, data["qvel"][:, 6:], data["last_action"] - self.home,
             touch, data["goal"]), axis=1,
        )  # fmt: skip

    def before(self, data: Mapping[str, Array]) -> Array:
        feet = data["site_xpos"][:, self._feet, :2].reshape(len(data["qpos"]), -1)
        return np.concatenate((data["last_action"], feet), axis=1)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        assert before is not None
        moment = self.moment(data, before, action, dt)
        reward, parts = self.weighted(moment, dt)
        planar = moment.velocity[:, :2] - moment.command[:, :2]
        return reward, parts | {
            "speed_error": np.sqrt(np.square(planar).sum(axis=1)),
            "yaw_error": np.abs(moment.rate[:, 2] - moment.command[:, 2]),
            "power": power(moment),
        }

    def moment(self, data: Mapping[str, Array], before: Array, action: Array, dt: float) -> Moment:
        """The step just made; `before` is what the method of that name gave."""
        B, A = len(data["qpos"]), len(self.home)
        velocity, gravity = self._velocity_gravity(data)
        joints = data["qpos"][:, 7:]
        feet = data["site_xpos"][:, self._feet]
        moved = feet[:, :, :2] - before[:, A:].reshape(B, -1, 2)
        standing = data["sensordata"][:, self._touch] > CONTACT
        ground = np.minimum(feet[:, :, 2].min(axis=1, keepdims=True), self._sole)
        return Moment(
            command=data["goal"], velocity=velocity, rate=data["qvel"][:, 3:6], gravity=gravity,
            joints=joints - self.home,
            beyond=np.maximum(joints - self._high, 0) + np.maximum(self._low - joints, 0),
            joint_speed=data["qvel"][:, 6:], torque=data["actuator_force"],
            action=action - self.home, action_change=action - before[:, :A],
            standing=standing, foot_height=feet[:, :, 2] - ground, foot_velocity=moved / dt,
        )  # fmt: skip

    def terminated(self, data: Mapping[str, Array]) -> Array:
        _, gravity = self._velocity_gravity(data)
        feet = data["site_xpos"][:, self._feet, 2].min(axis=1)
        return (-gravity[:, 2] < self.fallen) | (data["qpos"][:, 2] - feet < self.lowest)

    def feet(self, data: Mapping[str, Array]) -> Array:
        """(B, F) contact forces of the feet [N], a source of env.yaml."""
        return data["sensordata"][:, self._touch]

    def base_velocity(self, data: Mapping[str, Array]) -> Array:
        """(B, 3) velocity of the trunk in its frame [m/s], a source of env.yaml."""
        return self._velocity_gravity(data)[0]

    def _velocity_gravity(self, data: Mapping[str, Array]) -> tuple[Array, Array]:
        """(B, 3), (B, 3) velocity of the trunk and direction of gravity, in the trunk's frame."""
        q = data["qpos"][:, 3:7]
        down = np.zeros((len(q), 3))
        down[:, 2] = -1.0
        return turned_back(q, data["qvel"][:, :3]), turned_back(q, down)
