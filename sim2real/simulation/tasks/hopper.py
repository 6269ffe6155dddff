"""Hop forward on one leg without falling: Gymnasium's Hopper-v5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim2real.simulation.tasks.base import Task, logged_state, sum_of_squares
from sim2real.types import Array, LoggedState


class Hopper(Task):
    """qpos is x [m], z [m], pitch [rad], then the joints."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        nq = self.model.nq  # one call draws what Gymnasium draws in two
        noise = rng.uniform(-5e-3, 5e-3, nq + self.model.nv)
        return self.init_qpos + noise[:nq], self.init_qvel + noise[nq:]

    def observe(self, data: Mapping[str, Array]) -> Array:
        return np.concatenate((data["qpos"][:, 1:], np.clip(data["qvel"], -10, 10)), axis=1)

    def before(self, data: Mapping[str, Array]) -> Array:
        return data["qpos"][:, 0].copy()

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        x_velocity = (data["qpos"][:, 0] - before) / dt
        survive = 1.0 * ~self.terminated(data)
        control = 1e-3 * sum_of_squares(action)
        return x_velocity + survive - control, {
            **self.reset_info(data),
            "x_velocity": x_velocity,
            "reward_forward": x_velocity,
            "reward_ctrl": -control,
            "reward_survive": survive,
        }

    def terminated(self, data: Mapping[str, Array]) -> Array:
        z, pitch = data["qpos"][:, 1], data["qpos"][:, 2]
        healthy = (z > 0.7) & (z < np.inf) & (np.abs(pitch) < 0.2)
        for state in (data["qpos"][:, 2:], data["qvel"]):
            if not np.abs(state).max() < 100:  # hardly ever, and NaN too: then world by world
                healthy &= (np.abs(state) < 100).all(axis=1)
        return ~healthy

    def reset_info(self, data: Mapping[str, Array]) -> dict[str, Array]:
        return {
            "x_position": data["qpos"][:, 0].copy(),
            "z_distance_from_origin": data["qpos"][:, 1] - self.init_qpos[1],
        }

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All but x, which nothing depends on; velocities beyond the clip at 10 read as 10."""
        if (obs := terms.get("v5")) is None:
            return None
        n = self.model.nq - 1
        return logged_state(self.model, obs[:, :n], obs[:, n:], skip=1)
