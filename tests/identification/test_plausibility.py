"""Logs that cannot be right: order, sign, units. Each is spoiled in one way, and that is said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sim2real.identification.identify import explain
from sim2real.identification.plausibility import check_plausible
from sim2real.identification.windows import Trajectory
from sim2real.localization.localize import explain_gap
from sim2real.simulation.gap import Gap, Mounting, Sensor
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

TERMS = {
    "hopper": ["joint_positions", "joint_velocities", "pitch", "pitch_rate"],
    "go1": ["joint_positions", "joint_velocities", "gravity", "gyro"],
    "ur10e": ["joint_positions", "joint_velocities"],
}
Spoil = Callable[[dict[str, np.ndarray]], None]


def robot(name: str) -> MjcfRobot:
    found = Robot.load(name)
    assert isinstance(found, MjcfRobot)
    return found


def logs(name: str, gap: Gap | None = None, seed: int = 0) -> list[Trajectory]:
    """Four episodes under smooth random commands."""
    worlds = Worlds(robot(name), 4, gap=gap, observe=TERMS[name], seed=seed, threads=1)
    rng = np.random.default_rng(seed)
    low, high = worlds.action_low, worlds.action_high
    middle = np.array(worlds.robot.task.rest)
    half = 0.3 * np.minimum(high - middle, middle - low)
    obs, sent = [worlds.reset()], []
    ends, command = np.full(4, 60), np.zeros((4, len(low)))
    for t in range(60):
        command = 0.8 * command + 0.6 * rng.standard_normal(command.shape)
        sent.append((middle + half * np.clip(command, -1, 1)).astype(np.float32))
        step = worlds.advance(sent[-1])
        obs.append(step.obs)
        ends[step.terminated & (ends == 60)] = t + 1
    parts = np.split(np.stack(obs, 1), np.cumsum([t.size for t in worlds.terms])[:-1], axis=2)
    return [
        Trajectory(
            {n: x[e, : ends[e] + 1].copy() for n, x in zip(TERMS[name], parts, strict=True)},
            np.stack(sent, 1)[e, : ends[e]],
        )
        for e in range(4)
    ]


def spoiled(name: str, spoil: Spoil) -> list[Trajectory]:
    found: list[Trajectory] = []
    for episode in logs(name):
        obs = {n: x.copy() for n, x in episode.obs.items()}
        spoil(obs)
        found.append(Trajectory(obs, episode.command))
    return found


def times(name: str, by: float, column: int | slice = slice(None)) -> Spoil:
    def spoil(obs: dict[str, np.ndarray]) -> None:
        obs[name][:, column] *= by

    return spoil


def reordered(name: str, order: list[int]) -> Spoil:
    def spoil(obs: dict[str, np.ndarray]) -> None:
        obs[name] = obs[name][:, order]

    return spoil


SWAPPED = [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]
"""Left for right: how a driver's order of legs may differ."""


@pytest.mark.parametrize(
    ("env", "spoil", "said"),
    [
        ("hopper", reordered("joint_positions", [2, 1, 0]), r"its order is .*thigh_joint"),
        ("hopper", reordered("joint_velocities", [0, 2, 1]), r"its order is .*thigh_joint"),
        ("hopper", times("joint_velocities", -1, 1), r"'joint_velocities', column 1 .*other sign"),
        ("hopper", times("joint_velocities", 180 / np.pi), r"\d+ times the derivative.*degrees"),
        ("hopper", times("pitch", 180 / np.pi), r"'pitch', column 0 .*times as fast.*degrees"),
        ("go1", reordered("joint_positions", SWAPPED), r"another order than the robot's"),
        ("go1", times("joint_velocities", np.pi / 180), r"'joint_positions'.*degrees"),
        ("go1", times("gravity", 9.81), r"'gravity' has length 9\.81; it is a direction"),
        ("go1", times("gyro", 180 / np.pi), r"'gyro' is \d+ times as fast.*degrees"),
        ("go1", times("gyro", -1), r"'gyro' is fast when 'gravity' turns.*axis or a sign"),
        ("ur10e", times("joint_velocities", -1, 4), r"column 4 \(wrist_2_joint\).*other sign"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(env, spoil, said):
    with pytest.raises(InputError, match=said):
        check_plausible(robot(env), spoiled(env, spoil))


def test_all_in_degrees_leaves_the_joints_range():
    def spoil(obs: dict[str, np.ndarray]) -> None:
        for name in ("joint_positions", "joint_velocities"):
            obs[name] *= 180 / np.pi

    with pytest.raises(InputError, match=r"'joint_positions', column \d+ .*far outside.*degrees"):
        check_plausible(robot("go1"), spoiled("go1", spoil))


@pytest.mark.parametrize("env", TERMS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_can_be_passes(env, seed):
    check_plausible(robot(env), logs(env, None, seed))


@pytest.mark.parametrize("env", ["hopper", "go1"])
def test_noise_and_offsets_pass(env):
    noise = zip(TERMS[env], (0.01, 0.3, 0.02, 0.1), strict=True)
    sensors = {name: Sensor(noise=size) for name, size in noise}
    gap = Gap(sensors=sensors, mounting=Mounting(encoder=0.05))
    check_plausible(robot(env), logs(env, gap, 3))


def test_what_looks_like_another_order_and_is_none_passes():
    """Two joints that move alike, one rate dead but noisy; and rates late by a quarter of the
    period of joints that move a quarter apart."""
    rng = np.random.default_rng(0)
    alike, late = [], []
    for episode in logs("ur10e"):
        q, v = (episode.obs[n].copy() for n in TERMS["ur10e"])
        q[:, 1], v[:, 1] = q[:, 0], 0.01 * rng.standard_normal(len(v))
        alike.append(Trajectory({"joint_positions": q, "joint_velocities": v}, episode.command))
        t = np.arange(len(q)) * robot("ur10e").control_period
        phase = np.arange(6) * np.pi / 2
        q = 0.2 * np.sin(4 * np.pi * t[:, None] + phase)
        v = 0.8 * np.pi * np.cos(4 * np.pi * (t[:, None] - 0.125) + phase)
        q[:, 2:], v[:, 2:] = 0, 0  # two joints, of which one seems to be the other's rate
        late.append(Trajectory({"joint_positions": q, "joint_velocities": v}, episode.command))
    check_plausible(robot("ur10e"), alike)
    check_plausible(robot("ur10e"), late)


def test_an_encoder_that_is_a_turn_off_is_not_in_degrees():
    def spoil(obs: dict[str, np.ndarray]) -> None:
        obs["joint_positions"][:, 2] += 2 * np.pi

    with pytest.raises(InputError, match=r"column 2 .*far outside.*zero and unit"):
        check_plausible(robot("go1"), spoiled("go1", spoil))


def test_identify_and_gap_refuse_them():
    bad = spoiled("hopper", reordered("joint_positions", [2, 1, 0]))
    for refuses in (explain, explain_gap):
        with pytest.raises(InputError, match="hopper: the logs cannot be right"):
            refuses(robot("hopper"), bad)


def test_few_samples_say_nothing():
    few = [Trajectory({n: x[:6] for n, x in e.obs.items()}, e.command[:5])
           for e in spoiled("hopper", times("joint_velocities", -1))]  # fmt: skip
    check_plausible(robot("hopper"), few)
