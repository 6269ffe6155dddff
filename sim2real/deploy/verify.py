"""Is this folder the policy that was exported? Each check trusts only what those before found.

metadata -> contract -> hashes -> graph -> golden recording -> contract against recording -> action
law -> resets -> replay on the session that will drive the robot. The hashes find a changed byte;
what comes after finds a change that was sealed with new hashes, because the recording repeats the
contract and holds torch's commands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from sim2real.deploy import artifact as files
from sim2real.deploy.artifact import Artifact, NonFiniteError, Runner
from sim2real.deploy.contract import Contract, differences, golden_semantics
from sim2real.deploy.files import parse
from sim2real.deploy.golden import Golden
from sim2real.types import Array, InputError

T = TypeVar("T")


class Check(NamedTuple):
    name: str
    ok: bool
    sentence: str


@dataclass(frozen=True)
class Verification:
    """The answer and the checks behind it; one that fails hides those that build on it."""

    ok: bool
    checks: tuple[Check, ...]

    @property
    def sentence(self) -> str:
        """What is wrong, or that nothing is."""
        return next((c.sentence for c in self.checks if not c.ok), "verified")

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "checks": [c._asdict() for c in self.checks]}


def verify(artifact: str | Path | Artifact) -> Verification:
    """Verify an artifact: its folder, or one that is loaded, which is read again.

    A changed artifact is an answer (`ok` is False, and a sentence says what is wrong).

    Raises:
        InputError: it is not a folder with a policy.onnx.
    """
    folder = artifact.folder if isinstance(artifact, Artifact) else Path(artifact)
    if not (folder / "policy.onnx").is_file():
        raise InputError(
            f"{folder} is not an artifact: no policy.onnx in it; `sim2real export POLICY` makes one"
        )
    checks = _Checks()
    read = checks("contract", lambda: files.read_contract(folder), "the contract is whole")
    if read is None:
        return checks.verification()
    model, contract = read
    hashed = checks(
        "hashes", lambda: files.read_files(folder, model, contract), "no byte was changed"
    )
    if hashed is None:  # onnxruntime is not fed with bytes of unknown origin
        return checks.verification()
    session = checks(
        "graph", lambda: files.open_session(model, contract), "the graph has the contract's tensors"
    )
    golden = checks(
        "golden", lambda: Golden.from_bytes(hashed[0], contract), "the recording is complete"
    )
    if session is None or golden is None:
        return checks.verification()
    return inspect(Artifact(folder, contract, golden, session), checks.done)


def inspect(artifact: Artifact, before: tuple[Check, ...] = ()) -> Verification:
    """The checks that need a loaded artifact: what must hold before it may move a robot."""
    checks = _Checks(before)
    contract, golden = artifact.contract, artifact.golden
    checks("semantics", lambda: _semantics(contract, golden), "contract and recording say the same")
    checks("actions", lambda: _action_law(contract, golden), "commands follow from raw actions")
    checks("resets", lambda: _resets(artifact), "resets restart what the contract says")
    checks(
        "replay", lambda: _replay(artifact), f"{contract.evidence.ticks} recorded ticks reproduced"
    )
    return checks.verification()


class _Checks:
    def __init__(self, done: tuple[Check, ...] = ()) -> None:
        self.done = done

    def __call__(self, name: str, check: Callable[[], T], sentence: str) -> T | None:
        try:
            result = check()
        except (InputError, NonFiniteError) as error:
            self.done += (Check(name, False, str(error)),)
            return None
        self.done += (Check(name, True, sentence),)
        return result

    def verification(self) -> Verification:
        return Verification(all(c.ok for c in self.done), self.done)


def _semantics(contract: Contract, golden: Golden) -> None:
    recorded = parse(golden.semantics, "golden.npz: semantics")
    found = differences(parse(golden_semantics(contract), "contract"), recorded)
    if not found:
        return
    names = [term.name for term in contract.observations]
    others = [term.get("name", "") for term in recorded.get("observations", [])]
    if names != others and sorted(names) == sorted(others):
        raise InputError(
            f"the observation terms stand in another order: {', '.join(names)} in the contract, "
            f"{', '.join(others)} in the recording"
        )
    path, ours, theirs = found[0]
    more = f", and {len(found) - 1} more differ" if len(found) > 1 else ""
    raise InputError(
        f"{path or 'the contract'} is {_short(ours)} in the contract but {_short(theirs)} in the "
        f"recording{more}"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _close(a: Array, b: Array, tolerance: float) -> Array:
    """|a - b| <= tolerance · (1 + |b|), the measure of Evidence.parity."""
    return np.abs(np.float64(a) - np.float64(b)) <= tolerance * (1 + np.abs(np.float64(b)))


def _action_law(contract: Contract, golden: Golden) -> None:
    c = contract.commands
    unlimited = golden.action_raw.astype(np.float64) * np.asarray(c.scale) + c.offset
    law = np.clip(unlimited, c.low, c.high)  # (T, A)
    fits = _close(golden.command, law, contract.evidence.tolerance)
    if not fits.all():
        t, a = np.argwhere(~fits)[0]
        raise InputError(
            f"at tick {t} the recorded command {c.names[a]} is {golden.command[t, a]:g}, but the "
            f"contract's scale, offset and limits make {law[t, a]:g} of its raw action: "
            "the action scaling was changed"
        )
    if c.head == "tanh" and np.abs(golden.action_raw).max() > 1 + contract.evidence.tolerance:
        raise InputError(
            "the head is 'tanh' in the contract, but recorded raw actions leave [-1, 1]"
        )


def _resets(artifact: Artifact) -> None:
    """An episode state must not matter at a reset, not even when it is NaN; a trial state must."""
    contract, golden = artifact.contract, artifact.golden
    obs = contract.flatten({name: value[0] for name, value in golden.obs.items()})
    inputs = {"obs": obs[None], "reset": np.ones((1, 1), np.float32)}
    inputs |= {f"{name}_in": np.float32(value) for name, value in golden.states.items()}
    names = [node.name for node in artifact.session.get_outputs()]

    def outputs(**changed: Array) -> list[Array]:
        return artifact.session.run(names, inputs | changed)

    plain = outputs()
    for state in contract.states:
        key = f"{state.name}_in"
        poisoned = outputs(**{key: np.full(state.shape, np.nan, np.float32)})
        forgets = all(np.array_equal(a, b) for a, b in zip(plain, poisoned, strict=True))
        if state.reset == "episode" and not forgets:
            raise InputError(
                f"state '{state.name}' restarts with the episode in the contract, but the graph "
                "keeps it over a reset"
            )
        if state.reset == "trial" and forgets:
            raise InputError(
                f"state '{state.name}' lasts a trial in the contract, but the graph forgets it at "
                "a reset"
            )


def _replay(artifact: Artifact) -> None:
    contract, golden = artifact.contract, artifact.golden
    runner = Runner(artifact)
    for name, value in golden.states.items():
        runner.set_state(name, value)
    obs = contract.flatten(golden.obs)
    tolerance = contract.evidence.tolerance
    for t, (row, reset) in enumerate(zip(obs, golden.reset[:, 0], strict=True)):
        command, raw = runner.step(row, bool(reset))
        raw_fits = _close(raw, golden.action_raw[t], tolerance)
        fits = _close(command, golden.command[t], tolerance)
        if raw_fits.all() and fits.all():
            continue
        a = int(np.argmin(fits if raw_fits.all() else raw_fits))
        what, got, wanted, blame = (
            ("command", command[a], golden.command[t, a], "the action scaling or its limits")
            if raw_fits.all()
            else (
                "raw action",
                raw[a],
                golden.action_raw[t, a],
                "its normaliser, history or network, or the order of its inputs,",
            )
        )
        raise InputError(
            f"the graph does not reproduce its recording: at tick {t} the {what} "
            f"{contract.commands.names[a]} is {got:.6g}, recorded was {wanted:.6g} "
            f"(tolerance {tolerance:g}): {blame} was changed"
        )
