"""What an arm is asked for: to follow a motion of its joints, or to bring its flange to a pose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mujoco
import numpy as np

from sim2real.simulation.tasks.base import Task, rest_of
from sim2real.types import Array, InputError


@dataclass(frozen=True)
class Moment:
    """What one control step was, for B worlds with J joints."""

    error: Array
    """(B, J) of the joints [rad], or (B, 3) of the flange's place [m]"""
    turn: Array
    """(B,) angle between the flange and its goal [rad]; 0 where only joints are asked for"""
    effort: Array
    """(B, J) share of each command's range that is used, about its middle"""
    change: Array
    """(B, J) of the command since the step before, as a share of half its range"""
    speed: Array
    """(B, J) of the joints [rad/s]"""


def tracking(m: Moment) -> Array:
    """exp(-|error|²/0.01): 1/e at 0.1 rad or 0.1 m."""
    return np.exp(-np.square(m.error).sum(axis=1) / 0.01)


def distance(m: Moment) -> Array:
    return np.sqrt(np.square(m.error).sum(axis=1))


def turn(m: Moment) -> Array:
    return m.turn


def effort(m: Moment) -> Array:
    return np.square(m.effort).mean(axis=1)


def change(m: Moment) -> Array:
    return np.square(m.change).mean(axis=1)


def speed(m: Moment) -> Array:
    return np.square(m.speed).sum(axis=1)


TRIES, LOWEST = 1000, 0.15
"""Draws of a pose, and how high its flange is at least [m]."""

TERMS = (tracking, distance, turn, effort, change, speed)


class _Arm(Task):
    """Joints only, one actuator each, in order; a keyframe `home`."""

    reward_terms = MappingProxyType({f.__name__: f for f in TERMS})

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        if "home" not in [model.key(i).name for i in range(model.nkey)]:
            raise InputError("the task needs a keyframe 'home'")
        one_each = model.njnt == model.nu and model.nq == model.nv
        if not one_each or (model.actuator_trnid[:, 0] != np.arange(model.njnt)).any():
            raise InputError(
                "the task needs hinges and slides with one actuator each, in their order; the "
                f"model has {model.njnt} joints and {model.nu} actuators"
            )
        self.init_qpos = model.key("home").qpos.copy()
        self.rest = rest_of(model)
        low, high = model.actuator_ctrlrange.T
        self._middle, self._half = (low + high) / 2, (high - low) / 2

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        n = self.model.nq
        return self.init_qpos + rng.uniform(-0.05, 0.05, n), self.init_qvel.copy()

    def before(self, data: Mapping[str, Array]) -> Array:
        return data["last_action"].copy()

    def _moment(
        self, data: Mapping[str, Array], before: Array, action: Array, error: Array, turned: Array
    ) -> Moment:
        return Moment(
            error, turned, (action - self._middle) / self._half, (action - before) / self._half,
            data["qvel"],
        )  # fmt: skip


class JointTrajectory(_Arm):
    """Follow a motion of all joints: three harmonics each, drawn for every episode, that begins at
    rest at `home`. What is asked for is the position and the velocity of the next moment."""

    episode_steps = 500
    goal_steps = 1
    harmonics = 3
    slowest = 0.1
    """Frequency of the first harmonic [Hz]."""
    reach = 0.6
    """How far a joint moves from home at most [rad]."""
    figures = MappingProxyType({"error": "rad"})

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        names = [model.joint(i).name for i in range(model.njnt)]
        self.goal_names = (*names, *(f"{name}.velocity" for name in names))

    def goals(self, rng: np.random.Generator) -> Array:
        J = self.model.nq
        t = self.period * np.arange(1, self.episode_steps + 2)
        k = 2 * np.pi * self.slowest * np.arange(1, self.harmonics + 1)  # (H,) [rad/s]
        size = rng.uniform(-1, 1, (J, self.harmonics))
        size *= self.reach / (2 * np.abs(size).sum(axis=1, keepdims=True))
        # 1 - cos begins at rest, in the middle of nothing
        place = ((1 - np.cos(np.outer(t, k)))[:, None] * size).sum(axis=2)
        rate = ((k * np.sin(np.outer(t, k)))[:, None] * size).sum(axis=2)
        return np.concatenate((self.init_qpos + place, rate), axis=1)

    def observe(self, data: Mapping[str, Array]) -> Array:
        return np.concatenate((data["qpos"], data["qvel"], data["goal"]), axis=1)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        assert before is not None
        error = data["qpos"] - data["goal"][:, : self.model.nq]
        moment = self._moment(data, before, action, error, np.zeros(len(error)))
        reward, parts = self.weighted(moment, dt)
        return reward, parts | {"error": distance(moment)}


class ReachPose(_Arm):
    """Bring the site `flange` to a place and a direction that the arm can reach."""

    fields = ("site_xpos", "site_xmat")
    episode_steps = 200
    goal_names = ("x", "y", "z", "w", "i", "j", "k")
    away = 1.0
    """Goals are where the flange is with joints up to so far from home [rad]."""
    figures = MappingProxyType({"distance": "m", "turn": "rad"})

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        names = [model.site(i).name for i in range(model.nsite)]
        if "flange" not in names:
            raise InputError(f"the task needs a site 'flange'; the sites are {', '.join(names)}")
        self._flange = names.index("flange")

    def goals(self, rng: np.random.Generator) -> Array:
        state = mujoco.MjData(self.model)
        free = self.model.jnt_limited == 0
        low = np.where(free, -np.inf, self.model.jnt_range[:, 0])
        high = np.where(free, np.inf, self.model.jnt_range[:, 1])
        for _ in range(TRIES):
            wish = self.init_qpos + rng.uniform(-self.away, self.away, self.model.nq)
            state.qpos[:] = np.clip(wish, low, high)
            mujoco.mj_kinematics(self.model, state)
            if state.site_xpos[self._flange, 2] > LOWEST:
                break
        else:
            raise InputError(
                f"the task reach_pose finds no pose of the flange higher than {LOWEST} m with "
                f"joints up to {self.away} rad from 'home'; mount the arm higher"
            )
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, state.site_xmat[self._flange])
        return np.concatenate((state.site_xpos[self._flange], quat))[None]

    def observe(self, data: Mapping[str, Array]) -> Array:
        place, turned = self._away(data)
        return np.concatenate(
            (data["qpos"], data["qvel"], data["goal"], place, turned[:, None]), axis=1
        )

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        assert before is not None
        place, turned = self._away(data)
        moment = self._moment(data, before, action, place, turned)
        reward, parts = self.weighted(moment, dt)
        return reward, parts | {"distance": distance(moment), "turn": turned}

    def _away(self, data: Mapping[str, Array]) -> tuple[Array, Array]:
        """(B, 3) from the goal to the flange [m], (B,) angle between them [rad]."""
        place = data["site_xpos"][:, self._flange] - data["goal"][:, :3]
        R = data["site_xmat"][:, self._flange].reshape(-1, 3, 3)
        w, x, y, z = np.moveaxis(data["goal"][:, 3:], 1, 0)
        aim = np.stack(
            (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
             2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
             2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), axis=1,
        ).reshape(-1, 3, 3)  # fmt: skip
        cosine = (np.einsum("bij,bij->b", R, aim) - 1) / 2
        return place, np.arccos(np.clip(cosine, -1, 1))
