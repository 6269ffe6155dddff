"""Trials: several episodes with one robot, and what a policy that remembers is told in them.

A trial is one robot, drawn anew; z lasts for all of its episodes and is cleared between trials. The
whole trial is what is maximised: what an early episode costs may pay in a later one (RL²; Duan and
others 2016, Wang and others 2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from sim2real.types import Array


@dataclass(frozen=True)
class Actions:
    """What a policy chooses: one of `size` actions, or `size` numbers in [-1, 1]; those beyond are
    taken for the ends."""

    size: int
    discrete: bool = False

    def told(self, action: Array) -> Array:
        """(B, size): numbers as they count, a choice as one of `size`."""
        if self.discrete:
            return np.eye(self.size, dtype=np.float32)[action]
        return np.clip(action, -1.0, 1.0)


class Outcome(NamedTuple):
    """What came of an action, in B trials side by side."""

    obs: Array
    """(B, O + S) what is seen next, of the next episode where one ended, of the next trial where
    that did; and what the critic alone is told."""
    reward: Array
    """(B,)"""
    done: Array
    """(B,) bool, an episode ended."""
    over: Array
    """(B,) bool, the trial ended with it, and another robot was drawn."""


class Trials(Protocol):
    """B trials side by side, without end."""

    batch: int
    obs_size: int
    """O, of what the policy sees."""
    critic_size: int
    """S, of what the critic alone is told."""
    actions: Actions

    def begin(self) -> Array:
        """(B, O + S) what is seen first, of robots drawn anew."""
        ...

    def step(self, action: Array) -> Outcome:
        """After the actions (B,) of choices, or (B, A)."""
        ...

    def settle(self) -> None:
        """Called between two sequences: what the observations are standardised by may change."""
        ...


@dataclass(frozen=True)
class Told:
    """x: what the network sees in a step, [observation, last action, last reward, whether an
    episode begins]; zeros for action and reward where a trial begins."""

    obs_size: int
    actions: Actions
    reward: bool = True
    """Whether the robot can measure it; what it cannot, it must not be told in training either."""

    @property
    def size(self) -> int:
        """I"""
        return self.obs_size + self.actions.size + int(self.reward) + 1

    def first(self, obs: Array) -> Array:
        """(B, I) as trials begin, of what is seen first (B, O + S)."""
        rest = np.zeros((len(obs), self.size - self.obs_size))
        rest[:, -1] = 1.0
        return np.concatenate([obs[:, : self.obs_size], rest], axis=1).astype(np.float32)

    def after(self, action: Array, outcome: Outcome) -> Array:
        """(B, I) one step later."""
        reward = [outcome.reward[:, None]] if self.reward else []
        last = np.concatenate([self.actions.told(action), *reward], axis=1)
        last = last * ~outcome.over[:, None]
        seen = outcome.obs[:, : self.obs_size]
        return np.concatenate([seen, last, outcome.done[:, None]], axis=1).astype(np.float32)

    def critic(self, obs: Array) -> Array:
        """(B, S) what the critic alone is told, of (B, O + S)."""
        return obs[:, self.obs_size :].astype(np.float32)
