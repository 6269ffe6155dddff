"""PEARL (Rakelly, Zhou and others 2019): a posterior over what a task is like, and SAC that acts on
a draw of it for a whole episode.

    q(z | c) = Π_n N(μ(c_n), σ²(c_n))              c_n = (o, a, r, o')
    critics   (Q_j(o, a, z) - [k r + γ (1 - d) V'(o', sg z)])²       reaches the encoder
    value     (V(o, sg z) - min_j Q_j(o, ã, sg z) + log π(ã | o, sg z))²
    actor     log π(ã | o, sg z) - min_j Q_j(o, ã, sg z)
    encoder   what the critics say, and w KL(q(z | c), N(0, 1))

The order of transitions does not matter, so a posterior can be added to as they come. Here tasks
differ in their dynamics, so what came next is part of a transition.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sim2real.bridges.adapt.inference.belief import divergence
from sim2real.policy.networks import mlp
from sim2real.types import InputError

SHARPEST, VAGUEST = -10.0, 10.0
"""Logarithms of the variances of a factor."""
LOG_STD = (-20.0, 2.0)
"""Of an action's noise, before tanh (Haarnoja and others 2018)."""


@dataclass(frozen=True)
class PearlSettings:
    """Of the learner; the defaults are those of the authors' code (katerakelly/oyster)."""

    latent: int = 5
    """L, of z."""
    reward: bool = True
    """Whether what a transition's reward showed is in the context; false where the target measures
    none."""
    reward_scale: float = 5.0
    """k"""
    kl: float = 0.1
    """w"""
    gamma: float = 0.99
    tau: float = 0.005
    """Share by which the target follows V in an update."""
    rate: float = 3e-4
    network: tuple[int, ...] = (300, 300, 300)
    encoder: tuple[int, ...] = (200, 200, 200)

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise InputError(f"latent is {self.latent}; it must be at least 1")


class Transitions(NamedTuple):
    """(N, n, ...) of N tasks."""

    obs: Tensor
    """(N, n, O)"""
    action: Tensor
    """(N, n, A) in [-1, 1]"""
    reward: Tensor
    """(N, n) what SAC learns from."""
    next_obs: Tensor
    """(N, n, O)"""
    done: Tensor
    """(N, n) bool, nothing came after."""
    shown: Tensor
    """(N, n) the reward that the target shows, which the context holds: the same, or sparse where
    that would teach nothing (section 6.3 of the paper)."""


class Losses(NamedTuple):
    critic: Tensor
    value: Tensor
    actor: Tensor
    kl: Tensor


