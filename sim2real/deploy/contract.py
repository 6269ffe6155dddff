"""What an artifact promises: inputs, outputs, states, limits and ranges of the policy.

The contract is one JSON text in the ONNX metadata (key `sim2real`). It is read strictly: a key that
is unknown or missing, a list of the wrong length or another schema version is refused by name. Its
last key, `contract`, is the sha256 of all the others, so no byte of the text can change unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim2real.deploy.files import canonical, parse, write_atomically
from sim2real.schema import read, to_dict
from sim2real.types import Array, InputError, nearest

SCHEMA = 2
FILES = ("golden.npz", "card.md")
"""The files beside policy.onnx, each with its sha256 in the contract."""
HASHES = ("files", "graph")
"""The keys that hold hashes; all others are semantic and are repeated in golden.npz."""


@dataclass(frozen=True)
class Observation:
    """One term of the observation; the policy's input is the terms one after another, in order."""

    name: str
    size: int
    unit: str
    frame: str
    sensor: str
    access: Literal["measured", "estimated"]
    """How the robot knows it. What only a simulator knows ("privileged") is refused."""
    elements: tuple[str, ...]
    """Joints (or bodies) it speaks of, in order; empty where it speaks of none."""
    low: tuple[float, ...]
    """(size,) the range met in training; both empty where it is not known."""
    high: tuple[float, ...]


@dataclass(frozen=True)
class Commands:
    """command = clip(action_raw · scale + offset, low, high), done in the graph; A numbers each."""

    names: tuple[str, ...]
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    scale: tuple[float, ...]
    """For the head "tanh" this is (high - low) / 2."""
    offset: tuple[float, ...]
    """For the head "tanh" this is (high + low) / 2."""
    head: Literal["clip", "tanh"]
    """"clip": action_raw is the network's mean; "tanh": action_raw = tanh(mean), within [-1, 1]."""
    rate_limit: tuple[float, ...] | None
    """Largest change of a command [unit / s]; null: none."""


@dataclass(frozen=True)
class State:
    """A tensor `<name>_in` -> `<name>_out` that the runtime feeds back."""

    name: str
    shape: tuple[int, ...]
    """As in the graph, the batch of 1 first: [1, H, O] for a history, [1, K] for a context."""
    initial: tuple[float, ...]
    """The initial value, flat in C order."""
    reset: Literal["episode", "trial"]
    """"episode": the graph's `reset` input restarts it; "trial": it outlives episodes."""


@dataclass(frozen=True)
class Gains:
    """Gains of the servo below the policy, with a name list of their own."""

    names: tuple[str, ...]
    kp: tuple[float, ...]
    kd: tuple[float, ...]


@dataclass(frozen=True)
class Parameter:
    """One dynamics parameter ξ_k and the range it was trained on."""

    name: str
    unit: str
    low: float
    high: float
    nominal: float


@dataclass(frozen=True)
class Adaptation:
    """What may be adapted on the robot: a state that lasts a trial, within bounds."""

    kind: Literal["context", "memory", "gradient"]
    """"context": the state holds ξ, which is identified between episodes; "memory": what the policy
    itself remembers of the robot, while it acts; "gradient": numbers that gradient steps find
    between episodes."""
    state: str
    reward: bool
    """Whether it needs a reward on the robot."""
    episodes: int
    """Budget on the target."""
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Safety:
    """When the controller stops the robot."""

    max_tilt: float | None
    """Largest angle between the robot's and the world's vertical [rad]; null: no such check."""
    tilt_term: str | None
    """The observation term that tells the tilt: an angle [rad] (size 1), the direction of gravity
    in the body frame (3) or a quaternion w, x, y, z (4). Null exactly when max_tilt is."""
    nan_ticks: int
    """Stop at this many ticks in a row with a value that is not finite."""
    stale_ticks: int
    """Stop at this many ticks in a row with an observation older than max_observation_age."""
    late_ticks: int
    """Stop at this many late ticks among the last 100."""


@dataclass(frozen=True)
class Evidence:
    """What was measured at export over the golden sequence."""

    parity: float
    """Largest |torch - onnxruntime| / (1 + |torch|) over commands and raw actions."""
    ticks: int
    tolerance: float
    """The same figure that `verify` accepts."""


