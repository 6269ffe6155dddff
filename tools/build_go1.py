"""Writes envs/go1/go1.xml and the bumps of its ground from the public figures of the Unitree Go1.

    python tools/build_go1.py            write them
    python tools/build_go1.py --check    say whether they are up to date

Every figure stands here once, with its source. Links of one rigid piece (a link, the rotor that it
carries, the foot) are joined by MuJoCo's compiler, so the model has one body a moving part.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "envs" / "go1"

# --- unitree_ros, commit d6f13aad, robots/go1_description/xacro/const.xacro (BSD-3-Clause) -------
# Links as of the left front leg: mass [kg], centre of mass [m], inertia about it [kg m2].
TRUNK = 5.204, (0.0223, 0.002, -0.0005), (
    0.0168128557, 0.063009565, 0.0716547275, -0.0002296769, -0.0002945293, -0.0000418731,
)  # fmt: skip
HIP = 0.591, (-0.005657, -0.008752, -0.000102), (
    0.000334008405, 0.000619101213, 0.00040057614, -0.000010826066, 0.000001290732, 0.000001643194,
)  # fmt: skip
THIGH = 0.92, (-0.003342, -0.018054, -0.033451), (
    0.004431760472, 0.004485671726, 0.000740309489, 0.000057496807, -0.000218457134, 0.000572001265,
)  # fmt: skip
CALF = 0.135862, (0.006197, 0.001408, -0.116695), (
    0.001088793059, 0.001100428748, 0.000024787446, -0.000000255679, 0.000007117814, 0.000002077264,
)  # fmt: skip
FOOT_MASS, FOOT_RADIUS = 0.06, 0.02
ROTOR_MASS, ROTOR_SPIN, ROTOR_ACROSS = 0.089, 0.000111842, 0.000059647
HIP_AT = 0.1881, 0.04675, 0.0
HIP_ROTOR_AT = 0.11215, 0.04675, 0.0
THIGH_AT = 0.0, 0.08, 0.0
THIGH_ROTOR_AT = 0.0, -0.00015, 0.0
CALF_AT = 0.0, 0.0, -0.213
CALF_ROTOR_AT = 0.0, -0.03235, 0.0
FOOT_AT = 0.0, 0.0, -0.213
TRUNK_SIZE = 0.3762, 0.0935, 0.114
HIP_SIZE = 0.046, 0.04  # radius and length of a cylinder
IMU_AT = -0.01592, -0.06659, -0.00617  # robots/go1_description/urdf/go1.urdf, imu_joint
RANGE = {"hip": (-0.863, 0.863), "thigh": (-0.686, 4.501), "calf": (-2.818, -0.888)}
TORQUE = {"hip": 23.7, "thigh": 23.7, "calf": 35.55}  # [N m]
SPEED = {"hip": 30.1, "thigh": 30.1, "calf": 20.06}  # [rad/s]

# --- mjlab, commit 012799ad, go1_constants.py: gears; stiffness and damping of the drives --------
GEAR = {"hip": 6.0, "thigh": 6.0, "calf": 9.0}
STIFFNESS, DAMPING = 35.0, 0.5  # [N m/rad], [N m s/rad]; also mujoco_playground, 43d180a2
FRICTION = 0.6  # of a foot
# --- mujoco_menagerie, commit 28ffb48b, unitree_go1/go1.xml --------------------------------------
DRY_FRICTION = 0.2  # of a joint [N m]
POSE = {"hip": 0.0, "thigh": 0.9, "calf": -1.8}  # keyframe `home`

# --- assumed -------------------------------------------------------------------------------------
SUPPLY = 24.0
"""[V]; six cells of lithium. Where the drive has N volts, a joint at speed ω has the torque limit
TORQUE · (N/SUPPLY - ω/SPEED): only ratios to it matter."""
VISCOUS = 0.05  # of a joint [N m s/rad]
REACH = {"hip": 0.4, "thigh": 0.9, "calf": 0.85}
"""How far a command may lie from the pose [rad], the scale of an action: as far as the joint's
range allows around the pose."""
BUMPS = 0.08, 0.6, 20.0
"""Highest bump, its width, and half the length of the ground with bumps [m]."""
PAD = 2.0, 0.4
"""Distance and radius of the flat pads in it [m]."""


PIECE = re.compile(r'name="\w+_(?:rotor|foot)"(?= pos=|$)')
"""A body that is a rigid piece of another."""
BODY = re.compile(r'<body name="(\w+)"')
INERTIAL = re.compile(r"<inertial .*/>")


def inertial(link: tuple, side: int, end: int) -> str:
    """The link of the leg at `side` (left 1, right -1) and `end` (front 1, rear -1)."""
    mass, (x, y, z), (xx, yy, zz, xy, xz, yz) = link
    flip = 1 if link is CALF else side  # the calves of both sides are the same part
    return (
        f'<inertial mass="{mass:.9g}" pos="{end * x:.9g} {flip * y:.9g} {z:.9g}" '
        f'fullinertia="{xx:.12g} {yy:.12g} {zz:.12g} {end * flip * xy:.12g} {end * xz:.12g} '
        f'{flip * yz:.12g}"/>'
    )


def rotor(name: str, at: tuple, axis: str, side: int, end: int) -> str:
    moments = {"x": (ROTOR_SPIN, ROTOR_ACROSS), "y": (ROTOR_ACROSS, ROTOR_SPIN)}[axis]
    x, y, z = at
    return (
        f'<body name="{name}_rotor" pos="{end * x:g} {side * y:g} {z:g}">'
        f'<inertial mass="{ROTOR_MASS}" pos="0 0 0" diaginertia="{moments[0]:g} {moments[1]:g} '
        f'{ROTOR_ACROSS:g}"/></body>'
    )


def leg(name: str) -> str:
    side, end = (1 if name[1] == "L" else -1), (1 if name[0] == "F" else -1)
    at = lambda p: f"{end * p[0] + 0.0:g} {side * p[1] + 0.0:g} {p[2]:g}"  # noqa: E731
    foot = 0.4 * FOOT_MASS * FOOT_RADIUS**2
    return f"""
      <body name="{name}_hip" pos="{at(HIP_AT)}">
        {inertial(HIP, side, end)}
        <joint name="{name}_hip_joint" class="hip"/>
        <geom class="hip" pos="0 {side * THIGH_AT[1]:g} 0"/>
        {rotor(f"{name}_thigh", THIGH_ROTOR_AT, "y", side, 1)}
        <body name="{name}_thigh" pos="{at(THIGH_AT)}">
          {inertial(THIGH, side, 1)}
          <joint name="{name}_thigh_joint" class="thigh"/>
          <geom class="thigh"/>
          {rotor(f"{name}_calf", CALF_ROTOR_AT, "y", side, 1)}
          <body name="{name}_calf" pos="{at(CALF_AT)}">
            {inertial(CALF, side, 1)}
            <joint name="{name}_calf_joint" class="calf"/>
            <geom class="calf"/>
            <geom name="{name}_foot" class="foot"/>
            <site name="{name}_foot" class="foot"/>
            <body name="{name}_foot" pos="{at(FOOT_AT)}"><inertial mass="{FOOT_MASS}" pos="0 0 0" \
