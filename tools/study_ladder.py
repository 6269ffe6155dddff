"""The ladder on hopper and halfcheetah: fills `results/ladder`, cell by cell.

    make study                                  goes on with whatever is open
    make study ARGS="--hours 2 --jobs 2"        begins no cell after two hours
    make study ARGS="--seeds 2 --gaps worn"     only these

Finished cells stand in results/ladder/ENV/GAP/*.json and are never computed again; what was
trained on the way is kept in `--work`. After every gap results/ladder/README.md is written, open
cells shown as open. Settings, seeds and budget are the same for all and stand in the files.
Policies see Gymnasium's `-v5` observation, which the sensor noise of `mild` and `worn` does not
touch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from sim2real import progress
from sim2real.compare import ARMS, Ladder, Results, cells_of, compare, table
from sim2real.deploy.files import write_atomically
from sim2real.report import save_ladder
from sim2real.types import nearest

HERE = Path(__file__).resolve().parent.parent / "results" / "ladder"
GAPS = {
    "hopper": ("mild", "worn", "odrl_friction_0.5", "odrl_gravity_2", "odrl_kinematic_medium"),
    "halfcheetah": (
        "mild",
        "worn",
        "odrl_gravity_0.5",
        "odrl_kinematic_medium",
        "odrl_friction_0.5",
        "dead_actuator",
    ),
}
SEEDS = (0, 1, 2)
"""Of the methods; the oracles learn with the first one."""
BUDGET = 10_000
"""Control steps on the target: 80 s of the hopper, 500 s of the halfcheetah."""


def ladder(env: str, gap: str) -> Ladder:
    return Ladder(env, gap, BUDGET)


def write(out: Path) -> None:
    """README.md of the results, from the cells that are there."""
    text = ["# The ladder", "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    for env, gaps in GAPS.items():
        for gap in gaps:
            folder = out / env / gap
            if not any(folder.glob("*.json")):
                text += [f"## {env}, {gap}", "", "Open.", ""]
                continue
            results = Results(folder, ladder(env, gap))
            found = table(results, SEEDS)
            save_ladder(found)
            cells = [cell for arm in ARMS for cell in results.cells(arm)]
            commits = ", ".join(sorted({c.commit for c in cells if c.commit}))
            hours = sum(c.seconds for c in cells) / 3600
            text += [f"## {env}, {gap}", "", f"![returns]({env}/{gap}/ladder.png)", "",
                     found.markdown(), "", *(line for n in found.notes for line in (n, "")),
                     f"Commits {commits}; {hours:.1f} hours of one core.", ""]  # fmt: skip
            for kept in {json.dumps(c.versions): None for c in cells}:
                text += [f"Versions: `{kept}`.", ""]
            machines = "; ".join(dict.fromkeys(c.machine for c in cells))
            text += [f"Machine: {machines}.", ""]
    write_atomically(out / "README.md", ("\n".join(text)).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--work", type=Path, default=Path("runs/ladder"))
    parser.add_argument("--seeds", default="0,1,2", help="N[,N...] of 0, 1 and 2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--hours", type=float, help="begin no cell after so long")
    parser.add_argument("--arms", help="NAME[,NAME...]; default all")
    parser.add_argument("--envs", default=",".join(GAPS), help="NAME[,NAME...]")
    parser.add_argument("--gaps", help="NAME[,NAME...]; default all of each robot")
    options = parser.parse_args()
    begin = time.monotonic()
    seeds = [s for s in SEEDS if str(s) in options.seeds.split(",")]
    if len(seeds) != len(options.seeds.split(",")):
        parser.error(f"--seeds {options.seeds}: the seeds of this study are 0, 1 and 2")
    arms = options.arms.split(",") if options.arms else list(ARMS)
    wanted = options.gaps.split(",") if options.gaps else []
    for gap in wanted:
        if all(gap not in gaps for gaps in GAPS.values()):
            parser.error(f"no gap '{gap}' in this study{nearest(gap, sum(GAPS.values(), ()))}")
    for seed in seeds:  # what knows nothing of a target is trained once for all gaps of a robot
        now = [a for a in arms if seed == SEEDS[0] or ARMS[a].kind != "oracle"]
        for env in options.envs.split(","):
            for gap in [g for g in GAPS[env] if not wanted or g in wanted]:
                left = None
                if options.hours is not None:
                    left = max(0.0, 3600 * options.hours - (time.monotonic() - begin))
                with progress.bar(f"{env} {gap} {seed}", len(cells_of(now, [seed]))) as report:
                    compare(
                        ladder(env, gap), seeds=[seed], arms=now, out=options.out / env / gap,
                        work=options.work, jobs=options.jobs, seconds=left, report=report,
                    )  # fmt: skip
                write(options.out)


if __name__ == "__main__":
    main()
