"""Friction in servo gears that ξ does not have: it grows with the load and falls with speed.

The bound of the friction torque of a joint at speed ω under a load L on its gears is

    τ_f = τ_0 + k·L + exp(-|ω/ω_s|^α)·(τ_s + k_s·L)

(model M4 of Duclusaud, Passault, Padois and Ly, ICRA 2025, arXiv 2410.08650). τ_0 is the model's
own `dof_frictionloss`, whatever ξ made of it, and viscous friction its `dof_damping`; the rest is
here.
The bound is renewed before every physics step, from its speed and the forces of the step before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from sim2real.simulation.gap import ServoFriction, sample
from sim2real.types import Array

FIELDS = ("qfrc_actuator", "qfrc_bias", "qfrc_constraint", "dof_frictionloss")
"""What it reads of the worlds, besides qvel."""


class GearFriction:
    """The B robots that worlds drew from a gap: what their gears do.

    Args:
        dofs: (J,) the degrees of freedom that servos drive.
    """

    def __init__(
        self, friction: ServoFriction, rngs: Sequence[np.random.Generator], dofs: Array
    ) -> None:
        def drawn(value: object) -> Array:
            return sample(value, rngs)[:, None]  # type: ignore[arg-type]

        self.dofs = dofs
        self._stribeck, self._load = drawn(friction.stribeck), drawn(friction.load)
        self._load_stribeck = drawn(friction.load_stribeck)
        self._speed, self._exponent = drawn(friction.speed), drawn(friction.exponent)

    def bound(self, own: Array, data: Mapping[str, Array]) -> Array:
        """(B, J) torque [N m] that friction may reach in the next physics step.

        `own` (B, J) is what the model has without this. The load on the gears is the motor's torque
        less the external one. What the joint's dry friction held in the last step counts as
        external, for the batch does not give single constraints: at rest the load is therefore
        twice the motor's torque, and a joint that friction alone holds, its motor off, has none.
        """
        motor = data["qfrc_actuator"][:, self.dofs]
        external = data["qfrc_constraint"][:, self.dofs] - data["qfrc_bias"][:, self.dofs]
        load = np.abs(motor - external)
        slow = np.exp(-((np.abs(data["qvel"][:, self.dofs]) / self._speed) ** self._exponent))
        return own + self._load * load + slow * (self._stribeck + self._load_stribeck * load)
