"""Fine-tuning: a policy of maximum-entropy reinforcement learning goes on learning on the target.

Pretraining is what SAC (Haarnoja et al. 2018) and TQC (Kuznetsov et al. 2020) do in simulation;
their entropy makes the policy robust to small disturbances (Eysenbach and Levine 2022) and keeps
exploring afterwards. On the target, first the critic learns alone, for its values belong to the
source's dynamics and would pull the actor to anywhere; then actor and temperature do as well, from
target data alone or from batches that are half source (symmetric sampling, Ball et al. 2023).
Networks, temperature and optimizer states are carried over. Weights change, so the result is a new
artifact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sb3_contrib import TQC
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch.utils.hooks import RemovableHandle

from sim2real.types import InputError


@dataclass(frozen=True)
class FineTune:
    """How a policy goes on learning on the target."""

    steps: int
    """Control steps on the target, all of them: the first are the pretrained policy's own."""
    critic_only: float = 0.05
    """Share of the steps before actor and temperature begin to change."""
    source_share: float = 0.0
    """Share of each batch that comes from the source's replay buffer; 0.5 is symmetric sampling."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; it must be at least 1")
        for name in ("critic_only", "source_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}; it is a share, from 0 to below 1"
                )


class MixedReplayBuffer(ReplayBuffer):
    """Target transitions, sampled together with a declared share from a source buffer.

    `source` is read, never written; the share of a batch is exact, rounded to whole transitions.
    """

    def __init__(
        self, *args: Any, source: ReplayBuffer | None = None, source_share: float = 0.5, **kw: Any
    ) -> None:
        super().__init__(*args, **kw)
        self.source, self.source_share = source, source_share

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        n = 0 if self.source is None else round(self.source_share * batch_size)
        if n == 0 or self.source is None:
            return super().sample(batch_size, env)
        parts = (super().sample(batch_size - n, env), self.source.sample(n, env))
        fields = zip(*parts, strict=True)
        return ReplayBufferSamples(
            *(torch.cat(pair) if pair[0] is not None else None for pair in fields)  # type: ignore[arg-type]
        )


def fine_tune(
    model: SAC | TQC,
    target: VecEnv,
    config: FineTune,
    *,
    source: ReplayBuffer | None = None,
    callbacks: Sequence[BaseCallback] = (),
) -> None:
    """Continues `model`, a SAC or TQC, on `target` in place.

    The first action on the target is the pretrained policy's, not a random one, and learning begins
    with the first step: Stable-Baselines3's own `learn` would restart both (see its
    `reset_num_timesteps` and `learning_starts`).

    Args:
        target: shaped as the environment that the model learned in; a VecNormalize around it must
            carry that one's statistics.
        source: transitions of the source, needed where `source_share` is above 0. Rewards must be
            those of the target's scale.

    Raises:
        InputError: no source where one is needed, or other observations or actions.
    """
    if not isinstance(model, SAC | TQC):
        raise InputError(
            f"fine-tuning continues SAC or TQC, which keep their entropy up; this model is "
            f"{type(model).__name__}"
        )
    if config.source_share > 0 and source is None:
        raise InputError("source_share is above 0, and no source transitions were given")
    for name in ("observation_space", "action_space"):
        if getattr(target, name).shape != getattr(model, name).shape:
            raise InputError(
                f"the target's {name.replace('_', ' ')} has shape {getattr(target, name).shape}; "
                f"the model learned with {getattr(model, name).shape}"
            )
    model.set_env(target)
    model.replay_buffer = MixedReplayBuffer(
        max(config.steps, 1), model.observation_space, model.action_space, model.device,
        n_envs=target.num_envs, source=source, source_share=config.source_share,
    )  # fmt: skip
    model.learning_starts = model.num_timesteps
    first = _CriticFirst(round(config.critic_only * config.steps))
    try:
        model.learn(config.steps, callback=[first, *callbacks], reset_num_timesteps=False)
    finally:
        first.release()  # Ctrl-C as well leaves a model that learns


class _CriticFirst(BaseCallback):
    """Holds actor and temperature still for the first steps.

    Adam leaves alone what has no gradient. The actor's is never computed. The temperature's is
    dropped once it is: without `requires_grad` Stable-Baselines3's `backward` would fail, and
    without its optimizer a checkpoint of these steps would lack the temperature.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._steps, self._until = steps, 0
        self._still = False
        self._hook: RemovableHandle | None = None

    def _on_training_start(self) -> None:
        self._until = self.num_timesteps + self._steps
        if self._steps > 0:
            self._hold()

    def _on_step(self) -> bool:
        if self.num_timesteps > self._until:
            self.release()
        return True

    def _hold(self) -> None:
        model: Any = self.model
        self._still = True
        model.actor.requires_grad_(False)
        model.actor.optimizer.zero_grad(set_to_none=True)
        if model.log_ent_coef is not None:  # else α is fixed by `ent_coef`
            self._hook = model.log_ent_coef.register_post_accumulate_grad_hook(_drop)

    def release(self) -> None:
        """Lets both learn."""
        if not self._still:
            return
        model: Any = self.model
        self._still = False
        model.actor.requires_grad_(True)
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def _drop(parameter: torch.Tensor) -> None:
    parameter.grad = None


def temperature(model: SAC | TQC) -> float:
    """α, the weight of the entropy."""
    if model.log_ent_coef is None:
        return float(model.ent_coef_tensor)
    return float(np.exp(model.log_ent_coef.detach().item()))
