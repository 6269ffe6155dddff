"""golden.npz: what the policy saw and commanded when it was exported, and what the contract said.

Keys: `obs/<term>` (T, size) for every observation term, `reset` (T, 1), `<state>_in` (the value
before the first tick, shape as in the graph), `command` (T, A), `action_raw` (T, A), and
`semantics`, the text that `contract.golden_semantics` gives. The first tick and at least one later
tick reset the episode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sim2real.deploy.contract import Contract
from sim2real.deploy.files import npz, parse_npz
from sim2real.types import Array, InputError, nearest


@dataclass(frozen=True)
class Golden:
    obs: dict[str, Array]
    """term -> (T, size); keep the precision that the robot will send."""
    reset: Array
    """(T, 1), 1 where an episode begins."""
    states: dict[str, Array]
    """state -> its value before the first tick, shape as in the contract."""
    command: Array
    """(T, A), torch's, the state fed back by torch."""
    action_raw: Array
    """(T, A)"""
    semantics: str

    def to_bytes(self) -> bytes:
        """The npz file; the same content gives the same bytes."""
        arrays: dict[str, Any] = {f"obs/{name}": value for name, value in self.obs.items()}
        arrays |= {f"{name}_in": value for name, value in self.states.items()}
        arrays |= {"reset": self.reset, "command": self.command, "action_raw": self.action_raw}
        return npz(arrays | {"semantics": self.semantics})

    @staticmethod
    def from_bytes(data: bytes, contract: Contract) -> Golden:
        """Read strictly against `contract`; InputError says which array is missing, unknown, of
        another shape or not finite."""
        where = "golden.npz"
        arrays = parse_npz(data, where)

        T = contract.evidence.ticks
        A = contract.action_size
        shapes = {f"obs/{term.name}": (T, term.size) for term in contract.observations}
        shapes |= {f"{state.name}_in": state.shape for state in contract.states}
        shapes |= {"reset": (T, 1), "command": (T, A), "action_raw": (T, A), "semantics": ()}
        for key in arrays:
            if key not in shapes:
                raise InputError(f"{where}: unknown array '{key}'{nearest(key, shapes)}")
        for key, shape in shapes.items():
            if key not in arrays:
                raise InputError(f"{where}: the array '{key}' is missing{nearest(key, arrays)}")
            if arrays[key].shape != shape:
                raise InputError(
                    f"{where}: '{key}' has shape {arrays[key].shape}; the contract says {shape}"
                )
            kind = "U" if key == "semantics" else "f"
            if arrays[key].dtype.kind != kind or (
                kind == "f" and not np.isfinite(arrays[key]).all()
            ):
                raise InputError(
                    f"{where}: '{key}' must be {'text' if kind == 'U' else 'finite floats'}"
                )
        reset = arrays["reset"]
        if not np.isin(reset, (0.0, 1.0)).all() or reset[0, 0] != 1 or not reset[1:].any():
            raise InputError(
                f"{where}: 'reset' must be 0 or 1, with 1 at the first and at a later tick"
            )
        return Golden(
            {term.name: arrays[f"obs/{term.name}"] for term in contract.observations},
            reset,
            {state.name: arrays[f"{state.name}_in"] for state in contract.states},
            arrays["command"],
            arrays["action_raw"],
            str(arrays["semantics"]),
        )
