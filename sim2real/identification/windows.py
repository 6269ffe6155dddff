"""How well candidate physics explains a log: simulated observers, many at once.

Each candidate ξ gets a world for each logged episode. The world starts where the log starts, is
driven by the logged commands, and every `length` control steps the coordinates that the log
measures are put back to their logged values. Coordinates that no sensor gives (the position and
velocity of a floating base) are never touched: they are the candidate's own estimate, which
contact with the ground keeps close to the truth. What is compared is what the candidate predicts
for the measured terms inside each window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from sim2real.simulation.engine import make_engine
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.terms import Term
from sim2real.simulation.unstable import may_diverge
from sim2real.simulation.worlds import needed_fields
from sim2real.types import Array, InputError


class Trajectory(NamedTuple):
    """One logged episode: at tick t the policy saw obs[t], then command[t] was sent."""

    obs: dict[str, Array]
    """Term -> (T + 1, size); the last row is what was seen after the last command."""
    command: Array
    """(T, A), what was sent, excitation included."""


LENGTH = 12
"""Control steps of a window. Measured on the hopper with noisy encoders: windows of five or fewer
put the noise of their start into mass and motor strength."""
STILL = 1e-6
"""A simulated value that moves by less than this, in its unit, does not move: rounding."""


def check_numbers(where: str, obs: Mapping[str, Array], command: Array) -> None:
    """Raises InputError, beginning with `where`, for the first value of an episode that is not
    finite: obs term -> (T + 1, size), command (T, A). One is enough to spoil every prediction."""
    for name, value in (*obs.items(), ("command", command)):
        wrong = np.argwhere(~np.isfinite(value))
        if len(wrong):
            tick, column = (int(i) for i in wrong[0])
            raise InputError(
                f"{where}, tick {tick}: '{name}', column {column}, is {value[tick, column]}; every "
                "value must be finite: leave such episodes out"
            )


def differences(episode: Trajectory, period: float) -> dict[str, str]:
    """Terms that are the backward difference of another, and which: rate -> position."""
    found: dict[str, str] = {}
    for rate, value in episode.obs.items():
        for position, x in episode.obs.items():
            if x.shape != value.shape or len(x) < 3 or not np.ptp(value):
                continue
            close = 1e-3 * float(np.std(value))  # logs hold single precision
            if np.allclose(np.diff(x, axis=0) / period, value[1:], rtol=1e-3, atol=close):
                found[rate] = position
    return found


def usable(
    robot: Robot, episodes: Sequence[Trajectory], least: int
) -> tuple[MjcfRobot, list[Trajectory]]:
    """The robot and those of the episodes that have more than `least` control steps.

    Raises:
        InputError: steps that are opaque, a value that is not finite, no episode that is long
            enough, or episodes of different terms.
    """
    if not isinstance(robot, MjcfRobot):
        raise InputError(
            f"{robot.name} is a Gymnasium environment, whose steps are opaque: a log cannot be "
            'replayed in it; adapt with --engine search (in Python, engine="search")'
        )
    for number, episode in enumerate(episodes):
        check_numbers(f"episode {number} of the logs", *episode)
    long = [e for e in episodes if len(e.command) > least]
    if not long:
        raise InputError(
            f"the logs hold no episode of more than {least} control steps; record longer ones"
        )
    for number, episode in enumerate(long):
        if set(episode.obs) != set(long[0].obs):
            raise InputError(
                f"the logs differ in their terms: episode 0 has {', '.join(long[0].obs)}, "
                f"episode {number} has {', '.join(episode.obs)}; identify them apart"
            )
    return robot, long


class Observers:
    """Worlds that replay logged episodes under candidate physics: the first `ticks` control steps
    of each, which cover the landing and the first strides; more would cost more than it tells.

    Raises:
        InputError: the log determines nothing of this robot's state, has no usable episode, or
            holds a value that is not finite.
    """

    def __init__(
        self, robot: Robot, episodes: Sequence[Trajectory], *, candidates: int,
        length: int = LENGTH, ticks: int = 200,
    ) -> None:  # fmt: skip
        robot, episodes = usable(robot, episodes, length)
        self.robot, self.N, self.E, self.length = robot, candidates, len(episodes), length
        self.T = min(ticks, max(len(e.command) for e in episodes)) + 1
        self._starts = []
        for number, episode in enumerate(episodes):
            state = robot.state_from(episode.obs)
            if state is None:
                raise InputError(
                    f"{robot.name}: the logged terms ({', '.join(episode.obs)}) determine nothing "
                    f"of its state (episode {number}); log joint positions and velocities"
                )
            self._starts.append(state)
        self._known_qpos, self._known_qvel = self._starts[0].known_qpos, self._starts[0].known_qvel
        self._compared = self._compared_terms(episodes[0])
        D = sum(t.size for t in self._compared)
        nq, nv, A = robot.model.nq, robot.model.nv, robot.model.nu
        self._qpos, self._qvel = np.zeros((self.E, self.T, nq)), np.zeros((self.E, self.T, nv))
        self._command = np.zeros((self.E, self.T, A))
        self.logged = np.full((self.E, self.T, D), np.nan)
        """(E, T + 1, D) what is compared; NaN after an episode's end."""
        for e, (episode, state) in enumerate(zip(episodes, self._starts, strict=True)):
            n = min(self.T, len(episode.command) + 1)
            self._qpos[e, :n], self._qvel[e, :n] = state.qpos[:n], state.qvel[:n]
            self._qpos[e, n:], self._qvel[e, n:] = state.qpos[n - 1], state.qvel[n - 1]
            self._command[e, : n - 1] = episode.command[: n - 1]
            self.logged[e, :n] = np.concatenate(
                [episode.obs[t.name][:n] for t in self._compared], axis=1
            )
        fields = needed_fields(robot, self._compared)
        self._model = robot.compile()
        rest = robot.task.rest
        self._engine = make_engine("mjbatch", self._model, self.N * self.E, fields, 0, rest)

    def _compared_terms(self, episode: Trajectory) -> list[Term]:
        terms = [self.robot.terms[n] for n in episode.obs if n in self.robot.terms]
        return [t for t in terms if t.sensor != "command"]

    @property
    def columns(self) -> list[str]:
        return [t.name for t in self._compared for _ in range(t.size)]

    def still(self, error: Array) -> list[str]:
        """The columns that never change in the logs, though what the candidates predict for them
        does, as `error` (N, E, T + 1, D) of a call says; none where the commands never change
        either. A target that stands still is no dead sensor: it is predicted to stand still."""
        if not np.ptp(self._command, axis=(0, 1)).any():
            return []
        there: Array = ~np.isnan(self.logged[..., 0])  # one column is logged as long as all
        there[:, 0] = False  # the first tick predicts nothing
        logged, told = self.logged[there], self.logged[there] - error[:, there]
        moves = np.median(np.ptp(told, axis=1), axis=0) > STILL  # (D,)
        dead = (np.ptp(logged, axis=0) == 0) & moves
        names = [(t, i) for t in self._compared for i in range(t.size)]
        return [
            f"'{t.name}', column {i}" + (f" ({t.elements[i]})" if t.elements else "")
            for (t, i), d in zip(names, dead, strict=True)
            if d
        ]

    @may_diverge()
    def __call__(self, xi: Array) -> Array:
        """(N, K) candidates -> (N, E, T + 1, D) logged minus predicted; NaN where there is no
        data. `columns` names the term of each of the D columns."""
        N, E, engine = self.N, self.E, self._engine
        space = self.robot.space
        worlds = np.arange(N * E)
        engine.set_model(worlds, space.values(np.repeat(xi, E, axis=0)), space.needs_const)
        qpos, qvel = np.tile(self._qpos[:, 0], (N, 1)), np.tile(self._qvel[:, 0], (N, 1))
        data = engine.data
        data["last_action"] = np.zeros((N * E, self._command.shape[2]))
        data["goal"] = np.zeros((N * E, len(self.robot.task.goal_names)))
        headings = [t.quaternion for t in self._compared if t.quaternion is not None]
        engine.reset(worlds, qpos, qvel)
        error = np.full((N, E, self.T, self.logged.shape[2]), np.nan)
        for t in range(self.T - 1):
            if t and t % self.length == 0:
                before = {a: data["qpos"][:, a : a + 4].copy() for a in headings}
                for name, logged, known in (
                    ("qpos", self._qpos, self._known_qpos),
                    ("qvel", self._qvel, self._known_qvel),
                ):
                    data[name][:, known] = np.tile(logged[:, t][:, known], (N, 1))
                for a, own in before.items():
                    data["qpos"][:, a : a + 4] = with_heading(data["qpos"][:, a : a + 4], own)
            command = np.tile(self._command[:, t], (N, 1))
            engine.step(command, self.robot.config.frame_skip)
            data["last_action"][:] = command
            told = np.concatenate([term.read(data) for term in self._compared], axis=1)
            error[:, :, t + 1] = self.logged[None, :, t + 1] - told.reshape(N, E, -1)
        return error


def with_heading(tilt: Array, own: Array) -> Array:
    """(N, 4) quaternions w, x, y, z with the tilt of the first and the heading of the second: no
    sensor gives a heading, so it stays the candidate's."""
    w, x, y, z = np.moveaxis(own, 1, 0)
    half = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)) / 2
    c, s = np.cos(half), np.sin(half)
    tw, tx, ty, tz = np.moveaxis(tilt, 1, 0)
    return np.stack([c * tw - s * tz, c * tx - s * ty, c * ty + s * tx, c * tz + s * tw], axis=1)
