"""DARC for PPO: an environment whose rewards are corrected as they are given.

PPO learns from rewards once, in the order they came, so Δr is added step by step by the classifiers
of that moment, not when a batch is sampled.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sim2real.bridges.correct.classifiers import Transitions
from sim2real.bridges.correct.darc import Correction, DarcCallback, Remembered
from sim2real.bridges.correct.memory import Memory, ends, reward_unit, scaled, sizes
from sim2real.types import Array, InputError


class CorrectedReward(VecEnvWrapper):
    """scale · (r + weight · Δr(s, a, s')) instead of r.

    The outermost wrapper: outside VecNormalize, whose statistics then see raw rewards only, and
    whose unit Δr is given in; the classifiers see the raw observations inside it. Where an episode
    ends, s' is its true last observation. What a VecMonitor inside reports stays the raw return.

    Args:
        venv: the source.
        capacity: how many of its newest steps are kept for the classifiers.

    Raises:
        InputError: its observations or actions do not suit the classifiers.
    """

    def __init__(self, venv: VecEnv, capacity: int = 100_000) -> None:
        super().__init__(venv)
        obs_size, action_size = sizes(venv)
        self.memory = Memory(venv.num_envs, obs_size, action_size, capacity)
        self.correction: Correction | None = None
        """Set by `DarcForPPO`; without it rewards stay as they are."""
        self._normalize = unwrap_vec_normalize(venv)
        self._obs: Array = np.zeros((venv.num_envs, obs_size))
        self._action: Array = np.zeros((venv.num_envs, action_size))

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        self._obs = self._raw(obs)
        return obs

    def step_async(self, actions: Array) -> None:
        self._action = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, reward, done, infos = self.venv.step_wait()
        after = self._raw(obs)
        next_obs = ends(after, done, infos)
        if self._normalize is not None and done.any():
            next_obs[done] = self._normalize.unnormalize_obs(next_obs[done])
        assert isinstance(self.action_space, spaces.Box)
        step = Transitions(self._obs, scaled(self._action, self.action_space), next_obs)
        self.memory.add(step)
        self._obs = after
        if self.correction is not None:
            reward = self.correction.rewards(step, reward, reward_unit(self._normalize))
        return obs, reward, done, infos

    def _raw(self, obs: VecEnvObs) -> Array:
        raw = obs if self._normalize is None else self._normalize.get_original_obs()
        assert isinstance(raw, np.ndarray)
        return raw


class DarcForPPO(DarcCallback):
    """DARC for PPO, whose environment must be a `CorrectedReward`. As many updates of the
    classifiers per rollout as PPO makes gradient steps from it."""

    def _init_callback(self) -> None:
        super()._init_callback()
        env: VecEnv | None = self.training_env
        while env is not None and not isinstance(env, CorrectedReward):
            env = env.venv if isinstance(env, VecEnvWrapper) else None
        if env is None or not isinstance(self.model, PPO):
            raise InputError(
                "correct: darc for PPO needs an environment wrapped in CorrectedReward; SAC and "
                "TQC go with DarcForSAC"
            )
        env.correction = self.correction
        self._memory = env.memory

    def source(self) -> Remembered:
        return self._memory

    def updates(self, steps: int) -> int:
        model = self.model
        assert isinstance(model, PPO)
        return model.n_epochs * -(-steps // model.batch_size)