diaginertia="{foot:g} {foot:g} {foot:g}"/></body>
          </body>
        </body>
      </body>"""


def drive(joint: str) -> str:
    """A servo after MuJoCo's model of a DC motor: the voltage V = a·(command - q) - b·ω, within the
    supply, gives the torque K/R·(V - K·ω). K and R follow from the torque at rest and the speed
    without load, a and b from stiffness and damping."""
    K = SUPPLY / SPEED[joint]
    R = K * SUPPLY / TORQUE[joint]
    a, b = STIFFNESS * R / K, (DAMPING - K * K / R) * R / K
    low, high = POSE[joint] - REACH[joint], POSE[joint] + REACH[joint]
    return (
        f'motorconst="{K:.6g}" resistance="{R:.6g}" controller="{a:.6g} 0 {b:.6g} 0 0 {SUPPLY:g}" '
        f'input="position" saturation="{TORQUE[joint]:g} 0 {SUPPLY:g}" ctrlrange="{low:g} {high:g}"'
    )


def model() -> str:
    names = ("FR", "FL", "RR", "RL")
    armature = {j: ROTOR_SPIN * g**2 for j, g in GEAR.items()}
    joint = lambda j, axis: (  # noqa: E731
        f'<default class="{j}"><joint axis="{axis}" range="{RANGE[j][0]} {RANGE[j][1]}" '
        f'armature="{armature[j]:.6g}"/>'
    )
    rotors = "\n      ".join(
        rotor(f"{n}_hip", HIP_ROTOR_AT, "x", 1 if n[1] == "L" else -1, 1 if n[0] == "F" else -1)
        for n in names
    )
    actuators = "\n    ".join(
        f'<dcmotor name="{n}_{j}" joint="{n}_{j}_joint" {drive(j)}/>' for n in names for j in GEAR
    )
    touch = "\n    ".join(f'<touch name="{n}_foot" site="{n}_foot"/>' for n in names)
    height = -FOOT_AT[2] + -CALF_AT[2]
    stand = height * np.cos(POSE["thigh"]) + FOOT_RADIUS
    pose = " ".join(f"{POSE[j]:g}" for _ in names for j in GEAR)
    return f"""<!-- Written by tools/build_go1.py, which names the source of every figure. -->
