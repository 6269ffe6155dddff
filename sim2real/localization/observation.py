"""Gaps in what is observed: a dead sensor, a latency, noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sim2real.localization.findings import Localization
from sim2real.localization.replay import FLOOR, Plan, Replay
from sim2real.types import Array

LATE = 0.3
"""Share of the difference that a latency must explain to be called the reason."""
BELIEVED, TAKEN_BACK, CERTAIN = 0.7, -0.25, -4.0
"""Gain, slope and t of the test for noise."""


def by_dead_sensors(
    answer: Localization, replay: Replay, there: Array, scale: Array
) -> Localization:
    """The answer where a column never changes in the logs though it moves; else as it is.

    Args:
        there: (E, T) bool: the transitions that are compared.
        scale: (D,) of one step, from `one_step`.
    """
    still = np.ptp(replay.obs[:, :-1][there], axis=0) == 0
    dead = [name for name, s, m in zip(replay.names, still, scale > 0, strict=True) if s and m]
    if not dead:
        return answer
    said = (
        f"an observation gap: {', '.join(dead)} never changes in the logs though it moves: a dead "
        "sensor, or a column that was not filled"
    )
    return replace(answer, kind="observation", sentence=said)


def by_latency(
    answer: Localization, replay: Replay, there: Array, scale: Array, seed: int
) -> Localization:
    """The answer where a latency explains the difference; else with no more than the slope by which
    noise shows. Arguments as of `by_dead_sensors`."""
    skip = replay.robot.config.frame_skip
    delays = sorted({max(1, round(skip * x)) for x in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)})
    plan = Plan.of(replay.model.nv, 2 + len(delays))
    plan.gain[1], plan.follow[1] = BELIEVED, 0
    plan.delay[2:] = delays
    told = replay(plan, seed)
    moving = scale > 0
    error = (replay.obs[:, 1:] - told)[..., moving] / scale[moving]  # (W, E, T, C)
    energy = [_geometric(e, there) for e in error]
    explained = 1 - np.array(energy[2:]) / energy[0]
    best = int(np.argmax(explained))
    slope, t = taken_back(error[0], error[1] - error[0], there)
    answer = replace(answer, noise_slope=slope, noise_t=t)
    if explained[best] <= LATE:
        return answer
    ms = 1000 * float(replay.model.opt.timestep) * delays[best]
    said = (
        f"an observation gap: with commands {ms:g} ms late, the simulator explains "
        f"{100 * explained[best]:.0f} % of the difference (p = {answer.p:.2g}); whether the "
        "actuators or the sensors are late, logs do not tell, and Δr of such transitions, which "
        "are not Markov, is spurious: model the latency first"
    )
    return replace(answer, kind="observation", sentence=said, latency_ms=ms,
                   latency_share=float(explained[best]))  # fmt: skip


def _geometric(error: Array, there: Array) -> float:
    """Geometric mean over transitions of the squared error (E, T, D): contacts that come a step
    early count like any other transition."""
    return float(np.exp(np.log(np.square(error).mean(axis=2)[there] + FLOOR**2).mean()))


def taken_back(error: Array, change: Array, there: Array) -> tuple[float, float]:
    """The slope of `error` (E, T, D) on minus `change`, and its t over blocks of 20 steps.

    `change` is by how much the error would be another if the world had started from where it
    believed to be a step ago, in part, and not from what was measured. With noise n, Jacobian F and
    a share k of the surprise believed to be noise, error = n' - F n and change = F k (n - F n-),
    so the two correlate negatively; a start that is exact gives no such correlation. Both are taken
    as asinh of multiples of the column's median error, for F n has the tails of contacts. Only the
    transitions that are `there` (E, T) count.
    """
    size = np.sqrt(np.median(np.square(error[there]), axis=0))
    size = np.where(size > 0, size, 1.0)
    error, change = np.arcsinh(error / size), np.arcsinh(change / size)
    change = -np.where(there[..., None], change, 0.0)
    error = np.where(there[..., None], error, 0.0)
    square = np.square(change).mean(axis=2)
    weight = there / (square + np.median(square[there]) + 1e-12)
    xy, xx = (weight * (-change * y).sum(axis=2) for y in (error, -change))
    E, T = xy.shape
    blocks = (np.arange(E)[:, None] * T + np.arange(T) // 20).ravel()
    _, blocks = np.unique(blocks, return_inverse=True)
    by = np.bincount(blocks, xy.ravel()), np.bincount(blocks, xx.ravel())
    total = by[1].sum()
    if total <= 0:
        return 0.0, 0.0
    slope = float(by[0].sum() / total)
    rest = by[0] - slope * by[1]
    deviation = float(np.sqrt(np.square(rest).sum()))
    return slope, slope * float(total) / deviation if deviation > 0 else 0.0


def is_noise(answer: Localization) -> bool:
    """Whether the slope that `by_latency` left is that of noise."""
    return answer.noise_slope < TAKEN_BACK and answer.noise_t < CERTAIN


def as_noise(answer: Localization) -> Localization:
    """The answer where it is noise, from its slope and its terms."""
    said = (
        "an observation gap: what differs after one step is taken back in the next, as the "
        f"noise of sensors is (slope {answer.noise_slope:.2f}, p = {answer.p:.2g}), most in "
        f"{answer.terms[0].name}; Δr of such transitions, which are not Markov, is spurious: "
        "filter the sensors or model their noise first"
    )
    return replace(answer, kind="observation", sentence=said)
