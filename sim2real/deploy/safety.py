"""What is looked at before a command leaves, as functions of values; a trip is a sentence.

This is not a certified safety function and does not replace an emergency stop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim2real.deploy.contract import Contract, Observation
from sim2real.deploy.robots.base import RobotDescription
from sim2real.types import Array, InputError, nearest

LATE_WINDOW = 100
"""Ticks over which late ones are counted."""


class Verdict(NamedTuple):
    ok: bool
    """False: hold the last command in this tick."""
    stop: str | None = None
    """Stop the robot; the reason, one sentence."""


OK = Verdict(True)
HOLD = Verdict(False)


def limit(command: Array, low: Array, high: Array) -> Array:
    """clip(command, low, high), (A,)"""
    return np.clip(command, low, high)


def limit_rate(command: Array, last: Array, rate: Array | None, period: float) -> Array:
    """At most `rate` [unit/s] · `period` [s] away from `last`, (A,); None: no such limit."""
    if rate is None:
        return command
    return np.clip(command, last - rate * period, last + rate * period)


def not_finite(obs: Mapping[str, Array], terms: tuple[Observation, ...]) -> str | None:
    """The first value of `terms` that is not finite, by name; None where all are."""
    for term in terms:
        value = obs[term.name]
        if not np.isfinite(value).all():
            i = int(np.argmin(np.isfinite(value)))
            element = f" ({term.elements[i]})" if len(term.elements) == term.size else ""
            return f"observation term '{term.name}' gave {value[i]} at place {i}{element}"
    return None


def tilt(value: Array) -> float:
    """Angle between the body's and the world's vertical [rad], in [0, π].

    `value` is the angle itself (1,), the direction of gravity in the body frame (3,), upright (0,
    0, -1), or a quaternion w, x, y, z (4,) from body to world: R₂₂ = 1 - 2 (x² + y²) / |q|².
    """
    if value.size == 1:
        return abs(math.remainder(float(value[0]), 2 * math.pi))
    if value.size == 3:
        down = -float(value[2]) / max(float(np.linalg.norm(value)), 1e-12)
    else:
        _, x, y, _ = (float(v) for v in value)
        down = 1 - 2 * (x * x + y * y) / max(float(value @ value), 1e-12)
    return math.acos(min(1.0, max(-1.0, down)))


@dataclass(frozen=True)
class Wiring:
    """How the artifact's commands become the robot's, joined by name, never by position."""

    order: NDArray[np.intp]
    """(A,) robot_command = command[order]"""
    low: Array
    """(A,) the artifact's limits intersected with the robot's, in the artifact's order."""
    high: Array

    @staticmethod
    def join(contract: Contract, robot: RobotDescription) -> Wiring:
        """Raises InputError, naming the difference, for another robot than was trained for."""
        terms = {t.name: t for t in robot.terms}
        for t in contract.observations:
            if t.name not in terms:
                raise InputError(
                    f"{robot.name} sends no term '{t.name}'{nearest(t.name, terms)}; it sends "
                    f"{', '.join(terms)}"
                )
            for label, ours, theirs in (
                ("size", t.size, terms[t.name].size),
                ("unit", t.unit, terms[t.name].unit),
                ("elements", t.elements, terms[t.name].elements),
            ):
                if ours != theirs:
                    raise InputError(
                        f"term '{t.name}': the {label} is {theirs} on {robot.name}; "
                        f"{contract.name} needs {ours}"
                    )
        if not math.isclose(robot.control_period, contract.control_period, rel_tol=1e-6):
            raise InputError(
                f"{robot.name} has a control period of {robot.control_period:g} s; "
                f"{contract.name} was trained at {contract.control_period:g} s"
            )
        c, a = contract.commands, robot.actuators
        if sorted(c.names) != sorted(a.names) or c.unit != a.unit:
            raise InputError(
                f"{robot.name} takes the commands {', '.join(a.names)} [{a.unit}]; "
                f"{contract.name} gives {', '.join(c.names)} [{c.unit}]"
            )
        index = [a.names.index(name) for name in c.names]
        low = np.maximum(c.low, np.asarray(a.low)[index])
        high = np.minimum(c.high, np.asarray(a.high)[index])
        if (low > high).any():
            name = c.names[int(np.argmax(low > high))]
            raise InputError(
                f"command '{name}': the limits of {robot.name} and of {contract.name} do not meet"
            )
        return Wiring(np.array([c.names.index(name) for name in a.names], np.intp), low, high)


class Guards:
    """Counts, over one episode, what the contract's safety limits count."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.stale_ticks = 0
        self.nan_ticks = 0
        self._late: deque[bool] = deque(maxlen=LATE_WINDOW)

    def age(self, age: float) -> Verdict:
        """Of the newest sample [s]: held while it is too old, stopped when that lasts. A stamp from
        the future, or none, tells no age: it counts as too old."""
        oldest = self.contract.max_observation_age
        fresh = -self.contract.control_period <= age <= oldest  # false for NaN
        self.stale_ticks = 0 if fresh else self.stale_ticks + 1
        if not self.stale_ticks:
            return OK
        if self.stale_ticks < self.contract.safety.stale_ticks:
            return HOLD
        return Verdict(
            False,
            f"stale: the newest observation is {age * 1e3:.0f} ms old; at most {oldest * 1e3:.0f} "
            "ms are allowed",
        )

    def finite(self, complaint: str | None) -> Verdict:
        """Of one tick, observation and policy together; `complaint` says what was not finite."""
        self.nan_ticks = self.nan_ticks + 1 if complaint else 0
        if not complaint:
            return OK
        return (
            Verdict(False, f"not finite: {complaint}")
            if self.nan_ticks >= self.contract.safety.nan_ticks
            else HOLD
        )

    def upright(self, obs: Mapping[str, Array]) -> Verdict:
        """Of a finite observation: stopped beyond max_tilt, at once."""
        safety = self.contract.safety
        if safety.max_tilt is None or safety.tilt_term is None:
            return OK
        angle = tilt(obs[safety.tilt_term])
        if angle <= safety.max_tilt:
            return OK
        return Verdict(
            False,
            f"tilt: {angle:.2f} rad by '{safety.tilt_term}'; at most {safety.max_tilt:.2f} rad are "
            "allowed",
        )

    def late(self, late: bool) -> Verdict:
        """Of one tick: stopped when too many of the last LATE_WINDOW were late."""
        self._late.append(late)
        count, allowed = sum(self._late), self.contract.safety.late_ticks
        if count < allowed:
            return OK
        return Verdict(
            False, f"late: {count} of the last {len(self._late)} ticks missed their deadline"
        )
