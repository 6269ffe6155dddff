"""ξ from logs by posterior linearisation: candidates all over the ranges that contract onto what
explains them. A density that is close to normal, over any number of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim2real import progress
from sim2real.identification.held_out import FOLDS, NU, evidence, windows_of
from sim2real.identification.linearization import (
    Line,
    Normal,
    conditioned,
    design,
    regressed,
    robust,
    within,
)
from sim2real.identification.posterior import Posterior
from sim2real.identification.tracking import FIRST_DRIFT, LEAST_DRIFT, Supposed, Track, Tracker
from sim2real.identification.trajectories import checked
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array

ROUNDS = 12
"""Linearisations at most."""
WIDE = 3.0
"""Deviations of the candidates over those of the posterior: what is rough is then averaged."""
INFLATION = 1.2
"""Of the deviations at the end, for what is left of the roughness: chosen on five hoppers with
hidden ξ, other ones than those of `tools/study_identification.py`."""
TRIED = 0.4
"""Times the drift, or one over it, is tried beside it in every round."""
BETTER = 2.0
"""Nats by which what is tried must be likelier to be taken."""
SHRINK, GROW = 0.4, 1.5
"""Share to which the spread of the candidates may shrink, or grow, from one round to the next."""
CELLS = 12
"""Of a parameter's range, in which its profile is looked at."""
SAMPLES = 256
"""Of ξ, in a posterior."""


def fit(
    robot: Robot,
    episodes: Sequence[Trajectory],
    *,
    candidates: int = 48,
    rounds: int = ROUNDS,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:
    """The posterior over ξ, by following the logs (`tracking.py`) and regressing what surprises on
    ξ (`linearization.py`), again and again, from candidates all over the ranges to as many as lie
    where the posterior is. The sensors' noise, the initial states and the drift are estimated too.

    Args:
        episodes: logged episodes of one robot.
        candidates: physics that are held against the logs in a round, about so many: in pairs, and
            eight for each parameter at least.
        rounds: at most; fewer where ξ no longer moves.

    Raises:
        InputError: the logs determine nothing of the robot's state, no sensor in them ever
            changes, or a value is not finite.

    Warns, in the log of the program, of a sensor that seems dead.
    """
    space = robot.space
    tracker = checked(robot, episodes)
    rng = np.random.default_rng(seed)
    low, high = np.array(space.low, float), np.array(space.high, float)
    free = high > low
    prior = Normal((low + high) / 2, np.diag(np.where(free, (high - low) ** 2 / 12, 1e-18)))
    belief = Normal(np.clip(space.nominal, low, high), prior.covariance)
    tried, turn, refused, round_ = [Supposed(FIRST_DRIFT, tracker.noise)], 0, 0, 0
    while True:
        round_ += 1
        tracks = tracker.follow(belief.mean, tried)
        track = tracks[0]
        if len(tracks) == 2 and tracks[1].log_likelihood > track.log_likelihood + BETTER:
            track = tracks[1]
        report(round_, {"drift": track.supposed.drift})
        pairs = design(belief, low, high, candidates, rng)
        surprise = tracker.surprise(pairs.xi, track)  # (N, E, T, D)
        there = np.asarray(np.isfinite(surprise).all(axis=0))
        line = regressed(pairs, surprise[:, there], rng)
        now = conditioned(line, prior)
        mean = np.clip(now.mean, low, high)
        deviation, before = (np.sqrt(np.diag(x.covariance)) for x in (now, belief))
        wide = np.clip(WIDE, SHRINK * before / deviation, GROW * before / deviation)
        moved = np.abs(mean - belief.mean)[free] / deviation[free]
        belief = Normal(mean, now.covariance * np.outer(wide, wide))
        refused = refused + 1 if track is tracks[0] else 0
        settled = (wide <= WIDE).all() and (moved < 1).all() and refused >= 2
        if settled or round_ >= rounds:
            break
        if refused and round_ > 1:
            turn += 1
        tried = [track.supposed, _other(track, turn)]
    report(rounds, {})
    return _posterior(tracker, line, prior, track, there, rng)


def _other(track: Track, turn: int) -> Supposed:
    """What is supposed instead, in turns: less drift, the noise that is shown, more drift."""
    drift, _ = track.supposed
    if turn % 3 == 0 and drift > LEAST_DRIFT:
        return track.supposed._replace(drift=max(LEAST_DRIFT, TRIED * drift))
    if turn % 3 == 2:
        return track.supposed._replace(drift=drift / TRIED)
    return track.supposed._replace(noise=track.noise)


def _posterior(
    tracker: Tracker, line: Line, prior: Normal, track: Track, there: Array,
    rng: np.random.Generator,
) -> Posterior:  # fmt: skip
    robot, space = tracker.robot, tracker.robot.space
    low, high = np.array(space.low, float), np.array(space.high, float)
    windows = windows_of(tracker, there)
    said = robust(line, prior, windows.number, INFLATION)
    mean = np.clip(said.with_prior(prior).mean, low, high)
    xi = within(said, prior, low, high, SAMPLES, rng)
    xi = _widened(xi, *_profiles(tracker, track, mean), rng)
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
        weights=np.full(len(xi), 1.0 / len(xi)), low=low, high=high,
        prior_std=np.array(space.prior().std(), float),
        log_likelihood=seen.identified, log_likelihood_nominal=seen.nominal,
        gain_error=seen.error, windows=windows.size,
        residual=tracker.residual(surprise[0], track),
        noise=tracker.by_term(track.supposed.noise), drift=track.supposed.drift,
    )  # fmt: skip


