"""Policy -> artifact: an ONNX file that describes itself, a recording that proves it, a card.

Nothing is taken on trust: the graph runs in onnxruntime over recorded observations, its state fed
back, and must give torch's commands; the finished folder is verified as a robot would verify it,
and only then gets its name.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from sim2real.bridges.adapt.gradient.fast import FARTHEST
from sim2real.deploy import contract as c
from sim2real.deploy.artifact import Artifact, Runner, open_session, write_artifact
from sim2real.deploy.golden import Golden
from sim2real.deploy.verify import verify
from sim2real.evaluate import policy_of
from sim2real.policy.policy import Policy, State
from sim2real.policy.spec import PolicySpec
from sim2real.record import Recording, record
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

TOLERANCE = 1e-5
"""Of |torch - onnxruntime| / (1 + |torch|), for commands and raw actions at every recorded tick:
absolute to a factor of two up to 1, relative beyond. A plain difference would refuse what is right:
commands may be any number of N m and raw actions are not limited, and float32 has seven digits."""
OPSET, IR_VERSION = (
    18,
    10,
)  # what onnxruntime 1.20, the oldest that the robot's side allows, can read
MIN_TICKS = 200
"""Over fewer ticks than these, agreement of the graph and torch proves little."""
OLDEST_ONNXSCRIPT = "0.7.1"
STALE_PERIODS = 5
"""An observation may be this many control periods older than the latency known from training."""
FILES = {"policy.onnx", *c.FILES}


def export(
    policy: Policy | str | Path, out: str | Path, recorded: Recording | None = None
) -> Artifact:
    """Write the policy as an artifact into the folder `out`, whole or not at all.

    An artifact that is there already is replaced; a folder that holds anything else is left alone.

    Args:
        policy: a policy, or the folder of one; none of its observation terms may be privileged.
        out: a new or empty folder, or one with an older artifact.
        recorded: at least 200 ticks of real episodes, the first of which begins one, and another
            reset inside; None: recorded now, in the simulated robot that the policy is for. Terms
            whose training range the spec does not know get their range from it.

    Raises:
        InputError: any of that does not hold, the versions installed cannot export correctly, or
            over the recording the exported graph does not give torch's commands and raw actions x
            to 1e-5 (1 + |x|): see TOLERANCE.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and {file.name for file in out.iterdir()} <= FILES):
        raise InputError(
            f"{out} holds something other than an artifact; export into a new or empty folder"
        )
    policy = policy_of(policy)
    spec = policy.spec
    check_terms(spec)
    if recorded is None:
        recorded = record(policy, Robot.load(spec.env))
    check_recording(recorded, spec)
    policy = deepcopy(policy).to("cpu", torch.float32).eval()
    model = build_graph(policy).SerializeToString(deterministic=True)

    contract = build_contract(spec, recorded)
    obs = dict(zip((t.name for t in spec.terms), _split(recorded.obs, spec), strict=True))
    states = initial_states(policy)
    command, raw = replay(policy, contract.flatten(obs), recorded.reset, states)
    golden = Golden(
        obs=obs,
        reset=recorded.reset[:, None].astype(np.float64),
        states={name: value.numpy() for name, value in zip(policy.z_names, states, strict=True)},
        command=command,
        action_raw=raw,
        semantics="",
    )
    parity = measure_parity(Artifact(out, contract, golden, open_session(model, contract)))
    if not parity <= TOLERANCE:
        raise InputError(
            f"policy '{spec.name}': onnxruntime and torch differ by {parity:.2g} over the "
            f"recording; at most {TOLERANCE:g} is allowed, so nothing was written"
        )
    contract = replace(contract, evidence=replace(contract.evidence, parity=parity))
    golden = replace(golden, semantics=c.golden_semantics(contract))

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        write_artifact(new, model, contract, golden, build_card(spec, contract))
        verification = verify(new)
        if not verification.ok:
            raise InputError(
                f"policy '{spec.name}': the artifact fails its own check: {verification.sentence}"
            )
        try:
            if out.exists():
                os.replace(out, old)
            os.replace(new, out)
        finally:
            if old.exists() and not out.exists():
                os.replace(old, out)
    return Artifact.load(out)


# What goes in


def check_terms(spec: PolicySpec) -> None:
    """Raises InputError for a term that no robot can supply."""
    usable = [term.name for term in spec.terms if term.access != "privileged"]
    for term in spec.terms:
        if term.access == "privileged":
            raise InputError(
                f"observation term '{term.name}' is privileged: only a simulator knows it; train "
                "on terms that a robot measures or estimates (observe: measured; of this policy's "
                f"{', '.join(usable) or 'none'}), or declare it 'estimated' in env.yaml where the "
                "robot has an estimator for it"
            )


