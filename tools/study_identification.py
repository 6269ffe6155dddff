"""Whether the intervals of identification hold: robots with hidden ξ, one after another.

    python tools/study_identification.py hopper --seeds 100-149
    python tools/study_identification.py hopper --seeds 100-149 --arm no-delay
    python tools/study_identification.py go1 --seeds 100-149

Robot s draws every parameter of ξ from its range, the latency of its commands from 0 to 30 ms, and
is driven for ten seconds in episodes of two and a half: the hopper falls about under smooth random
commands; the quadruped makes the sines of `sim2real excite`, hung up for the first half and
standing for the second. What it logs are positions and angles with noise of 5 mm and 5 mrad, and
rates that are their differences, or a gyro's with noise of 0.05 rad/s. It is then identified from
that log alone: the quadruped first on the stand, and with what was found there for a prior on its
feet. A cell is one robot; finished cells stand in results/identification and are not computed
again. At the end the table: how often 90 % intervals held the truth.

The control arms have a planted bug each, and must fail: `one-step` forgets the past at every step,
`no-delay` takes the latency for zero, `sure` takes the noise for a tenth of what it is and stays
with that, and with the least drift, which would make up for it.

The robots of `outside` have an effect that ξ cannot express as well, another kind with every
seed: a motor at 60 % beside the others, play of 15 % of half the command's range, motors that lag
by 20 ms (the quadruped's: gears whose friction grows with the load), or encoders that are off by
0.06 rad. The alarm of `predictive.py` must ring for them, and
not for those of `ours`.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim2real import progress
from sim2real.compare import commit
from sim2real.deploy.files import write_atomically
from sim2real.identification import fit
from sim2real.identification.posterior import ALARM, Posterior
from sim2real.identification.predictive import check
from sim2real.identification.proposal import multisine
from sim2real.identification.tracking import Track, Tracker
from sim2real.identification.windows import Trajectory
from sim2real.simulation.edits import Edit
from sim2real.simulation.gap import Actuators, Gap, Sensor
from sim2real.simulation.robot import Robot
from sim2real.simulation.suspended import on_stand
from sim2real.simulation.worlds import Worlds

HERE = Path(__file__).resolve().parent.parent / "results" / "identification"
EPISODE = 2.5
"""Seconds."""
NOISE, RATE_NOISE = 0.005, 0.05
"""Of positions [m], angles [rad] and directions; of a gyro [rad/s]."""
LATEST = 30.0
"""Latency of commands [ms], at most."""
FASTEST = 3.0
"""Of the sines [Hz]."""
COMMIT = commit()
"""Of what runs: a commit that comes meanwhile is another."""
RATES = {"joint_velocities": "joint_positions", "pitch_rate": "pitch"}
SEEN = {
    "hopper": ("joint_positions", "joint_velocities", "pitch", "pitch_rate"),
    "go1": ("joint_positions", "joint_velocities", "gravity", "gyro"),
}


class Stage(NamedTuple):
    """What a robot does before it is identified."""

    stand: bool
    """Whether it hangs."""
    episodes: int
    size: float
    """Of half the commands' range: their deviation, or their peak where they are sums of sines."""
    sines: bool


STAGES = {
    "hopper": (Stage(stand=False, episodes=4, size=0.5, sines=False),),
    "go1": (
        Stage(stand=True, episodes=2, size=0.5, sines=True),
        Stage(stand=False, episodes=2, size=0.2, sines=True),
    ),
}
ARMS = ("ours", "outside", "one-step", "no-delay", "sure")


def robot_of(env: str, stage: Stage, latest: float = LATEST) -> Robot:
    """The robot, its latency anywhere from 0 to `latest` ms."""
    robot = Robot.load(env)
    own = [
        replace(p, high=latest) if p.field == "actuator_delay" else p
        for p in robot.config.parameters
    ]
    robot = replace(robot, config=replace(robot.config, parameters=own))
    return on_stand(robot) if stage.stand else robot


def outside(robot: Robot, seed: int) -> Gap:
    """An effect that ξ cannot express, of robot `seed`."""
    low, high = (np.asarray(x, float) for x in robot.command_range)
    half = float(np.mean(high - low)) / 2
    motor = robot.actuators[seed % len(robot.actuators)]
    weak = Gap(actuators=Actuators(weak={motor: 0.6}))
    slow = Gap(actuators=Actuators(lag_ms=20.0))
    if robot.name == "go1":
        # a servo's winding, by whose resistance its torque is divided; and a servo has no lag
        weak = Gap(edits=[Edit("actuator_gainprm", select=motor, axis=0, value=1 / 0.6)])
        slow = robot.gap("servo_friction")
    effects = (
        weak,
        Gap(actuators=Actuators(backlash=0.15 * half)),
        slow,
        Gap(sensors={"joint_positions": Sensor(bias=0.06)}),
    )
    return effects[seed % len(effects)]


