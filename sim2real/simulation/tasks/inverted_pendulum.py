"""Balance a pole on a cart: Gymnasium's InvertedPendulum-v5."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sim2real.simulation.tasks.base import Task, logged_state
from sim2real.types import Array, LoggedState


class InvertedPendulum(Task):
    """qpos is the cart's position [m] and the pole's angle [rad]."""

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        qpos = self.init_qpos + rng.uniform(-0.01, 0.01, self.model.nq)
        qvel = self.init_qvel + rng.uniform(-0.01, 0.01, self.model.nv)
        return qpos, qvel

    def observe(self, data: Mapping[str, Array]) -> Array:
        return np.concatenate((data["qpos"], data["qvel"]), axis=1)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        survive = 1.0 * ~self.terminated(data)
        return survive, {"reward_survive": survive}

    def terminated(self, data: Mapping[str, Array]) -> Array:
        finite = np.isfinite(self.observe(data)).all(axis=1)
        return ~finite | (np.abs(data["qpos"][:, 1]) > 0.2)

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All of it."""
        if (obs := terms.get("v5")) is None:
            return None
        return logged_state(self.model, obs[:, : self.model.nq], obs[:, self.model.nq :])
