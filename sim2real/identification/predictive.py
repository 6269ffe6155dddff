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

from sim2real.identification.held_out import WINDOW
from sim2real.identification.posterior import Posterior
from sim2real.identification.tracking import LEAST_DRIFT, Supposed, Track, Tracker, whitened
from sim2real.identification.trajectories import follower, part
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.types import Array

IMAGINED = 12
"""Robots that the posterior imagines."""
LAGS = (1, 2, 3, 5, 8)
"""Control steps over which surprises are held against each other."""
TRIED = 3
"""Draws of the posterior, beside its mean and where it is densest, under which the log is followed:
what explains it best counts."""
COST, LEAST = 4e7, 125
"""Robots times control steps times the cube of the state's coordinates, as filters cost: of a log
that would cost more a part is checked, so many control steps at least."""
SILENT = 1e-3
"""Deviations of the noise below which the surprises of a sensor are rounding."""
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
    """Holds a log against robots that its posterior imagines: a part of it where all would take
    long, see `COST`.

    Args:
        imagined: R, at least 2.

    Raises:
        InputError: as `fit`.
    """
    rng = np.random.default_rng(seed)
    tracker = follower(robot, episodes)
    cost = (2 + TRIED + imagined) * tracker.n**3 * tracker.E * tracker.T
    if cost > COST:
        tracker = follower(robot, part(episodes, tracker.T, COST / cost, LEAST))
    noise = column_noise(tracker, posterior)
    supposed = Supposed(LEAST_DRIFT, noise)
    xi = posterior.distribution().sample(rng, imagined)
    some = np.concatenate([[posterior.mean, posterior.best], xi[:TRIED]])
    own = tracker.follow(some, [supposed] * len(some))
    size = np.sqrt(np.nanmean(_white(own[1], tracker) ** 2, axis=(0, 1)))
    tell = np.flatnonzero(size > SILENT)  # what is foreseen to the last digit tells nothing
    theirs = tracker.follow(xi, [supposed] * imagined, tracker.imagined(xi, noise, rng))
    return Predictive(
        min(_correlation(_white(track, tracker)[..., tell]) for track in own),
        np.array([_correlation(_white(track, tracker)[..., tell]) for track in theirs]),
    )


def column_noise(tracker: Tracker, posterior: Posterior) -> Array:
    """(D,) the noise of every column, where a posterior says that of terms."""
    noise = np.array([posterior.noise[name] for name in tracker.columns])
    for _ in range(2):
        noise = tracker.follow(posterior.best, [Supposed(posterior.drift, noise)])[0].noise
    return noise


def _white(track: Track, tracker: Tracker) -> Array:
    """(E, T', D) surprises, without the beginning, when what no sensor gives is guessed."""
    skipped = min(round(WINDOW / tracker.robot.control_period), tracker.T // 4)
    return np.clip(whitened(track.innovation, track.root), -CUT, CUT)[:, skipped:]


def _correlation(white: Array) -> float:
    """How much surprises (E, T, D) are correlated in time: 0 where they are white, NaN where none
    is there."""
    if not white.shape[2]:
        return float("nan")
    white = white / np.sqrt(np.nanmean(white**2, axis=(0, 1)))
    lags = [lag for lag in LAGS if lag < white.shape[1]]
    of = np.array([np.nanmean(white[:, lag:] * white[:, :-lag], axis=(0, 1)) for lag in lags])
    return float(np.sqrt(np.square(of).sum(axis=0).mean()))