def check_recording(recorded: Recording, spec: PolicySpec) -> None:
    """Raises InputError unless the recording can prove something about the policy."""
    obs, reset = recorded
    if obs.ndim != 2 or obs.shape[1] != spec.obs_size or reset.shape != obs.shape[:1]:
        raise InputError(
            f"recording: obs {obs.shape} and reset {reset.shape} must be "
            f"(T, {spec.obs_size}) and (T,)"
        )
    if len(obs) < MIN_TICKS:
        raise InputError(f"recording: {len(obs)} ticks; at least {MIN_TICKS} are needed")
    if not (reset[0] and reset[1:].any()):
        raise InputError("recording: the first tick must begin an episode, and a later one another")
    if not np.isfinite(obs).all():
        t, i = np.argwhere(~np.isfinite(obs))[0]
        raise InputError(f"recording: entry {i} of the observation at tick {t} is not finite")


def initial_states(policy: Policy) -> State:
    """z at the first tick of the recording: as on the robot, but with a context away from nominal,
    or fast numbers away from zero.

    There, a graph that mixed up two entries could look like a right one.
    """
    z = dict(zip(policy.z_names, policy.initial(1), strict=True))
    if "context" in z:
        low, high = np.array([(p.low, p.high) for p in policy.spec.context]).T
        context = np.random.default_rng(0).uniform(low, high)
        z["context"] = torch.tensor(context[None], dtype=torch.float32)
    if "fast" in z:
        fast = np.random.default_rng(0).uniform(-1.0, 1.0, z["fast"].shape)
        z["fast"] = torch.tensor(fast, dtype=torch.float32)
    return tuple(z.values())


@torch.no_grad()
def replay(policy: Policy, obs: Array, reset: Array, z: State) -> tuple[Array, Array]:
    """Commands and raw actions, both (T, A), of torch for obs (T, O) float32 and reset (T,)."""
    commands, raws = [], []
    for row, begins in zip(torch.from_numpy(obs), reset.tolist(), strict=True):
        command, raw, z = policy.forward_full(row[None], z, torch.tensor([[float(begins)]]))
        commands.append(command[0].numpy())
        raws.append(raw[0].numpy())
    if not np.isfinite(raws).all():
        raise InputError(
            f"policy '{policy.spec.name}' gives commands that are not finite on its own recording"
        )
    return np.stack(commands), np.stack(raws)


def measure_parity(artifact: Artifact) -> float:
    """Largest |torch - onnxruntime| / (1 + |torch|) over the recording, each with its own state."""
    golden, runner = artifact.golden, Runner(artifact)
    for name, value in golden.states.items():
        runner.set_state(name, value)
    obs = artifact.contract.flatten(golden.obs)
    ours = np.array(
        [runner.step(row, bool(r)) for row, r in zip(obs, golden.reset[:, 0], strict=True)]
    )
    theirs = np.stack([golden.command, golden.action_raw], axis=1).astype(np.float64)  # (T, 2, A)
    return float((np.abs(ours - theirs) / (1 + np.abs(theirs))).max())


# The graph


