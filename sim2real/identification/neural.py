"""ξ from logs by neural posterior estimation: a density learned from simulated logs (extra `sbi`).

`fit.py` says where ξ is, and takes it for normal. Here that is only the beginning: robots are
drawn far around it (a truncated prior; Deistler, Goncalves and Macke 2022), each is simulated under
the commands of the log, and a network learns which ξ goes with which log, as a mixture of normal
densities q(ξ | x) (Papamakarios and Murray 2016). x is the score of the log where `fit` ended, a
number for each parameter (Alsing, Wandelt and Feeney 2018), and the size of what surprises every
sensor.

Simulated robots also tell whether it is right: under a calibrated posterior, the rank of the true ξ
among draws is uniform (simulation-based calibration, Talts and others 2018).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sim2real import progress
from sim2real.identification import fit
from sim2real.identification.posterior import Posterior
from sim2real.identification.predictive import column_noise
from sim2real.identification.tracking import Supposed, Track, Tracker
from sim2real.identification.trajectories import follower
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

SIMULATIONS = 2000
"""Robots that are learned from."""
CHECKED = 200
"""Further robots, for the calibration."""
AROUND = 6.0
"""Deviations of the fit within which robots are drawn."""
AT_ONCE = 50
"""Robots that are simulated side by side."""
COLUMNS = 4000
"""Surprises of all robots that are reckoned with at once."""
TRIES = 20
"""Draws for each that is wanted, of those that lie in the box; what is not among them is not
waited for."""
DRAWS = 200
"""Of ξ for each robot of the calibration."""
STEPS = fit.ROUNDS + (SIMULATIONS + CHECKED) // AT_ONCE + 2

log = logging.getLogger(__name__)


def neural(
    robot: Robot, episodes: Sequence[Trajectory], *, simulations: int = SIMULATIONS, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Posterior:  # fmt: skip
    """The posterior over ξ that a network learned: a mixture of normal densities. Noise, drift and
    how well windows are foreseen stay those of the fit that it begins from.

    Args:
        episodes: logged episodes of one robot.
        simulations: robots that are learned from, at least 200.

    Raises:
        InputError: the extra `sbi` is not installed, too few simulations, or as `fit`.

    Warns, in the log of the program, of a posterior that is not calibrated.
    """
    _extra()
    if simulations < 200:
        raise InputError(f"simulations {simulations}: a density is learned from 200 at least")
    begun = fit.fit(robot, episodes, seed=seed, report=report)
    tracker, rng = follower(robot, episodes), np.random.default_rng([seed, 7])
    noise = column_noise(tracker, begun)
    track = tracker.follow(begun.mean, [Supposed(begun.drift, noise)])[0]
    low = np.maximum(begun.low, begun.mean - AROUND * begun.std)
    high = np.minimum(begun.high, begun.mean + AROUND * begun.std)
    free = high > low
    N = simulations + CHECKED
    xi = low + (high - low) * rng.random((N, len(low)))
    there = np.isfinite(track.innovation)
    surprise = np.empty((N, int(there.sum())), np.float32)
    at = np.broadcast_to(begun.mean, xi.shape)
    for first in range(0, N, AT_ONCE):
        some = slice(first, min(first + AT_ONCE, N))
        logs = tracker.imagined(xi[some], noise, rng)
        surprise[some] = tracker.surprise(at[some], track, logs)[:, there]
        report(fit.ROUNDS + 1 + first // AT_ONCE, {"simulated": float(some.stop)})
    unit = ((xi - low) / np.where(free, high - low, 1.0))[:, free]
    own = tracker.surprise(begun.mean[None], track)[:, there].astype(np.float32)
    score = Score(unit[:simulations], surprise[:simulations], _terms(tracker, track, there))
    drawn, calibration = _learned(
        unit, score(surprise), score(own)[0], simulations, len(begun.samples), seed
    )
    report(STEPS, {"calibration": calibration})
    if calibration < 0.05:
        log.warning(
            "%s: the neural posterior is not calibrated on simulated robots (the least p-value of "
            "uniform ranks, times the parameters, is %.2g); raise `simulations`, or take `fit`",
            robot.name, calibration,
        )  # fmt: skip
    samples = np.tile(begun.mean, (len(drawn), 1))
    samples[:, free] = low[free] + drawn * (high - low)[free]
    samples = fit.rounded(tracker.robot, samples, rng)
    found = replace(
        begun, samples=samples, weights=np.full(len(drawn), 1.0 / len(drawn)),
        calibration=calibration, said=None,
    )  # fmt: skip
    last = tracker.surprise(found.mean[None], track)[0]
    return replace(found, residual=tracker.residual(last, track))


class Score:
    """What a log says of ξ at one point: the weighted slope of its surprises over ξ."""

    def __init__(self, xi: Array, surprise: Array, terms: Array) -> None:
        x = xi - xi.mean(axis=0)
        back, M = np.linalg.pinv(x), surprise.shape[1]
        self._terms = terms
        self._mean, self._weighted = np.empty(M), np.empty((xi.shape[1], M))
        for some in _columns(M):  # all at once would take several times the memory of the surprises
            part = surprise[:, some].astype(float)
            self._mean[some] = part.mean(axis=0)
            part -= self._mean[some]
            slope = back @ part  # (K, m)
            self._weighted[:, some] = slope / np.square(part - x @ slope).mean(axis=0)

    def __call__(self, surprise: Array) -> Array:
        """(N, M) -> (N, K + terms)"""
        terms, count = int(self._terms.max()) + 1, np.bincount(self._terms)
        score, square = (
            np.zeros((len(surprise), len(self._weighted))),
            np.zeros((len(surprise), terms)),
        )
        for some in _columns(surprise.shape[1]):
            part = surprise[:, some].astype(float)
            score += (part - self._mean[some]) @ self._weighted[:, some].T
            for k in range(terms):
                square[:, k] += np.square(part[:, self._terms[some] == k]).sum(axis=1)
        return np.column_stack([score, np.log(square / count + 1e-12)])


def _columns(M: int) -> list[Array]:
    """0 to M - 1 in pieces."""
    return np.array_split(np.arange(M), max(1, M // COLUMNS))


class Untold:
    """A tracker of sbi that keeps nothing: its own writes a folder where one happens to be."""

    log_dir: str | None = None

    def log_metric(self, name: str, value: float, step: int | None = None) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...

    def log_params(self, params: dict[str, Any]) -> None: ...

    def add_figure(self, name: str, figure: object, step: int | None = None) -> None: ...

    def flush(self) -> None: ...


def _terms(tracker: Tracker, track: Track, there: Array) -> Array:
    """(M,) which term each surprise is of."""
    names = list(dict.fromkeys(tracker.columns))
    number = np.array([names.index(name) for name in tracker.columns])
    return np.broadcast_to(number, track.innovation.shape)[there]


def _learned(
    unit: Array, x: Array, own: Array, simulations: int, draws: int, seed: int
) -> tuple[Array, float]:
    """Draws (S, K) of ξ, in shares of the box, given x = own, and the calibration's p-value."""
    import torch
    from sbi.diagnostics import check_sbc
    from sbi.inference import NPE
    from sbi.utils import BoxUniform

    def tensor(values: Array) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32)

    center, size = x[:simulations].mean(axis=0), x[:simulations].std(axis=0) + 1e-9
    x, own = (x - center) / size, (own - center) / size
    own = np.clip(own, x.min(axis=0), x.max(axis=0))  # beyond, the network has seen nothing
    K = unit.shape[1]
    state = torch.random.get_rng_state()
    with contextlib.ExitStack() as quiet:  # what sbi prints and warns of is about its own insides
        quiet.callback(torch.random.set_rng_state, state)
        quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
        quiet.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        prior = BoxUniform(torch.zeros(K), torch.ones(K))
        learner = NPE(
            prior=prior, density_estimator="mdn", tracker=Untold(), show_progress_bars=False
        )
        learner.append_simulations(tensor(unit[:simulations]), tensor(x[:simulations]))
        density: Any = learner.train(training_batch_size=100)

        def within(of: Array, n: int) -> Array | None:
            """(n, K) draws that lie in the box, given one x; None where hardly any does."""
            with torch.no_grad():
                tried = density.sample((TRIES * n,), condition=tensor(of)[None])[:, 0].numpy()
            inside = tried[((tried >= 0) & (tried <= 1)).all(axis=1)]
            return np.asarray(inside[:n], float) if len(inside) >= n else None

        drawn = within(own, draws)
        if drawn is None:
            raise InputError(
                "the neural posterior of these logs lies outside of the ranges: no ξ explains "
                "them; take the method fit, which says so"
            )
        checked_on = zip(unit[simulations:], x[simulations:], strict=True)
        found = [(one, within(of, DRAWS)) for one, of in checked_on]
        held = [(one, some) for one, some in found if some is not None]
        if 2 * len(held) < len(found):
            return drawn, 0.0
        truth, some = (np.stack(values) for values in zip(*held, strict=True))  # some (n, DRAWS, K)
        ranks = (some < truth[:, None]).sum(axis=1)
        checked = check_sbc(
            tensor(ranks), tensor(truth), tensor(some[:, 0]), num_posterior_samples=DRAWS
        )
    least = float(checked["ks_pvals"].min())
    return drawn, min(1.0, K * least)


def _extra() -> None:
    if importlib.util.find_spec("sbi") is None:
        raise InputError('the method "neural" needs the extra sbi: pip install "sim2real[sbi]"')
