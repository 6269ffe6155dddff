"""What reality does differently: the gap between the simulator and a robot.

A `Gap` is data. Every number in it may be a value or a distribution, which makes the gap a family
of robots: each world draws its own robot once and keeps it over all its episodes. Physics (ξ),
latency of the action and actuator lag go into the MuJoCo model itself; everything else is a
function on the arrays that pass between policy and physics: see `reality.py`. Shapes and edits are
plain numbers, for they are compiled once into another nominal model (`edits.py`), on which ξ acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from sim2real.simulation.edits import Edit, Shape
from sim2real.simulation.terms import Term
from sim2real.types import Array, InputError, nearest


@dataclass(frozen=True)
class Draw:
    """A number that differs from robot to robot."""

    distribution: Literal["uniform", "loguniform", "normal"]
    low: float = 0.0
    """Lower end, or the mean of a normal distribution."""
    high: float = 0.0
    """Upper end, or the standard deviation of a normal distribution."""

    def __post_init__(self) -> None:
        if self.distribution == "normal":
            if self.high < 0:
                raise InputError(f"the standard deviation {self.high:g} must not be negative")
        elif self.low > self.high:
            raise InputError(f"low {self.low:g} is above high {self.high:g}")
        if self.distribution == "loguniform" and self.low <= 0:
            raise InputError(f"loguniform needs low above 0, not {self.low:g}")

    def sample(self, rng: np.random.Generator) -> float:
        if self.distribution == "uniform":
            return float(rng.uniform(self.low, self.high))
        if self.distribution == "loguniform":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.normal(self.low, self.high))


Value = float | Draw


def ends(value: Value) -> tuple[float, float]:
    """The lowest and the highest that a number may be; twice the mean of a normal distribution,
    which has no ends."""
    if not isinstance(value, Draw):
        return value, value
    return value.low, value.low if value.distribution == "normal" else value.high


def _within(part: object, names: Sequence[str], high: float = np.inf) -> None:
    """Raises InputError where a number of this part, or one of its ends, is not in [0, high]."""
    for name in names:
        if any(not 0 <= end <= high for end in ends(getattr(part, name))):
            bounds = "must not be negative" if high == np.inf else f"must lie in [0, {high:g}]"
            raise InputError(f"{name} {bounds}")


@dataclass(frozen=True)
class Latency:
    action_ms: Value = 0.0
    """From the command's arrival to the actuator, at the physics steps."""
    observation_ms: Value = 0.0
    """From the sensor to the policy; linear between control periods."""

    def __post_init__(self) -> None:
        _within(self, ("action_ms", "observation_ms"))


@dataclass(frozen=True)
class ServoFriction:
    """What the gears of a servo add to the dry friction of its joint; see friction.py."""

    stribeck: Value = 0.0
    """At rest, and less with speed [N m]."""
    load: Value = 0.0
    """Share of the load on the gears."""
    load_stribeck: Value = 0.0
    """Share of the load at rest, and less with speed."""
    speed: Value = 1.0
    """At which the last two have fallen to 1/e [rad/s]."""
    exponent: Value = 1.0

    def __post_init__(self) -> None:
        _within(self, ("stribeck", "load", "load_stribeck"))
        for name in ("speed", "exponent"):
            if any(end <= 0 for end in ends(getattr(self, name))):
                raise InputError(f"{name} must be above 0")

    @property
    def there(self) -> bool:
        return any(_present(v) for v in (self.stribeck, self.load, self.load_stribeck))


@dataclass(frozen=True)
class Actuators:
    strength: Value = 1.0
    """Share of every command that reaches the joint."""
    weak: dict[str, Value] = field(default_factory=dict[str, Value])
    """Actuator name -> its own share, besides `strength`."""
    lag_ms: Value = 0.0
    """Time constant of a first-order lag inside the actuator."""
    backlash: Value = 0.0
    """Half-width of the play between command and joint, in units of the command."""
    stiction: Value = 0.0
    """A joint at rest stays at rest under commands below this share of the full command."""
    stiction_speed: Value = 0.1
    """[rad/s or m/s] below which a joint counts as at rest."""
    friction: ServoFriction = field(default_factory=ServoFriction)
    """What the gears do with load and speed."""

    def __post_init__(self) -> None:
        _within(self, ("strength", "lag_ms", "backlash", "stiction", "stiction_speed"))

    @property
    def effects(self) -> list[str]:
        """The keys that say something else than the default; a speed alone does nothing."""
        given = {
            "strength": self.strength != 1.0, "weak": bool(self.weak), "lag_ms": self.lag_ms != 0.0,
            "backlash": self.backlash != 0.0, "stiction": self.stiction != 0.0,
            "friction": self.friction.there,
        }  # fmt: skip
        return [name for name, said in given.items() if said]


