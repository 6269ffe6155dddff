"""Joint coordinates as points with a tangent space, quaternions among them.

MuJoCo's own conventions, for many states at once: a free joint moves by a translation in the world
and a rotation in the body's own frame, a ball joint by that rotation, and all others by a number.
"""

from __future__ import annotations

import mujoco
import numpy as np

from sim2real.types import Array


class Coordinates:
    """The coordinates qpos (..., nq) of a model, and steps (..., nv) between them."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.nq, self.nv = int(model.nq), int(model.nv)
        turns: list[tuple[int, int]] = []
        plain: list[tuple[int, int]] = []
        for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
            if kind == mujoco.mjtJoint.mjJNT_FREE:
                plain += [(int(q) + i, int(v) + i) for i in range(3)]
                turns.append((int(q) + 3, int(v) + 3))
            elif kind == mujoco.mjtJoint.mjJNT_BALL:
                turns.append((int(q), int(v)))
            else:
                plain.append((int(q), int(v)))
        self._turns = turns
        self._q, self._v = (np.array([p[i] for p in plain], int) for i in (0, 1))

    def moved(self, qpos: Array, step: Array) -> Array:
        """(..., nq) qpos after a step (..., nv): mj_integratePos over a unit of time."""
        shape = np.broadcast_shapes(qpos.shape[:-1], step.shape[:-1])
        out = np.array(np.broadcast_to(qpos, (*shape, self.nq)), float)
        out[..., self._q] += step[..., self._v]
        for q, v in self._turns:
            out[..., q : q + 4] = product(unit(qpos[..., q : q + 4]), turn(step[..., v : v + 3]))
        return out

    def between(self, here: Array, there: Array) -> Array:
        """(..., nv) the step from qpos `here` to `there`: mj_differentiatePos."""
        out = np.zeros((*np.broadcast_shapes(here.shape[:-1], there.shape[:-1]), self.nv))
        out[..., self._v] = there[..., self._q] - here[..., self._q]
        for q, v in self._turns:
            back = here[..., q : q + 4] * np.array([1.0, -1.0, -1.0, -1.0])
            out[..., v : v + 3] = angle(product(unit(back), unit(there[..., q : q + 4])))
        return out


def unit(q: Array) -> Array:
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def product(a: Array, b: Array) -> Array:
    """(..., 4) quaternions w, x, y, z: a·b."""
    w, v = a[..., :1], a[..., 1:]
    x, u = b[..., :1], b[..., 1:]
    real = w * x - (v * u).sum(axis=-1, keepdims=True)
    return np.concatenate([real, w * u + x * v + np.cross(v, u)], axis=-1)


def turn(rotation: Array) -> Array:
    """(..., 3) rotation vectors [rad] -> (..., 4) quaternions."""
    half = 0.5 * np.linalg.norm(rotation, axis=-1, keepdims=True)
    return np.concatenate([np.cos(half), 0.5 * np.sinc(half / np.pi) * rotation], axis=-1)


def angle(q: Array) -> Array:
    """(..., 4) unit quaternions -> (..., 3) rotation vectors [rad], the short way round."""
    q = np.where(q[..., :1] < 0, -q, q)
    size = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    full = 2 * np.arctan2(size, q[..., :1])
    return q[..., 1:] * np.divide(full, size, out=np.full_like(size, 2.0), where=size > 1e-12)
