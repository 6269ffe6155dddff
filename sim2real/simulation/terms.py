"""Observation terms: what a robot can say about itself, each with its unit, frame and sensor.

A term is *measured* (a sensor gives it), *estimated* (the robot computes it) or *privileged*
(only the simulator knows it). A term that reads joint coordinates also says which entries of the
simulator's state it determines, so that a log can be put back into a world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import mujoco
import numpy as np

from sim2real.types import Array, InputError, LoggedState, nearest

Access = Literal["measured", "estimated", "privileged"]
Read = Callable[[Mapping[str, Array]], Array]


@dataclass(frozen=True)
class TermConfig:
    """One observation term as env.yaml declares it."""

    source: str
    """Where the value comes from: one of the names in SOURCES."""
    unit: str
    sensor: str
    """The sensor that gives it on the robot: encoder, imu, command, ..."""
    access: Access = "measured"
    frame: str = "joint"
    joints: tuple[str, ...] = ()
    """Joint or body names, for sources that read them; in the order of the values."""
    site: str = ""
    """Of gravity and gyro: the site that the sensor is mounted as; empty: as the body."""


@dataclass(frozen=True)
class Term:
    """A resolved term. `read` maps the worlds' data to (B, size)."""

    name: str
    size: int
    unit: str
    frame: str
    sensor: str
    access: Access
    elements: tuple[str, ...]
    read: Read = field(repr=False, compare=False)
    vector: bool = False
    """True where the three values are one vector in the frame (and turn with the sensor)."""
    qpos: tuple[int, ...] = ()
    """Entries of qpos that equal the values."""
    qvel: tuple[int, ...] = ()
    """Entries of qvel that equal the values."""
    quaternion: int | None = None
    """Start of the quaternion in qpos that a gravity direction determines, up to heading."""
    fields: tuple[str, ...] = ()
    """MjData fields that it reads besides qpos and qvel."""

    @property
    def mounted(self) -> Literal["encoder", "imu", ""]:
        """The part of a gap's `mounting` that moves the values: positions from an encoder, and
        angles or vectors from an IMU; else empty."""
        if self.sensor == "encoder" and self.qpos:
            return "encoder"
        return "imu" if self.sensor == "imu" and (self.vector or self.qpos) else ""


@dataclass(frozen=True)
class _Source:
    size: int
    elements: tuple[str, ...]
    read: Read
    vector: bool = False
    qpos: tuple[int, ...] = ()
    qvel: tuple[int, ...] = ()
    quaternion: int | None = None
    fields: tuple[str, ...] = ()


def _joint(model: mujoco.MjModel, name: str, where: str) -> int:
    names = [model.joint(i).name for i in range(model.njnt)]
    if name not in names:
        listed = ", ".join(n for n in names if n)
        raise InputError(f"{where}: no joint '{name}'{nearest(name, names)}; they are {listed}")
    return names.index(name)


def _scalar_joints(model: mujoco.MjModel, names: Sequence[str], where: str) -> list[int]:
    ids = [_joint(model, n, where) for n in names]
    for i in ids:
        if int(model.jnt_type[i]) not in (2, 3):  # slide, hinge
            raise InputError(
                f"{where}: joint '{model.joint(i).name}' is neither a hinge nor a slide; "
                "use the sources gravity and gyro for a free joint"
            )
    if not ids:
        raise InputError(f"{where}: 'joints' is empty; name at least one joint")
    return ids


def _free_joint(model: mujoco.MjModel, names: Sequence[str], where: str) -> int:
    if len(names) != 1:
        raise InputError(f"{where}: 'joints' must name exactly one free joint")
    i = _joint(model, names[0], where)
    if int(model.jnt_type[i]) != 0:
        raise InputError(f"{where}: joint '{names[0]}' is not a free joint")
    return i


def _joint_position(model: mujoco.MjModel, names: Sequence[str], where: str) -> _Source:
    index = [int(model.jnt_qposadr[i]) for i in _scalar_joints(model, names, where)]
    return _Source(len(index), tuple(names), lambda d: d["qpos"][:, index], qpos=tuple(index))


def _joint_velocity(model: mujoco.MjModel, names: Sequence[str], where: str) -> _Source:
    index = [int(model.jnt_dofadr[i]) for i in _scalar_joints(model, names, where)]
    return _Source(len(index), tuple(names), lambda d: d["qvel"][:, index], qvel=tuple(index))


