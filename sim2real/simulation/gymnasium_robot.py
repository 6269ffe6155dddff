"""A robot that is a Gymnasium MuJoCo environment: its env.yaml says `gymnasium: <id>`."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import mujoco
import numpy as np

from sim2real.simulation.edits import apply
from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import Robot
from sim2real.simulation.terms import SOURCES, Term, TermConfig, resolve
from sim2real.types import Array, InputError, LoggedState, nearest

if TYPE_CHECKING:
    import gymnasium

GOAL = ("achieved_goal", "desired_goal")
"""What every goal environment observes, besides `observation`."""

MOCAP = (
    "a command moves a mocap body that pulls the arm along, it is no force and no joint angle; "
    "how well the arm follows is a parameter (field eq_solref), and commands can be late or lost"
)
COMPILED = "the environment compiles its own model, whose actuators have no state; use latency"


class Interface(NamedTuple):
    """What a Gymnasium environment says of itself."""

    sizes: dict[str, int]
    """Observation key -> size, in the order of the space; one key `observation` for a Box."""
    dictionary: bool
    """Its observations are dictionaries."""
    goals: bool
    """It is a goal environment, whose rewards can be computed anew for another goal."""
    low: Array
    """(A,)"""
    high: Array
    """(A,)"""
    period: float
    """[s]"""
    steps: int
    """Control steps of an episode."""


class GymnasiumRobot(Robot):
    """Any Gymnasium environment whose `unwrapped` exposes `model`, `data` and `dt`. Its steps are
    opaque: between a command and the next observation nobody else acts.

    Every key of its observation is a term; env.yaml says the unit, sensor and access of it, under
    the key's own name. Further terms may read joints and bodies as those of an `MjcfRobot` do.
    """

    def make(self) -> gymnasium.Env[Any, Any]:
        """A fresh environment, with its time limit.

        Raises:
            InputError: no environment has this id, or it is not one of the kind above.
        """
        import gymnasium

        id = self.config.gymnasium
        if id not in gymnasium.registry and importlib.util.find_spec("gymnasium_robotics"):
            with redirect_stderr(io.StringIO()):  # it prints a page of advice for developers
                gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))
        try:
            env = gymnasium.make(id, disable_env_checker=True)
        except (gymnasium.error.Error, ImportError) as error:
            raise InputError(
                f"{self.where}: gymnasium: no environment '{id}'{nearest(id, gymnasium.registry)}: "
                f"{error}"
            ) from None
        bare: Any = env.unwrapped
        if not isinstance(getattr(bare, "model", None), mujoco.MjModel) or not hasattr(bare, "dt"):
            raise InputError(
                f"{self.where}: gymnasium: '{id}' does not expose a MuJoCo model as "
                "`unwrapped.model`, with `data` and `dt` beside it: its physics cannot be written"
            )
        return env

    @cached_property
    def interface(self) -> Interface:
        """Raises InputError for an observation or action that is no array of floats, for `actions`
        that do not fit, and where episodes have no end."""
        from gymnasium import spaces

        env = self.make()
        where, bare = f"{self.where}: gymnasium: '{self.config.gymnasium}'", env.unwrapped
        observation, action = env.observation_space, env.action_space
        dictionary = isinstance(observation, spaces.Dict)
        parts = (
            observation.spaces
            if isinstance(observation, spaces.Dict)
            else {"observation": observation}
        )
        for name, space in {**parts, "action": action}.items():
            if not isinstance(space, spaces.Box) or len(space.shape) != 1:
                raise InputError(f"{where}: {name} is {space}; it must be a Box of one dimension")
        if env.spec is None or env.spec.max_episode_steps is None:
            raise InputError(f"{where} has no max_episode_steps; register it with a time limit")
        assert isinstance(action, spaces.Box)
        names, A = self.config.actions, len(action.low)
        if names and len(names) != A:
            raise InputError(f"{self.where}: actions: {len(names)} names for {A} entries")
        return Interface(
            {name: int(np.prod(space.shape or ())) for name, space in parts.items()}, dictionary,
            set(GOAL) <= set(parts) and hasattr(bare, "compute_reward"), action.low, action.high,
            float(bare.dt), env.spec.max_episode_steps,  # type: ignore[attr-defined]
        )  # fmt: skip

    def compile(self, gap: Gap | None = None) -> mujoco.MjModel:
        """The model of a fresh environment, with the edits of a gap. Raises InputError for actuator
        lag, see COMPILED, and for shapes."""
        gap = gap or Gap()
        if gap.lag:
            raise InputError(f"{self.name}: lag_ms has no meaning: {COMPILED}")
        if gap.shape:
            raise InputError(
                f"shape: {self.name} compiles its own model, and nobody else can give it another "
                "shape; use edits"
            )
        bare: Any = self.make().unwrapped
        apply(bare.model, gap.edits)
        return bare.model

    @property
    def control_period(self) -> float:
        """[s]"""
        return self.interface.period

    @property
    def episode_steps(self) -> int:
        return self.interface.steps

    @property
    def own_terms(self) -> tuple[str, ...]:
        return tuple(self.interface.sizes)

    @property
    def command_range(self) -> tuple[Array, Array]:
        """(A,), (A,) lowest and highest command."""
        return self.interface.low, self.interface.high

    @property
    def actuators(self) -> tuple[str, ...]:
        A = len(self.interface.low)
        if self.config.actions:
            return self.config.actions
        if self._drives_actuators:
            return tuple(self.model.actuator(i).name or f"actuator{i}" for i in range(A))
        return tuple(f"action{i}" for i in range(A))

    def state_from(self, values: dict[str, Array]) -> LoggedState | None:
        """None: a world that steps in one opaque piece cannot be put into a logged state."""
        return None

    @property
    def _drives_actuators(self) -> bool:
        return self.model.nmocap == 0 and self.model.nu == len(self.interface.low)

    def _resolve_terms(self) -> dict[str, Term]:
        sizes, declared = self.interface.sizes, self.config.terms
        default = TermConfig("", "mixed", "simulator", self.config.task_access, "world")
        terms: dict[str, Term] = {}
        for name, config in {**dict.fromkeys(sizes, default), **declared}.items():
            where = f"{self.where}: terms: {name}"
            source = config.source or name
            if name in sizes and source != name:
                raise InputError(
                    f"{where}: source is '{source}'; the term of that key reads '{name}'"
                )
            if source not in sizes:
                if source not in SOURCES:
                    known = [*sizes, *SOURCES]
                    raise InputError(
                        f"{where}: unknown source '{source}'{nearest(source, known)}; "
                        f"the sources are {', '.join(known)}"
                    )
                if source == "last_action":  # as many as the actions, whatever the model has
                    terms[name] = Term(name, len(self.actuators), config.unit, config.frame,
                                       config.sensor, config.access, self.actuators,
                                       _key("last_action"))  # fmt: skip
                else:
                    terms[name] = resolve(name, config, self.model, where)
                continue
            n = sizes[source]
            elements = config.joints or tuple(f"{name}[{i}]" for i in range(n))
            if len(elements) != n:
                raise InputError(f"{where}: joints: {len(elements)} names for {n} values")
            terms[name] = Term(name, n, config.unit, config.frame, config.sensor, config.access,
                               elements, _key(source))  # fmt: skip
        return terms

    def _check_gap(self, gap: Gap, where: str) -> None:
        if self.model.nmocap and gap.pushes.interval != 0.0:
            raise InputError(
                f"{where}: pushes have no meaning for {self.name}: its base is held in place"
            )

    def _no_meaning(self, effect: str, of: Sequence[int]) -> str:
        model, A = self.model, len(self.interface.low)
        if model.nmocap:
            return MOCAP
        if not self._drives_actuators:
            return f"its {A} commands are not those of the model's {model.nu} actuators, one by one"
        if effect == "lag_ms":
            return COMPILED
        if effect == "friction":
            return "it changes with every physics step, and a Gymnasium environment makes several"
        return super()._no_meaning(effect, of)


def _key(name: str) -> Callable[[Mapping[str, Array]], Array]:
    return lambda data: data[name]
