"""What alignment loses of the observation, by its strength λ: the table in the bridge's card.

    python tools/study_strength.py

Halfcheetah, gap `mild`, default settings: the share of the simulated variance that the estimate
loses, mean of the 17 values, and the error of the worst value as a share of its deviation.
"""

from __future__ import annotations

import logging

import numpy as np
import torch

from sim2real.bridges.align.adversarial import Dann
from sim2real.bridges.align.aligned import aligned_estimator, lost
from sim2real.bridges.align.gather import gather, wandering
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds

STRENGTHS, SEEDS = (1.0, 0.3), range(4)


def main() -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # the table says what it would warn of
    robot = Robot.load("halfcheetah")
    print("| λ | mean loss | worst value, seed by seed |\n|---|---|---|")
    for lam in STRENGTHS:
        means: list[str] = []
        worst: list[str] = []
        for seed in SEEDS:
            source = Worlds(robot, 16, seed=seed + 16, threads=1)
            target = Worlds(robot, 1, gap="mild", seed=seed + 1, threads=1)
            estimator, _ = aligned_estimator(Dann(lam=lam), source, target, seed=seed)
            seen = gather(source, wandering(source, seed=77), 100, labels=["v5"])
            with torch.no_grad():
                told = estimator(torch.as_tensor(seen.obs, dtype=torch.float32)).numpy()
            share = lost(told, seen.labels)
            means.append(f"{np.square(share).mean():.3f}")
            worst.append(f"{share.max():.2f}")
        print(f"| {lam:g} | {', '.join(means)} | {', '.join(worst)} |")


if __name__ == "__main__":
    main()
