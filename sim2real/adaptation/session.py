"""One target, one artifact, and one account of what was spent: what every method adapts with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sim2real import progress
from sim2real.adaptation.belief import Believed
from sim2real.adaptation.gate import by_falls, by_return
from sim2real.adaptation.rehearsal import Rehearsal
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import SCHEMA, AdaptedState
from sim2real.deploy.controller import EpisodeResult, RunResult, run
from sim2real.deploy.logs.npz import stamp_of
from sim2real.deploy.robots.base import Robot as Target, RobotDescription
from sim2real.identification.posterior import Posterior
from sim2real.types import Array, InputError, SafetyStop

EXPLORE = 0.4
"""Share of the episode budget that finds out; the gate gets the rest."""


@dataclass
class Spent:
    """What the target was asked for; everything counts, gate and search included."""

    episodes: int = 0
    seconds: float = 0.0
    falls: int = 0

    def add(self, result: RunResult) -> None:
        self.episodes += len(result.episodes)
        self.seconds += result.seconds
        self.falls += sum(e.terminated or e.stopped is not None for e in result.episodes)


@dataclass(frozen=True)
class Adaptation:
    """What came of it. `z` is what the robot should run with: where nothing helped, the one from
    before."""

    accepted: bool
    reason: str
    z: AdaptedState
    artifact: Path
    posterior: Posterior | None
    rehearsal: Rehearsal | None
    spent: Spent
    stages: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Stage -> return of each target episode, in order; empty where there is no reward."""
    refused: int = 0
    """Contexts that a search proposed and rehearsal refused; none of them drove the target."""
    belief: Believed | None = None
    """What the policy believed of ξ in the trial, where it says so."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted, "reason": self.reason,
            "context": self.z.context,
            "episodes": self.spent.episodes, "seconds": self.spent.seconds,
            "falls": self.spent.falls,
            "stages": self.stages,
            "rehearsal": self.rehearsal._asdict() if self.rehearsal else None,
            "refused": self.refused,
            "posterior": self.posterior.summary() if self.posterior else None,
            "belief": self.belief.summary() if self.belief else None,
        }  # fmt: skip


class Session:
    """Drives the target, within the budget.

    Args:
        out: folder under which the logs are written.
        seconds: target seconds that may be used; None sets no such limit.
    """

    def __init__(
        self, artifact: Artifact, target: Target, out: Path, *, seed: int, seconds: float | None
    ) -> None:
        self.artifact, self.target, self.seconds, self._seed = artifact, target, seconds, seed
        self.spent = Spent()
        self.stages: dict[str, list[float]] = {}
        self._last: float | None = None
        self._logs = out / "logs" / stamp_of(time.time())

    @property
    def rewarded(self) -> bool:
        """Whether the target has a reward."""
        return self.target.describe().reward

    @property
    def figures(self) -> dict[str, float]:
        """What a progress bar shows: episodes so far, and the return of the last."""
        shown: dict[str, float] = {"episodes": self.spent.episodes}
        return shown if self._last is None else shown | {"return": self._last}

    def episode(
        self, stage: str, z: AdaptedState | None, *, excitation: float = 0.0, share: float = 1.0
    ) -> EpisodeResult | None:
        """One target episode; None where the budget of seconds is used up or cut it short. See
        `drive`."""
        result = self.drive(stage, z, excitation=excitation, share=share)
        if result is None or not _whole(result.episodes[-1]):
            return None
        return result.episodes[-1]

    def drive(
        self, stage: str, z: AdaptedState | None, *, episodes: int = 1, excitation: float = 0.0,
        share: float = 1.0,
    ) -> RunResult | None:  # fmt: skip
        """Target episodes of one trial, fewer where it is stopped; None where the budget of seconds
        is used up.

        Args:
            share: of the seconds that may be used so far.

        Raises:
            SafetyStop: the controller stopped the target, and not because it was about to fall.
        """
        left, period = None, self.artifact.contract.control_period
        if self.seconds is not None:
            ticks = int((share * self.seconds - self.spent.seconds) / period + 1e-6)
            if ticks < 1:
                return None
            left = ticks * period
        result = run(
            self.artifact, self.target, episodes=episodes, seconds=left, excitation=excitation,
            z=z, seed=self._seed + self.spent.episodes, log=self._logs / stage,
        )  # fmt: skip
        self.spent.add(result)
        if result.stopped is not None and not result.stopped.startswith("tilt"):
            raise SafetyStop(result.stopped)
        for episode in result.episodes:
            if episode.return_ is not None and _whole(episode):
                self._last = episode.return_
                self.stages.setdefault(stage, []).append(episode.return_)
        return result

    def by_turns(
        self, before: AdaptedState | None, after: AdaptedState, pairs: int, report: progress.Report
    ) -> tuple[bool, str]:
        """Whether episodes with one z are better than with the other, by turns; without a reward,
        by falls per second."""
        whole = list[tuple[EpisodeResult, EpisodeResult]]()
        for k in range(pairs):
            pair = self.episode("before", before), self.episode("after", after)
            # an episode that the budget cut is a good one: dropping it alone would favour the other
            if pair[0] is not None and pair[1] is not None:
                whole.append((pair[0], pair[1]))
            report(80 + round(20 * (k + 1) / pairs), self.figures)
        if not whole:
            return False, "the budget was used up before the adapted policy could be compared"
        old, new = zip(*whole, strict=True)
        if self.rewarded:
            return by_return(*(np.array([e.return_ for e in some], float) for some in (old, new)))
        return by_falls(old, new)

    def state(
        self, value: Sequence[float] | Array, *, names: Sequence[str] = (),
        std: Sequence[float] = (), accepted: bool = False,
    ) -> AdaptedState:  # fmt: skip
        """A value of what the artifact says may be adapted, after what was spent so far."""
        return state_of(self.artifact, value, self.spent, names=names, std=std, accepted=accepted)


def state_of(
    artifact: Artifact, value: Sequence[float] | Array, spent: Spent, *, names: Sequence[str] = (),
    std: Sequence[float] = (), accepted: bool = False,
) -> AdaptedState:  # fmt: skip
    """A value of what an artifact says may be adapted, and what it cost."""
    adapted = artifact.contract.adaptation
    assert adapted is not None
    return AdaptedState(
        SCHEMA, artifact.contract.graph, adapted.state, tuple(names), tuple(map(float, value)),
        tuple(map(float, std)), accepted, spent.episodes, spent.seconds, spent.falls,
    )  # fmt: skip


class Method(Protocol):
    """How z is found."""

    def check(self, target: RobotDescription, where: str) -> None:
        """Raises InputError where this target cannot be adapted on; nothing has moved then."""
        ...

    def on(self, session: Session, episodes: int, report: progress.Report) -> Adaptation:
        """Adapts on a target, in so many episodes."""
        ...

    def from_logs(
        self, logs: Path, export: Callable[[], Artifact], report: progress.Report
    ) -> Adaptation:
        """Adapts to a target that is known by its logs alone.

        Args:
            export: writes the artifact that is adapted.

        Raises:
            InputError: the logs cannot be read, or it must drive the target; nothing is written
                then.
        """
        ...


def check_limited(target: RobotDescription, where: str, what: str) -> None:
    """Raises InputError for a target whose episodes do not end, where `what` is judged by whole
    ones."""
    if target.episode_steps is None:
        raise InputError(
            f"{target.name} at {where} has no episode limit, and what is {what} is judged by "
            "whole episodes; give it one"
        )


def gathering(episodes: int) -> int:
    """How many of the episodes find out, before the others compare."""
    return max(1, min(round(EXPLORE * episodes), episodes - 4))


def _whole(episode: EpisodeResult) -> bool:
    """Whether it ended by itself, and not because the budget did."""
    return episode.terminated or episode.truncated or episode.stopped is not None
