"""What a policy remembers: a recurrent network, a step at a time or along whole sequences.

    e = tanh(W x + b)        h, z' = GRU(e, z) or LSTM(e, z)

z is zero where a trial begins, and lasts over its episodes. Where h is a belief about ξ, a linear
function of it says which.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sim2real.policy.spec import MemorySpec
from sim2real.types import InputError

SHARPEST, VAGUEST = -8.0, 4.0
"""Logarithms of the variances, in units of the prior's, between which a belief is taken at its
word."""


class Memory(nn.Module):
    """h (B, M) is what it gives, z (B, Z) what it keeps: the hidden state, of an LSTM its cell's
    state beside it.

    Args:
        inputs: X.

    Raises:
        InputError: no inputs.
    """

    def __init__(self, inputs: int, spec: MemorySpec) -> None:
        super().__init__()
        if inputs < 1:
            raise InputError(f"a memory has {inputs} inputs; it needs at least 1")
        self.inputs, self.spec = inputs, spec
        self.encoder = nn.Linear(inputs, spec.hidden)
        cell = nn.LSTM if spec.cell == "lstm" else nn.GRU
        self.recurrent: nn.GRU | nn.LSTM = cell(spec.hidden, spec.hidden)

    @property
    def hidden(self) -> int:
        """M"""
        return self.spec.hidden

    def initial(self, batch: int) -> Tensor:
        """(B, Z) as a trial begins."""
        return self.encoder.weight.new_zeros(batch, self.spec.z_size)

    def step(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, M) at x (B, X), and z'."""
        h, z = self._along(x[None], z)
        return h[0], z

    def unroll(self, x: Tensor, z: Tensor, begin: Tensor) -> Tensor:
        """h (T, B, M) along x (T, B, X), from z (B, Z); z is cleared before step t where `begin`
        (T, B) says that a trial begins."""
        first = begin.clone()
        first[0] = True  # every sequence begins somewhere
        if not first[1:].any():
            cleared = torch.where(begin[0, :, None], self.initial(begin.shape[1]), z)
            return self._along(x, cleared)[0]
        return self.in_pieces(x, z, begin, first)

    def in_pieces(self, x: Tensor, z: Tensor, begin: Tensor, first: Tensor) -> Tensor:
        """(T, B, M), every trial a sequence of its own, side by side and filled up at the end."""
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
        h, _ = self._along(filled, from_z)
        return h[local, piece]

    def _along(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """h (T, B, M) along x (T, B, X), and z' after the last."""
        e = torch.tanh(self.encoder(x))
        if isinstance(self.recurrent, nn.LSTM):
            h, c = z.split(self.spec.hidden, dim=1)
            out, (h, c) = self.recurrent(e, (h[None].contiguous(), c[None].contiguous()))
            return out, torch.cat([h[0], c[0]], dim=1)
        out, h = self.recurrent(e, z[None].contiguous())
        return out, h[0]


class Belief(nn.Module):
    """N(μ, σ²) of ξ (B, K), in physical units, by what is remembered:

    m, s = W h + b        μ = middle + spread m        σ² = spread² exp(s)
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, hidden: int, size: int) -> None:
        super().__init__()
        self.head = nn.Linear(hidden, 2 * size)
        self.register_buffer("middle", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ (B, K)"""
        mean, log_var = believed(self.head(h))
        return self.middle + self.spread * mean, self.spread * (log_var / 2).exp()

    @torch.no_grad()
    def says(self, head: nn.Linear, middle: Tensor, spread: Tensor) -> None:
        """What a head (2 K) says of ξ standardised by these (K,)."""
        self.head.load_state_dict(head.state_dict())
        self.middle.copy_(middle)
        self.spread.copy_(spread)


def believed(said: Tensor) -> tuple[Tensor, Tensor]:
    """μ and log σ² (..., L) of W h + b (..., 2 L)."""
    mean, log_var = said.chunk(2, dim=-1)
    return mean, log_var.clamp(SHARPEST, VAGUEST)
