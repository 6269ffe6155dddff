"""Whether a log can be what it says: order, sign and units of its columns, held against each other.

Names, sizes and units are in a log's own description and are compared when it is read. Here the
*numbers* are: the rate of a joint is the derivative of its position, a joint does not leave its
range, a direction has length one and turns as the gyro says. Nothing is repaired in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.stats import rankdata

from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import MjcfRobot
from sim2real.simulation.terms import Term
from sim2real.types import Array, InputError

LEAST = 50
"""Samples below which nothing is said."""
ALIKE, UNLIKE = 0.9, 0.5
"""Rank correlation above which a column is a joint's rate, and below which it is not."""
DEGREE = 180 / np.pi
DEGREES = (0.7 * DEGREE, 1.4 * DEGREE)
"""Ratios that mean degrees for radians."""
SPAN = 0.02
"""Least share of its range in which a joint moves, where degrees are suspected."""
BEYOND = 0.5
"""Share of a range, on either side, by which a joint may leave it; encoders are zeroed by hand."""


def check_plausible(robot: MjcfRobot, episodes: Sequence[Trajectory]) -> None:
    """Raises InputError for the first thing that cannot be: columns in another order or with the
    other sign, degrees for radians, a direction that is not one."""
    if not episodes:
        return
    terms = [robot.terms[n] for n in episodes[0].obs if n in robot.terms]
    for problem in _problems(robot.model, terms, episodes, robot.control_period):
        raise InputError(f"{robot.name}: the logs cannot be right: {problem}")


class Column(NamedTuple):
    """One joint's value in a log."""

    term: Term
    place: int

    def __str__(self) -> str:
        return f"'{self.term.name}', column {self.place} ({self.term.elements[self.place]})"

    def of(self, episode: Trajectory) -> Array:
        """(T + 1,)"""
        return episode.obs[self.term.name][:, self.place]


def _problems(
    model: mujoco.MjModel, terms: Sequence[Term], episodes: Sequence[Trajectory], period: float
) -> Iterator[str]:
    joints = np.flatnonzero(np.isin(model.jnt_type, (2, 3)))  # slides and hinges
    position = _columns(terms, "qpos", {int(model.jnt_qposadr[j]): int(j) for j in joints})
    rate = _columns(terms, "qvel", {int(model.jnt_dofadr[j]): int(j) for j in joints})
    hinges = set(np.flatnonzero(model.jnt_type == 3).tolist())
    yield from _rates(position, rate, hinges, episodes, period)
    yield from _ranges(model, position, episodes)
    yield from _directions(terms, episodes, period)


def _columns(terms: Sequence[Term], kind: str, joint: dict[int, int]) -> dict[int, Column]:
    """Joint -> the column that logs it."""
    return {
        joint[place]: Column(term, i)
        for term in terms
        for i, place in enumerate(getattr(term, kind))
        if place in joint and len(term.elements) == term.size
    }


def _rates(
    position: dict[int, Column], rate: dict[int, Column], hinges: set[int],
    episodes: Sequence[Trajectory], period: float,
) -> Iterator[str]:  # fmt: skip
    both = [j for j in position if j in rate]
    moved = {
        j: np.concatenate([np.diff(position[j].of(e)) / period for e in episodes]) for j in both
    }
    told = {j: np.concatenate([rate[j].of(e)[1:] for e in episodes]) for j in both}
    both = [j for j in both if len(moved[j]) >= LEAST and np.ptp(moved[j]) and np.ptp(told[j])]
    for j in both:
        own = _rank_correlation(moved[j], told[j])
        if own <= -ALIKE:
            yield (
                f"{rate[j]} falls where {position[j]} rises: one of them has the other sign; turn "
                "it round"
            )
        others = {k: _rank_correlation(moved[j], told[k]) for k in both if k != j}
        other = max(others, key=lambda k: others[k], default=j)
        whose = max((_rank_correlation(moved[k], told[j]) for k in both if k != j), default=0.0)
        if own < UNLIKE and min(others.get(other, 0.0), whose) > ALIKE:
            yield (
                f"{rate[other]} is the derivative of {position[j]}, and {rate[j]} is not: columns "
                "are in another order than the robot's; its order is "
                f"{', '.join(str(position[k]) for k in both)}"
            )
        if j not in hinges:
            continue
        fast = np.abs(moved[j]) > np.median(np.abs(moved[j]))
        ratio = float(np.median(told[j][fast] / moved[j][fast])) if own > ALIKE else 1.0
        if DEGREES[0] < ratio < DEGREES[1]:
            yield (
                f"{rate[j]} is {ratio:.0f} times the derivative of {position[j]}: degrees for "
                "radians?"
            )
        if DEGREES[0] < 1 / max(ratio, 1e-9) < DEGREES[1]:
            yield (
                f"{position[j]} changes {1 / ratio:.0f} times as fast as {rate[j]} says: degrees "
                "for radians?"
            )


