"""Uniform randomization: every episode draws ξ from its declared ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sim2real.dynamics.distribution import Distribution, LogUniform, Product, Uniform as UniformXi
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.types import InputError, nearest


@dataclass(frozen=True)
class Uniform:
    """Tobin et al. 2017; Peng et al. 2018. The ranges are those of env.yaml unless given here."""

    method: Literal["uniform"] = "uniform"
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Parameter -> (low, high), instead of env.yaml's range. Equal ends hold it fixed."""

    def distribution(self, space: ParameterSpace) -> Distribution:
        """Over ξ (n, K). Raises InputError for a parameter that the robot does not have."""
        bounds = self.bounds(space)
        parts: list[Distribution] = []
        for p in space.parameters:
            low, high = bounds[p.name]
            kind = LogUniform if p.distribution == "loguniform" and low < high else UniformXi
            parts.append(kind((low,), (high,)))
        return Product(tuple(parts))

    def bounds(self, space: ParameterSpace) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high) of the training."""
        for name, (low, high) in self.ranges.items():
            if name not in space.names:
                raise InputError(
                    f"randomize: ranges: no parameter '{name}'{nearest(name, space.names)}; "
                    f"the parameters are {', '.join(space.names)}"
                )
            if low > high:
                raise InputError(f"randomize: ranges: {name}: low {low} is above high {high}")
        declared = zip(space.low.tolist(), space.high.tolist(), strict=True)
        return dict(zip(space.names, declared, strict=True)) | self.ranges
