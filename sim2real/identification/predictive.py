"""Whether any robot within the ranges would have logged this: a posterior-predictive check.

Under physics that are right, what the filter of `tracking.py` does not foresee is white: it is
correlated in time no more than by chance, and by how rough contacts make it. How much that is,
robots tell that the posterior imagines: each is simulated under the commands of the log, with
sensors as noisy as was found, and its log is followed as the real one is (realised discrepancies,
Gelman, Meng and Stern 1996). An effect that no ξ expresses (a motor of its own strength, play, a
bent sensor) leaves surprises that last.

The filter is told of hardly any drift here, whatever was found: drift would let it forgive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim2real.identification.posterior import Posterior
from sim2real.identification.tracking import LEAST_DRIFT, Supposed, Track, whitened
from sim2real.identification.trajectories import follower
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.types import Array

IMAGINED = 12
"""Robots that the posterior imagines."""
LAGS = (1, 2, 3, 5, 8)
"""Control steps over which surprises are held against each other."""
CUT = 4.0
"""Deviations beyond which a surprise counts no more."""


class Predictive(NamedTuple):
    """How long what surprises lasts."""

    correlation: float
    """Of the log's surprises in time: root of the sum over `LAGS` of the squared autocorrelation,
    mean over the sensors."""
    imagined: Array
    """(R,) the same of robots that the posterior imagines."""

    @property
    def misfit(self) -> float:
        """By how many deviations of the imagined robots the log is above them."""
        spread = float(self.imagined.std(ddof=1))
        return (self.correlation - float(self.imagined.mean())) / max(spread, 1e-9)


def check(
    robot: Robot, episodes: Sequence[Trajectory], posterior: Posterior, *,
    imagined: int = IMAGINED, seed: int = 0,
) -> Predictive:  # fmt: skip
    """Holds a log against robots that its posterior imagines.

    Args:
        imagined: R, at least 2.

    Raises:
        InputError: as `fit`.
    """
    rng = np.random.default_rng(seed)
    tracker = follower(robot, episodes)
    supposed = Supposed(LEAST_DRIFT, np.array([posterior.noise[name] for name in tracker.columns]))
    own = tracker.follow(posterior.mean, [supposed])[0]
    xi = posterior.distribution().sample(rng, imagined)
    logs = tracker.imagined(xi, supposed.noise, rng)
    theirs = tracker.follow(xi, [supposed] * imagined, logs)
    return Predictive(correlation(own), np.array([correlation(track) for track in theirs]))


def correlation(track: Track) -> float:
    """How much the surprises of a track are correlated in time: 0 where they are white."""
    white = np.clip(whitened(track.innovation, track.root), -CUT, CUT)  # (E, T, D)
    white = white / np.sqrt(np.nanmean(white**2, axis=(0, 1)))
    lags = [lag for lag in LAGS if lag < white.shape[1]]
    of = np.array([np.nanmean(white[:, lag:] * white[:, :-lag], axis=(0, 1)) for lag in lags])
    return float(np.sqrt(np.square(of).sum(axis=0).mean()))
