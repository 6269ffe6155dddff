"""What does DARC cost a gradient step of SAC, everything included?

    python tools/bench_darc.py                      halfcheetah, networks of 64x64: two minutes
    python tools/bench_darc.py --robot hopper --steps 1000 --rounds 11

SAC alone and SAC with DARC (both presets) take turns in one process and one thread: a stretch of
SAC, one of DARC, one of SAC, and so on, one world and one gradient step per control step. A ratio
is that of DARC's stretch to the mean of SAC's before and after it; the median over the rounds is
printed with the quartiles. DARC's time holds the target's steps in their ratio, one update of the
classifiers per gradient step (none is left out: they do not rest here), and Δr of every batch.
Times are the processor's, which on an idle machine are the clock's, since everything runs in one
thread; on a busy one they leave out what others take.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from sim2real.bridges.correct.darc import Darc, DarcForSAC, DarcReplayBuffer
from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot

ASKED = 1.5
"""What DARC's time over SAC's may be."""


class Arm:
    """A learner under way."""

    def __init__(self, robot: Robot, darc: Darc | None, network: list[int], batch: int) -> None:
        source = WorldsVecEnv(make_worlds(robot, 1, seed=0, threads=1))
        self._callback = None
        kind: type[ReplayBuffer] = ReplayBuffer
        if darc is not None:
            kind = DarcReplayBuffer
            gap = make_worlds(robot, 1, gap=darc.target, seed=1, threads=1)
            self._callback = DarcForSAC(darc, WorldsVecEnv(gap))
            classifiers = self._callback.correction.classifiers
            classifiers.config = replace(classifiers.config, patience=0)
        self._model = SAC(
            "MlpPolicy", VecNormalize(VecMonitor(source)), batch_size=batch, learning_starts=300,
            buffer_size=100_000, policy_kwargs={"net_arch": network}, replay_buffer_class=kind,
            seed=0, device="cpu",
        )  # fmt: skip

    def learn(self, steps: int) -> float:
        """Goes on for so many gradient steps; the processor's seconds for each."""
        start = time.process_time()
        self._model.learn(steps, callback=self._callback, reset_num_timesteps=False)
        return (time.process_time() - start) / steps


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--robot", default="halfcheetah")
    parser.add_argument("--gap", default="worn")
    parser.add_argument("--network", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=500, help="gradient steps of a stretch (500)")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    robot = Robot.load(options.robot)
    configs = {
        "SAC": None,
        "DARC, default": Darc(options.gap, initial=300, warm_up=400, target_steps=100_000),
        "DARC, authors": Darc(
            options.gap, preset="authors", initial=300, warm_up=400, target_steps=100_000
        ),
    }
    arms = {name: Arm(robot, c, options.network, options.batch) for name, c in configs.items()}
    for arm in arms.values():
        arm.learn(600)  # past the warm-up
    times: dict[str, list[float]] = {name: [] for name in arms}
    ratios: dict[str, list[float]] = {name: [] for name in arms if name != "SAC"}
    before = arms["SAC"].learn(options.steps)
    for done in range(options.rounds):
        for name, collected in ratios.items():
            ours = arms[name].learn(options.steps)
            after = arms["SAC"].learn(options.steps)
            times[name].append(ours)
            times["SAC"].append(after)
            collected.append(2 * ours / (before + after))
            before = after
        print(f"round {done + 1} of {options.rounds}", file=sys.stderr, flush=True)
    network = "x".join(map(str, options.network))
    print(
        f"{options.robot}, networks {network}, batch {options.batch}, {options.rounds} rounds of "
        f"{options.steps} gradient steps, one thread, torch {torch.__version__}\n\n"
        "| | ms per gradient step | over SAC's | quartiles | asked |\n|---|--:|--:|--:|--:|"
    )
    for name, seconds in times.items():
        row = f"| {name} | {1000 * statistics.median(seconds):.2f} |"
        if name in ratios:
            low, middle, high = statistics.quantiles(ratios[name], n=4)
            row += f" {middle:.2f} | {low:.2f} to {high:.2f} | ≤ {ASKED:g} |"
        else:
            row += " 1 | | |"
        print(row)


if __name__ == "__main__":
    main()
