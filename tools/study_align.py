"""Pictures from another camera: what adversarial alignment gives, and what it costs.

    python tools/study_align.py                        3 seeds, about half an hour each

A camera looks at reacher; an encoder tells the arm's and the target's state from 64 x 64 pixels,
and a controller acts on what it tells. It learns from labelled pictures of the simulator's camera;
the robot's camera has other light, colours, texture, pose and noise, and its pictures have no
labels. Prints a Markdown table of the error on the robot's camera, the accuracy of a fresh
discriminator and the distance that the controller leaves, with intervals over seeds. In the stress
arms the robot's pictures show what a bad policy visits: an arm that hardly moves. Finished cells
stand in `--out` and are never computed again.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from sim2real import progress
from sim2real.bridges.align.adversarial import Aligned, Dann, align, fresh_discriminator
from sim2real.bridges.align.gather import Act, Gathered, gather, wandering
from sim2real.bridges.align.images import View, Viewer, Views, render, render_many
from sim2real.deploy.files import write_atomically
from sim2real.evaluate import bootstrap
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array

OBSERVE = ["joint_positions", "joint_velocities", "target_to_fingertip"]
SIMULATED = View(field_of_view=28.0)
REAL = View(
    light=(0.75, 0.65, 0.55), sun=(0.4, 0.2, -0.5), field_of_view=28.0,
    colours={"link0": (0.3, 0.3, 0.35), "link1": (0.3, 0.3, 0.35), "target": (0.85, 0.5, 0.1),
             "fingertip": (0.2, 0.7, 0.3)},
    floor=((0.55, 0.45, 0.35), (0.4, 0.33, 0.27)),
    shift=(0.03, -0.02, 0.03), turn=(0.01, 0.01, 0.05), noise=6.0,
)  # fmt: skip
RANDOM = Views(field_of_view=28.0)


@dataclass(frozen=True)
class Arm:
    config: Dann
    randomized: bool = False
    """Source pictures from many random cameras instead of the simulator's one."""
    bad: bool = False
    """Target pictures of the states that a bad policy visits."""
    labelled: bool = False
    """The ceiling: learns from labelled target pictures, which nobody has."""


class Figures(NamedTuple):
    source: float
    """Root mean square error of fingertip and target [m], on the camera it learned from."""
    target: float
    """The same on the robot's camera."""
    domain: float
    """Accuracy of a fresh discriminator on held-out features, states alike."""
    left: float
    """Mean distance from fingertip to target at the end of an episode [m]."""


def arms(config: Dann) -> dict[str, Arm]:
    alone = replace(config, lam=0.0)
    confusion = replace(config, method="confusion")
    return {
        "source only": Arm(alone),
        "DANN": Arm(config),
        "confusion": Arm(confusion),
        "wrong sign": Arm(replace(config, lam=-config.lam)),
        "image randomization": Arm(alone, randomized=True),
        "image randomization and DANN": Arm(config, randomized=True),
        "DANN, target of a bad policy": Arm(config, bad=True),
        "image randomization and DANN, target of a bad policy": Arm(
            config, randomized=True, bad=True
        ),
        "labelled target pictures": Arm(alone, labelled=True),
    }


def reach(angle: Array, speed: Array, to_target: Array) -> Array:
    """(B, 2) commands: the arm's Jacobian transposed times the way to go, less damping."""
    a, b = angle[:, 0], angle[:, 0] + angle[:, 1]
    way = -to_target[:, :2]
    first = way[:, 1] * np.cos(b) * 0.11 - way[:, 0] * np.sin(b) * 0.11
    whole = first + way[:, 1] * np.cos(a) * 0.1 - way[:, 0] * np.sin(a) * 0.1
    return (15 * np.stack([whole, first], axis=1) - 0.06 * speed).clip(-1, 1)


