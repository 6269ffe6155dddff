"""A real UR10e: what the identified arm predicts, held against two references.

    pip install pin
    python tools/study_ur10e.py FOLDER

FOLDER holds the recordings of S. Mamedov et al. (shamilmamedov/dynamic_calibration, folder
dataset_ur10e/identification_data; Frontiers in Robotics and AI, 2020). Every recording without a
load is left out in turn and predicted from the others, by

- the nominal model, with the friction that envs/ur10e assumes;
- ordinary least squares on the base parameters, with Coulomb (sign) and viscous friction, an offset
  and the rotors' inertia; the regressor is pinocchio's, from the URDF's figures, not ours;
- `sim2real identify`.

All three see the same filtered motion, and errors are relative root mean squares of the current
after the same low-pass filter. Then the load is identified from all recordings. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sim2real.identification.arm import (
    CUTOFF,
    Motion,
    _filtered,
    _gains,
    compare_arm,
    fit_arm,
    motion_of,
    relative_error,
)
from sim2real.identification.recordings import read_recordings
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array


def pinocchio() -> Any:
    try:
        return importlib.import_module("pinocchio")
    except ImportError:
        sys.exit("the independent reference needs pinocchio: pip install pin")


def pinocchio_model(pin: Any) -> Any:
    """The arm as pinocchio has it, from the figures in build_ur10e.py."""
    sys.path.insert(0, str(Path(__file__).parent))
    figures = importlib.import_module("build_ur10e")

    model, above = pin.Model(), 0
    for name, (at, rpy, mass, centre, frame, moments) in figures.LINKS.items():
        place = pin.SE3(pin.rpy.rpyToMatrix(*map(float, rpy)), np.array(at, float))
        above = model.addJoint(above, pin.JointModelRZ(), place, name)
        xx, yy, zz, xy, xz, yz = moments
        R = pin.rpy.rpyToMatrix(*map(float, frame))
        inertia = R @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ R.T
        body = pin.Inertia(float(mass), np.array(centre, float), inertia)
        model.appendBodyToJoint(above, body, pin.SE3.Identity())
    return model


def least_squares(fit: list[Motion], test: Motion, gain: Array) -> Array:
    """(T, J) predicted currents [A]."""
    pin = pinocchio()
    model = pinocchio_model(pin)
    data = model.createData()

    def columns(m: Motion) -> Array:
        J = m.position.shape[1]
        Y = np.stack(
            [
                pin.computeJointTorqueRegressor(model, data, q, v, a)
                for q, v, a in zip(m.position, m.velocity, m.acceleration, strict=True)
            ]
        )  # (T, J, 60)
        friction = np.zeros((len(Y), J, 4 * J))
        parts = (np.sign(m.velocity), m.velocity, np.ones_like(m.velocity), m.acceleration)
        for j in range(J):
            for k, part in enumerate(parts):
                friction[:, j, 4 * j + k] = part[:, j]
        return np.concatenate((Y, friction), axis=2) / gain[:, None]

    rate = 1 / test.period
    every = round(rate / (2.5 * CUTOFF))
    A = np.concatenate([_filtered(columns(m), CUTOFF, rate)[::every] for m in fit])
    b = np.concatenate([_filtered(m.current, CUTOFF, rate)[::every] for m in fit])
    weight, x = np.ones(b.shape[1]), np.zeros(A.shape[2])
    for _ in range(4):  # joints weighted by what is left of them
        flat = (A * weight[:, None]).reshape(-1, A.shape[2])
        x = np.linalg.lstsq(flat, (b * weight).ravel(), rcond=1e-8)[0]
        weight = 1 / (b - A @ x).std(axis=0)
    return columns(test) @ x


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    robot = Robot.load("ur10e")
    assert isinstance(robot, MjcfRobot)
    model, gain = robot.model, _gains(robot.model)
    files = sorted(options.folder.glob("*.csv"))
    plain = read_recordings([f for f in files if "Load" not in f.name], robot)
    loaded = read_recordings([f for f in files if "Load" in f.name], robot)
    rows: list[Array] = []
    for out in plain:
        rest = [r for r in plain if r is not out]
        test = motion_of(out)
        arm = fit_arm(model, "ur10e", rest)
        joints = compare_arm(model, out, arm)["joints"]
        told = least_squares([motion_of(r) for r in rest], test, gain)
        squares = relative_error(test.current, told, test.period)
        rows.append(
            np.array([[j["nominal"] for j in joints], squares, [j["identified"] for j in joints]])
        )
    names = ("nominal", "least squares", "identified")
    heads = " | ".join(f"joint {j + 1}" for j in range(6))
    print(f"| left out | predicted by | {heads} | mean |")
    print("|---|---|" + "--:|" * 7)
    for out, row in [*((r.name, x) for r, x in zip(plain, rows, strict=True)),
                     ("**mean**", np.mean(rows, axis=0))]:  # fmt: skip
        for name, errors in zip(names, row, strict=True):
            cells = " | ".join(f"{100 * e:.1f}" for e in (*errors, errors.mean()))
            print(f"| {out} | {name} | {cells} |")
            out = ""
    arm = fit_arm(model, "ur10e", plain, loaded)
    assert arm.load_mass is not None
    mass, low, high = arm.load_mass
    print(f"\nLoad: {mass:.2f} kg, 95 % interval {low:.2f} to {high:.2f} kg.")
    for r in loaded:
        for said, with_load in (("with", True), ("without", False)):
            joints = compare_arm(model, r, arm, loaded=with_load)["joints"]
            told = ", ".join(f"{100 * j['identified']:.1f}" for j in joints)
            print(f"{r.name} {said} its load: {told} %.")
    print("\nIdentified gains [N m/A]: " + ", ".join(f"{g:.2f}" for g in arm.gain) + ".")


if __name__ == "__main__":
    main()
