"""One or two parameters of ξ from logs: the likelihood of the whole log at every cell of a grid.

Nothing is taken for straight, and every cell is followed by a filter with its own gains; noise and
drift are the likeliest, single contacts bounded (`tracking.py`).
So it is what `fit.py` is held against; and it shows a density with two summits, which that cannot.
The price is a filter for every cell, hence one or two parameters.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from sim2real import progress
from sim2real.identification.fit import rounded
from sim2real.identification.held_out import FOLDS, Windows, evidence, windows_of
from sim2real.identification.posterior import Posterior
from sim2real.identification.tracking import (
    FIRST_DRIFT,
    LEAST_DRIFT,
    Supposed,
    Track,
    Tracker,
    whitened,
)
from sim2real.identification.trajectories import checked
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

log = logging.getLogger(__name__)

ROUNDS = 12
"""Grids at most, each over what the one before left."""
CELLS = {1: 32, 2: 12}
"""Along each parameter, where one or two are free."""
NATS = 10.0
"""Below the likeliest cell, from which on a cell is left out of the next grid."""
TRIED = 0.4
"""Times the drift, or one over it, is tried beside it."""
BETTER = 0.5
"""Nats by which what is tried must be likelier to be taken."""
STAYS = 0.9
"""Share of its size that a grid keeps when it no longer shrinks."""
RESOLVED = 3.0
"""Cells along each parameter that must carry the weight."""
AT_ONCE = 16
"""Filters that run side by side; their gains take memory."""
SAMPLES = 256
"""Of ξ, in a posterior."""


def grid(
    robot: Robot, episodes: Sequence[Trajectory], *, cells: int = 0, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:  # fmt: skip
    """The posterior over the one or two parameters whose range is not a point, flat before the log.

    Args:
        episodes: logged episodes of one robot.
        cells: along each free parameter; `CELLS` where 0.

    Raises:
        InputError: more free parameters, none, or as `fit`.
    """
    space = robot.space
    low, high = np.array(space.low, float), np.array(space.high, float)
    free = np.flatnonzero(high > low)
    if len(free) not in CELLS:
        named = ", ".join(space.names[k] for k in free) or "none"
        raise InputError(
            f"{robot.name}: a grid is for one or two parameters, and {len(free)} are free "
            f"({named}); name one or two with --only, in Python with only=(...)"
        )
    tracker = checked(robot, episodes)
    box = np.stack([low[free], high[free]])
    supposed, refined, round_ = Supposed(FIRST_DRIFT, tracker.noise), False, 0
    while True:
        round_ += 1
        xi, width = _cells(np.clip(space.nominal, low, high), free, box, cells or CELLS[len(free)])
        windows, log_p = _followed(tracker, xi, supposed)
        total = log_p.sum(axis=1)
        best = xi[np.argmax(total)]
        report(round_, {"drift": supposed.drift})
        if refined or round_ == ROUNDS:
            break
        likelier = _supposed(tracker, best, supposed)
        around = _around(xi[:, free], total, box, width, low[free], high[free])
        grew = ((around[0] < box[0]) | (around[1] > box[1])).any()
        kept = (np.diff(around, axis=0) > STAYS * np.diff(box, axis=0)).all()
        refined = bool(kept) and not grew and likelier is supposed
        box, supposed = around, likelier
    report(ROUNDS, {})
    weights = _weights(total)
    if not refined or 1 / np.square(weights).sum() < RESOLVED ** len(free):
        log.warning(
            "%s: the grid does not resolve this posterior, which is narrower than its cells, or a "
            "ridge aslant to them; give it more `cells` in Python, or take `fit`", robot.name,
        )  # fmt: skip
    return _posterior(tracker, xi, width, free, windows, log_p, supposed, seed)


def _cells(fixed: Array, free: Array, box: Array, n: int) -> tuple[Array, Array]:
    """(G, K) middles of n equal cells along each free parameter, and the cells' size (F,)."""
    width = (box[1] - box[0]) / n
    middles = box[0] + width * (np.arange(n)[:, None] + 0.5)  # (n, F)
    mesh = np.meshgrid(*middles.T, indexing="ij")
    xi = np.tile(fixed, (n ** len(free), 1))
    xi[:, free] = np.stack([m.ravel() for m in mesh], axis=1)
    return xi, width


