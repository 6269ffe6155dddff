"""How much of the mismatch is which effect: logs replayed with each identified effect switched off.

Candidate worlds replay the logs in short windows: the nominal one, the identified one, and the
identified one with one parameter put back to its nominal value. What the mismatch grows by is that
parameter's share. Sensors' noise has its share by doubling it (simulation extrapolation, Cook and
Stefanski 1994): noise as large as the one that was found is added to the logs, and what the
mismatch then grows by is what the noise does already. What remains, nothing in the model explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from sim2real.identification.posterior import Posterior
from sim2real.identification.windows import LENGTH, Observers, Trajectory, differences
from sim2real.localization.replay import FLOOR
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array, InputError

COLUMNS = ("effect", "identified", "nominal", "share of the mismatch [95 %]", "moves")
"""Headings of `Attribution.rows`."""
DRAWS = 400
"""Bootstrap samples of the windows."""
TENTH = 0.1
"""Of a parameter's range, by which its sensitivity is measured."""


class Share(NamedTuple):
    """Of the nominal simulator's mismatch, with its 95 % interval over windows."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]"


class Effect(NamedTuple):
    """One parameter of ξ."""

    name: str
    unit: str
    identified: float
    nominal: float
    revealed: bool
    """Whether the logs say more of it than its range did."""
    share: Share
    """By what the mismatch grows without it. Effects that stand in for each other have less
    each than together, and the shares need not add up."""
    sensitivity: float
    """By how much a tenth of its range moves what is predicted, over how much the terms move: what
    is near zero, these logs cannot reveal."""


@dataclass(frozen=True)
class Attribution:
    """What the mismatch between logs and the nominal simulator consists of."""

    env: str
    windows: int
    mismatch: float
    """Of the nominal simulator: prediction error in windows of LENGTH steps over the motion in
    them, a geometric mean, so that contacts that come a step early count like any other step."""
    explained: Share
    """By the identified ξ as a whole."""
    noise: Share
    """By the sensors' noise."""
    rest: Share
    """By nothing in the model."""
    effects: tuple[Effect, ...]
    """Largest share first."""

    @property
    def sentence(self) -> str:
        said = [f"{e.name} {e.share}" for e in self.effects if e.share.low > 0][:3]
        most = f" (most by {', '.join(said)})" if said else ""
        if self.explained.mean <= 0:
            return (
                "the identified physics explains nothing of the nominal simulator's mismatch, of "
                f"which the sensors' noise is {self.noise}: identify from these logs, or look for "
                "what the model lacks"
            )
        return (
            f"of the nominal simulator's mismatch the identified physics explains {self.explained}"
            f"{most}, the sensors' noise {self.noise}, nothing in the model {self.rest}"
        )

    def rows(self) -> list[list[str]]:
        """The table under the headings COLUMNS."""
        rows = [
            [e.name, _with(e.identified, e.unit) if e.revealed else "the logs cannot tell",
             _with(e.nominal, e.unit), str(e.share), f"{100 * e.sensitivity:.2g} %"]
            for e in self.effects
        ]  # fmt: skip
        rows.append(["sensors' noise", "", "", str(self.noise), ""])
        rows.append(["nothing in the model", "", "", str(self.rest), ""])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        said = asdict(self)
        for name in ("explained", "noise", "rest"):
            said[name] = getattr(self, name)._asdict()
        said["effects"] = [{**e._asdict(), "share": e.share._asdict()} for e in self.effects]
        return {**said, "sentence": self.sentence}


def attribute(
    robot: Robot, episodes: Sequence[Trajectory], posterior: Posterior, *, seed: int = 0
) -> Attribution:
    """Shares of the mismatch between the logs and the nominal simulator of `robot`.

    Args:
        posterior: what `identify` said of this robot, from these logs or others.
        seed: of the added noise and the bootstrap.

    Raises:
        InputError: a posterior of other parameters, or logs that cannot be replayed.
    """
    space, names = robot.space, tuple(robot.space.names)
    if posterior.names != names:
        raise InputError(
            f"the posterior is over {', '.join(posterior.names)}; {robot.name} has "
            f"{', '.join(names)}: identify it anew"
        )
    K, nominal = space.K, np.array(space.nominal, float)
    mean = np.clip(posterior.mean, space.low, space.high)  # weights add up but for rounding
    xi = np.tile(mean, (2 + 2 * K, 1))
    xi[0] = nominal
    xi[2 : 2 + K][np.diag_indices(K)] = nominal
    xi[2 + K :][np.diag_indices(K)] = _moved(robot, mean)
    observers = Observers(robot, episodes, candidates=len(xi), length=LENGTH)
    error = observers(xi)
    scale = motion(observers.logged)
    rng = np.random.default_rng([seed, 9])
    noise = sensor_noise(robot, episodes, mean, rng)
    louder = [_with_noise(e, observers, noise, robot.control_period, rng) for e in episodes]
    again = Observers(robot, louder, candidates=1, length=LENGTH)(mean[None])
    change = np.concatenate([error, again, error[2 + K :] - error[1]])
    if not np.isfinite(scale).any():
        raise InputError("nothing moves in the logs: there is no mismatch to attribute")
    energy = by_window(change, scale)  # (3 + 3·K, W)
    if not energy.shape[1]:
        raise InputError(
            f"no window of {LENGTH} control steps can be replayed: the simulation diverges where "
            "the log says the robot was; check units and signs of the logged terms"
        )
    W = energy.shape[1]
    drawn = rng.multinomial(W, np.full(W, 1 / W), DRAWS)  # how often each window is
    drawn[0] = 1
    size = np.exp(energy @ drawn.T / W)  # (3 + 3·K, DRAWS), the first as it is
    base, left, off = size[0], size[1], size[2 : 2 + K]
    explained = 1 - left / base
    added = np.clip(size[2 + 2 * K] - left, 0, left) / base
    rest = 1 - explained - added
    effects = [
        Effect(p.name, p.unit, float(mean[k]), float(nominal[k]), bool(posterior.informed[k]),
               share((off[k] - left) / base), float(np.sqrt(size[3 + 2 * K + k, 0])))
        for k, p in enumerate(space.parameters) if posterior.prior_std[k] > 0  # else it was fixed
    ]  # fmt: skip
    effects.sort(key=lambda e: -e.share.mean)
    return Attribution(
        robot.name, energy.shape[1], float(np.sqrt(base[0])), share(explained), share(added),
        share(rest), tuple(effects),
    )  # fmt: skip


