"""What a robot is to do, as functions of arrays with one leading axis for the worlds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import mujoco
import numpy as np

from sim2real.simulation.servos import servos
from sim2real.types import Array, InputError, LoggedState, nearest


class Task(ABC):
    """Reset, observation, reward and end of an episode, for B worlds at once.

    **Your own task.** Put a `task.py` beside your `env.yaml`, name it there (`task: task.py`), and
    define one subclass of Task in it; `initial_state`, `observe` and `reward` are required:

        import numpy as np
        from sim2real.simulation.tasks.base import Task

        class KeepUpright(Task):
            fields = ("site_xpos",)         # read besides qpos and qvel
            episode_steps = 500             # control steps until the episode is truncated

            def initial_state(self, rng):
                qpos = self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq)
                return qpos, self.init_qvel.copy()

            def observe(self, data):
                return np.concatenate((data["qpos"], data["qvel"]), axis=1)      # (B, O)

            def reward(self, data, before, action, dt):
                height = data["site_xpos"][:, 0, 2]                              # (B,)
                effort = np.square(action).sum(axis=1)
                return height - 0.01 * effort, {"height": height}

            def terminated(self, data):
                return data["site_xpos"][:, 0, 2] < 0.5                          # (B,)

    **data** maps names to arrays (B, ...): `qpos` (B, nq), `qvel` (B, nv), `last_action` (B, A) and
    `goal` (B, G) always, and every name in `fields`: a field of MjData in MjData's own shape, or
    `body_mass` (B, nbody) as each world has it. The arrays are views that the next step overwrites:
    copy what you keep, write to none.
    As after `mj_step`, derived fields (`xpos`, `cvel`, ...) are one substep behind `qpos` and
    `qvel`; `cfrc_ext` is what `mj_rnePostConstraint` gives after a step, and 0 after a reset.

    Write for all worlds at once (`data["qpos"][:, 0]`, never a loop over B), keep no state between
    calls, and draw random numbers in `initial_state` and `goals` only: then results depend neither
    on the number of worlds nor on the number of threads. Units are the model's: SI, seconds,
    radians.
    """

    fields: tuple[str, ...] = ()
    """MjData fields the task reads besides qpos and qvel; `body_mass` is also understood."""
    episode_steps: int = 1000
    """Control steps after which an episode is truncated."""
    period: float = 0.0
    """Control period [s]; set when the robot is loaded."""
    goal_names: tuple[str, ...] = ()
    """What somebody asks of the robot, value by value: a velocity, or a point to reach."""
    goal_steps: int = 0
    """Control steps after which the next goal of an episode takes its place; 0 is never."""
    figures: Mapping[str, str] = MappingProxyType({})
    """What `reward` gives besides that says how well the task is done: name -> unit. `sim2real
    evaluate` shows their means."""
    reward_terms: Mapping[str, Callable[[Any], Array]] = MappingProxyType({})
    """What the reward may be a weighted sum of, see `weighted`: name -> function of one argument,
    whatever the task makes of a step, that gives (B,)."""
    weights: Mapping[str, float] = MappingProxyType({})
    """Name of a reward term -> its weight [1/s], as env.yaml says under `rewards`."""

    def __init__(self, model: mujoco.MjModel):
        """Remember the nominal model; raise InputError where it lacks what the task needs."""
        self.model = model
        self.init_qpos: Array = model.qpos0.copy()  # (nq,)
        self.init_qvel: Array = np.zeros(model.nv)  # (nv,)
        self.rest: Array = np.zeros(model.nu)
        """(A,) the command before the first of an episode: nothing for motors, where it stands for
        servos."""

    @abstractmethod
    def initial_state(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw where one world begins an episode: qpos (nq,), qvel (nv,)."""

    def goals(self, rng: np.random.Generator) -> Array:
        """Draw what one episode asks for, (S, G): one goal after another, the last for the rest."""
        return np.zeros((1, len(self.goal_names)))

    @abstractmethod
    def observe(self, data: Mapping[str, Array]) -> Array:
        """The observation, (B, O) float64; a new array."""

    def before(self, data: Mapping[str, Array]) -> Array | None:
        """What `reward` must remember from before the step, copied, (B, ...)."""
        return None

    @abstractmethod
    def reward(
        self, data: Mapping[str, Array], before: Array | None, action: Array, dt: float
    ) -> tuple[Array, dict[str, Array]]:
        """The reward (B,) of the step just made, and its parts by name, each (B, ...).

        `before` is what the method of that name gave, `action` (B, A) the command of the step in
        the dtype the policy gave it, `dt` the control period [s].
        """

    def weigh(self, weights: Mapping[str, float], where: str) -> None:
        """Takes the weights of the reward terms; a term without one is not computed.

        Raises:
            InputError: a name that is no reward term of this task, or no weight where there are
                terms. `where` is the place that gives them.
        """
        known = ", ".join(self.reward_terms)
        for name in weights:
            if name not in self.reward_terms:
                listed = f"the terms are {known}" if known else "its reward has no weights"
                raise InputError(
                    f"{where}: rewards: the task has no reward term '{name}'"
                    f"{nearest(name, self.reward_terms)}; {listed}"
                )
        if self.reward_terms and not weights:
            raise InputError(f"{where}: rewards is missing; give a weight to some of {known}")
        self.weights = MappingProxyType(dict(weights))

    def weighted(self, moment: Any, dt: float) -> tuple[Array, dict[str, Array]]:
        """The reward (B,) of a step, Σ weight · term · dt, and its parts as `reward_<term>`."""
        parts = {
            f"reward_{name}": weight * dt * self.reward_terms[name](moment)
            for name, weight in self.weights.items()
        }
        return np.sum(list(parts.values()), axis=0), parts

    def terminated(self, data: Mapping[str, Array]) -> Array:
        """(B,) bool: the task has ended for good, with no value beyond."""
        return np.zeros(len(data["qpos"]), bool)

    def reset_info(self, data: Mapping[str, Array]) -> dict[str, Array]:
        """What Gymnasium's `reset` reports beside the observation, each (B, ...)."""
        return {}

    def state_from(self, terms: Mapping[str, Array]) -> LoggedState | None:
        """The simulator's state at each of T logged observations, as far as they determine it.

        `terms` maps the names of observation terms to (T, n). None: these terms do not tell.
        """
        return None