def logged(
    robot: Robot, stage: Stage, xi: np.ndarray, rng: np.random.Generator, gap: Gap | None = None
) -> list[Trajectory]:
    """What a robot with ξ (K,) logs."""
    names, E = SEEN[robot.name], stage.episodes
    true = [n for n in names if n not in RATES]
    worlds = Worlds(robot, E, observe=true, gap=gap, seed=int(rng.integers(2**31)), threads=1)
    ticks = round(EPISODE / robot.control_period)
    low, high = (np.asarray(x, float) for x in robot.command_range)
    rest, half = np.array(worlds.task.rest, float), (high - low) / 2
    seen, sent = [worlds.reset(xi=np.tile(xi, (E, 1)))], []
    swings = motions(stage, ticks, len(low), robot.control_period, rng)
    for swing in np.swapaxes(swings, 0, 1):
        sent.append(np.clip(rest + stage.size * half * swing, low, high))
        seen.append(worlds.advance(sent[-1]).obs)
    told = np.stack(seen, axis=1)
    ends = np.cumsum([robot.terms[n].size for n in true])[:-1]
    parts = dict(zip(true, np.split(told, ends, axis=2), strict=True))
    for name, part in parts.items():
        size = RATE_NOISE if robot.terms[name].unit == "rad/s" else NOISE
        parts[name] = part + size * rng.standard_normal(part.shape)
    for rate, position in RATES.items():
        if rate in names:
            x = parts[position]
            parts[rate] = np.diff(x, axis=1, prepend=x[:, :1]) / robot.control_period
    commands = np.stack(sent, axis=1)
    return [Trajectory({n: parts[n][e] for n in names}, commands[e]) for e in range(E)]


def motions(
    stage: Stage, ticks: int, actuators: int, period: float, rng: np.random.Generator
) -> np.ndarray:
    """(E, ticks, actuators) commands, before they are scaled."""
    E = stage.episodes
    if stage.sines:
        return np.stack([multisine(ticks, actuators, period, FASTEST, rng) for _ in range(E)])
    swing = np.zeros((E, ticks, actuators))
    for t in range(ticks):
        before = swing[:, t - 1] if t else 0.0
        swing[:, t] = 0.8 * before + 0.6 * rng.standard_normal((E, actuators))
    return swing


def plant(arm: str) -> None:
    """The bug of an arm, for as long as this program runs."""
    if arm == "one-step":
        fit.LEAST_DRIFT = fit.FIRST_DRIFT = 30.0
    if arm == "sure":
        fit.FIRST_DRIFT = fit.LEAST_DRIFT
        rough = Tracker._rough
        Tracker._rough = lambda self: 0.1 * rough(self)
        Track.noise = property(lambda self: self.supposed.noise)  # pyright: ignore


def cell(env: str, seed: int, arm: str) -> dict[str, Any]:
    """Robot `seed`, identified."""
    rng = np.random.default_rng([seed, 0])
    xi = robot_of(env, STAGES[env][0]).space.prior().sample(rng, 1)[0]
    found: Posterior | None = None
    made: dict[str, list[Any]] = {k: [] for k in ("misfit", "drift", "noise", "rounds", "seconds")}
    for stage in STAGES[env]:
        robot = robot_of(env, stage)
        effect = outside(robot, seed) if arm == "outside" else None
        logs = logged(robot, stage, xi, rng, effect)
        if arm == "no-delay":
            robot = robot_of(env, stage, 0.0)
        begin, done = time.monotonic(), [0]
        found = fit.fit(
            robot, logs, prior=found, seed=seed, report=lambda n, _, d=done: d.append(n)
        )
        made["seconds"].append(time.monotonic() - begin)
        made["rounds"].append(len(done) - 2)
        made["drift"].append(found.drift)
        made["noise"].append(found.noise)
        if arm in ("ours", "outside"):
            made["misfit"].append(check(robot, logs, found, seed=seed).misfit)
    assert found is not None
    low, high = np.quantile(found.samples, [0.05, 0.95], axis=0)
    return {
        "env": env, "seed": seed, "arm": arm, "names": list(found.names), "true": xi.tolist(),
        "mean": found.mean.tolist(), "std": found.std.tolist(), "low": low.tolist(),
        "high": high.tolist(), "informed": found.informed.tolist(), **made, "commit": COMMIT,
    }  # fmt: skip


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: for every parameter that the logs reveal, how often its interval held the truth."""
    if not cells:
        return "no cells"
    names = cells[0]["names"]
    true, low, high, mean = (
        np.array([c[k] for c in cells]) for k in ("true", "low", "high", "mean")
    )
    informed = np.array([c["informed"] for c in cells])
    held = (low <= true) & (true <= high)
    rows = ["| parameter | 90 % intervals that held the truth | median error | median deviation |",
            "|---|--:|--:|--:|"]  # fmt: skip
    std = np.array([c["std"] for c in cells])
    for k, name in enumerate(names):
        mine = informed[:, k]
        if not mine.any():
            rows.append(f"| {name} | the logs cannot tell | | |")
            continue
        error = np.median(np.abs(mean - true)[mine, k])
        rows.append(f"| {name} | {held[mine, k].sum()} of {mine.sum()} | {error:.3g} | "
                    f"{np.median(std[mine, k]):.3g} |")  # fmt: skip
    rang = [max(c["misfit"]) > ALARM for c in cells if c["misfit"]]
    if rang:
        rows += ["", f"The alarm rang for {sum(rang)} of {len(rang)}."]
    return "\n".join(rows)


def span(text: str) -> range:
    """FIRST-LAST, both included."""
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"'{text}' is no span of seeds, such as 100-149")
    return range(int(first), int(last) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("env", choices=list(STAGES))
    parser.add_argument("--seeds", type=span, default="100-149", help="FIRST-LAST")
    parser.add_argument("--arm", choices=ARMS, default="ours")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    folder: Path = options.out / options.env / options.arm
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[dict[str, Any]] = []
    plant(options.arm)
    with progress.bar(f"{options.env} {options.arm}", len(options.seeds)) as report:
        for i, seed in enumerate(options.seeds):
            path = folder / f"{seed}.json"
            if not path.is_file():
                made = cell(options.env, seed, options.arm)
                write_atomically(path, (json.dumps(made) + "\n").encode())
            cells.append(json.loads(path.read_text()))
            report(i + 1, {"seconds": sum(cells[-1]["seconds"])})
    print(table(cells))


if __name__ == "__main__":
    main()
