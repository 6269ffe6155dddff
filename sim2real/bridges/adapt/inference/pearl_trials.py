"""Episodes for PEARL: what is gathered in training, and a trial on a new task.

z is drawn as an episode begins and held until it ends: to try a guess for a moment tells nothing of
it. In training the encoder is given recent episodes alone, of draws from the prior, as it is at
test time; SAC learns from all that was ever gathered of a task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from sim2real.bridges.adapt.inference.pearl import Losses, Pearl, Transitions
from sim2real.types import InputError

Act = Callable[[Tensor], Tensor]
"""(n, O) -> (n, A)"""


class PearlTasks(Protocol):
    """Tasks that stay the same over a training, and whole episodes in some of them."""

    number: int
    obs_size: int
    actions: int
    horizon: int
    """Control steps of an episode."""

    def episode(self, tasks: Tensor, act: Act) -> Transitions:
        """(n, H, ...) one in each of tasks (n,)."""
        ...


class Replay:
    """The last transitions of every task.

    Args:
        capacity: of a task.
    """

    def __init__(self, tasks: PearlTasks, capacity: int) -> None:
        N, O, A = tasks.number, tasks.obs_size, tasks.actions
        shape = (N, capacity)
        self.capacity = capacity
        self.held = Transitions(
            torch.zeros(*shape, O), torch.zeros(*shape, A), torch.zeros(shape),
            torch.zeros(*shape, O), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape),
        )  # fmt: skip
        self.added = torch.zeros(N, dtype=torch.long)
        """(N,) how many were, since the last time that the task was cleared."""

    def clear(self, tasks: Tensor) -> None:
        self.added[tasks] = 0

    def add(self, tasks: Tensor, some: Transitions) -> None:
        """(n, H, ...) of tasks (n,)."""
        H = some.reward.shape[1]
        at = (self.added[tasks, None] + torch.arange(H)) % self.capacity
        for held, new in zip(self.held, some, strict=True):
            held[tasks[:, None], at] = new
        self.added[tasks] += H

    def sample(self, tasks: Tensor, number: int, generator: torch.Generator) -> Transitions:
        """(n, number, ...) of tasks (n,), drawn with replacement.

        Raises:
            InputError: a task of which there is nothing.
        """
        there = self.added[tasks].clamp(max=self.capacity)
        if not (there > 0).all():
            raise InputError("a task has no transitions yet; gather some first")
        at = (torch.rand(len(tasks), number, generator=generator) * there[:, None]).long()
        return Transitions(*(held[tasks[:, None], at] for held in self.held))


@dataclass(frozen=True)
class Gathering:
    """What an iteration gathers and learns."""

    tasks: int = 5
    """Gathered anew."""
    prior_episodes: int = 2
    """Of each, with draws from the prior, for encoder and SAC."""
    posterior_episodes: int = 2
    """Of each, with draws from the posterior, for SAC alone."""
    updates: int = 200
    together: int = 16
    """Tasks of an update."""
    batch: int = 256
    context: int = 64
    capacity: int = 20_000
    """Transitions of a task that SAC remembers."""


class PearlTraining:
    """Trains an agent on the tasks that it is given, of which each is gathered once at first."""

    def __init__(self, agent: Pearl, tasks: PearlTasks, how: Gathering, *, seed: int = 0) -> None:
        self.agent, self.tasks, self.how = agent, tasks, how
        self.generator = torch.Generator().manual_seed(seed)
        self.recent = Replay(tasks, how.prior_episodes * tasks.horizon)
        self.all = Replay(tasks, how.capacity)
        self.steps = 0
        self._gather(torch.arange(tasks.number), posterior=False)

    def iterate(self) -> Losses:
        """Gathers some tasks anew, and learns; means over the updates."""
        some = torch.randperm(self.tasks.number, generator=self.generator)[: self.how.tasks]
        self._gather(some, posterior=True)
        told: list[Losses] = []
        for _ in range(self.how.updates):
            order = torch.randperm(self.tasks.number, generator=self.generator)
            of = order[: self.how.together]
            context = self.recent.sample(of, self.how.context, self.generator)
            batch = self.all.sample(of, self.how.batch, self.generator)
            told.append(self.agent.update(context, batch, self.generator))
        return Losses(*(torch.stack(x).mean() for x in zip(*told, strict=True)))

    def _gather(self, tasks: Tensor, *, posterior: bool) -> None:
        self.recent.clear(tasks)
        latent = self.agent.settings.latent
        for _ in range(self.how.prior_episodes):
            z = torch.randn(len(tasks), latent, generator=self.generator)
            some = self._episode(tasks, z)
            self.recent.add(tasks, some)
            self.all.add(tasks, some)
        for _ in range(self.how.posterior_episodes if posterior else 0):
            context = self.recent.sample(tasks, self.how.context, self.generator)
            self.all.add(tasks, self._episode(tasks, drawn(self.agent, context, self.generator)))

    @torch.no_grad()
    def _episode(self, tasks: Tensor, z: Tensor) -> Transitions:
        some = self.tasks.episode(tasks, lambda obs: self.agent.act(obs, z, self.generator)[0])
        self.steps += some.reward.numel()
        return some


@torch.no_grad()
def drawn(agent: Pearl, context: Transitions, generator: torch.Generator) -> Tensor:
    """(N, L) a draw from the posterior."""
    mean, log_var = agent.posterior(context)
    return mean + (log_var / 2).exp() * torch.randn(mean.shape, generator=generator)


class Adapted(NamedTuple):
    """What a trial earned, as the target shows it."""

    returns: Tensor
    """(N, E) of episodes with draws from the prior first, then from the posterior so far."""
    of_mean: Tensor
    """(N,) of one more, with the posterior's mean."""


@torch.no_grad()
def trial(
    agent: Pearl, tasks: PearlTasks, which: Tensor, episodes: int, generator: torch.Generator
) -> Adapted:
    """E episodes in each of tasks (N,), with a z of its own each; the posterior grows by what every
    one of them showed, and begins with nothing."""
    N, found = len(which), list[Tensor]()
    none = torch.zeros(N, 0)
    context = Transitions(
        none[..., None].expand(-1, -1, tasks.obs_size),
        none[..., None].expand(-1, -1, tasks.actions), none,
        none[..., None].expand(-1, -1, tasks.obs_size), none.bool(), none,
    )  # fmt: skip
    for _ in range(episodes):
        z = drawn(agent, context, generator)
        some = tasks.episode(which, lambda obs, z=z: agent.act(obs, z)[0])
        found.append(some.shown.sum(dim=1))
        context = Transitions(*(torch.cat(x, dim=1) for x in zip(context, some, strict=True)))
    mean, _ = agent.posterior(context)
    last = tasks.episode(which, lambda obs: agent.act(obs, mean)[0])
    return Adapted(torch.stack(found, dim=1), last.shown.sum(dim=1))
