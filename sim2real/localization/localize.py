"""Where simulation and robot differ: in which terms, at which joint, in which states; or nowhere.

Every logged transition (s, a, s') is repeated in nominal worlds from the same s with the same a, so
that s' alone differs, and no difference in *visited* states can pass for one in the dynamics. What
decides what:

- *Is there a gap?* A permutation test over episodes, for transitions within an episode hang
  together. Besides the robot, each episode is repeated by twins: nominal worlds that are put back
  to what the log measures and begin the rest where an episode of the simulator may begin. If there
  is no gap, the robot is one more twin; so the label "robot" is shuffled among them.
- *In the observations or in the dynamics?* Nominal worlds in which commands act later (latency),
  or which start from between what they predicted and what was then measured (noise enters s and s',
  so part of a step's surprise is taken back in the next; a gap in the dynamics is not). What
  explains enough of the difference names it; else it is called one of the dynamics. Both kinds at
  once get the name of the larger.
- *Which joint?* Worlds in which a small force acts on one joint: the share of the difference that
  some force on this joint alone would make.
- *In which states and under which commands?* The classifiers of DARC, cross-fitted over episodes,
  give Δr of transitions that they have not seen, and a map of it. They confirm and draw, and decide
  nothing: on the few hundred transitions that the test needs, they are not calibrated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.identification.plausibility import check_plausible
from sim2real.identification.trajectories import read_trajectories
from sim2real.identification.windows import Trajectory
from sim2real.localization.findings import Localization
from sim2real.localization.joints import ONE_JOINT, as_dynamics, rank_joints
from sim2real.localization.observation import as_noise, by_dead_sensors, by_latency, is_noise
from sim2real.localization.regions import Evidence, with_regions
from sim2real.localization.replay import Plan, Replay, one_step
from sim2real.localization.significance import LEVEL, distances, permutation, term_gaps, twins_for
from sim2real.localization.support import LEAST, OUTSIDE, checked, lost_starts, saturated, support
from sim2real.simulation.robot import Robot

STAGES = 5
"""What `report` counts to."""


def localize(
    logs: str | Path | Iterable[str | Path], env: str | Path, *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Localization:  # fmt: skip
    """Compares NPZ logs (files, folders of them, or several) with the nominal simulator of `env`.

    Args:
        report: counts to STAGES.

    Raises:
        InputError: no logs, logs of another robot, logs that differ in their terms, a value that is
            not finite, or logs that determine nothing of the robot's state.
    """
    robot = Robot.load(env)
    return explain_gap(robot, read_trajectories(logs, robot), seed=seed, report=report)


def explain_gap(
    robot: Robot, episodes: Sequence[Trajectory], *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Localization:  # fmt: skip
    """As `localize`, with the regions, from episodes that are already read."""
    found, evidence = examine(robot, episodes, seed=seed, report=report)
    if evidence is not None and found.kind in ("dynamics", "observation"):
        found = with_regions(found, evidence, seed)
    report(STAGES, {})
    return found


def examine(
    robot: Robot, episodes: Sequence[Trajectory], *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> tuple[Localization, Evidence | None]:  # fmt: skip
    """Everything but the regions; the evidence is what these are made from."""
    robot = checked(robot, episodes)
    check_plausible(robot, episodes)
    transitions = sum(len(e.command) for e in episodes)
    answer = Localization(robot.name, "unknown", "", len(episodes), transitions)
    notes, why = support(robot, episodes)
    answer = replace(answer, notes=tuple(notes))
    if why:
        return replace(answer, sentence=f"unknown: {why}"), None

    replay = Replay(robot, [e for e in episodes if len(e.command) > 1])
    report(0, {})
    told = replay(Plan.of(replay.model.nv, twins_for(replay.E)), seed)
    report(1, {})
    log = replay.obs[:, 1:]
    there = np.isfinite(told).all(axis=(0, 3)) & np.isfinite(log).all(axis=2)
    lost = 1 - there.sum() / np.isfinite(log).all(axis=2).sum()
    if lost > OUTSIDE:
        why = (
            f"the simulation diverges in {100 * lost:.0f} % of the transitions when it is put where"
            " the log says the robot was; check units and signs of the logged terms"
        )
        return replace(answer, sentence=f"unknown: {why}"), None
    there &= ~saturated(replay)
    late = lost_starts(replay, told, there)
    if late.any():
        notes.append(
            f"{int(late.sum())} of {replay.E} pieces of log begin where no episode of the simulator"
            " does, which leaves the motion of the base unknown, and were left out"
        )
        there &= ~late[:, None]
    n = int(there.sum())
    answer = replace(answer, notes=tuple(notes), transitions=n)
    if n < LEAST:
        why = (
            f"{n} transitions can be repeated; log at least {LEAST}, in several episodes, each from"
            " its reset on"
        )
        return replace(answer, sentence=f"unknown: {why}"), None

    scale = one_step(replay.obs, told, there)
    square = distances(log, told, scale)
    p, factor = permutation(square.mean(axis=3), there, seed)
    report(2, {"p": p})
    real = np.where(there[..., None], log - told.mean(axis=0), np.nan)
    answer = replace(answer, p=p, terms=term_gaps(replay, real, scale, square, there, seed))
    if p > LEVEL or factor < 1.1:
        said = f"no gap found: {n} transitions of {replay.E} episodes are what the simulator gives"
        return replace(answer, kind="none", sentence=f"{said} (p = {p:.2g})"), None

    evidence = Evidence.of(replay, real, told, there, seed)
    answer = by_dead_sensors(answer, replay, there, scale)
    if answer.kind != "unknown":
        return answer, evidence
    answer = by_latency(answer, replay, there, scale, seed)
    report(3, {})
    if answer.kind == "unknown":
        ranked = rank_joints(replay, there, scale, seed)
        noise = ranked[0].share < ONE_JOINT and is_noise(answer)
        answer = as_noise(answer) if noise else as_dynamics(answer, ranked)
    report(4, {})
    return answer, evidence
