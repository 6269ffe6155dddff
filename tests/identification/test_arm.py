"""An arm from recordings: against a simulated one whose parameters are known."""

import json
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest

from sim2real import cli
from sim2real.identification import arm as arm_module
from sim2real.identification.arm import (
    Arm,
    Motion,
    Recording,
    compare_arm,
    fit_arm,
    motion_of,
    nominal_arm,
    relative_error,
)
from sim2real.identification.recordings import read_recording, read_recordings
from sim2real.identification.regressor import parameters, pseudo_inertia
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

ROBOT: Any = Robot.load("ur10e")
MODEL = ROBOT.model
LOAD = np.array([3.0, 0.03, -0.06, 0.24, 0.03, 0.032, 0.01, 0.001, 0.002, 0.004])


def truth() -> Arm:
    """Heavier links here and lighter ones there, other friction, drives 10 % off."""
    rng = np.random.default_rng(5)
    nominal = nominal_arm(MODEL, "ur10e")
    inertia = parameters(MODEL).reshape(6, 10) * rng.uniform(0.93, 1.07, (6, 1))
    pick = lambda x, low, high: (np.array(x) * rng.uniform(low, high, 6)).tolist()  # noqa: E731
    return replace(
        nominal, inertia=inertia.tolist(), coulomb=pick(nominal.coulomb, 0.5, 1.5),
        load_share=rng.uniform(0.02, 0.08, 6).tolist(), viscous=pick(nominal.viscous, 0.5, 1.5),
        rotor=pick(nominal.rotor, 0.6, 1.4), offset=rng.uniform(-0.3, 0.3, 6).tolist(),
        gain=pick(nominal.gain, 0.95, 1.05), load=LOAD.tolist(),
    )  # fmt: skip


def recording(
    seed: int,
    loaded: bool = False,
    noise: float = 0.05,
    seconds: float = 30,
    arm: Arm | None = None,
) -> Recording:
    """Harmonics of all joints, with the current that the true arm needs for them, measured."""
    rng = np.random.default_rng(seed)
    t = np.arange(0, seconds, 0.01)
    w = 2 * np.pi * 0.1 * np.arange(1, 7)
    a, b = rng.normal(size=(2, 6, 6)) / np.arange(1, 7)
    a -= (a * w).sum(axis=1, keepdims=True) / (w**2).sum() * w  # at rest in the beginning
    q = np.sin(np.outer(t, w)) @ a.T + (np.cos(np.outer(t, w)) - 1) @ b.T
    size = 1.2 / np.abs(q).max(axis=0)
    v = (np.cos(np.outer(t, w)) * w) @ a.T - (np.sin(np.outer(t, w)) * w) @ b.T
    acc = -(np.sin(np.outer(t, w)) * w**2) @ a.T - (np.cos(np.outer(t, w)) * w**2) @ b.T
    q, v, acc = q * size + (0, -1.5, 1.0, -1.5, 0, 0), v * size, acc * size
    moved = Motion(q, v, acc, np.zeros_like(q), 0.01)
    needed = (arm or truth()).current(MODEL, moved, loaded=loaded)
    current = needed + noise * rng.normal(size=q.shape)
    noisy = v + 0.002 * rng.normal(size=v.shape)
    return Recording(f"{seed}", 0.01, q + 1e-4 * rng.normal(size=q.shape), noisy, current)


@pytest.fixture(scope="module")
def found() -> Arm:
    return fit_arm(MODEL, "ur10e", [recording(1), recording(2)], [recording(1, loaded=True)])


def test_the_currents_of_another_motion_are_predicted(found):
    other = recording(9)
    rows = compare_arm(MODEL, other, found)["joints"]
    assert all(row["identified"] < 0.4 * row["nominal"] for row in rows)
    best = compare_arm(MODEL, other, truth())["joints"]
    for row, true in zip(rows, best, strict=True):  # close to what the truth leaves: the noise
        assert row["identified"] < true["identified"] + 0.02


def test_every_link_is_one_that_a_body_can_have(found):
    for theta in [*np.array(found.inertia), np.array(found.load)]:
        assert np.linalg.eigvalsh(pseudo_inertia(theta)).min() > 0
    for part in ("coulomb", "load_share", "viscous", "rotor", "gain"):
        assert min(getattr(found, part)) > 0


def test_the_load_is_found_and_its_interval_holds_it(found):
    mass, low, high = found.load_mass
    assert low < LOAD[0] < high
    assert high - low < 1.2
    assert mass == pytest.approx(LOAD[0], rel=0.12)
    np.testing.assert_allclose(np.array(found.load[1:4]) / mass, LOAD[1:4] / LOAD[0], atol=0.02)
    other = recording(9, loaded=True)
    with_load = compare_arm(MODEL, other, found, loaded=True)["joints"]
    without = compare_arm(MODEL, other, found)["joints"]
    assert np.mean([r["identified"] for r in with_load]) < 0.06
    assert np.mean([r["identified"] for r in without]) > 0.15


