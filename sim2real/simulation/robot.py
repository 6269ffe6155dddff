"""An env folder, read and compiled once: the robot that worlds simulate.

A `Robot` is either an `MjcfRobot`, a model and a task that `Worlds` step, or a `GymnasiumRobot`
(gymnasium_robot.py), a Gymnasium environment that `GymnasiumWorlds` step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np

from sim2real import content, schema
from sim2real.dynamics.parameter import Parameter, ParameterSpace
from sim2real.simulation import edits
from sim2real.simulation.gap import Gap, Latency, ends
from sim2real.simulation.servos import is_servo
from sim2real.simulation.tasks.base import Task
from sim2real.simulation.tasks.loading import load_task, read_term, task_path
from sim2real.simulation.terms import SOURCES, Access, Term, TermConfig, resolve
from sim2real.types import Array, InputError, LoggedState, nearest

LATENCY_SAMPLES = 64
"""Length of MuJoCo's command buffer: the longest action latency in physics steps."""

SERVO = (
    "is a servo: a share of a commanded position or speed is another one, not less strength; scale "
    "actuator_forcerange in a parameter instead"
)
MOUNTING = {
    "mounting.encoder": "no term of it reads joint positions with sensor 'encoder'",
    "mounting.imu": "no term of it reads an angle or a vector with sensor 'imu'",
}
"""Why an effect of `mounting` has no meaning."""


@dataclass(frozen=True)
class Safety:
    max_tilt: float | None = None
    """Largest angle between the torso and upright before the controller stops the robot [rad]."""
    tilt_term: str | None = None
    """The observation term that says the tilt: an angle, or a gravity direction."""


@dataclass(frozen=True)
class EnvConfig:
    """env.yaml."""

    description: str
    frame_skip: int = 0
    """Physics steps per control step."""
    model: str = ""
    """`package:path/inside` of an installed package, or a file in this folder."""
    gymnasium: str = ""
    """Instead of `model`, `task` and `frame_skip`: the id of a Gymnasium MuJoCo environment."""
    actions: tuple[str, ...] = ()
    """With `gymnasium`: names of an action's entries where they are not the model's actuators."""
    task: str = ""
    """A shipped task, `module:Class`, or `task.py:Class` in this folder."""
    rewards: dict[str, float] = field(default_factory=dict[str, float])
    """Weights of the task's reward terms [1/s], for tasks that have some."""
    task_access: Access = "privileged"
    """Whether a robot could measure the task's own observation, the term `v5`."""
    command_unit: str = "1"
    terms: dict[str, TermConfig] = field(default_factory=dict[str, TermConfig])
    observations: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """Named observation sets: lists of terms, in order. `v5` is always there."""
    parameters: list[Parameter] = field(default_factory=list[Parameter])
    safety: Safety = field(default_factory=Safety)
    recordings: dict[str, int] = field(default_factory=dict[str, int])
    """Of an arm: name -> number of the columns of CSV files of its motion, in order."""


