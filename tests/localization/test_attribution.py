"""Logs whose mismatch is known, and what is said it consists of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sim2real.cli import main
from sim2real.identification.identify import explain
from sim2real.identification.posterior import Posterior
from sim2real.identification.trajectories import read_trajectories
from sim2real.identification.windows import Observers, Trajectory
from sim2real.localization.attribution import attribute, differences, motion, sensor_noise
from sim2real.simulation.gap import Actuators, Gap, Sensor, Value
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

TERMS = ["joint_positions", "joint_velocities", "pitch", "pitch_rate"]


@pytest.fixture(scope="module")
def hopper():
    return Robot.load("hopper")


def known(robot, **xi) -> Posterior:
    """A posterior that is certain of these values, and of the nominal ones elsewhere."""
    space = robot.space
    at = np.array([xi.get(n, v) for n, v in zip(space.names, space.nominal, strict=True)])
    return Posterior(
        robot.name, tuple(space.names), tuple(space.units), at[None], np.ones(1), space.low,
        space.high, space.prior().std(), 0.0, 0.0, 0.0, 1, {},
    )  # fmt: skip


@pytest.mark.parametrize(
    "xi",
    [{"action_latency": 6.0}, {"torso_mass": 1.6}, {"motor_strength": 0.75}],
    ids=lambda xi: next(iter(xi)),
)
def test_what_differs_is_what_the_mismatch_consists_of(logged, hopper, xi):
    episodes = logged(hopper, Gap(xi=xi), seed=3, episodes=8, ticks=60, terms=TERMS)
    other = {"joint_damping": 1.02}  # identified a little off, which explains nothing
    found = attribute(hopper, episodes, known(hopper, **other, **xi))
    first, *others = found.effects
    assert first.name == next(iter(xi))
    assert first.share.mean > 0.9
    assert found.explained.mean > 0.9
    assert any(e.share.mean != 0 for e in others)
    assert all(abs(e.share.mean) < 0.05 for e in others)
    assert found.rest.mean < 0.05
    assert first.name in found.sentence


def test_two_effects_share(logged, hopper):
    xi: dict[str, Value] = {"action_latency": 4.0, "motor_strength": 0.8}
    episodes = logged(hopper, Gap(xi=xi), seed=3, episodes=8, ticks=60, terms=TERMS)
    found = attribute(hopper, episodes, known(hopper, action_latency=4.0, motor_strength=0.8))
    assert {e.name for e in found.effects[:2]} == set(xi)
    assert all(e.share.low > 0.05 for e in found.effects[:2])
    half = attribute(hopper, episodes, known(hopper, action_latency=4.0))  # the control arm
    assert half.explained.mean < 0.8 * found.explained.mean
    assert half.rest.mean > 0.2


def test_noise_is_called_noise_and_stiction_is_not_in_the_model(hopper, logged):
    noise = {"joint_positions": Sensor(noise=0.005), "joint_velocities": Sensor(noise=0.1)}
    episodes = logged(hopper, Gap(sensors=noise), seed=3, episodes=10, ticks=72, terms=TERMS)
    noisy = attribute(hopper, episodes, known(hopper))
    assert noisy.noise.mean > 0.7
    assert noisy.rest.mean < 0.3
    for robot in (hopper, Robot.load("halfcheetah")):
        gap = Gap(actuators=Actuators(stiction=0.4, backlash=0.2))
        episodes = logged(robot, gap, seed=3, episodes=10, ticks=72)
        stuck = attribute(robot, episodes, known(robot))
        assert stuck.rest.mean > 0.8
        assert stuck.mismatch > 2 * noisy.mismatch


@pytest.mark.parametrize("size", [0.002, 0.01])
def test_the_size_of_the_noise(hopper, logged, size):
    sensors = {n: Sensor(noise=size) for n in ("joint_positions", "pitch")}
    how = {"seed": 1, "episodes": 10, "ticks": 72, "terms": TERMS}
    at, rng = np.array(hopper.space.nominal, float), np.random.default_rng(0)
    noise = sensor_noise(hopper, logged(hopper, Gap(sensors=sensors), **how), at, rng)
    assert noise[:3].mean() == pytest.approx(size, rel=0.35)
    gap = Gap(actuators=Actuators(stiction=0.4, backlash=0.2))  # the control arm
    assert sensor_noise(hopper, logged(hopper, gap, **how), at, rng)[:3].mean() < 0.002


def test_what_logs_cannot_reveal_moves_nothing(hopper, logged):
    """Floor friction, in episodes that end before the foot slips."""
    episodes = logged(hopper, Gap(xi={"action_latency": 4.0}), episodes=6, ticks=40, terms=TERMS)
    found = attribute(hopper, episodes, known(hopper, action_latency=4.0))
    by = {e.name: e.sensitivity for e in found.effects}
    assert by["floor_friction"] < 0.2 * by["motor_strength"]


def test_what_was_fixed_when_it_was_identified_is_no_effect(hopper, logged):
    episodes = logged(hopper, Gap(xi={"action_latency": 4.0}), episodes=2, ticks=40, terms=TERMS)
    posterior = known(hopper, action_latency=4.0)
    free = posterior.prior_std.copy()
    free[0] = 0.0
    found = attribute(hopper, episodes, replace(posterior, prior_std=free))
    named = {e.name for e in found.effects}
    assert named == set(hopper.space.names[1:])


def test_rates_that_are_differences_are_recognised():
    rng = np.random.default_rng(0)
    position = np.cumsum(rng.standard_normal((50, 2)), axis=0)
    rate = np.diff(position, axis=0, prepend=position[:1]) / 0.01
    obs = {"q": position.astype(np.float32), "v": rate.astype(np.float32)}
    assert differences(Trajectory(obs, np.zeros((49, 1))), 0.01) == {"v": "q"}
    obs["v"] += (0.1 * np.std(rate) * rng.standard_normal((50, 2))).astype(np.float32)
    assert differences(Trajectory(obs, np.zeros((49, 1))), 0.01) == {}


def test_motion_is_from_the_windows_start(hopper, logged):
    episodes = logged(hopper, None, episodes=4, ticks=40, terms=TERMS)
    observers = Observers(hopper, episodes, candidates=1)
    size = motion(observers.logged)
    moved = motion(observers.logged + 7.0)
    np.testing.assert_allclose(size, moved)
    assert (size > 0).all()


def test_wrong_physics_explains_nothing(hopper, logged):
    episodes = logged(hopper, Gap(xi={"torso_mass": 1.5}), episodes=6, ticks=60, terms=TERMS)
    found = attribute(hopper, episodes, known(hopper, motor_strength=0.7))
    assert found.explained.mean < 0
    assert "explains nothing" in found.sentence


def test_logs_in_which_nothing_moves_are_refused(hopper):
    obs = {n: np.zeros((40, hopper.terms[n].size)) for n in TERMS}
    with pytest.raises(InputError, match="nothing moves in the logs"):
        attribute(hopper, [Trajectory(obs, np.zeros((39, 3)))], known(hopper))


def test_a_posterior_of_another_robot_is_refused(hopper, logged):
    episodes = logged(hopper, None, episodes=2, ticks=40, terms=TERMS)
    other = known(Robot.load("halfcheetah"))
    with pytest.raises(InputError, match="identify it anew"):
        attribute(hopper, episodes, other)


def test_plain_data_and_rows(hopper, logged):
    episodes = logged(hopper, Gap(xi={"action_latency": 6.0}), episodes=4, ticks=40, terms=TERMS)
    found = attribute(hopper, episodes, known(hopper, action_latency=6.0))
    plain = found.to_dict()
    assert plain["effects"][0]["name"] == "action_latency"
    assert plain["effects"][0]["share"]["mean"] == found.effects[0].share.mean
    rows = found.rows()
    assert [r[0] for r in rows[-2:]] == ["sensors' noise", "nothing in the model"]
    assert rows[0][1:3] == ["6 ms", "0 ms"]


def test_the_command_says_what_the_mismatch_consists_of(logs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    robot = Robot.load("hopper")
    explain(robot, read_trajectories(logs, robot), candidates=16, rounds=3).save("posterior.json")
    words = ["gap", str(logs), "--env", "hopper", "--identified", "posterior.json"]
    assert main([*words, "--picture", "gap.png", "--json"]) == 0
    shares = json.loads(capsys.readouterr().out)["attribution"]
    assert {e["name"] for e in shares["effects"]} == set(robot.space.names)
    assert shares["explained"]["mean"] > 0.1  # the fixture's robot is worn
    assert shares["windows"] > 3
    assert Path("gap.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*words]) == 0
    assert "nothing in the model" in capsys.readouterr().out
    assert main([*words[:-1], "missing.json"]) == 2
    assert "missing.json: no such file" in capsys.readouterr().err