def _moved(robot: Robot, mean: Array) -> Array:
    """(K,) a tenth of each range away from the mean, inside it; a latency by at least a physics
    step, to which the simulation rounds it."""
    space = robot.space
    step = TENTH * (space.high - space.low)
    if isinstance(robot, MjcfRobot):
        late = np.array([p.field == "actuator_delay" for p in space.parameters])
        step = np.where(late, np.maximum(step, 1000 * robot.model.opt.timestep), step)
    return np.where(mean + step > space.high, mean - step, mean + step)


def _windows(x: Array) -> Array:
    """(..., E, T + 1, D) -> (..., E, W, LENGTH, D); the first tick of an episode predicts
    nothing."""
    W = (x.shape[-2] - 1) // LENGTH
    cut = x[..., 1 : 1 + W * LENGTH, :]
    return cut.reshape(*x.shape[:-2], W, LENGTH, x.shape[-1])


def motion(logged: Array) -> Array:
    """(D,) root mean square of how far each column of (E, T + 1, D) is from where its window
    began; NaN where it never moves."""
    W = (logged.shape[1] - 1) // LENGTH
    begin = logged[:, : W * LENGTH : LENGTH, None]
    size = np.sqrt(np.nanmean((_windows(logged) - begin) ** 2, axis=(0, 1, 2)))
    return np.where(size > 0, size, np.nan)


def by_window(error: Array, scale: Array) -> Array:
    """(N, E, T + 1, D) errors -> (N, W) mean logarithm of their squares over `scale`, of the whole
    windows of all episodes."""
    moves = np.isfinite(scale)
    square = np.mean(_windows(error[..., moves] / scale[moves]) ** 2, axis=-1)  # (N, E, W, LENGTH)
    whole: Array = np.isfinite(square).all(axis=(0, 3))
    return np.log(square[:, whole] + FLOOR**2).mean(axis=2)


def sensor_noise(
    robot: Robot, episodes: Sequence[Trajectory], xi: Array, rng: np.random.Generator
) -> Array:
    """(D,) deviation of each column's white noise, under physics (K,).

    Worlds that are put back to the log at every step begin with its noise, so that a step's
    surprise takes part of the one before back. How large a part, known noise on the same logs
    tells; what physics does wrong, at random or steadily, is not taken back.
    """
    observers = Observers(robot, episodes, candidates=1, length=1)
    plain = observers(xi[None])[0]
    third = np.nanmedian(np.abs(np.diff(observers.logged, 3, axis=1)), axis=(0, 1))
    known = np.maximum(1.4826 * third / np.sqrt(20.0), 1e-9)  # at most so much, were all smooth
    louder = [_with_noise(e, observers, known, robot.control_period, rng) for e in episodes]
    response = Observers(robot, louder, candidates=1, length=1)(xi[None])[0] - plain
    back, full = taken_back(plain), taken_back(response)
    share = np.divide(back, full, out=np.zeros_like(back), where=full > 0)
    return known * np.sqrt(np.clip(share, 0.0, 1.0))


def taken_back(surprise: Array) -> Array:
    """(D,) minus the covariance of one step's (E, T + 1, D) surprise with the next; by medians
    (Gnanadesikan and Kettenring 1972), for a contact that comes a step early is no noise."""
    before, after = surprise[:, 1:-1], surprise[:, 2:]
    spread = [
        1.4826 * np.nanmedian(np.abs(x), axis=(0, 1)) for x in (before + after, before - after)
    ]
    return (spread[1] ** 2 - spread[0] ** 2) / 4


def _with_noise(
    episode: Trajectory, observers: Observers, noise: Array, period: float, rng: np.random.Generator
) -> Trajectory:
    """The episode with as much noise again. A rate that is the difference of a logged position is
    that of the position with its noise."""
    obs = dict(episode.obs)
    given: dict[str, Array] = {}
    for name in dict.fromkeys(observers.columns):
        mine = noise[[c == name for c in observers.columns]]
        given[name] = rng.standard_normal(obs[name].shape) * mine
    for rate, position in differences(episode, period).items():
        if rate in given and position in given:
            given[rate] = np.diff(given[position], axis=0, prepend=given[position][:1]) / period
    for name, extra in given.items():
        obs[name] = obs[name] + extra
    return Trajectory(obs, episode.command)


def share(draws: Array) -> Share:
    """The first of the draws, and between which 95 % of them lie."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return Share(float(draws[0]), float(low), float(high))


def _with(value: float, unit: str) -> str:
    return f"{value:.3g}" if unit in ("", "1") else f"{value:.3g} {unit}"