def _gravity(model: mujoco.MjModel, names: Sequence[str], where: str) -> _Source:
    """Unit vector of gravity in the frame of a free body, the third row of R with the sign turned.
    A task may begin with a quaternion that MuJoCo has yet to normalise."""
    a = int(model.jnt_qposadr[_free_joint(model, names, where)]) + 3

    def read(d: Mapping[str, Array]) -> Array:
        w, x, y, z = np.moveaxis(d["qpos"][:, a : a + 4], 1, 0)
        up = np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z], 1)
        return -up / (w * w + x * x + y * y + z * z)[:, None]

    return _Source(3, ("x", "y", "z"), read, vector=True, quaternion=a)


def _gyro(model: mujoco.MjModel, names: Sequence[str], where: str) -> _Source:
    a = int(model.jnt_dofadr[_free_joint(model, names, where)]) + 3  # MuJoCo: local frame
    index = [a, a + 1, a + 2]
    read = lambda d: d["qvel"][:, index]  # noqa: E731  (one expression, used once)
    return _Source(3, ("x", "y", "z"), read, vector=True, qvel=tuple(index))


def _body_position(model: mujoco.MjModel, names: Sequence[str], where: str) -> _Source:
    bodies = [model.body(i).name for i in range(model.nbody)]
    for n in names:
        if n not in bodies:
            raise InputError(
                f"{where}: no body '{n}'{nearest(n, bodies)}; they are {', '.join(bodies)}"
            )
    index = [bodies.index(n) for n in names]
    elements = tuple(f"{n}.{c}" for n in names for c in "xyz")
    read = lambda d: d["xpos"][:, index].reshape(len(d["xpos"]), -1)  # noqa: E731
    return _Source(3 * len(index), elements, read, fields=("xpos",))


def _last_action(model: mujoco.MjModel, names: Sequence[str], where: str) -> _Source:
    elements = tuple(model.actuator(i).name or f"actuator{i}" for i in range(model.nu))
    return _Source(model.nu, elements, lambda d: d["last_action"])


SOURCES: dict[str, Callable[[mujoco.MjModel, Sequence[str], str], _Source]] = {
    "joint_position": _joint_position,
    "joint_velocity": _joint_velocity,
    "gravity": _gravity,
    "gyro": _gyro,
    "body_position": _body_position,
    "last_action": _last_action,
}


def _mounted(source: _Source, model: mujoco.MjModel, joint: str, name: str, where: str) -> _Source:
    """The same vector as a sensor tells it whose axes are those of a site, on the body of the free
    joint or fixed to it. Where the site is not turned in the nominal model, the vector says of the
    state what it says without; else nothing."""
    names = [model.site(i).name for i in range(model.nsite)]
    if name not in names:
        listed = ", ".join(n for n in names if n)
        raise InputError(f"{where}: no site '{name}'{nearest(name, names)}; they are {listed}")
    i = names.index(name)
    base, body = int(model.joint(joint).bodyid[0]), int(model.site_bodyid[i])
    fixed = np.array([1.0, 0.0, 0.0, 0.0])  # from the body of the joint to that of the site
    while body != base:
        if body == 0 or model.body_jntnum[body] > 0:
            raise InputError(
                f"{where}: site '{name}' moves against '{model.body(base).name}', the body of the "
                f"joint '{joint}'; name one that is fixed to it"
            )
        above = np.zeros(4)
        mujoco.mju_mulQuat(above, model.body_quat[body], fixed)
        fixed, body = above, int(model.body_parentid[body])

    def read(d: Mapping[str, Array]) -> Array:
        x = turned_back(np.tile(fixed, (len(d["qpos"]), 1)), source.read(d))
        return turned_back(d["site_quat"][:, i], x)

    whole = np.zeros(4)
    mujoco.mju_mulQuat(whole, fixed, model.site_quat[i])
    straight = abs(abs(float(whole[0])) - 1) < 1e-12
    return replace(
        source, read=read, fields=(*source.fields, "site_quat"),
        qvel=source.qvel if straight else (), quaternion=source.quaternion if straight else None,
    )  # fmt: skip


