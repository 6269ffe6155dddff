"""A motion that tells much and harms nothing: proposed, rehearsed, and what it reveals.

Either bounded noise on the commands of a policy that keeps the robot up, or a motion of its own
around the command at rest: sums of sines, as the identification of robots has them (Swevers et al.
1997), without a policy. Each is rehearsed on robots drawn from the whole range of ξ, and what is
not safe on one of them is dropped. Of the rest the one is proposed that tells most of ξ: the
largest determinant of the information (D-optimal, Kiefer and Wolfowitz 1960). What it reveals is
then not foretold but rehearsed: robots with hidden ξ make it, and are identified from their logs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np

from sim2real import progress
from sim2real.identification.excitation import Act
from sim2real.identification.fit import fit
from sim2real.identification.linearization import Normal, design, information, regressed
from sim2real.identification.posterior import INFORMED
from sim2real.identification.tracking import Supposed
from sim2real.identification.trajectories import follower, part
from sim2real.identification.windows import LENGTH, Trajectory
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.suspended import SuspendedRobot, floating
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError

SHARES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Sizes that are tried, of half the command's range."""
FASTEST = (0.5, 1.0, 2.0)
"""Fastest sines of a motion that are tried [Hz]."""
SINES = 8
"""Of each actuator's motion."""
RAMP = 1.0
"""In which a motion begins and ends [s]."""
REHEARSALS = 12
"""Robots on which each is rehearsed, the nominal one among them."""
IDENTIFIED = 2
"""Of these robots, those that are identified from their logs of the motion that was chosen."""
SPARE = 0.05
"""Share of a joint's range that a motion keeps away from its ends, where the joint began so far."""
MARGIN = 0.1
"""Share by which noise may make a policy fall more often, which chance makes of it in so few
robots; where there were no falls there must be none."""
DRIFT = 0.1
"""Supposed while motions are compared, see `Supposed`."""
NEAR = 0.1
"""Deviation of the physics by which they are compared, of the ranges."""
NOISE = {"rad": 0.005, "m": 0.005, "rad/s": 0.05, "m/s": 0.05, "1": 0.01}
"""Of sensors, by unit, supposed for what a motion would reveal; 1 % of the motion elsewhere."""


class Expected(NamedTuple):
    """What logs of the motion would say of one parameter."""

    name: str
    unit: str
    left: tuple[float, ...]
    """Deviation that identification was left with, over that of the range, on each of the robots
    drawn from ξ on which it was rehearsed."""

    @property
    def revealed(self) -> bool:
        """On every one of them."""
        return max(self.left) < INFORMED


