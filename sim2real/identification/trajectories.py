"""Logs as identification reads them, and what is refused before anything is identified."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sim2real.deploy.logs.npz import read_logs
from sim2real.identification.plausibility import check_plausible
from sim2real.identification.tracking import Tracker
from sim2real.identification.windows import LENGTH, Observers, Trajectory, check_numbers
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

TICKS, LEAST_TICKS = 1600, 200
"""Control steps that are followed: of all episodes together, but no fewer of each."""
PART, LEAST_PART = 0.25, 60
"""Share of what is followed with which a search begins, and how many control steps at least."""

log = logging.getLogger(__name__)


def read_trajectories(logs: str | Path | Iterable[str | Path], robot: Robot) -> list[Trajectory]:
    """The episodes of NPZ logs: files, folders of them, or several.

    Raises:
        InputError: nothing there, a file that is not a log, a log of another robot, or a value
            that is not finite.
    """
    episodes: list[Trajectory] = []
    for logged in read_logs(logs):
        names = logged.info.commands
        if sorted(names) != sorted(robot.actuators):
            raise InputError(
                f"the log of {logged.info.started} drives {', '.join(names)}; '{robot.name}' has "
                f"{', '.join(robot.actuators)}"
            )
        period = logged.info.robot.control_period
        if abs(period - robot.control_period) > 1e-9:
            raise InputError(
                f"the log of {logged.info.started} has a control period of {period:g} s; "
                f"'{robot.name}' has {robot.control_period:g} s"
            )
        order = [names.index(name) for name in robot.actuators]
        for term in logged.info.robot.terms:
            mine = robot.terms.get(term.name)
            if mine is not None and (mine.size, mine.unit) != (term.size, term.unit):
                raise InputError(
                    f"the log of {logged.info.started} has '{term.name}' with {term.size} values "
                    f"in {term.unit}; '{robot.name}' has {mine.size} in {mine.unit}"
                )
        where = f"the log of {logged.info.started}, episode {logged.info.episode}"
        check_numbers(where, logged.obs, logged.command)
        # in real time a sample may be missing or come twice: what is left are unbroken pieces
        breaks = np.flatnonzero(np.diff(logged.seq) != 1) + 1
        if len(breaks):
            log.warning(
                "%s: samples are missing or repeated in %d places, first after tick %d; it is read "
                "in %d pieces, and nothing is interpolated", where, len(breaks), breaks[0] - 1,
                len(breaks) + 1,
            )  # fmt: skip
        for first, end in itertools.pairwise([0, *breaks.tolist(), len(logged.seq)]):
            if end - first > 1:
                obs = {name: value[first:end] for name, value in logged.obs.items()}
                episodes.append(Trajectory(obs, logged.command[first : end - 1, order]))
    return episodes


def check_alive(robot: Robot, episodes: Sequence[Trajectory]) -> None:
    """Raises InputError where no logged sensor ever changes, and warns of one that does not though
    it should: the commands change, and what nominal physics predicts for it."""
    observers = Observers(robot, episodes, candidates=1)
    dead = observers.still(observers(np.array(robot.space.nominal, float)[None]))
    if not dead:
        return
    if len(dead) == len(observers.columns):
        raise InputError(
            f"{robot.name}: no sensor in the logs ever changes, though the commands do: the "
            "columns were not filled; log again"
        )
    log.warning(
        "%s: %s never changes in the logs, though the commands do and the simulated robot "
        "moves it: a dead sensor, or a column that was not filled; repair it, or log without "
        "that term, and identify again", robot.name, "; ".join(dead),
    )  # fmt: skip


def follower(robot: Robot, episodes: Sequence[Trajectory]) -> Tracker:
    """What follows these episodes. Raises InputError as `Tracker`."""
    long = sum(len(e.command) > LENGTH for e in episodes)
    ticks = max(LEAST_TICKS, TICKS // max(long, 1))
    return Tracker(robot, episodes, ticks=ticks, least=LENGTH)


def part(
    episodes: Sequence[Trajectory], ticks: int, share: float = PART, least: int = LEAST_PART
) -> list[Trajectory]:
    """A share of the first `ticks` control steps of the episodes, which tells roughly where ξ is:
    whole ones, the longest first, and of the last as much as is still wanted."""
    all_ = [(min(len(e.command), ticks), -i) for i, e in enumerate(episodes)]
    long = sorted(((n, i) for n, i in all_ if n > LENGTH), reverse=True)
    wanted = max(least, round(share * sum(n for n, _ in long)))
    some: list[Trajectory] = []
    for n, i in long:
        n = min(n, wanted)
        if n <= LENGTH:
            break
        obs, command = episodes[-i]
        some.append(Trajectory({k: x[: n + 1] for k, x in obs.items()}, command[:n]))
        wanted -= n
    return some


def checked(robot: Robot, episodes: Sequence[Trajectory]) -> Tracker:
    """What follows these episodes, from which something about ξ can be learned.

    Raises:
        InputError: a robot without parameters, logs that determine nothing of its state or whose
            columns cannot be right, no sensor that ever changes, a value that is not finite.

    Warns, in the log of the program, of a sensor that seems dead.
    """
    if not robot.space.K:
        raise InputError(
            f"{robot.where}: no parameters, so there is nothing to identify; list under "
            "'parameters' what may differ"
        )
    if not (np.asarray(robot.space.high) > np.asarray(robot.space.low)).any():
        raise InputError(
            f"{robot.where}: the range of every parameter is a point, so there is nothing to "
            "identify; widen one"
        )
    tracker = follower(robot, episodes)
    check_plausible(tracker.robot, episodes)
    check_alive(robot, episodes)
    return tracker
