"""Observations of worlds as a robot is told them, and beside them what is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sim2real.simulation.terms import check_finite
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError

Act = Callable[[Array], Array]
"""(B, O) observations -> (B, A) commands in the actuators' unit."""


class Gathered(NamedTuple):
    """N = T·B control steps, in order of time."""

    obs: Array
    """(N, O) as told, through the gap's sensors."""
    labels: Array
    """(N, S) the label terms as they truly are. Of a target nobody knows them: they are for judging
    an estimate, never for learning one."""
    qpos: Array
    """(N, nq) of the simulator, from which pictures are drawn."""


def gather(worlds: Worlds, act: Act, steps: int, *, labels: Sequence[str]) -> Gathered:
    """Lets `act` drive the worlds for `steps` control steps each, episodes beginning anew as they
    end, and keeps what was told and what was true.

    Args:
        worlds: observe what the robot would; their gap makes them the target.
        labels: terms of the robot, privileged ones too, whose true values are wanted.

    Raises:
        InputError: no such term, a term whose values the worlds do not compute, fewer than one
            step, or an observation that is not finite.
    """
    if steps < 1:
        raise InputError(f"align: steps is {steps}; it must be at least 1")
    terms = worlds.robot.observation(list(labels))
    for term in terms:
        missing = [name for name in term.fields if name not in worlds.data]
        if missing:
            raise InputError(
                f"align: the label '{term.name}' reads {', '.join(missing)}, which these worlds do "
                "not compute; let the worlds observe a term that reads it"
            )
    obs = worlds.reset()
    told: list[Array] = []
    true: list[Array] = []
    qpos: list[Array] = []
    for _ in range(steps):
        check_finite(worlds.robot.name, worlds.terms, obs)
        told.append(obs.copy())
        true.append(np.concatenate([t.read(worlds.data) for t in terms], axis=1))
        qpos.append(worlds.data["qpos"].copy())
        obs = worlds.step(act(obs)).obs
    return Gathered(*(np.concatenate(x) for x in (told, true, qpos)))


def wandering(worlds: Worlds, *, size: float = 0.3, memory: float = 0.8, seed: int = 0) -> Act:
    """Commands that need no policy: a first-order random walk around the middle of their range.

    u' = memory·u + √(1 - memory²)·size·n, n ~ N(0, 1), in half-ranges, clipped to the range.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))
    low, high = worlds.action_low.astype(float), worlds.action_high.astype(float)
    u = size * rng.standard_normal((worlds.num_worlds, len(low)))

    def act(obs: Array) -> Array:
        nonlocal u
        u = memory * u + np.sqrt(1 - memory**2) * size * rng.standard_normal(u.shape)
        return (low + high) / 2 + (high - low) / 2 * u.clip(-1, 1)

    return act
