"""Robot policies that survive the step from simulation to reality: train, adapt, export.

The public names load when they are first used; importing sim2real imports neither torch nor
mujoco. The robot's side (verify, run) needs the base install, the rest `sim2real[train]`.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim2real.adapt import adapt as adapt
    from sim2real.deploy.verify import verify as verify
    from sim2real.evaluate import evaluate as evaluate
    from sim2real.export import export as export
    from sim2real.identification.identify import identify as identify
    from sim2real.learning import gym as gym
    from sim2real.make import make_env as make_env, make_vec as make_vec
    from sim2real.policy.policy import load as load
    from sim2real.train import train as train

_HOME = {
    "adapt": "sim2real.adapt",
    "evaluate": "sim2real.evaluate",
    "export": "sim2real.export",
    "gym": "sim2real.learning.gym",
    "identify": "sim2real.identification.identify",
    "load": "sim2real.policy.policy",
    "make_env": "sim2real.make",
    "make_vec": "sim2real.make",
    "train": "sim2real.train",
    "verify": "sim2real.deploy.verify",
}

__all__ = [
    "adapt",
    "evaluate",
    "export",
    "gym",
    "identify",
    "load",
    "make_env",
    "make_vec",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sim2real' has no attribute '{name}'")
    try:
        module = import_module(_HOME[name])
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sim2real":
            raise
        raise ImportError(
            f'sim2real.{name} needs the extra train: pip install "sim2real[train]" '
            f"({error.name} is missing)"
        ) from error
    value = module if name == "gym" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *(n for n in globals() if n.startswith("__"))]


class _Package(ModuleType):
    """Keeps `sim2real.train` the function: importing the submodule `sim2real.train`, as any other
    module does, would bind the module to the name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOME and name != "gym":
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
