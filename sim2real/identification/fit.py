"""ξ from logs by posterior linearisation: candidates far over the ranges that contract onto what
explains them. A density that is close to normal, over any number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim2real import progress
from sim2real.identification.axes import Axes
from sim2real.identification.held_out import FOLDS, evidence, windows_of
from sim2real.identification.linearization import (
    Information,
    Line,
    Normal,
    conditioned,
    densest,
    design,
    regressed,
    robust,
    told,
    within,
)
from sim2real.identification.posterior import Posterior
from sim2real.identification.tracking import FIRST_DRIFT, LEAST_DRIFT, Supposed, Track, Tracker
from sim2real.identification.trajectories import checked, follower, part
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array, InputError

ROUNDS, LAST = 14, 4
"""Linearisations at most, and those of them that are kept for all of the log."""
WIDE, LOCAL = 3.0, 0.5
"""Deviations of the candidates over those of the posterior, at most and at least. Where the logs
are rough, with contacts, it is averaged over; where they are not, what is near counts alone, for a
line through what is far does not find the bottom of a curved valley."""
CHANCE = 0.05
"""What roughness may add to the information in any direction, in that of the posterior."""
TRIED = 0.4
"""Times the drift is tried next."""
NATS = 5.0
"""By which logs may be less likely under less drift."""
WOBBLE = 0.02
"""Nats for each value that was logged, by which a log may be less likely under the same drift:
single contacts decide about so much."""
RISE = 0.002
"""Nats for each value that was logged, by which a log must become likelier in a step for it to be
worth another."""
HALF = 0.5
"""Share of what was not foreseen to which it must fall for ξ to have been so wrong before that it
only seemed known."""
GAIN, LOSS = 0.02, 0.1
"""Of the mean logarithm of the deviations: below which less drift is not worth it, and from which
on a round counts as a step back."""
ALIKE = 0.05
"""Share of a sensor's noise within which it is not estimated anew."""
SHRINK, GROW = 0.4, 1.5
"""Share to which the spread of the candidates may shrink, or grow, from one round to the next."""
LEAST_SHARE = 1e-3
"""Of the upper end of a range that once went down to zero, where a logarithm of it begins."""
SAMPLES = 256
"""Of ξ, in a posterior."""