@dataclass(frozen=True)
class Contract:
    """The keys of the contract, in their order in the JSON text."""

    schema: int
    name: str
    package: str
    created: str
    versions: dict[str, str]
    files: dict[str, str]
    """sha256 of every other file of the artifact."""
    graph: str
    """sha256 of policy.onnx without its metadata: `artifact.graph_digest`."""
    robot: str
    control_period: float
    """[s]"""
    max_observation_age: float
    """[s]"""
    observations: tuple[Observation, ...]
    commands: Commands
    states: tuple[State, ...]
    gains: Gains | None
    latency_ms: tuple[float, float]
    """[low, high] of the latency assumed in training [ms]."""
    parameters: tuple[Parameter, ...]
    adaptation: Adaptation | None
    safety: Safety
    evidence: Evidence

    @property
    def obs_size(self) -> int:
        return sum(term.size for term in self.observations)

    @property
    def action_size(self) -> int:
        return len(self.commands.names)

    def state(self, name: str) -> State:
        """The state called `name`; InputError lists what there is."""
        known = [state.name for state in self.states]
        if name not in known:
            there = f"its states are {', '.join(known)}" if known else "it has no states"
            raise InputError(f"{self.name} has no state '{name}'{nearest(name, known)}; {there}")
        return self.states[known.index(name)]

    def flatten(self, obs: Mapping[str, Array]) -> Array:
        """The terms (..., size) in the contract's order as (..., O) float32.

        Raises InputError for a missing term or one of the wrong length.
        """
        parts: list[Array] = []
        for term in self.observations:
            if term.name not in obs:
                raise InputError(
                    f"the observation lacks the term '{term.name}'{nearest(term.name, obs)}; "
                    f"{self.name} takes {', '.join(t.name for t in self.observations)}"
                )
            value = np.asarray(obs[term.name])
            if value.ndim == 0 or value.shape[-1] != term.size:
                raise InputError(
                    f"observation term '{term.name}' has {value.shape[-1] if value.ndim else 1} "
                    f"numbers; {self.name} takes {term.size}"
                )
            parts.append(value)
        return np.concatenate(parts, axis=-1, dtype=np.float32)

    def to_json(self) -> str:
        """The canonical text, sealed with its own sha256; checked before it is written."""
        contract = read(Contract, to_dict(self), "contract")
        check(contract)
        return _sealed(contract)

    @staticmethod
    def from_json(text: str, where: str = "contract") -> Contract:
        """The contract in `text`; InputError, one sentence, for whatever is not as written."""
        data = parse(text, where)
        if data.get("schema") != SCHEMA:  # before anything else: other schemas have other keys
            given = f"is of schema {data['schema']!r}" if "schema" in data else "names no schema"
            raise InputError(f"{where} {given}; this package reads schema {SCHEMA}")
        unsealed = {key: value for key, value in data.items() if key != "contract"}
        contract = read(Contract, unsealed, where)
        check(contract, where)
        if "contract" not in data:
            raise InputError(f"{where}: the key 'contract' is missing")
        if text != _sealed(contract):
            raise InputError(f"{where} was changed after it was written: its sha256 does not fit")
        return contract


def golden_semantics(contract: Contract) -> str:
    """What golden.npz repeats of the contract, as the text stored there under "semantics".

    All of it but the hashes (`files`, `graph`; their values may still be empty when this is
    called): the terms with name, unit, frame, sensor, access, elements, size, range and order, the
    commands, the states, periods, parameters, limits and evidence. So a contract that is altered
    and sealed again no longer fits its own golden sequence.
    """
    data = to_dict(read(Contract, to_dict(contract), "contract"))
    return canonical({k: v for k, v in data.items() if k not in HASHES})


