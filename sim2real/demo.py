"""The whole line, once, on the hopper: train, export, verify, meet a robot it never saw, adapt, run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from sim2real import progress, recipe
from sim2real.adapt import Adaptation, adapt, address_of
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.controller import RunResult, run
from sim2real.deploy.files import write_atomically
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.deploy.verify import verify
from sim2real.evaluate import Interval, bootstrap, grid, tell
from sim2real.export import export
from sim2real.policy.policy import Policy
from sim2real.report import Report, write_report
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.train import run as train_run
from sim2real.types import InputError

GAP, SEED = "worn", 0
"""The robot: this seed's draw from this family."""
EPISODES = 20
"""Episodes of each row of the table."""


def demo(out: Path, *, steps: int | None = None) -> dict[str, Any]:
    """Runs the main job and writes everything into `out`, report.html last. Returns its figures.

    The robot runs in a process of its own, with the gap `worn` of the hopper. Nothing of the gap
    is known here but for one row of the table, `true context`, which is told ξ to show what
    adaptation could have reached.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with _baseline(out, steps):
        policy = _trained("hopper-context", out / "policy", steps)
    artifact = export(policy, out / "artifact")
    verification = verify(out / "artifact")
    if not verification.ok:
        raise InputError(f"{out / 'artifact'}: {verification.sentence}")
    robot = Robot.load(policy.spec.env)
    history = Policy.load(out / "history")
    rows: dict[str, RunResult] = {}
    with address_of(f"{policy.spec.env}/{GAP}", SEED) as where, progress.bar("robot", 4) as report:
        rows["uniform randomization, history"] = _drive(
            export(history, out / "history-artifact"), where, None
        )
        report(1, {})
        rows["zero-shot"] = _drive(artifact, where, None)
        report(2, {})
        adaptation = adapt(policy, f"{where[0]}:{where[1]}", episodes=10, out=out / "adapt")
        rows["adapted"] = _drive(artifact, where, adaptation.z)
        report(3, {})
        rows["true context"] = _drive(artifact, where, _true_context(policy, robot, adaptation))
        report(4, {})
    latency = _paced(artifact, policy.spec.env, adaptation)
    figures = _figures(rows, adaptation, latency, time.monotonic() - started)
    write_atomically(out / "figures.json", (json.dumps(figures, indent=2) + "\n").encode())
    columns, table = figures_table(figures)
    map_ = grid(
        policy, robot, ["torso_mass", "motor_strength"], points=7, episodes=2, context="true"
    )
    write_report(
        out / "report.html",
        Report(
            title="sim2real demo: the hopper and a worn robot", columns=columns, rows=table,
            robot=robot, policy=policy, adaptation=adaptation, robustness=map_,
            curves={"context": out / "policy" / "log" / "progress.csv",
                    "history": out / "history" / "log" / "progress.csv"},
            gap=GAP,
        ),
    )  # fmt: skip
    return figures


def figures_table(figures: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The demo's table as (columns, rows)."""
    columns = ["on the robot", "return [95 %]", "episodes", "falls", "seconds"]
    rows = [
        [name, str(Interval(r["return"], r["low"], r["high"])), str(r["episodes"]), str(r["falls"]),
         f"{r['seconds']:.0f}"]
        for name, r in figures["rows"].items()
    ]  # fmt: skip
    spent, latency = figures["adaptation"], figures["latency"]
    said = "accepted" if figures["accepted"] else "not accepted, rolled back"
    rows.append(
        [
            "spent on adaptation",
            said,
            str(spent["episodes"]),
            str(spent["falls"]),
            f"{spent['seconds']:.1f}",
        ]
    )
    inference, lateness = latency["inference"], latency["lateness"]
    rows.append([
        "latency, paced in real time",
        f"inference p50 {inference['p50']:.0f} p99 {inference['p99']:.0f} µs, "
        f"wake-up p50 {lateness['p50']:.0f} p99 {lateness['p99']:.0f} µs",
        f"missed {latency['missed']}/{latency['ticks']}", "", f"{latency['seconds']:.0f}",
    ])  # fmt: skip
    return columns, rows


def _trained(name: str, out: Path, steps: int | None) -> Policy:
    """The policy of a shipped recipe, trained unless `out` already holds it."""
    _, resolved = recipe.read(name)
    if steps is not None:
        resolved = replace(resolved, steps=steps)
    if (out / "policy.pt").is_file():
        return Policy.load(out)
    resume = (out / "recipe.yaml").is_file()
    with progress.bar(f"train {name}", resolved.total_steps) as report:
        return train_run(name, resolved, out, resume=resume, report=report)


@contextmanager
def _baseline(out: Path, steps: int | None) -> Iterator[None]:
    """Trains the reference policy, uniform randomization with history, on the other core."""
    folder = out / "history"
    command = [sys.executable, "-m", "sim2real", "train", "hopper-uniform-history", "--out", str(folder)]
    if steps is not None:
        command += ["--set", f"steps={steps}"]
    if (folder / "policy.pt").is_file():
        yield
        return
    if (folder / "recipe.yaml").is_file():
        command += ["--resume"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield
        with progress.bar("the reference policy", 1) as report:
            _, said = process.communicate()
            report(1, {})
        if process.returncode != 0:
            raise InputError(
                f"training the reference policy failed: {said.strip().splitlines()[-1]}"
            )
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _drive(artifact: Artifact, where: tuple[str, int], z: AdaptedState | None) -> RunResult:
    """The same episodes for every row: the robot is reset from the same seeds."""
    robot = UdpRobot(*where)
    try:
        return run(artifact, robot, episodes=EPISODES, z=z, seed=1000)
    finally:
        robot.close()


def _true_context(policy: Policy, robot: Robot, adaptation: Adaptation) -> AdaptedState:
    """ξ of the robot that the other process drew from the gap with the same seed."""
    worlds = Worlds(robot, 1, gap=GAP, seed=SEED)
    worlds.reset()
    told = tell(policy, worlds.xi, robot, "true")
    assert told is not None
    value = tuple(map(float, told[0]))
    return replace(adaptation.z, value=value, std=(0.0,) * len(value), accepted=True)


def _paced(artifact: Artifact, env: str, adaptation: Adaptation) -> dict[str, Any]:
    """20 s in real time against a robot that is paced too: the latency figures."""
    from sim2real.serve import served

    with served(env, gap=GAP, realtime=True, seed=SEED) as address, progress.bar("real time", 20) as report:
        host, _, port = address.rpartition(":")
        robot = UdpRobot(host, int(port))
        last = [0]

        def show(episode: int, tick: int, seconds: float) -> None:
            if int(seconds) > last[0]:
                last[0] = int(seconds)
                report(last[0], {})

        try:
            result = run(
                artifact, robot, seconds=20.0, z=adaptation.z, realtime=True, progress=show
            )
        finally:
            robot.close()
    return {**asdict(result.latency), "seconds": result.seconds}


def _figures(
    rows: dict[str, RunResult], adaptation: Adaptation, latency: dict[str, Any], seconds: float
) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, result in rows.items():
        returns = np.array([e.return_ for e in result.episodes], float)
        interval = bootstrap(returns)
        table[name] = {
            "return": interval.mean, "low": interval.low, "high": interval.high,
            "episodes": len(returns), "falls": result.falls, "seconds": result.seconds,
            "returns": returns.tolist(),
        }  # fmt: skip
    return {
        "rows": table, "accepted": adaptation.accepted, "adaptation": adaptation.to_dict(),
        "latency": latency, "wall_seconds": seconds,
    }  # fmt: skip
