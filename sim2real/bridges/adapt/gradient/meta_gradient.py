"""Which way the start θ should move, so that a few steps on a task from it go far.

| method | what is differentiated |
|---|---|
| MAML (Finn, Abbeel and Levine 2017) | the loss after the inner steps, through the steps |
| first-order MAML (the same, section 5.2) | the loss after the steps, these taken for constants |
| Meta-SGD (Li, Zhou, Chen and Li 2017) | as MAML, and over the rate of every parameter |
| Reptile (Nichol, Achiam and Schulman 2018) | nothing: θ moves towards where the steps ended |

All take batches of every inner step and, but for Reptile, a query: structures of tensors whose
first axis is the task. They return a gradient for an optimizer that descends. With no inner step
MAML is joint training, the control of what adaptation is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sim2real.bridges.adapt.gradient.inner_loop import Loss, Params, Rate, inner_loop
from sim2real.types import InputError


class MetaGradient(NamedTuple):
    """What an optimizer of θ needs."""

    loss: Tensor
    """Mean over tasks, after the inner steps."""
    params: dict[str, Tensor]
    """Gradient of θ."""


class RateGradient(NamedTuple):
    """Of θ and of the learned rates."""

    loss: Tensor
    params: dict[str, Tensor]
    rates: dict[str, Tensor]


def maml(
    params: Params, loss: Loss, batches: Sequence[Any], query: Any, rate: Rate, *,
    first_order: bool = False,
) -> MetaGradient:  # fmt: skip
    """∇_θ of the mean over tasks of L(φ(θ); query)."""

    def after(theta: Params) -> Tensor:
        return _after(theta, loss, batches, query, rate, first_order)

    gradient, value = torch.func.grad_and_value(after)(_detached(params))
    return MetaGradient(value, gradient)


def meta_sgd(
    params: Params, rates: Params, loss: Loss, batches: Sequence[Any], query: Any
) -> RateGradient:
    """As `maml`, over θ and over a rate of every number in it. A rate may become negative."""

    def after(both: tuple[Params, Params]) -> Tensor:
        return _after(both[0], loss, batches, query, both[1], False)

    both = (_detached(params), _detached(rates))
    gradient, value = torch.func.grad_and_value(after)(both)
    return RateGradient(value, *gradient)


def reptile(params: Params, loss: Loss, batches: Sequence[Any], rate: Rate) -> MetaGradient:
    """θ less the mean over tasks of φ: a step of size ε along it is θ + ε (φ̄ - θ). The loss is that
    of the last batch after the steps. Raises InputError without a batch: θ would stay."""
    if not batches:
        raise InputError("Reptile moves towards where inner steps end, and there is no batch")
    params = _detached(params)

    def one(batch: Sequence[Any]) -> tuple[dict[str, Tensor], Tensor]:
        phi = inner_loop(params, loss, batch, rate)
        return phi, loss(phi, batch[-1])

    phi, value = torch.func.vmap(one, randomness="different")(list(batches))
    toward = {name: (p - phi[name].mean(dim=0)).detach() for name, p in params.items()}
    return MetaGradient(value.mean().detach(), toward)


def _detached(params: Params) -> dict[str, Tensor]:
    """Nothing that is kept of a result then keeps a graph."""
    return {name: p.detach() for name, p in params.items()}


def _after(
    theta: Params, loss: Loss, batches: Sequence[Any], query: Any, rate: Rate, first_order: bool
) -> Tensor:
    def one(batch: Sequence[Any], asked: Any) -> Tensor:
        return loss(inner_loop(theta, loss, batch, rate, first_order=first_order), asked)

    each = torch.func.vmap(one, randomness="different")(list(batches), query)
    return each.mean()
