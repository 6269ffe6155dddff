"""Alignment in a recipe: the policy sees estimates of its own observation, made by an encoder that
is alike on simulated observations and on those of the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn

from sim2real import progress
from sim2real.bridges.align.adversarial import Dann, align
from sim2real.bridges.align.gather import gather, wandering
from sim2real.policy.estimator import Estimator
from sim2real.policy.normalizer import Normalizer
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError


def aligned_estimator(
    config: Dann,
    source: Worlds,
    target: Worlds,
    *,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Estimator:
    """An estimator of the observation itself, from what the target's sensors tell.

    The same random walk of commands drives both; of the target nothing but observations is used.

    Args:
        source, target: observe the same terms; each is driven for `config.observations` steps.

    Raises:
        InputError: they observe different terms, or a value is not finite.
    """
    names = [t.name for t in source.terms]
    if names != [t.name for t in target.terms]:
        raise InputError("align: source and target must observe the same terms")
    told = gather(source, wandering(source, seed=seed), _each(config, source), labels=names)
    theirs = gather(target, wandering(target, seed=seed + 1), _each(config, target), labels=names)
    made = align(told.obs, told.labels, theirs.obs, config, seed=seed, report=report).estimator
    layers = [*_layers(made.encoder), *_layers(made.head)]
    assert isinstance(made.scaling, Normalizer)
    return Estimator(made.scaling, nn.Sequential(*layers), made.mean, made.std)


def _each(config: Dann, worlds: Worlds) -> int:
    return max(1, config.observations // worlds.num_worlds)


def _layers(module: nn.Module) -> Sequence[nn.Module]:
    return list(module) if isinstance(module, nn.Sequential) else [module]


class Estimated(VecEnvWrapper):
    """Observations (B, O) as an estimator makes them of what the environment tells."""

    def __init__(self, venv: VecEnv, estimator: Estimator) -> None:
        super().__init__(venv)
        self._estimator = estimator

    def reset(self) -> VecEnvObs:
        return self._made(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        obs, reward, done, infos = self.venv.step_wait()
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = self._made(infos[i]["terminal_observation"])
        return self._made(obs), reward, done, infos

    @torch.no_grad()
    def _made(self, obs: VecEnvObs) -> Array:
        assert isinstance(obs, np.ndarray)
        return self._estimator(torch.as_tensor(obs, dtype=torch.float32)).double().numpy()
