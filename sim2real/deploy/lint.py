"""What cannot work on hardware, found before anything moves: an artifact, held against what is
known of the robot that it is for.

A fault is what cannot work: a term that the robot does not send, a reward that it does not measure,
an inference that takes longer than a control period, readings that are degrees where the policy saw
radians. A risk is what may work and often does not: a latency or physics outside of those of
training, readings where training never was, a limit that nobody set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from sim2real.deploy.artifact import Artifact, Runner
from sim2real.deploy.contract import Contract, Observation
from sim2real.deploy.logs.npz import EpisodeLog, read_logs
from sim2real.deploy.robots.base import RobotDescription
from sim2real.deploy.safety import Wiring
from sim2real.types import Array, InputError

TICKS = 1000
"""Of inference, timed."""
BUSY = 0.5
"""Share of a control period from which on inference leaves too little of it."""
BEYOND = 0.05
"""Share of the samples that may lie outside of what training saw: it is a range of 99.8 %."""
WIDER = 0.5
"""By which share of its width a training range is widened before samples count as outside."""
DEGREES = 180 / math.pi
ALIKE = 1.5
"""By which factor a ratio may differ from that of two units and still be taken for it."""


class Finding(NamedTuple):
    level: Literal["fault", "risk"]
    about: str
    sentence: str


class Known(NamedTuple):
    """What identification said of one parameter of the robot."""

    name: str
    low: float
    """5th percentile of the posterior"""
    high: float
    """95th"""


@dataclass(frozen=True)
class Lint:
    artifact: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no finding is a fault."""
        return all(f.level != "fault" for f in self.findings)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok, "artifact": self.artifact,
            "findings": [f._asdict() for f in self.findings],
        }  # fmt: skip


def lint(
    artifact: Artifact | str | Path,
    *,
    robot: RobotDescription | None = None,
    known: Iterable[Known] = (),
    logs: str | Path | Iterable[str | Path] | None = None,
) -> Lint:
    """Everything that can be told without moving.

    Args:
        robot: what the robot says of itself.
        known: what identification said of its physics.
        logs: what it logged, driven by whatever.

    Raises:
        InputError: an artifact or a log that cannot be read.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.load(artifact)
    contract = artifact.contract
    found = [*_itself(contract), *_timing(artifact), *_physics(contract, tuple(known))]
    if robot is not None:
        found += _robot(contract, robot)
    if logs is not None:
        found += _readings(contract, read_logs(logs))
    return Lint(contract.name, tuple(sorted(found, key=lambda f: f.level)))


def _itself(contract: Contract) -> Iterator[Finding]:
    for term in contract.observations:
        if term.access == "estimated":
            yield Finding(
                "risk", term.name,
                f"'{term.name}' is an estimate, which no sensor gives: the robot needs the "
                "estimator that training assumed",
            )  # fmt: skip
    adaptation = contract.adaptation
    if adaptation is not None and adaptation.reward:
        yield Finding("risk", "reward", "its adaptation needs a reward measured on the robot")
    if contract.safety.max_tilt is None:
        yield Finding(
            "risk", "tilt", "no tilt limit: a robot that falls is not stopped (safety: max_tilt)"
        )
    if contract.commands.rate_limit is None:
        yield Finding("risk", "rate", "no rate limit: a command may jump over its whole range")
    if contract.latency_ms[1] == 0:
        yield Finding("risk", "latency", "training assumed no latency of the commands; robots have")


def _timing(artifact: Artifact) -> Iterator[Finding]:
    runner, period = Runner(artifact), artifact.contract.control_period
    obs = np.zeros(artifact.contract.obs_size, np.float32)
    runner.warm_up()
    taken = np.empty(TICKS)
    for t in range(TICKS):
        begin = time.perf_counter()
        runner.step(obs, t == 0)
        taken[t] = time.perf_counter() - begin
    p99 = float(np.percentile(taken, 99))
    if p99 > BUSY * period:
        level: Literal["fault", "risk"] = "fault" if p99 > period else "risk"
        yield Finding(
            level, "inference",
            f"inference takes {1e3 * p99:.3g} ms here (p99), of a control period of "
            f"{1e3 * period:.3g} ms",
        )  # fmt: skip


def _physics(contract: Contract, known: tuple[Known, ...]) -> Iterator[Finding]:
    trained = {p.name: p for p in contract.parameters}
    for name, low, high in known:
        parameter = trained.get(name)
        if parameter is None:
            continue
        outside = low > parameter.high or high < parameter.low
        if outside or low < parameter.low or high > parameter.high:
            how = "lies outside of" if outside else "reaches beyond"
            yield Finding(
                "risk", name,
                f"'{name}' was identified as {low:.4g} to {high:.4g} {parameter.unit}, which {how} "
                f"the {parameter.low:.4g} to {parameter.high:.4g} of training",
            )  # fmt: skip


def _robot(contract: Contract, robot: RobotDescription) -> Iterator[Finding]:
    try:
        wiring = Wiring.join(contract, robot)
    except InputError as error:
        yield Finding("fault", "robot", str(error))
        return
    adaptation = contract.adaptation
    if adaptation is not None and adaptation.reward and not robot.reward:
        yield Finding(
            "fault", "reward", f"its adaptation needs a reward, and {robot.name} measures none"
        )
    narrow = (wiring.low > contract.commands.low) | (wiring.high < contract.commands.high)
    for name in np.array(contract.commands.names)[narrow]:
        yield Finding(
            "risk", str(name), f"'{name}' has narrower limits on {robot.name} than in training"
        )


def _readings(contract: Contract, logs: list[EpisodeLog]) -> Iterator[Finding]:
    for term in contract.observations:
        seen = [log.obs[term.name] for log in logs if term.name in log.obs]
        if not seen:
            yield Finding("fault", term.name, f"the logs hold no '{term.name}'")
        elif not term.low:
            continue
        else:
            yield from _reading(term, np.concatenate(seen))


def _reading(term: Observation, seen: Array) -> Iterator[Finding]:
    low, high = np.array(term.low), np.array(term.high)
    if not np.isfinite(seen).all():
        yield Finding("fault", term.name, f"'{term.name}' is not finite in the logs")
        return
    size, trained = np.abs(seen).max(axis=0), np.maximum(np.abs(low), np.abs(high))
    there = trained > 0
    ratio = float(np.median(size[there] / trained[there])) if there.any() else 1.0
    if "rad" in term.unit and DEGREES / ALIKE < ratio < DEGREES * ALIKE:
        yield Finding(
            "fault", term.name,
            f"'{term.name}' looks like degrees: its values are {ratio:.3g} times those of training "
            f"[{term.unit}]",
        )  # fmt: skip
        return
    room = WIDER * (high - low)
    outside = ((seen < low - room) | (seen > high + room)).mean(axis=0)
    i = int(outside.argmax())
    if outside[i] > BEYOND:
        place = term.elements[i] if len(term.elements) == term.size else f"place {i}"
        yield Finding(
            "risk", term.name,
            f"'{term.name}' ({place}) is where training never was in {100 * outside[i]:.0f} % of "
            f"the samples: {seen[:, i].min():.3g} to {seen[:, i].max():.3g}, trained on "
            f"{low[i]:.3g} to {high[i]:.3g} {term.unit}",
        )  # fmt: skip
