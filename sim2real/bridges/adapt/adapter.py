"""The one interface of everything that adapts on a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from sim2real.identification.windows import Trajectory
from sim2real.types import Array

Z = TypeVar("Z")


class Transition(NamedTuple):
    """One control step on the target."""

    obs: Array
    """(O,)"""
    command: Array
    """(A,)"""
    next_obs: Array
    """(O,)"""
    reward: float | None
    """None where the robot has no such channel."""
    done: bool


class Adapter(Protocol[Z]):
    """How experience on the target changes z: pure functions, with three boundaries.

    A trial is `prior`, then episodes, each `begin_episode` and steps that `observe`; between
    episodes `adapt` may change z with all that was gathered. A fall or a safe stop ends the
    episode, not the trial. Reward and done enter in `observe` and `adapt` alone.
    """

    def prior(self, rng: np.random.Generator) -> Z:
        """z before anything is known of the target."""
        ...

    def begin_episode(self, z: Z, rng: np.random.Generator) -> Z:
        """z at the first step of an episode."""
        ...

    def observe(self, z: Z, transition: Transition) -> Z:
        """z after one step."""
        ...

    def adapt(self, z: Z, episodes: Sequence[Trajectory]) -> Z:
        """z after the episodes gathered so far."""
        ...
