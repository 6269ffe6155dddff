"""Losses of a policy whose gradients, once differentiated and twice, are those of its return.

An inner step on a policy is a policy gradient, and the outer gradient differentiates it again. The
usual loss, log π · A, is right once and wrong twice: it loses the product of the scores, since how
likely a path is depends on θ too (Foerster and others 2018; Rothfuss and others 2019).

| loss | second derivative |
|---|---|
| `dice` | that of the expected return, all of it; much variance |
| `lvc` | without the products of scores at different times: a small bias, little variance |
"""

from __future__ import annotations

import torch
from torch import Tensor


def magic_box(log_probs: Tensor) -> Tensor:
    """1, with derivatives of every order as if the paths were drawn anew (Foerster and others 2018,
    eq. 6). log_probs of any shape: the sums of log π that what follows depends on."""
    return torch.exp(log_probs - log_probs.detach())


def dice(log_prob: Tensor, reward: Tensor) -> Tensor:
    """Minus the return of every path, by DiCE (Foerster and others 2018, eq. 7).

    Args:
        log_prob: (..., T) log π of each action.
        reward: (..., T) discounted rewards; each follows from all actions up to it.

    Returns:
        (...) a loss.
    """
    return -(magic_box(log_prob.cumsum(dim=-1)) * reward).sum(dim=-1)


def lvc(log_prob: Tensor, advantage: Tensor, behaviour: Tensor | None = None) -> Tensor:
    """Minus the low-variance-curvature surrogate (Rothfuss and others 2019, eq. 6).

    Args:
        log_prob: (..., T) log π of each action.
        advantage: (..., T) what came of it.
        behaviour: (..., T) log π of the policy that acted, where it is not the one that is
            differentiated (ProMP takes several outer steps on one batch).

    Returns:
        (...) a loss.
    """
    acted = log_prob.detach() if behaviour is None else behaviour
    return -(torch.exp(log_prob - acted) * advantage).sum(dim=-1)
