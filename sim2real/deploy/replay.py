"""Does an artifact do now what a log says was done, and where not, which term was read otherwise?

The log is gone through tick by tick: what was seen goes into the artifact, its state fed back, and
what it says is held against what was logged. At the first tick at which they differ, every term is
read in other ways in which robots are wired wrongly (degrees for radians, a sign, two joints
exchanged, a tick late, ...), alone; a reading with which the artifact says what was logged is
named, and counted over the rest of the log.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim2real.deploy.adapt import apply
from sim2real.deploy.artifact import Artifact, NonFiniteError, Runner
from sim2real.deploy.contract import Observation
from sim2real.deploy.logs.npz import EpisodeLog, read_logs
from sim2real.deploy.safety import Wiring, not_finite
from sim2real.types import Array, InputError

TOLERANCE = 1e-4
"""Of |logged - replayed| / (1 + |logged|): of a recurrent state, rounding adds up, more on another
processor."""

Reading = Callable[[Array, Array], Array]
"""(value now, value a tick before) -> what is read instead, each (size,)."""


@dataclass(frozen=True)
class Disagreement:
    """The first tick at which log and artifact differ."""

    log: str
    """When its episode started, as in the log's name."""
    episode: int
    tick: int
    seconds: float
    """Since the episode began."""
    actuator: str
    """Of the largest difference."""
    logged: float
    replayed: float
    """The raw action."""
    term: str | None
    """Which, read otherwise, explains it; None: none does alone."""
    reading: str | None
    explained: int
    """Ticks of the logs at which the artifact, reading so throughout, says what was logged."""


@dataclass(frozen=True)
class Replay:
    """What came of it."""

    artifact: str
    same: bool
    """Whether the logs are of this artifact, by its hash."""
    episodes: int
    ticks: int
    """In which the policy ran."""
    agreed: int
    """Of those, at which it says what was logged."""
    worst: float
    """Largest |logged - replayed| / (1 + |logged|)."""
    first: Disagreement | None

    @property
    def ok(self) -> bool:
        return self.first is None

    @property
    def sentence(self) -> str:
        """All of it, for a person."""
        of = "" if self.same else " (they were written with another artifact)"
        if self.first is None:
            return (
                f"{self.artifact} does what the logs say{of}: {self.ticks} ticks in "
                f"{self.episodes} episodes, at most {self.worst:.1g} apart"
            )
        d = self.first
        at = (
            f"{d.log}, episode {d.episode}, tick {d.tick} ({d.seconds:.3f} s): '{d.actuator}' was "
            f"{d.logged:.4g} and is {d.replayed:.4g}{of}; {self.agreed} of {self.ticks} ticks agree"
        )
        if d.term is None:
            return f"{at}; no term, read otherwise, explains it alone"
        return (
            f"{at}; with '{d.term}' {d.reading} it does what was logged, in {d.explained} of "
            f"{self.ticks} ticks"
        )

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "sentence": self.sentence, **asdict(self)}


def replay(artifact: Artifact | str | Path, logs: str | Path | Iterable[str | Path]) -> Replay:
    """Goes through logs of `sim2real run`, or of a robot that writes the same.

    Args:
        logs: files, folders of them, or several.

    Raises:
        InputError: a log that cannot be read, of another robot, or without a tick in which the
            policy ran; or logs that begin amid a run of a policy that remembers it.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
    episodes = read_logs(logs)
    for episode in episodes:
        Wiring.join(artifact.contract, episode.info.robot)
    usual = _Pass(artifact)
    usual.all(episodes)
    if not usual.ticks:
        raise InputError("the logs hold no tick in which a policy ran; there is nothing to compare")
    first = usual.first
    if first is not None:
        first = _explained(artifact, episodes, first)
    return Replay(
        artifact.contract.name, {e.info.artifact for e in episodes} == {artifact.contract.graph},
        len(episodes), usual.ticks, usual.agreed, usual.worst,
        None if first is None else first.said,
    )  # fmt: skip


class Ran(NamedTuple):
    """A tick in which a policy ran."""

    log: EpisodeLog
    t: int
    """Tick of the log."""
    seen: dict[str, Array]
    """Term -> (size,)"""
    before: dict[str, Array]
    """The same, a tick before; of an episode's first tick itself."""
    reset: bool
    """Whether the policy began an episode."""
    raw: Array
    """(A,) what it did then, in the order of its outputs."""


def retold(runner: Runner, episodes: Iterable[EpisodeLog]) -> Iterator[Ran]:
    """The ticks of logs in which a policy ran. Each is for the caller to run again
    (`runner.step`); what else the runner was told on the robot it is told in between: where a trial
    begins, with which z, and which commands were sent, also where the policy did not run.

    Raises:
        InputError: logs that begin amid a run of a policy that remembers it.
    """
    contract, expected = runner.contract, 0
    for log in episodes:
        info = log.info
        if info.episode != expected or info.episode == 0:
            if info.episode != 0 and runner.is_told_actions:
                raise InputError(
                    f"the logs begin with episode {info.episode} of a run, and "
                    f"{contract.name} remembers those before; give them all"
                )
            runner.begin_trial()
            if info.z is not None:
                apply(runner, replace(info.z, artifact=contract.graph))
        expected = info.episode + 1
        order = [info.commands.index(name) for name in contract.commands.names]
        begun, before = False, {t.name: log.obs[t.name][0] for t in contract.observations}
        for t in range(log.ticks):
            seen = {term.name: log.obs[term.name][t] for term in contract.observations}
            raw = log.raw[t][order]
            if np.isfinite(raw).all() and not_finite(seen, contract.observations) is None:
                yield Ran(log, t, seen, before, not begun, raw)
                begun = True
            runner.acted(log.command[t][order], raw)
            before = seen


