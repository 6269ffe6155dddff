"""SNAIL (Mishra and others 2018): nothing is summed up; what a trial showed is looked at anew.

    temporal convolutions, whose reach doubles from layer to layer, and causal attention in turns

Every layer appends what it makes of a trial's steps so far to what it was given. z is the window of
all steps of a trial, so a step costs as much as the window is long, and trials longer than it lose
their begin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sim2real.types import InputError


class Snail(nn.Module):
    """As `policy.memory.Memory`: h (B, M) along x (B, X), with z (B, Z).

    Args:
        inputs: X.
        hidden: M.
        window: W, control steps of the longest trial.
        filters: of every convolution.
        keys, values: sizes of attention's queries, and of what it reads.

    Raises:
        InputError: one of them is below 1.
    """

    def __init__(
        self, inputs: int, hidden: int = 64, *, window: int, filters: int = 16, keys: int = 16,
        values: int = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = {"inputs": inputs, "hidden": hidden, "window": window, "filters": filters,
                 "keys": keys, "values": values}  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name} is {size}; it must be at least 1")
        self.inputs, self.hidden, self.window = inputs, hidden, window
        reach = max(1, math.ceil(math.log2(window)))
        layers: list[nn.Module] = []
        size = inputs
        for attends in (False, True, False, True, False):
            if attends:
                layers.append(_Attention(size, keys, values))
                size += values
            else:
                layers += [_Convolution(size + k * filters, filters, 2**k) for k in range(reach)]
                size += reach * filters
        self.layers = nn.ModuleList(layers)
        self.readout = nn.Linear(size, hidden)

    @property
    def z_size(self) -> int:
        """Z: the window's steps, and how many there are."""
        return self.window * self.inputs + 1

    def initial(self, batch: int) -> Tensor:
        """(B, Z) as a trial begins."""
        return self.readout.weight.new_zeros(batch, self.z_size)

    def step(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, M) at x (B, X), and z'."""
        B = len(x)
        steps, number = self._window(z)
        full = number == self.window
        steps = torch.where(full[:, None, None], steps.roll(-1, dims=1), steps)
        number = torch.where(full, number - 1, number)
        here = torch.arange(self.window) == number[:, None]
        steps = torch.where(here[..., None], x[:, None], steps)
        h = self._looked(steps)[torch.arange(B), number]
        return h, torch.cat([steps.flatten(1), (number + 1)[:, None].to(z.dtype)], dim=1)

    def unroll(self, x: Tensor, z: Tensor, begin: Tensor) -> Tensor:
        """h (T, B, M) along x (T, B, X), from z (B, Z); z is cleared before step t where `begin`
        (T, B) says that a trial begins.

        Raises:
            InputError: a trial is longer than the window.
        """
        T, B = begin.shape
        first = begin.clone()
        first[0] = True
        trial = (first.T.reshape(-1).cumsum(0) - 1).reshape(B, T).T  # (T, B) its number
        t = torch.arange(T)[:, None].expand(T, B)
        start = torch.where(first, t, 0).cummax(dim=0).values
        before, number = self._window(z)
        number = torch.where(begin[0], 0, number)
        seen = torch.where(start == 0, number, 0)  # steps of its trial before this sequence
        place = t - start + seen
        if int(place.max()) >= self.window:
            raise InputError(
                f"a trial has {int(place.max()) + 1} steps; the window has {self.window}"
            )
        filled = x.new_zeros(int(trial.max()) + 1, self.window, self.inputs)
        kept = torch.arange(self.window) < number[:, None]
        filled[trial[0]] = torch.where(kept[..., None], before, 0.0)
        filled = filled.index_put((trial, place), x)
        return self._looked(filled)[trial, place]

    def _window(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, W, X) steps, the first of the trial first, and how many are there (B,)."""
        steps = z[:, :-1].reshape(len(z), self.window, self.inputs)
        return steps, z[:, -1].round().long()

    def _looked(self, steps: Tensor) -> Tensor:
        """(N, W, M) at every step of N windows (N, W, X), of it and those before it."""
        for layer in self.layers:
            steps = torch.cat([steps, layer(steps)], dim=-1)
        return self.readout(steps)


class _Convolution(nn.Module):
    """tanh · sigmoid of this step and one so many before it (van den Oord and others 2016)."""

    def __init__(self, inputs: int, filters: int, apart: int) -> None:
        super().__init__()
        self.apart = apart
        self.both = nn.Linear(2 * inputs, 2 * filters)

    def forward(self, steps: Tensor) -> Tensor:
        W = steps.shape[1]
        earlier = nn.functional.pad(steps, (0, 0, self.apart, 0))[:, :W]
        value, gate = self.both(torch.cat([earlier, steps], dim=-1)).chunk(2, dim=-1)
        return value.tanh() * gate.sigmoid()


class _Attention(nn.Module):
    """What this step asks of those up to it."""

    def __init__(self, inputs: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(inputs, keys), nn.Linear(inputs, keys)
        self.value = nn.Linear(inputs, values)

    def forward(self, steps: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(
            self.query(steps), self.key(steps), self.value(steps), is_causal=True
        )
