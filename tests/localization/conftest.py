"""Logs of simulated robots whose gap is known, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest

from sim2real.identification.windows import Trajectory
from sim2real.localization.localize import examine
from sim2real.simulation.worlds import Worlds


@pytest.fixture(scope="session")
def logged():
    return write_logs


@pytest.fixture(scope="session")
def found():
    """What is said of such logs, but for the regions."""

    def found(robot, gap=None, **how):
        return examine(robot, write_logs(robot, gap, **how), seed=how.get("seed", 0))[0]

    return found


def write_logs(robot, gap=None, *, seed=0, episodes=6, ticks=50, terms=None, gain=0.8):
    """Logs of a robot with a gap under smooth random commands, each until it falls."""
    terms = terms or [n for n, t in robot.terms.items() if t.access != "privileged" and n != "v5"]
    worlds = Worlds(robot, episodes, gap=gap, observe=terms, seed=seed, threads=1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    half = (worlds.action_high - worlds.action_low) / 2
    told, sent = [worlds.reset()], []
    command = np.zeros((episodes, len(half)))
    ends = np.full(episodes, ticks)
    for t in range(ticks):
        command = 0.7 * command + 0.7 * gain * rng.standard_normal(command.shape)
        sent.append((half * np.clip(command, -1, 1)).astype(np.float32))
        step = worlds.advance(sent[-1])
        told.append(step.obs)
        ends[step.terminated & (ends == ticks)] = t + 1
    parts = np.split(np.stack(told, axis=1), np.cumsum([t.size for t in worlds.terms])[:-1], axis=2)
    commands = np.stack(sent, axis=1).astype(float)
    return [
        Trajectory(
            {n: x[e, : ends[e] + 1] for n, x in zip(terms, parts, strict=True)},
            commands[e, : ends[e]],
        )
        for e in range(episodes)
    ]
