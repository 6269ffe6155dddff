"""Drives of a robot on a stand, and what the commands say of stands and priors."""

from __future__ import annotations

import numpy as np
import pytest

from sim2real.cli import main
from sim2real.identification import identify as identification
from sim2real.identification.identify import identify, restricted
from sim2real.identification.proposal import multisine
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.simulation.suspended import on_stand
from sim2real.simulation.worlds import Worlds

FREE = ["damping_gain", "joint_friction"]
SEEN = ["joint_positions", "gravity", "gyro"]
TRUE = {"damping_gain": 0.2, "joint_friction": 1.8}
TICKS = 80


def logged(robot):
    """A log of sines, with noise of 3 mrad."""
    xi = np.array(robot.space.nominal, float)
    for name, value in TRUE.items():
        xi[robot.space.names.index(name)] = value
    worlds, rng = Worlds(robot, 1, observe=SEEN, seed=0, threads=1), np.random.default_rng(0)
    low, high = robot.command_range
    swing = multisine(TICKS, 12, robot.control_period, 3.0, rng)
    commands = np.clip(robot.task.rest + 0.4 * (high - low) / 2 * swing, low, high)
    told = [
        worlds.reset(xi=xi[None])[0],
        *(worlds.advance(u[None]).obs[0].copy() for u in commands),
    ]
    seen = np.array(told)
    seen = seen + 0.003 * rng.standard_normal(seen.shape)
    parts = np.split(seen, np.cumsum([robot.terms[n].size for n in SEEN])[:-1], axis=1)
    return [Trajectory(dict(zip(SEEN, parts, strict=True)), commands)]


def test_drives_are_identified_on_a_stand(monkeypatch):
    monkeypatch.setattr(identification, "read_trajectories", lambda logs, robot: logged(robot))
    found = identify("own", "go1", only=FREE, suspended=True)
    assert not found.outside
    robot = on_stand(restricted(Robot.load("go1"), FREE))
    for name, value in TRUE.items():
        k = robot.space.names.index(name)
        assert found.informed[k]
        assert abs(found.mean[k] - value) < 4 * found.std[k]
        assert found.std[k] < 0.3 * found.prior_std[k]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["identify", "{logs}", "--env", "hopper", "--suspended"], "hopper has no floating base"),
        (["gap", "{logs}", "--env", "hopper", "--suspended"], "hopper has no floating base"),
        (["excite", "hopper", "--suspended"], "hopper has no floating base"),
        (["identify", "{logs}", "--env", "hopper", "--prior", "p.json"], "p.json: no such file"),
        (["identify", "a.csv", "--env", "ur10e", "--prior", "p.json"], "--prior goes with logs of"),
        (["identify", "a.csv", "--env", "ur10e", "--suspended"], "--suspended goes with logs of"),
        (["gap", "a.csv", "--env", "ur10e", "--suspended"], "--suspended goes with logs of"),
        (["excite", "go1", "--suspended", "--policy", "p"], "says nothing of the ground"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(words, said, logs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([w.format(logs=logs) for w in words]) != 0
    assert said in capsys.readouterr().err