<mujoco model="go1">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="0.004" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <default>
    <geom contype="0" conaffinity="1" condim="3" rgba="0.36 0.39 0.44 1"/>
    <joint type="hinge" damping="{VISCOUS:g}" frictionloss="{DRY_FRICTION:g}"/>
    {joint("hip", "1 0 0")}
      <geom type="cylinder" size="{HIP_SIZE[0]:g} {HIP_SIZE[1] / 2:g}" euler="1.5707963 0 0"/>
    </default>
    {joint("thigh", "0 1 0")}
      <geom type="capsule" size="0.017" fromto="0 0 0 0 0 {CALF_AT[2]:g}"/>
    </default>
    {joint("calf", "0 1 0")}
      <geom type="capsule" size="0.008" fromto="0 0 0 0 0 {FOOT_AT[2] + FOOT_RADIUS:g}"/>
    </default>
    <default class="foot">
      <geom type="sphere" size="{FOOT_RADIUS:g}" pos="0 0 {FOOT_AT[2]:g}" priority="1"
        friction="{FRICTION:g} 0.005 0.0001" rgba="0.9 0.55 0.2 1"/>
      <site type="sphere" size="{FOOT_RADIUS + 0.003:g}" pos="0 0 {FOOT_AT[2]:g}" rgba="0 0 0 0"/>
    </default>
    <default class="ground">
      <geom contype="1" conaffinity="0" material="tiles" rgba="0.9 0.9 0.9 1"/>
    </default>
  </default>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1="0.9 0.94 0.98"
      rgb2="0.6 0.7 0.8" width="64" height="64"/>
    <texture name="tiles" type="2d" builtin="checker" rgb1="0.86 0.87 0.88"
      rgb2="0.78 0.8 0.82" width="128" height="128"/>
    <material name="tiles" texture="tiles" texrepeat="1 1" texuniform="true"/>
    <hfield name="bumps" file="bumps.png" size="{BUMPS[2]:g} {BUMPS[2]:g} {BUMPS[0]:g} 0.1"/>
  </asset>
  <worldbody>
    <light directional="true" pos="0 0 4" dir="0.3 0.3 -1" diffuse="0.6 0.6 0.6"/>
    <geom name="floor" class="ground" type="plane" size="0 0 1"/>
    <geom name="bumps" class="ground" type="hfield" hfield="bumps" pos="0 0 {-BUMPS[0] - 0.1:g}"/>
    <body name="trunk" pos="0 0 {stand:.4f}">
      <freejoint name="root"/>
      {inertial(TRUNK, 1, 1)}
      <geom name="trunk" type="box" size="{" ".join(f"{x / 2:g}" for x in TRUNK_SIZE)}"/>
      <site name="imu" pos="{IMU_AT[0]} {IMU_AT[1]} {IMU_AT[2]}"/>
      <camera name="track" mode="trackcom" pos="0.9 -1.4 0.5" xyaxes="0.84 0.54 0 -0.15 0.24 0.96"/>
      <body name="payload" pos="0 0 {TRUNK_SIZE[2] / 2 + 0.04:g}">
        <inertial mass="0.001" pos="0 0 0" diaginertia="1.7e-6 1.7e-6 1.7e-6"/>
      </body>
      {rotors}{"".join(leg(n) for n in names)}
    </body>
  </worldbody>
  <actuator>
    {actuators}
  </actuator>
  <sensor>
    {touch}
  </sensor>
  <keyframe>
    <key name="home" qpos="0 0 {stand:.4f} 1 0 0 0 {pose}" ctrl="{pose}"/>
  </keyframe>
