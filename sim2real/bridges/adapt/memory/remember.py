"""What a recipe says of a policy that adapts by what it remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sim2real.policy.spec import MemorySpec
from sim2real.types import InputError


@dataclass(frozen=True)
class Remember:
    """`adapt: {method: memory}`: z is what a recurrent network remembers of a robot, over its
    episodes; it needs no reward on the target, and nothing is done between episodes. With `distill`
    a teacher shows how (`student.py`), without it reward does (`rl2.py`)."""

    method: Literal["memory"] = "memory"
    hidden: int = 128
    """M, units of the recurrent network."""
    cell: Literal["gru", "lstm"] = "gru"
    trial: int = 3
    """Episodes of a robot in training, before another takes its place."""
    critic: str | tuple[str, ...] = "v5"
    """With reward: the observation set, or the terms, that the critic is told beside ξ and what the
    policy sees."""
    seconds: float = 10.0
    """With a teacher: after which another robot takes its place at the latest, in the middle of an
    episode."""

    def __post_init__(self) -> None:
        if self.trial < 1:
            raise InputError(f"trial is {self.trial}; a trial has at least 1 episode")
        if not self.seconds > 0:
            raise InputError(f"seconds is {self.seconds}; it must be above 0")
        if self.hidden < 1:
            raise InputError(f"hidden is {self.hidden}; it must be at least 1")

    @property
    def spec(self) -> MemorySpec:
        return MemorySpec(self.hidden, self.cell)
