"""A simulated robot as a process of its own, behind the same wire as a real one.

It knows its gap; whoever talks to it gets observations, a reward where the task has one, and
nothing else. See `deploy/robots/protocol.py` for what is said on the wire.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sim2real.deploy.robots import protocol
from sim2real.deploy.robots.base import ActuatorDescription, RobotDescription, TermDescription
from sim2real.deploy.robots.protocol import Kind, Message
from sim2real.simulation.gap import Gap
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

log = logging.getLogger(__name__)

QUIET = 1.0
"""[s] after which a peer that says nothing may be replaced."""
COMMAND_TIMEOUT = 0.5
"""[s] without a command after which a robot in real time damps itself."""


class SimulatedRobot:
    """One world that answers messages. Time passes by command (lockstep) or by itself."""

    def __init__(
        self, robot: Robot, *, gap: str | Path | Gap | None, seed: int = 0, realtime: bool = False
    ) -> None:
        names = [n for n, t in robot.terms.items() if t.access != "privileged"]
        if not names:
            raise InputError(
                f"{robot.where}: a robot sends what it measures, and every term here is "
                "privileged; declare terms, or task_access: measured"
            )
        self.worlds = make_worlds(robot, 1, gap=gap, observe=names, seed=seed, threads=1)
        self.description = _describe(robot, names, realtime)
        self.realtime = realtime
        self._parts = np.cumsum([t.size for t in self.worlds.terms])[:-1]
        self._seq = 0
        self._started = time.monotonic()
        self.forget()
        self._obs = self.worlds.reset()[0]

    def forget(self) -> None:
        """A new peer, or none: what was sent and received so far no longer counts."""
        self._acted, self._last = 0, b""
        self._command: Array | None = None
        self._commanded = 0.0
        self._flags, self._reward, self._damped = (False, False), 0.0, True

    def answer(self, message: Message) -> bytes | None:
        """Acts on a RESET, COMMAND or DAMP of the peer; what goes back, if anything."""
        if message.kind is Kind.DAMP:
            self._damped, self._command = True, None
            return None
        if message.seq <= self._acted:
            return self._last if message.seq == self._acted and not self.realtime else None
        if message.kind is Kind.RESET:
            return self._reset(message)
        values = message.values()
        size = len(self.worlds.action_low)
        if values.size != size:
            return protocol.error(
                f"the command has {values.size} numbers; {self.description.name} takes {size}"
            ).encode()
        if not np.isfinite(values).all():
            return protocol.error("the command is not finite; nothing was done").encode()
        self._acted, self._commanded = message.seq, time.monotonic()
        self._command = np.clip(values, self.worlds.action_low, self.worlds.action_high)
        if self.realtime:
            return None
        self._advance()
        return self._observation()

    def period(self) -> bytes:
        """One control period in real time: what goes to the peer."""
        if self._command is not None and time.monotonic() - self._commanded > COMMAND_TIMEOUT:
            self._damped, self._command = True, None
        if self._command is not None or self._damped:
            self._advance()
        return self._observation()

    def _reset(self, message: Message) -> bytes | None:
        self._acted = message.seq
        seed = message.seed()
        if seed is not None:
            self.worlds.seed_world(0, seed)
        self._obs = self.worlds.reset()[0]
        self._flags, self._reward, self._damped, self._command = (False, False), 0.0, False, None
        self._started = time.monotonic()
        answer = self._observation()
        return None if self.realtime else answer

    def _advance(self) -> None:
        if any(self._flags):
            self._reward = 0.0
            return
        command = np.zeros(len(self.worlds.action_low))
        if self._command is not None and not self._damped:
            command = self._command
        step = self.worlds.advance(command[None].astype(np.float32))
        self._obs, self._reward = step.obs[0], float(step.reward[0])
        self._flags = bool(step.terminated[0]), bool(step.truncated[0])

    def _observation(self) -> bytes:
        self._seq += 1
        own = float(self.worlds.ticks[0]) * self.worlds.control_period
        obs = dict(
            zip((t.name for t in self.worlds.terms), np.split(self._obs, self._parts), strict=True)
        )
        self._last = protocol.observation(
            self.description, self._seq, self._acted,
            time.monotonic() if self.realtime else own, obs, self._reward, *self._flags,
        ).encode()  # fmt: skip
        return self._last


def serve(
    env: str | Path,
    *,
    gap: str | Path | Gap | None = None,
    port: int = 0,
    realtime: bool = False,
    seed: int = 0,
    ready: Callable[[str, int], None] = lambda host, port: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Serves a simulated robot on loopback until `stop()` says so or the process is interrupted.

    Args:
        gap: what this robot does differently; where it is a family, `seed` says which robot.
        port: 0 takes a free one.
        ready: called with host and port once messages are heard.

    Raises:
        InputError: the env or gap is wrong, or the port is taken.
    """
    robot = SimulatedRobot(Robot.load(env), gap=gap, seed=seed, realtime=realtime)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used: {error.strerror}; give another"
            ) from None
        ready(*sock.getsockname())
        _loop(robot, sock, stop)


