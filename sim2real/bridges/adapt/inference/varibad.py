"""VariBAD (Zintgraf and others 2020): a belief that must explain a whole trial, past and future.

Nobody says what m is: at every step t it is what tells best which observations and rewards the
trial has, those that have not come yet too,

    ELBO_t = E_{m ~ q_t} [ Σ_k log p(o_{k+1}, r_k | o_k, a_k, m) ] - w KL(q_t | q_{t-1})

with q_{-1} = N(0, 1) where a trial begins, and a decoder p that is normal and needed in training
alone. Here robots differ in their dynamics, so it is the observations that tell: decoders of the
reward alone leave the belief where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sim2real.bridges.adapt.inference.belief import BeliefActorCritic, divergence
from sim2real.bridges.adapt.memory.network import Remembering, Steps
from sim2real.bridges.adapt.memory.remember import OverTrials
from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.policy.networks import mlp
from sim2real.types import InputError


@dataclass(frozen=True)
class Varibad(OverTrials):
    """`adapt: {method: varibad}`"""

    method: Literal["varibad"] = "varibad"
    latent: int = 8
    """L, of m."""
    kl: float = 0.1
    """w"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latent < 1:
            raise InputError(f"latent is {self.latent}; it must be at least 1")
        if self.kl < 0:
            raise InputError(f"kl is {self.kl}; it must be 0 or more")


class Decoding(BeliefActorCritic):
    """Believes what tells the observations, the first `observed` values of x, and rewards.

    Args:
        observed: O; the last value of x says whether an episode begins.
        decoder: widths of the hidden layers of p.
        encoded, decoded: steps of every world at which m is drawn, and those that it is held
            against, drawn anew in every update; None: all of them.
        weights: of the errors of observation and reward.
    """

    def __init__(
        self, memory: Remembering, actions: Actions, *, latent: int, observed: int,
        kl: float = 0.1, decoder: Sequence[int] = (64, 64), encoded: int | None = 16,
        decoded: int | None = 16, weights: tuple[float, float] = (1.0, 1.0), critic: int = 0,
        network: Sequence[int] = (), activation: str = "tanh", log_std: float = -0.5,
    ) -> None:  # fmt: skip
        super().__init__(
            memory, actions, latent=latent, critic=critic, network=network,
            activation=activation, log_std=log_std,
        )  # fmt: skip
        self.observed, self.kl, self.weights = observed, kl, weights
        self.encoded, self.decoded = encoded, decoded
        given = observed + actions.size + latent
        self.decoder = mlp([given, *decoder, observed + 1], "relu")

    def extra(self, h: Tensor, steps: Steps) -> Tensor:
        """-ELBO of a step of a trial, mean over steps, in nats without constants."""
        mean, log_var = self.belief(h)
        trial = steps.begin.cumsum(dim=0)  # (T, B) its number
        length = (trial[None] == trial[:, None]).sum(dim=0)
        apart = self.divergences(mean, log_var, steps.begin)
        return self.errors(mean, log_var, steps, trial) + self.kl * (apart / length).mean()

    def divergences(self, mean: Tensor, log_var: Tensor, begin: Tensor) -> Tensor:
        """(T, B) KL of every belief from the one before it, of the first in a trial from the prior;
        0 where a sequence begins inside a trial, whose belief before is not known."""
        prior = torch.zeros_like(mean[:1])
        before = [torch.cat([prior, q[:-1]]) for q in (mean, log_var)]
        before = [torch.where(begin[..., None], 0.0, q) for q in before]
        known = torch.cat([begin[:1], torch.ones_like(begin[1:])])
        return divergence(mean, log_var, *before) * known

    def errors(self, mean: Tensor, log_var: Tensor, steps: Steps, trial: Tensor) -> Tensor:
        """() half the squared error of what m tells of the steps of its trial, mean over them."""
        (T, B), O, A = trial.shape, self.observed, self.actions.size
        t, k = _drawn(self.encoded, T, B), _drawn(self.decoded, T - 1, B)
        m = mean + (log_var / 2).exp() * torch.randn_like(mean)
        obs, action = steps.x[..., :O], steps.x[1:, :, O : O + A]
        before = _at(torch.cat([obs[:-1], action], dim=-1), k)  # (k, B, O + A)
        after = _at(torch.cat([obs[1:], steps.reward[:-1, :, None]], dim=-1), k)
        told = _at(m, t)
        given = [before[None].expand(len(t), -1, -1, -1), told[:, None].expand(-1, len(k), -1, -1)]
        missed = (self.decoder(torch.cat(given, dim=-1)) - after).square()  # (t, k, B, O + 1)
        of_obs, of_reward = self.weights
        # what is seen after the last step of an episode is the next one's begin, which no step
        # led to; after that of a trial it is another robot's
        led = _at(steps.x[1:, :, -1:], k)[..., 0] < 0.5
        seen = of_obs * missed[..., :O].sum(dim=-1)
        each = 0.5 * (seen * led[None] + of_reward * missed[..., O])
        of_trial = torch.where(steps.begin[1:], -1, trial[:-1])
        same = trial.gather(0, t)[:, None] == of_trial.gather(0, k)[None]
        return (each * same).sum() / same.sum().clamp(min=1)


def _drawn(number: int | None, until: int, B: int) -> Tensor:
    """(n, B) steps of each of B worlds, drawn, or all."""
    if number is None or number >= until:
        return torch.arange(until)[:, None].expand(-1, B)
    return torch.randint(until, (number, B))


def _at(values: Tensor, steps: Tensor) -> Tensor:
    """(n, B, ...) of values (T, B, ...), at steps (n, B)."""
    return values.gather(0, steps[..., None].expand(-1, -1, values.shape[-1]))
