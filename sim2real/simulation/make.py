"""The right kind of worlds for a robot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sim2real.dynamics.distribution import Distribution
from sim2real.simulation.gap import Gap
from sim2real.simulation.gymnasium_robot import GymnasiumRobot
from sim2real.simulation.gymnasium_worlds import GymnasiumWorlds
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds

AnyWorlds = Worlds | GymnasiumWorlds


def make_worlds(
    robot: Robot,
    num_worlds: int,
    *,
    gap: Gap | str | Path | None = None,
    observe: str | Sequence[str] | None = None,
    draw: Distribution | None = None,
    seed: int = 0,
    threads: int = 0,
) -> AnyWorlds:
    """B worlds of any robot: `GymnasiumWorlds` of one whose env.yaml says `gymnasium`, else
    `Worlds`. See there for the arguments.

    Raises:
        InputError: an unknown observation set, term, gap or gap effect.
    """
    kind = GymnasiumWorlds if isinstance(robot, GymnasiumRobot) else Worlds
    return kind(robot, num_worlds, gap=gap, observe=observe, draw=draw, seed=seed, threads=threads)
