"""Where simulation and robot differ: simulated robots whose gap is known are told apart."""

from __future__ import annotations

import json
from typing import cast

import pytest
from scipy import stats

from sim2real.identification.trajectories import read_trajectories
from sim2real.localization.localize import STAGES, localize
from sim2real.simulation.edits import Edit
from sim2real.simulation.gap import Actuators, Gap, Latency, Sensor
from sim2real.simulation.robot import MjcfRobot, Robot

HOPPER, CHEETAH = (cast(MjcfRobot, Robot.load(name)) for name in ("hopper", "halfcheetah"))
NOISE = {"joint_positions": 0.01, "joint_velocities": 0.1, "pitch": 0.01, "pitch_rate": 0.1}
NOISY = Gap(sensors={name: Sensor(noise=size) for name, size in NOISE.items()})


def damped(joint, factor=3.0):
    return Gap(edits=[Edit("dof_damping", factor, select=joint)])


def test_no_gap_is_a_finding_in_at_most_a_twentieth_of_trials(found):
    """The base of the cheetah is not measured, so nothing that is simulated equals the log."""
    answers = [found(CHEETAH, seed=s) for s in range(40)]
    findings = sum(a.kind != "none" for a in answers)
    assert findings <= 2
    assert min(a.terms[0].share for a in answers) > 0.05  # a threshold on size would find a gap
    assert stats.kstest([a.p for a in answers], "uniform", alternative="greater").pvalue > 0.01


def test_no_gap_in_exact_logs_is_none(found):
    answer = found(HOPPER, terms=["v5"], episodes=16, ticks=30)
    assert answer.kind == "none"
    assert answer.terms[0].share < 1e-6


def test_one_damped_joint_is_ranked_first(found):
    first = [found(CHEETAH, damped("fthigh"), seed=s).joints[:1] for s in range(20)]
    assert sum(bool(j) and j[0].name == "fthigh" for j in first) >= 18


@pytest.mark.parametrize("joint", ["bthigh", "bshin", "ffoot"])
def test_another_damped_joint_is_another_answer(joint, found):
    assert found(CHEETAH, damped(joint), seed=3).joints[0].name == joint


def test_where_all_is_logged_the_damped_joint_explains_all_and_its_neighbour_less(found):
    answer = found(HOPPER, damped("thigh_joint"), terms=["v5"], episodes=16, ticks=30)
    assert answer.kind == "dynamics"
    assert answer.joints[0].name == "thigh_joint"
    assert answer.joints[0].share > 0.99
    assert answer.joints[1].share < 0.8
    assert "thigh_joint alone" in answer.sentence


def test_a_weak_motor_is_found_at_its_joint(found):
    gap = Gap(actuators=Actuators(weak={"bshin": 0.6}))
    assert found(CHEETAH, gap).joints[0].name == "bshin"


def test_a_heavier_torso_is_no_joint_of_a_leg(found):
    answer = found(CHEETAH, Gap(xi={"torso_mass": 1.5}))
    assert answer.kind == "dynamics"
    assert answer.joints[0].name in ("rootx", "rootz", "rooty")
    assert "no joint explains it alone" in answer.sentence


@pytest.mark.parametrize("robot", [CHEETAH, HOPPER], ids=lambda r: r.name)
def test_noise_alone_is_an_observation_gap(robot, found):
    how = {"episodes": 6, "ticks": 50} if robot is CHEETAH else {"episodes": 16, "ticks": 30}
    answers = [found(robot, NOISY, seed=s, **how) for s in range(5)]
    assert sum(a.kind == "observation" and "noise" in a.sentence for a in answers) >= 4
    assert all(a.latency_ms == 0 for a in answers)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("where", ["actuators", "sensors"])
def test_delay_alone_is_an_observation_gap_and_its_size_is_said(where, share, found):
    ms = 1000 * share * CHEETAH.control_period
    gap = Gap(latency=Latency(**{"sensors": {"observation_ms": ms}}.get(where, {"action_ms": ms})))
    for seed in range(3):
        answer = found(CHEETAH, gap, seed=seed)
        assert answer.kind == "observation"
        assert "late" in answer.sentence
        assert answer.latency_ms == pytest.approx(ms, abs=15)  # in steps of a physics step
        assert answer.joints == ()


def test_latency_of_a_period_is_the_same_for_commands_and_for_sensors(found):
    """They cannot be told apart, and the sentence says so."""
    ms = 1000 * HOPPER.control_period
    for latency in (Latency(action_ms=ms), Latency(observation_ms=ms)):
        gap = Gap(latency=latency)
        answer = found(HOPPER, gap, terms=["v5"], episodes=16, ticks=30)
        assert answer.latency_ms == ms
        assert answer.latency_share > 0.95
        assert "logs do not tell" in answer.sentence


def test_logs_of_a_run_are_localized(logs):
    """The hopper of the fixture has the gap `worn`; two short episodes may be too few to say so."""
    told = []
    answer = localize(logs, "hopper", report=lambda done, figures: told.append(done))
    assert answer.kind in ("dynamics", "observation", "unknown")
    assert told[-1] == STAGES
    assert answer.episodes == len(read_trajectories(logs, HOPPER))
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False))["env"] == "hopper"
