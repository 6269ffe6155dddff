"""What it is worth to a policy that ξ was identified rather than known.

    python tools/study_identified_context.py hopper RUN

For every robot that `tools/study_identification.py` identified: returns of a policy that is told
the identified ξ, the true one, that which was identified of another robot (a control arm: it must
cost), and the nominal one. The table has medians over the robots with intervals of resampling them;
the returns stand in results/identification/ENV/returns.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from sim2real import progress
from sim2real.deploy.files import write_atomically
from sim2real.evaluate import Told, evaluate
from sim2real.policy.policy import Policy
from sim2real.types import Array, InputError

HERE = Path(__file__).resolve().parent.parent / "results" / "identification"
ARMS = ("true", "identified", "another's", "nominal")


def returns(policy: Policy, cells: list[dict[str, Any]], episodes: int) -> dict[str, list[float]]:
    """Arm -> mean return on every robot, from the same resets for all arms."""
    made: dict[str, list[float]] = {arm: [] for arm in ARMS}
    found = np.array([cell["mean"] for cell in cells])
    with progress.bar("robots", len(cells)) as report:
        for i, cell in enumerate(cells):
            told: dict[str, Told] = {
                "true": "true", "identified": found[i], "another's": found[i - 1],
                "nominal": "nominal",
            }  # fmt: skip
            for arm, context in told.items():
                result = evaluate(
                    policy, xi=np.array(cell["true"]), episodes=episodes, seed=cell["seed"],
                    context=context,
                )  # fmt: skip
                made[arm].append(float(result.returns.mean()))
            report(i + 1, {})
    return made


def table(made: dict[str, Array]) -> str:
    """Markdown, with intervals of resampling robots: the arms of one robot stay together."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(made["true"]), size=(10_000, len(made["true"])))
    lines = ["| told | median return | of the true one's |", "|---|--:|--:|"]
    known = np.median(made["true"][rows], axis=1)
    for arm in ARMS:
        drawn = np.median(made[arm][rows], axis=1)
        point = np.median(made[arm])
        low, high = np.percentile(drawn, [2.5, 97.5])
        share = np.percentile(drawn / known, [2.5, 97.5])
        of_true = f"{point / np.median(made['true']):.3f} [{share[0]:.3f}, {share[1]:.3f}]"
        lines.append(f"| {arm} | {point:.0f} [{low:.0f}, {high:.0f}] | {of_true} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("env")
    parser.add_argument("policy", help="folder of a policy that is told ξ (adapt: context)")
    parser.add_argument("--episodes", type=int, default=20)
    options = parser.parse_args()
    folder = HERE / options.env
    cells = [json.loads(path.read_text()) for path in sorted((folder / "ours").glob("*.json"))]
    if not cells:
        raise InputError(f"no robots in {folder / 'ours'}; run tools/study_identification.py first")
    made = returns(Policy.load(options.policy), cells, options.episodes)
    told = {"episodes": options.episodes, "seeds": [c["seed"] for c in cells], **made}
    write_atomically(folder / "returns.json", (json.dumps(told) + "\n").encode())
    print(table({arm: np.array(x) for arm, x in made.items()}))


if __name__ == "__main__":
    main()
