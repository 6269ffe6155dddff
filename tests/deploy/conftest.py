"""A real policy (PD control with history and context, as an ONNX graph) and a real robot (a point
mass behind UDP, integrated in a thread of its own)."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sim2real.deploy import contract as c
from sim2real.deploy.artifact import Artifact, write_artifact
from sim2real.deploy.golden import Golden
from sim2real.deploy.robots import protocol
from sim2real.deploy.robots.base import ActuatorDescription, RobotDescription, TermDescription
from sim2real.deploy.robots.protocol import Kind

H, K, A = 3, 2, 2
TERMS = {"position": (2, "m"), "velocity": (2, "m/s"), "pitch": (1, "rad")}
O = sum(size for size, _ in TERMS.values())
PERIOD = 0.01
RNG = np.random.default_rng(7)
MEAN = RNG.normal(size=H * O + K) * 0.1
INV = 1 / np.sqrt(RNG.uniform(0.5, 2.0, H * O + K) + 1e-8)
SCALE, OFFSET = np.array([2.0, 3.0]), np.array([0.05, -0.1])
LOW, HIGH = np.array([-1.5, -2.0]), np.array([1.5, 2.5])
W = RNG.normal(size=(H * O + K, A)) * 0.02
for axis in range(A):  # PD on the newest frame, undone by the normaliser
    W[(H - 1) * O + axis, axis] -= 1.0 / INV[(H - 1) * O + axis]
    W[(H - 1) * O + A + axis, axis] -= 0.7 / INV[(H - 1) * O + A + axis]


def model(normalizer=True, scale=SCALE, keeps_history=False, forgets_context=False) -> bytes:
    """The policy as a graph; the arguments are ways of getting it wrong."""
    const = {
        "ones": np.ones(1, np.int64),
        "H": np.array([H], np.int64),
        "flat": np.array([1, H * O], np.int64),
        "expand": np.array([1, H, O], np.int64),
        "cube": np.array([1, 1, 1], np.int64),
        "half": np.float32(0.5),
        "mean": MEAN[None].astype(np.float32),
        "inv": INV[None].astype(np.float32),
        "minus10": np.float32(-10),
        "plus10": np.float32(10),
        "W": W.astype(np.float32),
        "scale": scale.astype(np.float32),
        "offset": OFFSET.astype(np.float32),
        "low": LOW.astype(np.float32),
        "high": HIGH.astype(np.float32),
        "nominal": np.ones((1, K), np.float32),
    }
    nodes = [
        ("Unsqueeze", ["obs", "ones"], "frame", {}),
        ("Slice", ["history_in", "ones", "H", "ones"], "older", {}),
        ("Concat", ["older", "frame"], "shifted", {"axis": 1}),
        ("Expand", ["frame", "expand"], "filled", {}),
        ("Greater", ["reset", "half"], "is_reset", {}),
        ("Reshape", ["is_reset", "cube"], "is_reset3", {}),
        ("Identity", ["shifted"], "history_out", {})
        if keeps_history
        else ("Where", ["is_reset3", "filled", "shifted"], "history_out", {}),
        ("Where", ["is_reset", "nominal", "context_in"], "context_out", {})
        if forgets_context
        else ("Identity", ["context_in"], "context_out", {}),
        ("Reshape", ["history_out", "flat"], "frames", {}),
        ("Concat", ["frames", "context_out"], "x", {"axis": 1}),
        ("Sub", ["x", "mean"], "centred", {}),
        ("Mul", ["centred", "inv"], "scaled", {}),
        ("Clip", ["scaled", "minus10", "plus10"], "normal", {}),
        ("MatMul", ["normal" if normalizer else "x", "W"], "action_raw", {}),
        ("Mul", ["action_raw", "scale"], "stretched", {}),
        ("Add", ["stretched", "offset"], "shifted_command", {}),
        ("Max", ["shifted_command", "low"], "above", {}),
        ("Min", ["above", "high"], "command", {}),
    ]
    shapes = {"obs": (1, O), "reset": (1, 1), "history_in": (1, H, O), "context_in": (1, K)}
    outs = {
        "command": (1, A),
        "action_raw": (1, A),
        "history_out": (1, H, O),
        "context_out": (1, K),
    }

    def node(op, inputs, output, attributes: dict[str, Any]):
        return helper.make_node(op, inputs, [output], **attributes)

    def info(tensors):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in tensors.items()]

    graph = helper.make_graph(
        [node(*entry) for entry in nodes],
        "pd",
        info(shapes),
        info(outs),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in const.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True)


def reference(obs, reset, context):
    """The same policy in numpy float64, (T, O) -> command, raw (T, A): what torch is elsewhere."""
    history, commands, raws = np.empty((H, O)), [], []
    for row, begins in zip(obs, reset, strict=True):
        history = np.tile(row, (H, 1)) if begins else np.vstack([history[1:], row])
        x = np.concatenate([history.ravel(), context])
        raw = np.clip((x - MEAN) * INV, -10, 10) @ W
        raws.append(raw)
        commands.append(np.clip(raw * SCALE + OFFSET, LOW, HIGH))
    return np.array(commands), np.array(raws)


def recording(semantics=""):
    rng = np.random.default_rng(3)
    obs = {
        name: rng.normal(size=(200, size)).astype(np.float32) for name, (size, _) in TERMS.items()
    }
    reset = np.zeros((200, 1))
    reset[[0, 90]] = 1
    context = np.array([[1.25, 0.75]])
    flat = np.concatenate(list(obs.values()), axis=1).astype(np.float64)
    command, raw = reference(flat, reset[:, 0] > 0, context[0])
    history = rng.normal(size=(1, H, O))
    return Golden(obs, reset, {"history": history, "context": context}, command, raw, semantics)


CONTRACT = c.Contract(
    schema=2,
    name="pd",
    package="sim2real 0.1.0",
    created="2026-11-30T12:00:00+00:00",
    versions={"torch": "2.13.0"},
    files=dict.fromkeys(c.FILES, ""),
    graph="",
    robot="point",
    control_period=PERIOD,
    max_observation_age=0.05,
    observations=tuple(
        c.Observation(
            name, size, unit, "world", "encoder", "measured", (), (-3.0,) * size, (0.3,) * size
        )
        for name, (size, unit) in TERMS.items()
    ),
    commands=c.Commands(
        ("fx", "fy"), "N", tuple(LOW), tuple(HIGH), tuple(SCALE), tuple(OFFSET), "clip", None
    ),
    states=(
        c.State("history", (1, H, O), (0.0,) * (H * O), "episode"),
        c.State("context", (1, K), (1.0, 1.0), "trial"),
    ),
    gains=c.Gains(("fx", "fy"), (1.0, 1.0), (0.7, 0.0004)),
    latency_ms=(0.0, 20.0),
    parameters=(c.Parameter("mass", "1", 0.5, 2.0, 1.0), c.Parameter("drag", "1", 0.5, 2.0, 1.0)),
    adaptation=c.Adaptation("context", "context", False, 10, (0.5, 0.5), (2.0, 2.0)),
    safety=c.Safety(max_tilt=1.0, tilt_term="pitch", nan_ticks=2, stale_ticks=3, late_ticks=10),
    evidence=c.Evidence(parity=1e-6, ticks=200, tolerance=1e-5),
)  # fmt: skip


@pytest.fixture
def contract():
    return CONTRACT


@pytest.fixture
def write(tmp_path):
    """write(contract=, graph=, golden=, semantics=): an artifact with all hashes right."""

    def write(contract=CONTRACT, graph=None, golden=None, semantics=None, name="artifact") -> Path:
        text = c.golden_semantics(contract) if semantics is None else semantics
        golden = replace(golden or recording(), semantics=text)
        write_artifact(tmp_path / name, graph or model(), contract, golden, "# pd\n")
        return tmp_path / name

    return write


@pytest.fixture
def artifact(write):
    return Artifact.load(write())


@pytest.fixture
def make_model():
    return model


@pytest.fixture
def make_recording():
    return recording


@pytest.fixture
def numpy_policy():
    return reference


class PointMass(threading.Thread):
    """m a = f - d v per axis, semi-implicit Euler; does what `protocol` asks of a server.

    `spoil(tick, datagram) -> list of datagrams` stands for the network, `sense(tick, obs) -> obs`
    for broken sensors.
    """

    def __init__(
        self, realtime=False, spoil=None, sense=None, episode_steps=40, reward=True, **edit
    ):
        super().__init__(daemon=True)
        terms = tuple(TermDescription(n, size, unit, ()) for n, (size, unit) in TERMS.items())
        # Another order of actuators than the policy's: commands are joined by name.
        actuators = ActuatorDescription(("fy", "fx"), "N", (-5.0, -1.0), (5.0, 5.0))
        self.description = replace(
            RobotDescription("point", terms, actuators, PERIOD, realtime, reward, episode_steps),
            **edit,
        )
        self.spoil, self.sense = (
            spoil or (lambda tick, data: [data]),
            sense or (lambda tick, obs: obs),
        )
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.commands, self.seeds, self.damped = [], [], 0
        self.done = False

    def run(self):
        peer, self.seq, self.taken, self.tick, last = None, 0, 0, 0, b""
        due = time.monotonic()
        while not self.done:
            realtime = self.description.realtime
            self.socket.settimeout(max(due - time.monotonic(), 1e-4) if realtime else 0.02)
            try:
                data, sender = self.socket.recvfrom(protocol.MAX_DATAGRAM)
                message = protocol.decode(data)
            except (TimeoutError, ConnectionRefusedError):
                message, sender = None, None
            if message is not None and sender is not None and message.kind is Kind.HELLO:
                peer, self.taken = sender, 0
                self.socket.sendto(protocol.describe(self.description).encode(), peer)
            elif message is not None and message.kind is Kind.DAMP:
                self.damped += 1
            elif message is not None and message.kind in (Kind.RESET, Kind.COMMAND):
                if message.seq > self.taken:
                    self.taken = message.seq
                    self.act(message)
                    if not realtime:
                        last = self.observe()
                elif message.seq < self.taken:
                    continue
                if not realtime:
                    self.transmit(last, peer)
            if realtime and peer and self.taken and time.monotonic() >= due:
                if self.moving:
                    self.integrate()
                self.transmit(self.observe(), peer)
                due = max(due + PERIOD, time.monotonic())
        self.socket.close()

    def act(self, message):
        if message.kind is Kind.RESET:
            self.seeds.append(message.seed())
            rng = np.random.default_rng(message.seed())
            self.position, self.velocity = rng.uniform(-1, 1, 2), np.zeros(2)
            self.steps, self.reward, self.moving = 0, 0.0, False
            return
        self.force = message.values()[::-1].copy()  # wire order fy, fx
        self.commands.append(self.force)
        self.moving = True
        if not self.description.realtime:
            self.integrate()

    def integrate(self):
        if self.steps >= (self.description.episode_steps or np.inf):
            self.reward = 0.0
            return
        self.velocity = self.velocity + PERIOD * (self.force - 0.1 * self.velocity)
        self.position = self.position + PERIOD * self.velocity
        self.steps += 1
        self.reward = -float(self.position @ self.position)

    def observe(self):
        self.seq += 1
        obs = {"position": self.position, "velocity": self.velocity, "pitch": np.zeros(1)}
        ended = self.steps == self.description.episode_steps
        stamp = time.monotonic() if self.description.realtime else self.steps * PERIOD
        return protocol.observation(
            self.description,
            self.seq,
            self.taken,
            stamp,
            self.sense(self.seq, obs),
            self.reward,
            truncated=ended,
        ).encode()

    def transmit(self, data, peer):
        self.tick += 1
        for datagram in self.spoil(self.tick, data):
            self.socket.sendto(datagram, peer)


@pytest.fixture
def point_mass():
    """point_mass(**options): a running robot; it ends with the test."""
    running = []

    def start(**options) -> PointMass:
        server = PointMass(**options)
        running.append(server)
        server.start()
        return server

    yield start
    for server in running:
        server.done = True
        server.join(2)
