"""Whether the robot differs from its twins, by a permutation test, and in which columns."""

from __future__ import annotations

import math

import numpy as np

from sim2real.localization.findings import TermGap
from sim2real.localization.replay import FLOOR, Replay
from sim2real.types import Array

LEVEL = 0.01
"""Of the test: a finding where there is no gap, in at most this share of trials."""


def twins_for(episodes: int) -> int:
    """Twins of each episode, so many that the most extreme shuffle is rare enough."""
    return {1: 99, 2: 11, 3: 5}.get(episodes, 3)


def distances(logged: Array, told: Array, scale: Array) -> Array:
    """(M + 1, E, T, C) squared distances from the mean over robot and twins, the robot's first.

    Args:
        logged: (E, T, D) what the robot was told after each command.
        told: (M, E, T, D) what each of its twins was told.
        scale: (D,) of one step, from `one_step`: the unit of the distances. C of these columns
            move; the others are left out.
    """
    everyone = np.concatenate([logged[None], told])  # (M + 1, E, T, D)
    moving = scale > 0
    return np.square((everyone - everyone.mean(axis=0))[..., moving] / scale[moving])


def permutation(square: Array, there: Array, seed: int) -> tuple[float, float]:
    """Whether row 0 differs more from the mean than the others do, over E episodes of T steps.

    Args:
        square: (M + 1, E, T) squared distances from the mean over the first axis. If the rows are
            exchangeable within each episode, the test is exact.
        there: (E, T) bool: the transitions that count.

    Returns:
        p, and the factor by which row 0 is further away, in energy.
    """
    log = np.where(there, np.log(square + FLOOR**2), 0.0).sum(axis=2)  # (M + 1, E)
    others, E = len(log) - 1, log.shape[1]
    rng = np.random.default_rng(np.random.SeedSequence([seed, 9]))
    shuffled = log[rng.integers(others + 1, size=(4000, E)), np.arange(E)].sum(axis=1)
    mine = log[0].sum()
    p = (1 + int((shuffled >= mine - 1e-9 * abs(mine)).sum())) / (1 + len(shuffled))
    return p, math.exp(min((mine - log[1:].sum() / others) / there.sum(), 700.0))


def term_gaps(
    replay: Replay, real: Array, scale: Array, square: Array, there: Array, seed: int
) -> tuple[TermGap, ...]:
    """The C columns that move, the largest share of one step's motion first.

    Args:
        real: (E, T, D) the robot minus the mean of its twins, in each column's unit; NaN where
            nothing is compared.
        scale: (D,) of one step, from `one_step`.
        square: (M + 1, E, T, C) from `distances`.
        there: (E, T) bool: the transitions that are compared.
    """
    columns = np.flatnonzero(scale > 0)
    p = [permutation(square[..., k], there, seed)[0] for k in range(len(columns))]
    rms = np.sqrt(np.nanmean(np.square(real), axis=(0, 1)))
    rows = [
        TermGap(replay.names[c], replay.units[c], float(rms[c]), float(rms[c] / scale[c]), float(q))
        for c, q in zip(columns, holm(np.array(p)), strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: -row.share))


def holm(p: Array) -> Array:
    """(n,) p-values corrected for there being n of them (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(corrected, 1.0)
    return out
