"""How many steps a second recurrent PPO learns from: ours beside sb3-contrib's, in one run.

    python tools/bench_recurrent.py                 hopper, ten minutes on a quiet machine
    python tools/bench_recurrent.py --rounds 1 --worlds 16

Both collect the same number of steps in the same worlds and learn from them in as many epochs and
minibatches, from an encoder, a recurrent layer and a hidden layer of the same widths, end to end:
physics, standardising, acting, back-propagation through time. `RecurrentPPO` has an LSTM alone;
ours is measured with one and with gated recurrent units. Every measurement of ours stands between
two of theirs, and the ratio is taken to their mean; the table shows the median over the rounds with
the quartiles. Asked is at least 2.5.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import torch
from bench_simulation import Measure, compare
from sb3_contrib import RecurrentPPO as Theirs
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from sim2real.bridges.adapt.memory.network import RecurrentActorCritic
from sim2real.bridges.adapt.memory.recurrent_ppo import PPOSettings, RecurrentPPO
from sim2real.bridges.adapt.memory.robots import RobotTrials
from sim2real.bridges.adapt.memory.trials import Told
from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.policy.memory import Memory
from sim2real.policy.spec import MemorySpec
from sim2real.simulation.robot import Robot
from sim2real.simulation.trials import TrialWorlds
from sim2real.simulation.worlds import Worlds

SEQUENCE, EPOCHS, MINIBATCHES = 128, 4, 4
HIDDEN, NETWORK = 128, 64
ASKED = 2.5


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("robots", nargs="*", default=["hopper"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worlds", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=2, help="of a measurement")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    print(f"{given.worlds} worlds, {SEQUENCE} steps each between updates, {given.rounds} rounds\n")
    print("| robot | ours | steps/s | sb3-contrib's RecurrentPPO, steps/s | ratio (asked ≥ 2.5) |")
    print("|---|---|--:|--:|--:|")
    for robot in given.robots:
        measures = {
            cell: ours(robot, cell, given.worlds, given.iterations) for cell in ("lstm", "gru")
        }
        base, rows = compare(theirs(robot, given.worlds, given.iterations), measures, given.rounds)
        for cell, row in rows.items():
            faster = sorted(1 / x for x in (row.ratio.low, row.ratio.median, row.ratio.high))
            print(
                f"| {robot} | {cell} | {row.rate.median:,.0f} | {base.rate.median:,.0f} | "
                f"{faster[1]:.2f} ({faster[0]:.2f} to {faster[2]:.2f}) |", flush=True,
            )  # fmt: skip


def worlds_of(robot: str, worlds: int) -> Worlds:
    described = Robot.load(robot)
    return Worlds(described, worlds, observe="measured", draw=described.space.prior(), threads=1)


def ours(robot: str, cell: str, worlds: int, iterations: int) -> Measure:
    """Measurements in seconds per simulated step."""
    torch.manual_seed(0)
    trials = RobotTrials(TrialWorlds(worlds_of(robot, worlds), episodes=2))
    told = Told(trials.obs_size, trials.actions, reward=False)
    network = RecurrentActorCritic(
        Memory(told.size, MemorySpec(HIDDEN, cell)), trials.actions, network=[NETWORK]
    )
    settings = PPOSettings(sequence=SEQUENCE, epochs=EPOCHS, minibatches=MINIBATCHES)
    learner = RecurrentPPO(network, trials, told, settings, steps=10**9)
    learner.iterate()

    def run() -> float:
        before, start = learner.taken, time.perf_counter()
        for _ in range(iterations):
            learner.iterate()
        return (time.perf_counter() - start) / (learner.taken - before)

    return run


def theirs(robot: str, worlds: int, iterations: int) -> Measure:
    """Measurements in seconds per simulated step."""
    env = VecNormalize(VecMonitor(WorldsVecEnv(worlds_of(robot, worlds))))
    shape: dict[str, Any] = {
        "lstm_hidden_size": HIDDEN, "shared_lstm": True, "enable_critic_lstm": False,
        "net_arch": [NETWORK],
    }  # fmt: skip
    model = Theirs(
        "MlpLstmPolicy", env, n_steps=SEQUENCE, batch_size=SEQUENCE * worlds // MINIBATCHES,
        n_epochs=EPOCHS, policy_kwargs=shape, device="cpu", seed=0,
    )  # fmt: skip
    steps = SEQUENCE * worlds * iterations
    model.learn(1)

    def run() -> float:
        before, start = model.num_timesteps, time.perf_counter()
        model.learn(steps, reset_num_timesteps=False, log_interval=10**9)
        return (time.perf_counter() - start) / (model.num_timesteps - before)

    return run


if __name__ == "__main__":
    main()