def fit(
    robot: Robot,
    episodes: Sequence[Trajectory],
    *,
    candidates: int = 48,
    rounds: int = ROUNDS,
    prior: Posterior | None = None,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:
    """The posterior over ξ, by following the logs (`tracking.py`) and regressing what surprises on
    ξ (`linearization.py`), again and again, from candidates far over the ranges to as many as lie
    where the posterior is: first of a part of the log, which is cheap, then of all of it. The
    sensors' noise, the initial states and the drift are estimated too.

    Args:
        episodes: logged episodes of one robot.
        candidates: physics that are held against the logs in a round, about so many: in pairs, and
            four for each parameter at least.
        rounds: at most, and two at least; fewer where ξ no longer moves.
        prior: what other logs of the robot revealed, taken for normal; the ranges where None.

    Raises:
        InputError: a prior of other parameters, the logs determine nothing of the robot's state,
            no sensor in them ever changes, or a value is not finite.

    Warns, in the log of the program, of a sensor that seems dead.
    """
    tracker = checked(robot, episodes)
    rng = np.random.default_rng(seed)
    axes = axes_of(robot)
    low, high = axes.low, axes.high
    before = nothing(len(low)) if prior is None else revealed(prior, robot)
    known = before.with_prior(axes.flat)
    first = follower(robot, part(episodes, tracker.T))
    if first.columns != tracker.columns:
        first = tracker
    search = _Search(candidates, axes, known, rng, report, LOCAL)
    quarter = (high - low) / 4
    nominal = axes.to(np.clip(robot.space.nominal, axes.xi_low, axes.xi_high))
    begin = np.clip(nominal, low + quarter, high - quarter) if prior is None else known.mean
    begin = Normal(np.clip(begin, low, high), known.covariance)
    at = _At(begin, Supposed(FIRST_DRIFT, first.noise), None, 0)
    far = search._replace(nearest=WIDE)  # the valley first, by long steps, and then its bottom
    rough = far.descended(first, at, rounds - LAST)
    found = search.descended(tracker, rough.at, rounds)
    report(rounds, {})
    return _posterior(tracker, found, axes, before, rng)


class _At(NamedTuple):
    """Where a linearisation begins."""

    belief: Normal
    """What its candidates are drawn from: LOCAL to WIDE times as wide as the posterior."""
    supposed: Supposed
    shown: Array | None
    """(D,) noise that innovations showed, which is tried instead."""
    round: int


class _Found(NamedTuple):
    """Where a linearisation led."""

    at: _At
    line: Line
    track: Track
    there: Array
    """(E, T, D) bool, which surprises the line is of."""
    size: float
    """Of what the log alone says: mean logarithm of the deviations."""
    settled: bool

    def better(self, other: _Found) -> bool:
        """Whether ξ is known better than there and no more surprises, or much less does."""
        known = self.size < other.size - GAIN and self._likely(other)
        return known or self._right(other) or self._closer(other)

    def as_good(self, other: _Found) -> bool:
        """Whether ξ is known about as well as there, and no more surprises."""
        return not self.worse(other) and self._likely(other)

    def worse(self, other: _Found) -> bool:
        """Whether ξ is known less well than there by more than chance makes of it."""
        return self.size > other.size + LOSS and not (self._right(other) or self._closer(other))

    def rose(self, before: _Found) -> bool:
        """Whether the log became likelier by the step from there to here."""
        return self._likelier(before) > NATS + RISE * self.values

    def _right(self, other: _Found) -> bool:
        return self.track.unforeseen < HALF * other.track.unforeseen

    def _closer(self, other: _Found) -> bool:
        """Whether the log is far likelier than there, with no more drift: ξ was wrong there,
        however well it seemed known."""
        return self.drift <= other.drift and self._likelier(other) > WOBBLE * self.values

    def _likely(self, other: _Found) -> bool:
        less = NATS if self.drift != other.drift else WOBBLE * self.values
        return self._likelier(other) > -less

    def _likelier(self, other: _Found) -> float:
        return self.track.log_likelihood - other.track.log_likelihood

    @property
    def drift(self) -> float:
        return self.track.supposed.drift

    @property
    def values(self) -> int:
        """How many were logged."""
        return int(np.isfinite(self.track.innovation).sum())


class _Search(NamedTuple):
    """Linearisations one after another."""

    candidates: int
    axes: Axes
    prior: Normal
    rng: np.random.Generator
    report: progress.Report
    nearest: float
    """Deviations of the candidates over those of the posterior, at least."""

    def descended(self, tracker: Tracker, at: _At, rounds: int) -> _Found:
        """From where one is, with less drift each time, as long as ξ becomes known better by it;
        then until ξ moves no more.

        With much drift the past is soon forgotten, and the line is straight far around; with less,
        more of the log counts, until so much has come together that it is no line any more. So
        it is with the sensors' noise.
        """
        best = before = now = self.stepped(tracker, at)
        least, shown = LEAST_DRIFT, True
        while now.at.round < rounds:
            still = now is not before and not now.rose(before)
            since, at, drift = now, now.at, now.drift
            if now is best or now.better(best):
                best, drift = now, max(least, TRIED * drift)
            elif now.settled and now.as_good(best):
                if still:
                    return now
            elif drift < best.drift or now.worse(best):
                least, shown = best.drift, False
                at, drift = best.at._replace(round=at.round), best.drift
                since = best
            if still and drift == now.drift and now.settled and not now.worse(best):
                break
            supposed = at.supposed._replace(drift=drift)
            noise = at.shown if shown else None
            before, now = since, self.stepped(tracker, at._replace(supposed=supposed, shown=noise))
        if now.better(best) or (now.settled and now.as_good(best)):
            return now
        return best._replace(at=best.at._replace(round=now.at.round))

    def stepped(self, tracker: Tracker, at: _At) -> _Found:
        """Once more, from candidates around where one is."""
        low, high = self.axes.low, self.axes.high
        free, belief, supposed = high > low, at.belief, at.supposed
        tried = [supposed]
        if at.shown is not None and not np.allclose(at.shown, supposed.noise, rtol=ALIKE):
            tried.append(supposed._replace(noise=at.shown))
        tracks = tracker.follow(self.axes.back(belief.mean), tried)
        track = max(tracks, key=lambda t: t.log_likelihood)
        self.report(at.round + 1, {"drift": track.supposed.drift})
        pairs = design(belief, low, high, self.candidates, self.rng)
        surprise = tracker.surprise(self.axes.back(pairs.xi), track)  # (N, E, T, D)
        there = np.asarray(np.isfinite(surprise).all(axis=0))
        line = regressed(pairs, surprise[:, there], self.rng)
        now, alone = (conditioned(line, prior) for prior in (self.prior, self.axes.flat))
        mean = densest(now, low, high)
        deviation, before = (np.sqrt(np.diag(x.covariance)) for x in (now, belief))
        rough = float((line.weight * line.left).sum())
        averaged = np.clip((rough / (4 * len(pairs.away) * CHANCE)) ** 0.5, self.nearest, WIDE)
        wide = np.clip(averaged, SHRINK * before / deviation, GROW * before / deviation)
        moved = ((mean - belief.mean) / deviation)[free]
        next_ = Normal(mean, now.covariance * np.outer(wide, wide))
        settled = bool((wide[free] <= averaged).all() and np.square(moved).mean() < 1)
        return _Found(
            _At(next_, track.supposed, track.noise, at.round + 1), line, track, there,
            float(np.log(np.diag(alone.covariance)[free]).mean() / 2), settled,
        )  # fmt: skip


def _posterior(
    tracker: Tracker, found: _Found, axes: Axes, before: Information, rng: np.random.Generator
) -> Posterior:
    line, track, there = found.line, found.track, found.there
    robot, space = tracker.robot, tracker.robot.space
    windows = windows_of(tracker, there)
    box, prior = axes.flat, before.with_prior(axes.flat)
    said = robust(line, box, windows.number, prior).plus(before)
    mean = axes.back(densest(said.with_prior(box), axes.low, axes.high))
    xi = axes.back(within(said.plus(axes.tilt), box, axes.low, axes.high, SAMPLES, rng))
    xi = rounded(robot, xi, rng)
    unseen = np.zeros(len(windows.number))
    for fold in range(FOLDS):
        mine = windows.fold == fold
        unseen[mine] = line.at(conditioned(line, prior, ~mine).mean)[mine]
    ends = np.stack([mean, np.array(space.nominal, float)])
    surprise = tracker.surprise(ends, track)
    seen = evidence(windows.sums(unseen, track), windows.sums(surprise[1][there], track))
    return Posterior(
        env=robot.name, names=tuple(space.names), units=tuple(space.units), samples=xi,
        weights=np.full(len(xi), 1.0 / len(xi)), low=axes.xi_low, high=axes.xi_high,
        prior_std=np.array(space.prior().std(), float),
        log_likelihood=seen.identified, log_likelihood_nominal=seen.nominal,
        gain_error=seen.error, windows=windows.size,
        residual=tracker.residual(surprise[0], track),
        noise=tracker.by_term(track.supposed.noise), drift=track.supposed.drift, said=said,
    )  # fmt: skip


def axes_of(robot: Robot) -> Axes:
    """Those of the ranges of its ξ."""
    return Axes.of(np.array(robot.space.low, float), np.array(robot.space.high, float))


def nothing(K: int) -> Information:
    """What no log says of K parameters."""
    return Information(np.zeros(K), np.zeros((K, K)), np.zeros(K))


def revealed(posterior: Posterior, robot: Robot) -> Information:
    """What the logs of a posterior said, on the axes of the robot; nothing of what was fixed then.
    Raises InputError where it is of another robot or of other parameters."""
    names = tuple(robot.space.names)
    if posterior.env != robot.name or posterior.names != names:
        raise InputError(
            f"the prior is of {posterior.env} with {', '.join(posterior.names)}; the robot is "
            f"{robot.name} with {', '.join(names)}"
        )
    was, said = Axes.of(posterior.low, posterior.high), nothing(len(names))
    axes, free = axes_of(robot), np.flatnonzero(posterior.high > posterior.low)
    if posterior.said is not None and np.array_equal(was.log[free], axes.log[free]):
        alone = posterior.said.part(free)
    else:
        alone = _guessed(posterior, axes.log).part(free)
    said.center[free], said.pull[free] = alone.center, alone.pull
    said.precision[np.ix_(free, free)] = alone.precision
    return said


def _guessed(posterior: Posterior, log: Array) -> Information:
    """What logs said, along axes of which `log` (K,) are logarithms, by what they left of the
    ranges: of the sides of the ranges, draws know too, so where these cut what is known off, it is
    taken for told."""
    least = np.where(log, LEAST_SHARE * posterior.high, -np.inf)
    axes = Axes(np.maximum(posterior.low, least), posterior.high, log)
    x, w = axes.to(np.maximum(posterior.samples, least)), posterior.weights
    mean = w @ x
    covariance = ((x - mean) * w[:, None]).T @ (x - mean) + 1e-9 * axes.flat.covariance
    return told(Normal(mean, covariance), axes.flat)


def rounded(robot: MjcfRobot, xi: Array, rng: np.random.Generator) -> Array:
    """(S, K) samples whose latencies are known to a physics step, to which worlds round them."""
    xi, space = xi.copy(), robot.space
    for k, parameter in enumerate(space.parameters):
        if parameter.field == "actuator_delay" and space.high[k] > space.low[k]:
            step = 1000 * float(robot.model.opt.timestep)
            moved = xi[:, k] + step * (rng.random(len(xi)) - 0.5)
            xi[:, k] = np.clip(moved, space.low[k], space.high[k])
    return xi
