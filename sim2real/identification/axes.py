"""Along which axes ξ is searched: logarithms of what is positive over its whole range.

Masses, gains and frictions come into the equations of motion as factors. Where a log tells only
what several of them are to each other, as of a servo's stiffness over the resistance of its
winding, all that explain it alike lie on a curve; in logarithms it is straight, as the regression
of `linearization.py` takes it to be. What a range lets be zero or negative stays as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim2real.identification.linearization import Information, Normal
from sim2real.types import Array

NARROW = 1e-2
"""Of a logarithm's range, below which uniform along it is uniform over ξ, to rounding."""
LEAST = 1e-18
"""Variance of what is fixed."""


class Axes(NamedTuple):
    """Of K parameters in their ranges."""

    xi_low: Array
    """(K,)"""
    xi_high: Array
    """(K,)"""
    log: Array
    """(K,) bool, of which the axis is a logarithm: they must be positive."""

    @classmethod
    def of(cls, low: Array, high: Array) -> Axes:
        """Logarithms of what is positive in ranges (K,)."""
        return cls(low, high, low > 0)

    @property
    def low(self) -> Array:
        """(K,) where each axis begins."""
        return self.to(self.xi_low)

    @property
    def high(self) -> Array:
        """(K,) where it ends."""
        return self.to(self.xi_high)

    def to(self, xi: Array) -> Array:
        """(..., K) ξ -> where it is on the axes."""
        return np.where(self.log, np.log(np.where(self.log, xi, 1.0)), xi)

    def back(self, x: Array) -> Array:
        """(..., K) on the axes -> ξ, to the last digit inside its range."""
        xi = np.where(self.log, np.exp(np.where(self.log, x, 0.0)), x)
        return np.clip(xi, self.xi_low, self.xi_high)

    @property
    def flat(self) -> Normal:
        """With the moments, on the axes, of ξ that is anywhere in its ranges alike."""
        mean, variance = (self.low + self.high) / 2, (self.high - self.low) ** 2 / 12
        log = self.log & (self.high - self.low > NARROW)
        a, b = self.xi_low[log], self.xi_high[log]
        la, lb, width = np.log(a), np.log(b), b - a
        mean[log] = (b * lb - a * la) / width - 1
        square = (b * (lb**2 - 2 * lb + 2) - a * (la**2 - 2 * la + 2)) / width
        variance[log] = square - mean[log] ** 2
        return Normal(mean, np.diag(np.maximum(variance, LEAST)))

    @property
    def tilt(self) -> Information:
        """What makes a density that is flat over ξ out of one that is flat along the axes: of
        equal parts of a logarithm, larger ξ have more room."""
        K = len(self.xi_low)
        return Information(np.zeros(K), np.zeros((K, K)), self.log.astype(float))
