"""Worlds as a Stable-Baselines3 VecEnv, and what a policy sees of them: history and context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sim2real.simulation.gymnasium_robot import GOAL
from sim2real.simulation.gymnasium_worlds import GymnasiumWorlds
from sim2real.simulation.make import AnyWorlds
from sim2real.simulation.terms import check_finite
from sim2real.types import Array, InputError


class WorldsVecEnv(VecEnv):
    """B worlds behind Stable-Baselines3's interface: the same observations, rewards, `infos`,
    `terminal_observation` and `TimeLimit.truncated` as its DummyVecEnv over Gymnasium."""

    def __init__(self, worlds: AnyWorlds) -> None:
        self.worlds = worlds
        observation = spaces.Box(-np.inf, np.inf, (worlds.obs_size,), np.float64)
        low, high = worlds.action_low, worlds.action_high
        self._action: Array = np.zeros((worlds.num_worlds, len(low)), np.float32)
        task = getattr(worlds, "task", None)
        self._watched = task is not None and bool(task.reward_terms)
        self._sums: dict[str, float] = {}
        self._steps = 0
        super().__init__(worlds.num_worlds, observation, spaces.Box(low, high, dtype=np.float32))

    def reset(self) -> Array:
        for i, seed in enumerate(self._seeds):
            if seed is not None:
                self.worlds.seed_world(i, seed)
        obs = self.worlds.reset()
        self._check_finite(obs)
        info = self.worlds.reset_info()
        self.reset_infos = _rows(info, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: Array) -> None:
        self._action = actions

    def step_wait(self) -> VecEnvStepReturn:
        step = self.worlds.step(self._action)
        done = step.terminated | step.truncated
        self._check_finite(step.obs, step.reward)
        timed_out = step.truncated & ~step.terminated
        infos = _rows({**step.info, "TimeLimit.truncated": timed_out}, self.num_envs)
        if self._watched:
            self._steps += 1
            for name, column in step.info.items():
                self._sums[name] = self._sums.get(name, 0.0) + float(column.mean())
        if done.any():
            ended = np.flatnonzero(done)
            self._check_finite(step.terminal_obs)
            fresh = {name: column[ended] for name, column in self.worlds.reset_info().items()}
            for i, info in zip(ended.tolist(), _rows(fresh, len(ended)), strict=True):
                infos[i]["terminal_observation"] = step.terminal_obs[i]
                self.reset_infos[i] = info
        return step.obs, step.reward.astype(np.float32), done, infos

    def figures(self) -> dict[str, float]:
        """What a task with weighted reward terms said of its steps since the last call: the mean of
        each figure, of a part of the reward weight times term, without the control period."""
        dt, n = self.worlds.control_period, max(self._steps, 1)
        told = {
            name: total / n / (dt if name.startswith("reward_") else 1.0)
            for name, total in self._sums.items()
        }
        self._sums, self._steps = {}, 0
        return told

    def _check_finite(self, obs: Array, reward: Array | None = None) -> None:
        check_finite(self.worlds.robot.name, self.worlds.terms, obs, reward)

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        value = None if attr_name == "render_mode" else getattr(self.worlds, attr_name)
        return [value] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError(f"worlds have no attribute '{attr_name}' that may be set from outside")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kw: Any) -> list[Any]:
        if method_name == "compute_reward" and isinstance(self.worlds, GymnasiumWorlds):
            reward = self.worlds.compute_reward(*args, **kw)  # one rule serves every world
            return [reward] * len(list(self._get_indices(indices)))
        raise AttributeError(f"worlds have no per-world method '{method_name}'")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def _rows(columns: dict[str, Array], n: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{} for _ in range(n)]
    for name, column in columns.items():
        for row, value in zip(rows, column.tolist() if column.ndim == 1 else column, strict=True):
            row[name] = value
    return rows


class Scaled(VecEnvWrapper):
    """Actions in [-1, 1] instead of commands in their unit: 0 is the middle of a command's range.
    Stable-Baselines3's Gaussian policies begin at 0 with a spread of 1, whatever the range."""

    def __init__(self, venv: VecEnv) -> None:
        space = venv.action_space
        assert isinstance(space, spaces.Box)
        self._scale, self._offset = scaling(space.low, space.high)
        unit = np.ones(space.shape, np.float32)
        super().__init__(venv, action_space=spaces.Box(-unit, unit, dtype=np.float32))

    def reset(self) -> VecEnvObs:
        return self.venv.reset()

    def step_async(self, actions: Array) -> None:
        self.venv.step_async((actions * self._scale + self._offset).astype(np.float32))

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()


def scaling(low: Array, high: Array) -> tuple[Array, Array]:
    """(A,), (A,) half the range of each command, and its middle."""
    return (high - low) / 2, (high + low) / 2


