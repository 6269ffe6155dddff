"""One world as a Gymnasium environment, and the ids `sim2real/<env>` for `gymnasium.make`.

import gymnasium, sim2real
gymnasium.register_envs(sim2real.gym)
env = gymnasium.make("sim2real/hopper", gap="worn")
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

from sim2real import content
from sim2real.simulation.gymnasium_worlds import GymnasiumWorlds
from sim2real.simulation.make import AnyWorlds
from sim2real.types import Array, InputError


class WorldEnv(gymnasium.Env[Any, Array]):
    """One world. In the nominal world, without a gap and with the `-v5` observation, it is
    Gymnasium's environment of that name, seed for seed and bit for bit: dictionary observations
    and the rewards of other goals included, where that environment has them."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 50}

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
        self.metadata = {**self.metadata, "render_fps": round(1 / worlds.control_period)}
        self._renderer: mujoco.Renderer | None = None

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
            self._told(step.obs[0]), float(step.reward[0]), bool(step.terminated[0]), bool(step.truncated[0]),
            _row(step.info),
        )  # fmt: skip

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
        if self.render_mode is None:
            return None
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.worlds.model, 240, 320)
        data = mujoco.MjData(self.worlds.model)
        data.qpos[:] = self.worlds.data["qpos"][0]
        mujoco.mj_forward(self.worlds.model, data)
        self._renderer.update_scene(data, camera=0 if self.worlds.model.ncam else -1)
        return self._renderer.render()

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


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
