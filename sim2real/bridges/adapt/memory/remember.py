"""What a recipe says of a policy that adapts while it acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sim2real.policy.spec import MemorySpec
from sim2real.types import InputError


@dataclass(frozen=True)
class OverTrials:
    """z is what a recurrent network keeps of a robot over its episodes; it needs no reward on the
    target, and nothing is done between episodes."""

    hidden: int = 128
    """M, units of the recurrent network."""
    cell: Literal["gru", "lstm"] = "gru"
    trial: int = 3
    """Episodes of a robot in training, before another takes its place."""
    critic: str | tuple[str, ...] = "v5"
    """With reward: the observation set, or the terms, that the critic is told beside ξ and what the
    policy sees."""
    episodes: int = 10
    """Target episodes that adaptation may use, comparison included: the artifact says so."""

    def __post_init__(self) -> None:
        if self.trial < 1:
            raise InputError(f"trial is {self.trial}; a trial has at least 1 episode")
        if self.episodes < 3:
            raise InputError(
                f"episodes is {self.episodes}; adaptation needs at least 3: one to remember, two "
                "to compare"
            )
        if self.hidden < 1:
            raise InputError(f"hidden is {self.hidden}; it must be at least 1")

    def spec(self, xi: Sequence[str]) -> MemorySpec:
        """Of a policy in worlds that differ by these parameters."""
        return MemorySpec(self.hidden, self.cell)


@dataclass(frozen=True)
class Taught(OverTrials):
    """With `distill` a teacher shows what it is for (`student.py`), without it reward does."""

    seconds: float = 10.0
    """With a teacher: after which another robot takes its place at the latest, in the middle of an
    episode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.seconds > 0:
            raise InputError(f"seconds is {self.seconds}; it must be above 0")


@dataclass(frozen=True)
class Remember(Taught):
    """`adapt: {method: memory}`: the policy sees all that is remembered. By reward that is RL²
    (`trial_learner.py`)."""

    method: Literal["memory"] = "memory"
