"""ξ from logs: a population of candidates that contracts onto what explains them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.deploy.logs.npz import read_logs
from sim2real.identification.posterior import Posterior
from sim2real.identification.windows import Observers, Residuals, Trajectory
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

ROUNDS = 12
"""Rounds of the population at most."""
NU = 4.0
"""Degrees of freedom of the error model: heavier tails than normal, because contacts that come a
step early or late are not noise."""
HELD_OUT = 4
"""Every fourth window is kept from the fit, for the comparison with the nominal ξ."""


def identify(
    logs: str | Path | Iterable[str | Path], env: str | Path, *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:  # fmt: skip
    """ξ of the robot `env` from NPZ logs: files, folders of them, or several.

    Raises:
        InputError: no logs, logs of another robot, or logs that determine nothing of its state.
    """
    robot = Robot.load(env)
    return explain(robot, read_trajectories(logs, robot), seed=seed, report=report)


def explain(
    robot: Robot,
    episodes: Sequence[Trajectory],
    *,
    candidates: int = 160,
    rounds: int = ROUNDS,
    length: int = 5,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:
    """Population Monte Carlo (Cappé et al. 2004) with a tempered likelihood.

    The first population comes from the prior. Each round weighs the candidates by
    p(log | ξ)^(1/τ) p(ξ) / q(ξ), with the temperature τ ≥ 1 at which the effective sample size is
    a quarter of the population, and draws the next one from a normal distribution fitted to them.
    It ends with τ = 1, or after `rounds`; then the remaining τ stays in the posterior, which is
    wider for it.

    Args:
        episodes: logged episodes of one robot.
        candidates: N, physics tried in each round.
        length: control steps of a window.

    Raises:
        InputError: the logs determine nothing of the robot's state.
    """
    space = robot.space
    prior = space.prior()
    rng = np.random.default_rng(seed)
    nominal = np.array(space.nominal, float)
    observers = Observers(robot, episodes, candidates=candidates, length=length)
    xi = prior.sample(rng, candidates)
    xi[0] = nominal
    log_q = prior.log_prob(xi)
    scale = None
    weights = np.full(candidates, 1.0 / candidates)
    for number in range(rounds):
        residuals = observers(xi)
        scale = _scale(residuals, length, scale)
        log_p = -_cost(residuals, scale, length, held_out=False)
        weights, temperature = _tempered(log_p, prior.log_prob(xi) - log_q, candidates / 4)
        report(number + 1, {"temperature": temperature})
        if number == rounds - 1 or (temperature <= 1.0 and number >= 3):
            break
        mean = weights @ xi
        centred = xi - mean
        spread = (space.high - space.low) * 1e-3
        covariance = 1.5 * (centred * weights[:, None]).T @ centred + np.diag(spread**2)
        xi = _draw(rng, mean, covariance, space.low, space.high, candidates)
        log_q = _log_normal(xi, mean, covariance)
    report(rounds, {})
    assert scale is not None
    mean = weights @ xi
    probe = np.tile(nominal, (candidates, 1))
    probe[0] = mean
    residuals = observers(probe)
    held_out = -_cost(residuals, scale, length, held_out=True)
    used, kept = _window_counts(residuals, length)
    rms = _rms_by_term(residuals)
    return Posterior(
        env=robot.name, names=tuple(space.names), units=tuple(space.units),
        samples=xi, weights=weights, low=np.array(space.low, float),
        high=np.array(space.high, float), prior_std=np.array(prior.std(), float),
        log_likelihood=float(held_out[0] / kept) if kept else float("nan"),
        log_likelihood_nominal=float(held_out[1] / kept) if kept else float("nan"),
        windows=used, residual=rms,
    )  # fmt: skip


def _windows(error: Array, length: int) -> Array:
    """(N, E, T, D) -> (N, E, W, length, D); the first tick of an episode predicts nothing, so
    window w holds the ticks w·length + 1 ... (w + 1)·length."""
    N, E, T, D = error.shape
    W = (T - 1) // length
    return error[:, :, 1 : 1 + W * length].reshape(N, E, W, length, D)


def _scale(residuals: Residuals, length: int, before: Array | None) -> Array:
    """(length, D) size of the prediction error by lag, of the candidates that predict best."""
    w = _windows(residuals.error, length)
    total = np.nanmedian(np.abs(w), axis=(1, 2))  # (N, length, D)
    best = np.argsort(np.nanmean(total / np.nanmedian(total, axis=0), axis=(1, 2)))
    best = best[: max(len(best) // 10, 1)]
    scale = 1.4826 * np.nanmedian(np.abs(w[best]), axis=(0, 1, 2))
    floor = 1e-6 + 1e-4 * np.nanmax(np.abs(w), initial=0.0, where=np.isfinite(w), axis=(0, 1, 2))
    scale = np.maximum(scale, floor)
    return scale if before is None else np.minimum(scale, before)


def _cost(residuals: Residuals, scale: Array, length: int, *, held_out: bool) -> Array:
    """(N,) negative log-likelihood under a Student-t error, up to a constant. Errors inside a
    window are one observation: they share its start, so they are averaged, not summed."""
    w = _windows(residuals.error, length) / scale
    rho = 0.5 * (NU + 1) * np.log1p(w**2 / NU) + np.log(scale)
    per_window = _nanmean(rho)
    mine = (np.arange(w.shape[2]) % HELD_OUT == HELD_OUT - 1) == held_out
    return np.nansum(per_window[:, :, mine], axis=(1, 2, 3))


def _nanmean(rho: Array) -> Array:
    """Mean over the lags (N, E, W, length, D) -> (N, E, W, D), NaN where there is no data."""
    there = np.isfinite(rho)
    count = there.sum(axis=3)
    total = np.where(there, rho, 0.0).sum(axis=3)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _window_counts(residuals: Residuals, length: int) -> tuple[int, int]:
    w = np.isfinite(_windows(residuals.error[:1], length)).all(axis=(3, 4))[0]  # (E, W)
    held = np.arange(w.shape[1]) % HELD_OUT == HELD_OUT - 1
    return int(w[:, ~held].sum()), int(w[:, held].sum())


def _tempered(log_p: Array, log_ratio: Array, wanted: float) -> tuple[Array, float]:
    """Weights ∝ exp(log_p/τ + log_ratio) with the smallest τ ≥ 1 whose effective size is enough."""
    low, high = 0.0, np.log(1e9)
    weights = _softmax(log_p + log_ratio)
    if 1 / (weights**2).sum() >= wanted:
        return weights, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = _softmax(log_p / np.exp(middle) + log_ratio)
        low, high = (low, middle) if 1 / (weights**2).sum() >= wanted else (middle, high)
    return _softmax(log_p / np.exp(high) + log_ratio), float(np.exp(high))


def _softmax(x: Array) -> Array:
    e = np.exp(x - np.max(x))
    return e / e.sum()


def _draw(
    rng: np.random.Generator, mean: Array, covariance: Array, low: Array, high: Array, n: int
) -> Array:
    """(n, K) normal inside the ranges: outside draws are drawn again, and clipped at last."""
    x = rng.multivariate_normal(mean, covariance, n)
    for _ in range(20):
        outside = ((x < low) | (x > high)).any(axis=1)
        if not outside.any():
            return x
        x[outside] = rng.multivariate_normal(mean, covariance, int(outside.sum()))
    return np.clip(x, low, high)


def _log_normal(x: Array, mean: Array, covariance: Array) -> Array:
    factor = np.linalg.cholesky(covariance)
    u = np.linalg.solve(factor, (x - mean).T)
    return -0.5 * (u**2).sum(axis=0) - np.log(np.diag(factor)).sum()


def _rms_by_term(residuals: Residuals) -> dict[str, float]:
    error = residuals.error[0]
    return {
        name: float(np.sqrt(np.nanmean(error[..., [t == name for t in residuals.terms]] ** 2)))
        for name in dict.fromkeys(residuals.terms)
    }


def read_trajectories(logs: str | Path | Iterable[str | Path], robot: Robot) -> list[Trajectory]:
    """The episodes of NPZ logs: files, folders of them, or several.

    Raises:
        InputError: nothing there, a file that is not a log, or a log of another robot.
    """
    episodes: list[Trajectory] = []
    for log in read_logs(logs):
        names = log.info.commands
        if sorted(names) != sorted(robot.actuators):
            raise InputError(
                f"the log of {log.info.started} drives {', '.join(names)}; '{robot.name}' has "
                f"{', '.join(robot.actuators)}"
            )
        order = [names.index(name) for name in robot.actuators]
        for term in log.info.robot.terms:
            mine = robot.terms.get(term.name)
            if mine is not None and (mine.size, mine.unit) != (term.size, term.unit):
                raise InputError(
                    f"the log of {log.info.started} has '{term.name}' with {term.size} values in "
                    f"{term.unit}; '{robot.name}' has {mine.size} in {mine.unit}"
                )
        episodes.append(Trajectory(log.obs, log.command[:, order]))
    return episodes