def rounded(robot: MjcfRobot, xi: Array, rng: np.random.Generator) -> Array:
    """(S, K) samples whose latencies are known to a physics step, to which worlds round them."""
    xi, space = xi.copy(), robot.space
    for k, parameter in enumerate(space.parameters):
        if parameter.field == "actuator_delay" and space.high[k] > space.low[k]:
            step = 1000 * float(robot.model.opt.timestep)
            moved = xi[:, k] + step * (rng.random(len(xi)) - 0.5)
            xi[:, k] = np.clip(moved, space.low[k], space.high[k])
    return xi


def _profiles(tracker: Tracker, track: Track, mean: Array) -> tuple[Array, Array]:
    """(G, K) values of each parameter, the middles of G equal cells of its range, and (K, G) the
    log-likelihood at them, the other parameters at the mean."""
    space = tracker.robot.space
    K, at = space.K, (np.arange(CELLS) + 0.5) / CELLS
    grid = space.low + at[:, None] * (space.high - space.low)
    xi = np.tile(mean, (K * CELLS, 1))
    for k in range(K):
        xi[k * CELLS : (k + 1) * CELLS, k] = grid[:, k]
    white = tracker.surprise(xi, track)
    log_p = -0.5 * (NU + 1) * np.nansum(np.log1p(white**2 / NU), axis=(1, 2, 3))
    return grid, log_p.reshape(K, CELLS)


def _widened(xi: Array, grid: Array, log_p: Array, rng: np.random.Generator) -> Array:
    """(S, K) samples whose spread is not below what it is when all other parameters are known.

    What the logs do not tell, the regression may still claim by chance. The deviation of one
    parameter given the others is never above its own, so where the samples have less, that
    parameter is drawn anew from its profile (`_profiles`).
    """
    xi = xi.copy()
    for k, (values, density) in enumerate(zip(grid.T, log_p, strict=True)):
        weights = np.exp(density - density.max())
        weights, cell = weights / weights.sum(), values[1] - values[0]
        deviation = np.sqrt(weights @ (values - weights @ values) ** 2)
        if deviation > max(cell, xi[:, k].std()):  # what is finer than the cells, they cannot show
            drawn = rng.choice(values, len(xi), p=weights)
            xi[:, k] = drawn + cell * (rng.random(len(xi)) - 0.5)
    return xi
