"""Balance two linked poles on a cart: Gymnasium's InvertedDoublePendulum-v5."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from sim2real.simulation.tasks.base import Task, logged_state, scalar_square
from sim2real.types import Array, InputError, LoggedState


class InvertedDoublePendulum(Task):
    """qpos is the cart's position [m] and the two poles' angles [rad]; site 0 is the tip."""

    fields = ("site_xpos", "qfrc_constraint")

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        if model.nsite == 0:
            raise InputError("the task needs a site at the tip of the upper pole; there is none")

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq)
        qvel = self.init_qvel + rng.standard_normal(self.model.nv) * 0.1
        return qpos, qvel

    def observe(self, data: Mapping[str, Array]) -> Array:
        angle = np.ascontiguousarray(data["qpos"][:, 1:])
        parts = (
            data["qpos"][:, :1],
            np.sin(angle),
            np.cos(angle),
            np.clip(data["qvel"], -10, 10),
            np.clip(data["qfrc_constraint"][:, :1], -10, 10),
        )
        return np.concatenate(parts, axis=1)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        x, y = data["site_xpos"][:, 0, 0], data["site_xpos"][:, 0, 2]
        v1, v2 = data["qvel"][:, 1], data["qvel"][:, 2]
        distance = 0.01 * scalar_square(x) + scalar_square(y - 2)
        velocity = 1e-3 * scalar_square(v1) + 5e-3 * scalar_square(v2)
        survive = 10.0 * ~self.terminated(data)
        return survive - distance - velocity, {
            "reward_survive": survive,
            "distance_penalty": -distance,
            "velocity_penalty": -velocity,
        }

    def terminated(self, data: Mapping[str, Array]) -> Array:
        return data["site_xpos"][:, 0, 2] <= 1

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All of it; velocities beyond the clip at 10 read as 10."""
        if (obs := terms.get("v5")) is None:
            return None
        angle = np.arctan2(obs[:, 1:3], obs[:, 3:5])
        return logged_state(self.model, np.hstack((obs[:, :1], angle)), obs[:, 5:8])
