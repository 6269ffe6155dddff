"""Writes the models of envs/ur10e and envs/ur10e_reach from public figures of the UR10e.

    python tools/build_ur10e.py            write them
    python tools/build_ur10e.py --check    say whether they are up to date

Every figure stands here once, with its source. The two differ in what a command is: a motor
current, or a joint position that a servo holds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

ENVS = Path(__file__).resolve().parent.parent / "envs"

# --- Universal_Robots_ROS2_Description, commit 2221ec0f, config/ur10e (BSD-3-Clause) --------------
# default_kinematics.yaml: where the next link's joint is [m], and how it is turned [rad, x, y, z].
# physical_parameters.yaml: mass [kg], centre of mass [m], the turn of the frame that the inertia
# (xx, yy, zz, xy, xz, yz) [kg m2] about it is given in.
PI = np.pi
LINKS = {
    "shoulder": (
        (0, 0, 0.1807), (0, 0, 0), 7.369, (0.021, -0.027, 0.0), (PI / 2, 0, 0),
        (0.03408, 0.03529, 0.02156, 0.00002, -0.00425, 0.00008),
    ),
    "upper_arm": (
        (0, 0, 0), (PI / 2, 0, 0), 13.051, (-0.2327, 0.0, 0.158), (0, 0, 0),
        (0.02814, 0.77068, 0.76943, 0.00005, -0.01561, 0.00002),
    ),
    "forearm": (
        (-0.6127, 0, 0), (0, 0, 0), 3.989, (-0.33155, 0.0, 0.068), (0, 0, 0),
        (0.01014, 0.30928, 0.30646, 0.00008, 0.00916, 0.0),
    ),
    "wrist_1": (
        (-0.57155, 0, 0.17415), (0, 0, 0), 2.1, (0.0, -0.018, 0.007), (PI / 2, 0, 0),
        (0.00296, 0.00222, 0.00258, -0.00001, 0.0, -0.00024),
    ),
    "wrist_2": (
        (0, -0.11985, 0), (PI / 2, 0, 0), 1.98, (0.0, 0.018, -0.007), (-PI / 2, 0, 0),
        (0.00296, 0.00222, 0.00258, -0.00001, 0.0, -0.00024),
    ),
    "wrist_3": (
        (0, 0.11655, 0), (PI / 2, PI, PI), 0.615, (0.0, 0.0, -0.026), (0, 0, 0),
        (0.00040, 0.00041, 0.00034, 0.0, 0.0, 0.0),
    ),
}  # fmt: skip
JOINTS = "shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"
# joint_limits.yaml there: greatest torque [N m], speed [rad/s] and angle [rad] of each joint.
TORQUE = 330.0, 330.0, 150.0, 54.0, 54.0, 54.0
SPEED = tuple(np.deg2rad((120, 120, 180, 180, 180, 180)))
ANGLE = tuple(np.deg2rad((360, 360, 180, 360, 360, 360)))

# --- quoted beside the recordings of S. Mamedov et al., shamilmamedov/dynamic_calibration ---------
GAINS = (14.87, 13.26, 11.13, 10.62, 11.03, 11.47), (10.0, 10.7, 8.5, 9.0, 9.5, 10.1)
"""Of the drives, torque for current [N m/A]: by De Luca et al., and by S. Mamedov et al."""
GAIN = tuple(np.sqrt(np.prod(GAINS, axis=0)).round(2))
"""Between the two, which differ by factors of 1.14 to 1.49."""

# --- assumed -------------------------------------------------------------------------------------
THICK = 0.075, 0.06, 0.055, 0.045, 0.045, 0.04  # of the links, for the picture and the ground [m]
DRY = 15.0, 15.0, 9.0, 2.0, 2.0, 2.0  # friction of the joints [N m]
VISCOUS = 15.0, 15.0, 9.0, 2.0, 2.0, 2.0  # [N m s/rad]
ROTOR = 1.5, 1.5, 0.8, 0.15, 0.15, 0.15  # inertia of the rotors at the joint [kg m2]
STIFFNESS = 6000.0, 6000.0, 4000.0, 800.0, 800.0, 800.0  # of the position servos [N m/rad]
DAMPING = 600.0, 600.0, 300.0, 40.0, 40.0, 40.0  # [N m s/rad]
HOME = 0.0, -PI / 2, PI / 2, -PI / 2, -PI / 2, 0.0
REACH = 1.5
"""How far a commanded position may lie from `home` [rad]."""


def numbers(values: object) -> str:
    return " ".join(f"{v + 0.0:.10g}" for v in np.asarray(values, float).ravel().round(10))


def turned(rpy: tuple) -> np.ndarray:
    return Rotation.from_euler("xyz", rpy).as_matrix()


def quat(rpy: tuple) -> str:
    x, y, z, w = Rotation.from_euler("xyz", rpy).as_quat()
    return numbers((w, x, y, z))


def link(j: int) -> str:
    """Link j and what hangs on it."""
    name = list(LINKS)[j]
    at, rpy, mass, centre, frame, (xx, yy, zz, xy, xz, yz) = LINKS[name]
    R = turned(frame)
    inertia = R @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ R.T
    moments = inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    last = j == len(LINKS) - 1
    end = np.array(list(LINKS.values())[j + 1][0] if not last else (0, 0, 0), float)
    middle = np.array((0, 0, centre[2]), float)  # beside the axis of the joint
    shape = ""
    if np.linalg.norm(end) > 0.2:  # a tube between two joints
        tube = numbers((*middle, *end[:2], centre[2]))
        shape = f'<geom type="capsule" size="{THICK[j]}" fromto="{tube}"/>'
    middle = numbers(middle * (not last))
    shape += f'<geom type="cylinder" size="{THICK[j]} {THICK[j]}" pos="{middle}"/>'
    pad = "  " * (j + 2)
    inner = (
        f'{pad}  <site name="flange" size="0.01"/>\n'
        f'{pad}  <body name="payload"><inertial mass="0.001" pos="0 0 0.05" '
        f'diaginertia="1.7e-6 1.7e-6 1.7e-6"/></body>\n'
        if last
        else link(j + 1)
    )
    return f"""{pad}<body name="{name}" pos="{numbers(at)}" quat="{quat(rpy)}">
{pad}  <joint name="{JOINTS[j]}_joint" axis="0 0 1" range="{numbers((-ANGLE[j], ANGLE[j]))}"
{pad}    armature="{ROTOR[j]}" damping="{VISCOUS[j]}" frictionloss="{DRY[j]}"/>
{pad}  <inertial mass="{mass}" pos="{numbers(centre)}" fullinertia="{numbers(moments)}"/>
{pad}  {shape}
{inner}{pad}</body>
"""


def drives() -> str:
    """A command is a current [A]; the gear is the torque that it gives."""
    return "\n    ".join(
        f'<motor name="{n}" joint="{n}_joint" gear="{g}" ctrlrange="{-t / g:.6g} {t / g:.6g}" '
        f'forcerange="{-t:g} {t:g}"/>'
        for n, g, t in zip(JOINTS, GAIN, TORQUE, strict=True)
    )


def servo() -> str:
    """A command is a joint position [rad]."""
    return "\n    ".join(
        f'<position name="{n}" joint="{n}_joint" kp="{k:g}" kv="{d:g}" forcerange="{-t:g} {t:g}" '
        f'ctrlrange="{h - REACH:.6g} {h + REACH:.6g}"/>'
        for n, k, d, t, h in zip(JOINTS, STIFFNESS, DAMPING, TORQUE, HOME, strict=True)
    )


def model(actuators: str, command: object) -> str:
    return f"""<!-- Written by tools/build_ur10e.py, which names the source of every figure. -->
