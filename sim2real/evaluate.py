"""How good a policy is: returns with intervals, over gaps, families and grids; gap closed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from sim2real.make import check_gap, check_whole, load_robot, physics
from sim2real.policy.policy import Policy
from sim2real.simulation.gap import Gap
from sim2real.simulation.make import AnyWorlds, make_worlds
from sim2real.simulation.robot import Robot
from sim2real.simulation.terms import check_finite
from sim2real.types import Array, InputError, nearest

Told = Literal["nominal", "true", "other"] | Array


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(values: Array, *, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap (Efron 1979) of the mean of (n,) values, or of (S, E) values that come
    in groups, such as episodes E of training seeds S: groups are drawn first, then within each."""
    values = np.asarray(values, float)
    means = _resampled(values, resamples, np.random.default_rng(seed))
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def _resampled(values: Array, resamples: int, rng: np.random.Generator) -> Array:
    """(resamples,) means of values (n,) or (S, E) drawn with replacement."""
    if values.ndim == 1:
        return values[rng.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    S, E = values.shape
    groups = rng.integers(S, size=(resamples, S, 1))
    return values[groups, rng.integers(E, size=(resamples, S, E))].mean(axis=(1, 2))


@dataclass(frozen=True)
class Evaluation:
    """Undiscounted returns of whole episodes, one per simulated robot."""

    env: str
    gap: str
    told: str
    """What the policy was told of ξ: nominal, true, other (another robot's), given or nothing."""
    returns: Array
    """(n,)"""
    seconds: Array
    """(n,) length of each episode."""
    falls: Array
    """(n,) bool: the task ended the episode."""
    xi: Array
    """(n, K) physics of each episode."""
    figures: dict[str, Array]
    """What the task itself counts, such as an error of tracking: name -> (n,) means over the
    control steps of each episode."""

    @property
    def interval(self) -> Interval:
        return bootstrap(self.returns)

    def to_dict(self) -> dict[str, Any]:
        mean, low, high = self.interval
        return {
            "env": self.env, "gap": self.gap, "context": self.told, "episodes": len(self.returns),
            "return": mean, "low": low, "high": high, "falls": int(self.falls.sum()),
            "seconds": float(self.seconds.sum()), "returns": self.returns.tolist(),
            "xi": self.xi.tolist(),
            "figures": {
                name: dict(zip(("mean", "low", "high"), bootstrap(values), strict=True))
                for name, values in self.figures.items()
            },
        }  # fmt: skip


def evaluate(
    policy: Policy | str | Path,
    env: str | Path | Robot | None = None,
    *,
    gap: str | Path | Gap | None = None,
    xi: Mapping[str, float] | Array | None = None,
    episodes: int = 20,
    seed: int = 0,
    context: Told = "nominal",
) -> Evaluation:
    """Runs `episodes` whole episodes, each on a simulated robot of its own, all at once.

    Args:
        policy: a policy, or the folder of one.
        env: the robot; None is the one that the policy was trained for.
        gap: what reality does differently. Where it is a family, every episode is another robot.
        xi: physics by name, or (K,), or (episodes, K); it overrides the gap's.
        context: what a context-conditioned policy is told: the `nominal` ξ, the `true` one of
            each robot, that of the `other` robots (a control arm: it must hurt), or (K,) values.

    Raises:
        InputError: the policy is for another robot, a name does not exist, or an argument is of
            another kind or shape.
    """
    check_whole("episodes", episodes, 1)
    check_whole("seed", seed, 0)
    check_gap(gap)
    policy = policy_of(policy)
    robot = _robot_of(policy, env)
    names = observation_names(policy, robot)
    given = None if xi is None else physics(robot, xi, episodes)
    worlds = make_worlds(robot, episodes, gap=gap, observe=names, seed=seed)
    obs = worlds.reset(xi=given)
    told = tell(policy, worlds.xi, robot, context)
    result = play(policy, worlds, obs, told)
    label = gap if isinstance(gap, str) else ("none" if gap is None else "given")
    said = "nothing" if told is None else context if isinstance(context, str) else "given"
    return Evaluation(robot.name, str(label), said, *result)


def policy_of(policy: Policy | str | Path) -> Policy:
    """A policy as it is, or the one in a folder. Raises InputError where it is neither."""
    if isinstance(policy, Policy):
        return policy
    if not isinstance(policy, str | os.PathLike):
        raise InputError(
            f"policy is a {type(policy).__name__}; it must be a policy or the folder of one"
        )
    return Policy.load(policy)


def _robot_of(policy: Policy, env: str | Path | Robot | None) -> Robot:
    """The robot that is given, or else the policy's own."""
    if isinstance(env, Robot):
        return env
    return load_robot(policy.spec.env if env is None else env)


class Played(NamedTuple):
    returns: Array
    seconds: Array
    falls: Array
    xi: Array
    figures: dict[str, Array]


def play(policy: Policy, worlds: AnyWorlds, obs: Array, context: Array | None) -> Played:
    """One whole episode in every world, from worlds that have just been reset.

    Raises:
        InputError: an observation or a reward is not finite.
    """
    B = worlds.num_worlds
    name, terms = worlds.robot.name, worlds.terms
    check_finite(name, terms, obs)
    returns, ticks, falls = np.zeros(B), np.zeros(B, int), np.zeros(B, bool)
    xi = worlds.xi.copy()
    figures = {figure: np.zeros(B) for figure in worlds.robot.figures}
    running = np.ones(B, bool)
    state, reset = policy.told(policy.initial(B), context), torch.ones(B, 1)
    with torch.no_grad():
        while running.any():
            command, state = policy(torch.as_tensor(obs, dtype=torch.float32), state, reset)
            step = worlds.advance(command.numpy())
            reward = np.where(running, step.reward, 0.0)
            check_finite(name, terms, np.where(running[:, None], step.obs, 0.0), reward)
            returns += reward
            ticks += running
            for figure, total in figures.items():
                total += np.where(running, step.info[figure], 0.0)
            falls |= running & step.terminated
            running &= ~(step.terminated | step.truncated)
            obs, reset = step.obs, torch.zeros(B, 1)
    means = {figure: total / ticks for figure, total in figures.items()}
    return Played(returns, ticks * worlds.control_period, falls, xi, means)


def tell(policy: Policy, xi: Array, robot: Robot, context: Told) -> Array | None:
    """(B, K) what each robot's policy is told, None for a policy without a context.

    Args:
        context: see `evaluate`; values are (K,), or (B, K) with a row a robot.

    Raises:
        InputError: a word that is none of the three, values of another shape, or not finite.
    """
    if "context" not in policy.z_names:
        return None
    nominal = np.array([p.nominal for p in policy.spec.context])
    if not isinstance(context, str):
        told = robot.space.check(context)
        if told.ndim == 2 and told.shape != xi.shape:
            raise InputError(
                f"context has shape {told.shape}; it must be ({xi.shape[1]},) or {xi.shape}"
            )
        return np.broadcast_to(told, xi.shape)
    if context == "nominal":
        return np.broadcast_to(nominal, xi.shape)
    low = np.array([p.low for p in policy.spec.context])
    high = np.array([p.high for p in policy.spec.context])
    if context == "true":
        return np.clip(xi, low, high)
    if context == "other":  # the robot on the far side of the ranges
        return np.clip(low + high - xi, low, high)
    raise InputError(
        f"context is '{context}'; it must be nominal, true or other"
        + nearest(str(context), ["nominal", "true", "other"])
    )


def observation_names(policy: Policy, robot: Robot) -> list[str]:
    """The policy's observation terms, checked against the robot.

    Raises:
        InputError: the policy was made for another robot.
    """
    for term in policy.spec.terms:
        mine = robot.terms.get(term.name)
        if mine is None or mine.size != term.size or mine.unit != term.unit:
            what = "has no such term" if mine is None else f"has {mine.size} values in {mine.unit}"
            raise InputError(
                f"the policy was trained for '{policy.spec.env}' and sees '{term.name}' "
                f"({term.size} values in {term.unit}); '{robot.name}' {what}"
            )
    if policy.spec.actuators.names != robot.actuators:
        raise InputError(
            f"the policy was trained for '{policy.spec.env}' and drives "
            f"{', '.join(policy.spec.actuators.names)}; '{robot.name}' has "
            f"{', '.join(robot.actuators)}"
        )
    names = [p.name for p in policy.spec.context]
    if names and tuple(names) != tuple(robot.space.names):
        raise InputError(
            f"the policy is told {', '.join(names)}; '{robot.name}' has the parameters "
            f"{', '.join(robot.space.names)}"
        )
    return [t.name for t in policy.spec.terms]


@dataclass(frozen=True)
class RobustnessMap:
    """Returns over a grid of one or two parameters, every episode kept."""

    names: tuple[str, ...]
    values: tuple[Array, ...]
    """(n,), or (n,) and (m,): where the cells lie, in the parameters' units."""
    returns: Array
    """(n, E) or (n, m, E): the E episodes of each cell."""

    @property
    def mean(self) -> Array:
        """(n,) or (n, m)"""
        return self.returns.mean(axis=-1)

    @property
    def low(self) -> Array:
        """(n,) or (n, m) lower end of each cell's 95 % bootstrap interval. Of few episodes it is
        too narrow: no draw leaves their range."""
        return self._ends[..., 0]

    @property
    def high(self) -> Array:
        """(n,) or (n, m) upper end."""
        return self._ends[..., 1]

    @cached_property
    def _ends(self) -> Array:
        cells = self.returns.reshape(-1, self.returns.shape[-1])
        ends = [bootstrap(cell)[1:] for cell in cells]
        return np.array(ends).reshape(*self.returns.shape[:-1], 2)

    def to_dict(self) -> dict[str, Any]:
        return {
            "parameters": list(self.names), "values": [v.tolist() for v in self.values],
            "mean": self.mean.tolist(), "low": self.low.tolist(), "high": self.high.tolist(),
            "returns": self.returns.tolist(),
        }  # fmt: skip


def grid(
    policy: Policy,
    robot: Robot,
    axes: Sequence[str],
    *,
    gap: str | Path | Gap | None = None,
    points: int = 9,
    episodes: int = 4,
    seed: int = 0,
    context: Told = "nominal",
) -> RobustnessMap:
    """The robustness map over any one or two parameters, from their lowest to their highest, the
    others nominal.

    Args:
        gap: what reality does differently besides; the grid overrides its ξ.
        points: values of each parameter, evenly spaced over its range.
        episodes: of each cell.

    Raises:
        InputError: a parameter that the robot does not have, or more than two.
    """
    if not 1 <= len(set(axes)) == len(axes) <= 2:
        raise InputError(f"a grid is over one or two different parameters, not {', '.join(axes)}")
    space = robot.space
    physics(robot, dict.fromkeys(axes, 0.0))  # refuses names that do not exist
    ids = [space.names.index(name) for name in axes]
    values = [np.linspace(space.low[i], space.high[i], points) for i in ids]
    mesh = np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, len(ids))
    xi = np.tile(np.array(space.nominal, float), (len(mesh), 1))
    xi[:, ids] = mesh
    result = evaluate(
        policy, robot, gap=gap, xi=np.repeat(xi, episodes, axis=0), episodes=len(xi) * episodes,
        seed=seed, context=context,
    )  # fmt: skip
    returns = result.returns.reshape([points] * len(ids) + [episodes])
    return RobustnessMap(tuple(axes), tuple(values), returns)


