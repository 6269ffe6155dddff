"""The whole line, once, on the hopper: train, export, verify, meet a robot, adapt to it, run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim2real import progress, recipe
from sim2real.adapt import adapt, address_of
from sim2real.adaptation.session import Adaptation
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
STEPS, IMITATION = 1_200_000, 300_000
"""Control steps of learning by reward and of imitation: less than the recipes', which take half an
hour."""
FASTER = ("learner.learning_rate=6e-4", "learner.settings.n_epochs=8")
"""What so few steps ask for; of many it returns less."""
UNIFORM = 200_000
"""Of imitation without a history: one observation tells no more after longer."""


def demo(out: Path, *, steps: int | None = None) -> dict[str, Any]:
    """Runs the main job and writes everything into `out`, report.html last. Returns its figures.

    The robot runs in a process of its own, with the gap `worn` of the hopper. Adaptation sees
    nothing of the gap; what is shown beside it does: two rows that tell the policy the true ξ or
    that of another robot, the marks in the report, and its film.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    shorter, short = (
        [f"steps={steps or STEPS}", f"distill.steps={steps or imitation}", *FASTER]
        for imitation in (IMITATION, UNIFORM)
    )
    teacher = out / "policy" / "teacher"
    with (
        _Reference("hopper-uniform-history", out / "history", teacher, shorter) as history,
        _Reference("hopper-uniform", out / "uniform", teacher, short) as uniform,
    ):

        def taught() -> None:
            history.start()
            uniform.start(polite=True)  # done in the time that others leave

        policy = _trained(out, shorter, taught)
        artifact = export(policy, out / "artifact")
        verification = verify(out / "artifact")
        if not verification.ok:
            raise InputError(f"{out / 'artifact'}: {verification.sentence}")
        robot = Robot.load(policy.spec.env)
        with (
            address_of(f"{policy.spec.env}/{GAP}", SEED) as where,
            progress.bar("robot", 6) as report,
        ):
            zero_shot = _drive(artifact, where, None)
            report(1, {})
            adaptation = adapt(policy, f"{where[0]}:{where[1]}", episodes=10, out=out / "adapt")
            adapted = _drive(artifact, where, adaptation.z)
            report(2, {})
            true = _drive(artifact, where, _context("true", policy, robot, adaptation))
            report(3, {})
            other = _drive(artifact, where, _context("other", policy, robot, adaptation))
            report(4, {})
            map_ = grid(
                policy, robot, ["torso_mass", "motor_strength"], points=6, episodes=2,
                context="true",
            )  # fmt: skip
            with_history = _drive(history.artifact(), where, None)
            report(5, {})
            without = _drive(uniform.artifact(), where, None)
            report(6, {})
    rows = {
        "uniform randomization": without,
        "uniform randomization, history": with_history,
        "zero-shot": zero_shot,
        "adapted": adapted,
        "true context": true,
        "another robot's context": other,
    }
    latency = _paced(artifact, policy.spec.env, adaptation)
    figures = _figures(rows, adaptation, latency)
    columns, table = figures_table(figures)
    write_report(
        out / "report.html",
        Report(
            title="sim2real demo: the hopper and a worn robot", columns=columns, rows=table,
            robot=robot, policy=policy, adaptation=adaptation, robustness=map_,
            curves={"the teacher": out / "policy" / "log" / "progress.csv"},
            gap=GAP,
            seed=SEED,
        ),
    )  # fmt: skip
    figures["wall_seconds"] = time.monotonic() - started
    write_atomically(out / "figures.json", (json.dumps(figures, indent=2) + "\n").encode())
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


def _trained(out: Path, shorter: list[str], taught: Callable[[], None]) -> Policy:
    """The policy that is told its physics; `taught` is called when its teacher is there. What
    `out` already holds is not trained again."""
    _, resolved = recipe.read("hopper-context", overrides=shorter)
    folder = out / "policy"
    if not (folder / "policy.pt").is_file():
        resume = (folder / "recipe.yaml").is_file()
        with progress.bar("train", resolved.total_steps) as show:

            def report(done: int, figures: dict[str, float]) -> None:
                show(done, figures)
                if done > resolved.steps:
                    taught()

            train_run("hopper-context", resolved, folder, resume=resume, report=report)
    taught()
    return Policy.load(folder)


class _Reference:
    """Training of a policy that stands beside the one that adapts, in a process of its own. It
    imitates the same teacher."""

    def __init__(self, recipe_: str, out: Path, teacher: Path, shorter: list[str]) -> None:
        values = [f"distill.trained={teacher}", "threads=1", *shorter]
        words = [word for value in values for word in ("--set", value)]
        train = [sys.executable, "-m", "sim2real", "train", recipe_]
        self._command = [*train, "--out", str(out), *words]
        self._recipe, self._out = recipe_, out
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> _Reference:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def start(self, *, polite: bool = False) -> None:
        """Begins or goes on, unless it runs or is finished; `polite` lets others go first."""
        if self._process is not None or (self._out / "policy.pt").is_file():
            return
        resume = ["--resume"] if (self._out / "recipe.yaml").is_file() else []
        self._process = subprocess.Popen(
            [*self._command, *resume], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if polite:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 10)

    def artifact(self) -> Artifact:
        """Waits for the policy and exports it."""
        if self._process is not None:
            _, said = self._process.communicate()
            if self._process.returncode != 0:
                raise InputError(f"training {self._recipe} failed: {said.strip()[-300:]}")
        folder = self._out.with_name(f"{self._out.name}-artifact")
        return export(Policy.load(self._out), folder)


def _drive(artifact: Artifact, where: tuple[str, int], z: AdaptedState | None) -> RunResult:
    """The same episodes for every row: the robot is reset from the same seeds."""
    robot = UdpRobot(*where)
    try:
        return run(artifact, robot, episodes=EPISODES, z=z, seed=1000)
    finally:
        robot.close()


def _context(
    told: Literal["true", "other"], policy: Policy, robot: Robot, adaptation: Adaptation
) -> AdaptedState:
    """What the policy is told where nobody had to find out: ξ of the robot that the other process
    drew from the gap with the same seed, or of a robot on the far side of the ranges."""
    worlds = Worlds(robot, 1, gap=GAP, observe=[t.name for t in policy.spec.terms], seed=SEED)
    worlds.reset()
    said = tell(policy, worlds.xi, robot, told)
    assert said is not None
    value = tuple(map(float, said[0]))
    return replace(adaptation.z, value=value, std=(0.0,) * len(value), accepted=True)


def _paced(artifact: Artifact, env: str, adaptation: Adaptation) -> dict[str, Any]:
    """20 s in real time against a robot that is paced too: the latency figures."""
    from sim2real.serve import served

    with (
        served(env, gap=GAP, realtime=True, seed=SEED) as address,
        progress.bar("real time", 20) as report,
    ):
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
    rows: dict[str, RunResult], adaptation: Adaptation, latency: dict[str, Any]
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
        "latency": latency,
    }  # fmt: skip
