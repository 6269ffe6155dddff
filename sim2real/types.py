"""The alphabet of the package, and the small named values that travel between its parts.

B worlds · T steps · N = T·B samples · O observation · A action · K dynamics parameters ·
ξ (xi) physics, (B, K) · z adaptation state · p_s source · p_t target · J return.
SI units, seconds, radians; latencies in milliseconds where a person writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class InputError(ValueError):
    """What a person gave is wrong; the message is one sentence that says what would be right."""


class SafetyStop(RuntimeError):
    """The controller stopped the robot; the message is the reason."""


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name closest to `name`, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


class Step(NamedTuple):
    """What one control step of B worlds gives; finished worlds have already been reset."""

    obs: Array
    """(B, O); for a finished world the first observation of its next episode."""
    reward: Array
    """(B,)"""
    terminated: Array
    """(B,) bool; the task ended, the value beyond is zero."""
    truncated: Array
    """(B,) bool; time ran out, the value beyond is not zero."""
    terminal_obs: Array
    """(B, O); the true last observation, valid in the rows that finished."""
    info: dict[str, Array]
    """The task's own figures, each (B,)."""


class LoggedState(NamedTuple):
    """The part of the simulator's state that a log determines."""

    qpos: Array
    """(T, nq)"""
    qvel: Array
    """(T, nv)"""
    known_qpos: NDArray[np.bool_]
    """(nq,); the entries of qpos that the log measures."""
    known_qvel: NDArray[np.bool_]
    """(nv,)"""
