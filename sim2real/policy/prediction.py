"""What a policy foretells of the next observation: what its fast numbers are found by.

    d(f, a, φ) = MLP(f, a, φ)      o' - o ~ N(d, σ²)

f are the normalised features, a the raw action, and φ the fast numbers, which the policy sees as
well; o is the newest observation in f. On a robot φ goes down the gradient of what was foretold
wrongly (`bridges/adapt/gradient/fast.py`), by rates that were learned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sim2real.policy.networks import mlp
from sim2real.policy.spec import FastSpec

FIRST_RATE = 1.0
"""Of L, a mean over the numbers of an observation."""
LEAST_LOG, MOST_LOG = -5.0, 2.0
"""Of log σ."""


class Prediction(nn.Module):
    """Of F features, A actions and O numbers of an observation.

    Args:
        newest: where in the features the newest observation begins.
    """

    def __init__(self, spec: FastSpec, features: int, newest: int, obs: int, action: int) -> None:
        super().__init__()
        self.spec, self._newest = spec, slice(newest, newest + obs)
        self.network = mlp([features + action + spec.size, *spec.prediction, obs])
        self.log_std = nn.Parameter(torch.zeros(obs))
        self.log_rate = nn.Parameter(torch.full((spec.steps, spec.size), FIRST_RATE).log())
        """(J, L) of every step and fast number (Meta-SGD, Li and others 2017)."""

    @property
    def rates(self) -> Tensor:
        """(J, L)"""
        return self.log_rate.exp()

    def seen(self, features: Tensor) -> Tensor:
        """(..., O) the newest observation in features (..., F)."""
        return features[..., self._newest]

    def error(self, features: Tensor, action: Tensor, after: Tensor, fast: Tensor) -> Tensor:
        """(...) -log p of what is seen after actions (..., A), in features `after` (..., F), a mean
        over its numbers without the constant."""
        told = self.network(torch.cat([features, action, fast], dim=-1))
        log_std = self.log_std.clamp(LEAST_LOG, MOST_LOG)
        missed = (self.seen(after) - self.seen(features) - told) / log_std.exp()
        return (0.5 * missed.square() + log_std).mean(dim=-1)