def _followed(tracker: Tracker, xi: Array, supposed: Supposed) -> tuple[Windows, Array]:
    """Log-likelihoods (G, W) of the windows of the log under physics (G, K)."""
    rows: list[Array] = []
    windows: Windows | None = None
    for first in range(0, len(xi), AT_ONCE):
        some = xi[first : first + AT_ONCE]
        for track in tracker.follow(some, [supposed] * len(some)):
            windows = windows or windows_of(tracker, np.isfinite(track.innovation))
            rows.append(_sums(windows, track))
    assert windows is not None
    return windows, np.array(rows)


def _sums(windows: Windows, track: Track) -> Array:
    white = whitened(track.innovation, track.root)[windows.there]
    return windows.sums(white, track, degrees=np.inf)


def _supposed(tracker: Tracker, xi: Array, now: Supposed) -> Supposed:
    """What is likelier under physics (K,) than what is supposed now, or just that."""
    shown = tracker.follow(xi, [now])[0].noise
    less = max(LEAST_DRIFT, TRIED * now.drift)
    tried = [
        now, Supposed(now.drift, shown), Supposed(less, now.noise), Supposed(less, shown),
        Supposed(now.drift / TRIED, now.noise),
    ]  # fmt: skip
    tracks = tracker.follow(xi, tried)
    best = max(tracks, key=lambda track: track.log_likelihood)
    return best.supposed if best.log_likelihood > tracks[0].log_likelihood + BETTER else now


def _around(xi: Array, log_p: Array, box: Array, width: Array, low: Array, high: Array) -> Array:
    """(2, F) the box of all cells that are not far below the likeliest, a cell wider; where that
    lies at the side of the grid, as much beyond it as the grid is wide."""
    near = xi[log_p > log_p.max() - NATS]
    first, last = near.min(axis=0) - 1.5 * width, near.max(axis=0) + 1.5 * width
    best, size = xi[np.argmax(log_p)], box[1] - box[0]
    first = np.where(best < box[0] + width, box[0] - size, first)
    last = np.where(best > box[1] - width, box[1] + size, last)
    return np.clip(np.stack([first, last]), low, high)


def _posterior(
    tracker: Tracker, xi: Array, width: Array, free: Array, windows: Windows, log_p: Array,
    supposed: Supposed, seed: int,
) -> Posterior:  # fmt: skip
    robot, space = tracker.robot, tracker.robot.space
    rng = np.random.default_rng(seed)
    low, high = np.array(space.low, float), np.array(space.high, float)
    weights = _weights(log_p.sum(axis=1))
    samples = xi[rng.choice(len(xi), SAMPLES, p=weights)]
    samples[:, free] += width * (rng.random((SAMPLES, len(free))) - 0.5)
    samples = rounded(robot, np.clip(samples, low, high), rng)
    parts = np.zeros(len(log_p[0]), int)
    parts[windows.number] = windows.fold
    without = [_weights(log_p[:, parts != f].sum(axis=1)) @ xi for f in range(FOLDS)]
    ends = np.stack([*without, np.array(space.nominal, float), weights @ xi])
    tracks = tracker.follow(ends, [supposed] * len(ends))
    seen = [windows.sums(whitened(t.innovation, t.root)[windows.there], t) for t in tracks[:-1]]
    unseen = np.stack(seen[:FOLDS])[parts, np.arange(len(parts))]
    found = evidence(unseen, seen[FOLDS])
    last = tracks[-1]
    return Posterior(
        env=robot.name, names=tuple(space.names), units=tuple(space.units), samples=samples,
        weights=np.full(SAMPLES, 1.0 / SAMPLES), low=low, high=high,
        prior_std=np.array(space.prior().std(), float), log_likelihood=found.identified,
        log_likelihood_nominal=found.nominal, gain_error=found.error, windows=windows.size,
        residual=tracker.residual(whitened(last.innovation, last.root), last),
        noise=tracker.by_term(supposed.noise), drift=supposed.drift,
    )  # fmt: skip


def _weights(log_p: Array) -> Array:
    weights = np.exp(log_p - log_p.max())
    return weights / weights.sum()
