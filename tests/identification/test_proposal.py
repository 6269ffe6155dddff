"""A motion is safe on every robot it may meet, and says what it reveals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sim2real.cli import main
from sim2real.identification import proposal
from sim2real.identification.proposal import multisine, noisy, propose, stages
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError


def load(name: str) -> MjcfRobot:
    robot = Robot.load(name)
    assert isinstance(robot, MjcfRobot)
    return robot


ARM, HOPPER = load("ur10e_reach"), load("hopper")


@pytest.fixture(scope="module")
def arm():
    told = []
    found = propose(ARM, seconds=3, report=lambda done, figures: told.append(done))
    return found, told


def test_the_motion_begins_and_ends_at_rest_within_its_share(arm):
    found, told = arm
    low, high = ARM.command_range
    away = (found.command - ARM.task.rest) / ((high - low) / 2)
    assert found.command.shape == (round(3 / ARM.control_period), 6)
    np.testing.assert_allclose(away[[0, -1]], 0, atol=1e-9)
    assert np.abs(away).max() <= found.share + 1e-6
    assert told[-1] == stages(policy=False)
    assert found.tried == 15


def test_it_is_safe_on_robots_that_it_was_not_rehearsed_on(arm):
    found, _ = arm
    worlds = Worlds(ARM, 8, observe="measured", seed=77, threads=1)
    worlds.reset(xi=ARM.space.prior().sample(np.random.default_rng(77), 8))
    least = np.inf
    for command in found.command:
        assert not worlds.advance(np.tile(command, (8, 1))).terminated.any()
        least = min(least, proposal._spare(ARM.model, worlds.data["qpos"]).min())
    assert least > proposal.SPARE / 2
    assert found.spare >= proposal.SPARE


def test_larger_motions_tell_more_and_the_most_telling_is_taken(arm, monkeypatch):
    found, _ = arm
    monkeypatch.setattr(proposal, "SHARES", (0.02,))
    small = propose(ARM, seconds=3)
    assert found.share > 0.1
    assert np.mean([e.left for e in found.parameters]) < np.mean([e.left for e in small.parameters])
    by = {e.name: np.mean(e.left) for e in found.parameters}
    assert set(sorted(by, key=lambda name: by[name])[:2]) == {"payload", "torque_limit"}
    assert all(e.revealed for e in found.parameters)


def test_a_robot_that_falls_needs_a_policy():
    with pytest.raises(InputError, match=r"hopper: none of 15 motions is safe.*--policy"):
        propose(HOPPER, seconds=3)


def standing(robots: int):
    """Sends nothing, and falls within two seconds."""

    def act(obs, first):
        assert obs.shape == (robots, 6)
        return np.zeros((robots, 3))

    return act


def test_noise_on_a_policy_is_judged_against_the_policy_itself(monkeypatch):
    observe = ["joint_positions", "joint_velocities"]
    monkeypatch.setattr(proposal, "SHARES", (0.001, 0.4))
    found = propose(HOPPER, standing, observe=observe, seconds=3)
    assert (found.tried, found.unsafe) == (2, 1)
    assert found.share == 0.001  # with 0.4 it falls several times as soon
    assert found.falls_per_minute > 10
    assert found.command is None
    with pytest.raises(InputError, match="no motion to write"):
        found.csv()
    monkeypatch.setattr(proposal, "SHARES", (0.4,))
    with pytest.raises(InputError, match="falls at once, or more often with the least noise"):
        propose(HOPPER, standing, observe=observe, seconds=3)


def test_what_only_the_simulator_knows_is_not_counted():
    made = proposal._rehearse(HOPPER, 30, 0, lambda obs, t: np.zeros(3), ["v5"])
    assert set(made.logs[0].obs) == {t.name for t in HOPPER.observation("measured")}


def test_a_joint_that_begins_at_the_end_of_its_range_exempts_no_other():
    made = proposal._rehearse(load("go1"), 20, 0, lambda obs, t: load("go1").task.rest, [])
    assert made.within
    assert made.spare > proposal.SPARE


def test_multisine_is_within_one_and_no_faster_than_asked():
    signal = multisine(500, 3, 0.02, 1.0, np.random.default_rng(0))
    assert np.abs(signal).max() == pytest.approx(1)
    power = np.abs(np.fft.rfft(signal, axis=0)) ** 2
    fast = np.fft.rfftfreq(500, 0.02) > 1.2  # the ramp smears a little
    assert power[fast].sum() < 0.01 * power.sum()
    assert abs(np.corrcoef(signal.T)[0, 1]) < 0.5


def test_noise_is_for_sensors_not_for_commands():
    worlds = Worlds(HOPPER, 1, observe="measured", seed=0, threads=1)
    obs = worlds.reset()
    names = [t.name for t in worlds.terms]
    parts = np.split(obs, np.cumsum([t.size for t in worlds.terms])[:-1], axis=1)
    log = proposal.Trajectory(
        {n: np.tile(x, (400, 1)) for n, x in zip(names, parts, strict=True)}, np.zeros((399, 3))
    )
    told = noisy(HOPPER, log, np.random.default_rng(0))
    assert np.std(told.obs["joint_positions"] - log.obs["joint_positions"]) == pytest.approx(
        0.005, rel=0.1
    )
    np.testing.assert_array_equal(told.obs["last_action"], log.obs["last_action"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fetch_reach"], "whose steps are opaque"),
        (["ur10e_reach", "--seconds", "1"], "a motion needs at least 2"),
        (["hopper", "--policy", "p", "--out", "x.csv"], "there is none to write"),
    ],
)
def test_what_cannot_be_proposed_is_said(words, said, capfd):
    assert main(["excite", *words]) == 2
    assert said in capfd.readouterr().err


def test_the_command_writes_a_table(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(proposal, "SHARES", (0.1,))
    monkeypatch.setattr(proposal, "FASTEST", (1.0,))
    assert main(["excite", "ur10e_reach", "--seconds", "3", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["motion"] == "excitation.csv"
    assert {"name", "left", "revealed", "unit"} == set(said["parameters"][0])
    table = np.loadtxt("excitation.csv", delimiter=",", skiprows=1)
    ticks = round(3 / ARM.control_period)
    assert table.shape == (ticks, 7)
    assert table[-1, 0] == pytest.approx((ticks - 1) * ARM.control_period)
    head = (tmp_path / "excitation.csv").read_text().splitlines()[0].split(",")
    assert head == ["time", *ARM.actuators]
