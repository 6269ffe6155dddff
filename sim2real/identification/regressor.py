"""The torques of an arm on a fixed base, linear in its inertial parameters.

Ten parameters a link, in the frame of its body: mass m [kg], first moments m·c [kg m] (x, y, z),
and the inertia about the *origin* of the frame [kg m²] (xx, yy, zz, xy, xz, yz). Newton's and
Euler's laws are linear in them (Atkeson, An and Hollerbach 1986), so a log of positions, velocities
and accelerations gives a matrix Y with τ = Y·θ.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sim2real.types import Array, InputError

PER_LINK = 10


def links(model: mujoco.MjModel) -> list[int]:
    """The bodies that move, in order: each turns on one hinge of its own.

    Raises:
        InputError: the base is not fixed, or a body has other joints than one hinge.
    """
    moving = [b for b in range(model.nbody) if model.body_jntnum[b] > 0]
    for b in moving:
        joint = int(model.body_jntadr[b])
        if model.body_jntnum[b] != 1 or int(model.jnt_type[joint]) != int(
            mujoco.mjtJoint.mjJNT_HINGE
        ):
            raise InputError(
                f"body '{model.body(b).name}' does not turn on one hinge; torques are linear in "
                "inertial parameters here for arms of hinges on a fixed base"
            )
        if np.abs(model.jnt_pos[joint]).max() > 1e-12:
            raise InputError(
                f"joint '{model.joint(joint).name}' is not at the origin of its body; move the "
                "body's frame there"
            )
    return moving


def regressor(model: mujoco.MjModel, q: Array, v: Array, a: Array) -> Array:
    """(N, J, 10·J) matrix Y: the torques (N, J) are Y·θ, without friction and rotors.

    Args:
        q, v, a: (N, J) positions [rad], velocities [rad/s] and accelerations [rad/s²] of the
            joints, in the model's order.
    """
    bodies = links(model)
    N, J = q.shape
    place: dict[int, int] = {b: j for j, b in enumerate(bodies)}
    turn, spin, turning, pull = {}, {}, {}, {}
    Y = np.zeros((N, J, PER_LINK * J))
    still = np.zeros((N, 3))
    for j, b in enumerate(bodies):
        frame, position, above = _placed(model, b, place)
        axis = model.jnt_axis[model.body_jntadr[b]]
        R = frame @ _rotation(axis, q[:, j] - model.qpos0[j])  # (N, 3, 3) body -> body above
        if above is None:
            w, dw, g = still, still, np.tile(-model.opt.gravity, (N, 1))
        else:
            w, dw, g = spin[above], turning[above], pull[above]
        back = np.swapaxes(R, 1, 2)
        moved = g + np.cross(dw, position) + np.cross(w, np.cross(w, position))
        rate = np.outer(v[:, j], axis)
        turn[j] = R, position, above
        spin[j] = _apply(back, w) + rate
        turning[j] = _apply(back, dw) + np.outer(a[:, j], axis) + np.cross(spin[j], rate)
        pull[j] = _apply(back, moved)
        force, moment = _wrench(spin[j], turning[j], pull[j])  # (N, 3, 10) each
        at: int | None = j
        columns = slice(PER_LINK * j, PER_LINK * (j + 1))
        while at is not None:
            own = model.jnt_axis[model.body_jntadr[bodies[at]]]
            Y[:, at, columns] = own @ moment
            rotation, position, at = turn[at]
            force = rotation @ force
            moment = rotation @ moment + np.cross(position[None, :, None], force, axis=1)
    return Y


def parameters(model: mujoco.MjModel) -> Array:
    """(10·J,) θ of the model; what is fixed to a link belongs to it."""
    bodies = links(model)
    place = {b: j for j, b in enumerate(bodies)}
    theta = np.zeros((len(bodies), PER_LINK))
    for b in range(1, model.nbody):
        R, p, link = (
            _placed(model, b, place) if b not in place else (np.eye(3), np.zeros(3), place[b])
        )
        if link is None or model.body_mass[b] == 0:
            continue
        inner = np.zeros(9)
        mujoco.mju_quat2Mat(inner, model.body_iquat[b])
        axes = R @ inner.reshape(3, 3)
        c = p + R @ model.body_ipos[b]
        m = float(model.body_mass[b])
        inertia = axes @ np.diag(model.body_inertia[b]) @ axes.T + m * (
            c @ c * np.eye(3) - np.outer(c, c)
        )
        theta[link] += np.array([m, *(m * c), *inertia[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]])
    return theta.ravel()


def pseudo_inertia(theta: Array) -> Array:
    """(10,) of one link -> (4, 4) [[Σ, m·c], [m·c', m]] with Σ = ½ tr(I)·E - I. A body can have the
    parameters where it is positive definite (Wensing, Kim and Slotine 2018)."""
    m, (xx, yy, zz, xy, xz, yz) = theta[0], theta[4:]
    inertia = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    out = np.zeros((4, 4))
    out[:3, :3] = 0.5 * np.trace(inertia) * np.eye(3) - inertia
    out[:3, 3] = out[3, :3] = theta[1:4]
    out[3, 3] = m
    return out


def _placed(
    model: mujoco.MjModel, body: int, place: dict[int, int]
) -> tuple[Array, Array, int | None]:
    """Rotation (3, 3) and position (3,) of a body in the frame of the link above it, at qpos0, and
    that link's number; None where it is the base."""
    turned, p, at = np.eye(3), np.zeros(3), body
    while True:
        local = np.zeros(9)
        mujoco.mju_quat2Mat(local, model.body_quat[at])
        turned = local.reshape(3, 3) @ turned
        p = model.body_pos[at] + local.reshape(3, 3) @ p
        at = int(model.body_parentid[at])
        if at == 0 or at in place:
            return turned, p, place.get(at)


def _rotation(axis: Array, angle: Array) -> Array:
    """(N, 3, 3) turns by angle (N,) about a unit axis (3,)."""
    K = _cross(axis[None])[0]
    s, c = np.sin(angle)[:, None, None], np.cos(angle)[:, None, None]
    return np.eye(3) + s * K + (1 - c) * (K @ K)


def _apply(R: Array, x: Array) -> Array:
    return np.einsum("nij,nj->ni", R, x)


def _cross(x: Array) -> Array:
    """(N, 3) -> (N, 3, 3): the matrix of x × ."""
    out = np.zeros((len(x), 3, 3))
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -x[:, 2], x[:, 1], -x[:, 0]
    return out - np.swapaxes(out, 1, 2)


def _times_inertia(x: Array) -> Array:
    """(N, 3) -> (N, 3, 6): I·x, linear in the six moments."""
    out = np.zeros((len(x), 3, 6))
    for k, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
        out[:, i, k] = x[:, j]
        if i != j:
            out[:, j, k] = x[:, i]
    return out


def _wrench(w: Array, dw: Array, a: Array) -> tuple[Array, Array]:
    """(N, 3, 10), (N, 3, 10) force and moment about the body's origin of a link that turns with w,
    dw and whose origin is accelerated by a, gravity included, all (N, 3) in its frame."""
    N = len(w)
    W = _cross(w)
    force, moment = np.zeros((N, 3, PER_LINK)), np.zeros((N, 3, PER_LINK))
    force[:, :, 0] = a
    force[:, :, 1:4] = _cross(dw) + W @ W
    moment[:, :, 1:4] = -_cross(a)
    moment[:, :, 4:] = _times_inertia(dw) + W @ _times_inertia(w)
    return force, moment