def product(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """(..., L) mean and logarithm of the variance of the product of normal factors (..., n, L),
    normalised: one factor gives itself, there is none of a prior."""
    precision = (-log_var).exp()
    total = precision.sum(dim=-2)
    return (precision * mean).sum(dim=-2) / total, -total.log()


class Pearl(nn.Module):
    """Encoder, actor, two critics and a value.

    Args:
        obs_size, actions: O, A.
    """

    def __init__(
        self, obs_size: int, actions: int, settings: PearlSettings, *, seed: int = 0
    ) -> None:
        super().__init__()
        if min(obs_size, actions) < 1:
            raise InputError(f"obs_size {obs_size}, actions {actions}: each at least 1")
        torch.manual_seed(seed)
        self.settings, self.actions = settings, actions
        L, size = settings.latent, settings.network
        context = 2 * obs_size + actions + int(settings.reward)
        self.encoder = mlp([context, *settings.encoder, 2 * L], "relu")
        self.actor = mlp([obs_size + L, *size, 2 * actions], "relu")
        self.critics = nn.ModuleList(
            mlp([obs_size + actions + L, *size, 1], "relu") for _ in range(2)
        )
        self.value = mlp([obs_size + L, *size, 1], "relu")
        self.target = copy.deepcopy(self.value).requires_grad_(False)
        self.optimizers = {
            "critic": self._adam([self.critics, self.encoder]),
            "value": self._adam([self.value]),
            "actor": self._adam([self.actor]),
        }

    def _adam(self, modules: Sequence[nn.Module]) -> torch.optim.Adam:
        return torch.optim.Adam([p for m in modules for p in m.parameters()], self.settings.rate)

    def posterior(self, context: Transitions) -> tuple[Tensor, Tensor]:
        """(N, L) mean and logarithm of the variance; without a transition those of the prior."""
        N, n = context.shown.shape
        if not n:
            prior = context.obs.new_zeros(N, self.settings.latent)
            return prior, prior
        reward = [context.shown[..., None]] if self.settings.reward else []
        parts = [context.obs, context.action, *reward, context.next_obs]
        mean, log_var = self.encoder(torch.cat(parts, dim=-1)).chunk(2, dim=-1)
        return product(mean, log_var.clamp(SHARPEST, VAGUEST))

    def act(
        self, obs: Tensor, z: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Actions (..., A) in [-1, 1] and their log π (...): drawn with a generator, else those of
        the mean."""
        mean, log_std = self.actor(torch.cat([obs, z], dim=-1)).chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD)
        noise = torch.zeros_like(mean)
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator)
        raw = mean + log_std.exp() * noise
        log_prob = -(0.5 * noise.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)
        squash = 2 * (math.log(2) - raw - nn.functional.softplus(-2 * raw))  # log(1 - tanh²)
        return raw.tanh(), log_prob - squash.sum(dim=-1)

    def losses(
        self, context: Transitions, batch: Transitions, generator: torch.Generator
    ) -> Losses:
        """Of N tasks: `context` is what the posterior is of, `batch` what SAC learns from. They are
        not the same transitions: at test time the posterior sees recent ones alone."""
        how = self.settings
        mean, log_var = self.posterior(context)
        noise = torch.randn(mean.shape, generator=generator)
        drawn = mean + (log_var / 2).exp() * noise
        z = drawn[:, None].expand(-1, batch.reward.shape[1], -1)
        still = z.detach()
        with torch.no_grad():
            after = self.target(torch.cat([batch.next_obs, still], dim=-1))[..., 0]
            wanted = how.reward_scale * batch.reward + how.gamma * ~batch.done * after
        given = torch.cat([batch.obs, batch.action, z], dim=-1)
        critic = sum(
            ((q(given)[..., 0] - wanted).square().mean() for q in self.critics),
            start=torch.zeros(()),
        )
        action, log_prob = self.act(batch.obs, still, generator)
        tried = torch.cat([batch.obs, action, still], dim=-1)
        best = torch.minimum(*(q(tried)[..., 0] for q in self.critics))
        told = self.value(torch.cat([batch.obs, still], dim=-1))[..., 0]
        value = (told - (best - log_prob).detach()).square().mean()
        actor = (log_prob - best).mean()
        zero = torch.zeros_like(mean)
        return Losses(critic, value, actor, divergence(mean, log_var, zero, zero).sum())

    def update(
        self, context: Transitions, batch: Transitions, generator: torch.Generator
    ) -> Losses:
        """One step of all: the encoder learns from the critics and the divergence alone."""
        losses = self.losses(context, batch, generator)
        actor, critic, value = (self.optimizers[n] for n in ("actor", "critic", "value"))
        actor.zero_grad(set_to_none=True)
        losses.actor.backward(retain_graph=True)
        actor.step()
        critic.zero_grad(set_to_none=True)  # what the actor's loss left in the critics goes
        (losses.critic + self.settings.kl * losses.kl).backward()
        critic.step()
        value.zero_grad(set_to_none=True)
        losses.value.backward()
        value.step()
        with torch.no_grad():
            for old, new in zip(self.target.parameters(), self.value.parameters(), strict=True):
                old.lerp_(new, self.settings.tau)
        return Losses(*(x.detach() for x in losses))
