"""PPO on whole sequences of trials, for policies that remember.

As Schulman and others 2017, but for what trials ask for: advantages go on over the end of an
episode inside a trial, and only the end of the trial cuts them; minibatches are whole sequences,
and back-propagation goes through all of one. Where a sequence begins inside a trial, z is what it
was when the data were gathered: exact in sequences that hold whole trials, a little old in others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sim2real import progress
from sim2real.bridges.adapt.memory.network import RecurrentActorCritic, Steps
from sim2real.bridges.adapt.memory.trials import Told, Trials
from sim2real.types import Array, InputError


@dataclass(frozen=True)
class PPOSettings:
    """Of the learner."""

    sequence: int = 128
    """T, steps of every world in an iteration; whole trials where these are as long."""
    epochs: int = 4
    minibatches: int = 4
    """Of whole sequences, in an epoch."""
    learning_rate: float = 1e-3
    """At first; falls linearly."""
    final_learning_rate: float | None = None
    """To which it falls; None: a tenth."""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    """Weight of the policy's entropy, at first; falls to nothing with the square of the rest."""
    value: float = 0.5
    """Weight of the value's squared error."""
    extra: float = 1.0
    """Weight of what the network learns besides."""
    max_grad_norm: float = 0.5
    centered: bool = False
    """Whether the mean over the worlds is taken from the advantages of every step: less noise where
    all trials are at the same step of theirs at the same time."""

    def __post_init__(self) -> None:
        for name in ("sequence", "epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")


class Figures(NamedTuple):
    """Of an iteration."""

    reward: float
    """Mean of a step."""
    entropy: float
    value_error: float
    clipped: float
    """Share of the steps whose ratio was clipped, in the last epoch."""
    extra: float
    """Of what the network learns besides."""


class _Batch(NamedTuple):
    """T steps of B worlds, and what came of them."""

    steps: Steps
    z: Tensor
    """(B, Z) before the first."""
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    returned: Tensor


def advantages(reward: Array, value: Array, over: Array, gamma: float, gae_lambda: float) -> Array:
    """(T, B) generalised advantage estimates (Schulman and others 2016) along trials.

    Args:
        reward: (T, B)
        value: (T + 1, B)
        over: (T, B) where a trial ended. The end of an episode inside one cuts nothing: what is
            found out in it is used in the next.
    """
    out, later = np.zeros_like(reward), np.zeros_like(reward[0])
    for t in reversed(range(len(reward))):
        goes_on = 1.0 - over[t]
        later = (
            reward[t] + gamma * goes_on * value[t + 1] - value[t]
            + gamma * gae_lambda * goes_on * later
        )  # fmt: skip
        out[t] = later
    return out


