"""A recurrent actor-critic: one pass over whole sequences in training, a step at a time on a robot.

    h, z' = memory(x, z)        π(a | x, h),  V(x, h, s)

s is what only a simulator knows, where the critic is told of it: it need not find out, then, what
an action was worth (Pinto and others 2018).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.policy.networks import mlp
from sim2real.policy.policy import Policy
from sim2real.types import InputError


class Steps(NamedTuple):
    """T steps of B worlds."""

    x: Tensor
    """(T, B, X) what the policy is told."""
    s: Tensor
    """(T, B, S) what V alone is told."""
    begin: Tensor
    """(T, B) bool, where a trial begins."""
    reward: Tensor
    """(T, B) what came of the step."""


class Pass(NamedTuple):
    """What a network makes of sequences."""

    chosen: Distribution
    """π (T, B)"""
    value: Tensor
    """V (T, B)"""
    extra: Tensor
    """() what it learns besides, to be minimised."""


class Remembering(Protocol):
    """What remembers: `policy.memory.Memory`, `snail.Snail`."""

    inputs: int
    """X"""

    @property
    def hidden(self) -> int:
        """M"""
        ...

    def initial(self, batch: int) -> Tensor: ...
    def step(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]: ...
    def unroll(self, x: Tensor, z: Tensor, begin: Tensor) -> Tensor: ...


class RecurrentActorCritic(nn.Module):
    """z (B, Z) is what the memory keeps.

    Args:
        memory: of x (B, X).
        kept: how much π and V see of what is remembered; None: h, all of it.
        critic: S, how much of s V is told.
        network: widths of the hidden layers, for π and V each.
        log_std: of actions that are numbers, at first.

    Raises:
        InputError: a size below 1.
    """

    def __init__(
        self, memory: Remembering, actions: Actions, *, kept: int | None = None, critic: int = 0,
        network: Sequence[int] = (), activation: str = "tanh", log_std: float = -0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        if actions.size < 1:
            raise InputError(f"actions {actions.size}; at least 1 is needed")
        self.actions = actions
        self.memory = memory
        seen = memory.inputs + (memory.hidden if kept is None else kept)
        self.policy = mlp([seen, *network, actions.size], activation)
        self.value = mlp([seen + critic, *network, 1], activation)
        last = self.policy[-1]
        assert isinstance(last, nn.Linear)
        nn.init.orthogonal_(last.weight, 0.01)  # all actions alike at first
        nn.init.zeros_(last.bias)
        std = None if actions.discrete else nn.Parameter(torch.full((actions.size,), log_std))
        self.log_std = std

    def seen(self, x: Tensor, h: Tensor) -> Tensor:
        """(..., X + kept) what π and V see."""
        return torch.cat([x, h], dim=-1)

    def extra(self, h: Tensor, steps: Steps) -> Tensor:
        """() what is learned besides, of h (T, B, M): nothing."""
        return h.new_zeros(())

    def on_memory(self) -> nn.Sequential:
        """π's mean as a network of (x, h)."""
        return copy.deepcopy(self.policy)

    def reveal(self, policy: Policy, middle: Tensor, spread: Tensor) -> None:
        """Lets a policy that acts as this say what it believes; (S,) what s was standardised by."""

    def initial(self, batch: int) -> Tensor:
        """(B, Z) as a trial begins."""
        return self.memory.initial(batch)

    def act(self, x: Tensor, z: Tensor) -> tuple[Distribution, Tensor]:
        """π at x (B, X), and z'."""
        h, z = self.memory.step(x, z)
        return self._chosen(self.seen(x, h)), z

    def step(self, x: Tensor, s: Tensor, z: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """π and V (B,) at x (B, X) and s (B, S), and z'."""
        h, z = self.memory.step(x, z)
        return *self._both(self.seen(x, h), s), z

    def unroll(self, steps: Steps, z: Tensor) -> Pass:
        """Along steps, from z (B, Z), which is cleared where a trial begins."""
        h = self.memory.unroll(steps.x, z, steps.begin)
        return Pass(*self._both(self.seen(steps.x, h), steps.s), self.extra(h, steps))

    def _both(self, seen: Tensor, s: Tensor) -> tuple[Distribution, Tensor]:
        return self._chosen(seen), self.value(torch.cat([seen, s], dim=-1))[..., 0]

    def _chosen(self, seen: Tensor) -> Distribution:
        out = self.policy(seen)
        if self.log_std is None:
            return Categorical(logits=out)
        return Independent(Normal(out, self.log_std.exp().expand_as(out)), 1)
