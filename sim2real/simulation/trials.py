"""Trials: several episodes of every world with one ξ, then others with another."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim2real.simulation.terms import check_finite
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError


class TrialStep(NamedTuple):
    """What came of a control step in B worlds."""

    obs: Array
    """(B, O) what is seen next: of the next episode where one ended, of the next trial where that
    did."""
    reward: Array
    """(B,)"""
    done: Array
    """(B,) bool, an episode ended."""
    over: Array
    """(B,) bool, the trial ended with it, and another ξ was drawn."""


class TrialWorlds:
    """B worlds, each with a robot of its own for the episodes of a trial.

    What the gap of the worlds says of a robot stays with the world.

    Args:
        worlds: that draw their ξ.
        episodes: of a trial.
        steps: control steps after which a trial ends in the middle of an episode, the first of
            every world at a random one of them; 0: no trial does.

    Raises:
        InputError: no episodes, a number of steps below 0, or worlds that draw no ξ.
    """

    def __init__(self, worlds: Worlds, *, episodes: int, steps: int = 0, seed: int = 0) -> None:
        if episodes < 1:
            raise InputError(f"episodes is {episodes}; a trial needs at least 1")
        if steps < 0:
            raise InputError(f"steps is {steps}; it must be 0 or more")
        if worlds.draws.distribution is None:
            raise InputError(
                f"the worlds of {worlds.robot.name} draw no ξ, so there is nothing to adapt to; "
                "give them a distribution"
            )
        self.worlds, self.episodes, self.steps = worlds, episodes, steps
        self.batch = worlds.num_worlds
        self._left = np.full(self.batch, episodes)
        self._taken = np.zeros(self.batch, int)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))

    def begin(self) -> Array:
        """(B, O), new robots."""
        self._left[:] = self.episodes
        self._taken[:] = self._rng.integers(self.steps, size=self.batch) if self.steps else 0
        obs = self.worlds.reset()
        self._check(obs)
        return obs

    def step(self, command: Array) -> TrialStep:
        """After commands (B, A) in the actuators' unit.

        Raises:
            InputError: an observation or a reward is not finite.
        """
        step = self.worlds.advance(command)
        self._check(step.obs, step.reward)
        self._taken += 1
        cut = self._taken == self.steps
        done = step.terminated | step.truncated | cut
        self._left -= done
        over, obs = (self._left == 0) | cut, step.obs
        if done.any():
            xi, new = self.worlds.xi.copy(), np.flatnonzero(over)
            if len(new):
                xi[new] = self.worlds.draws.next(new)
            obs = np.where(done[:, None], self.worlds.reset(done, xi=xi[done]), obs)
            self._left[over], self._taken[over] = self.episodes, 0
        return TrialStep(obs, step.reward, done, over)

    def _check(self, obs: Array, reward: Array | None = None) -> None:
        check_finite(self.worlds.robot.name, self.worlds.terms, obs, reward)
