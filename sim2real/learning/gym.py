"""One world as a Gymnasium environment, and the ids `sim2real/<env>` for `gymnasium.make`.

    import gymnasium, sim2real
    gymnasium.register_envs(sim2real.gym)
    env = gymnasium.make("sim2real/hopper", gap="worn")

The ids are registered when this module is imported.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from sim2real import content
from sim2real.simulation.camera import Camera
from sim2real.simulation.gymnasium_worlds import GymnasiumWorlds
from sim2real.simulation.make import AnyWorlds
from sim2real.types import Array, InputError


class WorldEnv(gymnasium.Env[Any, Array]):
    """One world. In the nominal world, without a gap and with the `-v5` observation, it is
    Gymnasium's environment of that name, seed for seed and bit for bit: dictionary observations
    and the rewards of other goals included, where that environment has them."""

    def __init__(
        self, worlds: AnyWorlds, xi: Array | None = None, render_mode: str | None = None
    ) -> None:
        self.worlds, self._xi = worlds, xi
        self._parts = {t.name: t.size for t in worlds.terms} if worlds.dictionary else None
        self.observation_space = (
            _box(worlds.obs_size)
            if self._parts is None
            else spaces.Dict([(name, _box(size)) for name, size in self._parts.items()])
        )
        self.action_space = spaces.Box(worlds.action_low, worlds.action_high, dtype=np.float32)
        self.render_mode = render_mode
        self.metadata = {
            "render_modes": ["rgb_array"],
            "render_fps": round(1 / worlds.control_period),
        }
        self._camera: Camera | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.worlds.seed(seed)
        obs = self.worlds.reset(xi=self._xi)
        return self._told(obs[0]), _row(self.worlds.reset_info())

    def step(self, action: Array) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        step = self.worlds.advance(np.asarray(action)[None])
        return (
            self._told(step.obs[0]),
            float(step.reward[0]),
            bool(step.terminated[0]),
            bool(step.truncated[0]),
            _row(step.info),
        )

    def compute_reward(self, achieved_goal: Array, desired_goal: Array, info: Any) -> Array:
        """(n,) rewards for goals (n, G). Raises InputError where the environment has none."""
        if not isinstance(self.worlds, GymnasiumWorlds):
            raise InputError(f"{self.worlds.robot.name} is no goal environment")
        return self.worlds.compute_reward(achieved_goal, desired_goal, info)

    def _told(self, obs: Array) -> Any:
        if self._parts is None:
            return obs
        ends = np.cumsum(list(self._parts.values()))[:-1]
        return dict(zip(self._parts, np.split(obs, ends), strict=True))

    def render(self) -> Any:
        """(240, 320, 3) uint8; None without a render_mode. Raises RenderingMissing where no
        picture can be drawn."""
        if self.render_mode is None:
            return None
        if self._camera is None:
            self._camera = Camera(self.worlds.model)
        return self._camera.draw(self.worlds.data["qpos"][0])

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()
            self._camera = None


def _box(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float64)


def _row(columns: dict[str, Array]) -> dict[str, Any]:
    return {name: column[0] for name, column in columns.items()}


def register() -> None:
    """Registers `sim2real/<env>` for every shipped env folder. Called by
    `gymnasium.register_envs(sim2real.gym)`, which imports this module; repeating it is harmless."""
    for name in content.env_names():
        id = f"sim2real/{name}"
        if id not in gymnasium.registry:
            gymnasium.register(id, entry_point="sim2real.make:make_env", kwargs={"env": name},
                               disable_env_checker=True)  # fmt: skip


register()
