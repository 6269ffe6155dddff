"""Stable-Baselines3's algorithms by name, and the policy inside a trained one."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import nn

from sim2real.policy.estimator import Estimator
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import PolicySpec
from sim2real.types import InputError, nearest

ALGORITHMS: dict[str, Any] = {"ppo": PPO, "sac": SAC, "tqc": TQC}

ELSEWHERE = {
    "policy": "'her' decides it", "env": "the recipe's env", "seed": "the recipe's seed",
    "learning_rate": "learner.learning_rate", "gamma": "learner.gamma",
    "policy_kwargs": "learner.network, activation and log_std_init", "device": "always the CPU",
    "verbose": "the progress bar", "_init_setup_model": "always true",
}  # fmt: skip
"""Arguments of the Stable-Baselines3 classes that are no settings, and where they are."""

KINDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text",
    type(None): "null",
}  # fmt: skip


@dataclass(frozen=True)
class Learner:
    """The standard learning, done by Stable-Baselines3."""

    algorithm: Literal["ppo", "sac", "tqc"] = "ppo"
    network: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers, for the actor and the critic each."""
    activation: Literal["tanh", "relu"] = "tanh"
    learning_rate: float = 3e-4
    final_learning_rate: float | None = None
    """If given, the learning rate falls to it linearly over the run."""
    gamma: float = 0.99
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    """Further arguments of the Stable-Baselines3 class, as they are."""
    log_std_init: float = 0.0
    """PPO: logarithm of the exploration noise at the start."""
    her: bool = False
    """Hindsight experience replay (Andrychowicz et al. 2017), for goal environments with SAC and
    TQC: the observation must begin with achieved_goal and desired_goal."""

    def __post_init__(self) -> None:
        if not self.network or min(self.network) < 1:
            raise InputError(f"network is {list(self.network)}; it lists widths of at least 1")
        for name in ("learning_rate", "final_learning_rate"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} is {value}; it must not be negative")
        if not 0 < self.gamma <= 1:
            raise InputError(f"gamma is {self.gamma}; it must lie in (0, 1]")
        _check_settings(self.algorithm, self.settings)


def _check_settings(algorithm: str, settings: Mapping[str, Any]) -> None:
    """Raises InputError for a setting that the algorithm does not have, or not of this type."""
    signature = inspect.signature(ALGORITHMS[algorithm]).parameters
    known = [name for name in signature if name not in ELSEWHERE]
    for name, value in settings.items():
        where = f"learner.settings.{name}"
        if name in ELSEWHERE:
            raise InputError(f"{where}: it is no setting; it is said by: {ELSEWHERE[name]}")
        if name not in known:
            raise InputError(
                f"{where}: {algorithm} has no such setting{nearest(name, known)}; settings belong "
                f"to the algorithm, and those of {algorithm} are {', '.join(known)}"
            )
        said = signature[name].annotation
        kinds = [k for k in get_args(said) or (said,) if "Callable" not in str(k)]
        if not all(k in KINDS for k in kinds):
            continue  # Stable-Baselines3 looks itself at what is not plain
        whole_is_number = float in kinds and type(value) is int
        if type(value) not in kinds and not whole_is_number:
            right = " or ".join(KINDS[k] for k in kinds)
            raise InputError(f"{where} is {value!r}; it must be {right}")


def build(
    learner: Learner,
    env: VecEnv,
    seed: int,
    kind: type[BaseAlgorithm] | None = None,
    more: Mapping[str, Any] | None = None,
) -> BaseAlgorithm:
    """The Stable-Baselines3 model that a recipe's `learner` describes.

    Args:
        kind: a bridge's own subclass of the algorithm.
        more: arguments that a bridge adds to the settings.

    Raises:
        InputError: settings that the algorithm does not take.
    """
    activation = {"tanh": nn.Tanh, "relu": nn.ReLU}[learner.activation]
    rate = learner.learning_rate
    schedule: Any = rate
    if learner.final_learning_rate is not None:
        schedule = partial(_descending, rate, learner.final_learning_rate)
    policy_kwargs: dict[str, Any] = {"activation_fn": activation, "net_arch": list(learner.network)}
    settings = {**learner.settings, **(more or {})}
    policy = "MlpPolicy"
    if learner.algorithm == "ppo":
        policy_kwargs["log_std_init"] = learner.log_std_init
    if learner.her:
        if learner.algorithm == "ppo":
            raise InputError("learner: her needs an off-policy algorithm; use sac or tqc")
        from stable_baselines3 import HerReplayBuffer

        policy = "MultiInputPolicy"
        settings["replay_buffer_class"] = HerReplayBuffer
    if learner.algorithm != "ppo":
        settings["learning_starts"] = warm_up(learner, env)
        # one kernel for all parameters: on small networks the calls cost more than the arithmetic
        policy_kwargs["optimizer_kwargs"] = {"fused": True}
    make: Any = kind or ALGORITHMS[learner.algorithm]
    try:
        return make(
            policy, env, learning_rate=schedule, gamma=learner.gamma, policy_kwargs=policy_kwargs,
            seed=seed, device="cpu", verbose=0, **settings,
        )  # fmt: skip
    except (TypeError, ValueError, AssertionError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"learner.settings: {learner.algorithm} says: {said}") from error


def _descending(first: float, last: float, left: float) -> float:
    """A learning rate, with this share of the training left."""
    return last + (first - last) * left


def warm_up(learner: Learner, env: VecEnv) -> int:
    """Control steps of SAC and TQC before learning begins. HER needs a whole episode first, and
    collects two of every world where settings do not say.

    Raises:
        InputError: settings say less than one episode.
    """
    given = learner.settings.get("learning_starts")
    if not learner.her:
        return 100 if given is None else given  # 100: Stable-Baselines3's own
    episode = env.num_envs * env.get_attr("robot", [0])[0].episode_steps
    if given is not None and given < episode:
        raise InputError(
            f"learner.settings.learning_starts is {given}; her begins after the first episode of "
            f"{env.num_envs} worlds, so give at least {episode}"
        )
    return 2 * episode if given is None else given


def to_policy(
    model: BaseAlgorithm,
    normalize: VecNormalize | None,
    spec: PolicySpec,
    estimator: Estimator | None = None,
) -> Policy:
    """The deterministic actor of a trained model with everything that was applied around it."""
    source: Any = model.policy
    if isinstance(model, PPO):
        layers = [*source.mlp_extractor.policy_net, source.action_net]
        log_std = source.log_std.detach().clone()
    else:
        layers = [*source.actor.latent_pi, source.actor.mu]
        log_std = None
    network = nn.Sequential(*layers)
    if normalize is None:
        O = layers[0].in_features
        normalizer = Normalizer(np.zeros(O), np.ones(O))
    else:
        mean, var = _statistics(normalize)
        normalizer = Normalizer(mean, var, eps=normalize.epsilon, clip=normalize.clip_obs)
    policy = Policy(spec, copy.deepcopy(network), normalizer, log_std, copy.deepcopy(estimator))
    policy.requires_grad_(False)
    return policy.to(torch.float32)


def _statistics(normalize: VecNormalize) -> tuple[np.ndarray, np.ndarray]:
    rms = normalize.obs_rms
    if isinstance(rms, dict):
        parts = [rms[key] for key in rms]
        return np.concatenate([p.mean for p in parts]), np.concatenate([p.var for p in parts])
    return rms.mean, rms.var