<mujoco model="ur10e">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.002" integrator="implicitfast"/>
  <default>
    <geom contype="0" conaffinity="0" rgba="0.62 0.66 0.7 1"/>
    <site rgba="0.9 0.55 0.2 1"/>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.9 0.94 0.98"
      rgb2="0.6 0.7 0.8" width="64" height="64"/>
    <texture name="tiles" type="2d" builtin="checker" rgb1="0.86 0.87 0.88"
      rgb2="0.78 0.8 0.82" width="128" height="128"/>
    <material name="tiles" texture="tiles" texrepeat="1 1" texuniform="true"/>
  </asset>
  <worldbody>
    <light directional="true" castshadow="false" dir="0.3 0.3 -1" diffuse="0.6 0.6 0.6"/>
    <geom name="floor" type="plane" size="0 0 1" material="tiles" rgba="0.9 0.9 0.9 1"/>
{link(0)}  </worldbody>
  <actuator>
    {actuators}
  </actuator>
  <keyframe>
    <key name="home" qpos="{numbers(HOME)}" ctrl="{numbers(command)}"/>
  </keyframe>
</mujoco>
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    written = {
        ENVS / "ur10e" / "ur10e.xml": model(drives(), np.zeros(6)),
        ENVS / "ur10e_reach" / "ur10e.xml": model(servo(), HOME),
    }
    for file, text in written.items():
        if not options.check:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        elif file.read_text() != text:
            sys.exit(f"{file} is not what tools/build_ur10e.py writes")


if __name__ == "__main__":
    main()