def states_of(robot: Robot, steps: int, seed: int, *, bad: bool = False) -> Gathered:
    """What a reaching arm visits, or one that hardly moves; true states as labels."""
    worlds = Worlds(robot, 40, observe=OBSERVE, seed=seed, threads=1)
    wander = wandering(worlds, size=0.02 if bad else 0.05, seed=seed)

    def good(obs: Array) -> Array:
        return reach(obs[:, :2], obs[:, 2:4], obs[:, 4:6]) + wander(obs)

    act: Act = wander if bad else good
    return gather(worlds, act, -(-steps // 40), labels=["v5"])


def told(labels: Array) -> Array:
    """(N, 8) what is estimated, from reacher's own observation: cosines, sines, target's place,
    and the fingertip's place."""
    return np.concatenate([labels[:, :6], labels[:, 8:10] + labels[:, 4:6]], axis=1)


def error(aligned: Aligned, pictures: Array, labels: Array) -> float:
    places = (aligned.predict(pictures) - labels)[:, 4:]
    return float(np.sqrt((places**2).sum(axis=1).mean() / 2))


def act_on(robot: Robot, aligned: Aligned, view: View, seed: int, episodes: int = 10) -> float:
    """Mean distance left at the end of episodes whose controller sees pictures and joint speeds."""
    worlds = Worlds(robot, episodes, observe=OBSERVE, seed=seed, threads=1)
    obs = worlds.reset()
    with Viewer(robot, view, seed=seed) as look:
        for _ in range(robot.episode_steps):
            said = aligned.predict(look(worlds.data["qpos"]))
            angle = np.arctan2(said[:, 2:4], said[:, 0:2])
            obs = worlds.advance(reach(angle, obs[:, 2:4], said[:, 6:8] - said[:, 4:6])).obs
    return float(np.linalg.norm(obs[:, 4:6], axis=1).mean())


@dataclass(frozen=True)
class Seen:
    """The pictures of one seed, with the states that they show."""

    pictures: dict[str, Array]
    own: Gathered
    other: Gathered
    judged: Gathered
    judged_own: Gathered
    held: dict[str, Array]
    """Of states that nobody learned from, by the kind of camera."""


def look(robot: Robot, pictures: int, cameras: int, seed: int) -> Seen:
    own = states_of(robot, pictures, 10 * seed)
    other = states_of(robot, pictures, 10 * seed + 1)
    bad = states_of(robot, pictures, 10 * seed + 2, bad=True)
    judged = states_of(robot, 600, 10 * seed + 3)
    judged_own = states_of(robot, 600, 10 * seed + 4)
    rng = np.random.default_rng(seed)
    views = [RANDOM.sample(robot, rng) for _ in range(cameras)]
    seen = {
        "plain": render(robot, own.qpos, SIMULATED),
        "random": render_many(robot, own.qpos, views, seed=seed),
        "real": render(robot, other.qpos, REAL, seed=seed),
        "bad": render(robot, bad.qpos, REAL, seed=seed),
    }
    fresh_random = [RANDOM.sample(robot, rng) for _ in range(cameras)]
    held = {
        "plain": render(robot, judged_own.qpos, SIMULATED),
        "random": render_many(robot, judged_own.qpos, fresh_random, seed=seed + 1),
        "real": render(robot, judged.qpos, REAL, seed=seed + 1),
    }
    return Seen(seen, own, other, judged, judged_own, held)


def cell(robot: Robot, arm: Arm, seen: Seen, seed: int) -> Figures:
    kind = "real" if arm.labelled else "random" if arm.randomized else "plain"
    labels = told((seen.other if arm.labelled else seen.own).labels)
    target = seen.pictures["bad" if arm.bad else "real"]
    aligned = align(seen.pictures[kind], labels, target, arm.config, seed=seed)
    on_own = seen.judged if arm.labelled else seen.judged_own
    return Figures(
        error(aligned, seen.held[kind], told(on_own.labels)),
        error(aligned, seen.held["real"], told(seen.judged.labels)),
        fresh_discriminator(aligned.estimator, seen.held[kind], seen.held["real"], seed=seed),
        act_on(robot, aligned, REAL, seed + 100),
    )


def table(found: dict[str, list[Figures]]) -> str:
    lines = [
        "| arm | seeds | error, own camera [mm] | error, robot's camera [mm] | fresh discriminator "
        "| distance left [mm] |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, seeds in found.items():
        if not seeds:
            lines.append(f"| {name} | 0 | open | open | open | open |")
            continue
        values = np.array(seeds) * [1e3, 1e3, 1.0, 1e3]
        cells = [str(bootstrap(column)) for column in values.T]
        lines.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/align"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--pictures", type=int, default=1600, help="of each camera")
    parser.add_argument("--cameras", type=int, default=30, help="of image randomization")
    parser.add_argument("--steps", type=int, default=1000, help="gradient steps of each arm")
    parser.add_argument("--lam", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    robot = Robot.load("reacher")
    config = Dann(lam=arguments.lam, encoder=(128, 16), steps=arguments.steps, batch=32)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "first", "seeds")}
    arguments.out.mkdir(parents=True, exist_ok=True)
    finished: dict[str, list[Figures]] = {name: [] for name in arms(config)}
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with progress.bar("align", len(seeds) * len(finished)) as report:
        for seed in seeds:
            seen: Seen | None = None
            for number, (name, arm) in enumerate(arms(config).items()):
                file = arguments.out / f"{number}-{seed}.json"
                if not file.is_file():
                    seen = seen or look(robot, arguments.pictures, arguments.cameras, seed)
                    figures = cell(robot, arm, seen, seed)
                    kept = {"arm": name, "seed": seed, **figures._asdict(), "settings": settings}
                    write_atomically(file, (json.dumps(kept, indent=1) + "\n").encode())
                kept = json.loads(file.read_text())
                if (kept["arm"], kept["settings"]) != (name, settings):
                    parser.error(f"{file}: a cell of other settings; give another --out")
                finished[name].append(Figures(*(kept[field] for field in Figures._fields)))
                report(sum(map(len, finished.values())), {"seed": seed})
    print(table(finished))


if __name__ == "__main__":
    sys.exit(main())
