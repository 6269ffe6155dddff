"""What does a bridge cost, beside the learner that it changes, in one run on one machine?

    python tools/bench_bridges.py                                     hopper, two minutes
    python tools/bench_bridges.py halfcheetah --episodes 32           every episode a thousand steps
    python tools/bench_bridges.py --rounds 1 --steps 1000             rough

EPOpt: `EPOptPPO` beside Stable-Baselines3's PPO in the same worlds, with the same network, epochs
and minibatches, in seconds per simulated step; asked is at most 1.10. Both learn at a rate of zero,
so that they act alike for the whole run and simulate the same physics. PPO collects about as many
steps between its updates as EPOptPPO in an iteration.

Every measurement of EPOptPPO stands between two of PPO, and the ratio is taken to their mean; the
table shows the median over the rounds with the quartiles. EPOptPPO waits for the last of its
episodes, and worlds that wait are simulated and teach nothing: their share is shown too, and the
cost per step that is part of an episode.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from bench_simulation import Measure, Row, compare
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from sim2real.bridges.randomize.epopt import EPOptPPO
from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot

WORLDS = 16
ASKED = 1.10
"""Seconds per simulated step of EPOptPPO over those of PPO, at most."""
LEARNER: dict[str, Any] = {
    "policy": "MlpPolicy", "learning_rate": 0.0, "batch_size": 256, "n_epochs": 6, "seed": 0,
    "device": "cpu", "policy_kwargs": {"net_arch": [64, 64]},
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("robots", nargs="*", default=["hopper"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20_000, help="per measurement, at least")
    parser.add_argument("--episodes", type=int, default=128, help="of an iteration")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    print(f"{WORLDS} worlds, {given.episodes} episodes, {given.rounds} rounds\n")
    print("| robot | ε | steps/s, EPOptPPO | time of PPO's (asked ≤ 1.10) | idle | per used step |")
    print("|---|---|---|---|---|---|")
    for robot in given.robots:
        for epsilon in (1.0, 0.1):
            print(line(robot, epsilon, given), flush=True)


def line(robot: str, epsilon: float, given: argparse.Namespace) -> str:
    """A row of the table."""
    row, idle = epopt(robot, epsilon, given.episodes, given.rounds, given.steps)
    ratio = row.ratio
    return (
        f"| {robot} | {epsilon:g} | {row.rate.median:,.0f} | {ratio.median:.2f} "
        f"({ratio.text('.2f')}) | {idle:.0%} | {ratio.median / (1 - idle):.2f} |"
    )


def epopt(robot: str, epsilon: float, episodes: int, rounds: int, steps: int) -> tuple[Row, float]:
    """EPOptPPO beside PPO, and the share of its steps in which a world waits."""
    ours = EPOptPPO(
        env=environment(robot), epsilon=epsilon, warm_up=0.0, episodes=episodes, **LEARNER
    )
    used = Used()
    ours.learn(1, callback=used)
    iteration = ours.num_timesteps // WORLDS
    theirs = PPO(env=environment(robot), n_steps=max(16, iteration // 16 * 16), **LEARNER)
    theirs.learn(1)
    _, rows = compare(measure(theirs, steps), {"epopt": measure(ours, steps, used)}, rounds)
    return rows["epopt"], 1 - used.samples / ours.num_timesteps


class Used(BaseCallback):
    """Counts the steps that are part of an episode."""

    samples = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        self.samples += len(model.rollout_buffer.samples)


def environment(robot: str) -> VecNormalize:
    described = Robot.load(robot)
    worlds = make_worlds(described, WORLDS, draw=described.space.prior(), seed=0)
    return VecNormalize(VecMonitor(WorldsVecEnv(worlds)))


def measure(model: PPO, steps: int, callback: BaseCallback | None = None) -> Measure:
    """Measurements in seconds per simulated step."""

    def run() -> float:
        before, start = model.num_timesteps, time.perf_counter()
        model.learn(steps, callback, reset_num_timesteps=False, log_interval=10**9)
        return (time.perf_counter() - start) / (model.num_timesteps - before)

    return run


if __name__ == "__main__":
    main()
