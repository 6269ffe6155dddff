"""In which states and under which commands: Δr of transitions that classifiers have not seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats

from sim2real.bridges.correct.classifiers import DomainClassifiers, Transitions
from sim2real.localization.findings import Localization, Map, Region
from sim2real.localization.replay import Replay
from sim2real.localization.significance import holm
from sim2real.localization.support import LEAST
from sim2real.types import Array

UPDATES = 600
"""Steps of Adam of each classifier."""


class Evidence(NamedTuple):
    """What the classifiers are shown: the repeated transitions, N = all that there are, in the
    order of episodes and time; each column in its unit."""

    names: tuple[str, ...]
    """(D,) columns."""
    units: tuple[str, ...]
    """(D,)"""
    actuators: tuple[str, ...]
    """(A,)"""
    command_unit: str
    episode: Array
    """(N,)"""
    obs: Array
    """(N, D) s as logged."""
    action: Array
    """(N, A) in [-1, 1]."""
    real: Array
    """(N, D) s' of the robot minus the mean prediction."""
    simulated: Array
    """(N, D) s' of a twin minus the same."""
    half: Array
    """(A,) half of the command range [command_unit]."""
    middle: Array
    """(A,) [command_unit]"""

    @staticmethod
    def of(replay: Replay, real: Array, told: Array, there: Array, seed: int) -> Evidence:
        """One twin of each transition is drawn to stand for the simulation.

        Args:
            real: (E, T, D) the robot minus the mean of its twins.
            told: (M, E, T, D) by the twins.
            there: (E, T) bool: the N transitions that are compared.
        """
        robot = replay.robot
        low, high = (np.asarray(x, float) for x in robot.command_range)
        half, middle = (high - low) / 2, (high + low) / 2
        rng = np.random.default_rng(np.random.SeedSequence([seed, 10]))
        centred = (told - told.mean(axis=0))[:, there]  # (M, N, D)
        one = rng.integers(len(centred), size=centred.shape[1])
        episode = np.broadcast_to(np.arange(replay.E)[:, None], there.shape)[there]
        return Evidence(
            replay.names, replay.units, robot.actuators, robot.config.command_unit, episode,
            replay.obs[:, :-1][there], (replay.command[there] - middle) / half,
            real[there], centred[one, np.arange(centred.shape[1])], half, middle,
        )  # fmt: skip


def with_regions(found: Localization, evidence: Evidence, seed: int = 0) -> Localization:
    """`found` with the regions and the map that cross-fitted classifiers give; as it is, with a
    note, where there are too few transitions or episodes for them."""
    odds = _cross_fitted(evidence, seed)
    if odds is None:
        note = "too few transitions or episodes for the classifiers: no regions"
        return replace(found, notes=(*found.notes, note))
    real, simulated = odds
    rank = stats.rankdata(np.concatenate([simulated, real]))[len(simulated) :]
    auc = (rank.sum() / len(real) - (len(real) + 1) / 2) / len(simulated)
    told_apart = real - simulated  # (N,) robot minus simulation from the same (s, a)
    values = np.concatenate([evidence.obs, evidence.action * evidence.half + evidence.middle], 1)
    names = [*evidence.names, *(f"command {a}" for a in evidence.actuators)]
    units = [*evidence.units, *[evidence.command_unit] * len(evidence.actuators)]
    regions: list[Region] = []
    for c, (name, unit) in enumerate(zip(names, units, strict=True)):
        edges = np.unique(np.quantile(values[:, c], np.linspace(0, 1, 5)))
        for low, high in itertools.pairwise(edges):
            inside = (values[:, c] >= low) & (values[:, c] <= high)
            region = _region(told_apart, inside, evidence.episode)
            if region is not None:
                regions.append(Region(name, unit, float(low), float(high), *region))
    if regions:
        p = holm(np.array([r.p for r in regions]))
        regions = [r._replace(p=float(q)) for r, q in zip(regions, p, strict=True)]
    certain = sorted((r for r in regions if r.p < 0.05), key=lambda r: r.p)
    first = list(dict.fromkeys(r.name for r in [*certain, *regions]))[:2]
    map_ = _map(values, names, told_apart, first) if len(first) == 2 else None
    return replace(found, regions=tuple(certain[:8]), auc=float(auc), map=map_)


def _cross_fitted(evidence: Evidence, seed: int) -> tuple[Array, Array] | None:
    """(N,) Δr of the robot's and of the simulated transitions, each from classifiers that learned
    from other episodes.

    The classifiers are given asinh((s' - f(s, a)) / median) for s' - s, f the simulator's own
    prediction. Given (s, a) that is one-to-one, so Δr stays what it is, and what is small beside
    one step's motion can be seen.
    """
    episodes = np.unique(evidence.episode)
    half = np.isin(evidence.episode, episodes[::2])
    if len(episodes) < 2 or min(half.sum(), (~half).sum()) < LEAST:
        return None
    size = np.median(np.abs(evidence.real), axis=0)
    size = np.where(size > 0, size, np.sqrt(np.square(evidence.real).mean(axis=0)) + 1e-12)
    domains = [
        Transitions(evidence.obs, evidence.action, evidence.obs + np.arcsinh(x / size))
        for x in (evidence.simulated, evidence.real)
    ]
    out = np.zeros((2, len(half)))
    for fold, learn in enumerate((half, ~half)):
        classifiers = DomainClassifiers(
            evidence.obs.shape[1], evidence.action.shape[1], seed=seed + fold
        )
        classifiers.fit(*(Transitions(*(x[learn] for x in d)) for d in domains), updates=UPDATES)
        for k, d in enumerate(domains):
            out[k, ~learn] = classifiers.delta_r(*(x[~learn] for x in d))
    return out[1], out[0]


def _region(value: Array, inside: Array, episode: Array) -> tuple[float, float, float] | None:
    """Means inside and elsewhere, and p of a one-sided t-test over episodes of their difference."""
    contrasts = [
        value[mine & inside].mean() - value[mine & ~inside].mean()
        for e in np.unique(episode)
        for mine in [episode == e]
        if (mine & inside).sum() >= 3 and (mine & ~inside).sum() >= 3
    ]
    if len(contrasts) < 3 or np.ptp(contrasts) == 0:
        return None
    error = np.std(contrasts, ddof=1) / math.sqrt(len(contrasts))
    p = float(stats.t.sf(np.mean(contrasts) / error, len(contrasts) - 1))
    return float(value[inside].mean()), float(value[~inside].mean()), p


def _map(values: Array, names: Sequence[str], told_apart: Array, first: Sequence[str]) -> Map:
    x, y = (values[:, names.index(name)] for name in first)
    edges = [np.unique(np.quantile(v, np.linspace(0, 1, 7))) for v in (x, y)]
    cells = [np.clip(np.searchsorted(e, v, "right") - 1, 0, len(e) - 2)
             for e, v in zip(edges, (x, y), strict=True)]  # fmt: skip
    mean: list[list[float | None]] = []
    for i in range(len(edges[0]) - 1):
        row = [told_apart[(cells[0] == i) & (cells[1] == j)] for j in range(len(edges[1]) - 1)]
        mean.append([float(cell.mean()) if len(cell) >= 5 else None for cell in row])
    return Map((first[0], first[1]), (edges[0].tolist(), edges[1].tolist()), mean)
