"""The loop that drives a robot with an artifact: one command per period, guarded and logged.

A stop is latched: the robot is damped and the run ends; only a new `run`, an act of a person, arms
it again.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sim2real.deploy import safety
from sim2real.deploy.adapt import apply
from sim2real.deploy.artifact import Artifact, NonFiniteError, Runner
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.logs.npz import SCHEMA, EpisodeLog, LogInfo, TickFlag, stamp_of
from sim2real.deploy.robots.base import Robot, RobotDescription, Sample
from sim2real.deploy.safety import Guards, Wiring
from sim2real.deploy.verify import inspect
from sim2real.types import Array, InputError

SPIN = 0.0003
"""[s] before a deadline that are waited awake: a sleeping thread wakes some 0.1 ms late."""
SILENCE = 2.0
"""[s] after which a robot in lockstep that does not answer is given up."""


@dataclass(frozen=True)
class Percentiles:
    """Of one duration [µs]."""

    p50: float
    p99: float
    p999: float

    @staticmethod
    def of(values: Sequence[float] | Array) -> Percentiles | None:
        """None where there are no values; NaN (not measured) is left out."""
        x = np.asarray(values, np.float64)
        x = x[np.isfinite(x)]
        return (
            Percentiles(*(float(p) for p in np.percentile(x, (50, 99, 99.9)))) if x.size else None
        )


@dataclass(frozen=True)
class LatencyTable:
    inference: Percentiles | None
    """The policy's own time."""
    reaction: Percentiles | None
    """From the begin of the tick to the command sent."""
    lateness: Percentiles | None
    """From the deadline to the begin of the tick; None in lockstep."""
    missed: int
    """Periods in which no command was sent."""
    ticks: int


@dataclass(frozen=True)
class EpisodeResult:
    return_: float | None
    """Sum of rewards; None where the robot has no such channel."""
    ticks: int
    seconds: float
    """ticks · control period"""
    terminated: bool
    """A fall, or whatever else ends the robot's task."""
    truncated: bool
    stopped: str | None
    """Why the controller stopped the robot; None: it did not."""
    log: Path | None
    """Where the episode was logged."""


@dataclass(frozen=True)
class RunResult:
    episodes: list[EpisodeResult]
    latency: LatencyTable
    trial: dict[str, Array]
    """The policy's states that last a trial, as they were after the last tick."""

    @property
    def stopped(self) -> str | None:
        """The reason of the safety stop that ended the run; None: there was none."""
        return self.episodes[-1].stopped if self.episodes else None

    @property
    def falls(self) -> int:
        return sum(e.terminated for e in self.episodes)

    @property
    def seconds(self) -> float:
        return sum(e.seconds for e in self.episodes)


Progress = Callable[[int, int, float], None]
"""(episode, tick, seconds of robot time so far), called once per tick: it must be quick."""


