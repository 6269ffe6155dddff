"""A recurrent actor-critic: one pass over whole sequences in training, a step at a time on a robot.

    h, z' = memory(x, z)        π(a | x, h),  V(x, h, s)

s is what only a simulator knows, where the critic is told of it: it need not find out, then, what
an action was worth (Pinto and others 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.policy.memory import Memory
from sim2real.policy.networks import mlp
from sim2real.policy.spec import MemorySpec
from sim2real.types import InputError


class RecurrentActorCritic(nn.Module):
    """z (B, Z) is what the memory keeps.

    Args:
        inputs: X.
        memory: its cell and its size M.
        critic: S, how much of s it is told.
        network: widths of the hidden layers, for π and V each.
        log_std: of actions that are numbers, at first.

    Raises:
        InputError: a size below 1.
    """

    def __init__(
        self, inputs: int, actions: Actions, memory: MemorySpec, *, critic: int = 0,
        network: Sequence[int] = (), activation: str = "tanh", log_std: float = -0.5,
    ) -> None:  # fmt: skip
        super().__init__()
        if actions.size < 1:
            raise InputError(f"actions {actions.size}; at least 1 is needed")
        self.actions = actions
        self.memory = Memory(inputs, memory)
        seen = inputs + memory.hidden
        self.policy = mlp([seen, *network, actions.size], activation)
        self.value = mlp([seen + critic, *network, 1], activation)
        last = self.policy[-1]
        assert isinstance(last, nn.Linear)
        nn.init.orthogonal_(last.weight, 0.01)  # all actions alike at first
        nn.init.zeros_(last.bias)
        std = None if actions.discrete else nn.Parameter(torch.full((actions.size,), log_std))
        self.log_std = std

    def initial(self, batch: int) -> Tensor:
        """(B, Z) as a trial begins."""
        return self.memory.initial(batch)

    def act(self, x: Tensor, z: Tensor) -> tuple[Distribution, Tensor]:
        """π at x (B, X), and z'."""
        h, z = self.memory.step(x, z)
        return self._chosen(torch.cat([x, h], dim=-1)), z

    def step(self, x: Tensor, s: Tensor, z: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """π and V (B,) at x (B, X) and s (B, S), and z'."""
        h, z = self.memory.step(x, z)
        return *self._both(torch.cat([x, h], dim=-1), s), z

    def unroll(self, x: Tensor, s: Tensor, z: Tensor, begin: Tensor) -> tuple[Distribution, Tensor]:
        """π and V (T, B) along x (T, B, X) and s (T, B, S), from z (B, Z); z is cleared before step
        t where `begin` (T, B) says that a trial begins."""
        h = self.memory.unroll(x, z, begin)
        return self._both(torch.cat([x, h], dim=-1), s)

    def _both(self, seen: Tensor, s: Tensor) -> tuple[Distribution, Tensor]:
        return self._chosen(seen), self.value(torch.cat([seen, s], dim=-1))[..., 0]

    def _chosen(self, seen: Tensor) -> Distribution:
        out = self.policy(seen)
        if self.log_std is None:
            return Categorical(logits=out)
        return Independent(Normal(out, self.log_std.exp().expand_as(out)), 1)
