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
from typing import Any

import numpy as np
from study_identification import HERE

from sim2real import progress
from sim2real.compare import commit
from sim2real.deploy.files import write_atomically
from sim2real.evaluate import Told, evaluate
from sim2real.policy.policy import Policy
from sim2real.types import Array, InputError

ARMS = ("true", "identified", "another's", "nominal")


def returns(policy: Policy, cells: list[dict[str, Any]], episodes: int) -> dict[str, list[float]]:
    """Arm -> mean return on every robot, from the same resets for all arms. All are told what the
    policy's training knew, values beyond that as its ends."""
    low, high = (
        np.array([getattr(p, end) for p in policy.spec.context]) for end in ("low", "high")
    )
    made: dict[str, list[float]] = {arm: [] for arm in ARMS}
    found = np.clip([cell["mean"] for cell in cells], low, high)
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


def check(policy: Policy, env: str, cells: list[dict[str, Any]]) -> None:
    """Raises InputError for a policy of another robot, one that is told nothing, or other ξ."""
    told = [p.name for p in policy.spec.context] if "context" in policy.z_names else []
    if policy.spec.env != env or not told:
        raise InputError(
            f"the policy is for {policy.spec.env} and is told {', '.join(told) or 'nothing'}; it "
            f"must be for {env} and be told ξ (adapt: context)"
        )
    if len(cells) < 2:
        raise InputError(f"{len(cells)} robots; identify two at least with study_identification.py")
    for cell in cells:
        if cell["names"] != told:
            raise InputError(
                f"robot {cell['seed']} has {', '.join(cell['names'])}; the policy is told "
                f"{', '.join(told)}"
            )


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
    policy = Policy.load(options.policy)
    check(policy, options.env, cells)
    made = returns(policy, cells, options.episodes)
    told = {"policy": policy.spec.name, "commit": commit(), "episodes": options.episodes,
            "seeds": [c["seed"] for c in cells], **made}  # fmt: skip
    write_atomically(folder / "returns.json", (json.dumps(told) + "\n").encode())
    print(table({arm: np.array(x) for arm, x in made.items()}))


if __name__ == "__main__":
    main()