def test_the_interval_holds_the_load_of_other_arms():
    """Links off by a common 4 % and 10 % each, drives by 20 % each, a load of 0.5 to 8 kg: a 95 %
    interval misses none or one of six (three or more with a chance of 0.002)."""
    inside = 0
    for seed in range(6):
        rng = np.random.default_rng(100 + seed)
        mass = rng.uniform(0.5, 8)
        scale = np.exp(0.04 * rng.normal()) * rng.uniform(0.9, 1.1, (6, 1))
        arm = replace(
            truth(), inertia=(parameters(MODEL).reshape(6, 10) * scale).tolist(),
            gain=(np.array(nominal_arm(MODEL).gain) * np.exp(0.2 * rng.normal(size=6))).tolist(),
            load=(mass * np.array([1, 0.01, -0.02, 0.06, 0.012, 0.012, 0.006, 0, 0, 0])).tolist(),
        )  # fmt: skip
        plain = [recording(3 * seed + k, arm=arm) for k in (0, 1)]
        made = fit_arm(MODEL, "ur10e", plain, [recording(3 * seed, loaded=True, arm=arm)])
        assert made.load_mass is not None
        _, low, high = made.load_mass
        inside += low < mass < high
        assert (high - low) / mass < 0.4
        ratio = np.array(made.gain) / np.array(arm.gain)  # one common scale is left
        np.testing.assert_allclose(ratio / ratio.mean(), 1.0, atol=0.06)
    assert inside >= 4


def test_friction_is_found(found):
    true = truth()
    share = np.array(true.gain) / np.array(found.gain)  # all torques have one common scale
    viscous = np.array(found.viscous) * share / np.array(true.viscous)
    np.testing.assert_allclose(viscous, 1.0, atol=0.1)
    coulomb = np.array(found.coulomb) * share / np.array(true.coulomb)
    np.testing.assert_allclose(coulomb, 1.0, atol=0.15)


def test_without_the_prior_bodies_become_impossible(monkeypatch):
    """Control arm: least squares alone gives links that no body can have."""
    motion = motion_of(recording(1))
    Y = arm_module.regressor(MODEL, motion.position, motion.velocity, motion.acceleration)
    body = Y @ parameters(MODEL)
    friction = arm_module._friction(motion, body)
    A = np.zeros((len(body), 6, 90))
    A[:, :, :60] = Y
    for j in range(6):
        A[:, j, 60 + 5 * j : 65 + 5 * j] = friction[:, j]
    torque = motion.current * np.array(truth().gain)
    theta = np.linalg.lstsq(A.reshape(-1, 90), torque.ravel(), rcond=1e-9)[0][:60].reshape(6, 10)
    assert min(np.linalg.eigvalsh(pseudo_inertia(t)).min() for t in theta) < 0


def test_the_error_of_a_perfect_prediction_is_zero_and_of_none_is_one():
    x = np.sin(np.arange(500)[:, None] / 20) * np.ones(6)
    assert relative_error(x, x, 0.01) == pytest.approx(np.zeros(6), abs=1e-12)
    assert relative_error(x, 0 * x, 0.01) == pytest.approx(np.ones(6))


def test_it_is_kept_and_read_again(found, tmp_path):
    found.save(tmp_path / "arm.json")
    again = Arm.read(tmp_path / "arm.json")
    assert again.joints == found.joints
    motion = motion_of(recording(9))
    np.testing.assert_array_equal(again.current(MODEL, motion), found.current(MODEL, motion))
    (tmp_path / "other.json").write_text('{"env": "x"}')
    with pytest.raises(InputError, match=r"other\.json"):
        Arm.read(tmp_path / "other.json")
    with pytest.raises(InputError, match="no load was identified"):
        replace(found, load=None).current(MODEL, motion, loaded=True)


def write(path, r, columns=None):
    t = r.period * np.arange(len(r.position))
    empty = np.zeros((len(t), 12))
    table = np.column_stack([t, r.position, r.velocity, r.current, empty])
    table = table if columns is None else columns(table)
    np.savetxt(path, table, delimiter=",", fmt="%.6f")
    return path


def swapped(table, a, b):
    table = table.copy()
    table[:, [a, b]] = table[:, [b, a]]
    return table


