"""Logs for identification: a policy drives one robot, with bounded noise on its commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sim2real.identification.windows import Trajectory
from sim2real.simulation.make import AnyWorlds
from sim2real.types import Array, InputError

Act = Callable[[Array, bool], Array]
"""What a policy does: observation (1, O), and whether it is an episode's first -> (1, A)."""


class Logs(NamedTuple):
    episodes: list[Trajectory]
    steps: int
    """Control steps that the robot made."""


def excite(
    worlds: AnyWorlds, act: Act, *, episodes: int, steps: int, rng: np.random.Generator,
    ticks: int = 200, excitation: float = 0.1,
) -> Logs:  # fmt: skip
    """Episodes of one simulated robot, logged as the robot's own would be: terms and commands.

    Args:
        worlds: one world, with the gap that makes it the robot.
        episodes, steps: at most so many; the last episode is cut where the steps are used up.
        ticks: control steps after which an episode is left.
        excitation: uniform noise on the commands, as a share of half of their range.

    Raises:
        InputError: more than one world.
    """
    if worlds.num_worlds != 1:
        raise InputError(f"logs are of one robot, and there are {worlds.num_worlds} worlds")
    low, high = worlds.action_low, worlds.action_high
    names = [t.name for t in worlds.terms]
    ends = np.cumsum([t.size for t in worlds.terms])[:-1]
    logs: list[Trajectory] = []
    used = 0
    while used < steps and len(logs) < episodes:
        obs = worlds.reset()
        seen, sent = [obs[0].copy()], list[Array]()
        for t in range(min(ticks, steps - used)):
            noise = excitation * rng.uniform(-1, 1, len(low)) * (high - low) / 2
            command = np.clip(act(obs, t == 0)[0] + noise, low, high)
            step = worlds.advance(command[None])
            obs = step.obs
            seen.append(obs[0].copy())
            sent.append(command)
            if step.terminated[0] or step.truncated[0]:
                break
        used += len(sent)
        parts = np.split(np.array(seen), ends, axis=1)
        logs.append(Trajectory(dict(zip(names, parts, strict=True)), np.array(sent)))
    return Logs(logs, used)
