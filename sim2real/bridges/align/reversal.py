"""The gradient reversal layer, and how strongly it acts over a training."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from sim2real.types import InputError


class GradReverse(torch.autograd.Function):
    """R(x) = x forward, ∂R/∂x = -λ·I backward (Ganin and Lempitsky 2015, eq. 6).

    What stands behind it minimises its loss; what stands before it maximises the same loss, λ
    times as strongly. A second minus sign in the loss would undo it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lam: float) -> Tensor:
        ctx.lam = lam
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        return -ctx.lam * grad_outputs[0], None


def reverse(x: Tensor, lam: float) -> Tensor:
    """x itself, of any shape; its gradient comes back times -λ."""
    return cast(Tensor, GradReverse.apply(x, lam))


def scheduled(p: float) -> float:
    """λ(p) = 2/(1 + exp(-10·p)) - 1 over the progress p in [0, 1] (Ganin and Lempitsky 2015).

    It begins at 0, while the discriminator knows nothing worth undoing; 0.46 is reached at a tenth
    of the training.

    Raises:
        InputError: p is outside [0, 1]: it is a share of the training, not a count of steps.
    """
    if not 0 <= p <= 1:
        raise InputError(f"progress is {p}; it is a share of the training, 0 to 1")
    return 2 / (1 + math.exp(-10 * p)) - 1