</mujoco>
"""


def joined(xml: str, ground: bytes) -> str:
    """The model with every rotor and foot part of the body that carries it."""
    model = mujoco.MjSpec.from_string(xml, assets={"bumps.png": ground}).compile()
    lines: list[str] = []
    whole = ""
    for line in xml.splitlines():
        if PIECE.search(line):
            continue
        if found := BODY.search(line):
            body = model.body(found[1]).id
            own = [i for i in range(model.nbody) if model.body_parentid[i] == body]
            own = [i for i in own if PIECE.search(f'name="{model.body(i).name}"')]
            whole = inertial(together([body, *own], found[1], model), 1, 1)
        lines.append(INERTIAL.sub(whole, line) if "fullinertia" in line else line)
    return "\n".join(lines) + "\n"


def together(ids: list[int], frame: str, model: mujoco.MjModel) -> tuple:
    """Mass, centre and inertia (xx, yy, zz, xy, xz, yz) of bodies, in the frame of one of them."""
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    origin, R = data.body(frame).xpos, data.body(frame).xmat.reshape(3, 3)
    mass = model.body_mass[ids]
    at = (data.xipos[ids] - origin) @ R  # (n, 3)
    centre = mass @ at / mass.sum()
    total = np.zeros((3, 3))
    for i, m, p in zip(ids, mass, at, strict=True):
        turn = R.T @ data.ximat[i].reshape(3, 3)
        r = p - centre
        total += turn @ np.diag(model.body_inertia[i]) @ turn.T + m * (
            r @ r * np.eye(3) - np.outer(r, r)
        )
    xx, yy, zz = np.diag(total)
    return mass.sum(), centre, (xx, yy, zz, total[0, 1], total[0, 2], total[1, 2])


def bumps() -> bytes:
    """A grey picture of random bumps with flat pads to start from; white is highest."""
    n = 256
    rng = np.random.default_rng(0)
    cell = 2 * BUMPS[2] / n
    noise = rng.standard_normal((n, n))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(n, cell), np.fft.fftfreq(n, cell)))
    smooth = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((frequency * BUMPS[1]) ** 2))).real
    height = np.clip(smooth / (2.5 * smooth.std()), -1, 1) / 2 + 0.5
    at = (np.arange(n) / (n - 1) - 0.5) * 2 * BUMPS[2]
    off = np.abs(at - PAD[0] * np.round(at / PAD[0]))
    away = np.hypot(*np.meshgrid(off, off))  # from the middle of the nearest pad
    height *= np.clip((away - PAD[1]) / PAD[1], 0, 1)
    picture = io.BytesIO()
    Image.fromarray((255 * height).round().astype(np.uint8)).save(picture, "png", optimize=True)
    return picture.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    ground = bumps()
    written = {"bumps.png": ground, "go1.xml": joined(model(), ground).encode()}
    for name, content in written.items():
        if not options.check:
            (FOLDER / name).write_bytes(content)
        elif (FOLDER / name).read_bytes() != content:
            sys.exit(f"{FOLDER / name} is not what tools/build_go1.py writes")


if __name__ == "__main__":
    main()
