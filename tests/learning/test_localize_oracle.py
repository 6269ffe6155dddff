"""How often gaps are found and named rightly, in trials enough for a rate: commands at random, and
commands that answer to the observation, as those of a policy do.

Run by `make learn`. Budget: 300 trials without a gap and 220 with one, 200 to 1200 control steps
each; no training.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from sim2real.identification.windows import Trajectory
from sim2real.localization.findings import Localization
from sim2real.localization.localize import examine
from sim2real.localization.significance import LEVEL
from sim2real.simulation.edits import Edit
from sim2real.simulation.gap import Gap, Latency, Sensor
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds

pytestmark = pytest.mark.learn

ROBOTS = {name: Robot.load(name) for name in ("halfcheetah", "hopper")}
LOGS = {"halfcheetah": (6, 50), "hopper": (40, 30)}
"""Episodes, and control steps of each at most; the hopper falls after about 15."""
JOINTS = {"halfcheetah": ("bthigh", "bfoot", "fthigh", "ffoot"), "hopper": ("thigh_joint",)}
NOISE = {"joint_positions": 0.01, "joint_velocities": 0.1, "pitch": 0.01, "pitch_rate": 0.1}
CASES = [(name, feedback) for name in ROBOTS for feedback in (0.0, 0.3)]
LABELS = [f"{name}-{'answering' if feedback else 'random'}" for name, feedback in CASES]
cases = pytest.mark.parametrize(("name", "feedback"), CASES, ids=LABELS)


def trial(name: str, feedback: float, gap: Gap | None, seed: int) -> Localization:
    """What is said of logs of a robot that has only the sensors of a robot."""
    robot, (episodes, ticks) = ROBOTS[name], LOGS[name]
    terms = [n for n, t in robot.terms.items() if t.access == "measured"]
    worlds = Worlds(robot, episodes, gap=gap, observe=terms, seed=seed, threads=1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 78]))
    answer = feedback * rng.standard_normal((worlds.obs_size, len(robot.actuators)))
    told, sent = [worlds.reset()], []
    drift = np.zeros((episodes, len(robot.actuators)))
    ends = np.full(episodes, ticks)
    for t in range(ticks):
        drift = 0.7 * drift + 0.4 * rng.standard_normal(drift.shape)
        command = drift + np.tanh((told[-1] - told[0].mean(axis=0)) @ answer)
        sent.append(np.clip(command, -1, 1).astype(np.float32))
        step = worlds.advance(sent[-1])
        told.append(step.obs)
        ends[step.terminated & (ends == ticks)] = t + 1
    parts = np.split(np.stack(told, axis=1), np.cumsum([t.size for t in worlds.terms])[:-1], axis=2)
    commands = np.stack(sent, axis=1).astype(float)
    logs = [
        Trajectory(
            {n: x[e, : ends[e] + 1] for n, x in zip(terms, parts, strict=True)},
            commands[e, : ends[e]],
        )
        for e in range(episodes)
    ]
    return examine(robot, logs, seed=seed)[0]


@cases
def test_no_gap_is_hardly_ever_found(name, feedback):
    trials = 75
    answers = [trial(name, feedback, None, seed) for seed in range(trials)]
    print(f"{name}, {feedback}: {Counter(a.kind for a in answers)}")
    findings = sum(a.kind in ("dynamics", "observation") for a in answers)
    assert findings <= 0.05 * trials
    assert stats.binomtest(findings, trials, LEVEL, alternative="greater").pvalue > 0.001


@cases
def test_a_damped_joint_is_ranked_first(name, feedback):
    first = []
    for seed in range(200, 225):
        joint = JOINTS[name][seed % len(JOINTS[name])]
        gap = Gap(edits=[Edit("dof_damping", 3.0, select=joint)])
        answer = trial(name, feedback, gap, seed)
        first.append(bool(answer.joints) and answer.joints[0].name == joint)
    print(f"{name}, {feedback}: {sum(first)} of 25")
    assert np.mean(first) >= 0.9


@cases
@pytest.mark.parametrize("kind", ["noise", "late commands", "late sensors"])
def test_noise_and_delay_are_observation_gaps(name, feedback, kind):
    ms = 1000 * ROBOTS[name].control_period
    gap = {
        "noise": Gap(sensors={n: Sensor(noise=size) for n, size in NOISE.items()}),
        "late commands": Gap(latency=Latency(action_ms=ms)),
        "late sensors": Gap(latency=Latency(observation_ms=ms)),
    }[kind]
    answers = [trial(name, feedback, gap, seed) for seed in range(10)]
    print(f"{name}, {feedback}, {kind}: {Counter(a.kind for a in answers)}")
    assert sum(a.kind == "observation" for a in answers) >= 8
    assert sum((a.latency_ms > 0) == kind.startswith("late") for a in answers) >= 8