class RecurrentPPO:
    """Learns a policy that adapts while it acts.

    Args:
        told: what the network sees of a step.
        steps: that the whole training will take, for what falls along it.
    """

    def __init__(
        self, network: RecurrentActorCritic, trials: Trials, told: Told, settings: PPOSettings,
        *, steps: int, seed: int = 0,
    ) -> None:  # fmt: skip
        if settings.centered and trials.batch < 2:
            raise InputError("centered takes the mean over the worlds, and there is but one")
        if settings.minibatches > trials.batch:
            raise InputError(
                f"{settings.minibatches} minibatches of {trials.batch} worlds: a minibatch is of "
                "whole sequences, so there can be no more of them than worlds"
            )
        self.network, self.trials, self.told, self.settings = network, trials, told, settings
        self.steps, self.taken = steps, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(network.parameters(), settings.learning_rate, eps=1e-5)
        self.begin()

    def begin(self) -> None:
        """New trials in all worlds."""
        obs, B = self.trials.begin(), self.trials.batch
        self._x, self._s = self.told.first(obs), self.told.critic(obs)
        self._z, self._begin = self.network.initial(B), np.ones(B, bool)

    def learn(self, report: progress.Report = progress.silent) -> None:
        """Until `steps` are taken."""
        while self.taken < self.steps:
            figures = self.iterate()
            report(min(self.taken, self.steps), {"reward": figures.reward})

    def iterate(self) -> Figures:
        """Collects T steps of every world, and learns from them."""
        left = max(0.0, 1 - self.taken / self.steps)
        first, last = self.settings.learning_rate, self.settings.final_learning_rate
        last = first / 10 if last is None else last
        for group in self.optimizer.param_groups:
            group["lr"] = last + (first - last) * left
        self.trials.settle()
        batch, reward = self._collected()
        self.taken += batch.steps.begin.numel()
        return self._learned(batch, self.settings.entropy * left**2, reward)

    @torch.no_grad()
    def _collected(self) -> tuple[_Batch, float]:
        T, B = self.settings.sequence, self.trials.batch
        x, begin, over = np.zeros((T, B, self.told.size), np.float32), *np.zeros((2, T, B), bool)
        s = np.zeros((T, *self._s.shape), np.float32)
        reward, value = np.zeros((T, B)), np.zeros((T + 1, B))
        actions, log_probs, z = list[Tensor](), list[Tensor](), self._z.clone()
        for t in range(T):
            x[t], s[t], begin[t] = self._x, self._s, self._begin
            self._z[torch.as_tensor(self._begin)] = 0.0
            chosen, v, self._z = self.network.step(*self._seen(), self._z)
            action = self._drawn(chosen)
            actions.append(action)
            log_probs.append(chosen.log_prob(action))
            value[t] = v.numpy()
            outcome = self.trials.step(action.numpy())
            reward[t], over[t] = outcome.reward, outcome.over
            self._x, self._begin = self.told.after(action.numpy(), outcome), outcome.over
            self._s = self.told.critic(outcome.obs)
        value[T] = self.network.step(*self._seen(), self._z)[1].numpy()
        how = self.settings
        advantage = advantages(reward, value, over, how.gamma, how.gae_lambda)
        returned = advantage + value[:T]
        if how.centered:
            advantage -= advantage.mean(axis=1, keepdims=True)
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        told = (torch.as_tensor(part) for part in (x, s, begin, reward.astype(np.float32)))
        steps = Steps(*told)
        as_tensor = [torch.as_tensor(a, dtype=torch.float32) for a in (advantage, returned)]
        batch = _Batch(
            steps, z, torch.stack(actions), torch.stack(log_probs), *as_tensor,
        )  # fmt: skip
        return batch, float(reward.mean())

    def _seen(self) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(self._x), torch.as_tensor(self._s)

    def _drawn(self, chosen: torch.distributions.Distribution) -> Tensor:
        if isinstance(chosen, torch.distributions.Categorical):
            return torch.multinomial(chosen.probs, 1, generator=self.generator)[:, 0]
        noise = torch.randn(chosen.mean.shape, generator=self.generator)
        return chosen.mean + chosen.stddev * noise

    def _learned(self, batch: _Batch, entropy: float, reward: float) -> Figures:
        how, B = self.settings, self.trials.batch
        entropies, errors, extras, clipped = ([] for _ in range(4))
        for _ in range(how.epochs):
            clipped.clear()
            order = torch.randperm(B, generator=self.generator)
            for some in order.tensor_split(how.minibatches):
                chosen, value, extra = self.network.unroll(
                    Steps(*(part[:, some] for part in batch.steps)), batch.z[some]
                )
                ratio = (chosen.log_prob(batch.action[:, some]) - batch.log_prob[:, some]).exp()
                advantage = batch.advantage[:, some]
                bounded = ratio.clamp(1 - how.clip, 1 + how.clip)
                gain = torch.minimum(ratio * advantage, bounded * advantage).mean()
                error = (value - batch.returned[:, some]).square().mean()
                spread = chosen.entropy().mean()
                loss = -gain + how.value * error - entropy * spread + how.extra * extra
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.network.parameters(), how.max_grad_norm)
                self.optimizer.step()
                entropies.append(float(spread.detach()))
                errors.append(float(error.detach()))
                extras.append(float(extra.detach()))
                clipped.append(float((ratio != bounded).float().mean()))
        return Figures(reward, *(float(np.mean(x)) for x in (entropies, errors, clipped, extras)))
