"""Walk forward on four legs: Gymnasium's Ant-v5, contact forces included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim2real.simulation.tasks.base import Task, logged_state, norm, sum_of_squares
from sim2real.types import Array, LoggedState

TORSO = 1  # body index; 0 is the world


class Ant(Task):
    """qpos is the torso's position [m] and quaternion, then the joints."""

    fields = ("xpos", "cfrc_ext")

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq)
        qvel = self.init_qvel + 0.1 * rng.standard_normal(self.model.nv)
        return qpos, qvel

    def observe(self, data: Mapping[str, Array]) -> Array:
        forces = contact_forces(data)[:, 1:].reshape(len(data["qpos"]), -1)
        return np.concatenate((data["qpos"][:, 2:], data["qvel"], forces), axis=1)

    def before(self, data: Mapping[str, Array]) -> Array:
        return data["xpos"][:, TORSO, :2].copy()

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        x_velocity, y_velocity = ((data["xpos"][:, TORSO, :2] - before) / dt).T
        survive = 1.0 * ~self.terminated(data)
        control = 0.5 * sum_of_squares(action)
        contact = 5e-4 * sum_of_squares(contact_forces(data))
        return x_velocity + survive - (control + contact), {
            **self.reset_info(data),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_forward": x_velocity,
            "reward_ctrl": -control,
            "reward_contact": -contact,
            "reward_survive": survive,
        }

    def terminated(self, data: Mapping[str, Array]) -> Array:
        z = data["qpos"][:, 2]
        finite = np.isfinite(data["qpos"]).all(axis=1) & np.isfinite(data["qvel"]).all(axis=1)
        return ~(finite & (z >= 0.2) & (z <= 1.0))

    def reset_info(self, data: Mapping[str, Array]) -> dict[str, Array]:
        return {
            "x_position": data["qpos"][:, 0].copy(),
            "y_position": data["qpos"][:, 1].copy(),
            "distance_from_origin": norm(data["qpos"][:, :2]),
        }

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All but x and y, which nothing depends on."""
        if (obs := terms.get("v5")) is None:
            return None
        n = self.model.nq - 2
        return logged_state(self.model, obs[:, :n], obs[:, n : n + self.model.nv], skip=2)


def contact_forces(data: Mapping[str, Array]) -> Array:
    """(B, nbody, 6), clipped to ±1 as observed and as punished."""
    return np.clip(data["cfrc_ext"], -1, 1)
