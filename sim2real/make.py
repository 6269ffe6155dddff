"""`make_vec` and `make_env`: a robot as the environment that a learner expects."""

from __future__ import annotations

import os
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

    check_whole("num_envs", num_envs, 1)
    check_whole("seed", seed, 0)
    check_gap(gap)
    _check_observe(observe)
    if randomize not in ("uniform", "none"):
        raise InputError(
            f"randomize is '{randomize}'; it must be uniform or none"
            + nearest(str(randomize), ["uniform", "none"])
        )
    robot = load_robot(env)
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

    check_whole("seed", seed, 0)
    check_gap(gap)
    _check_observe(observe)
    robot = load_robot(env)
    given = None if xi is None else physics(robot, xi)
    worlds = make_worlds(robot, 1, gap=gap, observe=observe, seed=seed, threads=1)
    return WorldEnv(worlds, given, render_mode)


def load_robot(env: str | Path) -> Robot:
    """The robot of a name from envs/ or of a folder. Raises InputError where it is neither."""
    if not isinstance(env, str | os.PathLike):
        raise InputError(f"env is {env!r}; it must be the name of a robot or its folder")
    return Robot.load(env)


def physics(robot: Robot, xi: Mapping[str, float] | Array, worlds: int = 1) -> Array:
    """ξ (K,) from values by parameter name, the rest nominal; or as it is, (K,) or (worlds, K).

    Raises:
        InputError: a name that the robot does not have, a value that is no finite number, or
            another shape.
    """
    if isinstance(xi, Mapping):
        full = np.array(robot.space.nominal, float)
        for name, value in xi.items():
            if name not in robot.space.names:
                raise InputError(
                    f"xi: {robot.name} has no parameter '{name}'"
                    f"{nearest(str(name), robot.space.names)}; "
                    f"the parameters are {', '.join(robot.space.names)}"
                )
            try:
                full[robot.space.names.index(name)] = value
            except (TypeError, ValueError):
                raise InputError(f"xi: {name} is {value!r}; it must be a number") from None
        return robot.space.check(full)
    given = robot.space.check(xi)
    if given.ndim == 2 and len(given) != worlds:
        K = robot.space.K
        raise InputError(
            f"xi has shape {given.shape}; it must be ({K},), or ({worlds}, {K}), a row a world"
        )
    return given


def check_whole(name: str, value: object, least: int, most: int | None = None) -> None:
    """Raises InputError unless the argument `name` is a whole number from `least` to `most`."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | np.integer)
        or value < least
        or (most is not None and value > most)
    ):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} is {value!r}; it must be a whole number {bounds}")


def check_gap(gap: object) -> None:
    """Raises InputError for what can be no gap, of whatever robot."""
    if not (gap is None or isinstance(gap, str | os.PathLike | Gap)):
        raise InputError(
            f"gap is {gap!r}; it must be the name of a gap, the path of a gap file, or a Gap"
        )


def _check_observe(observe: object) -> None:
    if observe is None or isinstance(observe, str):
        return
    if not isinstance(observe, Sequence) or not all(isinstance(name, str) for name in observe):
        raise InputError(
            f"observe is {observe!r}; it must be the name of an observation set, or a list of terms"
        )
