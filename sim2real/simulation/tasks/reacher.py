"""Bring the fingertip of a planar arm to a target: Gymnasium's Reacher-v5."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from sim2real.simulation.tasks.base import Task, body_id, logged_state, norm, sum_of_squares
from sim2real.types import Array, LoggedState


class Reacher(Task):
    """qpos is two joint angles [rad], then the target's x and y [m]."""

    fields = ("xpos",)
    episode_steps = 50

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        self.fingertip = body_id(model, "fingertip")
        self.target = body_id(model, "target")

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq)
        while True:
            goal = rng.uniform(-0.2, 0.2, 2)
            if np.linalg.norm(goal) < 0.2:
                break
        qpos[-2:] = goal
        qvel = self.init_qvel + rng.uniform(-0.005, 0.005, self.model.nv)
        qvel[-2:] = 0
        return qpos, qvel

    def to_target(self, data: Mapping[str, Array]) -> Array:
        """(B, 3) [m], from the target to the fingertip."""
        return data["xpos"][:, self.fingertip] - data["xpos"][:, self.target]

    def observe(self, data: Mapping[str, Array]) -> Array:
        angle = np.ascontiguousarray(data["qpos"][:, :2])
        parts = (
            np.cos(angle),
            np.sin(angle),
            data["qpos"][:, 2:],
            data["qvel"][:, :2],
            self.to_target(data)[:, :2],
        )
        return np.concatenate(parts, axis=1)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        distance = -norm(self.to_target(data))
        control = -sum_of_squares(action)
        return distance + control, {"reward_dist": distance, "reward_ctrl": control}

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All but the target's velocity, which stays 0; angles are given within ±π."""
        if (obs := terms.get("v5")) is None:
            return None
        angle = np.arctan2(obs[:, 2:4], obs[:, 0:2])
        return logged_state(self.model, np.hstack((angle, obs[:, 4:6])), obs[:, 6:8])
