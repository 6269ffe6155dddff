"""Rehearsal: does a robot fall more with what it is told, in simulation, before it is driven?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sim2real.bridges.adapt.context import Context
from sim2real.dynamics.distribution import Distribution, Empirical
from sim2real.evaluate import observation_names, play
from sim2real.policy.policy import Policy
from sim2real.simulation.make import AnyWorlds, make_worlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array

WORLDS = 32
"""In which a context is rehearsed."""
MARGIN = 0.1
"""Share by which the rehearsal may find more falls per second, before it refuses: about what chance
makes of them in as many worlds. Where there were none, there must be none. A test against chance
would be the wrong guard here: it lets pass what it cannot prove. Where none of 32 worlds fell
before, two that fall now do not refute chance at 95 % (a bootstrap leaves out both with probability
(1 - 2/32)^32 = 0.13), and the robot would try it."""


class Rehearsal(NamedTuple):
    """Falls per second of simulated time, with two contexts in the same worlds. See `rehearse`."""

    adapted: float
    unadapted: float
    """With the context from before."""

    @property
    def passed(self) -> bool:
        return self.adapted <= self.unadapted * (1 + MARGIN)


def rehearsal_worlds(policy: Policy, robot: Robot) -> AnyWorlds:
    """Simulated robots to rehearse a policy in; `rehearse` draws their physics."""
    return make_worlds(robot, WORLDS, observe=observation_names(policy, robot))


def rehearse(
    policy: Policy,
    worlds: AnyWorlds,
    draw: Distribution,
    context: Array,
    before: Array,
    *,
    seed: int = 0,
) -> Rehearsal:
    """Runs two contexts (K,) in the same worlds from the same starts: which one falls more?

    Args:
        draw: the physics ξ of the worlds: what is believed of the robot.
    """
    rates: list[float] = []
    for told in (context, before):
        worlds.draws.distribution = draw
        worlds.seed(seed)
        obs = worlds.reset()
        played = play(policy, worlds, obs, np.broadcast_to(told, (len(obs), len(told))))
        rates.append(float(played.falls.sum() / played.seconds.sum()))
    return Rehearsal(*rates)


def around(policy: Policy, context: Array, *, seed: int = 0, samples: int = 256) -> Distribution:
    """What a context (K,) claims of the robot, where there is no posterior: ξ normal around it,
    clipped to the ranges of training. The deviation is the error that training adds to what it
    tells, `Context.error` of each range (5 %): a policy does not carry that of its own recipe."""
    low = np.array([p.low for p in policy.spec.context])
    high = np.array([p.high for p in policy.spec.context])
    noise = np.random.default_rng(seed).standard_normal((samples, len(low)))  # (S, K)
    return Empirical(np.clip(context + Context.error * (high - low) * noise, low, high))
