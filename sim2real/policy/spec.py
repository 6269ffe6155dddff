"""What a policy is for, as plain data: its observations, its commands, its state, its training.

Everything here survives JSON bit for bit, `from_dict(json.loads(json.dumps(to_dict()))) == spec`:
floats are written with the digits that read back as the same number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sim2real import schema
from sim2real.types import InputError, nearest

HEADS = ("clip", "tanh")
CELLS = ("gru", "lstm")
"""Of a memory: gated recurrent units (Cho and others 2014), long short-term memory (Hochreiter and
Schmidhuber 1997)."""
ACCESS = ("measured", "estimated", "privileged")


@dataclass(frozen=True)
class TermSpec:
    """One named piece of the observation vector."""

    name: str
    size: int
    unit: str
    frame: str
    sensor: str
    access: str
    """measured, estimated, or privileged (only a simulator knows it; export refuses it)."""
    elements: tuple[str, ...] = ()
    """The joints, or whatever else the entries belong to, in order."""
    low: tuple[float, ...] = ()
    """(size,) the 0.1 percentile seen in training; empty while unknown."""
    high: tuple[float, ...] = ()
    """(size,) the 99.9 percentile seen in training; empty while unknown."""

    def __post_init__(self) -> None:
        where = f"observation term '{self.name}'"
        if self.size < 1:
            raise InputError(f"{where}: size is {self.size}; it must be at least 1")
        if self.access not in ACCESS:
            raise InputError(
                f"{where}: access is '{self.access}'; it is one of {', '.join(ACCESS)}"
                + nearest(self.access, ACCESS)
            )
        if self.elements and self.size % len(self.elements):
            raise InputError(
                f"{where}: size {self.size} does not fit its {len(self.elements)} elements"
            )
        if self.low or self.high:
            _check_range(where, self.low, self.high, self.size)


@dataclass(frozen=True)
class ActuatorSpec:
    """The commands, in the order of the policy's outputs."""

    names: tuple[str, ...]
    unit: str
    low: tuple[float, ...]
    """(A,) command limits, in the unit above."""
    high: tuple[float, ...]
    """(A,)"""

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise InputError(f"actuators: {list(self.names)} must be one or more different names")
        _check_range("actuators", self.low, self.high, len(self.names))


@dataclass(frozen=True)
class ParameterInfo:
    """One dynamics parameter, as the policy and its user know it."""

    name: str
    unit: str
    low: float
    high: float
    nominal: float

    def __post_init__(self) -> None:
        _check_range(f"parameter '{self.name}'", (self.low,), (self.high,), 1)
        if not self.low <= self.nominal <= self.high:
            raise InputError(
                f"parameter '{self.name}': nominal {self.nominal} lies outside "
                f"[{self.low}, {self.high}]"
            )


@dataclass(frozen=True)
class MemorySpec:
    """The recurrent network of a policy that remembers."""

    hidden: int
    """M, the size of what it gives to the policy."""
    cell: str = "gru"
    """gru or lstm."""
    believes: tuple[str, ...] = ()
    """Parameters of ξ of which what is remembered says what they are like; the network need not
    be told."""

    @property
    def z_size(self) -> int:
        """Z, the size of what it keeps: an LSTM keeps its cell's state too."""
        return self.hidden * (2 if self.cell == "lstm" else 1)

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InputError(
                f"memory: cell is '{self.cell}'; it is {' or '.join(CELLS)}"
                + nearest(self.cell, CELLS)
            )
        if self.hidden < 1:
            raise InputError(f"memory: hidden is {self.hidden}; it must be at least 1")


@dataclass(frozen=True)
class FastSpec:
    """Numbers that a policy sees and that gradient steps find, on what it foretells."""

    size: int
    """L"""
    steps: int
    """J, gradient steps that it was trained for."""
    prediction: tuple[int, ...] = (64,)
    """Widths of the hidden layers of what foretells."""

    def __post_init__(self) -> None:
        for name in ("size", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"fast: {name} is {getattr(self, name)}; it must be at least 1")
        if any(width < 1 for width in self.prediction):
            raise InputError(
                f"fast: prediction is {list(self.prediction)}; each width must be at least 1"
            )


