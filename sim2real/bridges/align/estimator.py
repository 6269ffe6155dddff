"""Estimators: observations of one kind in, what the policy needs to know of the state out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.types import Array, InputError

CHANNELS = (16, 32, 32)
"""Feature maps of the image encoder; each layer halves the picture."""
ROWS = 1024
"""Observations that go through a network at once where no gradient is wanted."""


class StateEstimator(nn.Module):
    """state = head(encoder(observation)), scaled at both ends by what it was trained on.

    Args:
        scaling: raw observations -> what the encoder takes: a Normalizer, or Pixels.
        encoder: -> features (N, F).
        head: features -> states of roughly unit size (N, S).
        mean, std: (S,) of the states, in their units.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, scaling: nn.Module, encoder: nn.Module, head: nn.Module, mean: Array, std: Array
    ) -> None:
        super().__init__()
        self.scaling, self.encoder, self.head = scaling, encoder, head
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32))

    def features(self, obs: Tensor) -> Tensor:
        """(N, O), or (N, H, W, 3) uint8 -> (N, F)."""
        return self.encoder(self.scaling(obs))

    def forward(self, obs: Tensor) -> Tensor:
        """(N, O), or (N, H, W, 3) uint8 -> (N, S) states in their units."""
        return self.head(self.features(obs)) * self.std + self.mean

    @torch.no_grad()
    def predict(self, obs: Array) -> Array:
        """The same on arrays, any N."""
        parts = [self(tensor(obs[i : i + ROWS])) for i in range(0, len(obs), ROWS)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def encode(self, obs: Array) -> Tensor:
        """(N, F) features of arrays, any N."""
        parts = [self.features(tensor(obs[i : i + ROWS])) for i in range(0, len(obs), ROWS)]
        return torch.cat(parts)


class Pixels(nn.Module):
    """(N, H, W, 3) in 0 to 255 -> (N, 3, H, W) in -1 to 1."""

    def forward(self, image: Tensor) -> Tensor:
        return image.permute(0, 3, 1, 2).float() / 127.5 - 1


def perceptron(size: int, widths: Sequence[int]) -> nn.Module:
    """(N, size) -> (N, widths[-1]), ReLU after every layer."""
    return nn.Sequential(*mlp([size, *widths], "relu"), nn.ReLU())


def convolutional(height: int, width: int, widths: Sequence[int]) -> nn.Module:
    """(N, 3, height, width) -> (N, widths[-1]).

    Each layer normalises over a picture's own channels and places: statistics over a batch would
    tell the discriminator which domain the batch came from. The features have length √F, or the
    encoder would mislead by ever greater ones.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((3, *CHANNELS)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.GroupNorm(1, outputs), nn.ReLU()]
        height, width = (height + 1) // 2, (width + 1) // 2
    layers += [nn.Flatten(), perceptron(CHANNELS[-1] * height * width, widths)]
    return nn.Sequential(*layers, nn.LayerNorm(widths[-1], elementwise_affine=False))


def scaling_of(obs: Array) -> nn.Module:
    """What makes these observations fit for an encoder: (N, O) numbers or (N, H, W, 3) pictures."""
    if obs.ndim == 4:
        return Pixels()
    mean, std = spread(obs)
    return Normalizer(mean, std**2)


def encoder_of(obs: Array, widths: Sequence[int]) -> nn.Module:
    """A fresh encoder for observations of this kind.

    Raises:
        InputError: they are neither (N, O) numbers nor (N, H, W, 3) pictures.
    """
    if obs.ndim == 2:
        return perceptron(obs.shape[1], widths)
    if obs.ndim == 4 and obs.shape[3] == 3 and obs.dtype == np.uint8:
        return convolutional(obs.shape[1], obs.shape[2], widths)
    raise InputError(
        f"align: observations have shape {obs.shape} and type {obs.dtype}; they must be numbers "
        "(N, O) or pictures (N, height, width, 3) of uint8"
    )


def spread(x: Array) -> tuple[Array, Array]:
    """(O,) mean and standard deviation over rows; 1 where a column is constant, so that it passes
    unscaled instead of being blown up by the division."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    constant = std <= 1e-6 * np.maximum(1.0, np.abs(mean))
    return mean, np.where(constant, 1.0, std)


def tensor(obs: Array) -> Tensor:
    """Pictures stay bytes until they are looked at; all else is float32."""
    return torch.as_tensor(obs if obs.dtype == np.uint8 else obs.astype(np.float32))
