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


def search(
    try_context: Callable[[Array], float], space: ParameterSpace, *, episodes: int, seed: int = 0
) -> tuple[Array, list[float]]:
    """((K,) the last mean of the search, or the best candidate if that is all there was; returns).

    Args:
        try_context: runs one episode on the target with a context (K,) and gives its return.
        episodes: how many times it may be called, at least one.
    """
    low, high = np.array(space.low, float), np.array(space.high, float)
    unit = lambda x: (x - low) / (high - low)  # noqa: E731
    K = len(low)
    optimizer = cmaes.CMA(
        mean=unit(np.array(space.nominal, float)), sigma=0.25, seed=seed,
        bounds=np.tile([0.0, 1.0], (K, 1)), population_size=max(2, min(4 + int(3 * np.log(K)), episodes)),
    )  # fmt: skip
    tried: list[tuple[Array, float]] = []
    while len(tried) + optimizer.population_size <= episodes:
        generation: list[tuple[Array, float]] = []
        for _ in range(optimizer.population_size):
            x = optimizer.ask()
            value = try_context(low + x * (high - low))
            generation.append((x, -value))
            tried.append((x, value))
        optimizer.tell(generation)
    best = max(tried, key=lambda pair: pair[1])[0]
    return low + best * (high - low), [value for _, value in tried]
