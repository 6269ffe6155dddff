"""Recordings of an arm that are no logs of ours: CSV files, whose columns env.yaml names.

Nothing is repaired silently: a column that contradicts another, a hole in time, or a value that is
no number is refused with file, line and joint. Samples that come unevenly are put on an even grid
by straight lines between neighbours, and the log of the program says how far apart they were.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from sim2real.identification.arm import Recording
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

NEEDED = ("time", "position", "velocity", "current")
HOLE = 0.1
"""Samples further apart than this are a hole [s]."""
MOVES = 0.05
"""A joint moves whose velocity has at least half of this as its root mean square [rad/s]."""

DEGREES = {
    180 / np.pi: "position is in degrees and the velocity in radians",
    np.pi / 180: "velocity is in degrees and the position in radians",
}
"""What a ratio of the position's slope to the velocity says."""

log = logging.getLogger(__name__)


def read_recordings(files: Sequence[str | Path], robot: Robot) -> list[Recording]:
    """The recordings in CSV files without a header.

    Raises:
        InputError: the robot's env.yaml names no columns, or a file is not what it says.
    """
    return [read_recording(Path(f), robot) for f in files]


def read_recording(path: Path, robot: Robot) -> Recording:
    """As `read_recordings`, of one file."""
    columns = robot.config.recordings
    J = len(robot.actuators)
    sizes = {name: 1 if name == "time" else J for name in NEEDED}
    if not columns:
        such = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise InputError(
            f"{robot.where}: recordings is missing; name the columns of {path} in order, such as "
            f"{{{such}}}"
        )
    for name, size in sizes.items():
        if columns.get(name) != size:
            raise InputError(
                f"{robot.where}: recordings: {name} has {columns.get(name, 0)} columns; {size} are "
                "needed"
            )
    data = _numbers(path, sum(columns.values()), columns, where=robot.where)
    ends = np.cumsum([0, *columns.values()])
    parts = (slice(a, b) for a, b in pairwise(ends.tolist()))
    part = dict(zip(columns, parts, strict=True))
    time = data[:, part["time"]][:, 0]
    position, velocity, current = (data[:, part[name]] for name in NEEDED[1:])
    apart = np.diff(time)
    if (apart <= 0).any():
        at = int(np.flatnonzero(apart <= 0)[0])
        raise InputError(f"{path}, row {at + 2}: time does not increase ({time[at + 1]:g} s)")
    if apart.max() > HOLE:
        at = int(apart.argmax())
        raise InputError(
            f"{path}, row {at + 2}: {apart.max():.3g} s without a sample; more than {HOLE:g} s "
            "are a hole: cut the file there and give both parts"
        )
    joints = tuple(robot.model.joint(j).name for j in range(J))
    _check(path, time, position, velocity, current, joints)
    period = float(np.median(apart))
    if np.ptp(apart) > 0.1 * period:
        log.info("%s: samples are %.0f to %.0f ms apart; put on a grid of %.1f ms", path,
                 1000 * apart.min(), 1000 * apart.max(), 1000 * period)  # fmt: skip
    grid = time[0] + period * np.arange(int((time[-1] - time[0]) / period) + 1)
    even = [
        np.stack([np.interp(grid, time, column) for column in part.T], axis=1)
        for part in (position, velocity, current)
    ]
    return Recording(path.name, period, *even)


def _numbers(path: Path, width: int, columns: dict[str, int], where: str) -> Array:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) != width:
            listed = ", ".join(f"{n} ({size})" for n, size in columns.items())
            raise InputError(
                f"{path}, line {number}: {len(cells)} columns; {where} says {width}: {listed}"
            )
        try:
            row = [float(c) for c in cells]
        except ValueError:
            raise InputError(f"{path}, line {number}: not a row of numbers: {line[:60]}") from None
        if not np.isfinite(row).all():
            at = int(np.flatnonzero(~np.isfinite(row))[0])
            raise InputError(f"{path}, line {number}, column {at + 1}: {cells[at].strip()}; every "
                             "value must be finite")  # fmt: skip
        rows.append(row)
    if len(rows) < 100:
        raise InputError(f"{path}: {len(rows)} samples; give at least 100")
    return np.array(rows)


def _check(
    path: Path, time: Array, position: Array, velocity: Array, current: Array, joints: Sequence[str]
) -> None:
    """Raises InputError where position and velocity of a joint contradict each other."""
    slope = np.gradient(position, time, axis=0)
    for j, name in enumerate(joints):
        moved, told = slope[:, j], velocity[:, j]
        still = np.sqrt(np.square(told).mean()) < MOVES / 2
        stuck = np.ptp(position[:, j]) < 1e-6
        if stuck and not still:
            raise InputError(
                f"{path}: {name}: the position never changes though the velocity does: a stuck "
                "encoder, or a column that was not filled"
            )
        if still and np.ptp(position[:, j]) > 0.05:
            raise InputError(
                f"{path}: {name}: the velocity never leaves zero though the position changes: a "
                "column that was not filled"
            )
        if np.ptp(current[:, j]) == 0 and not still:
            raise InputError(f"{path}: {name}: the current never changes though the joint moves")
        if still:
            continue
        agree = float(np.corrcoef(moved, told)[0, 1])
        ratio = float(np.linalg.lstsq(told[:, None], moved, rcond=None)[0][0])
        if agree < -0.8:
            raise InputError(f"{path}: {name}: position and velocity have opposite signs")
        if agree < 0.8:
            fits = [
                other for i, other in enumerate(joints)
                if i != j and velocity[:, i].std() > 0
                and np.corrcoef(moved, velocity[:, i])[0, 1] > 0.9
            ]  # fmt: skip
            hint = f"; it is that of {fits[0]}: the columns are in another order" if fits else ""
            raise InputError(
                f"{path}: {name}: the velocity is not the position's slope (correlation "
                f"{agree:.2f}){hint}"
            )
        for factor, said in DEGREES.items():
            if abs(np.log(abs(ratio) / factor)) < 0.2:
                raise InputError(f"{path}: {name}: the {said}; give radians")
        if not 0.7 < ratio < 1.4:
            raise InputError(
                f"{path}: {name}: the position's slope is {ratio:.2f} times the velocity; check "
                "units and time"
            )
    if np.abs(velocity).max() > 30:
        raise InputError(f"{path}: a velocity of {np.abs(velocity).max():.0f}; it must be in rad/s")
    if np.abs(position).max() > 4 * np.pi:
        raise InputError(f"{path}: a position of {np.abs(position).max():.0f}; it must be in rad")
