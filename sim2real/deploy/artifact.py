"""The folder policy.onnx + golden.npz + card.md: read, refused where it does not fit, and run.

The contract sits in the ONNX metadata. onnxruntime cannot show a file without its metadata, and
onnx is not on the robot, so the few lines of protobuf that are needed stand here: a ModelProto is a
sequence of fields, and the metadata is its field 14.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sim2real.deploy.contract import FILES, Contract, as_float32
from sim2real.deploy.files import write_atomically
from sim2real.deploy.golden import Golden
from sim2real.types import Array, InputError

KEY = "sim2real"
PROVIDER = "CPUExecutionProvider"
_METADATA = 14  # ModelProto.metadata_props
_ALIGN = 16  # floats; 64 bytes, one cache line


class NonFiniteError(ArithmeticError):
    """The policy gave a value that is not finite; its state stayed as it was."""


def split_model(model: bytes, where: str = "policy.onnx") -> tuple[bytes, list[bytes]]:
    """A serialized ModelProto as (all but the metadata, the metadata entries).

    Raises:
        InputError: the bytes are not a sequence of protobuf fields.
    """
    kept: list[bytes] = []
    entries: list[bytes] = []
    for number, span, _ in _fields(model, where):
        (entries if number == _METADATA else kept).append(span)
    return b"".join(kept), entries


def graph_digest(model: str | Path | bytes) -> str:
    """sha256 of an ONNX file (a path or its bytes) without its metadata."""
    data = model if isinstance(model, bytes) else Path(model).read_bytes()
    return hashlib.sha256(split_model(data)[0]).hexdigest()


def with_contract(model: bytes, text: str) -> bytes:
    """The ONNX file with the contract's text as its only metadata."""
    return split_model(model)[0] + _entry(text)


def contract_text(model: bytes, where: str = "policy.onnx") -> str:
    """The contract in an ONNX file; InputError unless it is the only metadata, well formed."""
    _, entries = split_model(model, where)
    if not entries:
        raise InputError(f"{where} carries no contract: it was not written by `sim2real export`")
    (_, _, entry), *_ = _fields(entries[0], where)
    try:
        text = {number: payload for number, _, payload in _fields(entry, where)}.get(
            2, b""
        ).decode()
    except UnicodeDecodeError:
        raise InputError(f"{where}: its contract is not UTF-8 text") from None
    if len(entries) != 1 or entries[0] != _entry(text):
        raise InputError(f"{where}: its metadata must be one entry, '{KEY}', as `export` writes it")
    return text


def write_artifact(
    folder: str | Path, model: bytes, contract: Contract, golden: Golden, card: str
) -> Contract:
    """Write an artifact; each file appears whole, policy.onnx last. Returns the contract as
    written.

    `contract.files` and `contract.graph` are filled in here. `golden.semantics` must be
    `golden_semantics(contract)`: `verify` compares them.
    """
    files = dict(zip(FILES, (golden.to_bytes(), card.encode()), strict=True))
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    contract = replace(contract, files=digests, graph=graph_digest(model))
    whole = with_contract(model, contract.to_json())
    for name, data in (*files.items(), ("policy.onnx", whole)):
        write_atomically(Path(folder) / name, data)
    return contract


@dataclass(frozen=True)
class Artifact:
    """An artifact whose hashes, contract and graph fit each other; not yet verified."""

    folder: Path
    contract: Contract
    golden: Golden = field(repr=False)
    session: Any = field(repr=False)
    """The onnxruntime session: one thread, no spinning."""

    @staticmethod
    def load(folder: str | Path) -> Artifact:
        """Read an artifact; InputError with one sentence for the first thing that does not fit."""
        folder = Path(folder)
        model, contract = read_contract(folder)
        golden, _ = read_files(folder, model, contract)
        return Artifact(
            folder, contract, Golden.from_bytes(golden, contract), open_session(model, contract)
        )


def read_contract(folder: Path) -> tuple[bytes, Contract]:
    """policy.onnx and the contract in it."""
    model = _bytes(folder, "policy.onnx")
    return model, Contract.from_json(contract_text(model), "policy.onnx: contract")


