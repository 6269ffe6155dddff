"""Alignment in a recipe: the policy sees estimates of its own observation, made by an encoder that
is alike on simulated observations and on those of the target."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import nn

from sim2real import progress
from sim2real.bridges.align.adversarial import Dann, align
from sim2real.bridges.align.estimator import spread
from sim2real.bridges.align.gather import gather, wandering
from sim2real.policy.estimator import Estimator
from sim2real.policy.normalizer import Normalizer
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError

LOST = 0.5
"""An estimate whose error is above this share of the value's standard deviation is warned of: a
quarter of its variance is lost."""

log = logging.getLogger(__name__)


def aligned_estimator(
    config: Dann,
    source: Worlds,
    target: Worlds,
    *,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> tuple[Estimator, dict[str, Array]]:
    """An estimator of the observation itself, from what the target's sensors tell, and the history
    of its training as `Aligned.history` has it.

    The same random walk of commands drives both; of the target nothing but observations is used.

    Args:
        source, target: observe the same terms; each is driven for `config.observations` steps.

    Raises:
        InputError: they observe different terms, or a value is not finite.

    Warns, in the log of the program, where the worst term's error on simulated observations that
    were not learned from exceeds `LOST` of its standard deviation.
    """
    names = [t.name for t in source.terms]
    if names != [t.name for t in target.terms]:
        raise InputError("align: source and target must observe the same terms")
    told = gather(source, wandering(source, seed=seed), _each(config, source), labels=names)
    theirs = gather(target, wandering(target, seed=seed + 1), _each(config, target), labels=names)
    aligned = align(told.obs, told.labels, theirs.obs, config, seed=seed, report=report)
    made = aligned.estimator
    judged = gather(source, wandering(source, seed=seed + 2), _each(config, source), labels=names)
    share = lost(made.predict(judged.obs), judged.labels)
    worst = int(share.argmax())
    if share[worst] > LOST:
        columns = [(t.name, i) for t in source.terms for i in range(t.size)]
        log.warning(
            "align: the estimate of '%s', column %d, errs by %.2f of its standard deviation on "
            "simulated observations, and above %g the policy sees little of it; take a smaller "
            "lam, more steps or observations, or a wider encoder",
            *columns[worst], share[worst], LOST,
        )  # fmt: skip
    layers = [*_layers(made.encoder), *_layers(made.head)]
    assert isinstance(made.scaling, Normalizer)
    estimator = Estimator(made.scaling, nn.Sequential(*layers), made.mean, made.std)
    return estimator, aligned.history


def lost(estimate: Array, true: Array) -> Array:
    """(N, O), (N, O) -> (O,) root mean square error as a share of the true values' standard
    deviation; of a constant value, in its unit."""
    return np.sqrt(np.square(estimate - true).mean(axis=0)) / spread(true)[1]


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
