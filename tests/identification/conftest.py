"""Logs of a pendulum on a cart, which is smooth and soon followed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim2real.identification.windows import Trajectory
from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array

PENDULUM = Robot.load("inverted_pendulum")
PLACES = ("cart_position", "pole_angle")
NOISE = 0.004


def logged(
    seed: int, episodes: int = 2, ticks: int = 24, gap: Gap | None = None, **physics: float
) -> list[Trajectory]:
    """Under smooth random commands, both places with noise."""
    nominal = dict(zip(PENDULUM.space.names, PENDULUM.space.nominal, strict=True))
    xi = np.array(list((nominal | physics).values()))
    worlds = Worlds(PENDULUM, episodes, gap=gap, observe=list(PLACES), seed=seed, threads=1)
    rng = np.random.default_rng(seed)
    told, sent = [worlds.reset(xi=np.tile(xi, (episodes, 1)))], list[Array]()
    command = np.zeros((episodes, 1))
    for _ in range(ticks):
        command = 0.7 * command + 0.7 * rng.standard_normal((episodes, 1))
        sent.append(command.copy())
        told.append(worlds.advance(command).obs)
    seen = np.stack(told, axis=1)
    seen = seen + NOISE * rng.standard_normal(seen.shape)
    parts = dict(zip(PLACES, np.split(seen, 2, axis=2), strict=True))
    commands = np.stack(sent, axis=1)
    return [Trajectory({n: parts[n][e] for n in PLACES}, commands[e]) for e in range(episodes)]


@pytest.fixture(scope="session")
def pendulum_logs() -> Callable[..., list[Trajectory]]:
    return logged
