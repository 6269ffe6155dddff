"""Context: the policy is told ξ, and on the robot ξ is identified (or searched) from its logs.

Yu et al. 2017 (universal policy with online system identification). z holds the context; all that
adaptation changes is its value, so the artifact stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from sim2real import progress
from sim2real.bridges.adapt.adapter import Transition
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.identification.identify import explain
from sim2real.identification.posterior import Posterior
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError


@dataclass(frozen=True)
class Context:
    """What a recipe says about it."""

    method: Literal["context"] = "context"
    error: float = 0.05
    """Standard deviation of the error that training adds to ξ, as a share of each range."""
    episodes: int = 10
    """Target episodes that adaptation may use, gate and search included: the artifact says so."""

    def __post_init__(self) -> None:
        if not 0 <= self.error <= 1:
            raise InputError(f"error is {self.error}; it is a share, 0 to 1")
        if self.episodes < 3:
            raise InputError(
                f"episodes is {self.episodes}; adaptation needs at least 3: one to gather, two to "
                "compare"
            )


class ContextState(NamedTuple):
    """z of this bridge."""

    value: Array
    """(K,) what the policy is told."""
    posterior: Posterior | None
    """What the logs said; None before any."""


class ContextAdapter:
    """Adapter that explains the logs: it needs no reward, and changes z between episodes only."""

    def __init__(
        self, robot: Robot, *, seed: int = 0, report: progress.Report = progress.silent
    ) -> None:
        self._robot, self._seed, self._report = robot, seed, report

    def prior(self, rng: np.random.Generator) -> ContextState:
        return ContextState(np.array(self._robot.space.nominal, float), None)

    def begin_episode(self, z: ContextState, rng: np.random.Generator) -> ContextState:
        return z

    def observe(self, z: ContextState, transition: Transition) -> ContextState:
        return z

    def adapt(self, z: ContextState, episodes: Sequence[Trajectory]) -> ContextState:
        """Raises InputError where the logs determine nothing of the robot's state."""
        posterior = explain(self._robot, episodes, seed=self._seed, report=self._report)
        return ContextState(from_posterior(posterior, self._robot.space), posterior)


def from_posterior(posterior: Posterior, space: ParameterSpace) -> Array:
    """(K,) the context that a posterior gives: its mean where the logs tell something, and drawn
    towards the nominal value by how little they tell elsewhere."""
    fixed = posterior.prior_std == 0  # a range of one point: there is nothing to tell
    share = posterior.std / np.where(fixed, 1.0, posterior.prior_std)
    trust = np.where(posterior.informed, 1.0, np.clip(1 - share**2, 0.0, 1.0))
    trust = np.where(fixed, 0.0, trust)
    context = trust * posterior.mean + (1 - trust) * np.array(space.nominal, float)
    return np.clip(context, space.low, space.high)
