"""Episodes of a policy in its own simulated robots, as an export wants them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sim2real.dynamics.distribution import Product, Uniform
from sim2real.evaluate import observation_names
from sim2real.policy.policy import Policy
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot


class Recording(NamedTuple):
    """What a policy saw in real episodes, one tick after another."""

    obs: NDArray[np.float64]
    """(T, O) raw, in the order of the spec's terms."""
    reset: NDArray[np.bool_]
    """(T,) True at the first tick of each episode."""


def record(
    policy: Policy, robot: Robot, *, worlds: int = 8, ticks: int = 50, seed: int = 0
) -> Recording:
    """`worlds` recordings of `ticks` control steps, one after the other, with ξ drawn from the
    ranges that the policy was trained on."""
    spec = policy.spec
    trained = {p.name: (p.low, p.high) for p in spec.context or spec.parameters}
    bounds = [
        trained.get(n, (float(x),) * 2)
        for n, x in zip(robot.space.names, robot.space.nominal, strict=True)
    ]
    draw = Product(tuple(Uniform((low,), (high,)) for low, high in bounds))
    names = observation_names(policy, robot)
    sim = make_worlds(robot, worlds, observe=names, draw=draw, seed=seed)
    obs = sim.reset()
    z, reset = policy.initial(worlds), torch.ones(worlds, 1)
    seen, resets = [], []
    with torch.no_grad():
        for _ in range(ticks):
            seen.append(obs)
            resets.append(reset[:, 0].numpy() > 0.5)
            command, z = policy(torch.as_tensor(obs, dtype=torch.float32), z, reset)
            step = sim.advance(command.numpy())
            obs, done = step.obs, step.terminated | step.truncated
            if done.any():  # on the same robot: what a policy remembers is of it
                obs = np.where(done[:, None], sim.reset(done, xi=sim.xi[done]), obs)
            reset = torch.as_tensor(done).float()[:, None]
    return Recording(np.stack(seen, 1).reshape(worlds * ticks, -1), np.stack(resets, 1).reshape(-1))
