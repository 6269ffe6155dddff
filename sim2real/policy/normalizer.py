"""Features to roughly unit size, with statistics that training gathered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sim2real.types import Array, InputError


class Normalizer(nn.Module):
    """clip((x - mean) / √(var + eps), -clip, clip), as Stable-Baselines3's VecNormalize.

    1/√(var + eps) is computed in float64 and rounded once: a small variance keeps its digits. The
    statistics are buffers: they are saved, exported and cannot be forgotten.
    """

    mean: Tensor
    scale: Tensor
    clip: Tensor

    def __init__(
        self,
        mean: Array | Sequence[float],
        var: Array | Sequence[float],
        *,
        eps: float = 1e-8,
        clip: float = 10.0,
    ) -> None:
        """mean, var: (F,), in the units of the features and their squares.

        Raises:
            InputError: different lengths, a value that is not finite, a negative variance, or a
                clip that is not above 0.
        """
        super().__init__()
        mean64, var64 = np.asarray(mean, np.float64), np.asarray(var, np.float64)
        if mean64.ndim != 1 or mean64.shape != var64.shape:
            raise InputError(
                f"normalizer: mean {mean64.shape} and var {var64.shape} must both be (features,)"
            )
        if not (np.isfinite(mean64).all() and np.isfinite(var64).all() and (var64 + eps > 0).all()):
            raise InputError("normalizer: mean and var must be finite, and var + eps above 0")
        if not clip > 0:
            raise InputError(f"normalizer: clip is {clip}; it must be above 0 (inf: no clipping)")
        self.register_buffer("mean", torch.tensor(mean64, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(1 / np.sqrt(var64 + eps), dtype=torch.float32))
        self.register_buffer("clip", torch.tensor(clip, dtype=torch.float32))

    @classmethod
    def identity(cls, size: int) -> Normalizer:
        """Leaves features as they are, bit for bit."""
        return cls(np.zeros(size), np.ones(size), eps=0.0, clip=float("inf"))

    @property
    def size(self) -> int:
        return self.mean.numel()

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) * self.scale).clamp(-self.clip, self.clip)
