"""`make_vec` and `make_env`: a robot as the environment that a learner expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sim2real.simulation.gap import Gap
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError, nearest

if TYPE_CHECKING:
    import gymnasium
    from stable_baselines3.common.vec_env import VecEnv


def make_vec(
    env: str | Path,
    num_envs: int,
    *,
    randomize: Literal["uniform", "none"] = "uniform",
    gap: str | Path | Gap | None = None,
    observe: str | Sequence[str] | None = None,
    seed: int = 0,
) -> VecEnv:
    """`num_envs` worlds of a robot as a Stable-Baselines3 VecEnv.

    Args:
        env: a name from envs/, or the path of a folder of one's own.
        randomize: `uniform` draws ξ anew for every episode, from the ranges in env.yaml;
            `none` keeps it nominal.
        gap: a name from the env's gaps/, or a path.
        observe: an observation set, or a list of terms; None gives the `-v5` observation.
        seed: world i begins as Gymnasium's environment does with seed + i.

    Returns:
        Observations (B, O) float64, actions (B, A) float32 in the actuators' unit. Where the robot
        is a Gymnasium environment with dictionary observations and `observe` is None, dictionaries.

    Raises:
        InputError: a name that does not exist, or a file that is not right.
    """
    from sim2real.learning.vec_env import Parts, WorldsVecEnv

    _whole("num_envs", num_envs, 1)
    _whole("seed", seed, 0)
    if randomize not in ("uniform", "none"):
        raise InputError(
            f"randomize is '{randomize}'; it must be uniform or none"
            + nearest(str(randomize), ["uniform", "none"])
        )
    robot = Robot.load(env)
    draw = robot.space.prior() if randomize == "uniform" else None
    worlds = make_worlds(robot, num_envs, gap=gap, observe=observe, draw=draw, seed=seed)
    venv = WorldsVecEnv(worlds)
    return Parts(venv, {t.name: t.size for t in worlds.terms}) if worlds.dictionary else venv


def make_env(
    env: str | Path,
    *,
    gap: str | Path | Gap | None = None,
    xi: Mapping[str, float] | Array | None = None,
    observe: str | Sequence[str] | None = None,
    seed: int = 0,
    render_mode: str | None = None,
) -> gymnasium.Env[Any, Array]:
    """One world of a robot as a Gymnasium environment. See `make_vec` for the arguments.

    Args:
        xi: physics, as (K,) or by parameter name; what is not named stays nominal.
        render_mode: None or `rgb_array`.

    Raises:
        InputError: a name that does not exist, or a file that is not right.
    """
    from sim2real.learning.gym import WorldEnv

    _whole("seed", seed, 0)
    robot = Robot.load(env)
    worlds = make_worlds(robot, 1, gap=gap, observe=observe, seed=seed, threads=1)
    return WorldEnv(worlds, None if xi is None else physics(robot, xi), render_mode)


def physics(robot: Robot, xi: Mapping[str, float] | Array) -> Array:
    """(K,) from values by parameter name, the rest nominal."""
    if not isinstance(xi, Mapping):
        return robot.space.check(xi)
    full = np.array(robot.space.nominal, float)
    for name, value in xi.items():
        if name not in robot.space.names:
            raise InputError(
                f"xi: {robot.name} has no parameter '{name}'{nearest(name, robot.space.names)}; "
                f"the parameters are {', '.join(robot.space.names)}"
            )
        full[robot.space.names.index(name)] = value
    return robot.space.check(full)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least {least}")
