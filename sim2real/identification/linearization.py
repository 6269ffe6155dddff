"""From surprises to a posterior over ξ: linear regression over candidates, not derivatives.

What a candidate ξ does not foresee, r(ξ), is rough: a contact that comes a step earlier turns a
derivative round. So r is not differentiated but regressed over candidates that lie as wide as what
is believed of ξ, and what the line leaves over counts as noise (statistical linearisation; the
posterior linearisation of García-Fernández, Svensson, Morelande and Särkkä 2015):

    r(ξ) ≈ r̄ + J (ξ - ξ̄) + e,   e ~ N(0, Ω),   and under the true ξ  r ~ N(0, 1)
    p(ξ | log) ∝ p(ξ) Π N(0; r̄ + J (ξ - ξ̄), 1 + Ω)

The next candidates are drawn around that, and it is begun anew with the prior, so that the log
counts once. Where 1 + Ω is less than the size of what is left, or neighbours in time are not
independent, the spread follows the scores instead, summed over windows (sandwich, White 1982).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from sim2real.types import Array


class Line(NamedTuple):
    """r(ξ) as a straight line."""

    center: Array
    """(K,) ξ̄"""
    value: Array
    """(M,) r̄"""
    slope: Array
    """(K, M) J"""
    left: Array
    """(M,) Ω, the variance around the line."""

    def at(self, xi: Array) -> Array:
        """(M,)"""
        return self.value + (xi - self.center) @ self.slope

    @property
    def weight(self) -> Array:
        """(M,)"""
        return 1.0 / (1.0 + self.left)


class Normal(NamedTuple):
    """Mean (K,) and covariance (K, K)."""

    mean: Array
    covariance: Array


FAR = 3.0
"""Times the median by which a candidate may be missed."""
SHUFFLES = 12
"""Of the candidates, to see what chance makes of the information in a direction."""


def regressed(xi: Array, r: Array, rng: np.random.Generator) -> Line:
    """The line through candidates (N, K) and their surprises (N, M); N must exceed K + 1.

    Candidates that the line misses by far more than the others, since a contact came that came to
    no other, are left out, a quarter at most.

    A slope that N points give is off by chance, and thousands of surprises add that up to
    information which is none. How much, what is left of the line says, shuffled among the
    candidates (Freedman and Lane 1983), for surprises of one world are not independent. In
    directions where the slopes together are not larger than that, they are taken for zero;
    elsewhere they are shrunk accordingly.
    """
    missed = _missed(xi, r)
    near = missed <= max(FAR * np.median(missed), np.quantile(missed, 0.75))
    if near.sum() >= xi.shape[1] + 2:
        xi, r = xi[near], r[near]
    N, K = xi.shape
    center, value = xi.mean(axis=0), r.mean(axis=0)
    x, y = xi - center, r - value
    left_, size, right = np.linalg.svd(x, full_matrices=False)
    there = size > 1e-9 * size.max()
    slope = left_.T @ y  # (K, M) in directions in which chance is alike
    slope[~there] = 0.0
    rest = y - left_ @ slope
    left = np.square(rest).sum(axis=0) / (N - K - 1)
    weight = 1.0 / (1.0 + left)
    values, vectors = np.linalg.eigh((slope * weight) @ slope.T)
    shuffled = [left_.T @ rest[rng.permutation(N)] for _ in range(SHUFFLES)]
    largest = [np.linalg.eigvalsh((none * weight) @ none.T)[-1] for none in shuffled]
    chance = float(np.mean(largest)) * (N - 1) / (N - K - 1)
    kept = np.sqrt(np.clip(1 - chance / np.maximum(values, 1e-300), 0.0, 1.0))
    slope = (vectors * kept) @ vectors.T @ slope
    back = np.where(there, 1 / np.where(there, size, 1.0), 0.0)
    return Line(center, value, (right.T * back) @ slope, left)


def _missed(xi: Array, r: Array) -> Array:
    """(N,) by how much the least-squares line misses each candidate, its leverage accounted for."""
    x = np.column_stack([np.ones(len(xi)), xi - xi.mean(axis=0)])
    q = np.linalg.qr(x / np.maximum(np.abs(x).max(axis=0), 1e-300)).Q
    rest = r - q @ (q.T @ r)
    return np.sqrt(np.square(rest).sum(axis=1) / np.maximum(1 - np.square(q).sum(axis=1), 1e-3))


def conditioned(line: Line, prior: Normal, use: Array | None = None) -> Normal:
    """The posterior, from the surprises `use` (M,) bool alone where given."""
    weight = line.weight if use is None else line.weight * use
    scaled = line.slope * weight
    known = np.linalg.inv(prior.covariance)
    precision = known + scaled @ line.slope.T
    pull = known @ prior.mean + scaled @ (line.center @ line.slope - line.value)
    covariance = np.linalg.inv(precision)
    return Normal(covariance @ pull, (covariance + covariance.T) / 2)


def robust(line: Line, prior: Normal, window: Array) -> Normal:
    """The posterior with the spread that the scores have over windows, where that is the larger
    one; `window` (M,) numbers them.

    H⁻¹ (S + Λ) H⁻¹ with H the precision, Λ the prior's, and S the scores' covariance over W windows
    times W / (W - K), for K of their degrees of freedom went into the mean.
    """
    K, fit = len(line.center), conditioned(line, prior)
    score = line.slope * line.weight * line.at(fit.mean)  # (K, M)
    names, which = np.unique(window, return_inverse=True)
    total = np.zeros((len(names), K))
    np.add.at(total, which, score.T)
    W = len(names)
    spread = total.T @ total * W / max(W - K, 1)
    known = np.linalg.inv(prior.covariance)
    scores = np.diag(fit.covariance @ (spread + known) @ fit.covariance)
    more = np.sqrt(np.maximum(scores / np.diag(fit.covariance), 1.0))
    return Normal(fit.mean, fit.covariance * np.outer(more, more))


def within(
    posterior: Normal, prior: Normal, low: Array, high: Array, n: int, rng: np.random.Generator
) -> Array:
    """(n, K) draws of ξ in the box, where the prior is flat instead of normal.

    `posterior` came from `prior`, whose part is taken out again. What is left is a normal density
    cut at the box's sides, drawn coordinate by coordinate (Gibbs; Geweke 1991).
    """
    here, before = np.linalg.inv(posterior.covariance), np.linalg.inv(prior.covariance)
    values, vectors = np.linalg.eigh(here - before)
    precision = (vectors * np.maximum(values, 0.0)) @ vectors.T
    pull = here @ posterior.mean - before @ prior.mean
    width = high - low
    drawn = rng.multivariate_normal(posterior.mean, posterior.covariance, n, method="eigh")
    x = np.clip(drawn, low, high)
    for _ in range(SWEEPS):
        for k in np.flatnonzero(width > 0):
            own = precision[k, k]
            if own * width[k] ** 2 < FLAT:
                x[:, k] = low[k] + width[k] * rng.random(n)
                continue
            mean = (pull[k] - x @ precision[k] + own * x[:, k]) / own
            std = own**-0.5
            x[:, k] = mean + std * _cut((low[k] - mean) / std, (high[k] - mean) / std, rng)
    return np.clip(x, low, high)


SWEEPS = 60
"""Of all coordinates; correlated ones forget where they began only slowly."""
FLAT = 1e-6
"""Precision, in units of the range, below which nothing is known."""


def _cut(low: Array, high: Array, rng: np.random.Generator) -> Array:
    """(n,) draws of a standard normal number between low and high, each (n,)."""
    flip = low > 0  # far out on the right the distribution function is 1 to all digits
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    p = ndtr(a) + rng.random(len(a)) * (ndtr(b) - ndtr(a))
    x = np.clip(ndtri(np.clip(p, 1e-300, 1.0)), a, b)
    return np.where(flip, -x, x)