def run(
    artifact: Artifact | str | Path,
    robot: Robot,
    *,
    episodes: int | None = None,
    seconds: float | None = None,
    z: AdaptedState | str | Path | None = None,
    excitation: float = 0.0,
    blend: float = 0.0,
    seed: int = 0,
    realtime: bool | None = None,
    log: str | Path | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Drive `robot` with `artifact` and return what happened.

    Args:
        episodes: at most so many; 1 where neither this nor `seconds` is given.
        seconds: at most so much robot time, over all episodes [s].
        z: an adapted state, or its z.json.
        excitation: standard deviation of the noise added to commands, as a share of half their
            range; the noise is cut off at twice that, the sum at the command limits.
        blend: seconds over which each episode fades in from the neutral command [s].
        seed: episode k is reset with seed + k, and its excitation drawn from (seed, k).
        realtime: paced by the clock; must be as the robot is. None: as the robot is.
        log: the folder that gets one file per episode.
        progress: called once per tick.

    Raises:
        InputError: an artifact that does not verify, another robot than the policy was trained
            for, one that does not answer the first reset, an argument out of range: nothing has
            moved then. A robot that refuses a message, or sends observations of another length
            than it said, is damped first.

    The robot is damped when the run ends, however it ends; an interrupted episode is logged like
    the others.
    """
    if not isinstance(artifact, Artifact):
        artifact = Artifact.load(artifact)
    description = robot.describe()
    _check_arguments(description, episodes, seconds, excitation, blend, realtime, log)
    verification = inspect(artifact)
    if not verification.ok:
        raise InputError(f"{artifact.folder} is not run: {verification.sentence}")
    wiring = Wiring.join(artifact.contract, description)
    runner = Runner(artifact)
    adapted = apply(runner, z) if z is not None else None
    runner.warm_up()

    settings = _Settings(excitation, blend, seed, None if log is None else Path(log), progress)
    loop = _Loop(runner, robot, description, wiring, adapted, settings)
    count = episodes if episodes is not None else (1 if seconds is None else None)
    limit = None if seconds is None else round(seconds / description.control_period)
    collecting = gc.isenabled()
    if description.realtime:  # the collector pauses for milliseconds
        gc.collect()
        gc.disable()
    try:
        while (count is None or len(loop.results) < count) and (
            limit is None or loop.ticks < limit
        ):
            if not loop.episode(None if limit is None else limit - loop.ticks):
                break
    finally:
        robot.damp()
        if collecting:
            gc.enable()
    return RunResult(loop.results, loop.latency(), runner.trial())


def _check_arguments(
    robot: RobotDescription,
    episodes: int | None,
    seconds: float | None,
    excitation: float,
    blend: float,
    realtime: bool | None,
    log: str | Path | None,
) -> None:
    if episodes is not None and episodes < 1:
        raise InputError(f"episodes must be at least 1, but is {episodes}")
    if seconds is not None and not seconds >= robot.control_period:
        raise InputError(
            f"seconds must be at least one period of {robot.control_period:g} s, but is {seconds}"
        )
    if seconds is None and robot.episode_steps is None:
        raise InputError(f"{robot.name} has no episode limit: say after how many seconds to end")
    if not 0 <= excitation <= 1:
        raise InputError(
            f"excitation is a share of half the command range, 0 to 1, but is {excitation}"
        )
    if not 0 <= blend < float("inf"):
        raise InputError(f"blend is a time of 0 s or more, but is {blend}")
    if realtime is not None and realtime != robot.realtime:
        is_, flag = (
            ("in real time", "")
            if robot.realtime
            else ("in lockstep", "; serve it with --realtime")
        )
        raise InputError(f"{robot.name} runs {is_}{flag}")
    file = None if log is None else next(p for p in _upwards(Path(log)) if p.exists())
    if file is not None and not file.is_dir():
        raise InputError(f"{file} is a file; give a folder for the logs (--log)")


def _upwards(path: Path) -> tuple[Path, ...]:
    """The path and all the folders that it lies in."""
    path = path.absolute()
    return (path, *path.parents)


@dataclass(frozen=True)
class _Settings:
    """The arguments of `run` that every episode needs."""

    excitation: float
    blend: float
    seed: int
    log: Path | None
    progress: Progress | None


class _Pacer:
    """Absolute deadlines t0 + k · period on the monotonic clock; a missed one is skipped."""

    def __init__(self, period: float) -> None:
        self.period = period
        self.missed = 0
        """Periods in which no command was sent."""
        self._start = time.monotonic()
        self._k = -1

    def wait(self) -> float:
        """Wait for the next deadline that is not over; how late it was met [s]."""
        self._k += 1
        left = self._deadline() - SPIN - time.monotonic()
        if left > 0:
            time.sleep(left)
        while time.monotonic() < self._deadline():
            pass
        late = self.skip()
        return late if late else time.monotonic() - self._deadline()

    def skip(self) -> float:
        """Go to the period that the clock is in; how late that is [s], 0.0 where it is this one."""
        late = time.monotonic() - self._deadline()
        over = int(late / self.period)
        self._k += over
        self.missed += over
        return late if over else 0.0

    def _deadline(self) -> float:
        return self._start + self._k * self.period


class _Decision(NamedTuple):
    """What one tick comes to; the fields are a row of the log."""

    command: Array
    raw: Array
    inference_us: float
    lateness_us: float
    flags: TickFlag
    stop: str | None = None


class _Loop:
    """What lasts over the episodes of one run."""

    def __init__(
        self,
        runner: Runner,
        robot: Robot,
        description: RobotDescription,
        wiring: Wiring,
        z: AdaptedState | None,
        settings: _Settings,
    ) -> None:
        self.runner, self.robot, self.description, self.wiring = runner, robot, description, wiring
        self.z, self.settings = z, settings
        self.contract = runner.contract
        rate = self.contract.commands.rate_limit
        self.rate = None if rate is None else np.asarray(rate)
        self.neutral = np.clip(0.0, wiring.low, wiring.high)  # (A,)
        self.results: list[EpisodeResult] = []
        self.ticks = 0
        self.missed = 0
        self.inference_us: list[float] = []
        self.reaction_us: list[float] = []
        self.lateness_us: list[float] = []
        self._pacer: _Pacer | None = None
        self._begun = False  # whether the policy has run in this episode: its first run is a reset

    def episode(self, limit: int | None) -> bool:
        """One episode of at most `limit` ticks; False: stopped, the run is over.

        Raises InputError where the robot does not answer the very first reset.
        """
        k = len(self.results)
        started = stamp_of(time.time())
        samples: list[Sample] = []
        rows: list[_Decision] = []
        stopped: str | None = "interrupted"
        try:
            samples.append(self.robot.reset(self.settings.seed + k))
            stopped = self._drive(k, samples, rows, limit)
        except TimeoutError as error:
            if not self.results and not samples:
                raise InputError(str(error)) from None
            stopped = f"silence: {error}"
        finally:
            try:
                self.robot.damp()  # before the log is written: no command holds while nobody drives
            finally:
                if samples:
                    self._finish(k, started, samples, rows, stopped)
                else:  # the reset was not answered: an episode without a tick
                    self.results.append(EpisodeResult(None, 0, 0.0, False, False, stopped, None))
        return stopped is None

    def _drive(
        self, k: int, samples: list[Sample], rows: list[_Decision], limit: int | None
    ) -> str | None:
        """Tick until the episode ends; the reason where it is stopped."""
        period = self.contract.control_period
        guards = Guards(self.contract)
        rng = np.random.default_rng((self.settings.seed, k))
        self._pacer = pacer = _Pacer(period) if self.description.realtime else None
        lateness = float("nan") if pacer is None else pacer.wait()
        last = self.neutral
        self._begun = False
        while True:
            sample = samples[-1]
            if sample.terminated or sample.truncated or len(rows) == limit:
                return None
            begin = time.monotonic()
            decision = self._decide(
                sample, 0.0 if pacer is None else begin - sample.stamp, guards, last, len(rows), rng
            )
            if decision.stop is not None:
                return decision.stop
            if pacer is not None:
                # One command per period: a result that comes too late gives way to the last
                # command.
                before = pacer.missed
                if pacer.skip():
                    decision = decision._replace(command=last, flags=decision.flags | TickFlag.HELD)
                late = pacer.missed > before or lateness > period
                if late:
                    decision = decision._replace(flags=decision.flags | TickFlag.LATE)
                verdict = guards.late(late)
                if verdict.stop is not None:
                    return verdict.stop
            last = decision.command
            self.robot.send(last[self.wiring.order], sample.seq)
            self.reaction_us.append((time.monotonic() - begin) * 1e6)
            self.runner.acted(last, decision.raw)
            rows.append(decision._replace(lateness_us=lateness * 1e6))
            if self.settings.progress is not None:
                self.settings.progress(k, len(rows), (self.ticks + len(rows)) * period)
            if pacer is None:
                samples.append(self.robot.receive(SILENCE))
            else:
                lateness = pacer.wait()
                samples.append(self._newest(sample))

    def _decide(
        self,
        sample: Sample,
        age: float,
        guards: Guards,
        last: Array,
        tick: int,
        rng: np.random.Generator,
    ) -> _Decision:
        """The command for `sample`, the last one where it must be held, or a stop."""
        nothing = np.full(len(last), np.nan)
        held = _Decision(last, nothing, float("nan"), float("nan"), TickFlag.HELD)
        verdict = guards.age(age)
        if not verdict.ok:
            return held._replace(stop=verdict.stop)
        complaint = safety.not_finite(sample.obs, self.contract.observations)
        command = raw = nothing
        inference = float("nan")
        if complaint is None:
            verdict = guards.upright(sample.obs)
            if verdict.stop is not None:
                return held._replace(stop=verdict.stop)
            before = time.perf_counter()
            try:
                command, raw = self.runner.step(self.contract.flatten(sample.obs), not self._begun)
                self._begun = True
            except NonFiniteError as error:
                complaint = str(error)
            inference = (time.perf_counter() - before) * 1e6
        verdict = guards.finite(complaint)
        if not verdict.ok:
            return held._replace(inference_us=inference, stop=verdict.stop)
        shaped = self._shape(command, tick, rng)
        allowed = safety.limit(shaped, self.wiring.low, self.wiring.high)
        allowed = safety.limit_rate(allowed, last, self.rate, self.contract.control_period)
        flags = TickFlag.LIMITED if _differs(allowed, shaped).any() else TickFlag(0)
        return _Decision(allowed, raw, inference, float("nan"), flags)

    def _shape(self, command: Array, tick: int, rng: np.random.Generator) -> Array:
        """Blend-in and excitation, before the limits."""
        out = command.astype(np.float64)
        if self.settings.blend > 0:
            share = min(1.0, (tick + 1) * self.contract.control_period / self.settings.blend)
            out = self.neutral + share * (out - self.neutral)
        if self.settings.excitation > 0:
            noise = np.clip(rng.standard_normal(out.shape), -2.0, 2.0)
            half = (self.wiring.high - self.wiring.low) / 2
            out = out + self.settings.excitation * half * noise
        return out

    def _newest(self, before: Sample) -> Sample:
        try:
            return self.robot.receive(0.0)
        except TimeoutError:
            return _again(before)

    def _finish(
        self,
        k: int,
        started: str,
        samples: list[Sample],
        rows: list[_Decision],
        stopped: str | None,
    ) -> None:
        """Count and log the episode. An interrupted tick may lack the sample after it."""
        self.ticks += len(rows)
        self.missed += self._pacer.missed if self._pacer is not None else 0
        self._pacer = None
        self.inference_us += [row.inference_us for row in rows]
        self.lateness_us += [row.lateness_us for row in rows]
        if len(samples) == len(rows):
            samples = [*samples, _again(samples[-1])]
        T, A = len(rows), len(self.neutral)
        end = samples[-1]
        rewards = np.array([sample.reward or 0.0 for sample in samples[1:]])  # (T,)
        path = None
        if self.settings.log is not None:
            info = LogInfo(
                schema=SCHEMA,
                started=started,
                episode=k,
                robot=self.description,
                commands=self.contract.commands.names,
                artifact=self.contract.graph,
                artifact_name=self.contract.name,
                z=self.z,
                seed=self.settings.seed + k,
                excitation=self.settings.excitation,
                terminated=end.terminated,
                truncated=end.truncated,
                stopped=stopped,
            )
            path = EpisodeLog(
                info,
                obs={
                    t.name: np.stack([s.obs[t.name] for s in samples])
                    for t in self.description.terms
                },
                seq=np.array([s.seq for s in samples], np.int64),
                stamp=np.array([s.stamp for s in samples]),
                command=np.array([row.command for row in rows], np.float64).reshape(T, A),
                raw=np.array([row.raw for row in rows], np.float64).reshape(T, A),
                reward=rewards if self.description.reward else None,
                inference_us=np.array([row.inference_us for row in rows]),
                lateness_us=np.array([row.lateness_us for row in rows]),
                flags=np.array([int(row.flags) for row in rows], np.uint8),
            ).write(self.settings.log)
        self.results.append(
            EpisodeResult(
                float(rewards.sum()) if self.description.reward else None,
                T,
                T * self.contract.control_period,
                end.terminated,
                end.truncated,
                stopped,
                path,
            )
        )

    def latency(self) -> LatencyTable:
        return LatencyTable(
            Percentiles.of(self.inference_us),
            Percentiles.of(self.reaction_us),
            Percentiles.of(self.lateness_us),
            self.missed,
            self.ticks,
        )


def _differs(command: Array, other: Array) -> Array:
    """(A,) bool. The graph reckons in float32: what rounding moves is no difference."""
    return np.abs(command - other) > 1e-6 * (1 + np.abs(other))


def _again(sample: Sample) -> Sample:
    """Nothing new: the same sample once more, its reward already counted."""
    return sample if sample.reward is None else sample._replace(reward=0.0)