@dataclass(frozen=True)
class Robot(ABC):
    """A robot as its folder describes it. Nothing here changes once it is loaded."""

    name: str
    folder: Path
    config: EnvConfig

    @staticmethod
    def load(env: str | Path) -> Robot:
        """Reads `env`, a name from envs/ or the path of a folder of one's own.

        Raises:
            InputError: the folder, its env.yaml, or anything that it names does not exist.
        """
        folder = content.env_folder(env)
        where = folder / "env.yaml"
        config = schema.read(EnvConfig, where)
        if bool(config.model) == bool(config.gymnasium):
            raise InputError(f"{where}: give either 'model' or 'gymnasium', not both")
        if config.gymnasium:
            from sim2real.simulation.gymnasium_robot import GymnasiumRobot

            for key in ("task", "frame_skip"):
                if getattr(config, key):
                    raise InputError(
                        f"{where}: {key}: leave it out; '{config.gymnasium}' has its own"
                    )
            return GymnasiumRobot(folder.name, folder, config)
        if config.frame_skip < 1:
            raise InputError(f"{where}: frame_skip is {config.frame_skip}; it must be at least 1")
        if config.actions:
            raise InputError(
                f"{where}: actions: only with 'gymnasium'; a model names its actuators"
            )
        return MjcfRobot(folder.name, folder, config)

    @property
    def where(self) -> str:
        return str(self.folder / "env.yaml")

    @abstractmethod
    def compile(self, gap: Gap | None = None) -> mujoco.MjModel:
        """A fresh nominal MjModel; that of a gap has its shapes and edits, and, where actuators
        lag, a first-order state in each.

        Raises:
            InputError: there is no such model, or it cannot be what the gap says.
        """

    @property
    @abstractmethod
    def actuators(self) -> tuple[str, ...]:
        """(A,) names of a command's entries."""

    @property
    @abstractmethod
    def command_range(self) -> tuple[Array, Array]:
        """(A,), (A,) lowest and highest command."""

    @property
    @abstractmethod
    def control_period(self) -> float:
        """[s]"""

    @property
    @abstractmethod
    def episode_steps(self) -> int:
        """Control steps after which an episode is truncated."""

    @property
    @abstractmethod
    def own_terms(self) -> tuple[str, ...]:
        """The terms of the observation set `v5`, the environment's own observation, in order."""

    @abstractmethod
    def state_from(self, values: dict[str, Array]) -> LoggedState | None:
        """What logged terms (T, size) say of the simulator's state; None if they say nothing."""

    @abstractmethod
    def _resolve_terms(self) -> dict[str, Term]:
        """Every observation term by name."""

    @abstractmethod
    def _check_gap(self, gap: Gap, where: str) -> None:
        """Raises InputError for an effect that this kind of robot cannot have."""

    def _no_meaning(self, effect: str, of: Sequence[int]) -> str:
        """Why the actuators `of`, by number, cannot have an effect of a gap's `actuators`; empty
        where they can."""
        model = self.model
        if effect in ("strength", "weak", "stiction"):
            for i in of:
                if is_servo(model, i):
                    return f"actuator '{self.actuators[i]}' {SERVO}"
        if effect in ("stiction", "friction"):
            for i in of:
                if model.actuator_trntype[i] != int(mujoco.mjtTrn.mjTRN_JOINT):
                    return f"actuator '{self.actuators[i]}' does not drive a joint"
        return ""

    @cached_property
    def model(self) -> mujoco.MjModel:
        """The nominal model."""
        return self.compile()

    @cached_property
    def space(self) -> ParameterSpace:
        """ξ: the dynamics parameters that env.yaml declares."""
        try:
            return ParameterSpace(self.config.parameters, self.model)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None

    def space_of(self, gap: Gap, model: mujoco.MjModel) -> ParameterSpace:
        """ξ in the worlds of a gap: the same parameters, relative to `model`, its nominal.

        Raises:
            InputError: a parameter of env.yaml has no meaning in the edited model.
        """
        if not gap.edited:
            return self.space
        try:
            return ParameterSpace(self.config.parameters, model)
        except InputError as error:
            raise InputError(
                f"the edited model no longer suits {self.where}: {error}; edit less, or say it "
                "under xi"
            ) from None

    @property
    def figures(self) -> Mapping[str, str]:
        """What says how well the task is done, besides the reward: name -> unit."""
        return {}

    @cached_property
    def terms(self) -> dict[str, Term]:
        """Every observation term by name, those of the environment's own observation included."""
        return self._resolve_terms()

    def observation(self, observe: str | Sequence[str] | None) -> list[Term]:
        """The terms of an observation set, or of a list of term names; None is `v5`."""
        sets: dict[str, Sequence[str]] = {"v5": self.own_terms, **self.config.observations}
        names = observe or "v5"
        if isinstance(names, str):
            if names not in sets:
                raise InputError(
                    f"{self.name}: no observation set '{names}'{nearest(names, sets)}; "
                    f"the sets are {', '.join(sets)}"
                )
            names = sets[names]
        for name in names:
            if name not in self.terms:
                raise InputError(
                    f"{self.where}: observations: no term '{name}'{nearest(name, self.terms)}; "
                    f"the terms are {', '.join(self.terms)}"
                )
        return [self.terms[name] for name in names]

    def idle(self, gap: Gap, terms: Sequence[Term]) -> str:
        """One sentence on the effects of a gap that none of the observed terms feels, and on what
        would; empty where there are none."""
        effects = gap.idle(terms)
        if not effects:
            return ""
        sets = {"v5": self.own_terms, **self.config.observations}
        better = [
            name
            for name, listed in sets.items()
            if not gap.idle(self.terms[n] for n in listed if n in self.terms)
        ]
        felt = [t.name for t in self.terms.values() if not set(effects) <= set(gap.idle([t]))]
        instead = f"observe: {' or '.join(better)}" if better else f"the terms {', '.join(felt)}"
        return (
            f"{self.name}: the observation ({', '.join(t.name for t in terms)}) feels nothing of "
            f"the gap's {' and '.join(effects)}; with {instead} it would"
        )

    def gap(self, gap: str | Path | Gap | None) -> Gap:
        """A gap by its name in gaps/, by path, or as it is; None is no gap.

        Raises:
            InputError: there is no such gap, it names what the robot lacks, or it says what the
                robot's physics, actuators or sensors cannot be.
        """
        if gap is None:
            return Gap()
        if not isinstance(gap, Gap):
            where = str(content.gap_file(self.folder, gap))
            gap = schema.read(Gap, Path(where))
        else:
            where = f"gap for {self.name}"
        gap.check(self.terms, self.actuators, where)
        for name in gap.xi:
            if name not in self.space.names:
                known = self.space.names
                raise InputError(
                    f"{where}: xi: no parameter '{name}'{nearest(name, known)}; "
                    f"the parameters are {', '.join(known)}"
                )
        self._check_effects(gap, where)
        self._check_gap(gap, where)
        space = self.space
        try:
            if gap.edited or gap.lag:
                space = self.space_of(gap, self.compile(gap))
            _check_xi(gap, space)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        return gap

    def _check_effects(self, gap: Gap, where: str) -> None:
        """Raises InputError for an effect that the actuators cannot have, or that no term feels."""
        names = self.actuators
        for effect in gap.actuators.effects:
            named = gap.actuators.weak if effect == "weak" else names
            reason = self._no_meaning(effect, [names.index(name) for name in named])
            if reason:
                raise InputError(
                    f"{where}: actuators: {effect} has no meaning for {self.name}: {reason}"
                )
        for effect in gap.idle(self.terms.values()):
            raise InputError(
                f"{where}: {effect} has no meaning for {self.name}: {MOUNTING[effect]}; give a "
                "term a bias under sensors"
            )


