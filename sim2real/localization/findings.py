"""What is said of a gap: its kind, in a sentence, and the terms, joints and regions it shows in."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

COLUMNS = ("what", "where", "difference")
"""Headings of `Localization.rows`."""

Kind = Literal["none", "dynamics", "observation", "unknown"]


class TermGap(NamedTuple):
    """How much one column of the observation differs after one step."""

    name: str
    """The term and its element."""
    unit: str
    difference: float
    """Root mean square of robot minus simulation [unit]."""
    share: float
    """The same, over the root mean square of the column's change in one step."""
    p: float
    """That a twin differs as much, Holm-corrected over the columns."""

    def in_words(self) -> str:
        """The difference with its unit, and its share in per cent."""
        percent = 100 * self.share
        share = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
        return f"{_with(self.difference, self.unit)}, {share} % of one step's motion"


class JointGap(NamedTuple):
    """How much of the difference some force on one joint alone would make, in [0, 1]."""

    name: str
    share: float


class Region(NamedTuple):
    """A quarter of the logged values of one column, in which the domains are told apart better."""

    name: str
    unit: str
    low: float
    high: float
    delta_r: float
    """Mean Δr of the robot's transitions minus that of the simulated ones, inside [nats]."""
    elsewhere: float
    p: float
    """Of a t-test over episodes of inside minus elsewhere, Holm-corrected over all quarters."""


class Map(NamedTuple):
    """Δr, robot minus simulation, over the two columns along which it varies most."""

    names: tuple[str, str]
    edges: tuple[list[float], list[float]]
    """Borders of the n and m cells."""
    delta_r: list[list[float | None]]
    """(n, m) [nats]; None where there are fewer than five transitions."""


@dataclass(frozen=True)
class Localization:
    """What logs say of the gap between a robot and its nominal simulator."""

    env: str
    kind: Kind
    sentence: str
    episodes: int
    transitions: int
    p: float = math.nan
    """Of the test for a gap; NaN where none was made."""
    latency_ms: float = 0.0
    """The latency that explains most, where it explains enough."""
    latency_share: float = 0.0
    """Share of the difference that it explains."""
    noise_slope: float = 0.0
    """Regression of a step's surprise on what the previous surprise, had it been noise, would have
    caused: below 0 for sensor noise, 0 or above for most gaps in the dynamics."""
    noise_t: float = 0.0
    """Its t over blocks of 20 steps."""
    terms: tuple[TermGap, ...] = ()
    """Largest share first."""
    joints: tuple[JointGap, ...] = ()
    """Largest share first, those of a floating base behind their BASE_MARGIN; empty unless the
    dynamics differ."""
    regions: tuple[Region, ...] = ()
    """Those with p below 0.05, the most certain first."""
    auc: float = math.nan
    """How well the classifiers tell unseen transitions apart: 0.5 not at all, 1 always."""
    map: Map | None = None
    notes: tuple[str, ...] = ()
    """What to know about the logs."""

    def rows(self) -> list[list[str]]:
        """The table: terms, joints and regions, the largest first, under the headings COLUMNS."""
        rows = [["term", t.name, t.in_words()] for t in self.terms]
        rows += [["joint", j.name, f"{100 * j.share:.0f} % explained"] for j in self.joints]
        rows += [
            ["region", f"{r.name} from {r.low:.3g} to {_with(r.high, r.unit)}",
             f"Δr {r.delta_r:.2g}, elsewhere {r.elsewhere:.2g}"]
            for r in self.regions
        ]  # fmt: skip
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what is not a number is None."""
        said = asdict(self)
        for name in ("terms", "joints", "regions"):
            said[name] = [entry._asdict() for entry in getattr(self, name)]
        said["map"] = None if self.map is None else self.map._asdict()
        for name in ("p", "auc"):
            said[name] = None if math.isnan(said[name]) else said[name]
        return said


def _with(value: float, unit: str) -> str:
    return f"{value:.3g}" if unit in ("1", "mixed") else f"{value:.3g} {unit}"
