"""What a policy earns in one episode after another on the same robot, while its z lives on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim2real.bridges.adapt.gradient.fast import FastAdapter
from sim2real.evaluate import Interval, Told, bootstrap, observation_names, policy_of, tell
from sim2real.identification.windows import Trajectory
from sim2real.make import check_gap, check_whole, load_robot, physics
from sim2real.policy.policy import Policy, renewed
from sim2real.simulation.gap import Gap
from sim2real.simulation.make import AnyWorlds, make_worlds
from sim2real.simulation.robot import Robot
from sim2real.simulation.terms import check_finite
from sim2real.types import Array, InputError


@dataclass(frozen=True)
class Trial:
    """Whole episodes of R robots, E of them on each, in order."""

    env: str
    gap: str
    told: str
    """What the policy was told of ξ: nominal, true, other, given or nothing."""
    returns: Array
    """(R, E), undiscounted"""
    seconds: Array
    """(R, E)"""
    falls: Array
    """(R, E) bool: the task ended the episode."""
    xi: Array
    """(R, K)"""
    figures: dict[str, Array]
    """What the task itself counts: name -> (R, E) means over the steps of each episode."""

    @property
    def intervals(self) -> list[Interval]:
        """Mean return of each episode over the robots."""
        return [bootstrap(column) for column in self.returns.T]

    @property
    def gains(self) -> list[Interval]:
        """What each episode earns above the first on the same robot."""
        return [bootstrap(column) for column in (self.returns - self.returns[:, :1]).T]

    def to_dict(self) -> dict[str, Any]:
        return {
            "env": self.env, "gap": self.gap, "context": self.told, "robots": len(self.returns),
            "episodes": [
                {
                    "return": told._asdict(), "gain": gain._asdict(),
                    "falls": int(self.falls[:, e].sum()),
                    "seconds": float(self.seconds[:, e].sum()),
                    "figures": {n: bootstrap(v[:, e])._asdict() for n, v in self.figures.items()},
                }
                for e, (told, gain) in enumerate(zip(self.intervals, self.gains, strict=True))
            ],
            "returns": self.returns.tolist(), "xi": self.xi.tolist(),
        }  # fmt: skip


def trial(
    policy: Policy | str | Path,
    env: str | Path | Robot | None = None,
    *,
    gap: str | Path | Gap | None = None,
    xi: Mapping[str, float] | Array | None = None,
    robots: int = 20,
    episodes: int = 5,
    seed: int = 0,
    context: Told = "nominal",
    forget: bool = False,
    steps: int | None = None,
) -> Trial:
    """Runs `episodes` whole episodes on each of `robots` simulated robots. What of z lasts a trial
    lives from one episode to the next; no robot's z ever meets another's. Fast numbers follow from
    all of a robot's episodes so far, after each of them.

    Args:
        policy, env, gap, xi, context: see `evaluate`; a robot where that says an episode.
        forget: z begins anew with every episode, as on a robot that is switched off between them:
            the control arm of a policy that adapts.
        steps: gradient steps of a policy with fast numbers; those of its training where None.

    Raises:
        InputError: as `evaluate`, or steps of a policy without fast numbers.
    """
    check_whole("robots", robots, 1)
    check_whole("episodes", episodes, 1)
    check_whole("seed", seed, 0)
    if steps is not None:
        check_whole("steps", steps, 0)
    check_gap(gap)
    policy = policy_of(policy)
    if steps is not None and "fast" not in policy.z_names:
        raise InputError(
            f"steps are of fast numbers, and policy '{policy.spec.name}' has none; leave them out"
        )
    robot = env if isinstance(env, Robot) else load_robot(policy.spec.env if env is None else env)
    names = observation_names(policy, robot)
    given = None if xi is None else physics(robot, xi, robots)
    worlds = make_worlds(robot, robots, gap=gap, observe=names, seed=seed)
    obs = worlds.reset(xi=given)
    told = tell(policy, worlds.xi, robot, context)
    label = gap if isinstance(gap, str) else ("none" if gap is None else "given")
    said = "nothing" if told is None else context if isinstance(context, str) else "given"
    xi_ = worlds.xi.copy()
    played = _played(policy, worlds, obs, told, episodes, forget, steps)
    return Trial(robot.name, str(label), said, *played[:3], xi_, played[3])


@torch.no_grad()
def _played(
    policy: Policy, worlds: AnyWorlds, obs: Array, context: Array | None, episodes: int,
    forget: bool, steps: int | None,
) -> tuple[Array, Array, Array, dict[str, Array]]:  # fmt: skip
    """Returns, seconds and falls (R, E), and figures, from worlds that have just been reset."""
    R, E = worlds.num_worlds, episodes
    name, terms = worlds.robot.name, worlds.terms
    check_finite(name, terms, obs)
    returns, ticks, falls = np.zeros((R, E)), np.zeros((R, E), int), np.zeros((R, E), bool)
    figures = {figure: np.zeros((R, E)) for figure in worlds.robot.figures}
    first = policy.told(policy.initial(R), context)
    z, reset = first, torch.ones(R, 1)
    gathered = _Gathered(policy, R, steps) if "fast" in policy.z_names and not forget else None
    row, at = np.arange(R), np.zeros(R, int)
    while (running := at < E).any():
        command, z = policy(torch.as_tensor(obs, dtype=torch.float32), z, reset)
        step = worlds.advance(command.numpy())
        if gathered is not None:
            gathered.add(np.flatnonzero(running), obs, command.numpy(), step.obs)
        reward = np.where(running, step.reward, 0.0)
        check_finite(name, terms, np.where(running[:, None], step.obs, 0.0), reward)
        now = row, np.minimum(at, E - 1)
        returns[now] += reward
        ticks[now] += running
        falls[now] |= running & step.terminated
        for figure, total in figures.items():
            total[now] += np.where(running, step.info[figure], 0.0)
        done = step.terminated | step.truncated
        obs, reset = step.obs, torch.as_tensor(done[:, None], dtype=torch.float32)
        if done.any():
            obs = np.where(done[:, None], worlds.reset(done, xi=worlds.xi[done]), obs)
            at += done
            if gathered is not None:
                z = policy.given(z, "fast", gathered.ended(np.flatnonzero(done & running)))
            if forget:
                z = renewed(torch.as_tensor(done), first, z)
    means = {figure: total / ticks for figure, total in figures.items()}
    return returns, ticks * worlds.control_period, falls, means


class _Gathered:
    """What R robots logged, and the fast numbers that follow."""

    def __init__(self, policy: Policy, robots: int, steps: int | None) -> None:
        self._adapter, self._terms = FastAdapter(policy, steps=steps), policy.spec.terms
        self._episodes: list[list[Trajectory]] = [[] for _ in range(robots)]
        self._now: list[list[tuple[Array, Array]]] = [[] for _ in range(robots)]
        self._last = np.zeros(0)
        self._fast = np.tile(self._adapter.prior(np.random.default_rng(0)), (robots, 1))

    def add(self, robots: Array, obs: Array, command: Array, after: Array) -> None:
        """A step of some robots, of arrays of all."""
        for i in robots:
            self._now[i].append((obs[i].copy(), command[i].copy()))
        self._last = after.copy()

    def ended(self, robots: Array) -> Array:
        """(R, L) after the episodes of some robots ended."""
        ends = np.cumsum([t.size for t in self._terms])[:-1]
        for i in robots:
            seen = np.array([*(o for o, _ in self._now[i]), self._last[i]])
            parts = np.split(seen, ends, axis=1)
            terms = {t.name: part for t, part in zip(self._terms, parts, strict=True)}
            sent = np.array([c for _, c in self._now[i]])
            self._episodes[i].append(Trajectory(terms, sent))
            self._now[i] = []
            self._fast[i] = self._adapter.adapt(self._fast[i], self._episodes[i])
        return self._fast
