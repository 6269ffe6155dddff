"""What can be driven: it says what it is, gives samples, takes commands, can be made limp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sim2real.types import Array


@dataclass(frozen=True)
class TermDescription:
    """One observation term that the robot sends."""

    name: str
    size: int
    unit: str
    elements: tuple[str, ...]


@dataclass(frozen=True)
class ActuatorDescription:
    """The commands it takes, in its own order."""

    names: tuple[str, ...]
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class RobotDescription:
    name: str
    terms: tuple[TermDescription, ...]
    actuators: ActuatorDescription
    control_period: float
    """[s]"""
    realtime: bool
    """True: time passes by itself. False: it waits for each command (lockstep)."""
    reward: bool
    """Whether it declares a reward channel."""
    episode_steps: int | None
    """Control periods after which it truncates an episode; None: never."""


class Sample(NamedTuple):
    """What the robot said last."""

    seq: int
    """Increases with every sample."""
    stamp: float
    """When it was measured [s]: this machine's `time.monotonic()`; in lockstep its own time."""
    obs: dict[str, Array]
    """term -> (size,) float64"""
    reward: float | None
    """Reward since the sample before; None where there is no such channel."""
    terminated: bool
    truncated: bool


class Robot(Protocol):
    def describe(self) -> RobotDescription: ...

    def reset(self, seed: int | None = None) -> Sample:
        """Begin an episode, from where `seed` says where the robot can choose; its first sample.

        Raises TimeoutError when the robot does not answer.
        """
        ...

    def send(self, command: Array, seq: int) -> None:
        """Send a command (A,), in the robot's order, that answers sample `seq`; never waits."""
        ...

    def receive(self, timeout: float) -> Sample:
        """The newest sample that was not given yet; in lockstep, the answer to the last command.

        Raises TimeoutError after `timeout` [s].
        """
        ...

    def damp(self) -> None:
        """Safe stop: no force until the next reset. From any thread, as often as it likes."""
        ...

    def close(self) -> None: ...