def _loop(robot: SimulatedRobot, sock: socket.socket, stop: Callable[[], bool]) -> None:
    peer: tuple[str, int] | None = None
    heard = 0.0
    period = robot.worlds.control_period
    due = time.monotonic() + period
    while not stop():
        wait = max(due - time.monotonic(), 0.0) if robot.realtime else 0.2
        if select.select([sock], [], [], wait)[0]:
            data, sender = sock.recvfrom(protocol.MAX_DATAGRAM)
            try:
                message = protocol.decode(data)
            except InputError as error:
                sock.sendto(protocol.error(str(error)).encode(), sender)
                continue
            if message is None:
                continue
            now = time.monotonic()
            if message.kind is Kind.HELLO:
                if peer is not None and sender != peer and now - heard < QUIET:
                    busy = f"{robot.description.name} already has a commander, {peer[0]}:{peer[1]}"
                    sock.sendto(protocol.error(busy).encode(), sender)
                    continue
                if sender != peer:
                    robot.forget()
                peer, heard = sender, now
                sock.sendto(protocol.describe(robot.description).encode(), sender)
            elif peer is not None and sender == peer:
                heard = now
                if message.kind is Kind.BYE:
                    robot.forget()
                    peer = None
                else:
                    _reply(robot, sock, peer, message)
        elif robot.realtime:
            due += period
            if due < time.monotonic():  # this computer was busy: no burst of periods afterwards
                due = time.monotonic() + period
            data = robot.period()
            if peer is not None:
                sock.sendto(data, peer)


def _reply(
    robot: SimulatedRobot, sock: socket.socket, peer: tuple[str, int], message: Message
) -> None:
    try:
        data = robot.answer(message)
    except InputError as error:
        data = protocol.error(str(error)).encode()
    if data is not None:
        sock.sendto(data, peer)


def _describe(robot: Robot, names: list[str], realtime: bool) -> RobotDescription:
    terms = [robot.terms[n] for n in names]
    low, high = robot.command_range
    return RobotDescription(
        robot.name,
        tuple(TermDescription(t.name, t.size, t.unit, t.elements) for t in terms),
        ActuatorDescription(
            robot.actuators, robot.config.command_unit, tuple(map(float, low)),
            tuple(map(float, high)),
        ),
        robot.control_period, realtime, True, robot.episode_steps,
    )  # fmt: skip


@contextmanager
def served(
    env: str | Path, *, gap: str | Path | None = None, realtime: bool = False, seed: int = 0
) -> Iterator[str]:
    """A simulated robot in a process of its own; gives its address, `127.0.0.1:PORT`.

    What the process writes to its standard error (that a latency was rounded, say) is logged here
    as warnings, a line each.

    Raises:
        InputError: the process did not start; the sentence is its own.
    """
    command = [
        sys.executable,
        "-m",
        "sim2real",
        "serve",
        str(env),
        "--port",
        "0",
        "--seed",
        str(seed),
    ]
    if gap is not None:
        command += ["--gap", str(gap)]
    if realtime:
        command += ["--realtime"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    notes: threading.Thread | None = None
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if "listening on " not in line:
            process.kill()
            said = (process.stderr.read() or line).strip().splitlines()
            _pass_on(said[:-1])
            raise InputError(_bare(said[-1]) if said else "the simulated robot did not start")
        notes = threading.Thread(target=_pass_on, args=(process.stderr,), daemon=True)
        notes.start()
        yield line.split("listening on ")[1].split()[0]
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if notes is not None:
            notes.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _pass_on(lines: Iterable[str]) -> None:
    for line in lines:
        log.warning("%s", _bare(line))


def _bare(line: str) -> str:
    """A line of the other process without the name that this one's own lines will bear."""
    return line.strip().removeprefix("sim2real: ")