@dataclass(frozen=True)
class PolicySpec:
    """Everything that a policy must be told and cannot learn."""

    name: str
    env: str
    """The robot: the name of the env folder."""
    terms: tuple[TermSpec, ...]
    """The observation vector, in order."""
    actuators: ActuatorSpec
    control_period: float
    """[s]"""
    history: int = 1
    """H, how many observations the network sees, newest included; 1 means no history in z."""
    context: tuple[ParameterInfo, ...] = ()
    """ξ that the network sees, K entries in physical units; empty means no context in z."""
    parameters: tuple[ParameterInfo, ...] = ()
    """ξ that training randomised, where the network sees none of it; with a context, that is it."""
    latency_ms: tuple[float, float] = (0.0, 0.0)
    """Least and greatest latency that training assumed [ms]."""
    head: str = "clip"
    """clip: raw = mean (PPO); tanh: raw = tanh(mean) (SAC, TQC).
    Then command = clip(raw · action_scale + action_offset, low, high)."""
    scale: tuple[float, ...] = ()
    """(A,) of a clip head; empty: 1."""
    offset: tuple[float, ...] = ()
    """(A,) of a clip head, in the commands' unit; empty: 0."""
    max_tilt: float | None = None
    """[rad] beyond which the robot has fallen; None: it has no such limit."""
    tilt_term: str | None = None
    """The observation term that tells the tilt: an angle [rad] (size 1), the direction of gravity
    in the body frame (3) or a quaternion w, x, y, z (4). Given exactly when max_tilt is."""
    episodes: int = 0
    """How many episodes adaptation may use; 0 where there is nothing to adapt."""
    memory: MemorySpec | None = None
    """What remembers a trial, its episodes and all; None: no memory in z."""
    fast: FastSpec | None = None
    """What gradient steps find between episodes; None: no fast numbers in z."""
    provenance: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where it comes from: recipe, seed, commit, versions, licence."""

    def __post_init__(self) -> None:
        A = len(self.actuators.names)
        if self.head not in HEADS:
            raise InputError(
                f"head is '{self.head}'; it is one of {', '.join(HEADS)}"
                + nearest(self.head, HEADS)
            )
        for name, value in (("scale", self.scale), ("offset", self.offset)):
            if value and self.head == "tanh":
                raise InputError(f"{name}: a tanh head covers the command range; leave it empty")
            if value and (len(value) != A or not all(map(math.isfinite, value))):
                raise InputError(
                    f"{name}: {list(value)} must be {A} finite numbers, one per actuator"
                )
        if not self.terms:
            raise InputError("terms: a policy needs at least one observation term")
        for what, names in (
            ("observation terms", [t.name for t in self.terms]),
            ("context", [p.name for p in self.context]),
        ):
            if len(set(names)) != len(names):
                raise InputError(f"{what}: {names} must be different names")
        if not (math.isfinite(self.control_period) and self.control_period > 0):
            raise InputError(f"control_period is {self.control_period}; it must be above 0 s")
        if self.history < 1:
            raise InputError(f"history is {self.history}; 1 is the current observation alone")
        if self.episodes < 0:
            raise InputError(f"episodes is {self.episodes}; it must be 0 or more")
        if not 0 <= self.latency_ms[0] <= self.latency_ms[1] < math.inf:
            raise InputError(
                f"latency_ms is {list(self.latency_ms)}; it must be [low, high], 0 or more ms"
            )
        if self.context and self.parameters:
            raise InputError(
                "parameters: with a context, the context says what was randomised; "
                "leave parameters empty"
            )
        if self.fast is not None and (self.memory is not None or self.context):
            raise InputError(
                "fast: a policy has fast numbers, a memory or a context; leave the others out"
            )
        known = [p.name for p in self.context + self.parameters]
        for name in () if self.memory is None else self.memory.believes:
            if name not in known:
                raise InputError(
                    f"memory: believes '{name}', which training did not vary" + nearest(name, known)
                )
        if (self.max_tilt is None) != (self.tilt_term is None):
            raise InputError("max_tilt and tilt_term are given together or not at all")
        if self.tilt_term is not None:
            sizes = {term.name: term.size for term in self.terms}
            if sizes.get(self.tilt_term) not in (1, 3, 4):
                raise InputError(
                    f"tilt_term '{self.tilt_term}' must name an observation term that is an angle "
                    f"(size 1), gravity (3) or a quaternion (4); the terms are {', '.join(sizes)}"
                    + nearest(self.tilt_term, sizes)
                )
        if self.max_tilt is not None and not 0 < self.max_tilt <= math.pi:
            raise InputError(f"max_tilt is {self.max_tilt}; it must lie in (0, π] rad, or be None")

    @property
    def action_scale(self) -> tuple[float, ...]:
        """(A,); for a tanh head half the command range."""
        if self.head == "tanh":
            return tuple((h - lo) / 2 for lo, h in self._ranges())
        return self.scale or (1.0,) * self.action_size

    @property
    def action_offset(self) -> tuple[float, ...]:
        """(A,); for a tanh head the middle of the command range."""
        if self.head == "tanh":
            return tuple((h + lo) / 2 for lo, h in self._ranges())
        return self.offset or (0.0,) * self.action_size

    def _ranges(self) -> Iterator[tuple[float, float]]:
        return zip(self.actuators.low, self.actuators.high, strict=True)

    @property
    def obs_size(self) -> int:
        """O"""
        return sum(term.size for term in self.terms)

    @property
    def action_size(self) -> int:
        """A"""
        return len(self.actuators.names)

    @property
    def feature_size(self) -> int:
        """H·O + K, what the normaliser takes."""
        return self.history * self.obs_size + len(self.context)

    @property
    def fast_size(self) -> int:
        """L, 0 where there are no fast numbers."""
        return 0 if self.fast is None else self.fast.size

    @property
    def remembered_size(self) -> int:
        """X = H·O + K + A + 1, what a memory takes: with the last action, and whether an episode
        begins."""
        return self.feature_size + self.action_size + 1

    @property
    def network_size(self) -> int:
        """What the network takes: features, with fast numbers beside them; or X and what is
        remembered."""
        if self.memory is None:
            return self.feature_size + self.fast_size
        return self.remembered_size + self.memory.hidden

    @property
    def z_names(self) -> tuple[str, ...]:
        """The parts of z, in order: those of ("history", "context", "fast", "memory",
        "last_action") that this policy has."""
        kept = ("history",) * (self.history > 1) + ("context",) * bool(self.context)
        kept += ("fast",) * (self.fast is not None)
        return kept + ("memory", "last_action") * (self.memory is not None)

    def to_dict(self) -> dict[str, Any]:
        return schema.to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "policy.json") -> PolicySpec:
        """Inverse of `to_dict`, also after JSON.

        Raises:
            InputError: an unknown or missing key, a wrong type, or a value that cannot be.
        """
        return schema.read(cls, data, where)


def _check_range(where: str, low: Sequence[float], high: Sequence[float], size: int) -> None:
    if len(low) != size or len(high) != size:
        raise InputError(
            f"{where}: low has {len(low)} and high {len(high)} entries; both must have {size}"
        )
    for i, (lo, hi) in enumerate(zip(low, high, strict=True)):
        if not (math.isfinite(lo) and math.isfinite(hi) and lo <= hi):
            raise InputError(
                f"{where}: entry {i} has low {lo} and high {hi}; low must not be above high"
            )
