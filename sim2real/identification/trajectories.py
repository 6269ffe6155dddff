"""Logs as identification reads them, and what is refused before anything is identified."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sim2real.deploy.logs.npz import EpisodeLog, read_logs
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
        InputError: nothing there, a file that is not a log, a log of another robot, or an episode
            in which nothing is finite from one sample to the next.

    Samples that are missing, repeated or not finite end an unbroken piece, and the program's log
    warns of them: nothing is interpolated.
    """
    return [piece for logged in read_logs(logs) for _, piece in _pieces(logged, robot)]


def read_beginnings(logs: str | Path | Iterable[str | Path], robot: Robot) -> list[Trajectory]:
    """The same, each episode from its first sample to where one is missing or not finite; nothing
    of an episode whose second one is. Raises and warns as `read_trajectories`."""
    return [p for logged in read_logs(logs) for first, p in _pieces(logged, robot) if first == 0]


def _pieces(logged: EpisodeLog, robot: Robot) -> list[tuple[int, Trajectory]]:
    """The unbroken pieces of an episode, each with its first tick."""
    info = logged.info
    named = f"the log of {info.started}"
    if sorted(info.commands) != sorted(robot.actuators):
        raise InputError(
            f"{named} drives {', '.join(info.commands)}; '{robot.name}' has "
            f"{', '.join(robot.actuators)}"
        )
    period = info.robot.control_period
    if abs(period - robot.control_period) > 1e-9:
        raise InputError(
            f"{named} has a control period of {period:g} s; '{robot.name}' has "
            f"{robot.control_period:g} s"
        )
    for term in info.robot.terms:
        mine = robot.terms.get(term.name)
        if mine is not None and (mine.size, mine.unit) != (term.size, term.unit):
            raise InputError(
                f"{named} has '{term.name}' with {term.size} values in {term.unit}; "
                f"'{robot.name}' has {mine.size} in {mine.unit}"
            )
    where = f"{named}, episode {info.episode}"
    ends = _unbroken(logged, where)
    if not ends:  # says which value
        check_numbers(where, logged.obs, logged.command)
    order = [info.commands.index(name) for name in robot.actuators]
    pieces: list[tuple[int, Trajectory]] = []
    for first, end in ends:
        obs = {name: value[first:end] for name, value in logged.obs.items()}
        pieces.append((first, Trajectory(obs, logged.command[first : end - 1, order])))
    return pieces


def _unbroken(logged: EpisodeLog, where: str) -> list[tuple[int, int]]:
    """First sample and end of the pieces of an episode in which each sample follows the one before
    and all is finite, two samples at least; warns of what lies between them."""
    spoiled = np.zeros(len(logged.seq), bool)
    for value in logged.obs.values():
        spoiled |= ~np.isfinite(value).all(axis=1)
    unsent = ~np.isfinite(logged.command).all(axis=1)  # one command fewer than samples
    jumps = np.diff(logged.seq) != 1
    breaks = np.flatnonzero(jumps | spoiled[1:] | spoiled[:-1] | unsent) + 1
    ends = itertools.pairwise([0, *breaks.tolist(), len(logged.seq)])
    pieces = [(first, end) for first, end in ends if end - first > 1]
    said: list[str] = []
    if jumps.any():
        first = np.flatnonzero(jumps)[0]
        said.append(
            f"samples are missing or repeated in {jumps.sum()} places, first after tick {first}"
        )
    spoiled[:-1] |= unsent
    if spoiled.any():
        first = np.flatnonzero(spoiled)[0]
        named = [n for n, x in logged.obs.items() if not np.isfinite(x[first]).all()]
        said.append(
            f"values are not finite in {spoiled.sum()} of {len(spoiled)} samples, first "
            f"'{[*named, 'command'][0]}' in tick {first}"
        )
    if said and pieces:
        log.warning(
            "%s: %s; it is read in %d pieces, and nothing is interpolated",
            where, " and ".join(said), len(pieces),
        )  # fmt: skip
    return pieces


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
