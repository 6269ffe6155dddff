import math
from dataclasses import replace

import numpy as np
import pytest

from sim2real.deploy import safety
from sim2real.deploy.robots.base import ActuatorDescription, RobotDescription, TermDescription
from sim2real.deploy.safety import Guards, Wiring
from sim2real.types import InputError


def rotation(axis, angle):
    """Rodrigues: R = I + sin θ [k]× + (1 - cos θ) [k]×²"""
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def test_tilt_is_the_angle_between_the_verticals_in_every_representation():
    rng = np.random.default_rng(0)
    for _ in range(50):
        axis, angle = rng.normal(size=3), rng.uniform(-math.pi, math.pi)
        R = rotation(axis, angle)  # body to world
        truth = math.acos(np.clip(R[2, 2], -1, 1))
        gravity = R.T @ [0, 0, -1]
        unit = axis / np.linalg.norm(axis)
        quaternion = np.array([math.cos(angle / 2), *(math.sin(angle / 2) * unit)])
        assert safety.tilt(9.81 * gravity) == pytest.approx(truth, abs=1e-7)
        assert safety.tilt(-1.1 * quaternion) == pytest.approx(truth, abs=1e-7)
        assert safety.tilt(np.array([angle + 4 * math.pi])) == pytest.approx(abs(angle))


def test_limits():
    low, high = np.array([-1.0, -2.0]), np.array([1.0, 3.0])
    np.testing.assert_array_equal(safety.limit(np.array([-5.0, 5.0]), low, high), [-1, 3])
    last, rate = np.array([0.0, 1.0]), np.array([10.0, 1.0])
    moved = safety.limit_rate(np.array([-5.0, 1.001]), last, rate, 0.01)
    np.testing.assert_allclose(moved, [-0.1, 1.001])
    assert safety.limit_rate(moved, last, None, 0.01) is moved


def test_what_is_not_finite_is_named(contract):
    obs = {"position": np.array([0.0, np.nan]), "velocity": np.zeros(2), "pitch": np.zeros(1)}
    assert safety.not_finite(obs, contract.observations) == (
        "observation term 'position' gave nan at place 1"
    )
    named = replace(contract.observations[0], elements=("hip", "knee"))
    assert "(knee)" in (safety.not_finite(obs, (named,)) or "")
    obs["position"][1] = 0
    obs["other"] = np.array([np.nan])  # a term that the policy does not take
    assert safety.not_finite(obs, contract.observations) is None


def test_stale_holds_then_stops_and_a_fresh_sample_starts_the_count_anew(contract):
    guards = Guards(contract)  # 50 ms, 3 ticks
    old, new = 0.06, 0.04
    ages = [old, old, new, old, old, old]
    verdicts = [guards.age(age) for age in ages]
    assert [v.ok for v in verdicts] == [False, False, True, False, False, False]
    assert [v.stop is not None for v in verdicts] == [False] * 5 + [True]
    assert verdicts[-1].stop == (
        "stale: the newest observation is 60 ms old; at most 50 ms are allowed"
    )


def test_not_finite_holds_then_stops(contract):
    guards = Guards(contract)  # 2 ticks
    verdicts = [guards.finite(x) for x in ("a", None, "a", "pitch gave nan")]
    assert [v.ok for v in verdicts] == [False, True, False, False]
    assert [v.stop for v in verdicts] == [None, None, None, "not finite: pitch gave nan"]


def test_tilt_stops_at_once(contract):
    guards = Guards(contract)  # 1 rad
    assert guards.upright({"pitch": np.array([-0.99])}).ok
    stop = guards.upright({"pitch": np.array([-1.01])}).stop
    assert stop == "tilt: 1.01 rad by 'pitch'; at most 1.00 rad are allowed"
    off = replace(contract, safety=replace(contract.safety, max_tilt=None, tilt_term=None))
    assert Guards(off).upright({"pitch": np.array([3.0])}).ok


def test_late_stops_when_the_window_holds_too_many(contract):
    guards = Guards(contract)  # 10 of 100
    for _ in range(50):  # 9 in any window of 100: never
        assert all(guards.late(t % 11 == 0 and t < 99).stop is None for t in range(100))
    guards = Guards(contract)
    stops = [guards.late(True).stop for _ in range(10)]
    assert stops[:9] == [None] * 9
    assert stops[9] == "late: 10 of the last 10 ticks missed their deadline"


@pytest.fixture
def robot(contract):
    c = contract.commands
    return RobotDescription(
        "point",
        tuple(TermDescription(t.name, t.size, t.unit, t.elements) for t in contract.observations),
        ActuatorDescription(c.names[::-1], c.unit, (-9.0, -1.0), (9.0, 9.0)),
        contract.control_period,
        False,
        True,
        100,
    )


def test_commands_are_joined_by_name_and_limits_intersected(contract, robot):
    wiring = Wiring.join(contract, robot)
    command = np.array([10.0, 20.0])  # fx, fy
    np.testing.assert_array_equal(command[wiring.order], [20, 10])  # the robot's: fy, fx
    np.testing.assert_array_equal(wiring.low, [-1.0, -2.0])
    np.testing.assert_array_equal(wiring.high, contract.commands.high)


def first_term(**edit):
    return lambda r: replace(r, terms=(replace(r.terms[0], **edit), *r.terms[1:]))


def actuators(**edit):
    return lambda r: replace(r, actuators=replace(r.actuators, **edit))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda r: replace(r, control_period=0.02), r"period of 0.02 s.*trained at 0.01 s"),
        (lambda r: replace(r, terms=r.terms[1:]), r"sends no term 'position'"),
        (first_term(size=3), r"size is 3.*needs 2"),
        (first_term(unit="mm"), r"unit is mm.*needs m"),
        (first_term(elements=("b", "a")), r"elements is \('b', 'a'\)"),
        (actuators(names=("fx", "fz")), r"fx, fz.*fx, fy"),
        (actuators(names=("fx", "fy", "fz")), r"fx, fy, fz"),
        (actuators(unit="N m"), r"\[N m\]"),
        (actuators(low=(8.0, 0.0)), r"'fy'.*do not meet"),
    ],
)
def test_another_robot_is_refused(contract, robot, edit, sentence):
    with pytest.raises(InputError, match=sentence):
        Wiring.join(contract, edit(robot))
