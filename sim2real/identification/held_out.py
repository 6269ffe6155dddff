"""How much better identified than nominal physics foresees what it did not see of a log."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim2real.identification.tracking import Track, Tracker
from sim2real.types import Array

WINDOW = 0.25
"""Seconds of a window: neighbours in time are not independent, windows nearly are."""
FOLDS = 4
"""Windows are foreseen from the others in so many parts."""
NU = 4.0
"""Degrees of freedom of the error model where windows are compared: heavier tails than normal, for
a contact that comes a step early or late is no noise."""


class Windows(NamedTuple):
    """Which window each surprise (E, T, D) that is there belongs to."""

    there: Array
    """(E, T, D) bool"""
    number: Array
    """(M,) of the window, from 0 on."""
    size: int
    """W"""

    @property
    def fold(self) -> Array:
        """(M,) the part in which a surprise is foreseen from the others."""
        return self.number % FOLDS

    def sums(self, white: Array, track: Track, degrees: float = NU) -> Array:
        """(W,) log-likelihoods of surprises (M,), each over its deviation, up to a constant; an
        error model with infinite degrees of freedom is the normal one."""
        scale = np.log(np.diagonal(track.root, axis1=2, axis2=3)[self.there])
        heavy = np.isfinite(degrees)
        far = (degrees + 1) * np.log1p(white**2 / degrees) if heavy else white**2
        total = np.zeros(self.size)
        np.add.at(total, self.number, -0.5 * far - scale)
        return total


def windows_of(tracker: Tracker, there: Array) -> Windows:
    """The windows of what is `there`, (E, T, D) bool, of a followed log."""
    length = max(1, round(WINDOW / tracker.robot.control_period))
    episode, tick, _ = np.nonzero(there)
    _, number = np.unique(episode * (tracker.T // length + 1) + tick // length, return_inverse=True)
    return Windows(there, number, int(number.max(initial=-1)) + 1)


class Evidence(NamedTuple):
    """Log-likelihoods per window; the error is that of their difference."""

    identified: float
    nominal: float
    error: float


def evidence(identified: Array, nominal: Array) -> Evidence:
    """From the log-likelihoods (W,) of windows."""
    gain = identified - nominal
    error = float(gain.std(ddof=1) / len(gain) ** 0.5) if len(gain) > 1 else float("nan")
    return Evidence(float(identified.mean()), float(nominal.mean()), error)
