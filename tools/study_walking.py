"""How a policy walks: error, falls and power on the nominal robot and on every gap.

    python tools/study_walking.py RUN [RUN ...] --seed 1 --json results/walking.json

Every episode is a simulated robot of its own, which is asked for another velocity every five
seconds for twenty. A policy that is told ξ is told the nominal and, in rows of their own, the true
one. Prints Markdown; intervals resample robots.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sim2real import content, progress
from sim2real.compare import commit
from sim2real.deploy.files import write_atomically
from sim2real.evaluate import Evaluation, Told, bootstrap, evaluate
from sim2real.policy.policy import Policy
from sim2real.simulation.robot import Robot
from sim2real.types import InputError


def falls_per_minute(result: Evaluation) -> str:
    """With the interval of resampling robots; of none, what three would be (Hanley and
    Lippman-Hand 1983)."""
    rows = np.random.default_rng(0).integers(len(result.falls), size=(10_000, len(result.falls)))
    minutes = result.seconds / 60
    drawn = result.falls[rows].sum(axis=1) / minutes[rows].sum(axis=1)
    rate = result.falls.sum() / minutes.sum()
    if not rate:
        return f"0 [0, {3 / minutes.sum():.2g}]"
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{rate:.2g} [{low:.2g}, {high:.2g}]"


def table(rows: Sequence[tuple[str, Evaluation]]) -> str:
    """Markdown."""
    figures = list(rows[0][1].figures)
    heads = ["policy", "gap", "told", *(f.replace("_", " ") for f in figures), "falls per minute"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * 3 + "|--:" * (len(figures) + 1) + "|"]
    for name, result in rows:
        counts = [f"{i.mean:.3g} [{i.low:.3g}, {i.high:.3g}]"
                  for i in (bootstrap(result.figures[f]) for f in figures)]  # fmt: skip
        cells = [name, result.gap, result.told, *counts, falls_per_minute(result)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policy", nargs="+", help="folder of a policy")
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where all figures are kept")
    options = parser.parse_args()
    rows = list[tuple[str, Evaluation]]()
    for folder in options.policy:
        policy = Policy.load(folder)
        robot = Robot.load(policy.spec.env)
        if not robot.figures:
            raise InputError(f"{robot.name}: its task counts nothing, so there is nothing to tell")
        told: list[Told] = ["nominal", "true"] if "context" in policy.z_names else ["nominal"]
        gaps = [None, *content.gap_names(policy.spec.env)]
        with progress.bar(policy.spec.name, len(gaps) * len(told)) as report:
            for i, gap in enumerate(gaps):
                for j, context in enumerate(told):
                    result = evaluate(
                        policy, gap=gap, episodes=options.episodes, seed=options.seed,
                        context=context,
                    )  # fmt: skip
                    rows.append((policy.spec.name, result))
                    report(i * len(told) + j + 1, {})
    if options.json:
        kept = [{"policy": name, **result.to_dict()} for name, result in rows]
        said = {"commit": commit(), "seed": options.seed, "rows": kept}
        write_atomically(options.json, (json.dumps(said) + "\n").encode())
    print(table(rows))


if __name__ == "__main__":
    main()
