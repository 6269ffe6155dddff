"""Distributions over ξ, joint over its K parameters: a posterior keeps its correlations.

Every distribution is an immutable value: two with the same numbers are equal, and `to_dict` and
`from_dict` carry it through YAML or JSON without losing a bit. Randomness is always an argument.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sim2real.types import Array, InputError, nearest


@dataclass(frozen=True, eq=False)
class Distribution(ABC):
    """A distribution over R^K."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """K"""

    @abstractmethod
    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """n independent draws, (n, K) float64."""

    @abstractmethod
    def log_prob(self, x: ArrayLike) -> Array:
        """The log-density at each row of x (n, K), (n,); -inf outside the support."""

    @abstractmethod
    def mean(self) -> Array:
        """(K,)"""

    @abstractmethod
    def std(self) -> Array:
        """The standard deviation of each parameter alone, (K,)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data: `kind` and this distribution's numbers."""
        kind = next(k for k, cls in KINDS.items() if cls is type(self))
        return {"kind": kind, **{f.name: _plain(getattr(self, f.name)) for f in fields(self)}}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Distribution) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def _freeze(self, **arrays: Array) -> None:
        for name, value in arrays.items():
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    def _refuse(self, problem: str) -> InputError:
        return InputError(f"{type(self).__name__}: {problem}")

    def _vectors(self, **values: ArrayLike) -> dict[str, Array]:
        """The arguments as (K,) float64, finite; a number alone is a vector of one, or repeated."""
        try:
            rows = {k: np.atleast_1d(np.array(v, np.float64)) for k, v in values.items()}
            size = max(v.size for v in rows.values())
            rows = {k: np.array(np.broadcast_to(v, (size,))) for k, v in rows.items()}
        except (TypeError, ValueError):
            raise self._refuse(f"{', '.join(values)} must be vectors of one length") from None
        for name, v in rows.items():
            if not np.isfinite(v).all():
                raise self._refuse(f"{name} must be finite, but is {v.tolist()}")
        return rows

    def _rows(self, x: ArrayLike) -> Array:
        x = np.asarray(x, np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise self._refuse(f"log_prob takes (n, {self.dim}), not {x.shape}")
        return x

    def _ordered(self, low: Array, high: Array) -> None:
        if (low > high).any():
            k = int(np.argmax(low > high))
            raise self._refuse(f"low {low[k]:g} is above high {high[k]:g} (entry {k})")


@dataclass(frozen=True, eq=False)
class Uniform(Distribution):
    """Uniform on the box [low, high]; where low = high, all mass is at that point (log_prob 0)."""

    low: Array
    high: Array

    def __init__(self, low: ArrayLike, high: ArrayLike) -> None:
        v = self._vectors(low=low, high=high)
        self._ordered(v["low"], v["high"])
        self._freeze(**v)

    @property
    def dim(self) -> int:
        return self.low.size

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return self.low + (self.high - self.low) * rng.random((n, self.dim))

    def log_prob(self, x: ArrayLike) -> Array:
        x = self._rows(x)
        width = np.where(self.high > self.low, self.high - self.low, 1.0)
        inside = np.all((x >= self.low) & (x <= self.high), axis=1)
        return np.where(inside, -np.log(width).sum(), -np.inf)

    def mean(self) -> Array:
        return 0.5 * (self.low + self.high)

    def std(self) -> Array:
        return (self.high - self.low) / np.sqrt(12.0)


@dataclass(frozen=True, eq=False)
class LogUniform(Distribution):
    """log x uniform on [log low, log high]; where low = high, all mass is at that point."""

    low: Array
    high: Array

    def __init__(self, low: ArrayLike, high: ArrayLike) -> None:
        v = self._vectors(low=low, high=high)
        self._ordered(v["low"], v["high"])
        if (v["low"] <= 0).any():
            raise self._refuse(f"low must be above 0, but is {v['low'].tolist()}")
        self._freeze(**v)

    @property
    def dim(self) -> int:
        return self.low.size

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        x = np.exp(rng.uniform(np.log(self.low), np.log(self.high), (n, self.dim)))
        return np.clip(x, self.low, self.high)  # exp(log(high)) may round to above high

    def log_prob(self, x: ArrayLike) -> Array:
        x = self._rows(x)
        inside = np.all((x >= self.low) & (x <= self.high), axis=1)
        width = np.log(self.high / self.low)
        density = -np.log(np.where(x > 0, x, 1.0)) - np.log(np.where(width > 0, width, 1.0))
        return np.where(inside, np.where(width > 0, density, 0.0).sum(1), -np.inf)

    def mean(self) -> Array:
        return self._moment(1)

    def std(self) -> Array:
        return np.sqrt(np.maximum(self._moment(2) - self._moment(1) ** 2, 0.0))

    def _moment(self, p: int) -> Array:
        """E[x^p] = (high^p - low^p) / (p·log(high/low))"""
        width = p * np.log(self.high / self.low)
        flat = width == 0
        return self.low**p * np.where(flat, 1.0, np.expm1(width) / np.where(flat, 1.0, width))


@dataclass(frozen=True, eq=False)
class Normal(Distribution):
    """Normal with a full covariance (K, K), symmetric and positive definite."""

    center: Array
    covariance: Array

    def __init__(self, center: ArrayLike, covariance: ArrayLike) -> None:
        mu = self._vectors(center=center)["center"]
        cov = np.atleast_2d(np.array(covariance, np.float64))
        if cov.shape != (mu.size, mu.size) or not np.isfinite(cov).all():
            raise self._refuse(f"covariance must be finite and ({mu.size}, {mu.size})")
        if not np.allclose(cov, cov.T, rtol=1e-9, atol=0.0):
            raise self._refuse("covariance must be symmetric")
        try:
            np.linalg.cholesky(cov)
        except np.linalg.LinAlgError:
            raise self._refuse("covariance must be positive definite") from None
        self._freeze(center=mu, covariance=cov)

    @property
    def dim(self) -> int:
        return self.center.size

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        L = np.linalg.cholesky(self.covariance)
        return self.center + rng.standard_normal((n, self.dim)) @ L.T

    def log_prob(self, x: ArrayLike) -> Array:
        L = np.linalg.cholesky(self.covariance)
        e = np.linalg.solve(L, (self._rows(x) - self.center).T)  # (K, n), white
        return (
            -0.5 * np.sum(e * e, 0) - np.log(np.diag(L)).sum() - 0.5 * self.dim * np.log(2 * np.pi)
        )

    def mean(self) -> Array:
        return self.center.copy()

    def std(self) -> Array:
        return np.sqrt(np.diag(self.covariance))


@dataclass(frozen=True, eq=False)
class TruncatedNormal(Distribution):
    """Independent normals N(center, scale²), each cut to [low, high]."""

    center: Array
    scale: Array
    low: Array
    high: Array

    def __init__(
        self, center: ArrayLike, scale: ArrayLike, low: ArrayLike, high: ArrayLike
    ) -> None:
        v = self._vectors(center=center, scale=scale, low=low, high=high)
        self._ordered(v["low"], v["high"])
        if (v["scale"] <= 0).any() or (v["low"] == v["high"]).any():
            raise self._refuse("scale must be above 0 and low below high")
        self._freeze(**v)

    @property
    def dim(self) -> int:
        return self.center.size

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        x = self._scipy().rvs((n, self.dim), random_state=rng)
        return np.clip(x, self.low, self.high)

    def log_prob(self, x: ArrayLike) -> Array:
        return self._scipy().logpdf(self._rows(x)).sum(1)

    def mean(self) -> Array:
        return np.asarray(self._scipy().mean())

    def std(self) -> Array:
        return np.asarray(self._scipy().std())

    def _scipy(self) -> Any:
        from scipy.stats import truncnorm

        a, b = (self.low - self.center) / self.scale, (self.high - self.center) / self.scale
        return truncnorm(a, b, self.center, self.scale)


@dataclass(frozen=True, eq=False)
class Beta(Distribution):
    """Independent Beta(a, b), stretched from [0, 1] to [low, high] (DORAEMON, Tiboni 2024)."""

    a: Array
    b: Array
    low: Array
    high: Array

    def __init__(
        self, a: ArrayLike, b: ArrayLike, low: ArrayLike = 0.0, high: ArrayLike = 1.0
    ) -> None:
        v = self._vectors(a=a, b=b, low=low, high=high)
        self._ordered(v["low"], v["high"])
        if (v["a"] <= 0).any() or (v["b"] <= 0).any() or (v["low"] == v["high"]).any():
            raise self._refuse("a and b must be above 0 and low below high")
        self._freeze(**v)

    @property
    def dim(self) -> int:
        return self.a.size

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return self.low + (self.high - self.low) * rng.beta(self.a, self.b, (n, self.dim))

    def log_prob(self, x: ArrayLike) -> Array:
        from scipy.special import betaln, xlog1py, xlogy

        width = self.high - self.low
        u = (self._rows(x) - self.low) / width
        inside = np.all((u >= 0) & (u <= 1), axis=1)
        u = np.where(inside[:, None], u, 0.5)
        density = xlogy(self.a - 1, u) + xlog1py(self.b - 1, -u) - betaln(self.a, self.b)
        return np.where(inside, (density - np.log(width)).sum(1), -np.inf)

    def mean(self) -> Array:
        return self.low + (self.high - self.low) * self.a / (self.a + self.b)

    def std(self) -> Array:
        s = self.a + self.b
        return (self.high - self.low) * np.sqrt(self.a * self.b / (s + 1)) / s


@dataclass(frozen=True, eq=False)
class Empirical(Distribution):
    """Weighted atoms: draws are rows of `samples` (n, K).

    It has probabilities, not a density: log_prob is the log-weight of the rows equal to x.
    """

    samples: Array
    weights: Array

    def __init__(self, samples: ArrayLike, weights: ArrayLike | None = None) -> None:
        rows = np.array(samples, np.float64)
        if rows.ndim != 2 or rows.size == 0 or not np.isfinite(rows).all():
            raise self._refuse("samples must be finite and (n, K) with at least one row")
        n = len(rows)
        w = np.full(n, 1.0 / n) if weights is None else np.array(weights, np.float64)
        if w.shape != (n,) or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
            raise self._refuse(f"weights must be {n} finite numbers, none negative, not all zero")
        # weights that already sum to 1 stay as they are, so that a round trip keeps every bit
        total = w.sum()
        self._freeze(samples=rows, weights=w if abs(total - 1.0) < 1e-12 else w / total)

    @property
    def dim(self) -> int:
        return self.samples.shape[1]

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        return self.samples[rng.choice(len(self.samples), n, p=self.weights)]

    def log_prob(self, x: ArrayLike) -> Array:
        same = np.all(self._rows(x)[:, None, :] == self.samples[None], axis=2)  # (n, atoms)
        mass = same @ self.weights
        return np.where(mass > 0, np.log(np.where(mass > 0, mass, 1.0)), -np.inf)

    def mean(self) -> Array:
        return self.weights @ self.samples

    def std(self) -> Array:
        return np.sqrt(self.weights @ (self.samples - self.mean()) ** 2)


@dataclass(frozen=True, eq=False)
class Product(Distribution):
    """Independent parts side by side: K is the sum of theirs."""

    parts: tuple[Distribution, ...]

    def __init__(self, parts: Sequence[Distribution]) -> None:
        object.__setattr__(self, "parts", tuple(parts))

    @property
    def dim(self) -> int:
        return sum(p.dim for p in self.parts)

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        parts = [p.sample(rng, n) for p in self.parts]
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty((n, 0)), *parts], axis=1)

    def log_prob(self, x: ArrayLike) -> Array:
        x = self._rows(x)
        ends = np.cumsum([p.dim for p in self.parts], dtype=int)
        total = np.zeros(len(x))
        for part, end in zip(self.parts, ends, strict=True):
            total += part.log_prob(x[:, end - part.dim : end])
        return total

    def mean(self) -> Array:
        return np.concatenate([np.empty(0), *(p.mean() for p in self.parts)])

    def std(self) -> Array:
        return np.concatenate([np.empty(0), *(p.std() for p in self.parts)])


