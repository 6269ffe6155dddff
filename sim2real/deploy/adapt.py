"""Put an adapted state into a running policy: only one made for it, only within its bounds."""

from __future__ import annotations

from pathlib import Path

from sim2real.deploy.artifact import Runner
from sim2real.deploy.contract import AdaptedState
from sim2real.types import InputError


def apply(runner: Runner, z: AdaptedState | str | Path) -> AdaptedState:
    """Set the runner's adapted state to `z`, which is returned.

    A z.json that its own gate did not accept is refused when it is given as a file. A value in
    memory is taken: this is how candidates are tried before there is a verdict.

    Raises:
        InputError: a file that is not a z.json, another artifact, another state or other
        parameters,
            a value outside the contract's bounds, or one that was not accepted.
    """
    where = "z"
    if not isinstance(z, AdaptedState):
        where = str(z)
        z = AdaptedState.read(z)
        if not z.accepted:
            raise InputError(
                f"{where} was not accepted when it was adapted: run the policy without it"
            )
    z.check(runner.contract, where)
    runner.set_state(z.state, z.value)
    return z