def _ranges(
    model: mujoco.MjModel, position: dict[int, Column], episodes: Sequence[Trajectory]
) -> Iterator[str]:
    for j, column in position.items():
        value = np.concatenate([column.of(e) for e in episodes])
        if not model.jnt_limited[j] or len(value) < LEAST:
            continue
        low, high = model.jnt_range[j]
        spare = BEYOND * (high - low)

        def out(x: Array, low: float = low - spare, high: float = high + spare) -> float:
            return float(np.mean((x < low) | (x > high)))

        if out(value) <= 0.5:
            continue
        turned = np.ptp(value) / DEGREE > SPAN * (high - low)  # else an encoder is a turn off
        degrees = int(model.jnt_type[j]) == 3 and turned and out(value / DEGREE) == 0
        yield (
            f"{column} is from {value.min():.3g} to {value.max():.3g}, far outside the joint's "
            f"range of {low:.3g} to {high:.3g} {column.term.unit}: "
            + ("degrees for radians?" if degrees else "look at its order, sign, zero and unit")
        )


def _directions(
    terms: Sequence[Term], episodes: Sequence[Trajectory], period: float
) -> Iterator[str]:
    gravity = next((t for t in terms if t.vector and t.unit == "1"), None)
    if gravity is None:
        return
    g = np.concatenate([e.obs[gravity.name] for e in episodes])
    if len(g) < LEAST:
        return
    length = float(np.median(np.linalg.norm(g, axis=1)))
    if not 0.8 < length < 1.25:
        yield (
            f"'{gravity.name}' has length {length:.3g}; it is a direction, of length 1: divide it "
            "by its length"
        )
    gyro = next(
        (t for t in terms if t.vector and t.unit == "rad/s" and t.sensor == gravity.sensor), None
    )
    if gyro is None:
        return
    turned = np.concatenate([np.diff(e.obs[gravity.name], axis=0) / period for e in episodes])
    said = np.concatenate([-np.cross(e.obs[gyro.name], e.obs[gravity.name])[1:] for e in episodes])
    size = np.linalg.norm(turned, axis=1), np.linalg.norm(said, axis=1)
    fast = size[0] > np.median(size[0])
    together = _rank_correlation(*size)
    if together > ALIKE and _rank_correlation(turned.ravel(), said.ravel()) < UNLIKE:
        yield (
            f"'{gyro.name}' is fast when '{gravity.name}' turns, and says that it turns otherwise: "
            "an axis or a sign of one of the two is another"
        )
    ratio = float(np.median(size[1][fast] / size[0][fast])) if fast.any() else 1.0
    if DEGREES[0] < ratio < DEGREES[1] and together > UNLIKE:
        yield (
            f"'{gyro.name}' is {ratio:.0f} times as fast as '{gravity.name}' turns: degrees for "
            "radians?"
        )


def _rank_correlation(x: Array, y: Array) -> float:
    """Spearman's: contacts that jump count like any other sample. 0 where one never changes."""
    if not (np.ptp(x) and np.ptp(y)):
        return 0.0
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])
