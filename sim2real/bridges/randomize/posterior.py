"""The posterior of `sim2real identify` as a randomization: narrower than env.yaml, correlated.

Train, run, identify, train again on what was identified: EPOpt's loop (Rajeswaran et al. 2017,
section 3.2), with the posterior of `sim2real/identification` as the new source distribution.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp, ndtr, ndtri

from sim2real.bridges.randomize.uniform import Uniform
from sim2real.dynamics.distribution import Distribution, Empirical
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.identification.posterior import Posterior, at_the_edge
from sim2real.types import Array, InputError, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FromPosterior:
    """Every episode draws ξ from what the logs of the robot said, correlations kept."""

    file: str
    """What `sim2real identify` wrote, as a path from here or from the recipe's own folder."""
    method: Literal["posterior"] = "posterior"
    widen: float = 0.05
    """Standard deviation added to every sample, as a share of the parameter's range: the spread of
    a posterior is not calibrated, and does not know what the simulator cannot express."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Parameter -> (low, high) that ξ stays in, instead of env.yaml's range. Equal ends hold it
    fixed."""

    def __post_init__(self) -> None:
        if not self.file:
            raise InputError("file is empty; give the posterior.json of `sim2real identify`")
        if not 0 <= self.widen <= 1:
            raise InputError(f"widen is {self.widen}; it is a share of the range, 0 to 1")

    def bounds(self, space: ParameterSpace) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high) that no draw leaves."""
        return Uniform(ranges=self.ranges).bounds(space)

    def distribution(self, space: ParameterSpace) -> Distribution:
        """Over ξ (n, K): the samples of the posterior that lie in the ranges, each widened.

        Warns of a parameter whose posterior crowds at an edge of the range that was searched.

        Raises:
            InputError: the file is missing or damaged, it is of another robot, or its samples lie
                outside the ranges.
        """
        posterior = load(self.file)
        made = around(posterior, space, self.bounds(space), self.widen, self.file)
        for sentence in at_the_edge(posterior, space):
            log.warning("%s: %s", self.file, sentence)
        return made


def around(
    posterior: Posterior,
    space: ParameterSpace,
    bounds: Mapping[str, tuple[float, float]],
    widen: float,
    where: str,
) -> Distribution:
    """The samples of a posterior that lie in the bounds, each widened by a normal distribution of
    `widen` times the range. `where` is what messages call the posterior.

    Raises:
        InputError: it is of another robot, or its samples lie outside the bounds.
    """
    columns = _columns(where, posterior, space)
    low, high = np.array([bounds[n] for n in space.names]).reshape(-1, 2).T
    samples = posterior.samples[:, columns].copy()
    fixed = low == high
    samples[:, fixed] = low[fixed]
    inside = np.all((samples >= low) & (samples <= high), axis=1)
    kept = float(posterior.weights[inside].sum())
    if kept < 0.01:
        out = posterior.weights @ ((samples < low) | (samples > high))
        k = int(np.argmax(out))
        raise InputError(
            f"{where}: {out[k]:.0%} of the posterior of '{space.names[k]}' lies outside "
            f"{low[k]:g} to {high[k]:g}; widen its range, or identify again"
        )
    samples, weights = samples[inside], posterior.weights[inside]
    if widen == 0:
        return Empirical(samples, weights)
    return Smoothed(samples, weights, widen * (high - low), low, high)


def load(file: str | Path) -> Posterior:
    """A posterior whose numbers fit each other. Raises InputError."""
    path = Path(file).expanduser()
    posterior = Posterior.load(path)
    K, S = len(posterior.names), len(posterior.weights) if posterior.weights.ndim else 0
    shapes = {
        "samples": (S, K), "weights": (S,), "low": (K,), "high": (K,), "prior_std": (K,)
    }  # fmt: skip
    for name, shape in shapes.items():
        value = getattr(posterior, name)
        if value.shape != shape or not value.size or not np.isfinite(value).all():
            raise InputError(
                f"{path}: not a posterior ({name} must be {shape} finite numbers); identify again"
            )
    if (posterior.weights < 0).any() or abs(posterior.weights.sum() - 1.0) > 1e-6:
        raise InputError(f"{path}: not a posterior (the weights must sum to 1); identify again")
    return posterior


def _columns(file: str, posterior: Posterior, space: ParameterSpace) -> list[int]:
    """Where each parameter of the robot is in the posterior."""
    for name in space.names:
        if name not in posterior.names:
            raise InputError(
                f"{file}: the posterior is of '{posterior.env}' and knows nothing of "
                f"'{name}'{nearest(name, posterior.names)}; identify this robot: its parameters "
                f"are {', '.join(space.names)}"
            )
    if extra := [n for n in posterior.names if n not in space.names]:
        raise InputError(
            f"{file}: the posterior is of '{posterior.env}', with '{extra[0]}', which this robot "
            f"does not have; identify this robot: its parameters are {', '.join(space.names)}"
        )
    return [posterior.names.index(n) for n in space.names]


@dataclass(frozen=True, eq=False)
class Smoothed(Distribution):
    """A weighted mixture of normals of one independent spread around `samples` (n, K), each cut to
    [low, high]: the correlations of the samples stay, every variance grows. A spread of zero
    holds the parameter at its sample."""

    samples: Array
    weights: Array
    spread: Array
    low: Array
    high: Array

    def __init__(
        self, samples: ArrayLike, weights: ArrayLike, spread: ArrayLike, low: ArrayLike,
        high: ArrayLike,
    ) -> None:  # fmt: skip
        atoms = Empirical(samples, weights)
        v = self._vectors(spread=spread, low=low, high=high)
        self._ordered(v["low"], v["high"])
        if v["low"].size != atoms.dim or (v["spread"] < 0).any():
            raise self._refuse(f"spread must be {atoms.dim} numbers, none negative")
        if (atoms.samples < v["low"]).any() or (atoms.samples > v["high"]).any():
            raise self._refuse("samples must lie between low and high")
        self._freeze(samples=atoms.samples, weights=atoms.weights, **v)

    @property
    def dim(self) -> int:
        return self.samples.shape[1]

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        center = self.samples[rng.choice(len(self.samples), n, p=self.weights)]
        below, above = self._tails(center)
        s = ndtri(below + (above - below) * rng.random((n, self.dim)))
        return np.clip(
            center + np.where(self.spread > 0, self.spread * s, 0.0), self.low, self.high
        )

    def log_prob(self, x: ArrayLike) -> Array:
        """Of a parameter with spread zero: 0 where it equals the sample's."""
        x = self._rows(x)
        below, above = self._tails(self.samples)
        wide = self.spread > 0
        scale = np.where(wide, self.spread, 1.0)
        e = (x[:, None, :] - self.samples) / scale  # (n, atoms, K)
        normal = -0.5 * e * e - 0.5 * np.log(2 * np.pi) - np.log(scale) - np.log(above - below)
        at_sample = np.where(e == 0, 0.0, -np.inf)
        each = np.where(wide, normal, at_sample).sum(axis=2)  # (n, atoms)
        total = np.asarray(logsumexp(each, axis=1, b=self.weights))
        inside = np.all((x >= self.low) & (x <= self.high), axis=1)
        return np.where(inside, total, -np.inf)

    def mean(self) -> Array:
        return self.weights @ self._moments()[0]

    def std(self) -> Array:
        mean, variance = self._moments()
        return np.sqrt(self.weights @ (variance + (mean - self.weights @ mean) ** 2))

    def to_dict(self) -> dict[str, Any]:
        names = ("samples", "weights", "spread", "low", "high")
        return {"kind": "smoothed", **{n: getattr(self, n).tolist() for n in names}}

    def _tails(self, center: Array) -> tuple[Array, Array]:
        """Normal probabilities (n, K) below `low` and below `high` of a part centred there."""
        scale = np.where(self.spread > 0, self.spread, 1.0)
        below = np.where(self.spread > 0, ndtr((self.low - center) / scale), 0.0)
        above = np.where(self.spread > 0, ndtr((self.high - center) / scale), 1.0)
        return below, above

    def _moments(self) -> tuple[Array, Array]:
        """Mean and variance of every part, each (atoms, K)."""
        scale = np.where(self.spread > 0, self.spread, 1.0)
        l, h = (self.low - self.samples) / scale, (self.high - self.samples) / scale
        below, above = self._tails(self.samples)
        mass = above - below
        at_l, at_h = (np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) for z in (l, h))
        shift = (at_l - at_h) / mass
        variance = 1 + (l * at_l - h * at_h) / mass - shift**2
        wide = self.spread > 0
        return (
            self.samples + np.where(wide, scale * shift, 0.0),
            np.where(wide, scale**2 * np.maximum(variance, 0.0), 0.0),
        )
