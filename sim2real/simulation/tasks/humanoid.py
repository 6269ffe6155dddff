"""Walk forward upright: Gymnasium's Humanoid-v5, inertias and contact forces included."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim2real.simulation.tasks.base import Task, logged_state, norm, sum_of_squares
from sim2real.types import Array, LoggedState


class Humanoid(Task):
    """qpos is the torso's position [m] and quaternion, then the joints."""

    fields = (
        "body_mass",
        "xipos",
        "cinert",
        "cvel",
        "qfrc_actuator",
        "cfrc_ext",
        "ten_length",
        "ten_velocity",
    )

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = self.init_qpos + rng.uniform(-1e-2, 1e-2, self.model.nq)
        qvel = self.init_qvel + rng.uniform(-1e-2, 1e-2, self.model.nv)
        return qpos, qvel

    def observe(self, data: Mapping[str, Array]) -> Array:
        worlds = len(data["qpos"])
        parts = (
            data["qpos"][:, 2:],
            data["qvel"],
            data["cinert"][:, 1:].reshape(worlds, -1),  # without the world's body
            data["cvel"][:, 1:].reshape(worlds, -1),
            data["qfrc_actuator"][:, 6:],  # without the free joint
            data["cfrc_ext"][:, 1:].reshape(worlds, -1),
        )
        return np.concatenate(parts, axis=1)

    def before(self, data: Mapping[str, Array]) -> Array:
        return mass_center(data)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        x_velocity, y_velocity = ((mass_center(data) - before) / dt).T
        forward = 1.25 * x_velocity
        survive = 5.0 * ~self.terminated(data)
        control = 0.1 * sum_of_squares(action.astype(np.float64))  # MjData.ctrl is float64
        contact = np.minimum(5e-7 * sum_of_squares(data["cfrc_ext"]), 10.0)
        return forward + survive - (control + contact), {
            **self.reset_info(data),
            "x_velocity": x_velocity,
            "y_velocity": y_velocity,
            "reward_survive": survive,
            "reward_forward": forward,
            "reward_ctrl": -control,
            "reward_contact": -contact,
        }

    def terminated(self, data: Mapping[str, Array]) -> Array:
        z = data["qpos"][:, 2]
        return ~((z > 1.0) & (z < 2.0))

    def reset_info(self, data: Mapping[str, Array]) -> dict[str, Array]:
        return {
            "x_position": data["qpos"][:, 0].copy(),
            "y_position": data["qpos"][:, 1].copy(),
            "tendon_length": data["ten_length"].copy(),  # (B, tendons)
            "tendon_velocity": data["ten_velocity"].copy(),
            "distance_from_origin": norm(data["qpos"][:, :2]),
        }

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All but x and y, which nothing depends on."""
        if (obs := terms.get("v5")) is None:
            return None
        n = self.model.nq - 2
        return logged_state(self.model, obs[:, :n], obs[:, n : n + self.model.nv], skip=2)


def mass_center(data: Mapping[str, Array]) -> Array:
    """x and y of Σ m·c / Σ m, (B, 2) [m]; einsum, because another order of summing rounds else."""
    mass = np.ascontiguousarray(data["body_mass"])
    moment = np.einsum("nb,nbj->nj", mass, data["xipos"])
    return (moment / mass.sum(axis=1)[:, None])[:, :2]