def read_files(folder: Path, model: bytes, contract: Contract) -> list[bytes]:
    """golden.npz and card.md; InputError where a file or the graph has another sha256 than the
    contract says.

    Each file is read once, so what is checked is what is used.
    """
    files = [_bytes(folder, name) for name in FILES]
    digests = {
        name: hashlib.sha256(data).hexdigest() for name, data in zip(FILES, files, strict=True)
    }
    for name, digest in digests.items():
        if digest != contract.files[name]:
            raise InputError(f"{name} was changed after export: its sha256 is not the contract's")
    if graph_digest(model) != contract.graph:
        raise InputError(
            "policy.onnx was changed after export: the sha256 of its graph is not the contract's"
        )
    return files


def open_session(model: bytes, contract: Contract) -> Any:
    """The graph in onnxruntime; InputError unless its tensors are the contract's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Not session.set_denormal_as_zero: it changes the arithmetic of the calling thread.
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    try:
        session: Any = ort.InferenceSession(model, options, providers=[PROVIDER])
    except Exception as error:  # onnxruntime raises a dozen classes of its own
        raise InputError(f"policy.onnx: onnxruntime refuses the graph: {error}") from None
    inputs = {"obs": (1, contract.obs_size), "reset": (1, 1)}
    inputs |= {f"{s.name}_in": s.shape for s in contract.states}
    a = contract.action_size
    outputs = {"command": (1, a), "action_raw": (1, a)}
    outputs |= {f"{s.name}_out": s.shape for s in contract.states}
    for what, wanted, given in (
        ("inputs", inputs, session.get_inputs()),
        ("outputs", outputs, session.get_outputs()),
    ):
        found = {node.name: tuple(node.shape) for node in given}
        if found != wanted or any(node.type != "tensor(float)" for node in given):
            raise InputError(
                f"policy.onnx: the graph has the {what} {_listed(found)}; the contract says "
                f"{_listed(wanted)}, float32"
            )
    return session


class Runner:
    """One policy at work: its state, its buffers, its session.

    The state lives in two buffers that change places at every tick, so nothing is copied and a tick
    whose result is not finite leaves the state as it was.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.contract = contract = artifact.contract
        self.is_told_actions = any(state.name == "last_action" for state in contract.states)
        """Whether it remembers what it did."""
        self._run = artifact.session.run_with_iobinding
        a = contract.action_size
        shapes = {s.name: s.shape for s in contract.states}
        shapes |= {"command": (1, a), "action_raw": (1, a)}
        self._buffers: list[dict[str, Array]] = []
        self._flat: list[Array] = []  # all outputs of a tick in one array: one test for finiteness
        for _ in range(2):
            sizes = [-(-int(np.prod(shape)) // _ALIGN) * _ALIGN for shape in shapes.values()]
            flat = np.zeros(sum(sizes), np.float32)
            starts = np.cumsum([0, *sizes[:-1]])
            self._flat.append(flat)
            self._buffers.append(
                {
                    name: flat[start : start + int(np.prod(shape))].reshape(shape)
                    for (name, shape), start in zip(shapes.items(), starts, strict=True)
                }
            )
        self._obs = np.zeros((1, contract.obs_size), np.float32)
        self._reset = np.zeros((1, 1), np.float32)
        self._now = 0  # the buffer that holds the current state
        self._bindings = [self._bind(self._buffers[i], self._buffers[1 - i]) for i in range(2)]
        self.begin_trial()

    def begin_trial(self) -> None:
        """Every state at its initial value."""
        for state in self.contract.states:
            self._buffers[self._now][state.name][...] = as_float32(state.initial, state.shape)

    def set_state(self, name: str, value: Any) -> None:
        """Give a state a value; InputError for an unknown name, another size, or NaN."""
        shape = self.contract.state(name).shape
        given = np.asarray(value, np.float64)
        if given.size != np.prod(shape):
            raise InputError(
                f"state '{name}' has shape {list(shape)}; {given.size} numbers were given"
            )
        if not np.isfinite(given).all():
            raise InputError(f"state '{name}' was given a value that is not finite")
        self._buffers[self._now][name][...] = given.reshape(shape)

    def state(self, name: str) -> Array:
        """A copy of a state as it is now."""
        shape = self.contract.state(name).shape
        return self._buffers[self._now][name].reshape(shape).copy()

    def acted(self, command: Array, raw: Array) -> None:
        """Tell a policy that remembers what it did which command (A,) went to the robot after its
        raw action (A,), NaN where it gave none. Where that was its own command, to the rounding of
        float32, nothing changes."""
        if not self.is_told_actions:
            return
        commands = self.contract.commands
        own = np.clip(raw * commands.scale + commands.offset, commands.low, commands.high)
        other = ~(np.abs(command - own) <= 1e-6 * (1 + np.abs(own)))
        if not other.any():
            return
        scale = np.asarray(commands.scale)
        sent = (command - np.asarray(commands.offset)) / np.where(scale == 0, 1.0, scale)
        kept = self.state("last_action")[0]
        self.set_state("last_action", np.where(other, np.clip(sent, -1.0, 1.0), kept))

    def trial(self) -> dict[str, Array]:
        """Copies of the states that last a trial, by name."""
        return {s.name: self.state(s.name) for s in self.contract.states if s.reset == "trial"}

    def step(self, obs: Array, reset: bool = False) -> tuple[Array, Array]:
        """(O,) observation -> command (A,) and raw action (A,), float32; the state moves on.

        `reset` is True at the first tick of an episode.

        Raises:
            InputError: an observation of another length.
            NonFiniteError: a command, raw action or state that is not finite; the state stayed as
            it was.
        """
        if np.shape(obs) != self._obs.shape[1:]:
            raise InputError(
                f"the observation has shape {np.shape(obs)}; {self.contract.name} takes "
                f"({self._obs.shape[1]},)"
            )
        self._obs[0] = obs
        self._reset[0, 0] = reset
        self._run(self._bindings[self._now])
        after = 1 - self._now
        if not np.isfinite(self._flat[after]).all():
            raise NonFiniteError(f"{self.contract.name} gave a value that is not finite")
        self._now = after
        outputs = self._buffers[after]
        return outputs["command"][0].copy(), outputs["action_raw"][0].copy()

    def warm_up(self, ticks: int = 200) -> None:
        """Run `ticks` times, so that the first real tick is as fast as others; the state stays."""
        for _ in range(ticks):
            self._run(self._bindings[self._now])

    def _bind(self, before: dict[str, Array], after: dict[str, Array]) -> Any:
        binding: Any = self.artifact.session.io_binding()
        inputs = {f"{s.name}_in": before[s.name] for s in self.contract.states}
        outputs = {f"{s.name}_out": after[s.name] for s in self.contract.states}
        outputs |= {name: after[name] for name in ("command", "action_raw")}
        for name, x in ({"obs": self._obs, "reset": self._reset} | inputs).items():
            binding.bind_input(name, "cpu", 0, np.float32, x.shape, x.ctypes.data)
        for name, x in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, x.shape, x.ctypes.data)
        return binding


def _bytes(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {folder / name} ({error.strerror}); an artifact is a folder with "
            f"policy.onnx, {', '.join(FILES)}"
        ) from None


def _listed(shapes: dict[str, tuple[Any, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _fields(data: bytes, where: str) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, the field with its framing, its payload) of each field of a protobuf message."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _varint(data, at, where)
        payload = at
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at, where)
        elif wire == 2:
            size, payload = _varint(data, at, where)
            at = payload + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise InputError(f"{where} is not an ONNX file (byte {start} begins no field)")
        if at > len(data):
            raise InputError(
                f"{where} is not a whole ONNX file: a field at byte {start} runs past the end"
            )
        yield tag >> 3, data[start:at], data[payload:at]


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise InputError(f"{where} is not a whole ONNX file: it ends at byte {at}")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise InputError(f"{where} is not an ONNX file (byte {at} continues a number without end)")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, payload: bytes) -> bytes:
    return _encode_varint(number << 3 | 2) + _encode_varint(len(payload)) + payload


def _entry(text: str) -> bytes:
    """metadata_props { key: "sim2real" value: text }"""
    return _field(_METADATA, _field(1, KEY.encode()) + _field(2, text.encode()))
