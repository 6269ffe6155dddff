"""A distribution over ξ that moves while the policy learns, as a callback of Stable-Baselines3."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sim2real.dynamics.distribution import Distribution
from sim2real.learning.companion import Companion
from sim2real.simulation.make import AnyWorlds
from sim2real.types import Array, InputError

log = logging.getLogger(__name__)

STATE = "curriculum.json"


class Rule(Protocol):
    """What moves the distribution: `DoraemonRule` and `Boundaries` are such."""

    names: tuple[str, ...]
    """(K,) the robot's parameters."""
    batch: int
    """Episodes that `observe` takes at once."""
    counts_older: bool
    """Whether it can use episodes that were drawn before the distribution moved."""

    @property
    def distribution(self) -> Distribution:
        """Over ξ (n, K), as it stands."""
        ...

    def observe(self, xi: Array, returns: Array) -> Distribution | None:
        """From ξ (n, K) and undiscounted returns (n,), the distribution to draw from; None where
        it stays."""
        ...

    def figures(self) -> dict[str, float]:
        """What a learning curve shows."""
        ...

    def summary(self) -> dict[str, Any]:
        """What a report shows, as plain data; `parameters` with the bounds that contain 90 %."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `restore` goes on."""
        ...

    def restore(self, data: Mapping[str, Any]) -> None:
        """Raises InputError for the data of another rule or robot."""
        ...


@dataclass(eq=False)
class _Episode:
    xi: Array
    """(K,)"""
    value: float = float("nan")
    """Its undiscounted return."""
    length: int = 0
    """Control steps; 0 while it runs."""


class Curriculum(Companion):
    """Hands what the worlds have done to a rule, and has them draw from what it answers.

    Episodes are handed over in the order they began, each batch when all of it has ended: taken as
    they end, the short ones would come first, and ξ under which the policy falls would count for
    more than their share.

    Args:
        worlds: those that the learner acts in, behind a VecMonitor, whose returns are raw.
        rule: is advanced in place.

    `history` holds an entry each time that the rule has judged anything: control steps and episodes
    so far, mean return and length since the entry before, whether the distribution moved, and the
    rule's `summary`.
    """

    def __init__(self, worlds: AnyWorlds, rule: Rule) -> None:
        super().__init__()
        if tuple(worlds.space.names) != tuple(rule.names):
            raise InputError(
                f"the rule is for {', '.join(rule.names)}, but the worlds have "
                f"{', '.join(worlds.space.names)}"
            )
        self._worlds, self.rule = worlds, rule
        self.history: list[dict[str, Any]] = []
        self.episodes = 0
        """Ended and handed to the rule."""
        self._begun: deque[_Episode] = deque()
        self._running: list[_Episode | None] = []
        self._since: list[_Episode] = []
        self._figures = rule.figures()

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `restore` goes on. Episodes under way are not in it."""
        return {"rule": self.rule.to_dict(), "episodes": self.episodes, "history": self.history}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Puts rule, counts and history to what `to_dict` gave; call it before learning.

        Raises:
            InputError: the data are of another rule or robot, or not of a curriculum.
        """
        try:
            rule, episodes, history = data["rule"], int(data["episodes"]), list(data["history"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a curriculum ({error})") from None
        self.rule.restore(rule)
        self.episodes, self.history = episodes, history
        self._figures = self.rule.figures()
        self._begun.clear()
        self._running, self._since = [], []

    def save(self, folder: Path) -> None:
        (folder / STATE).write_text(json.dumps(self.to_dict()) + "\n")

    def load(self, folder: Path) -> None:
        path = folder / STATE
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not the state of a curriculum ({error})") from None
        self.restore(data)

    def _on_training_start(self) -> None:
        worlds = self._worlds
        drawn = worlds.draws.distribution == self.rule.distribution
        if not drawn:
            worlds.draws.distribution = self.rule.distribution
        unbroken = len(self._running) == worlds.num_worlds and all(
            e is None or np.array_equal(e.xi, xi)
            for e, xi in zip(self._running, worlds.xi, strict=True)
        )
        if drawn and unbroken:  # learning goes on in the episodes of the time before
            return
        self._begun.clear()
        self._running = [None] * worlds.num_worlds
        if drawn:
            for i in range(worlds.num_worlds):
                self._begin(i)

    def _on_step(self) -> bool:
        ended = np.flatnonzero(self.locals["dones"]).tolist()
        for i in ended:
            monitored = self.locals["infos"][i].get("episode")
            if monitored is None:
                raise InputError("a curriculum needs the worlds behind a VecMonitor")
            episode = self._running[i]
            if episode is not None:
                episode.value, episode.length = float(monitored["r"]), int(monitored["l"])
            self._begin(i)  # the worlds have already drawn its next ξ
        if ended:
            while self._hand_over():
                pass
        return True

    def _on_rollout_end(self) -> None:
        for name, value in self._figures.items():
            self.logger.record(f"randomize/{name}", value)

    def _on_training_end(self) -> None:
        if not any(entry["moved"] for entry in self.history):
            log.warning(
                "randomize: the distribution has not moved in %d episodes: their returns are below "
                "what it asks for; lower its threshold, or train for more steps",
                self.episodes,
            )

    def _begin(self, world: int) -> None:
        episode = _Episode(self._worlds.xi[world].copy())
        self._running[world] = episode
        self._begun.append(episode)

    def _hand_over(self) -> bool:
        """Whether the oldest episodes made a whole batch, which the rule then has seen."""
        n = self.rule.batch
        if len(self._begun) < n or not all(self._begun[i].length for i in range(n)):
            return False
        batch = [self._begun.popleft() for _ in range(n)]
        self.episodes += n
        self._since += batch
        before = self.rule.summary()
        moved = self.rule.observe(
            np.stack([e.xi for e in batch]), np.array([e.value for e in batch])
        )
        if moved is not None:
            self._worlds.draws.distribution = moved
            if not self.rule.counts_older:
                self._begun.clear()
                self._running = [None] * self._worlds.num_worlds
        after = self.rule.summary()
        if moved is not None or after != before:
            self._figures = self.rule.figures()
            self.history.append(
                {
                    "steps": self.num_timesteps,
                    "episodes": self.episodes,
                    "return": float(np.mean([e.value for e in self._since])),
                    "length": float(np.mean([e.length for e in self._since])),
                    "moved": moved is not None,
                    **after,
                }
            )
            self._since = []
        return True
