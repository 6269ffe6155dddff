"""What logs say about ξ: mean, covariance with its correlations, and what they cannot tell."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sim2real.dynamics.distribution import Distribution, Empirical
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.identification.axes import Axes
from sim2real.identification.linearization import Information, densest
from sim2real.types import Array, InputError

INFORMED = 0.5
"""A parameter is revealed where its posterior deviation is below this share of the prior's."""
ALARM = 4.0
"""Deviations of `misfit` from which on the robot is taken for one that no ξ describes."""
EDGE, CROWDED = 0.05, 0.25
"""A posterior is at an edge when the outer EDGE of its range holds CROWDED of its weight: five
times what a uniform one would put there."""


@dataclass(frozen=True)
class Posterior:
    """Weighted samples of ξ given logs, over the parameters `names` of one robot.

    Its spread holds for a robot that some ξ of the ranges describes. What no ξ can express moves
    the mean too, and the spread knows of it only as far as `drift` tells.
    """

    env: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    samples: Array
    """(S, K)"""
    weights: Array
    """(S,), sums to one."""
    low: Array
    """(K,) the range that was searched."""
    high: Array
    prior_std: Array
    """(K,) deviation before any data."""
    log_likelihood: float
    """Per window, at the mean, on windows that the fit did not see; NaN where none were left."""
    log_likelihood_nominal: float
    """The same at the nominal ξ."""
    gain_error: float
    """Standard error of the difference of the two, over windows."""
    windows: int
    """Windows that the fit used."""
    residual: dict[str, float]
    """Term -> root mean square of its prediction error at the mean, in the term's unit."""
    noise: dict[str, float] = field(default_factory=dict[str, float])
    """Term -> deviation of its sensor's white noise, in the term's unit: root mean square."""
    drift: float = float("nan")
    """What no ξ explains, as a random change of every velocity in every control step, over how much
    velocities change in one; `LEAST_DRIFT` in tracking.py where ξ explains the log."""
    misfit: float = float("nan")
    """How much longer what surprises in the log lasts than in those of robots of this posterior, in
    their deviations (`predictive.py`); NaN where it was not checked."""

    calibration: float = float("nan")
    """p-value of uniform ranks on simulated robots (`neural.py`); NaN where nothing was learned."""
    said: Information | None = None
    """What the logs said, on the axes of the ranges (`axes.py`), without what these say; None where
    the method does not tell it from the draws."""

    @property
    def mean(self) -> Array:
        """(K,)"""
        return self.weights @ self.samples

    @property
    def best(self) -> Array:
        """(K,) where what the logs said is densest within the ranges: along a curve, the mean lies
        beside it. The mean where that is not known."""
        if self.said is None:
            return self.mean
        axes = Axes.of(self.low, self.high)
        return axes.back(densest(self.said.with_prior(axes.flat), axes.low, axes.high))

    @property
    def covariance(self) -> Array:
        """(K, K)"""
        centred = self.samples - self.mean
        return (centred * self.weights[:, None]).T @ centred

    @property
    def std(self) -> Array:
        """(K,)"""
        return np.sqrt(np.diag(self.covariance))

    @property
    def outside(self) -> bool:
        """Whether no ξ within the ranges explains the logs."""
        return self.misfit > ALARM

    @property
    def informed(self) -> Array:
        """(K,) bool: whether the logs say more about the parameter than its range did."""
        return self.std < INFORMED * self.prior_std

    def distribution(self) -> Distribution:
        """Over ξ, for randomization and rehearsal; correlations kept."""
        return Empirical(self.samples, self.weights)

    def summary(self) -> list[dict[str, Any]]:
        """One row a parameter whose range is not a point, for people and for JSON."""
        rows = zip(
            self.names, self.units, self.mean, self.std, self.informed, self.high > self.low,
            strict=True,
        )  # fmt: skip
        return [
            {"name": n, "unit": u, "mean": float(m), "std": float(s), "revealed": bool(i)}
            for n, u, m, s, i, free in rows
            if free
        ]

    def save(self, path: str | Path) -> None:
        """Writes JSON, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain = {k: _plain(v) for k, v in self.__dict__.items()}
        if self.said is not None:
            plain["said"] = {k: _plain(v) for k, v in self.said._asdict().items()}
        new = path.with_name(path.name + ".new")
        new.write_text(json.dumps(plain) + "\n")
        os.replace(new, path)

    @staticmethod
    def load(path: str | Path) -> Posterior:
        """Raises InputError where the file is missing or is not a posterior."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file; `sim2real identify` writes one")
        try:
            plain: dict[str, Any] = dict(json.loads(path.read_text()))
            for key in ("samples", "weights", "low", "high", "prior_std"):
                plain[key] = np.asarray(plain.get(key), float)
            for key in ("names", "units"):
                plain[key] = tuple(plain.get(key, ()))
            if (said := plain.get("said")) is not None:
                said = Information(**{k: np.asarray(v, float) for k, v in said.items()})
                K = len(plain["names"])
                if [x.shape for x in said] != [(K,), (K, K), (K,)]:
                    raise ValueError(f"said is not of {K} parameters")
                plain["said"] = said
            return Posterior(**plain)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a posterior ({error})") from None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def at_the_edge(posterior: Posterior, space: ParameterSpace) -> list[str]:
    """One sentence for each parameter whose posterior crowds at an edge of the searched range: the
    robot may be beyond it. Ranges that are drawn in the logarithm are measured in it. A lower edge
    of zero is left out where ξ is set or scales, as nothing is below it (latency, friction)."""
    found: list[str] = []
    for p in space.parameters:
        k = posterior.names.index(p.name)
        low, high = float(posterior.low[k]), float(posterior.high[k])
        x, ends = posterior.samples[:, k], np.array([low, high])
        if p.distribution == "loguniform" and low > 0:
            x, ends = np.log(np.maximum(x, low)), np.log(ends)
        margin = EDGE * (ends[1] - ends[0])
        nothing_below = low == 0 and p.op in ("set", "scale")
        at_low = 0.0 if nothing_below else float(posterior.weights[x <= ends[0] + margin].sum())
        at_high = float(posterior.weights[x >= ends[1] - margin].sum())
        share, edge, end = max((at_low, low, "lower"), (at_high, high, "upper"))
        if high > low and share >= CROWDED:
            found.append(
                f"{share:.0%} of the posterior of '{p.name}' lies at the {end} edge of its range, "
                f"{edge:g}, and the robot may be beyond it; widen the range in env.yaml and "
                "identify again"
            )
    return found
