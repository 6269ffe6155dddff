"""The steps that the classifiers learn from, and how the target's are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sim2real.bridges.correct.classifiers import LEAST, Transitions, check_finite, count, rows
from sim2real.types import Array, InputError


def sizes(env: VecEnv) -> tuple[int, int]:
    """(O, A) of an environment with flat observations and continuous actions.

    Raises:
        InputError: it is none.
    """
    observation, action = env.observation_space, env.action_space
    if not isinstance(observation, spaces.Box) or len(observation.shape) != 1:
        raise InputError(f"correct: darc needs flat observations (O,), not {observation}")
    if not isinstance(action, spaces.Box) or len(action.shape) != 1:
        raise InputError(f"correct: darc needs continuous actions (A,), not {action}")
    return observation.shape[0], action.shape[0]


def scaled(action: Array, space: spaces.Box) -> Array:
    """Actions (..., A) of the environment in [-1, 1]: the unit of Stable-Baselines3's replay
    buffers, and so of both domains. Left in two units, they would tell the domains apart."""
    return 2.0 * (action - space.low) / (space.high - space.low) - 1.0


def pick(
    arrays: tuple[Array, ...], filled: int, n: int, rng: np.random.Generator,
    held_out: bool | None,
) -> Transitions:  # fmt: skip
    """n transitions, drawn with replacement from the first `filled` rows of arrays (T, B, ...).

    Args:
        held_out: from the rows that are held out, from the others, or from all (None).
    """
    total = filled if held_out is None else count(filled, held_out=held_out)
    row = rng.integers(total, size=n)
    if held_out is not None:
        row = rows(row, held_out=held_out)
    world = rng.integers(arrays[0].shape[1], size=n)
    return Transitions(*(x[row, world] for x in arrays))


class Memory:
    """The last `capacity` control steps of B worlds, raw; the oldest are overwritten. It takes up
    room as it fills."""

    def __init__(
        self, worlds: int, obs_size: int, action_size: int, capacity: int = 1_000_000
    ) -> None:
        self._rows = max(1, -(-capacity // worlds))
        self._arrays = tuple(
            np.zeros((min(self._rows, 256), worlds, size))
            for size in (obs_size, action_size, obs_size)
        )
        self._added = 0

    @property
    def filled(self) -> int:
        """Rows, each of one control step in all worlds."""
        return min(self._added, len(self._arrays[0]))

    @property
    def worlds(self) -> int:
        return self._arrays[0].shape[1]

    def add(self, t: Transitions) -> None:
        """One control step of all worlds: (B, O), (B, A), (B, O)."""
        if self._added == len(self._arrays[0]) < self._rows:
            more = min(self._added, self._rows - self._added)
            self._arrays = tuple(np.pad(x, ((0, more), (0, 0), (0, 0))) for x in self._arrays)
        at = self._added % len(self._arrays[0])
        for x, new in zip(self._arrays, t, strict=True):
            x[at] = new
        self._added += 1

    def raw_sample(
        self, n: int, rng: np.random.Generator, *, held_out: bool | None = None
    ) -> Transitions:
        """n transitions, drawn with replacement."""
        return pick(self._arrays, self.filled, n, rng, held_out)

    def all(self) -> Transitions:
        """Everything, flat: (N, O), (N, A), (N, O)."""
        return Transitions(*(x[: self.filled].reshape(-1, x.shape[2]) for x in self._arrays))

    def restore(self, t: Transitions) -> None:
        """Takes what `all` gave, of as many worlds."""
        B = self.worlds
        for row in range(len(t.obs) // B):
            self.add(Transitions(*(x[row * B : (row + 1) * B] for x in t)))


def ends(next_obs: Array, done: Array, infos: list[dict[str, Any]]) -> Array:
    """s' (B, O): where an episode ended its true last observation, not the first of the next."""
    result = np.array(next_obs, float)
    for i in np.flatnonzero(done):
        result[i] = infos[i]["terminal_observation"]
    return result


class TargetSteps:
    """Steps in the target, counted exactly. Their rewards are never looked at.

    Args:
        env: the target, with the observations that the source has; not normalised.
        seed: of the random actions.

    Raises:
        InputError: it is normalised, or its observations or actions do not suit the classifiers.
    """

    def __init__(self, env: VecEnv, seed: int = 0) -> None:
        if unwrap_vec_normalize(env) is not None:
            raise InputError(
                "correct: the target must come without VecNormalize; the policy sees it with the "
                "statistics of the source"
            )
        self.env = env
        self.obs_size, self.action_size = sizes(env)
        self.memory = Memory(env.num_envs, self.obs_size, self.action_size)
        self.count = 0
        """Steps so far, over all worlds of the target."""
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
        self._obs: Array | None = None

    def suits(self, source: VecEnv) -> None:
        """Raises InputError where source and target differ in what is seen or commanded."""
        if sizes(source) != (self.obs_size, self.action_size):
            raise InputError(
                f"correct: source (O, A) = {sizes(source)}, target "
                f"{(self.obs_size, self.action_size)}; both must see and command the same"
            )
        ours, theirs = self.env.action_space, source.action_space
        assert isinstance(ours, spaces.Box)
        assert isinstance(theirs, spaces.Box)
        if not (np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)):
            raise InputError(
                f"correct: actions lie in {theirs} in the source and in {ours} in the target; "
                "both must take the same commands"
            )

    def explore(self, until: int) -> None:
        """Uniform random actions, until `until` steps have been taken in all."""
        box = self.env.action_space
        assert isinstance(box, spaces.Box)
        while self.count + self.env.num_envs <= until:
            shape = (self.env.num_envs, self.action_size)
            self._step(self._rng.uniform(box.low, box.high, shape).astype(np.float32))

    def follow(self, model: BaseAlgorithm, until: int) -> None:
        """Actions drawn from the current policy, until `until` steps have been taken in all."""
        normalize = model.get_vec_normalize_env()
        while self.count + self.env.num_envs <= until:
            obs = self._observation()
            seen = obs if normalize is None else normalize.normalize_obs(obs)
            action, _ = model.policy.predict(seen, deterministic=False)
            self._step(action)

    def _observation(self) -> Array:
        if self._obs is None:
            obs = self.env.reset()
            assert isinstance(obs, np.ndarray)
            self._obs = obs
        return self._obs

    def _step(self, action: Array) -> None:
        box = self.env.action_space
        assert isinstance(box, spaces.Box)
        obs = self._observation()
        after, _, done, infos = self.env.step(action)
        assert isinstance(after, np.ndarray)
        step = Transitions(obs, scaled(action, box), ends(after, done, infos))
        if not all(np.isfinite(x).all() for x in step):
            check_finite(step, "target")
        self.memory.add(step)
        self._obs = after
        self.count += self.env.num_envs


def reward_unit(normalize: VecNormalize | None) -> float:
    """What one unit of raw reward is divided by before the learner sees it."""
    if normalize is None or not normalize.norm_reward:
        return 1.0
    return float(np.sqrt(normalize.ret_rms.var + normalize.epsilon))


def enough(initial: int) -> None:
    """Raises InputError where so many first target steps are too few for the classifiers."""
    if initial < LEAST:
        raise InputError(
            f"correct: {initial} target steps before learning; the classifiers need at least "
            f"{LEAST}, so raise target_steps or initial"
        )