@dataclass(frozen=True)
class Proposal:
    """A safe motion, and what it tells."""

    env: str
    actuators: tuple[str, ...]
    control_period: float
    share: float
    """Of half the command's range: the motion's peak, or the deviation of a policy's noise."""
    fastest_hz: float | None
    """Its fastest sine; None with a policy."""
    command: Array | None
    """(T, A) the motion, in the actuators' unit; None with a policy."""
    tried: int
    unsafe: int
    rehearsals: int
    """Robots that each was rehearsed on."""
    falls_per_minute: float
    """In the rehearsals of what was chosen, with the policy's own."""
    spare: float
    """The least distance to the end of a joint's range in the rehearsals, over that range."""
    parameters: tuple[Expected, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the motion left out."""
        plain = {k: v for k, v in self.__dict__.items() if k not in ("command", "parameters")}
        rows = [{**e._asdict(), "revealed": e.revealed} for e in self.parameters]
        return {**plain, "actuators": list(self.actuators), "parameters": rows}

    def csv(self) -> str:
        """The motion as a table: time [s] and the command of every actuator.

        Raises:
            InputError: there is none, since a policy drives the robot.
        """
        if self.command is None:
            raise InputError("a policy drives this robot: there is no motion to write")
        head = ",".join(["time", *self.actuators])
        rows = [
            ",".join([f"{t * self.control_period:.6f}", *(f"{x:.9g}" for x in row)])
            for t, row in enumerate(self.command)
        ]
        return "\n".join([head, *rows, ""])


class _Rehearsal(NamedTuple):
    logs: tuple[Trajectory, ...]
    """Of the nominal robot, and of IDENTIFIED others."""
    falls_per_minute: float
    spare: float
    within: bool
    """Whether all joints kept away from the ends of their ranges."""


def stages(policy: bool) -> int:
    """What `report` counts to."""
    return (1 + len(SHARES) if policy else len(FASTEST) * len(SHARES)) + IDENTIFIED


def propose(
    robot: Robot, act: Callable[[int], Act] | None = None, *,
    observe: Sequence[str] = (), seconds: float = 10.0, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Proposal:  # fmt: skip
    """The safe motion of `robot` that tells most of its ξ.

    Args:
        act: makes what drives so many robots at once, from what `observe` names; None is a motion
            of its own.
        seconds: of the motion.

    Raises:
        InputError: no motion is safe, steps that are opaque, or less than two seconds.
    """
    if not isinstance(robot, MjcfRobot):
        raise InputError(f"{robot.name} is a Gymnasium environment, whose steps are opaque")
    if not seconds >= 2 * RAMP:
        raise InputError(f"seconds is {seconds:g}; a motion needs at least {2 * RAMP:g}")
    ticks = round(seconds / robot.control_period)
    drives = _of_policy(robot, act, observe, ticks, seed) if act else _motions(robot, ticks, seed)
    found: list[tuple[float, int, _Rehearsal]] = []
    allowed = 0.0
    for i, drive in enumerate(drives):
        report(i, {})
        made = drive.rehearse()
        if act and not i:
            allowed = made.falls_per_minute * (1 + MARGIN)
            continue
        short = min(len(log.command) for log in made.logs) <= LENGTH
        if short or made.falls_per_minute > allowed or not (act or made.within):
            continue
        told = _information(robot, made.logs[0], seed)
        if np.isfinite(told):  # else the simulation diverges
            found.append((told, i, made))
    tried = len(drives) - (act is not None)
    if not found:
        hangs = isinstance(robot, SuspendedRobot) or not floating(robot.model)
        hang = "" if hangs else ", or hang it on a stand (--suspended)"
        why = (
            "the policy falls at once, or more often with the least noise than without it"
            if act
            else "the robot falls, or a joint comes to the end of its range; give a policy that "
            f"keeps it up (--policy){hang}"
        )
        raise InputError(
            f"{robot.name}: none of {tried} motions is safe on {REHEARSALS} robots drawn from its "
            f"ξ: {why}"
        )
    _, i, made = max(found, key=lambda f: f[0])
    best, space = drives[i], robot.space
    left: list[Array] = []
    for k, log in enumerate(made.logs[1:]):
        report(len(drives) + k, {})
        posterior = fit(robot, [noisy(robot, log, np.random.default_rng([seed, 15, k]))], seed=seed)
        left.append(posterior.std / posterior.prior_std)
    report(stages(act is not None), {})
    return Proposal(
        robot.name, tuple(robot.actuators), robot.control_period, best.share, best.fastest,
        best.command, tried, tried - len(found), REHEARSALS, made.falls_per_minute, made.spare,
        tuple(Expected(p.name, p.unit, tuple(float(x[k]) for x in left))
              for k, p in enumerate(space.parameters) if space.high[k] > space.low[k]),
    )  # fmt: skip


class _Drive(NamedTuple):
    share: float
    fastest: float | None
    command: Array | None
    rehearse: Callable[[], _Rehearsal]


def _motions(robot: MjcfRobot, ticks: int, seed: int) -> list[_Drive]:
    low, high = robot.command_range
    rest, half = np.array(robot.task.rest, float), (high - low) / 2
    drives: list[_Drive] = []
    for fastest in FASTEST:
        rng = np.random.default_rng([seed, 11])
        signal = multisine(ticks, len(half), robot.control_period, fastest, rng)
        for share in SHARES:
            command = np.clip(rest + share * half * signal, low, high)

            def rehearse(command: Array = command) -> _Rehearsal:
                return _rehearse(robot, ticks, seed, lambda obs, t: command[t], [])

            drives.append(_Drive(share, fastest, command, rehearse))
    return drives


def _of_policy(
    robot: MjcfRobot, act: Callable[[int], Act], observe: Sequence[str], ticks: int, seed: int
) -> list[_Drive]:
    low, high = robot.command_range
    drives: list[_Drive] = []
    for share in (0.0, *SHARES):

        def rehearse(share: float = share) -> _Rehearsal:
            rng, driver = np.random.default_rng([seed, 12]), act(REHEARSALS)

            def drive(obs: Array, t: int) -> Array:
                command = driver(obs, t == 0)
                noise = share * (high - low) / 2 * rng.standard_normal(command.shape)
                return np.clip(command + noise, low, high)

            return _rehearse(robot, ticks, seed, drive, observe)

        drives.append(_Drive(share, None, None, rehearse))
    return drives


def multisine(
    ticks: int, actuators: int, period: float, fastest: float, rng: np.random.Generator
) -> Array:
    """(ticks, actuators) within [-1, 1]: sines of up to `fastest` [Hz] with phases at random, other
    ones for each actuator, that begin and end at zero."""
    t = np.arange(ticks) * period
    slowest = min(fastest / 2, 2 / (ticks * period))
    frequency = rng.uniform(slowest, fastest, (SINES, actuators))
    phase = rng.uniform(0, 2 * np.pi, (SINES, actuators))
    signal = np.sin(2 * np.pi * t[:, None, None] * frequency + phase).sum(axis=1)
    edge = np.minimum(t, t[-1] - t) / RAMP
    signal *= (0.5 - 0.5 * np.cos(np.pi * np.minimum(edge, 1)))[:, None]
    return signal / np.abs(signal).max(axis=0)


def _rehearse(
    robot: MjcfRobot, ticks: int, seed: int, drive: Callable[[Array, int], Array],
    observe: Sequence[str],
) -> _Rehearsal:  # fmt: skip
    """On the nominal robot and on others of the whole range of ξ, each until it falls."""
    measured = [t.name for t in robot.observation("measured") if t.name not in observe]
    worlds = Worlds(robot, REHEARSALS, observe=[*observe, *measured], seed=seed, threads=1)
    xi = robot.space.prior().sample(np.random.default_rng([seed, 13]), REHEARSALS)
    xi[0] = robot.space.nominal
    obs = worlds.reset(xi=xi)
    told = sum(t.size for t in worlds.terms[: len(observe)])
    fallen = np.zeros(REHEARSALS, bool)
    ends = np.full(REHEARSALS, ticks)
    begin = least = _spare(robot.model, worlds.data["qpos"])
    seen, sent = [obs], list[Array]()
    for t in range(ticks):
        command = np.broadcast_to(drive(obs[:, :told], t), (REHEARSALS, robot.model.nu))
        step = worlds.advance(command)
        seen.append(step.obs)
        sent.append(np.array(command))
        ends[step.terminated & ~fallen] = t + 1
        fallen |= step.terminated
        obs = step.obs
        least = np.minimum(least, _spare(robot.model, worlds.data["qpos"][~fallen]))
    borders = np.cumsum([t.size for t in worlds.terms])[:-1]
    parts = np.split(np.stack(seen, axis=1), borders, axis=2)
    named = zip(worlds.terms, parts, strict=True)
    logged = {t.name: x for t, x in named if t.access != "privileged"}
    commands = np.stack(sent, axis=1)
    logs = [
        Trajectory({n: x[i, : ends[i] + 1] for n, x in logged.items()}, commands[i, : ends[i]])
        for i in range(1 + IDENTIFIED)
    ]
    minutes = ends.sum() * robot.control_period / 60
    within = bool((least >= np.minimum(SPARE, begin)).all())
    return _Rehearsal(
        tuple(logs), float(fallen.sum() / minutes), float(least.min(initial=np.inf)), within
    )


def _spare(model: mujoco.MjModel, qpos: Array) -> Array:
    """(J,) of every joint that has a range: the least distance from its ends in states (B, nq),
    over that range; negative beyond it."""
    limited = np.flatnonzero(model.jnt_limited & np.isin(model.jnt_type, (2, 3)))
    low, high = model.jnt_range[limited].T
    value = qpos[:, model.jnt_qposadr[limited]]
    return (np.minimum(value - low, high - value) / (high - low)).min(axis=0, initial=np.inf)


def _information(robot: MjcfRobot, log: Trajectory, seed: int) -> float:
    """Logarithm of the determinant of what a log of the nominal robot adds to the range of ξ, in
    its deviations: as in `fit`, but along ξ itself, of a part of the log, under a right simulator
    and noisy sensors."""
    space, rng = robot.space, np.random.default_rng([seed, 14])
    low, high = np.array(space.low, float), np.array(space.high, float)
    free = high > low  # a range of one point has nothing to tell
    if len(log.command) <= LENGTH:
        return 0.0
    tracker = follower(robot, part([noisy(robot, log, rng)], len(log.command)))
    nominal = np.clip(space.nominal, low, high)
    track = tracker.follow(nominal, [Supposed(DRIFT, tracker.noise)])[0]
    near = Normal(nominal, np.diag((NEAR * (high - low)) ** 2))
    pairs = design(near, low, high, 0, rng)
    surprise = tracker.surprise(pairs.xi, track)
    there = np.asarray(np.isfinite(surprise).all(axis=0))
    prior = np.array(space.prior().std(), float)[free]
    told = information(regressed(pairs, surprise[:, there], rng)).precision[np.ix_(free, free)]
    return float(np.linalg.slogdet(np.eye(len(prior)) + told * np.outer(prior, prior))[1])


def noisy(robot: MjcfRobot, log: Trajectory, rng: np.random.Generator) -> Trajectory:
    """A log with the noise that sensors are supposed to have."""
    obs = dict(log.obs)
    for name, value in log.obs.items():
        term = robot.terms[name]
        if term.sensor != "command":
            size = NOISE.get(term.unit, 0.01 * float(np.std(value)))
            obs[name] = value + size * rng.standard_normal(value.shape)
    return Trajectory(obs, log.command)