class MjcfRobot(Robot):
    """A model in MJCF (or any format that MuJoCo reads) and a task."""

    @cached_property
    def model_path(self) -> Path:
        package, _, inside = self.config.model.partition(":")
        if inside:
            try:
                path = Path(str(files(package))) / inside
            except ModuleNotFoundError:
                raise InputError(
                    f"{self.where}: model: no package '{package}' is installed"
                ) from None
        else:
            path = self.folder / self.config.model
        if not path.is_file():
            raise InputError(f"{self.where}: model: no file {path}")
        return path

    @cached_property
    def _delays(self) -> bool:
        return any(p.field == "actuator_delay" for p in self.config.parameters)

    def compile(self, gap: Gap | None = None) -> mujoco.MjModel:
        """A fresh nominal MjModel; that of a gap has its shapes and edits, and, where actuators
        lag, a first-order state in each.

        Raises:
            InputError: MuJoCo refuses the model, an actuator already has dynamics, or the model has
                not what a shape or an edit names.
        """
        gap = gap or Gap()
        try:
            spec = mujoco.MjSpec.from_file(str(self.model_path))
            edits.reshape(spec, gap.shape)
            for actuator in spec.actuators:
                if self._delays:
                    actuator.nsample, actuator.delay, actuator.interp = LATENCY_SAMPLES, 0.0, 0
                if gap.lag:
                    if actuator.dyntype != mujoco.mjtDyn.mjDYN_NONE:
                        raise InputError(
                            f"{self.name}: lag_ms has no meaning for actuator '{actuator.name}', "
                            "which has dynamics of its own"
                        )
                    actuator.dyntype = mujoco.mjtDyn.mjDYN_FILTEREXACT
                    actuator.dynprm[0] = 1e-9
            model = spec.compile()
            edits.apply(model, gap.edits)
            return model
        except ValueError as error:
            if isinstance(error, InputError):
                raise
            said = " ".join(str(error).split())
            raise InputError(f"{self.model_path}: MuJoCo cannot read it: {said}") from error

    @property
    def control_period(self) -> float:
        """[s]"""
        return float(self.model.opt.timestep * self.config.frame_skip)

    @cached_property
    def task(self) -> Task:
        """Raises InputError for a task of one's own whose code is wrong."""
        config = self.config
        return load_task(
            config.task, self.folder, self.model, config.frame_skip, self.where, config.rewards
        )

    @property
    def figures(self) -> Mapping[str, str]:
        return self.task.figures

    @property
    def episode_steps(self) -> int:
        return self.task.episode_steps

    @property
    def own_terms(self) -> tuple[str, ...]:
        return ("v5",)

    def _resolve_terms(self) -> dict[str, Term]:
        task, model = self.task, self.model
        data = {"qpos": model.qpos0[None], "qvel": np.zeros((1, model.nv)),
                "last_action": task.rest[None],
                "goal": np.zeros((1, len(task.goal_names)))}  # fmt: skip
        state = mujoco.MjData(model)
        mujoco.mj_forward(model, state)
        for name in task.fields:
            holder = state if hasattr(state, name) else model
            data[name] = np.asarray(getattr(holder, name))[None]
        path = task_path(task)
        size = read_term(task.observe, data, path, "observe")
        elements = tuple(f"v5[{i}]" for i in range(size))
        v5 = Term("v5", size, "mixed", "world", "simulator", self.config.task_access, elements,
                  task.observe)  # fmt: skip
        terms = {"v5": v5}
        for name, config in self.config.terms.items():
            where = f"{self.where}: terms: {name}"
            if config.source not in SOURCES and callable(getattr(task, config.source, None)):
                read = getattr(task, config.source)
                n = read_term(read, data, path, config.source)
                names = config.joints or tuple(f"{name}[{i}]" for i in range(n))
                terms[name] = Term(name, n, config.unit, config.frame, config.sensor,
                                   config.access, names, read)  # fmt: skip
            elif config.source == "goal":
                if not task.goal_names:
                    raise InputError(f"{where}: source goal: the task asks for nothing")
                if config.sensor != "command":
                    raise InputError(
                        f"{where}: source goal takes sensor: command, for nothing on the robot "
                        "measures it and identification leaves it out"
                    )
                terms[name] = Term(name, len(task.goal_names), config.unit, config.frame,
                                   config.sensor, config.access, task.goal_names,
                                   lambda data: data["goal"])  # fmt: skip
            else:
                terms[name] = resolve(name, config, model, where)
        watched = self.config.safety.tilt_term
        if watched is not None and watched not in terms:
            raise InputError(
                f"{self.where}: safety: tilt_term: no term '{watched}'{nearest(watched, terms)}; "
                f"the terms are {', '.join(terms)}"
            )
        return terms

    @property
    def actuators(self) -> tuple[str, ...]:
        return tuple(self.model.actuator(i).name or f"actuator{i}" for i in range(self.model.nu))

    @property
    def command_range(self) -> tuple[Array, Array]:
        """(A,), (A,) lowest and highest command."""
        unlimited = np.flatnonzero(~self.model.actuator_ctrllimited.astype(bool))
        if len(unlimited):
            raise InputError(
                f"{self.model_path}: actuator '{self.actuators[unlimited[0]]}' has no ctrlrange; a "
                "policy needs the limits of its commands"
            )
        low, high = self.model.actuator_ctrlrange.astype(np.float32).T
        return low, high

    def _check_gap(self, gap: Gap, where: str) -> None:
        both = [p.name for p in self.config.parameters if p.field == "actuator_delay"]
        if gap.latency.action_ms != Latency().action_ms and set(both) & set(gap.xi):
            raise InputError(
                f"{where}: latency: action_ms and xi: {both[0]} are the same; give one of them"
            )
        if gap.latency.action_ms != Latency().action_ms and not self._delays:
            raise InputError(
                f"{where}: latency: action_ms needs a parameter with field actuator_delay in "
                f"{self.where}, so that training, gap and identification share one latency"
            )

    def state_from(self, values: dict[str, Array]) -> LoggedState | None:
        """What logged terms (T, size) say of the simulator's state; None if they say nothing."""
        from sim2real.simulation.terms import state_from

        if "v5" in values and len(values) == 1:
            return self.task.state_from(values)
        terms = [self.terms[name] for name in values if name in self.terms]
        logged = state_from(terms, values, self.model)
        return logged if logged.known_qpos.any() or logged.known_qvel.any() else None


def _check_xi(gap: Gap, space: ParameterSpace) -> None:
    """Raises InputError where what a gap says of ξ cannot be, at the ends of its distributions."""
    stated = dict(gap.xi)
    if gap.latency.action_ms != Latency().action_ms:
        stated |= {
            p.name: gap.latency.action_ms for p in space.parameters if p.field == "actuator_delay"
        }
    low, high = space.nominal.copy(), space.nominal.copy()
    for name, value in stated.items():
        k = space.names.index(name)
        low[k], high[k] = ends(value)
    space.check_box(low, high)