def gap_closed(
    adapted: Array, zero_shot: Array, oracle: Array, *, seed: int = 0
) -> Interval | None:
    """(J_adapted - J_0) / (J_oracle - J_0) with its bootstrap interval, never clipped; None ("no
    gap") where the 95 % lower bound of J_oracle - J_0 is not above a tenth of |J_oracle|.

    Args:
        adapted, zero_shot, oracle: returns on the target, (n,), or (S, E) of E episodes each of S
            training seeds.
    """
    rng = np.random.default_rng(seed)
    a, z, o = (_resampled(np.asarray(x, float), 10_000, rng) for x in (adapted, zero_shot, oracle))
    if np.percentile(o - z, 2.5) <= 0.1 * abs(float(np.mean(oracle))):
        return None
    ratio = (a - z) / (o - z)
    point = (np.mean(adapted) - np.mean(zero_shot)) / (np.mean(oracle) - np.mean(zero_shot))
    return Interval(float(point), *(float(v) for v in np.percentile(ratio, [2.5, 97.5])))


@dataclass(frozen=True)
class Between:
    """A policy and the two ends that its gap is measured by, on the same robots."""

    policy: Evaluation
    reference: Evaluation
    """Never heard of the target: J_0."""
    oracle: Evaluation
    """Learned in the target: J_oracle."""

    @cached_property
    def closed(self) -> Interval | None:
        """Gap closed; None where there is no gap."""
        return gap_closed(self.policy.returns, self.reference.returns, self.oracle.returns)

    def to_dict(self) -> dict[str, Any]:
        """Of the policy as `Evaluation.to_dict`, beside it the ends and what is closed."""
        return {
            **self.policy.to_dict(),
            "reference": self.reference.to_dict(), "oracle": self.oracle.to_dict(),
            "closed": self.closed and self.closed._asdict(),
        }  # fmt: skip


def between(
    policy: Policy | str | Path,
    reference: Policy | str | Path,
    oracle: Policy | str | Path,
    env: str | Path | Robot | None = None,
    *,
    gap: str | Path | Gap | None = None,
    xi: Mapping[str, float] | Array | None = None,
    episodes: int = 20,
    seed: int = 0,
    context: Told = "nominal",
) -> Between:
    """Evaluates three policies in the same episodes on the same robots. See `evaluate` for the
    arguments.

    Args:
        env: the robot of all three; None is the one that `policy` was trained for.
        context: what `policy` is told. The reference and the oracle, where they ask, are told the
            nominal ξ: J_0 is what is had without knowing the target.

    Raises:
        InputError: as `evaluate`, for any of the three; no episode has been run then.
    """
    ours, *ends = (policy_of(p) for p in (policy, reference, oracle))
    robot = _robot_of(ours, env)
    for other in ends:
        observation_names(other, robot)

    def played(who: Policy, told: Told) -> Evaluation:
        return evaluate(who, robot, gap=gap, xi=xi, episodes=episodes, seed=seed, context=told)

    return Between(played(ours, context), *(played(end, "nominal") for end in ends))
