"""Adaptation on robots drawn from a family, each met over the wire.

    python tools/study_worn_family.py RUN/policy --reference history=RUN/history --seed 1

Every robot is a process of its own, whose physics are drawn from the gap by its seed. On each:
zero-shot, ten episodes of adaptation, adapted, and, for comparison, the true context, another
robot's context, and the reference policy (uniform randomization with history). Prints a Markdown
table; --out keeps all figures. A robot that is finished is not run again, so a study that was
killed continues.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.adapt import adapt, address_of
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.controller import run
from sim2real.deploy.files import write_atomically
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.evaluate import Interval, bootstrap, tell
from sim2real.export import export
from sim2real.policy.policy import Policy
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array


def returns(
    artifact: Artifact, where: tuple[str, int], z: AdaptedState | None, episodes: int
) -> list[float]:
    """Returns of whole episodes over the wire, from the same resets for every arm."""
    robot = UdpRobot(*where)
    try:
        result = run(artifact, robot, episodes=episodes, z=z, seed=1000)
    finally:
        robot.close()
    return [float(e.return_ or 0.0) for e in result.episodes]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policy")
    parser.add_argument(
        "--reference", action="append", default=[], metavar="NAME=FOLDER",
        help="a policy that is compared, such as uniform-history=runs/demo/history",
    )  # fmt: skip
    parser.add_argument("--gap", default="worn")
    parser.add_argument("--robots", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--seed", type=int, required=True, help="robot i is drawn by seed + i")
    parser.add_argument("--out", default="runs/worn-family")
    arguments = parser.parse_args()
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    policy = Policy.load(arguments.policy)
    robot = Robot.load(policy.spec.env)
    artifact = export(policy, out / "artifact")
    references = {
        name: export(Policy.load(folder), out / name)
        for name, _, folder in (text.partition("=") for text in arguments.reference)
    }
    with progress.bar("robots", arguments.robots) as report:
        for i in range(arguments.robots):
            seed = arguments.seed + i
            path = out / f"robot-{seed}.json"
            if not path.is_file():
                figures = one_robot(policy, robot, artifact, references, arguments, seed, out)
                write_atomically(path, (json.dumps(figures) + "\n").encode())
            report(i + 1, {})
    print(table(out, arguments.seed, arguments.robots))


def one_robot(
    policy: Policy, robot: Robot, artifact: Artifact, references: dict[str, Artifact],
    arguments: argparse.Namespace, seed: int, out: Path,
) -> dict[str, object]:  # fmt: skip
    n = arguments.episodes
    with address_of(f"{policy.spec.env}/{arguments.gap}", seed) as where:
        arms = {"zero-shot": returns(artifact, where, None, n)}
        adaptation = adapt(policy, f"{where[0]}:{where[1]}", seed=seed, out=out / f"adapt-{seed}")
        arms["adapted"] = returns(artifact, where, adaptation.z, n)
        seen = [t.name for t in policy.spec.terms]
        # only now: adapting knows no ξ
        sim = Worlds(robot, 1, gap=arguments.gap, observe=seen, seed=seed)
        sim.reset()
        for told in ("true", "other"):
            value = tell(policy, sim.xi, robot, told)
            assert value is not None
            z = replace(adaptation.z, value=tuple(map(float, value[0])), accepted=True)
            arms[f"{told} context"] = returns(artifact, where, z, n)
        for name, reference in references.items():
            arms[name] = returns(reference, where, None, n)
    return {
        "seed": seed,
        "xi": sim.xi[0].tolist(),
        "arms": arms,
        "adaptation": adaptation.to_dict(),
    }


def way(adapted: Array, zero_shot: Array, told: Array, seed: int = 0) -> Interval:
    """(adapted - zero-shot) / (told - zero-shot) of the means over robots, with the interval of
    resampling robots: the arms of one robot stay together. The true context is no ceiling."""
    rows = np.random.default_rng(seed).integers(len(told), size=(10_000, len(told)))
    a, z, t = (x[rows].mean(axis=1) for x in (adapted, zero_shot, told))
    point = (adapted.mean() - zero_shot.mean()) / (told.mean() - zero_shot.mean())
    return Interval(
        float(point), *(float(v) for v in np.percentile((a - z) / (t - z), [2.5, 97.5]))
    )


def table(out: Path, seed: int, robots: int) -> str:
    """Markdown: mean return of each arm over the robots, its interval, gap closed."""
    found = [json.loads((out / f"robot-{seed + i}.json").read_text()) for i in range(robots)]
    means = {
        arm: np.array([np.mean(f["arms"][arm]) for f in found]) for arm in found[0]["arms"]
    }  # (robots,) each
    lines = ["| arm | mean return over robots [95 %] | better than zero-shot on |", "|---|---|---|"]
    for arm, values in means.items():
        wins = int((values > means["zero-shot"]).sum())
        lines.append(f"| {arm} | {bootstrap(values)} | {wins} of {robots} |")
    share = way(means["adapted"], means["zero-shot"], means["true context"])
    spent = [f["adaptation"] for f in found]
    accepted = sum(a["accepted"] for a in spent)
    episodes, seconds, falls = (
        float(np.mean([a[key] for a in spent])) for key in ("episodes", "seconds", "falls")
    )
    names = [row["name"] for row in spent[0]["posterior"]]
    held = np.array(
        [
            [abs(row["mean"] - x) < 1.645 * row["std"] for row, x in zip(p, f["xi"], strict=True)]
            for f, p in ((f, f["adaptation"]["posterior"]) for f in found)
        ]
    )  # (robots, K)
    covered = ", ".join(f"{n} {int(c)}" for n, c in zip(names, held.sum(axis=0), strict=True))
    lines += [
        "",
        f"90 % intervals that held the truth, of {robots}: {covered}.",
        "",
        f"Accepted on {accepted} of {robots}; {episodes:.0f} episodes, {seconds:.0f} s and "
        f"{falls:.1f} falls per robot. Share of the way to the true context, robots resampled: "
        f"{share.mean:.2f} [{share.low:.2f}, {share.high:.2f}].",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