def changed(column, change):
    def of(table):
        table = table.copy()
        table[:, column] = change(table[:, column])
        return table

    return of


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (lambda t: t[:, :-1], "30 columns; .* says 31: time \\(1\\), position \\(6\\)"),
        (lambda t: swapped(t, 7, 9), "shoulder_pan_joint: the velocity is not the position's slope "
                                     ".*; it is that of elbow_joint: the columns are in another"),
        (changed(3, np.rad2deg), "elbow_joint: the position is in degrees and the velocity in rad"),
        (changed(9, np.rad2deg), "elbow_joint: the velocity is in degrees and the position in rad"),
        (changed(8, np.negative), "shoulder_lift_joint: position and velocity have opposite signs"),
        (changed(4, lambda x: 0 * x + 1), "wrist_1_joint: the position never changes .* a stuck"),
        (changed(10, lambda x: 0 * x), "wrist_1_joint: the velocity never leaves zero"),
        (changed(15, lambda x: 0 * x + 1), "elbow_joint: the current never changes"),
        (changed(0, lambda t: np.where(t > 5, t + 0.5, t)), "row 502: 0.51 s without a sample"),
        (changed(0, lambda t: np.where(t > 5, t - 0.5, t)), "row 502: time does not increase"),
        (changed(2, lambda x: np.where(np.arange(len(x)) == 7, np.nan, x)),
         "line 8, column 3: nan; every value must be finite"),
        (lambda t: t[:50], "50 samples; give at least 100"),
    ],
)  # fmt: skip
def test_a_recording_that_is_wrong_is_refused_by_name(tmp_path, columns, says):
    path = write(tmp_path / "a.csv", recording(1, seconds=12), columns)
    with pytest.raises(InputError, match=says):
        read_recording(path, ROBOT)


def test_a_recording_is_read_as_it_is(tmp_path):
    r = recording(1, seconds=12)
    read = read_recording(write(tmp_path / "a.csv", r), ROBOT)
    assert read.period == pytest.approx(0.01)
    np.testing.assert_allclose(read.position, r.position, atol=1e-6)
    np.testing.assert_allclose(read.current, r.current, atol=1e-6)


def test_a_robot_without_columns_says_how_to_name_them(tmp_path):
    with pytest.raises(InputError, match="recordings is missing; name the columns of"):
        read_recordings([write(tmp_path / "a.csv", recording(1, seconds=12))], Robot.load("hopper"))


def test_an_arm_that_rests_is_refused():
    r = recording(1, seconds=12)
    with pytest.raises(InputError, match="moves for less than two seconds"):
        motion_of(r._replace(velocity=0 * r.velocity))


def test_the_load_alone_is_not_enough():
    with pytest.raises(InputError, match="no recording without a load"):
        fit_arm(MODEL, "ur10e", [], [recording(1, loaded=True)])


def test_a_servo_is_not_a_motor_with_a_current():
    reach: Any = Robot.load("ur10e_reach")
    with pytest.raises(InputError, match="needs one motor whose command is a current"):
        fit_arm(reach.model, "ur10e_reach", [recording(1)])


def test_the_commands_do_it(tmp_path, capfd):
    files = [str(write(tmp_path / f"{s}.csv", recording(s, seconds=20))) for s in (1, 2)]
    load = str(write(tmp_path / "l.csv", recording(1, loaded=True, seconds=20)))
    out = str(tmp_path / "arm.json")
    assert cli.main(["identify", *files, "--load", load, "--env", "ur10e", "--out", out]) == 0
    told = capfd.readouterr().out
    assert "load: " in told
    assert "wrist_3" in told
    other = str(write(tmp_path / "9.csv", recording(9, seconds=20)))
    assert cli.main(["gap", other, "--env", "ur10e", "--identified", out, "--json"]) == 0
    (found,) = json.loads(capfd.readouterr().out)["recordings"]
    assert all(row["identified"] < row["nominal"] for row in found["joints"])
    assert cli.main(["gap", other, "--env", "ur10e"]) == 0
    told = capfd.readouterr().out
    assert "9.csv: what is left of the motor current, predicted by" in told
    assert "identified" not in told


def test_both_kinds_of_logs_at_once_are_refused(capfd):
    assert cli.main(["identify", "a.csv", "logs", "--env", "ur10e"]) == 2
    assert "a.csv is a CSV recording and logs is not: give one kind" in capfd.readouterr().err
    assert cli.main(["gap", "logs", "--env", "ur10e", "--loaded"]) == 2
    assert "goes with CSV recordings" in capfd.readouterr().err


def test_mujoco_needs_the_same_currents():
    """The nominal prediction, without the load share, is MuJoCo's own inverse dynamics."""
    motion = motion_of(recording(3, seconds=12))
    told = nominal_arm(MODEL).current(MODEL, motion) * np.array(nominal_arm(MODEL).gain)
    data = mujoco.MjData(MODEL)
    for k in range(0, len(told), 97):
        data.qpos[:], data.qvel[:] = motion.position[k], motion.velocity[k]
        data.qacc[:] = motion.acceleration[k]
        mujoco.mj_inverse(MODEL, data)
        dry = MODEL.dof_frictionloss * np.tanh(motion.velocity[k] / arm_module.SLOW)
        inverse = data.qfrc_inverse + data.qfrc_constraint  # dry friction is a constraint there
        np.testing.assert_allclose(told[k], inverse + dry, rtol=1e-6, atol=1e-3)
