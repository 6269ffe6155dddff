"""B simulated robots, each with its own physics and its own gap, stepped together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from sim2real.dynamics.distribution import Distribution
from sim2real.simulation.draws import Draws
from sim2real.simulation.engine import make_engine
from sim2real.simulation.friction import FIELDS, GearFriction
from sim2real.simulation.gap import Gap, sample
from sim2real.simulation.reality import Reality
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.servos import servos
from sim2real.simulation.terms import Term
from sim2real.types import Array, InputError, Step

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """Everything that an episode depends on besides its commands and the robot's own gap."""

    xi: Array
    """(K,)"""
    qpos: Array
    """(nq,)"""
    qvel: Array
    """(nv,)"""
    noise: tuple[int, ...]
    """Seed of the sensor noise, packet losses and pushes."""
    goals: Array
    """(S, G)"""


class Worlds:
    """B worlds of one robot with batched arrays in and out, reset in the step that ends an episode.

    World i draws its initial states from Gymnasium's stream for seed + i, its ξ and its noise from
    streams of their own. The same seed gives the same trajectories, bit for bit, whatever the
    number of threads, the engine, or the other worlds do.

    Args:
        robot: what to simulate.
        num_worlds: B.
        gap: what reality does differently; each world draws its own robot from it, once. An effect
            on sensors that the observation does not have is logged, as a warning.
        observe: name of an observation set, or a list of terms; None gives the `-v5` observation.
        draw: distribution over ξ that every episode draws from; None keeps ξ nominal.
        engine: `mjbatch`, or `reference` for a plain MjData per world.
        threads: 0 uses every core.

    Raises:
        InputError: an unknown observation set, term, gap or gap effect.
    """

    dictionary: ClassVar[bool] = False
    """The observation is an array; that of a Gymnasium environment may be a dictionary."""

    def __init__(
        self,
        robot: Robot,
        num_worlds: int,
        *,
        gap: Gap | str | Path | None = None,
        observe: str | Sequence[str] | None = None,
        draw: Distribution | None = None,
        seed: int = 0,
        engine: Literal["mjbatch", "reference"] = "mjbatch",
        threads: int = 0,
    ) -> None:
        if num_worlds < 1:
            raise InputError(f"num_worlds is {num_worlds}; it must be at least 1")
        if not isinstance(robot, MjcfRobot):
            raise InputError(f"{robot.where}: a Gymnasium environment runs in GymnasiumWorlds")
        self.robot = robot
        self.num_worlds = B = num_worlds
        self.task = robot.task
        self.gap = gap = robot.gap(gap)
        self.model = model = robot.compile(gap)
        self.space = robot.space_of(gap, model)
        self.draws = Draws(self.space, B, draw)
        self.terms = robot.observation(observe)
        if said := robot.idle(gap, self.terms):
            log.warning(said)
        self.obs_size = sum(t.size for t in self.terms)
        self.control_period = robot.control_period
        self.action_low, self.action_high = robot.command_range
        fields = needed_fields(robot, self.terms)
        if gap.actuators.friction.there:
            fields = list(dict.fromkeys([*fields, *FIELDS]))
        self._engine = make_engine(engine, model, B, fields, threads, self.task.rest)
        self.data = self._engine.data
        self.data["last_action"] = np.tile(self.task.rest, (B, 1))
        self.data["goal"] = np.zeros((B, len(self.task.goal_names)))
        self._after_step = [f for f in ("cfrc_ext",) if f in fields]
        self.ticks = np.zeros(B, int)
        self.episodes = np.zeros(B, int)
        self.starts: list[Start | None] = [None] * B
        self.xi = np.repeat(self.space.nominal[None], B, axis=0)  # (B, K)
        self._written = self.xi.copy()
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Restarts every random stream, and draws the robots of the gap anew."""
        B, gap = self.num_worlds, self.gap
        self._reset_rng = [
            np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed + i))) for i in range(B)
        ]
        self.draws.seed(seed)
        robots = [np.random.default_rng(np.random.SeedSequence([seed, i, 2])) for i in range(B)]
        self.episodes[:] = 0
        self._noise_seed = [seed] * B
        for name, value in gap.xi.items():
            self.draws.pinned[:, self.space.names.index(name)] = sample(value, robots)
        if gap.latency.action_ms != 0.0:
            delay = [p.field == "actuator_delay" for p in self.space.parameters].index(True)
            self.draws.pinned[:, delay] = sample(gap.latency.action_ms, robots)
        self._lag = np.maximum(sample(gap.actuators.lag_ms, robots) / 1000, 1e-9)
        self._gears: GearFriction | None = None
        if gap.actuators.friction.there:
            driven = self.model.jnt_dofadr[self.model.actuator_trnid[:, 0]]
            self._gears = GearFriction(gap.actuators.friction, robots, driven)
            own = self.space.values(self._written).get("dof_frictionloss")
            own = np.tile(self.model.dof_frictionloss, (B, 1)) if own is None else own
            self._own_friction = own[:, driven]
        self._reality: Reality | None = None
        if not gap.in_the_model:
            low, high = self.action_low, self.action_high
            dof = np.zeros(len(low), int)
            if gap.actuators.stiction != 0.0:
                dof = self.model.jnt_dofadr[self.model.actuator_trnid[:, 0]]
            self._reality = Reality(
                gap, robots, actuators=self.robot.actuators, low=low, high=high,
                rest=self.task.rest, dof=dof, servo=servos(self.model),
                terms=self.terms, control_period=self.control_period,
            )  # fmt: skip
        if gap.lag:
            prm = np.tile(self.model.actuator_dynprm, (B, 1, 1))
            prm[:, :, 0] = self._lag[:, None]
            self._engine.set_model(np.arange(B), {"actuator_dynprm": prm}, derive=False)

    def seed_world(self, world: int, seed: int) -> None:
        """Restarts the streams of one world's initial states, as Gymnasium's `reset(seed=...)`, of
        its ξ and of its noise. The robot that the world drew from its gap stays."""
        self._reset_rng[world] = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed)))
        self.draws.seed_world(world, seed)
        self._noise_seed[world] = seed
        self.episodes[world] = 0

    def reset(
        self,
        worlds: Array | None = None,
        xi: Array | None = None,
        starts: Sequence[Start] | None = None,
    ) -> Array:
        """Begins new episodes and gives the observations of all worlds.

        Args:
            worlds: (n,) indices, or (B,) bool; None is all of them.
            xi: (n, K) or (K,) physics; None draws, or keeps what the gap says, or the nominal.
            starts: n recorded starts to repeat; with the same commands, each of these worlds
                repeats its episode bit for bit.

        Returns:
            (B, O) observations; rows of worlds that were not reset are their latest.
        """
        index = _indices(worlds, self.num_worlds)
        if starts is not None:
            new_xi = np.stack([s.xi for s in starts])
        else:
            new_xi = self.draws.next(index) if xi is None else self.draws.given(index, xi)
        self._write(index, new_xi)
        model = self.robot.model
        qpos, qvel = np.zeros((len(index), model.nq)), np.zeros((len(index), model.nv))
        episodes = self.episodes[index].tolist()
        for row, i in enumerate(index.tolist()):
            if starts is None:
                q, v = self.task.initial_state(self._reset_rng[i])
                goals = self.task.goals(self._reset_rng[i])
                qpos[row], qvel[row] = q, v
                noise = (self._noise_seed[i], i, 3, episodes[row])
                self.starts[i] = Start(new_xi[row], q.copy(), v.copy(), noise, goals)
            else:
                goals = starts[row].goals
                qpos[row], qvel[row] = starts[row].qpos, starts[row].qvel
                self.starts[i] = starts[row]
            self.data["goal"][i] = goals[0]
        self.set_state(index, qpos, qvel)
        self.episodes[index] += 1
        self.ticks[index] = 0
        obs = self._observe()
        if self._reality is not None:
            seeds = [s.noise for s in (self.starts[i] for i in index) if s is not None]
            obs = self._reality.reset(index, seeds, obs)
        return obs

    def reset_info(self) -> dict[str, Array]:
        """What the task says of the worlds as they are after a reset, each (B,)."""
        return self.task.reset_info(self.data)

    def set_state(self, worlds: Array, qpos: Array, qvel: Array) -> None:
        """Puts worlds (n,) at rest in time at qpos (n, nq) and qvel (n, nv), nothing pending."""
        self._engine.reset(worlds, qpos, qvel)
        self.data["last_action"][worlds] = self.task.rest
        for name in self._after_step:
            self.data[name][worlds] = 0.0

    def step(self, action: Array) -> Step:
        """One control step of every world; those that end begin their next episode at once, and
        `obs` holds its first observation. See `advance` for the arguments."""
        step = self.advance(action)
        done = step.terminated | step.truncated
        if not done.any():
            return step
        fresh = self.reset(done)
        return step._replace(obs=np.where(done[:, None], fresh, step.obs), terminal_obs=step.obs)

    def advance(self, action: Array) -> Step:
        """One control step of every world, and no reset.

        Args:
            action: (B, A) in the actuators' unit.

        Raises:
            InputError: the action has another shape.
        """
        action = np.asarray(action)
        if action.shape != (self.num_worlds, len(self.action_low)):
            raise InputError(
                f"the action has shape {action.shape}; {self.robot.name} with {self.num_worlds} "
                f"worlds takes {(self.num_worlds, len(self.action_low))}"
            )
        data = self.data
        before = self.task.before(data)
        ctrl = action
        if self._reality is not None:
            ctrl, push = self._reality.act(action, data["qvel"])
            data["qvel"][:, 0] += push
        self._advance(ctrl)
        data["last_action"][:] = action
        reward, info = self.task.reward(data, before, action, self.control_period)
        terminated = self.task.terminated(data)
        self.ticks += 1
        truncated = self.ticks >= self.task.episode_steps
        self._ask()
        obs = self._observe()
        if self._reality is not None:
            obs = self._reality.observe(obs)
        return Step(obs, reward, terminated, truncated, obs, info)

    def _advance(self, ctrl: Array) -> None:
        """The physics of one control step under ctrl (B, A)."""
        if self._gears is None:
            self._engine.step(ctrl, self.robot.config.frame_skip)
            return
        everyone, friction = np.arange(self.num_worlds), self.data["dof_frictionloss"].copy()
        for _ in range(self.robot.config.frame_skip):
            friction[:, self._gears.dofs] = self._gears.bound(self._own_friction, self.data)
            self._engine.set_model(everyone, {"dof_frictionloss": friction}, derive=False)
            self._engine.step(ctrl, 1)

    def _ask(self) -> None:
        """Puts the next goal in the place of the one before, where its time has come."""
        every = self.task.goal_steps
        if not every:
            return
        for i in np.flatnonzero(self.ticks % every == 0).tolist():
            start = self.starts[i]
            assert start is not None
            self.data["goal"][i] = start.goals[min(self.ticks[i] // every, len(start.goals) - 1)]

    def _observe(self) -> Array:
        parts = [term.read(self.data) for term in self.terms]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else np.array(parts[0])

    def _write(self, worlds: Array, xi: Array) -> None:
        changed = (self.space.check(xi) != self._written[worlds]).any(axis=1)
        self.xi[worlds] = xi
        if not changed.all():
            worlds, xi = worlds[changed], xi[changed]
        if len(worlds):
            values = self.space.values(xi)
            self._engine.set_model(worlds, values, self.space.needs_const)
            self._written[worlds] = xi
            if self._gears is not None and "dof_frictionloss" in values:
                self._own_friction[worlds] = values["dof_frictionloss"][:, self._gears.dofs]


def needed_fields(robot: MjcfRobot, terms: Sequence[Term]) -> list[str]:
    """The fields that the task and the terms read, besides qpos and qvel."""
    read = [field for term in terms for field in term.fields]
    return list(dict.fromkeys([*robot.task.fields, *read]))


def _indices(worlds: Array | None, num_worlds: int) -> Array:
    if worlds is None:
        return np.arange(num_worlds)
    worlds = np.asarray(worlds)
    return np.flatnonzero(worlds) if worlds.dtype == bool else worlds