ASTRAY = 0.5
"""A servo that is told at rest to be further from where its joint is, is told nothing [rad, m]."""


def rest_of(model: mujoco.MjModel) -> Array:
    """(A,) the commands of the keyframe `home`.

    Raises:
        InputError: a servo is told there to go somewhere else, as where the keyframe has no `ctrl`.
    """
    key = model.key("home")
    driving = model.actuator_trntype == int(mujoco.mjtTrn.mjTRN_JOINT)
    for a in np.flatnonzero(servos(model) & driving).tolist():
        joint = int(model.actuator_trnid[a, 0])
        away = float(key.ctrl[a] - key.qpos[model.jnt_qposadr[joint]])
        if abs(away) > ASTRAY:
            raise InputError(
                f"the keyframe 'home' commands the servo '{model.actuator(a).name}' to be "
                f"{away:.2f} from where its joint is there; give the keyframe a ctrl"
            )
    return key.ctrl.copy()


def body_id(model: mujoco.MjModel, name: str) -> int:
    """The body's index; InputError lists the bodies there are."""
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if index < 0:
        names = [model.body(i).name for i in range(model.nbody)]
        known = ", ".join(filter(None, names))
        raise InputError(
            f"the task needs a body '{name}', which the model does not have{nearest(name, names)}; "
            f"its bodies are {known}"
        )
    return index


def logged_state(model: mujoco.MjModel, qpos: Array, qvel: Array, skip: int = 0) -> LoggedState:
    """Complete what a log measures to full states; the rest is 0 and marked unknown.

    qpos (T, n) are the entries from `skip` on, qvel (T, m) the first m.
    """
    measured_qpos = slice(skip, skip + qpos.shape[1])
    measured_qvel = slice(qvel.shape[1])
    state = LoggedState(
        qpos=np.zeros((len(qpos), model.nq)),
        qvel=np.zeros((len(qvel), model.nv)),
        known_qpos=np.zeros(model.nq, bool),
        known_qvel=np.zeros(model.nv, bool),
    )
    state.qpos[:, measured_qpos], state.known_qpos[measured_qpos] = qpos, True
    state.qvel[:, measured_qvel], state.known_qvel[measured_qvel] = qvel, True
    return state


# Gymnasium computes one world at a time. These give the same bits for every row of a batch.


def norm(x: Array) -> Array:
    """Euclidean norm of each row, (B, n) -> (B,).

    np.linalg.norm takes BLAS's dot product for one vector but sums squares where it is given an
    axis, which rounds differently; vecdot is the dot product row by row.
    """
    x = np.ascontiguousarray(x)
    return np.sqrt(np.vecdot(x, x))


def sum_of_squares(x: Array) -> Array:
    """(B, ...) -> (B,) in x's own dtype, each world summed in memory order as np.sum does."""
    return np.square(np.ascontiguousarray(x).reshape(len(x), -1)).sum(axis=1)


def scalar_square(x: Array) -> Array:
    """x**2 as for a numpy scalar, which is libm's pow and not always x*x: float_power is, too."""
    return np.float_power(x, 2)
