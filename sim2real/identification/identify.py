"""ξ from logs: a population of candidates that contracts onto what explains them."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.deploy.logs.npz import read_logs
from sim2real.identification.plausibility import check_plausible
from sim2real.identification.posterior import Posterior, at_the_edge
from sim2real.identification.windows import LENGTH, Observers, Trajectory, check_numbers
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array, InputError

ROUNDS = 14
"""Rounds of the population at most."""
TICKS, LEAST_TICKS = 800, 200
"""Control steps that are replayed: of all episodes together, but no fewer of each."""
NU = 4.0
"""Degrees of freedom of the error model: heavier tails than normal, because contacts that come a
step early or late are not noise."""
HELD_OUT = 4
"""Every fourth window is kept from the fit, for the comparison with the nominal ξ."""

log = logging.getLogger(__name__)


def identify(
    logs: str | Path | Iterable[str | Path], env: str | Path, *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:  # fmt: skip
    """ξ of the robot `env` from NPZ logs: files, folders of them, or several.

    Raises:
        InputError: no logs, logs of another robot, logs that determine nothing of its state, or a
            value that is not finite.
    """
    robot = Robot.load(env)
    return explain(robot, read_trajectories(logs, robot), seed=seed, report=report)


def explain(
    robot: Robot,
    episodes: Sequence[Trajectory],
    *,
    candidates: int = 64,
    rounds: int = ROUNDS,
    length: int = LENGTH,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:
    """ξ that explains episodes of one robot: `fit`, with its arguments and errors.

    Warns, in the log of the program, of a parameter whose posterior crowds at an edge of its range.
    """
    posterior = fit(
        robot, episodes, candidates=candidates, rounds=rounds, length=length, seed=seed,
        report=report,
    )  # fmt: skip
    for sentence in at_the_edge(posterior, robot.space):
        log.warning("%s: %s", robot.name, sentence)
    return posterior


def fit(
    robot: Robot,
    episodes: Sequence[Trajectory],
    *,
    candidates: int = 64,
    rounds: int = ROUNDS,
    length: int = LENGTH,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:
    """Sequential Monte Carlo over ξ (Del Moral, Doucet and Jasra 2006, section 3.3).

    Candidates drawn from the prior p(ξ) are led to p(ξ) p(log | ξ)^β while β grows from zero to
    one, each time as far as leaves an effective half of them. At every β they are resampled and
    moved once by random-walk Metropolis with their own covariance. The size of the prediction
    error is estimated along the way from the candidates that predict best, so the sequence is one
    of approximations. If `rounds` are used up
    before β = 1, the posterior is the tempered one, wider than the truth. At the end, parameters of
    which the candidates claim more than the data say are drawn anew.

    Args:
        episodes: logged episodes of one robot.
        candidates: N, physics simulated in each round.
        length: control steps of a window.

    Raises:
        InputError: the logs determine nothing of the robot's state, or a value is not finite.

    Warns, in the log of the program, of a sensor that seems dead.
    """
    space = robot.space
    if not space.K:
        raise InputError(
            f"{robot.where}: no parameters, so there is nothing to identify; list under "
            "'parameters' what may differ"
        )
    prior = space.prior()
    rng = np.random.default_rng(seed)
    nominal = np.array(space.nominal, float)
    ticks = max(LEAST_TICKS, TICKS // max(len(episodes), 1))
    observers = Observers(robot, episodes, candidates=candidates, length=length, ticks=ticks)
    check_plausible(observers.robot, episodes)
    xi = prior.sample(rng, candidates)
    error = observers(xi)
    if dead := observers.still(error):
        log.warning(
            "%s: %s never changes in the logs, though the commands do and the simulated robot "
            "moves it: a dead sensor, or a column that was not filled; repair it, or log without "
            "that term, and identify again", robot.name, "; ".join(dead),
        )  # fmt: skip
    scale = _scale(error, length, None)
    beta, round_ = 0.0, 1
    while True:
        log_p = -_cost(error, scale, length, held_out=False)
        report(round_, {"beta": beta})
        if (beta >= 1.0 and round_ >= rounds - 1) or round_ >= rounds:
            break
        step = _largest_step(log_p, 1.0 - beta)
        beta = min(beta + step, 1.0)
        weights = _softmax(step * log_p)
        mean = weights @ xi
        covariance = ((xi - mean) * weights[:, None]).T @ (xi - mean)
        chosen = _systematic(weights, rng)
        xi, log_p, error = xi[chosen], log_p[chosen], error[chosen]
        moved = xi + rng.multivariate_normal(
            np.zeros(space.K), covariance * (2.38**2 / space.K) / 2, candidates, method="svd"
        )
        inside: Array = np.all((moved >= space.low) & (moved <= space.high), axis=1)
        moved = np.where(inside[:, None], moved, xi)
        moved_error = observers(moved)
        moved_log_p = -_cost(moved_error, scale, length, held_out=False)
        ratio = beta * (moved_log_p - log_p) + prior.log_prob(moved) - prior.log_prob(xi)
        accept = inside & (np.log(rng.random(candidates)) < ratio)
        xi, error = np.where(accept[:, None], moved, xi), np.where(_col(accept), moved_error, error)
        scale = _scale(error, length, scale)
        round_ += 1
    report(rounds, {})
    points = candidates // space.K
    if points >= 3:
        at = (np.arange(points) + 0.5) / points
        grid = space.low + at[:, None] * (space.high - space.low)  # (points, K)
        probe = np.tile(xi.mean(axis=0), (candidates, 1))
        for k in range(space.K):
            probe[k * points : (k + 1) * points, k] = grid[:, k]
        log_p = -beta * _cost(observers(probe), scale, length, held_out=False)
        log_p += prior.log_prob(probe)
        xi = _widened(xi, grid, log_p[: points * space.K].reshape(space.K, points), rng)
    for k, parameter in enumerate(space.parameters):
        if parameter.field == "actuator_delay":  # the simulation rounds it to physics steps
            step = 1000 * float(robot.model.opt.timestep) if isinstance(robot, MjcfRobot) else 0.0
            jitter = step * (rng.random(candidates) - 0.5)
            xi[:, k] = np.clip(xi[:, k] + jitter, space.low[k], space.high[k])
    weights = np.full(candidates, 1.0 / candidates)
    mean = weights @ xi
    probe = np.tile(nominal, (candidates, 1))
    probe[0] = mean
    error = observers(probe)
    held_out = -_by_window(error[:2], scale, length, held_out=True)
    gain = held_out[0] - held_out[1]
    gain = gain[gain != 0.0]  # windows without data
    used, kept = _window_counts(error, length)
    rms = _rms_by_term(error[0], observers.columns)
    return Posterior(
        env=robot.name, names=tuple(space.names), units=tuple(space.units),
        samples=xi, weights=weights, low=np.array(space.low, float),
        high=np.array(space.high, float), prior_std=np.array(prior.std(), float),
        log_likelihood=float(held_out[0].sum() / kept) if kept else float("nan"),
        log_likelihood_nominal=float(held_out[1].sum() / kept) if kept else float("nan"),
        gain_error=float(gain.std(ddof=1) / len(gain) ** 0.5) if len(gain) > 1 else float("nan"),
        windows=used, residual=rms,
    )  # fmt: skip


def _widened(xi: Array, grid: Array, log_p: Array, rng: np.random.Generator) -> Array:
    """(N, K) candidates whose spread is not below what it is when all other parameters are known.

    A few dozen candidates that are resampled a dozen times lose the spread of what the data do not
    touch, and would claim to know it. The deviation of one parameter given the others is never
    above its own, so where the candidates have less, that parameter is drawn anew.

    Args:
        grid: (G, K) values of each parameter, the middles of G equal cells of its range.
        log_p: (K, G) log-density at them, the other parameters at the candidates' mean.
    """
    xi = xi.copy()
    for k, (values, density) in enumerate(zip(grid.T, log_p, strict=True)):
        weights, cell = _softmax(density), values[1] - values[0]
        deviation = np.sqrt(weights @ (values - weights @ values) ** 2)
        if deviation > max(cell, xi[:, k].std()):  # what is finer than the cells, they cannot show
            drawn = rng.choice(values, len(xi), p=weights)
            xi[:, k] = drawn + cell * (rng.random(len(xi)) - 0.5)
    return xi


def _windows(error: Array, length: int) -> Array:
    """(N, E, T, D) -> (N, E, W, length, D); the first tick of an episode predicts nothing, so
    window w holds the ticks w·length + 1 ... (w + 1)·length."""
    N, E, T, D = error.shape
    W = (T - 1) // length
    return error[:, :, 1 : 1 + W * length].reshape(N, E, W, length, D)


def _scale(error: Array, length: int, before: Array | None) -> Array:
    """(length, D) size of the prediction error by lag, of the candidates that predict best."""
    w = _windows(error, length)
    w = w[:, :, ~_held_out(w.shape[2])]
    total = np.nanmedian(np.abs(w), axis=(1, 2))  # (N, length, D)
    median = np.nanmedian(total, axis=0)
    median[median == 0] = np.nan  # what all predict exactly tells none from the others
    best = np.argsort(np.nanmean(total / median, axis=(1, 2)))
    best = best[: max(len(best) // 10, 1)]
    scale = 1.4826 * np.nanmedian(np.abs(w[best]), axis=(0, 1, 2))
    floor = 1e-6 + 1e-4 * np.nanmax(np.abs(w), initial=0.0, where=np.isfinite(w), axis=(0, 1, 2))
    scale = np.maximum(scale, floor)
    return scale if before is None else np.minimum(scale, before)


def _cost(error: Array, scale: Array, length: int, *, held_out: bool) -> Array:
    """(N,) negative log-likelihood under a Student-t error, up to a constant."""
    return _by_window(error, scale, length, held_out).sum(axis=1)


def _by_window(error: Array, scale: Array, length: int, held_out: bool) -> Array:
    """(N, windows) the same, window by window. What is inside a window is one observation: its
    errors share a start and a body, so they are averaged over lags and columns, not summed."""
    w = _windows(error, length) / scale
    rho = 0.5 * (NU + 1) * np.log1p(w**2 / NU) + np.log(scale)
    mine = _held_out(w.shape[2]) == held_out
    per_window = _nanmean(rho)[:, :, mine]  # (N, E, W, D)
    there = np.isfinite(per_window).all(axis=3)
    return np.where(there, per_window.mean(axis=3), 0.0).reshape(len(w), -1)


def _nanmean(rho: Array) -> Array:
    """Mean over the lags (N, E, W, length, D) -> (N, E, W, D), NaN where there is no data."""
    there = np.isfinite(rho)
    count = there.sum(axis=3)
    total = np.where(there, rho, 0.0).sum(axis=3)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _window_counts(error: Array, length: int) -> tuple[int, int]:
    whole: Array = np.all(np.isfinite(_windows(error, length)), axis=(3, 4))[0]  # (E, W)
    kept = int(whole[:, _held_out(whole.shape[1])].sum())
    return int(whole.sum()) - kept, kept


def _held_out(windows: int) -> Array:
    """(W,) bool: the windows that the fit does not see."""
    return np.arange(windows) % HELD_OUT == HELD_OUT - 1


def _largest_step(log_p: Array, left: float) -> float:
    """The largest step of β, at most `left`, whose weights keep an effective half of the sample."""

    def enough(step: float) -> bool:
        weights = _softmax(step * log_p)
        return 1 / (weights**2).sum() >= len(log_p) / 2

    if enough(left):
        return left
    low, high = 0.0, left
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def _systematic(weights: Array, rng: np.random.Generator) -> Array:
    """(N,) indices, each chosen about weight times N times (Kitagawa 1996)."""
    n = len(weights)
    return np.searchsorted(np.cumsum(weights), (rng.random() + np.arange(n)) / n).clip(max=n - 1)


def _softmax(x: Array) -> Array:
    e = np.exp(x - np.max(x))
    return e / e.sum()


def _col(mask: Array) -> Array:
    """(N,) -> (N, 1, 1, 1)"""
    return mask[:, None, None, None]


def _rms_by_term(error: Array, columns: Sequence[str]) -> dict[str, float]:
    """(E, T, D) -> term: root mean square."""
    return {
        name: float(np.sqrt(np.nanmean(error[..., [c == name for c in columns]] ** 2)))
        for name in dict.fromkeys(columns)
    }


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
