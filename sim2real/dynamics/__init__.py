"""What physics may be: parameters ξ, their distributions, and models that obey them."""

from sim2real.dynamics.distribution import (
    Beta,
    Distribution,
    Empirical,
    LogUniform,
    Normal,
    Product,
    TruncatedNormal,
    Uniform,
    from_dict,
)
from sim2real.dynamics.parameter import Parameter, ParameterSpace

__all__ = [
    "Beta",
    "Distribution",
    "Empirical",
    "LogUniform",
    "Normal",
    "Parameter",
    "ParameterSpace",
    "Product",
    "TruncatedNormal",
    "Uniform",
    "from_dict",
]