class _First(NamedTuple):
    said: Disagreement
    states: dict[str, Array]
    """Of the policy, before the tick."""
    obs: dict[str, Array]
    before: dict[str, Array]
    reset: bool
    raw: Array


class _Pass:
    """Once through logs, with a term read in another way where one is given; `only` in one tick of
    the log that started then."""

    def __init__(
        self, artifact: Artifact, term: str = "", reading: Reading | None = None,
        only: tuple[str, int] | None = None,
    ) -> None:  # fmt: skip
        self.contract, self.runner = artifact.contract, Runner(artifact)
        self._term, self._reading, self._only = term, reading, only
        self.ticks = self.agreed = 0
        self.worst = 0.0
        self.first: _First | None = None

    def all(self, episodes: Iterable[EpisodeLog]) -> None:
        for tick in retold(self.runner, episodes):
            self._tick(*tick)

    def _tick(
        self, log: EpisodeLog, t: int, seen: dict[str, Array], before: dict[str, Array],
        reset: bool, raw: Array,
    ) -> None:  # fmt: skip
        states = dict[str, Array]()
        if self.first is None:  # only what comes before the first disagreement is asked for
            states = {s.name: self.runner.state(s.name) for s in self.contract.states}
        if self._only in (None, (log.info.started, t)):
            own = self.said(seen, before, reset)
        else:
            own = self._ran(seen, reset)
        apart = np.abs(own - raw) / (1 + np.abs(raw))
        self.ticks += 1
        self.worst = max(self.worst, float(apart.max()))
        if apart.max() <= TOLERANCE:
            self.agreed += 1
        elif self.first is None:
            i = int(apart.argmax())
            said = Disagreement(
                log.info.started, log.info.episode, t, t * self.contract.control_period,
                self.contract.commands.names[i], float(raw[i]), float(own[i]), None, None, 0,
            )  # fmt: skip
            self.first = _First(said, states, seen, before, reset, raw)

    def said(self, seen: dict[str, Array], before: dict[str, Array], reset: bool) -> Array:
        """(A,) the raw action; NaN where it is not finite."""
        if self._reading is not None:
            other = self._reading(seen[self._term], before[self._term])
            seen = seen | {self._term: other}
        return self._ran(seen, reset)

    def _ran(self, seen: dict[str, Array], reset: bool) -> Array:
        try:
            return self.runner.step(self.contract.flatten(seen), reset)[1].astype(float)
        except NonFiniteError:
            return np.full(self.contract.action_size, np.nan)


def _explained(artifact: Artifact, episodes: list[EpisodeLog], first: _First) -> _First:
    """With the reading, throughout or at this tick alone, that explains most, where it explains
    more than half of all ticks: single ones agree by chance, where a value is near zero, say."""
    best, least = first.said, sum(int(np.isfinite(e.raw).all(axis=1).sum()) for e in episodes) / 2
    for term in artifact.contract.observations:
        for name, reading in readings(term):
            alone = _Pass(artifact, term.name, reading)
            for state, value in first.states.items():
                alone.runner.set_state(state, value)
            own = alone.said(first.obs, first.before, first.reset)
            there = (np.abs(own - first.raw) <= TOLERANCE * (1 + np.abs(first.raw))).all()
            if not there and name != LATE:  # an episode's first tick has none before it
                continue
            tick = (first.said.log, first.said.tick)
            for only, how in ((None, name), (tick, f"{name} at this tick alone")):
                whole = _Pass(artifact, term.name, reading, only)
                whole.all(episodes)
                if whole.agreed > max(best.explained, least):
                    best = replace(best, term=term.name, reading=how, explained=whole.agreed)
    return first._replace(said=best)


LATE = "a tick late"


def readings(term: Observation) -> Iterator[tuple[str, Reading]]:
    """In which other ways a robot may give a term, as a phrase and what it does."""
    n, names = term.size, term.elements or tuple(map(str, range(term.size)))
    each = n == len(names)
    if "rad" in term.unit:
        yield "in degrees", lambda v, _: v * 180 / math.pi
        yield "in radians, taken for degrees", lambda v, _: v * math.pi / 180
    yield "with the other sign", lambda v, _: -v
    yield LATE, lambda _, before: before
    yield "at zero", lambda v, _: 0.0 * v
    yield "in thousandths", lambda v, _: v * 1000
    yield "a thousandfold", lambda v, _: v / 1000
    for i in range(n):
        place = names[i] if each else f"place {i}"
        if n > 1:
            flip = np.where(np.arange(n) == i, -1.0, 1.0)
            yield f"with the other sign of {place}", lambda v, _, flip=flip: v * flip
            held = np.where(np.arange(n) == i, 0.0, 1.0)
            yield f"with {place} at zero", lambda v, _, held=held: v * held
    for i, j in combinations(range(n), 2):
        order = np.arange(n)
        order[[i, j]] = j, i
        pair = f"{names[i]} and {names[j]}" if each else f"places {i} and {j}"
        yield f"with {pair} exchanged", lambda v, _, order=order: v[order]
    if n > 2:
        yield "in reverse", lambda v, _: v[::-1]
    for size in range(2, n // 2 + 1):
        if n % (2 * size) == 0:
            order = np.arange(n).reshape(-1, 2, size)[:, ::-1].ravel()
            yield f"with neighbouring groups of {size} exchanged", lambda v, _, o=order: v[o]
    if n == 4:
        yield "as a quaternion x, y, z, w", lambda v, _: np.roll(v, -1)
