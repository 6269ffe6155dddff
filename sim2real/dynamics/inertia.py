"""Mass, centre of mass and inertia changed together, so that some real body could have them.

Ten numbers describe a rigid body; they are those of a body with non-negative density exactly where
the pseudo-inertia J (4, 4) is positive semi-definite (Wensing, Kim & Slotine 2018):

    J = [[Σ, m·c], [m·cᵀ, m]]        Σ = ∫ x·xᵀ dm = ½ tr(I)·1 - I,  I about the origin of the frame

Along principal axes through the centre of mass this is the triangle inequality of the moments.
"""

from __future__ import annotations

import numpy as np

from sim2real.types import Array


def second_moments(principal: Array) -> Array:
    """The diagonal of Σ_c [kg m²], (..., 3), from the principal moments of inertia (..., 3)."""
    return 0.5 * principal.sum(-1, keepdims=True) - principal


def realizable(principal: Array) -> Array:
    """Whether some body, flat and thin ones included, has these principal moments (..., 3)."""
    return np.all(second_moments(principal) >= -1e-9 * principal.sum(-1, keepdims=True), axis=-1)


def pseudo_inertia(mass: float, com: Array, inertia: Array) -> Array:
    """J (4, 4) from mass [kg], centre of mass (3,) [m] and inertia about it (3, 3) [kg m²]."""
    J = np.empty((4, 4))
    J[:3, :3] = 0.5 * np.trace(inertia) * np.eye(3) - inertia + mass * np.outer(com, com)
    J[:3, 3] = J[3, :3] = mass * np.asarray(com)
    J[3, 3] = mass
    return J


def from_pseudo_inertia(J: Array) -> tuple[float, Array, Array]:
    """(mass, com (3,), inertia about it (3, 3)): the inverse of `pseudo_inertia`."""
    mass = float(J[3, 3])
    com = J[:3, 3] / mass
    second = J[:3, :3] - mass * np.outer(com, com)
    return mass, com, np.trace(second) * np.eye(3) - second


def consistent(mass: float, com: Array, inertia: Array) -> bool:
    """Whether some body has this mass, centre of mass and inertia about it."""
    J = pseudo_inertia(mass, com, inertia)
    return mass > 0 and bool(np.linalg.eigvalsh(J).min() >= -1e-9 * np.trace(J))


def perturb(mass: float, com: Array, inertia: Array, theta: Array) -> tuple[float, Array, Array]:
    """Any θ (10,) gives a consistent body again, and θ = 0 the same one: J' = U·J·Uᵀ.

    θ = (a, d1, d2, d3, s12, s23, s13, t1, t2, t3), the log-Cholesky coordinates of Rucker & Wensing
    (2022): a scales the mass (by e^{2a}), d stretches, s shears, t [m] moves the centre of mass.
    """
    a, d1, d2, d3, s12, s23, s13, t1, t2, t3 = np.asarray(theta, np.float64)
    U = np.exp(a) * np.array(
        [
            [np.exp(d1), s12, s13, t1],
            [0.0, np.exp(d2), s23, t2],
            [0.0, 0.0, np.exp(d3), t3],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
    return from_pseudo_inertia(U @ pseudo_inertia(mass, com, inertia) @ U.T)
