"""A few gradient steps on one task, as a pure function of where they begin.

    φ_0 = θ,   φ_{j+1} = φ_j - α_j ∘ ∇L(φ_j; D_j)

Nothing is changed in place, so that the loop can be differentiated, mapped over tasks with
`torch.func.vmap`, and run on a robot with the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sim2real.types import InputError

Params = Mapping[str, Tensor]
"""Name -> tensor, as `torch.func.functional_call` takes them."""
Loss = Callable[[Params, Any], Tensor]
"""(parameters, data) -> scalar."""
Rate = float | Params
"""α: one for all, or one for every number of every parameter (Meta-SGD)."""


def inner_loop(
    params: Params, loss: Loss, batches: Sequence[Any], rates: Sequence[Rate] | Rate, *,
    first_order: bool = False,
) -> dict[str, Tensor]:  # fmt: skip
    """φ after a step on each of the batches (Finn, Abbeel and Levine 2017, eq. 1).

    Args:
        batches: data of every step; none gives θ itself.
        rates: α of every step, or one for all.
        first_order: the steps are taken for constants where the result is differentiated.

    Raises:
        InputError: rates for another number of steps.
    """
    if not isinstance(rates, Sequence):
        rates = [rates] * len(batches)
    if len(rates) != len(batches):
        raise InputError(f"{len(rates)} rates for {len(batches)} inner steps; give one for each")
    phi = dict(params)
    for batch, rate in zip(batches, rates, strict=True):
        gradient = torch.func.grad(loss)(phi, batch)
        if first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}
        phi = {
            name: value - (rate[name] if isinstance(rate, Mapping) else rate) * gradient[name]
            for name, value in phi.items()
        }
    return phi


def halved_after(trained: int, rate: float, steps: int) -> list[float]:
    """Rates for more steps than the start was trained for: α, then α/2 beyond those.

    A start that is trained for one step is trained to be left with a long one; further steps as
    long overshoot. The authors of MAML halve the rate from the second step on when they test
    (cbfinn/maml_rl, test_maml_cheetah.py).

    Args:
        trained: steps of the meta-training, at least 1.
        steps: of now, at least 0.

    Raises:
        InputError: one of them is less.
    """
    if trained < 1 or steps < 0:
        raise InputError(
            f"trained {trained}, steps {steps}: a start is trained for one step at least, and no "
            "fewer than 0 can be taken"
        )
    return [rate if step < trained else rate / 2 for step in range(steps)]