class History(VecEnvWrapper):
    """The last H observations, oldest first, flattened to (B, H·O); an episode starts with H
    copies of its first."""

    def __init__(self, venv: VecEnv, length: int) -> None:
        (O,) = venv.observation_space.shape or (0,)
        self._frames = np.zeros((venv.num_envs, length, O))
        space = spaces.Box(-np.inf, np.inf, (length * O,), np.float64)
        super().__init__(venv, observation_space=space)

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        assert isinstance(obs, np.ndarray)
        self._frames[:] = obs[:, None]
        return self._flat()

    def step_wait(self) -> VecEnvStepReturn:
        obs, reward, done, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        self._frames[:, :-1] = self._frames[:, 1:]
        for i in np.flatnonzero(done):
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = np.concatenate([*self._frames[i, :-1], last])
        self._frames[:, -1] = obs
        self._frames[done] = obs[done, None]
        return self._flat(), reward, done, infos

    def _flat(self) -> Array:
        return self._frames.reshape(self.num_envs, -1).copy()


Encode = Callable[[Array, np.random.Generator], Array]
"""(n, K) ξ of new episodes -> (n, K) what the policy is told of it."""


class Context(VecEnvWrapper):
    """Appends to the observation what the policy is told of ξ: (B, O) -> (B, O + K). It changes
    only where an episode begins."""

    def __init__(self, venv: VecEnv, worlds: AnyWorlds, encode: Encode, seed: int = 0) -> None:
        self._worlds, self._encode = worlds, encode
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 4]))
        self._context = np.zeros((worlds.num_worlds, worlds.space.K))
        (O,) = venv.observation_space.shape or (0,)
        space = spaces.Box(-np.inf, np.inf, (O + worlds.space.K,), np.float64)
        super().__init__(venv, observation_space=space)

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self._context = self._encode(self._worlds.xi, self._rng)
        assert isinstance(obs, np.ndarray)
        return np.concatenate([obs, self._context], axis=1)

    def step_wait(self) -> VecEnvStepReturn:
        obs, reward, done, infos = self.venv.step_wait()
        assert isinstance(obs, np.ndarray)
        for i in np.flatnonzero(done):
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = np.concatenate([last, self._context[i]])
        if done.any():
            self._context[done] = self._encode(self._worlds.xi[done], self._rng)
        return np.concatenate([obs, self._context], axis=1), reward, done, infos


class Parts(VecEnvWrapper):
    """The flat observation as a dictionary of its consecutive parts, by name and size: what the
    environment itself gives, or what a goal-conditioned learner needs (see `goal_parts`)."""

    def __init__(self, venv: VecEnv, sizes: Mapping[str, int]) -> None:
        self._names = tuple(sizes)
        self._ends = np.cumsum(list(sizes.values()))[:-1]
        boxes = {n: spaces.Box(-np.inf, np.inf, (size,), np.float64) for n, size in sizes.items()}
        super().__init__(venv, observation_space=spaces.Dict(list(boxes.items())))

    def reset(self) -> VecEnvObs:
        return self._split(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        obs, reward, done, infos = self.venv.step_wait()
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = self._split(infos[i]["terminal_observation"])
        return self._split(obs), reward, done, infos

    def _split(self, obs: Any) -> dict[str, Array]:
        return dict(zip(self._names, np.split(obs, self._ends, axis=-1), strict=True))


def goal_parts(worlds: AnyWorlds, venv: VecEnv) -> dict[str, int]:
    """Name -> size of the parts that hindsight experience replay works with: `achieved_goal`,
    `desired_goal`, and as `observation` whatever follows them in the observations of `venv`, which
    may have a context appended to those of `worlds`.

    Raises:
        InputError: no goal environment, or its observation does not begin with the two goals.
    """
    if not (isinstance(worlds, GymnasiumWorlds) and worlds.robot.interface.goals):
        raise InputError(f"learner: her needs a goal environment, and {worlds.robot.name} is none")
    names = [t.name for t in worlds.terms]
    if tuple(names[:2]) != GOAL or len(names) < 3:
        raise InputError(
            f"learner: her needs observations that begin with {', '.join(GOAL)} and go on after "
            f"them; observe gives {', '.join(names)}"
        )
    (size,) = venv.observation_space.shape or (0,)
    goal = worlds.terms[0].size
    return {GOAL[0]: goal, GOAL[1]: goal, "observation": size - 2 * goal}


def corrupted(low: Array, high: Array, error: float) -> Encode:
    """ξ plus a normal error whose standard deviation is `error` times each range: what an
    identification of that accuracy would tell the policy. Clipped to the range."""

    def encode(xi: Array, rng: np.random.Generator) -> Array:
        noise = rng.standard_normal(xi.shape) * error * (high - low)
        return np.clip(xi + noise, low, high)

    return encode
