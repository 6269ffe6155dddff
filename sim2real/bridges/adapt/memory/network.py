"""A recurrent actor-critic: one pass over whole sequences in training, a step at a time on a robot.

    e = tanh(W x + b)        h, z' = GRU(e, z) or LSTM(e, z)        π(a | h),  V(h)

z is zero where a trial begins, and lasts over its episodes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, Independent, Normal

from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.types import InputError, nearest

CELLS: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class RecurrentActorCritic(nn.Module):
    """z (B, Z) is one tensor: the hidden state, of an LSTM beside its cell state."""

    def __init__(
        self, inputs: int, actions: Actions, *, hidden: int = 64,
        cell: Literal["gru", "lstm"] = "gru", log_std: float = -0.5,
    ) -> None:  # fmt: skip
        """Args:
            inputs: I.
            log_std: of actions that are numbers, at first.

        Raises:
            InputError: another cell, or a size below 1.
        """
        super().__init__()
        if cell not in CELLS:
            raise InputError(f"cell '{cell}'{nearest(cell, CELLS)}; it is {' or '.join(CELLS)}")
        if min(inputs, actions.size, hidden) < 1:
            raise InputError(
                f"inputs {inputs}, actions {actions.size}, hidden {hidden}: each at least 1"
            )
        self.actions, self.hidden = actions, hidden
        self.encoder = nn.Linear(inputs, hidden)
        self.memory = CELLS[cell](hidden, hidden)
        self.policy, self.value = nn.Linear(hidden, actions.size), nn.Linear(hidden, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)  # all actions alike at first
        nn.init.zeros_(self.policy.bias)
        std = None if actions.discrete else nn.Parameter(torch.full((actions.size,), log_std))
        self.log_std = std

    @property
    def z_size(self) -> int:
        """Z"""
        return self.hidden * (2 if isinstance(self.memory, nn.LSTM) else 1)

    def initial(self, batch: int) -> Tensor:
        """(B, Z) as a trial begins."""
        return torch.zeros(batch, self.z_size)

    def step(self, x: Tensor, z: Tensor) -> tuple[Distribution, Tensor, Tensor]:
        """π and V (B,) at x (B, I), and z'."""
        h, z = self._remembered(x[None], z)
        return self._chosen(h[0]), self.value(h[0])[..., 0], z

    def unroll(self, x: Tensor, z: Tensor, begin: Tensor) -> tuple[Distribution, Tensor]:
        """π and V (T, B) along x (T, B, I), from z (B, Z); z is cleared before step t where `begin`
        (T, B) says that a trial begins."""
        B = begin.shape[1]
        first = begin.clone()
        first[0] = True  # every sequence begins somewhere
        if not first[1:].any():
            h, _ = self._remembered(x, torch.where(begin[0, :, None], self.initial(B), z))
        else:
            h = self._in_pieces(x, z, begin, first)
        return self._chosen(h), self.value(h)[..., 0]

    def _in_pieces(self, x: Tensor, z: Tensor, begin: Tensor, first: Tensor) -> Tensor:
        """(T, B, H), every trial a sequence of its own, side by side and filled up at the end."""
        T, B = begin.shape
        piece = (first.T.reshape(-1).cumsum(0) - 1).reshape(B, T).T  # (T, B) its number
        t = torch.arange(T)[:, None].expand(T, B)
        start = torch.where(first, t, 0).cummax(dim=0).values
        local = t - start
        N, longest = int(piece.max()) + 1, int(local.max()) + 1
        filled = x.new_zeros(longest, N, x.shape[2]).index_put((local, piece), x)
        from_z = self.initial(N)
        goes_on = ~begin[0]
        from_z[piece[0, goes_on]] = z[goes_on]
        h, _ = self._remembered(filled, from_z)
        return h[local, piece]

    def _remembered(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """h (T, B, H) along x (T, B, I), and z' after the last."""
        e = torch.tanh(self.encoder(x))
        if isinstance(self.memory, nn.LSTM):
            h, c = z.split(self.hidden, dim=1)
            out, (h, c) = self.memory(e, (h[None].contiguous(), c[None].contiguous()))
            return out, torch.cat([h[0], c[0]], dim=1)
        out, h = self.memory(e, z[None].contiguous())
        return out, h[0]

    def _chosen(self, h: Tensor) -> Distribution:
        out = self.policy(h)
        if self.log_std is None:
            return Categorical(logits=out)
        return Independent(Normal(out, self.log_std.exp().expand_as(out)), 1)
