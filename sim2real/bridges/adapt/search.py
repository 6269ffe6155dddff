"""Search: the context that gives the best return on the target, by black-box optimisation.

CMA-ES (Hansen 2016) over the context, scaled to its ranges, one episode for each candidate. It
needs a reward on the target and more episodes than identification; what it does not need is a
simulator that can explain the logs.
"""

from __future__ import annotations

from collections.abc import Callable

import cmaes
import numpy as np

from sim2real.dynamics.parameter import ParameterSpace
from sim2real.types import Array

PATIENCE = 10
"""Candidates in a row that may be refused before the search ends: where most of what it proposes
is refused, more proposals cost time and find little."""


def search(
    try_context: Callable[[Array], float],
    space: ParameterSpace,
    *,
    episodes: int,
    seed: int = 0,
    allowed: Callable[[Array], bool] = lambda context: True,
) -> tuple[Array, list[float]]:
    """((K,) the best context that was tried, nominal where none was; the returns (n,)).

    Args:
        try_context: runs one episode on the target with a context (K,) and gives its return, NaN
            where there is none, because the budget of the target is used up: the search ends.
        episodes: how many times it may be called, at least one.
        allowed: whether a context (K,) may be tried. One that is refused costs no episode and is
            drawn anew, as CMA-ES does with what leaves the ranges.
    """
    low, high = np.array(space.low, float), np.array(space.high, float)
    width = np.where(high > low, high - low, 1.0)
    nominal = np.array(space.nominal, float)
    K = len(low)
    optimizer = cmaes.CMA(
        mean=np.clip((nominal - low) / width, 0.0, 1.0), sigma=0.25, seed=seed,
        bounds=np.tile([0.0, 1.0], (K, 1)),
        population_size=max(4, min(4 + int(3 * np.log(K)), episodes)),
    )  # fmt: skip
    tried: list[tuple[Array, float]] = []
    generation: list[tuple[Array, float]] = []
    refused = 0
    while len(tried) < episodes and refused < PATIENCE:
        x = optimizer.ask()
        context = np.clip(low + x * width, low, high)
        if not allowed(context):
            refused += 1
            continue
        refused = 0
        value = try_context(context)
        if not np.isfinite(value):
            break
        tried.append((context, value))
        generation.append((x, -value))
        if len(generation) == optimizer.population_size:
            optimizer.tell(generation)
            generation = []
    best = max(tried, key=lambda pair: pair[1])[0] if tried else nominal
    return best, [value for _, value in tried]