KINDS: dict[str, type[Distribution]] = {
    "uniform": Uniform,
    "loguniform": LogUniform,
    "normal": Normal,
    "truncated_normal": TruncatedNormal,
    "beta": Beta,
    "empirical": Empirical,
    "product": Product,
}


def from_dict(data: Mapping[str, Any]) -> Distribution:
    """The distribution that `to_dict` wrote. Raises InputError for an unknown kind or key."""
    if not isinstance(data, Mapping) or data.get("kind") not in KINDS:
        kind = data.get("kind") if isinstance(data, Mapping) else data
        raise InputError(
            f"no distribution '{kind}'{nearest(str(kind), KINDS)}; there are {', '.join(KINDS)}"
        )
    cls: Any = KINDS[data["kind"]]
    known = [f.name for f in fields(cls)]
    values = {k: v for k, v in data.items() if k != "kind"}
    optional = {"beta": {"low", "high"}, "empirical": {"weights"}}.get(data["kind"], set())
    for key in values:
        if key not in known:
            raise InputError(
                f"distribution '{data['kind']}': unknown key '{key}'{nearest(key, known)}; "
                f"it takes {', '.join(known)}"
            )
    if missing := [k for k in known if k not in values and k not in optional]:
        raise InputError(f"distribution '{data['kind']}': {', '.join(missing)} missing")
    if cls is Product:
        return Product([from_dict(p) for p in values["parts"]])
    return cls(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [part.to_dict() for part in value]
    return value.tolist()
