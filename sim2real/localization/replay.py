"""Nominal worlds in which every logged transition is repeated from the same state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sim2real.identification.windows import Trajectory, with_heading
from sim2real.simulation.engine import Engine, make_engine
from sim2real.simulation.robot import MjcfRobot
from sim2real.simulation.terms import Term
from sim2real.types import Array, InputError

TICKS = 400
"""Control steps of an episode that are looked at."""
FLOOR = 1e-3
"""Differences below this share of one step's motion are none."""


class Plan(NamedTuple):
    """W ways to repeat every episode."""

    gain: Array
    """(W,) 1: put back to the log before every step; less: that share of the way."""
    delay: Array
    """(W,) physics steps by which commands act late."""
    force: Array
    """(W, nv) generalized force [N, N m] that acts throughout."""
    follow: Array
    """(W,) the world whose state is taken over before each put-back; its own number: none."""

    @staticmethod
    def of(nv: int, n: int) -> Plan:
        """n worlds that do nothing special."""
        return Plan(np.ones(n), np.zeros(n, int), np.zeros((n, nv)), np.arange(n))


class Replay:
    """Nominal worlds that repeat logged transitions, one control step at a time. Coordinates that
    the log does not measure are never put back: they are each world's own.

    E episodes of at most T steps, and D columns: the elements of `terms`, in the unit of each.
    Shorter episodes are filled up, `obs` with NaN.
    """

    def __init__(self, robot: MjcfRobot, episodes: Sequence[Trajectory]) -> None:
        self.robot = robot
        self.model = model = robot.compile()
        self.terms = compared(robot, episodes[0])
        self.names = tuple(  # (D,)
            f"{t.name} {t.elements[i]}" if t.elements and t.name != "v5" else f"{t.name}[{i}]"
            for t in self.terms
            for i in range(t.size)
        )
        self.units = tuple(t.unit for t in self.terms for _ in range(t.size))  # (D,)
        self.E = E = len(episodes)
        self.T = T = min(TICKS, max(len(e.command) for e in episodes))
        self.qpos, self.qvel = np.zeros((E, T + 1, model.nq)), np.zeros((E, T + 1, model.nv))
        self.command = np.zeros((E, T, model.nu))
        self.obs = np.full((E, T + 1, len(self.names)), np.nan)
        self.known_qpos, self.known_qvel = np.zeros(model.nq, bool), np.zeros(model.nv, bool)
        for e, episode in enumerate(episodes):
            n = min(T, len(episode.command))
            state = robot.state_from(episode.obs)
            if state is None:
                raise InputError(
                    f"{robot.name}: the logged terms ({', '.join(episode.obs)}) determine nothing "
                    "of its state; log joint positions and velocities"
                )
            self.known_qpos, self.known_qvel = state.known_qpos, state.known_qvel
            for mine, logged in ((self.qpos, state.qpos), (self.qvel, state.qvel)):
                mine[e, : n + 1], mine[e, n + 1 :] = logged[: n + 1], logged[n]
            self.command[e, :n] = episode.command[:n]
            self.obs[e, : n + 1] = np.concatenate(
                [episode.obs[t.name][: n + 1] for t in self.terms], axis=1
            )
        fields = [f for t in self.terms for f in t.fields]
        fields += robot.task.fields  # a term may be a method of the task
        if any(t.name == "v5" for t in self.terms) and "cfrc_ext" in fields:
            raise InputError(
                f"{robot.name}: its own observation holds contact forces, which do not survive "
                "being put back; log joint positions and velocities"
            )
        fields = [f for f in fields if f != "cfrc_ext"]
        self._fields = list(dict.fromkeys(fields))

    def __call__(self, plan: Plan, seed: int) -> Array:
        """(W, E, T, D) what each world is told after each command."""
        W, E = len(plan.gain), self.E
        B = W * E
        forced = bool(plan.force.any())
        fields = [*self._fields, "qfrc_applied"] if forced else self._fields
        # One thread: a step of so few worlds is over before the others have woken up.
        engine = make_engine("mjbatch", self.model, B, fields, 1, self.robot.task.rest)
        data = engine.data
        data["last_action"] = np.zeros((B, self.model.nu))
        data["goal"] = np.zeros((B, len(self.robot.task.goal_names)))
        qpos, qvel = np.tile(self.qpos[:, 0], (W, 1)), np.tile(self.qvel[:, 0], (W, 1))
        rng = np.random.default_rng(np.random.SeedSequence([seed, 8]))
        for i in range(B):
            q, v = self.robot.task.initial_state(rng)
            qpos[i, ~self.known_qpos] = q[~self.known_qpos]
            qvel[i, ~self.known_qvel] = v[~self.known_qvel]
        leader = (plan.follow[:, None] * E + np.arange(E)).ravel()
        engine.reset(np.arange(B), qpos[leader], qvel[leader])
        if forced:
            data["qfrc_applied"][:] = np.repeat(plan.force, E, axis=0)
        followers = np.flatnonzero(leader != np.arange(B))
        gain = np.repeat(plan.gain, E)[:, None]
        told = np.full((W, E, self.T, len(self.names)), np.nan)
        for t in range(self.T):
            if t:
                for name in ("qpos", "qvel"):
                    data[name][followers] = data[name][leader[followers]]
                self._put_back(data, t, gain)
            self._step(engine, t, plan.delay)
            now = np.concatenate([term.read(data) for term in self.terms], axis=1)
            told[:, :, t] = now.reshape(W, E, -1)
        return told

    def _put_back(self, data: dict[str, Array], t: int, gain: Array) -> None:
        W = len(gain) // self.E
        quaternions = [t.quaternion for t in self.terms if t.quaternion is not None]
        own = {a: data["qpos"][:, a : a + 4].copy() for a in quaternions}
        for name, logged, known in (
            ("qpos", self.qpos, self.known_qpos),
            ("qvel", self.qvel, self.known_qvel),
        ):
            before, measured = data[name][:, known], np.tile(logged[:, t][:, known], (W, 1))
            data[name][:, known] = measured + (1 - gain) * (before - measured)
        for a, mine in own.items():
            theirs = with_heading(np.tile(self.qpos[:, t, a : a + 4], (W, 1)), mine)
            theirs *= np.where((theirs * mine).sum(axis=1) < 0, -1.0, 1.0)[:, None]
            data["qpos"][:, a : a + 4] = theirs + (1 - gain) * (mine - theirs)

    def _step(self, engine: Engine, t: int, delay: Array) -> None:
        skip = self.robot.config.frame_skip
        breaks = np.unique(np.append(delay % skip, [0, skip]))
        for first, end in itertools.pairwise(breaks):
            sent = (t * skip + first - delay) // skip  # (W,) the tick whose command acts
            command = self.command[:, np.maximum(sent, 0)].swapaxes(0, 1)  # (W, E, A)
            command = np.where((sent >= 0)[:, None, None], command, 0.0)
            engine.step(command.reshape(-1, command.shape[2]), int(end - first))


def compared(robot: MjcfRobot, episode: Trajectory) -> list[Term]:
    """The terms of a log that a replay is compared in: what sensors say; the environment's own
    observation only where there is nothing else."""
    terms = [robot.terms[n] for n in episode.obs if n in robot.terms]
    terms = [t for t in terms if t.sensor != "command"]
    return [t for t in terms if t.name != "v5"] or terms


def one_step(obs: Array, told: Array, there: Array) -> Array:
    """The motion that differences are measured by.

    Args:
        obs: (E, T + 1, D) as logged.
        told: (W, E, T, D) by worlds that repeat it, of which the first is looked at.
        there: (E, T) bool: the transitions that are compared.

    Returns:
        (D,) root mean square of a column's change in one step, logged or simulated: the larger, in
        the column's unit. 0 for what never changes.
    """
    start = obs[:, :-1][there]
    changes = [obs[:, 1:][there] - start, told[0][there] - start]
    rms = np.max([np.sqrt(np.square(c).mean(axis=0)) for c in changes], axis=0)
    return np.where(rms > 1e-9 * (1 + np.abs(start).max(axis=0)), rms, 0.0)
