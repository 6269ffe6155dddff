"""Which physics each world meets in its next episode."""

from __future__ import annotations

import numpy as np

from sim2real.dynamics.distribution import Distribution
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.types import Array

AHEAD = 16
"""Episodes that are drawn at once: one call for one ξ costs as much as for sixteen."""


class Draws:
    """ξ of the next episodes of B worlds, each from a stream of its own.

    Args:
        distribution: what every episode draws from; None keeps ξ nominal.

    `pinned` (B, K) holds what does not vary between the episodes of a world (its gap says it), and
    NaN elsewhere.
    """

    def __init__(
        self, space: ParameterSpace, num_worlds: int, distribution: Distribution | None
    ) -> None:
        self._space = space
        self._distribution = distribution
        self.pinned = np.full((num_worlds, space.K), np.nan)
        self._rng: list[np.random.Generator] = []
        self._ahead: list[list[Array]] = [[] for _ in range(num_worlds)]

    @property
    def distribution(self) -> Distribution | None:
        return self._distribution

    @distribution.setter
    def distribution(self, distribution: Distribution | None) -> None:
        """From the next episode on; what was drawn ahead from the old one is dropped."""
        self._distribution = distribution
        self._ahead = [[] for _ in self._ahead]

    def seed(self, seed: int) -> None:
        """Restarts every stream, and unpins everything."""
        self._rng = [
            np.random.default_rng(np.random.SeedSequence([seed, i, 1]))
            for i in range(len(self.pinned))
        ]
        self._ahead = [[] for _ in self._ahead]
        self.pinned[:] = np.nan

    def seed_world(self, world: int, seed: int) -> None:
        self._rng[world] = np.random.default_rng(np.random.SeedSequence([seed, world, 1]))
        self._ahead[world] = []

    def next(self, worlds: Array) -> Array:
        """(n, K) for the next episodes of worlds (n,)."""
        if self._distribution is None:
            new = np.tile(self._space.nominal, (len(worlds), 1))
        else:
            new = np.array([self._pop(i, self._distribution) for i in worlds.tolist()])
        pinned = self.pinned[worlds]
        return np.where(np.isnan(pinned), new, pinned)

    def given(self, worlds: Array, xi: Array) -> Array:
        """(n, K) from one ξ (K,) for all of them, or one each (n, K)."""
        return np.broadcast_to(np.asarray(xi, float), (len(worlds), self._space.K)).copy()

    def _pop(self, world: int, distribution: Distribution) -> Array:
        ahead = self._ahead[world]
        if not ahead:
            ahead += list(distribution.sample(self._rng[world], AHEAD)[::-1])
        return ahead.pop()
