"""Run forward, never falling for good: Gymnasium's HalfCheetah-v5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim2real.simulation.tasks.base import Task, logged_state, sum_of_squares
from sim2real.types import Array, LoggedState


class HalfCheetah(Task):
    """qpos is x [m], z [m], pitch [rad], then the joints."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq)
        qvel = self.init_qvel + 0.1 * rng.standard_normal(self.model.nv)
        return qpos, qvel

    def observe(self, data: Mapping[str, Array]) -> Array:
        return np.concatenate((data["qpos"][:, 1:], data["qvel"]), axis=1)

    def before(self, data: Mapping[str, Array]) -> Array:
        return data["qpos"][:, 0].copy()

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        x_velocity = (data["qpos"][:, 0] - before) / dt
        control = 0.1 * sum_of_squares(action)
        return x_velocity - control, {
            **self.reset_info(data),
            "x_velocity": x_velocity,
            "reward_forward": x_velocity,
            "reward_ctrl": -control,
        }

    def reset_info(self, data: Mapping[str, Array]) -> dict[str, Array]:
        return {"x_position": data["qpos"][:, 0].copy()}

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All but x, which nothing depends on."""
        if (obs := terms.get("v5")) is None:
            return None
        n = self.model.nq - 1
        return logged_state(self.model, obs[:, :n], obs[:, n:], skip=1)
