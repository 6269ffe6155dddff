"""Context: the policy is told ξ, and on the robot ξ is identified (or searched) from its logs.

Yu et al. 2017 (universal policy with online system identification). z holds the context; all that
adaptation changes is its value, so the artifact stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sim2real.dynamics.parameter import ParameterSpace
from sim2real.identification.posterior import Posterior
from sim2real.types import Array


@dataclass(frozen=True)
class Context:
    """What a recipe says about it."""

    method: Literal["context"] = "context"
    engine: Literal["identify", "search"] = "identify"
    """`identify` explains the logs; `search` optimises the episode return by black box."""
    error: float = 0.05
    """Standard deviation of the error that training adds to ξ, as a share of each range."""
    episodes: int = 10
    """Target episodes that adaptation may use, gate and search included."""
    excitation: float = 0.1
    """Standard deviation of the noise added to commands while data is gathered, as a share of the
    command range."""


def from_posterior(posterior: Posterior, space: ParameterSpace) -> Array:
    """(K,) the context that a posterior gives: its mean where the logs tell something, and the
    nominal value pulled towards it by how much they tell elsewhere."""
    trust = np.clip(1 - (posterior.std / posterior.prior_std) ** 2, 0.0, 1.0)
    trust = np.where(posterior.informed, 1.0, trust)
    context = trust * posterior.mean + (1 - trust) * np.array(space.nominal, float)
    return np.clip(context, space.low, space.high)