def differences(ours: Any, theirs: Any, where: str = "") -> list[tuple[str, Any, Any]]:
    """(path, ours, theirs) wherever two JSON values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and list(ours) == list(theirs):
        return [
            d for k in ours for d in differences(ours[k], theirs[k], f"{where}.{k}".lstrip("."))
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            d
            for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
            for d in differences(a, b, f"{where}[{i}]")
        ]
    return [] if type(ours) is type(theirs) and ours == theirs else [(where, ours, theirs)]


@dataclass(frozen=True)
class AdaptedState:
    """z.json: the value of an adapted state, for one artifact, which stays as it is."""

    schema: int
    artifact: str
    """The `graph` hash of the artifact that it is for."""
    state: str
    names: tuple[str, ...]
    """The parameters of a context; none of what else is adapted, whose numbers have no names."""
    value: tuple[float, ...]
    std: tuple[float, ...]
    """Spread of the posterior, one per name."""
    accepted: bool
    """Whether the gate accepted it; where not, the value is the one that was rolled back to."""
    episodes: int
    seconds: float
    falls: int

    @property
    def context(self) -> dict[str, float]:
        """Parameter -> value; empty of a memory."""
        return dict(zip(self.names, self.value, strict=True)) if self.names else {}

    def check(self, contract: Contract, where: str = "z") -> None:
        """Raises InputError unless this belongs to `contract` and lies within its bounds."""
        adaptation = contract.adaptation
        if adaptation is None:
            raise InputError(
                f"{where}: {contract.name} has nothing to adapt (its adaptation is null)"
            )
        if self.artifact != contract.graph:
            raise InputError(
                f"{where} was adapted for another artifact (graph {self.artifact[:12]}…, "
                f"but {contract.name} is {contract.graph[:12]}…); adapt this one anew"
            )
        if self.state != adaptation.state:
            raise InputError(
                f"{where} adapts '{self.state}'; {contract.name} adapts '{adaptation.state}'"
            )
        names = tuple(p.name for p in contract.parameters if adaptation.kind == "context")
        if self.names != names:
            raise InputError(
                f"{where} is for the parameters {', '.join(self.names) or '(none)'}; "
                f"{contract.name} takes {', '.join(names) or 'none'} in this order"
            )
        size = len(adaptation.low)
        _lengths(where, size, value=self.value)
        _lengths(where, len(names), std=self.std)
        labels = names or tuple(f"{self.state}[{i}]" for i in range(size))
        for name, x, low, high in zip(
            labels, self.value, adaptation.low, adaptation.high, strict=True
        ):
            if not low <= x <= high:
                raise InputError(f"{where}: {name} = {x:g} lies outside [{low:g}, {high:g}]")

    def write(self, path: str | Path) -> None:
        """z.json at `path`, whole or not at all."""
        state = read(AdaptedState, to_dict(self), "z")
        write_atomically(Path(path), (canonical(to_dict(state)) + "\n").encode())

    @staticmethod
    def read(path: str | Path) -> AdaptedState:
        """The state in a z.json; InputError where it is not one."""
        try:
            text = Path(path).read_text("utf-8")
        except UnicodeDecodeError:
            raise InputError(f"{path} is not JSON: it is not UTF-8 text") from None
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        data = parse(text, str(path))
        if data.get("schema", SCHEMA) != SCHEMA:
            raise InputError(
                f"{path} is of schema {data['schema']!r}; this package reads schema {SCHEMA}"
            )
        return read(AdaptedState, data, str(path))


def check(contract: Contract, where: str = "contract") -> None:
    """Raises InputError unless lengths, ranges and cross references inside the contract fit."""
    c = contract
    if c.schema != SCHEMA:
        raise InputError(f"{where} is of schema {c.schema}; this package reads schema {SCHEMA}")
    if sorted(c.files) != sorted(FILES):
        raise InputError(
            f"{where}.files must name {' and '.join(FILES)}, but names {', '.join(c.files)}"
        )
    for label, digest in (*c.files.items(), ("graph", c.graph)):
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise InputError(f"{where}: the sha256 of {label} must be 64 hexadecimal digits")
    for label, x in (
        ("control_period", c.control_period),
        ("max_observation_age", c.max_observation_age),
    ):
        if x <= 0:
            raise InputError(f"{where}.{label} must be above 0 s, but is {x:g}")

    _unique(f"{where}.observations", [t.name for t in c.observations])
    for t in c.observations:
        place = f"{where}.observations.{t.name}"
        if t.size < 1 or len(t.elements) > t.size:
            raise InputError(f"{place}: size {t.size} does not fit its {len(t.elements)} elements")
        _range(place, t.size if t.low or t.high else 0, t.low, t.high)

    a = len(c.commands.names)
    _unique(f"{where}.commands.names", c.commands.names)
    _range(f"{where}.commands", a, c.commands.low, c.commands.high)
    _lengths(f"{where}.commands", a, scale=c.commands.scale, offset=c.commands.offset)
    if c.commands.rate_limit is not None:
        _lengths(f"{where}.commands", a, rate_limit=c.commands.rate_limit)
        if min(c.commands.rate_limit) <= 0:
            raise InputError(f"{where}.commands.rate_limit must be above 0 everywhere")

    if c.states:
        _unique(f"{where}.states", [s.name for s in c.states])
    for s in c.states:
        size = int(np.prod(s.shape))
        if not s.shape or s.shape[0] != 1 or size < 1:
            raise InputError(
                f"{where}.states.{s.name}: shape {list(s.shape)} must begin with the batch of 1"
            )
        _lengths(f"{where}.states.{s.name}", size, initial=s.initial)
    if c.gains is not None:
        _unique(f"{where}.gains.names", c.gains.names)
        _lengths(f"{where}.gains", len(c.gains.names), kp=c.gains.kp, kd=c.gains.kd)
    _range(f"{where}.latency_ms", 1, c.latency_ms[:1], c.latency_ms[1:])

    if c.parameters:
        _unique(f"{where}.parameters", [p.name for p in c.parameters])
    for p in c.parameters:
        if not p.low <= p.nominal <= p.high:
            raise InputError(
                f"{where}.parameters.{p.name}: nominal {p.nominal:g} lies outside [{p.low:g}, "
                f"{p.high:g}]"
            )
    if c.adaptation is not None:
        state = c.state(c.adaptation.state)
        k = len(c.parameters) if c.adaptation.kind == "context" else int(np.prod(state.shape))
        if state.reset != "trial" or state.shape != (1, k):
            each = ", one per parameter," if c.adaptation.kind == "context" else ""
            raise InputError(
                f"{where}.adaptation: the state '{state.name}' must have shape [1, {k}]{each} and "
                "last a trial"
            )
        _range(f"{where}.adaptation", k, c.adaptation.low, c.adaptation.high)

    if (c.safety.max_tilt is None) != (c.safety.tilt_term is None):
        raise InputError(f"{where}.safety: max_tilt and tilt_term are given together or not at all")
    if c.safety.tilt_term is not None:
        sizes = {t.name: t.size for t in c.observations}
        if c.safety.tilt_term not in sizes:
            hint = nearest(c.safety.tilt_term, sizes)
            raise InputError(
                f"{where}.safety.tilt_term: no observation '{c.safety.tilt_term}'{hint}"
            )
        if sizes[c.safety.tilt_term] not in (1, 3, 4):
            raise InputError(
                f"{where}.safety.tilt_term: '{c.safety.tilt_term}' must be an angle (1), gravity "
                "(3) or a quaternion (4)"
            )
    for label in ("nan_ticks", "stale_ticks", "late_ticks"):
        if getattr(c.safety, label) < 1:
            raise InputError(f"{where}.safety.{label} must be at least 1")
    if not 0 <= c.evidence.parity <= c.evidence.tolerance <= 1e-3:
        raise InputError(f"{where}.evidence: 0 <= parity <= tolerance <= 1e-3 must hold")


def _sealed(contract: Contract) -> str:
    data = to_dict(contract)
    seal = hashlib.sha256(canonical(data).encode()).hexdigest()
    return canonical({**data, "contract": seal})


def _unique(where: str, names: Sequence[str]) -> None:
    if not names or len(set(names)) != len(names):
        raise InputError(
            f"{where} must name at least one thing and nothing twice: {', '.join(names)}"
        )


def _lengths(where: str, n: int, **lists: Sequence[float]) -> None:
    for name, values in lists.items():
        if len(values) != n:
            raise InputError(f"{where}.{name} has {len(values)} numbers; {n} are needed")


def _range(where: str, n: int, low: Sequence[float], high: Sequence[float]) -> None:
    _lengths(where, n, low=low, high=high)
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        if a > b:
            raise InputError(f"{where}: low[{i}] = {a:g} lies above high[{i}] = {b:g}")


def as_float32(values: Sequence[float], shape: Sequence[int]) -> NDArray[np.float32]:
    """The flat list of a contract as a tensor."""
    return np.asarray(values, dtype=np.float32).reshape(tuple(shape))