@dataclass(frozen=True)
class Sensor:
    noise: Value = 0.0
    """Standard deviation of white noise, in the term's unit."""
    bias: Value = 0.0
    drift: Value = 0.0
    """Standard deviation of the random walk after one second, in the term's unit."""
    quantization: Value = 0.0
    """Width of one count, in the term's unit."""

    def __post_init__(self) -> None:
        _within(self, ("noise", "drift", "quantization"))


@dataclass(frozen=True)
class Mounting:
    encoder: Value = 0.0
    """Offset of every encoder [rad or m]."""
    imu: Value = 0.0
    """Rotation of the IMU about the pitch axis [rad]."""


MOUNTED = ("encoder", "imu")
"""The parts of `Mounting`."""


@dataclass(frozen=True)
class Pushes:
    interval: Value = 0.0
    """Mean time between pushes [s]; 0 for none."""
    speed: Value = 0.0
    """Change of the velocity of the root's first degree of freedom [m/s], of either sign."""

    def __post_init__(self) -> None:
        _within(self, ("interval",))


@dataclass(frozen=True)
class Network:
    loss: Value = 0.0
    """Probability that a packet is lost, in either direction; the last value stays."""
    jitter_ms: Value = 0.0
    """Extra latency of an observation, uniform from zero to this."""

    def __post_init__(self) -> None:
        _within(self, ("loss",), high=1.0)
        _within(self, ("jitter_ms",))


@dataclass(frozen=True)
class Gap:
    """What a robot does differently from the nominal simulator. See each part."""

    description: str = ""
    xi: dict[str, Value] = field(default_factory=dict[str, Value])
    """Dynamics parameters by name, in their units."""
    shape: list[Shape] = field(default_factory=list[Shape])
    """Geoms, bodies and joints that lie elsewhere or are larger or smaller than in the model."""
    edits: list[Edit] = field(default_factory=list[Edit])
    """Fields of the model, as shaped, that are other than compiled."""
    latency: Latency = field(default_factory=Latency)
    actuators: Actuators = field(default_factory=Actuators)
    sensors: dict[str, Sensor] = field(default_factory=dict[str, Sensor])
    """Observation term -> what its sensor does."""
    mounting: Mounting = field(default_factory=Mounting)
    pushes: Pushes = field(default_factory=Pushes)
    network: Network = field(default_factory=Network)

    @property
    def lag(self) -> bool:
        """Whether the model needs actuators with a state."""
        return _present(self.actuators.lag_ms)

    @property
    def edited(self) -> bool:
        """Whether the robot has another nominal model than the simulator."""
        return bool(self.shape or self.edits)

    @property
    def in_the_model(self) -> bool:
        """Whether the model has all of it: commands and observations pass as they are."""
        return replace(self, description="", xi={}, shape=[], edits=[]) == Gap()

    def idle(self, terms: Iterable[Term]) -> list[str]:
        """The effects on sensors and on how they are mounted that none of these terms feels."""
        terms = list(terms)
        wrong = [name for name, sensor in self.sensors.items() if sensor != Sensor()]
        idle: list[str] = []
        if wrong and not any(term.name in wrong for term in terms):
            idle.append(f"sensors ({', '.join(wrong)})")
        for part in MOUNTED:
            askew = _present(getattr(self.mounting, part))
            if askew and not any(term.mounted == part for term in terms):
                idle.append(f"mounting.{part}")
        return idle

    def robot(self, seed: int) -> Gap:
        """One robot of the family: every distribution replaced by a draw."""
        return _drawn(self, np.random.default_rng(np.random.SeedSequence([seed, 7])))

    def check(self, terms: Mapping[str, Term], actuators: Sequence[str], where: str) -> None:
        """Raises InputError where the gap names a term or an actuator that the robot lacks."""
        for name in self.sensors:
            if name not in terms:
                raise InputError(
                    f"{where}: sensors: no term '{name}'{nearest(name, terms)}; "
                    f"the terms are {', '.join(terms)}"
                )
        for name in self.actuators.weak:
            if name not in actuators:
                raise InputError(
                    f"{where}: actuators: weak: no actuator '{name}'{nearest(name, actuators)}; "
                    f"the actuators are {', '.join(actuators)}"
                )


def _drawn(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, Draw):
        return value.sample(rng)
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value)
        return {name: _drawn(entry, rng) for name, entry in entries.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _drawn(getattr(value, f.name), rng) for f in fields(value)}
        )
    return value


def _present(value: Value) -> bool:
    return isinstance(value, Draw) or value != 0.0


def sample(value: Value, rngs: Sequence[np.random.Generator]) -> Array:
    """(B,) one draw per robot; a plain value takes nothing from the generators."""
    if isinstance(value, Draw):
        return np.array([value.sample(rng) for rng in rngs])
    return np.full(len(rngs), value)
