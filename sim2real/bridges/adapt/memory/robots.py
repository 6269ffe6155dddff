"""Trials over simulated robots, as a policy that learns by reward sees them: standardised."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sim2real.bridges.adapt.memory.trials import Actions, Outcome
from sim2real.learning.vec_env import scaling
from sim2real.simulation.trials import TrialWorlds
from sim2real.types import Array


class RobotTrials:
    """What came of actions, standardised.

    Actions are in [-1, 1], the middle of a command's range at 0. What is seen and the reward are
    standardised by their running statistics, the same for all robots, for what makes robots differ
    must stay visible; `settle` takes them over, and between two calls they stay as they are. The
    first are of random actions.

    Args:
        seen: O, how many of the first values that the worlds observe the policy sees; the critic is
            told the others, and ξ. None: the policy sees all, and the critic no more.
    """

    def __init__(self, trials: TrialWorlds, seen: int | None = None) -> None:
        self.trials, worlds = trials, trials.worlds
        self.batch = worlds.num_worlds
        self.obs_size = worlds.obs_size if seen is None else seen
        self._told_xi = seen is not None
        size = worlds.obs_size + (worlds.space.K if self._told_xi else 0)
        self.critic_size = size - self.obs_size
        self._half, self._middle = scaling(worlds.action_low, worlds.action_high)
        self.actions = Actions(len(self._half))
        self.obs_statistics = Running(size)
        self.return_statistics = Running(1)
        """Of the discounted reward of a trial so far, whose size scales the reward."""
        self._so_far = np.zeros(self.batch)
        self.returns: deque[float] = deque(maxlen=RECENT)
        """Of the last episodes, undiscounted and as the task gives them."""
        self._return = np.zeros(self.batch)

    def begin(self) -> Array:
        """(B, O + S), new robots."""
        obs = self._told(self.trials.begin())
        self._so_far[:] = self._return[:] = 0.0
        if not self.obs_statistics.count:
            return self._watched(obs)
        return self.obs_statistics.standardised(obs)

    def _watched(self, obs: Array) -> Array:
        """As `begin`, after random actions have shown what there is to see."""
        rng = np.random.default_rng(0)
        self.obs_statistics.add(obs)
        for _ in range(WATCHED):
            self.step(rng.uniform(-1.0, 1.0, (self.batch, self.actions.size)))
        self.settle()
        self.returns.clear()
        return self.begin()

    def step(self, action: Array) -> Outcome:
        """After actions (B, A)."""
        command = self._middle + self._half * np.clip(action, -1.0, 1.0)
        step = self.trials.step(command.astype(np.float32))
        self._return += step.reward
        self.returns.extend(self._return[step.done])
        self._return[step.done] = 0.0
        self._so_far = DISCOUNT * self._so_far + step.reward
        obs = self._told(step.obs)
        self.obs_statistics.add(obs)
        self.return_statistics.add(self._so_far[:, None])
        self._so_far[step.over] = 0.0
        reward = step.reward / self.return_statistics.deviation[0]
        return Outcome(self.obs_statistics.standardised(obs), reward, step.done, step.over)

    def _told(self, obs: Array) -> Array:
        """(B, O + S)"""
        return np.concatenate([obs, self.trials.worlds.xi], axis=1) if self._told_xi else obs

    def settle(self) -> None:
        """Takes over what was gathered since the last call."""
        self.obs_statistics.settle()
        self.return_statistics.settle()


RECENT = 100
"""Episodes whose returns are kept."""
WATCHED = 50
"""Steps of random actions, before anything is learned."""
DISCOUNT = 0.99
"""Of the sums by whose size rewards are scaled."""
LEAST = 1e-8
"""Variance that is added: what hardly varied in training must not count a thousandfold later."""
FARTHEST = 10.0
"""Deviations that are seen at most."""


class Running:
    """Mean and deviation (size,) of what was added until `settle`."""

    def __init__(self, size: int) -> None:
        self.mean, self.deviation = np.zeros(size), np.ones(size)
        self._all = RunningMeanStd(epsilon=0.0, shape=(size,))

    @property
    def count(self) -> int:
        return int(self._all.count)

    def add(self, values: Array) -> None:
        """(n, size)"""
        self._all.update(values)

    def settle(self) -> None:
        """From now on what was added counts."""
        if self.count > 1:
            self.mean, self.deviation = self._all.mean.copy(), np.sqrt(self._all.var + LEAST)

    def state(self) -> dict[str, Array | float]:
        """All of it, for `restore`."""
        seen = self._all
        return {
            "mean": self.mean, "deviation": self.deviation, "all_mean": seen.mean,
            "all_var": seen.var, "count": float(seen.count),
        }  # fmt: skip

    def restore(self, state: Mapping[str, Array]) -> None:
        self.mean, self.deviation = state["mean"].copy(), state["deviation"].copy()
        self._all.mean, self._all.var = state["all_mean"].copy(), state["all_var"].copy()
        self._all.count = float(state["count"])

    def standardised(self, values: Array) -> Array:
        return np.clip((values - self.mean) / self.deviation, -FARTHEST, FARTHEST)
