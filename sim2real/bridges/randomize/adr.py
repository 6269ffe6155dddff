"""Automatic domain randomization: the boundaries of a box move with the returns found at them.

OpenAI et al., "Solving Rubik's Cube with a Robot Hand" (2019), algorithm 1. ξ is uniform on a box
around the nominal that is a point at first. Some episodes put one parameter exactly onto one of its
boundaries. When `buffer` returns have been gathered there, the boundary moves out by a step if
their mean is at the upper threshold, in if it is at the lower one, and the buffer is emptied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from sim2real.bridges.randomize.uniform import Uniform
from sim2real.dynamics.distribution import Distribution
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.types import Array, InputError


@dataclass(frozen=True)
class ADR:
    """Widens by itself, one boundary at a time: OpenAI et al. 2019."""

    high: float
    """Mean undiscounted return at a boundary from which it moves out."""
    low: float
    """Mean undiscounted return at a boundary up to which it moves in."""
    method: Literal["adr"] = "adr"
    step: float = 0.05
    """How far a boundary moves, as a share of the parameter's range."""
    buffer: int = 32
    """Episodes at a boundary before it is judged."""
    boundary: float = 0.5
    """Chance that an episode has one parameter at one of its boundaries."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Parameter -> (low, high), instead of env.yaml's range. Equal ends hold it fixed."""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"low is {self.low} and high {self.high}; low must be below high")
        if not 0 < self.step <= 1:
            raise InputError(f"step is {self.step}; it is a share of the range, above 0, at most 1")
        if self.buffer < 1:
            raise InputError(f"buffer is {self.buffer}; it must be at least 1")
        if not 0 < self.boundary <= 1:
            raise InputError(f"boundary is {self.boundary}; it is a chance, above 0 and at most 1")

    def bounds(self, space: ParameterSpace) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high): how far the boundaries may move."""
        return Uniform(ranges=self.ranges).bounds(space)

    def distribution(self, space: ParameterSpace) -> Distribution:
        """What training starts from, over ξ (n, K): the nominal."""
        return self.rule(space).distribution

    def rule(self, space: ParameterSpace) -> Boundaries:
        """What moves the distribution during training, at its start.

        Raises:
            InputError: a range is wrong, or all of them are points.
        """
        return Boundaries(self, space)


@dataclass(frozen=True, eq=False)
class BoundaryBox(Distribution):
    """Uniform on the box [low, high], but that with a `chance` one parameter, of those in `free`,
    is exactly at one of its two ends."""

    low: Array
    high: Array
    free: Array
    chance: float

    def __init__(self, low: ArrayLike, high: ArrayLike, free: ArrayLike, chance: float) -> None:
        v = self._vectors(low=low, high=high)
        self._ordered(v["low"], v["high"])
        self._freeze(**v, free=np.array(free, bool))
        if self.free.shape != self.low.shape or not self.free.any() or not 0 <= chance <= 1:
            raise self._refuse("free must say of each parameter whether it is, and one must be")
        object.__setattr__(self, "chance", float(chance))

    @property
    def dim(self) -> int:
        return self.low.size

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        x = self.low + (self.high - self.low) * rng.random((n, self.dim))
        at = np.flatnonzero(rng.random(n) < self.chance)
        k = rng.choice(np.flatnonzero(self.free), len(at))
        x[at, k] = np.where(rng.random(len(at)) < 0.5, self.low[k], self.high[k])
        return x

    def log_prob(self, x: ArrayLike) -> Array:
        """The density inside the box; where one parameter is at an end, the probability of that
        times the density of the others."""
        x = self._rows(x)
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        wide = self.high > self.low
        ends = wide & ((x == self.low) | (x == self.high))  # (n, K)
        each = self.chance / self.free.sum()
        number = ends.sum(axis=1)
        inside = np.all((x >= self.low) & (x <= self.high), axis=1)
        allowed = np.all(self.free | ~ends, axis=1) & (number <= 1)
        mass = np.where(number == 0, 1.0 - each * (wide & self.free).sum(), each / 2)
        log_mass = np.log(np.where(mass > 0, mass, 1.0)) + np.where(mass > 0, 0.0, -np.inf)
        density = -np.where(ends, 0.0, np.log(width)).sum(axis=1)
        return np.where(inside & allowed, log_mass + density, -np.inf)

    def mean(self) -> Array:
        return 0.5 * (self.low + self.high)

    def std(self) -> Array:
        each = np.where(self.free, self.chance / self.free.sum(), 0.0)
        return (self.high - self.low) * np.sqrt((1 - each) / 12 + each / 4)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "boundary_box", "low": self.low.tolist(), "high": self.high.tolist(),
            "free": self.free.tolist(), "chance": self.chance,
        }  # fmt: skip


def moved(
    boundary: float, outward: float, mean: float, *,
    high: float, low: float, nominal: float, limit: float,
) -> float:  # fmt: skip
    """Where a boundary lies after a full buffer of this mean.

    Args:
        outward: the step, signed: negative for a lower boundary.
        high, low: the thresholds of the mean return.
        nominal, limit: the boundary stays between them.
    """
    if mean >= high:
        boundary += outward
    elif mean <= low:
        boundary -= outward
    return float(np.clip(boundary, min(nominal, limit), max(nominal, limit)))


class Boundaries:
    """What `ADR` says, at work on one robot.

    An episode counts for a boundary that one coordinate of its ξ is exactly at. A parameter whose
    box is still a point is at both its boundaries in every episode; it counts those that have no
    other parameter at a boundary, as an episode chosen for it would be.

    `names` (K,) the robot's parameters; `batch` the episodes that `observe` takes at least. Those
    that began before another boundary moved still count, as in the paper: their ξ says for which.
    """

    batch = 1
    counts_older = True

    def __init__(self, config: ADR, space: ParameterSpace) -> None:
        self.config = config
        self.names = space.names
        bounds = config.bounds(space)
        self._least, self._most = np.array([bounds[n] for n in self.names]).reshape(-1, 2).T
        self._free = self._most > self._least
        if not self._free.any():
            raise InputError(
                "randomize: adr has nothing to widen: every range is a point, or the robot has no "
                "parameters"
            )
        self._nominal = np.clip(space.nominal, self._least, self._most)
        self._low, self._high = self._nominal.copy(), self._nominal.copy()
        self._queues: list[tuple[list[float], list[float]]] = [([], []) for _ in self.names]
        self._last = float("nan")

    @property
    def distribution(self) -> Distribution:
        """Over ξ (n, K), as it stands."""
        return BoundaryBox(self._low, self._high, self._free, self.config.boundary)

    def observe(self, xi: Array, returns: Array) -> Distribution | None:
        """The distribution to draw from after these episodes; None where it stays.

        Args:
            xi: (n, K) of each; what was drawn before a boundary moved no longer counts for it.
            returns: (n,) undiscounted.
        """
        before = self._low.copy(), self._high.copy()
        for x, value in zip(xi, returns, strict=True):
            for k, side in self._counts_for(x):
                self._gather(k, side, float(value))
        same = np.array_equal(before, (self._low, self._high))
        return None if same else self.distribution

    def _counts_for(self, x: Array) -> list[tuple[int, int]]:
        """(parameter, side) of the boundaries that an episode says something of; 0 is low."""
        at = np.stack([x == self._low, x == self._high], axis=1) & self._free[:, None]  # (K, 2)
        wide = self._high > self._low
        found = np.argwhere(at & wide[:, None])
        if not len(found):
            found = np.argwhere(at & ~wide[:, None])
        return [(int(k), int(side)) for k, side in found]

    def _gather(self, k: int, side: int, value: float) -> None:
        queue, config = self._queues[k][side], self.config
        queue.append(value)
        if len(queue) < config.buffer:
            return
        self._last = float(np.mean(queue))
        queue.clear()
        ends, limits = (self._low, self._high), (self._least, self._most)
        step = config.step * (self._most[k] - self._least[k])
        ends[side][k] = moved(
            float(ends[side][k]), float(step if side else -step), self._last,
            high=config.high, low=config.low, nominal=float(self._nominal[k]),
            limit=float(limits[side][k]),
        )  # fmt: skip

    def figures(self) -> dict[str, float]:
        """What a learning curve shows: the mean return of the boundary judged last, and the width
        of each parameter's box as a share of its range."""
        shares = {
            f"width/{self.names[k]}": float(
                (self._high[k] - self._low[k]) / (self._most[k] - self._least[k])
            )
            for k in np.flatnonzero(self._free)
        }
        mean = float(np.mean(list(shares.values())))
        return {"width": mean, "boundary_return": self._last, **shares}

    def summary(self) -> dict[str, Any]:
        """For reports: the bounds that contain 90 % of each parameter, 5 % on either side."""
        at_end = self.config.boundary / (2 * self._free.sum())
        # what the boundaries hold themselves does not have to be taken from between them
        cut = max(0.0, (0.05 - at_end) / max(1.0 - 2 * at_end, 1e-12))
        width = self._high - self._low
        return {
            "method": self.config.method,
            "boundary_return": None if np.isnan(self._last) else self._last,
            "parameters": {
                name: {
                    "low": float(self._low[k] + cut * width[k]),
                    "high": float(self._high[k] - cut * width[k]),
                }
                for k, name in enumerate(self.names)
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `restore` goes on."""
        return {
            "method": self.config.method,
            "names": list(self.names),
            "low": self._low.tolist(),
            "high": self._high.tolist(),
            "queues": [[list(low), list(high)] for low, high in self._queues],
            "last": None if np.isnan(self._last) else self._last,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Puts the rule to what `to_dict` gave. Raises InputError for another rule's or robot's."""
        try:
            if data["method"] != self.config.method or list(data["names"]) != list(self.names):
                raise InputError(
                    f"this is the state of {data['method']} over {', '.join(data['names'])}, not "
                    f"of {self.config.method} over {', '.join(self.names)}"
                )
            low, high = (np.array(data[key], np.float64) for key in ("low", "high"))
            queues = [(list(map(float, a)), list(map(float, b))) for a, b in data["queues"]]
            last = data["last"]
        except (KeyError, TypeError) as error:
            raise InputError(f"not the state of adr ({error})") from None
        K = len(self.names)
        if low.shape != (K,) or high.shape != (K,) or len(queues) != K:
            raise InputError(f"the state of adr needs boundaries and queues of {K} parameters")
        self._low, self._high, self._queues = low, high, queues
        self._last = float("nan" if last is None else last)
