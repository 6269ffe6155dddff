"""ProMP (Rothfuss and others 2019): a start from which one policy gradient step on a new task goes
far.

    φ_i(θ) = θ + α ∇ J^LVC_i(θ)              from episodes of π_θ
    maximise  Σ_i J^CLIP_i(φ_i(θ)) - η KL(π_θold, π_θ)       from episodes of π_φ_i

Both are ratios to the policy that acted, so several steps can be taken on the same episodes, φ
computed anew in each. With `first_order` the inner step is a constant to the outer gradient
(first-order MAML), with no inner step it is plain training on all tasks at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sim2real.bridges.adapt.gradient.inner_loop import Loss, Params, inner_loop
from sim2real.bridges.adapt.gradient.policy_gradient import (
    Episodes,
    advantages,
    log_prob,
    log_std,
    mean,
)
from sim2real.bridges.adapt.gradient.surrogate import lvc
from sim2real.types import InputError

Act = Callable[[Tensor], Tensor]
"""(N, E, O) -> (N, E, A), drawn."""


class Tasks(Protocol):
    """N tasks of a distribution, in which E episodes run side by side."""

    def episodes(self, act: Act) -> Episodes:
        """(N, E, T, ...) of a policy."""
        ...


@dataclass(frozen=True)
class ProMPSettings:
    """Of the learner."""

    rate: float = 0.1
    """α"""
    steps: int = 1
    """Inner steps."""
    first_order: bool = False
    outer_steps: int = 5
    """Of Adam, on the same episodes."""
    outer_rate: float = 1e-3
    clip: float = 0.3
    kl: float = 5e-4
    """η"""
    gamma: float = 0.99
    gae_lambda: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"steps is {self.steps}; it must be 0 or more")
        if self.outer_steps < 1:
            raise InputError(f"outer_steps is {self.outer_steps}; it must be at least 1")


class Stage(NamedTuple):
    """Episodes of N tasks and what is learned from them."""

    episodes: Episodes
    advantage: Tensor
    """(N, E, T)"""
    acted: Tensor
    """(N, E, T) log π of the policy that acted."""


class ProMP:
    """Learns a start, in place, from tasks that are drawn anew in every iteration.

    Args:
        inner: the loss of an inner step, of a Stage: minus the surrogate of the reward, or one that
            knows of none (`prediction.py`).
    """

    def __init__(
        self, params: Params, settings: ProMPSettings, *, seed: int = 0, inner: Loss | None = None
    ) -> None:
        self.inner = inner_loss if inner is None else inner
        self.params = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
        self.settings = settings
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(list(self.params.values()), settings.outer_rate)

    def iterate(self, tasks: Tasks) -> list[float]:
        """Adapts on these tasks and moves the start; mean returns before every inner step and
        after the last."""
        how, stages = self.settings, list[Stage]()
        start = {name: p.detach() for name, p in self.params.items()}
        for _ in range(how.steps + 1):
            params = self.adapted(start, stages, len(stages))
            stages.append(self.stage(tasks, params))
        before = stages[0].episodes.obs
        old_mean, old_log = mean(start, before), log_std(start)
        for _ in range(how.outer_steps):
            self.optimizer.zero_grad()
            phi = self.adapted(self.params, stages, how.steps)
            last = stages[-1]
            ratio = (_task_log_prob(phi, last.episodes) - last.acted).exp()
            bounded = ratio.clamp(1 - how.clip, 1 + how.clip)
            gain = torch.minimum(ratio * last.advantage, bounded * last.advantage)
            apart = divergence(old_mean, old_log, mean(self.params, before), log_std(self.params))
            loss = -_over_steps(gain, last.episodes) + how.kl * _over_steps(
                apart, stages[0].episodes
            )
            loss.backward()
            self.optimizer.step()
        return [float(_over_episodes(stage.episodes)) for stage in stages]

    @torch.no_grad()
    def stage(self, tasks: Tasks, params: Params) -> Stage:
        """Episodes of policies (N, ...), or of one for all."""

        def act(obs: Tensor) -> Tensor:
            chosen = mean(params, obs)
            noise = torch.randn(chosen.shape, generator=self.generator, dtype=chosen.dtype)
            return chosen + log_std(params).exp() * noise

        episodes = tasks.episodes(act)
        how = self.settings
        advantage = advantages(episodes, how.gamma, how.gae_lambda)
        return Stage(episodes, advantage, _task_log_prob(params, episodes))

    def adapted(self, params: Params, stages: list[Stage], steps: int) -> dict[str, Tensor]:
        """(N, ...) φ after inner steps on stages; θ itself without one."""
        if not steps:
            return dict(params)
        how = self.settings

        def one(data: Any) -> dict[str, Tensor]:
            return inner_loop(params, self.inner, data, how.rate, first_order=how.first_order)

        batches = [tuple(stage) for stage in stages[:steps]]
        return torch.func.vmap(one)(batches)


def inner_loss(params: Params, stage: Any) -> Tensor:
    """() minus the low-variance-curvature surrogate of one task, per step."""
    episodes, advantage, acted = stage
    episodes = Episodes(*episodes)
    each = lvc(log_prob(params, episodes.obs, episodes.action), advantage, acted)
    return each.sum() / episodes.alive.sum()


def divergence(mean: Tensor, log_std: Tensor, new_mean: Tensor, new_log_std: Tensor) -> Tensor:
    """(...) KL of an old normal policy from a new one, summed over the action's axes."""
    var, new_var = (2 * log_std).exp(), (2 * new_log_std).exp()
    apart = (var + (mean - new_mean).square()) / (2 * new_var)
    return (new_log_std - log_std + apart - 0.5).sum(dim=-1)


def _task_log_prob(params: Params, episodes: Episodes) -> Tensor:
    """(N, E, T), of one policy for all or of one for each task."""
    N, E, T = episodes.reward.shape
    flat = (x.reshape(N, E * T, -1) for x in (episodes.obs, episodes.action))
    return log_prob(params, *flat).reshape(N, E, T)


def _over_steps(values: Tensor, episodes: Episodes) -> Tensor:
    """() mean over tasks of the mean over the steps that were taken."""
    alive = episodes.alive
    return ((values * alive).sum(dim=(1, 2)) / alive.sum(dim=(1, 2))).mean()


def _over_episodes(episodes: Episodes) -> Tensor:
    return (episodes.reward * episodes.alive).sum(dim=2).mean()
