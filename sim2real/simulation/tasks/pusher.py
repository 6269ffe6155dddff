"""Push a cylinder to a goal with a seven-joint arm: Gymnasium's Pusher-v5."""

from __future__ import annotations

from collections.abc import Mapping

import mujoco
import numpy as np

from sim2real.simulation.tasks.base import Task, body_id, logged_state, norm, sum_of_squares
from sim2real.types import Array, LoggedState


class Pusher(Task):
    """qpos is seven joint angles [rad], then two slides [m] each of the object and of the goal."""

    fields = ("xpos",)
    episode_steps = 100

    def __init__(self, model: mujoco.MjModel):
        super().__init__(model)
        self.tip = body_id(model, "tips_arm")
        self.object = body_id(model, "object")
        self.goal = body_id(model, "goal")

    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        while True:
            cylinder = np.concatenate((rng.uniform(-0.3, 0, 1), rng.uniform(-0.2, 0.2, 1)))
            if np.linalg.norm(cylinder) > 0.17:
                break
        qpos = self.init_qpos.copy()
        qpos[-4:-2] = cylinder
        qpos[-2:] = 0
        qvel = self.init_qvel + rng.uniform(-0.005, 0.005, self.model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def observe(self, data: Mapping[str, Array]) -> Array:
        parts = (
            data["qpos"][:, :7],
            data["qvel"][:, :7],
            data["xpos"][:, self.tip],
            data["xpos"][:, self.object],
            data["xpos"][:, self.goal],
        )
        return np.concatenate(parts, axis=1)

    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        xpos = data["xpos"]
        near = -norm(xpos[:, self.object] - xpos[:, self.tip]) * 0.5
        distance = -norm(xpos[:, self.object] - xpos[:, self.goal])
        control = -sum_of_squares(action) * 0.1
        return distance + control + near, {
            "reward_dist": distance,
            "reward_ctrl": control,
            "reward_near": near,
        }

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """All but the velocities of object and goal; the object's position is a substep old."""
        if (obs := terms.get("v5")) is None:
            return None
        slides = [
            (obs[:, at] - self.model.body_pos[body]) @ self.model.jnt_axis[joints].T
            for at, body, joints in (
                (slice(17, 20), self.object, slice(7, 9)),
                (slice(20, 23), self.goal, slice(9, 11)),
            )
        ]
        return logged_state(self.model, np.hstack((obs[:, :7], *slides)), obs[:, 7:14])