def turned_back(q: Array, x: Array) -> Array:
    """(B, 3) vectors in a frame -> in one that is turned by (B, 4) against it, of any length: a
    task may begin with a quaternion that MuJoCo has yet to normalise."""
    w, v = q[:, :1], -q[:, 1:]
    moved = w * np.cross(v, x) + np.cross(v, np.cross(v, x))
    return x + 2 * moved / np.square(q).sum(axis=1, keepdims=True)


def check_finite(
    robot: str, terms: Sequence[Term], obs: Array, reward: Array | None = None
) -> None:
    """Raises InputError where observations (B, O) of these terms, or rewards (B,), are not finite:
    nothing can be learned or measured from then on."""
    if not np.isfinite(obs).all():
        world, column = (int(i) for i in np.argwhere(~np.isfinite(obs))[0])
        ends = np.cumsum([t.size for t in terms])
        term = terms[int(np.searchsorted(ends, column, side="right"))]
        before = ends[terms.index(term)] - term.size
        element = term.elements[column - before] if term.elements else f"value {column - before}"
        raise InputError(
            f"{robot}: the observation term '{term.name}' ({element}) is {obs[world, column]:g} in "
            f"world {world}; it must be finite in every state that the task lets the model reach"
        )
    if reward is not None and not np.isfinite(reward).all():
        world = int(np.flatnonzero(~np.isfinite(reward))[0])
        raise InputError(
            f"{robot}: the reward is {reward[world]:g} in world {world}; it must be finite"
        )


def resolve(name: str, config: TermConfig, model: mujoco.MjModel, where: str) -> Term:
    """The term `name` of a model.

    Raises:
        InputError: an unknown source, or an element that the model does not have.
    """
    if config.source not in SOURCES:
        known = ", ".join(SOURCES)
        raise InputError(
            f"{where}: unknown source '{config.source}'{nearest(config.source, SOURCES)}; "
            f"the sources are {known}"
        )
    s = SOURCES[config.source](model, config.joints, where)
    if config.site:
        if not s.vector:
            raise InputError(f"{where}: site: only gravity and gyro turn with a site")
        s = _mounted(s, model, config.joints[0], config.site, where)
    return Term(
        name, s.size, config.unit, config.frame, config.sensor, config.access, s.elements, s.read,
        s.vector, s.qpos, s.qvel, s.quaternion, s.fields,
    )  # fmt: skip


def state_from(
    terms: Sequence[Term], values: Mapping[str, Array], model: mujoco.MjModel
) -> LoggedState:
    """What the logged terms, each (T, size), determine of the simulator's state; the rest is
    nominal and marked unknown. Heading is free: a gravity direction gives a quaternion with
    yaw zero."""
    T = max((len(value) for value in values.values()), default=0)
    qpos = np.tile(model.qpos0, (T, 1))  # (T, nq)
    qvel = np.zeros((T, model.nv))
    known_qpos, known_qvel = np.zeros(model.nq, bool), np.zeros(model.nv, bool)
    for term in terms:
        if term.name not in values:
            continue
        if term.qpos:
            qpos[:, list(term.qpos)] = values[term.name]
            known_qpos[list(term.qpos)] = True
        if term.qvel:
            qvel[:, list(term.qvel)] = values[term.name]
            known_qvel[list(term.qvel)] = True
        if term.quaternion is not None:
            a = term.quaternion
            qpos[:, a : a + 4] = quaternion_from_gravity(values[term.name])
            known_qpos[a : a + 4] = True
    return LoggedState(qpos, qvel, known_qpos, known_qvel)


def quaternion_from_gravity(gravity: Array) -> Array:
    """(T, 3) gravity in the body frame -> (T, 4) quaternion (w, x, y, z) with yaw zero."""
    gx, gy, gz = np.moveaxis(gravity / np.linalg.norm(gravity, axis=1, keepdims=True), 1, 0)
    roll = np.arctan2(-gy, -gz)
    pitch = np.arctan2(gx, np.hypot(gy, gz))
    cr, sr, cp, sp = np.cos(roll / 2), np.sin(roll / 2), np.cos(pitch / 2), np.sin(pitch / 2)
    return np.stack([cr * cp, sr * cp, cr * sp, -sr * sp], axis=1)
