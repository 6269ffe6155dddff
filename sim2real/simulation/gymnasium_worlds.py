"""Worlds made of Gymnasium environments: Fetch, the Shadow Hand, or anything that shows its model.

One environment per world, ξ written into the environment's own MjModel. In the nominal world and
without a gap, world i is `gymnasium.make(...)` with the seed `seed + i`, bit for bit.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim2real.dynamics.distribution import Distribution
from sim2real.simulation.draws import Draws
from sim2real.simulation.edits import apply
from sim2real.simulation.gap import Gap, sample
from sim2real.simulation.gymnasium_robot import GymnasiumRobot
from sim2real.simulation.reality import Reality
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError, Step

log = logging.getLogger(__name__)


class GymnasiumStart(NamedTuple):
    """Everything that an episode depends on besides its commands and the robot's own gap."""

    xi: Array
    """(K,)"""
    rng: int | Mapping[str, Any]
    """Seed of the environment's generator, or the state that it was in, before the reset."""
    noise: tuple[int, ...]
    """Seed of the sensor noise, packet losses and pushes."""


class GymnasiumWorlds:
    """B Gymnasium environments with the interface of `Worlds`.

    What differs: the environment clips and applies the commands itself, and computes its reward
    from what reaches it, behind the gap. A step is opaque, so the latency of actions is rounded to
    whole control periods; `latency_note` says what became of it, and so does the log.

    Args:
        robot: one whose env.yaml says `gymnasium`.
        num_worlds: B.
        gap: what reality does differently; each world draws its own robot from it, once. An effect
            on sensors that the observation does not have is logged, as a warning.
        observe: name of an observation set, or a list of terms; None is everything that the
            environment gives, in the order of its space.
        draw: distribution over ξ that every episode draws from; None keeps ξ nominal.
        threads: 0 uses every core. The trajectories do not depend on it.

    Raises:
        InputError: an unknown observation set, term or gap, or a gap effect that the robot's
            commands cannot have.
    """

    def __init__(
        self,
        robot: Robot,
        num_worlds: int,
        *,
        gap: Gap | str | Path | None = None,
        observe: str | Sequence[str] | None = None,
        draw: Distribution | None = None,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        if num_worlds < 1:
            raise InputError(f"num_worlds is {num_worlds}; it must be at least 1")
        if not isinstance(robot, GymnasiumRobot):
            raise InputError(
                f"{robot.where}: only a robot with 'gymnasium' runs in GymnasiumWorlds"
            )
        self.robot = robot
        self.num_worlds = B = num_worlds
        self.gap = gap = robot.gap(gap)
        self.model = robot.compile(gap) if gap.edited else robot.model
        self.space = robot.space_of(gap, self.model)
        self.draws = Draws(self.space, B, draw)
        self.terms = robot.observation(observe)
        if said := robot.idle(gap, self.terms):
            log.warning(said)
        self.dictionary = robot.interface.dictionary and observe in (None, "v5")
        """The terms are the keys of the environment's own dictionary observation."""
        self.obs_size = sum(t.size for t in self.terms)
        self.control_period = robot.control_period
        self.action_low, self.action_high = robot.command_range
        self._envs = [robot.make() for _ in range(B)]
        self._bare: list[Any] = [env.unwrapped for env in self._envs]
        for bare in self._bare:
            apply(bare.model, gap.edits)
        threads = min(threads or os.cpu_count() or 1, B)
        self._chunks = np.array_split(np.arange(B), threads)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        sizes = robot.interface.sizes
        self.data: dict[str, Array] = {name: np.zeros((B, n)) for name, n in sizes.items()}
        self.data["last_action"] = np.zeros((B, len(self.action_low)))
        for name in ("qpos", "qvel", "xpos"):
            self.data[name] = np.stack([getattr(bare.data, name) for bare in self._bare])
        self.ticks = np.zeros(B, int)
        self.episodes = np.zeros(B, int)
        self.starts: list[GymnasiumStart | None] = [None] * B
        self.xi = np.tile(self.space.nominal, (B, 1))  # (B, K)
        self._written = self.xi.copy()
        self._reset_infos: list[dict[str, Any]] = [{} for _ in range(B)]
        self.latency_note = ""
        """What became of the gap's latency; empty where it is as the gap says."""
        self.seed(seed)
        if self.latency_note:
            log.warning(self.latency_note)

    def seed(self, seed: int) -> None:
        """Restarts every random stream, and draws the robots of the gap anew."""
        B, gap = self.num_worlds, self.gap
        self._seeds: list[int | None] = [seed + i for i in range(B)]
        self._noise_seed = [seed] * B
        self.draws.seed(seed)
        robots = [np.random.default_rng(np.random.SeedSequence([seed, i, 2])) for i in range(B)]
        self.episodes[:] = 0
        for name, value in gap.xi.items():
            self.draws.pinned[:, self.space.names.index(name)] = sample(value, robots)
        milliseconds = sample(gap.latency.action_ms, robots)
        self._delay = np.floor(milliseconds / 1000 / self.control_period + 0.5).astype(int)
        self._queue = np.zeros((self._delay.max() + 1, B, len(self.action_low)))  # newest first
        self.latency_note = self._describe_latency(milliseconds)
        self._reality: Reality | None = None
        if not gap.in_the_model:
            low, high = self.action_low, self.action_high
            dof = np.zeros(len(low), int)
            if gap.actuators.stiction != 0.0:
                dof = self.model.jnt_dofadr[self.model.actuator_trnid[:, 0]]
            self._reality = Reality(
                gap, robots, actuators=self.robot.actuators, low=low, high=high,
                rest=np.zeros(len(low)), dof=dof, servo=np.zeros(len(low)), terms=self.terms,
                control_period=self.control_period,
            )  # fmt: skip

    def seed_world(self, world: int, seed: int) -> None:
        """Restarts the streams of one world's environment, as `reset(seed=...)` of it would, of
        its ξ and of its noise. The robot that the world drew from its gap stays."""
        self._seeds[world] = seed
        self.draws.seed_world(world, seed)
        self._noise_seed[world] = seed
        self.episodes[world] = 0

    def reset(
        self,
        worlds: Array | None = None,
        xi: Array | None = None,
        starts: Sequence[GymnasiumStart] | None = None,
    ) -> Array:
        """Begins new episodes and gives the observations of all worlds.

        Args:
            worlds: (n,) indices, or (B,) bool; None is all of them.
            xi: (n, K) or (K,) physics; None draws, or keeps what the gap says, or the nominal.
            starts: n recorded starts to repeat; with the same commands, each of these worlds
                repeats its episode bit for bit, and draws its next from there on.

        Returns:
            (B, O) observations; rows of worlds that were not reset are their latest.
        """
        index = np.arange(self.num_worlds) if worlds is None else np.asarray(worlds)
        index = np.flatnonzero(index) if index.dtype == bool else index
        if starts is None:
            new_xi = self.draws.next(index) if xi is None else self.draws.given(index, xi)
            starts = [
                GymnasiumStart(
                    new_xi[row],
                    self._stream(i),
                    (self._noise_seed[i], i, 3, int(self.episodes[i])),
                )
                for row, i in enumerate(index.tolist())
            ]
        self._write(index, np.stack([s.xi for s in starts]))
        for i, start in zip(index.tolist(), starts, strict=True):
            self.starts[i] = start
            self._begin(i, start.rng)
        self.episodes[index] += 1
        self.ticks[index] = 0
        self.data["last_action"][index] = 0.0
        self._queue[:, index] = 0.0
        obs = self._observe()
        if self._reality is not None:
            obs = self._reality.reset(index, [s.noise for s in starts], obs)
        return obs

    def reset_info(self) -> dict[str, Array]:
        """What the environments said at their last reset, each (B,)."""
        return _columns(self._reset_infos)

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
            action: (B, A) in the environment's unit.

        Raises:
            InputError: the action has another shape.
        """
        action = np.asarray(action)
        if action.shape != (self.num_worlds, len(self.action_low)):
            raise InputError(
                f"the action has shape {action.shape}; {self.robot.name} with {self.num_worlds} "
                f"worlds takes {(self.num_worlds, len(self.action_low))}"
            )
        ctrl = action
        if self._reality is not None:
            ctrl, push = self._reality.act(action, self.data["qvel"])
            self._queue = np.roll(self._queue, 1, axis=0)
            self._queue[0] = ctrl
            ctrl = self._queue[self._delay, np.arange(self.num_worlds)].astype(action.dtype)
            for i in np.flatnonzero(push):
                self._bare[i].data.qvel[0] += push[i]
        results = self._step_all(ctrl)
        self.data["last_action"][:] = action
        self.ticks += 1
        obs = self._observe()
        if self._reality is not None:
            obs = self._reality.observe(obs)
        reward, terminated, truncated, infos = zip(*results, strict=True)
        return Step(
            obs, np.array(reward), np.array(terminated, bool), np.array(truncated, bool), obs,
            _columns(infos),
        )  # fmt: skip

    def compute_reward(
        self, achieved_goal: Array, desired_goal: Array, infos: Sequence[dict[str, Any]]
    ) -> Array:
        """(n,) rewards for achieved and desired goals, each (n, G), by the environment's own rule.

        Raises:
            InputError: the environment has no goals.
        """
        if not self.robot.interface.goals:
            raise InputError(
                f"{self.robot.name} is no goal environment, so no goal can be relabelled"
            )
        return np.asarray(self._bare[0].compute_reward(achieved_goal, desired_goal, infos))

    def _step_all(self, ctrl: Array) -> list[tuple[float, bool, bool, dict[str, Any]]]:
        results: list[Any] = [None] * self.num_worlds

        def advance(chunk: Array) -> None:
            for i in chunk:
                obs, *results[i] = self._envs[i].step(ctrl[i])
                self._take(i, obs)

        if self._pool is None:
            advance(self._chunks[0])
        else:
            list(self._pool.map(advance, self._chunks))
        return results

    def _stream(self, i: int) -> int | Mapping[str, Any]:
        """Where the generator of world i stands: a seed, right after seeding."""
        seed = self._seeds[i]
        return self._bare[i].np_random.bit_generator.state if seed is None else seed

    def _begin(self, i: int, rng: int | Mapping[str, Any]) -> None:
        self._seeds[i] = None
        if isinstance(rng, int):
            obs, info = self._envs[i].reset(seed=rng)
        else:
            self._bare[i].np_random.bit_generator.state = rng
            obs, info = self._envs[i].reset()
        self._reset_infos[i] = info
        self._take(i, obs)

    def _take(self, i: int, obs: Any) -> None:
        parts = obs if self.robot.interface.dictionary else {"observation": obs}
        for name in self.robot.interface.sizes:
            self.data[name][i] = parts[name]
        state = self._bare[i].data
        for name in ("qpos", "qvel", "xpos"):
            self.data[name][i] = getattr(state, name)

    def _observe(self) -> Array:
        return np.concatenate([term.read(self.data) for term in self.terms], axis=1)

    def _write(self, worlds: Array, xi: Array) -> None:
        self.space.check(xi)
        self.xi[worlds] = xi
        for i in worlds[(xi != self._written[worlds]).any(axis=1)]:
            self.space.write(self._bare[i].model, self.xi[i])
            self._written[i] = self.xi[i]

    def _describe_latency(self, milliseconds: Array) -> str:
        """The sentence for `latency_note`, for action latencies (B,) [ms]."""
        said: list[str] = []
        period = 1000 * self.control_period
        if not np.allclose(milliseconds, self._delay * period, rtol=0.0, atol=1e-6):
            asked = np.unique(milliseconds)
            acts = " or ".join(f"{n * period:g}" for n in np.unique(self._delay))
            told = f"{asked[0]:g}" if len(asked) == 1 else f"{asked[0]:g} to {asked[-1]:g}"
            said.append(f"an action latency of {told} ms acts as {acts} ms")
        if self.gap.latency.observation_ms != 0.0 or self.gap.network.jitter_ms != 0.0:
            said.append("an observation latency interpolates between control periods")
        if not said:
            return ""
        return (
            f"{self.robot.name} is stepped {1000 * self.control_period:g} ms at a time: "
            + ", and ".join(said)
        )


def _columns(infos: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """Each figure that every world gives, as (B,)."""
    names = [n for n in infos[0] if all(n in info and np.ndim(info[n]) == 0 for info in infos)]
    return {n: np.array([info[n] for info in infos]) for n in names}