class _Graph(nn.Module):
    """`Policy.forward_full` of any policy, with z spread over the arguments as ONNX wants them."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor, reset: Tensor, *z: Tensor) -> tuple[Tensor, ...]:
        command, raw, after = self.policy.forward_full(obs, z, reset)
        return command, raw, *after


def build_graph(policy: Policy) -> onnx.ModelProto:
    """The policy as an ONNX graph of batch 1, without anything that does not compute.

    Raises:
        InputError: onnxscript is too old, or the graph is not one that a robot may run.
    """
    names = policy.z_names
    inputs = (torch.zeros(1, policy.spec.obs_size), torch.zeros(1, 1), *policy.initial(1))
    return trace(
        _Graph(policy),
        inputs,
        input_names=["obs", "reset", *(f"{name}_in" for name in names)],
        output_names=["command", "action_raw", *(f"{name}_out" for name in names)],
    )


def trace(
    module: nn.Module, inputs: tuple[Tensor, ...], input_names: list[str], output_names: list[str]
) -> onnx.ModelProto:
    """A module as an ONNX graph that `check_graph` accepts, with the shapes of `inputs`."""
    check_onnxscript(version("onnxscript"))
    with _quiet():
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
        )
    assert program is not None  # None comes from dynamo=False only
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    check_graph(model)
    return model


def check_onnxscript(found: str) -> None:
    """Raises InputError for versions that export a GRU wrongly (microsoft/onnxscript#2852)."""
    number, oldest = (
        [int(n) for n in re.findall(r"\d+", v)[:3]] for v in (found, OLDEST_ONNXSCRIPT)
    )
    if number < oldest:
        raise InputError(
            f"onnxscript {found} exports recurrent policies that are silently wrong; "
            f'pip install "onnxscript>={OLDEST_ONNXSCRIPT}"'
        )


def check_graph(model: onnx.ModelProto) -> None:
    """Raises InputError unless a robot may run it: standard operators, batch 1, torch's GRU."""
    onnx.checker.check_model(model, full_check=True)
    domains = {opset.domain: opset.version for opset in model.opset_import}
    if model.ir_version > IR_VERSION or domains != {"": OPSET} or model.functions:
        raise InputError(
            f"the graph has IR {model.ir_version} and operator sets {domains}; "
            f"a robot reads IR {IR_VERSION} or older and the standard operators of opset {OPSET}"
        )
    for tensor in (*model.graph.input, *model.graph.output):
        shape = [d.dim_value for d in tensor.type.tensor_type.shape.dim]  # 0 where it is not fixed
        if not shape or shape[0] != 1 or 0 in shape:
            raise InputError(
                f"the graph's '{tensor.name}' has shape {shape}; "
                "every size must be fixed, and the batch 1"
            )
    for weights in model.graph.initializer:
        if weights.data_location == onnx.TensorProto.EXTERNAL:
            raise InputError(
                f"the graph's weights '{weights.name}' lie in another file; an artifact has one"
            )
    for node in model.graph.node:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("If", "Loop", "Scan"):
            raise InputError(
                f"the graph's node '{node.name}' is a {node.op_type}; "
                "control flow has no fixed duration"
            )
        if node.op_type == "GRU" and given.get("linear_before_reset", 0) != 1:
            raise InputError(
                f"the graph's node '{node.name}' is a GRU without linear_before_reset = 1, so it "
                f'is not torch\'s; pip install "onnxscript>={OLDEST_ONNXSCRIPT}" and export again'
            )
        if (
            node.op_type in ("GRU", "LSTM", "RNN")
            and given.get("direction", b"forward") != b"forward"
        ):
            raise InputError(
                f"the graph's node '{node.name}' looks into the future; a robot cannot"
            )


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes: they hold source paths, and the digest is of what computes."""
    graph = model.graph
    del graph.value_info[:]
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Generator[None]:
    """The exporter speaks of torchvision and its own deprecations; nobody can act on either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


# What is said about it


def build_contract(spec: PolicySpec, recorded: Recording) -> c.Contract:
    """The contract of a policy; its hashes and its parity are filled in where they are known."""
    ranges = [np.percentile(x, (0.1, 99.9), axis=0).tolist() for x in _split(recorded.obs, spec)]
    actuators = spec.actuators
    H, O, K = spec.history, spec.obs_size, len(spec.context)
    A, Z = spec.action_size, 0 if spec.memory is None else spec.memory.z_size
    nominal = tuple(p.nominal for p in spec.context)
    states = {
        "history": c.State("history", (1, H, O), (0.0,) * (H * O), reset="episode"),
        "context": c.State("context", (1, K), nominal, reset="trial"),
        "fast": c.State("fast", (1, spec.fast_size), (0.0,) * spec.fast_size, reset="trial"),
        "memory": c.State("memory", (1, Z), (0.0,) * Z, reset="trial"),
        "last_action": c.State("last_action", (1, A), (0.0,) * A, reset="trial"),
    }
    return c.Contract(
        schema=c.SCHEMA,
        name=spec.name,
        package=f"sim2real {_version('sim2real')}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: _version(name) for name in ("torch", "onnx", "onnxscript", "onnxruntime")},
        files=dict.fromkeys(c.FILES, ""),
        graph="",
        robot=Path(spec.env).name,
        control_period=spec.control_period,
        max_observation_age=STALE_PERIODS * spec.control_period + spec.latency_ms[1] / 1000,
        observations=tuple(
            c.Observation(
                name=term.name,
                size=term.size,
                unit=term.unit,
                frame=term.frame,
                sensor=term.sensor,
                access="measured" if term.access == "measured" else "estimated",
                elements=term.elements,
                low=term.low or tuple(low),
                high=term.high or tuple(high),
            )
            for term, (low, high) in zip(spec.terms, ranges, strict=True)
        ),
        commands=c.Commands(
            names=actuators.names,
            unit=actuators.unit,
            low=actuators.low,
            high=actuators.high,
            scale=spec.action_scale,
            offset=spec.action_offset,
            head="tanh" if spec.head == "tanh" else "clip",
            rate_limit=None,
        ),
        states=tuple(states[name] for name in spec.z_names),
        gains=None,
        latency_ms=spec.latency_ms,
        parameters=tuple(
            c.Parameter(p.name, p.unit, p.low, p.high, p.nominal)
            for p in spec.context or spec.parameters
        ),
        adaptation=_adaptation(spec),
        safety=c.Safety(spec.max_tilt, spec.tilt_term, nan_ticks=1, stale_ticks=3, late_ticks=10),
        evidence=c.Evidence(parity=0.0, ticks=len(recorded.obs), tolerance=TOLERANCE),
    )


CELL = 1e4
"""Up to what an LSTM's cell is kept for later: it grows by 1 in a step at most."""


def _adaptation(spec: PolicySpec) -> c.Adaptation | None:
    if spec.context:
        low, high = (tuple(getattr(p, end) for p in spec.context) for end in ("low", "high"))
        return c.Adaptation("context", "context", False, spec.episodes, low, high)
    if spec.fast_size:
        high = (FARTHEST,) * spec.fast_size
        low = tuple(-x for x in high)
        return c.Adaptation("gradient", "fast", False, spec.episodes, low, high)
    if spec.memory is None:
        return None
    M = spec.memory.hidden
    high = (1.0,) * M + (CELL,) * (spec.memory.z_size - M)
    low = tuple(-x for x in high)
    return c.Adaptation("memory", "memory", False, spec.episodes, low, high)


def build_card(spec: PolicySpec, contract: c.Contract) -> str:
    """The artifact in a person's words (Markdown)."""
    commands, safety, evidence = contract.commands, contract.safety, contract.evidence
    observed = [
        (t.name, t.size, t.unit, t.frame, t.sensor, t.access, ", ".join(t.elements), t.low, t.high)
        for t in contract.observations
    ]
    commanded = zip(
        commands.names, commands.low, commands.high, commands.scale, commands.offset, strict=True
    )
    randomized = [(p.name, p.unit, p.low, p.high, p.nominal) for p in contract.parameters]
    tilt = f"a tilt of {safety.max_tilt:.4g} rad ({safety.tilt_term})" if safety.max_tilt else ""
    stops = [
        *([tilt] if tilt else []),
        f"values that are not finite (ticks in a row: {safety.nan_ticks})",
        f"observations older than {contract.max_observation_age:.4g} s (ticks in a row: "
        f"{safety.stale_ticks})",
        f"late ticks (among the last 100: {safety.late_ticks})",
    ]
    return f"""# {contract.name}

A policy for the robot `{contract.robot}`: one command every {contract.control_period:.4g} s.
Written by {contract.package} on {contract.created}. What counts is the contract inside
`policy.onnx`; this page repeats it for people.

## Observations, in this order

{_table("term, size, unit, frame, sensor, access, elements, low, high", observed)}

Low and high are the 0.1 and 99.9 percentiles met in training.

## Commands, in this order [{commands.unit}]

{_table("actuator, low, high, scale, offset", commanded)}

## State, which the robot feeds back

{_table("state, shape, lasts for one", [(s.name, s.shape, s.reset) for s in contract.states])}

## Physics trained on

{_table("parameter, unit, low, high, nominal", randomized)}

Latency [ms]: {contract.latency_ms[0]:.4g} to {contract.latency_ms[1]:.4g}.
{_adapted(contract.adaptation)}

## Safety and evidence

It stops at {"; ".join(stops)}.

torch and onnxruntime differ by {evidence.parity:.1e} of 1 + the value, at most, over
{evidence.ticks} recorded ticks; {evidence.tolerance:g} is allowed.

## Where it comes from

{_table("what, which", sorted({**spec.provenance, **contract.versions}.items()))}
"""


def _adapted(adaptation: c.Adaptation | None) -> str:
    if adaptation is None:
        return "Nothing is adapted on the robot."
    needed = "a" if adaptation.reward else "no"
    return (
        f"Adapted on the robot: `{adaptation.state}`, within {adaptation.episodes} episodes, for "
        f"which it needs {needed} reward."
    )


def _table(columns: str, rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; `columns` are its heads, a comma between them."""

    def cell(value: object) -> str:
        if isinstance(value, tuple):
            return ", ".join(map(cell, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")

    heads = columns.split(", ")
    lines = [heads, ["---"] * len(heads), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _split(obs: Array, spec: PolicySpec) -> list[Array]:
    """(T, O) -> one (T, size) for each term."""
    return np.split(obs, np.cumsum([term.size for term in spec.terms])[:-1], axis=1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "(not installed)"
