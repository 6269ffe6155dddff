"""Adaptation on a target: gather, explain, rehearse, or remember, and let a gate decide."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from sim2real import content, progress
from sim2real.bridges.adapt.context import Context, ContextAdapter, ContextState
from sim2real.bridges.adapt.search import search
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import SCHEMA, AdaptedState
from sim2real.deploy.controller import EpisodeResult, RunResult, run
from sim2real.deploy.files import write_atomically
from sim2real.deploy.logs.npz import read_logs, stamp_of
from sim2real.deploy.robots.base import Robot as Target
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.deploy.safety import Wiring
from sim2real.dynamics.distribution import Distribution, Empirical
from sim2real.evaluate import observation_names, play, policy_of
from sim2real.export import build_contract, check_terms, export
from sim2real.identification.posterior import Posterior
from sim2real.identification.trajectories import read_trajectories
from sim2real.identification.windows import Trajectory
from sim2real.make import check_whole
from sim2real.policy.policy import Policy
from sim2real.record import record
from sim2real.serve import served
from sim2real.simulation.make import AnyWorlds, make_worlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError, SafetyStop, nearest

Engine = Literal["identify", "search"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
EXPLORE = 0.4
"""Share of the episode budget that gathers data, or is the trial of a memory; the gate gets the
rest."""
WORLDS = 32
"""In which a context is rehearsed."""
MARGIN = 0.1
"""Share by which the rehearsal may find more falls per second, before it refuses: about what chance
makes of them in as many worlds. Where there were none, there must be none. A test against chance
would be the wrong guard here: it lets pass what it cannot prove. Where none of 32 worlds fell
before, two that fall now do not refute chance at 95 % (a bootstrap leaves out both with probability
(1 - 2/32)^32 = 0.13), and the robot would try it."""


@dataclass
class Spent:
    """What the target was asked for; everything counts, gate and search included."""

    episodes: int = 0
    seconds: float = 0.0
    falls: int = 0

    def add(self, result: RunResult) -> None:
        self.episodes += len(result.episodes)
        self.seconds += result.seconds
        self.falls += sum(e.terminated or e.stopped is not None for e in result.episodes)


class Rehearsal(NamedTuple):
    """Falls per second of simulated time, with two contexts in the same worlds. See `rehearse`."""

    adapted: float
    unadapted: float
    """With the context from before."""

    @property
    def passed(self) -> bool:
        return self.adapted <= self.unadapted * (1 + MARGIN)


@dataclass(frozen=True)
class Adaptation:
    """What came of it. `z` is what the robot should run with: where nothing helped, the one from
    before."""

    accepted: bool
    reason: str
    z: AdaptedState
    artifact: Path
    posterior: Posterior | None
    rehearsal: Rehearsal | None
    spent: Spent
    stages: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """Stage -> return of each target episode, in order; empty where there is no reward."""
    refused: int = 0
    """Contexts that a search proposed and rehearsal refused; none of them drove the target."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted, "reason": self.reason,
            "context": self.z.context,
            "episodes": self.spent.episodes, "seconds": self.spent.seconds,
            "falls": self.spent.falls,
            "stages": self.stages,
            "rehearsal": self.rehearsal._asdict() if self.rehearsal else None,
            "refused": self.refused,
            "posterior": self.posterior.summary() if self.posterior else None,
        }  # fmt: skip


def adapt(
    policy: Policy | str | Path,
    target: str | Path,
    *,
    episodes: int = 10,
    seconds: float | None = None,
    seed: int = 0,
    engine: Engine = "identify",
    excitation: float = 0.1,
    out: str | Path | None = None,
) -> Adaptation:
    """Finds the z of a policy on a target, and decides whether it helps.

    The policy leaves as a verified artifact and drives the target over the wire. With `identify`,
    four tenths of the episodes gather data, with bounded noise on the commands; the logs are
    explained by simulation; the context is rehearsed in worlds drawn from the posterior; and the
    remaining episodes alternate between the old context and the new one. Where the target has no
    reward, or is a log, held-out windows of the log decide instead. When it does not help, the
    old context stays.

    With `search`, every context is rehearsed before the robot is driven with it, in worlds around
    what it claims (`around`); one with which falls become more likely is never driven.

    A policy with a memory finds out while it acts: it drives four tenths of the episodes as one
    trial, and what it then remembers is compared with nothing remembered, in the remaining episodes
    by turns. Where the target has no reward, falls per second decide.

    Args:
        target: `HOST:PORT` of a robot; a log or a folder of logs; or `ENV/GAP`, a simulated robot
            that is then served by a process of its own. This process never sees its ξ.
        episodes: target episodes that may be used, gate and search included.
        seconds: target seconds that may be used; None sets no such limit.
        engine: of a context: `identify`, or `search`, which optimises the episode return by black
            box; the target must have a reward, and be no log.
        excitation: standard deviation of the noise on commands while data is gathered to identify a
            context, as a share of half their range.
        out: folder for artifact, logs, posterior.json, z.json and adaptation.json; default
            runs/<policy>-adapt.

    Raises:
        InputError: the policy has neither context nor memory, the target is not there, another
            robot or without the reward that a search needs, or an argument is not what it may be;
            nothing has been driven or written then.
        SafetyStop: the controller stopped the target, and not because it was about to fall.
    """
    policy = policy_of(policy)
    told, remembers = (name in policy.z_names for name in ("context", "memory"))
    if not (told or remembers):
        raise InputError(
            f"policy '{policy.spec.name}' has no context to adapt, and no memory; train one with "
            "adapt: context or adapt: memory"
        )
    _check_arguments(policy, target, episodes, seconds, seed, engine, excitation)
    if not told and engine == "search":
        raise InputError(
            f"search is for a context, and policy '{policy.spec.name}' has none: it finds out "
            "while it acts; leave engine out"
        )
    out = Path(out) if out is not None else Path("runs") / f"{policy.spec.name}-adapt"
    robot = Robot.load(policy.spec.env)
    observation_names(policy, robot)
    with progress.bar("adapt", 100) as report:
        if (logs := _log_path(target)) is not None:
            if not told:
                raise InputError(
                    f"policy '{policy.spec.name}' remembers what it met itself, and '{target}' is "
                    "a log; give HOST:PORT or ENV/GAP"
                )
            if engine == "search":
                raise InputError(
                    f"search drives the robot, and '{target}' is a log of it; use identify, or "
                    "give HOST:PORT or ENV/GAP"
                )
            trajectories = read_trajectories(logs, robot)
            ends = [log.info for log in read_logs(logs)]
            falls = sum(end.terminated or end.stopped is not None for end in ends)
            artifact = export(policy, out / "artifact")
            result = _from_logs(policy, robot, artifact, trajectories, falls, seed, report)
        else:
            with address_of(target, seed) as where, closing(UdpRobot(*where)) as connection:
                if engine == "search" and not connection.describe().reward:
                    raise InputError(
                        f"search needs a reward, and {connection.describe().name} at "
                        f"{connection.address} declares none; use identify"
                    )
                check_terms(policy.spec)
                recorded = record(policy, robot)
                contract = build_contract(policy.spec, recorded)
                Wiring.join(contract, connection.describe())  # another robot: nothing is written
                if not told and connection.describe().episode_steps is None:
                    raise InputError(
                        f"{connection.describe().name} at {connection.address} has no episode "
                        "limit, and what is remembered is judged by whole episodes; give it one"
                    )
                artifact = export(policy, out / "artifact", recorded)
                session = _Session(
                    policy, robot, artifact, connection, out, seed, seconds, excitation
                )
                methods = {"identify": session.identify, "search": session.search}
                method = methods[engine] if told else session.remember
                result = method(episodes, report)
    result.z.write(out / "z.json")
    (out / "posterior.json").unlink(missing_ok=True)  # of an earlier adaptation
    if result.posterior is not None:
        result.posterior.save(out / "posterior.json")
    text = json.dumps(result.to_dict(), indent=2) + "\n"
    write_atomically(out / "adaptation.json", text.encode())
    return result


def _check_arguments(
    policy: Policy, target: object, episodes: int, seconds: float | None, seed: int, engine: str,
    excitation: float,
) -> None:  # fmt: skip
    if not isinstance(target, str | os.PathLike):
        raise InputError(f"target is {target!r}; it must be HOST:PORT, ENV/GAP, or a path of logs")
    if episodes in (0, 1, 2):
        raise InputError(
            f"episodes is {episodes}; adaptation needs at least 3: one to gather, two to compare"
        )
    check_whole("episodes", episodes, 3)
    check_whole("seed", seed, 0, 2**32 - 1)  # what CMA-ES takes
    period = policy.spec.control_period
    if seconds is not None and not (isinstance(seconds, Real) and seconds >= period):
        raise InputError(
            f"seconds is {seconds!r}; it must be at least one control period, {period:g} s"
        )
    if engine not in ENGINES:
        raise InputError(
            f"engine is {engine!r}; it must be {' or '.join(ENGINES)}"
            f"{nearest(str(engine), ENGINES)}"
        )
    if not (isinstance(excitation, Real) and 0 <= excitation <= 1):
        raise InputError(
            f"excitation is {excitation!r}; it is a share of half the command range, 0 to 1"
        )


@contextmanager
def address_of(target: str | Path, seed: int = 0) -> Iterator[tuple[str, int]]:
    """(host, port) of a target; `ENV/GAP` is served as long as the context lasts.

    Raises:
        InputError: it is neither an address nor an env with a gap.
    """
    host, _, port = str(target).rpartition(":")
    if host and port.isdigit():
        if not 0 < int(port) < 65536:
            raise InputError(f"target '{target}': a port lies in 1 to 65535")
        yield host, int(port)
        return
    env, _, gap = str(target).rpartition("/")
    if not env:
        known = ", ".join(content.env_names())
        raise InputError(
            f"target '{target}' is no HOST:PORT, no log, and no ENV/GAP such as hopper/worn; "
            f"the shipped envs are {known}"
        )
    # Only whether it exists: what the gap says, its ξ above all, is for the other process to read.
    content.gap_file(env, gap)
    with served(env, gap=gap, seed=seed) as where:
        host, _, port = where.rpartition(":")
        yield host, int(port)


def _log_path(target: str | Path) -> Path | None:
    path = Path(target)
    return path if path.suffix == ".npz" or (path.is_dir() and any(path.glob("*.npz"))) else None


class _Session:
    """One target, one artifact, one account of what was spent."""

    def __init__(
        self, policy: Policy, robot: Robot, artifact: Artifact, target: Target, out: Path,
        seed: int, seconds: float | None, excitation: float,
    ) -> None:  # fmt: skip
        self.policy, self.robot, self.artifact, self.out = policy, robot, artifact, out
        self.seed, self.seconds, self.excitation = seed, seconds, excitation
        self.target = target
        self.spent = Spent()
        self.started = stamp_of(time.time())
        self.logs: list[Path] = []
        """Of the episodes that gathered data."""
        self.stages: dict[str, list[float]] = {}
        self.adapter = ContextAdapter(robot, seed=seed)
        self.before = self.adapter.prior(np.random.default_rng(seed))

    def episode(
        self, stage: str, z: AdaptedState | None, *, excitation: float = 0.0, share: float = 1.0
    ) -> EpisodeResult | None:
        """One target episode; None where the budget of seconds is used up or cut it short. See
        `drive`."""
        result = self.drive(stage, z, excitation=excitation, share=share)
        if result is None or not _whole(result.episodes[-1]):
            return None
        return result.episodes[-1]

    def drive(
        self, stage: str, z: AdaptedState | None, *, episodes: int = 1, excitation: float = 0.0,
        share: float = 1.0,
    ) -> RunResult | None:  # fmt: skip
        """Target episodes of one trial, fewer where it is stopped; None where the budget of seconds
        is used up.

        Args:
            share: of the seconds that may be used so far.
        """
        left, period = None, self.artifact.contract.control_period
        if self.seconds is not None:
            ticks = int((share * self.seconds - self.spent.seconds) / period + 1e-6)
            if ticks < 1:
                return None
            left = ticks * period
        result = run(
            self.artifact, self.target, episodes=episodes, seconds=left, excitation=excitation,
            z=z, seed=self.seed + self.spent.episodes,
            log=self.out / "logs" / self.started / stage,
        )  # fmt: skip
        self.spent.add(result)
        if result.stopped is not None and not result.stopped.startswith("tilt"):
            raise SafetyStop(result.stopped)
        for episode in result.episodes:
            if stage == "gather" and episode.log is not None:
                self.logs.append(episode.log)
            if episode.return_ is not None and _whole(episode):
                self.stages.setdefault(stage, []).append(episode.return_)
        return result

    def z(
        self, context: Array, *, accepted: bool = False, std: Array | None = None
    ) -> AdaptedState:
        space = self.robot.space
        spread = np.array(space.prior().std()) if std is None else std
        return AdaptedState(
            SCHEMA, self.artifact.contract.graph, "context", tuple(space.names),
            tuple(map(float, context)), tuple(map(float, spread)), accepted,
            self.spent.episodes, self.spent.seconds, self.spent.falls,
        )  # fmt: skip

    def identify(self, episodes: int, report: progress.Report) -> Adaptation:
        gather, before = gathering(episodes), self.before.value
        for k in range(gather):
            self.episode("gather", self.z(before), excitation=self.excitation, share=EXPLORE)
            report(round(20 * (k + 1) / gather), {"episodes": self.spent.episodes})
        logs = read_trajectories(self.logs, self.robot)
        adapter = ContextAdapter(
            self.robot, seed=self.seed, report=lambda n, figures: report(20 + 4 * n, figures)
        )
        z = within(self.policy, adapter.adapt(self.before, logs))
        assert z.posterior is not None
        worlds = rehearsal_worlds(self.policy, self.robot)
        draw = z.posterior.distribution()
        rehearsal = rehearse(self.policy, worlds, draw, z.value, before, seed=self.seed)
        report(80, {"episodes": self.spent.episodes})
        if not rehearsal.passed:
            reason = (
                f"rehearsed in worlds that explain the logs, it falls {rehearsal.adapted:.2f} "
                f"times a second instead of {rehearsal.unadapted:.2f}"
            )
            return self._verdict(False, reason, z, rehearsal)
        accepted, reason = self._gate(before, z, (episodes - gather) // 2, report)
        return self._verdict(accepted, reason, z, rehearsal)

    def search(self, episodes: int, report: progress.Report) -> Adaptation:
        pairs = max(min(2, (episodes - 1) // 2), episodes // 5)
        budget = episodes - 2 * pairs
        policy, before = self.policy, self.before.value
        worlds = rehearsal_worlds(policy, self.robot)
        rehearsals: list[tuple[Array, Rehearsal]] = []

        def allowed(context: Array) -> bool:
            told = within(policy, ContextState(context, None)).value
            draw = around(policy, told, seed=self.seed)
            rehearsal = rehearse(policy, worlds, draw, told, before, seed=self.seed)
            rehearsals.append((told, rehearsal))
            return rehearsal.passed

        def try_context(context: Array) -> float:
            told = within(policy, ContextState(context, None)).value
            episode = self.episode("search", self.z(told), share=budget / episodes)
            value = float("nan")
            if episode is not None:
                assert episode.return_ is not None  # `adapt` refuses a target without reward
                value = episode.return_
            report(round(80 * self.spent.episodes / episodes), {"return": value})
            return value

        context, _ = search(
            try_context, self.robot.space, episodes=budget, seed=self.seed, allowed=allowed
        )
        refused = sum(not rehearsal.passed for _, rehearsal in rehearsals)
        if refused == len(rehearsals):  # the robot was not driven: there is nothing to compare
            reason = f"rehearsal refused all {refused} contexts that the search proposed"
            z = ContextState(before, None)
            return self._verdict(False, reason, z, rehearsals[-1][1], refused)
        z = within(policy, ContextState(context, None))
        rehearsal = next((r for told, r in rehearsals if (told == z.value).all()), None)
        accepted, reason = self._gate(before, z, pairs, report)
        return self._verdict(accepted, reason, z, rehearsal, refused)

    def _gate(
        self, before: Array, z: ContextState, pairs: int, report: progress.Report
    ) -> tuple[bool, str]:
        """Returns of alternating episodes; held-out windows where there is no reward."""
        if not self.target.describe().reward:
            assert z.posterior is not None  # `adapt` refuses to search there
            return by_likelihood(z.posterior)
        return self._by_turns(self.z(before), self.z(z.value), pairs, report)

    def _by_turns(
        self, before: AdaptedState | None, after: AdaptedState, pairs: int, report: progress.Report
    ) -> tuple[bool, str]:
        """Episodes with one z and the other, by turns; without a reward, falls per second."""
        whole = list[tuple[EpisodeResult, EpisodeResult]]()
        for k in range(pairs):
            pair = self.episode("before", before), self.episode("after", after)
            # an episode that the budget cut is a good one: dropping it alone would favour the other
            if pair[0] is not None and pair[1] is not None:
                whole.append((pair[0], pair[1]))
            report(80 + round(20 * (k + 1) / pairs), {"episodes": self.spent.episodes})
        if not whole:
            return False, "the budget was used up before the adapted policy could be compared"
        old, new = zip(*whole, strict=True)
        if self.target.describe().reward:
            return by_return(*(np.array([e.return_ for e in some], float) for some in (old, new)))
        return by_falls(old, new)

    def remember(self, episodes: int, report: progress.Report) -> Adaptation:
        """One trial, and then what is remembered of it against nothing remembered."""
        trial, bounds = gathering(episodes), self.artifact.contract.adaptation
        assert bounds is not None
        blank = kept = self.artifact.contract.state("memory").initial
        z: AdaptedState | None = None
        while self.spent.episodes < trial:  # a fall that tilt tells of ends a run, not the trial
            left = trial - self.spent.episodes
            driven = self.drive("trial", z, episodes=left, share=EXPLORE)
            if driven is None:
                break
            # a GRU's rounding can leave [-1, 1] by the last digit
            kept = np.clip(driven.trial["memory"].ravel(), bounds.low, bounds.high).tolist()
            z = self.remembered(kept)
            report(80 * self.spent.episodes // episodes, {"episodes": self.spent.episodes})
        accepted, reason = False, "the budget was used up before anything was remembered"
        if z is not None:
            accepted, reason = self._by_turns(None, z, (episodes - trial) // 2, report)
        z = self.remembered(kept if accepted else blank, accepted=accepted)
        report(100, {"episodes": self.spent.episodes})
        return Adaptation(
            accepted, reason, z, self.artifact.folder, None, None, self.spent, self.stages
        )

    def remembered(self, value: Sequence[float], *, accepted: bool = False) -> AdaptedState:
        """The z of a memory (Z,)."""
        return AdaptedState(
            SCHEMA, self.artifact.contract.graph, "memory", (), tuple(map(float, value)), (),
            accepted, self.spent.episodes, self.spent.seconds, self.spent.falls,
        )  # fmt: skip

    def _verdict(
        self, accepted: bool, reason: str, z: ContextState, rehearsal: Rehearsal | None,
        refused: int = 0,
    ) -> Adaptation:  # fmt: skip
        context = z.value if accepted else self.before.value
        std = z.posterior.std if accepted and z.posterior is not None else None
        state = self.z(context, accepted=accepted, std=std)
        return Adaptation(
            accepted,
            reason,
            state,
            self.artifact.folder,
            z.posterior,
            rehearsal,
            self.spent,
            self.stages,
            refused,
        )


def gathering(episodes: int) -> int:
    """How many of the episodes find out, before the others compare."""
    return max(1, min(round(EXPLORE * episodes), episodes - 4))


def _whole(episode: EpisodeResult) -> bool:
    """Whether it ended by itself, and not because the budget did."""
    return episode.terminated or episode.truncated or episode.stopped is not None


def within(policy: Policy, z: ContextState) -> ContextState:
    """z inside the ranges that the policy was trained on, which may be narrower than the robot's:
    beyond them nobody knows what it does, and its artifact refuses them."""
    low = [p.low for p in policy.spec.context]
    high = [p.high for p in policy.spec.context]
    return z._replace(value=np.clip(z.value, low, high))


def by_return(before: Array, after: Array) -> tuple[bool, str]:
    """The gate where the target has a reward: (n,) and (m,) returns of alternating episodes. The
    new context must win by more than twice the standard error of the difference, which two episodes
    of each are the least to tell."""
    if min(len(before), len(after)) < 2:
        pair = f"return {before.mean():.4g} before, {after.mean():.4g} after"
        return False, f"{pair}: one episode of each says nothing of chance; allow more episodes"
    gain = float(after.mean() - before.mean())
    error = float(np.sqrt(sum(x.var(ddof=1) / len(x) for x in (before, after))))
    said = (
        f"return {before.mean():.4g} before, {after.mean():.4g} after, standard error {error:.2g}"
    )
    return gain > 2 * error, said


def by_falls(before: Sequence[EpisodeResult], after: Sequence[EpisodeResult]) -> tuple[bool, str]:
    """The gate of a memory without a reward, on whole episodes: with what it remembers it must not
    fall more often than without, in two of each at least."""
    old, new = (
        sum(e.terminated or e.stopped is not None for e in some) / sum(e.seconds for e in some)
        for some in (before, after)
    )
    said = f"falls per second {old:.3g} before, {new:.3g} after"
    if len(before) < 2:
        return False, f"{said}: one episode of each says nothing of chance; allow more episodes"
    return new <= old, said


def by_likelihood(posterior: Posterior) -> tuple[bool, str]:
    """The gate without a reward: held-out windows must be explained better than by the nominal ξ,
    by more than twice the standard error of the difference."""
    new, old = posterior.log_likelihood, posterior.log_likelihood_nominal
    said = f"held-out log-likelihood per window {old:.2f} nominal, {new:.2f} identified"
    return bool(new - old > 2 * posterior.gain_error), said


def rehearsal_worlds(policy: Policy, robot: Robot) -> AnyWorlds:
    """Simulated robots to rehearse a policy in; `rehearse` draws their physics."""
    return make_worlds(robot, WORLDS, observe=observation_names(policy, robot))


def rehearse(
    policy: Policy,
    worlds: AnyWorlds,
    draw: Distribution,
    context: Array,
    before: Array,
    *,
    seed: int = 0,
) -> Rehearsal:
    """Runs two contexts (K,) in the same worlds from the same starts: which one falls more?

    Args:
        draw: the physics ξ of the worlds: what is believed of the robot.
    """
    rates: list[float] = []
    for told in (context, before):
        worlds.draws.distribution = draw
        worlds.seed(seed)
        obs = worlds.reset()
        played = play(policy, worlds, obs, np.broadcast_to(told, (len(obs), len(told))))
        rates.append(float(played.falls.sum() / played.seconds.sum()))
    return Rehearsal(*rates)


def around(policy: Policy, context: Array, *, seed: int = 0, samples: int = 256) -> Distribution:
    """What a context (K,) claims of the robot, where there is no posterior: ξ normal around it,
    clipped to the ranges of training. The deviation is the error that training adds to what it
    tells, `Context.error` of each range (5 %): a policy does not carry that of its own recipe."""
    low = np.array([p.low for p in policy.spec.context])
    high = np.array([p.high for p in policy.spec.context])
    noise = np.random.default_rng(seed).standard_normal((samples, len(low)))  # (S, K)
    return Empirical(np.clip(context + Context.error * (high - low) * noise, low, high))


def _from_logs(
    policy: Policy, robot: Robot, artifact: Artifact, episodes: list[Trajectory], falls: int,
    seed: int, report: progress.Report,
) -> Adaptation:  # fmt: skip
    adapter = ContextAdapter(robot, seed=seed, report=lambda n, figures: report(6 * n, figures))
    before = adapter.prior(np.random.default_rng(seed))
    z = within(policy, adapter.adapt(before, episodes))
    assert z.posterior is not None
    worlds, draw = rehearsal_worlds(policy, robot), z.posterior.distribution()
    rehearsal = rehearse(policy, worlds, draw, z.value, before.value, seed=seed)
    accepted, reason = by_likelihood(z.posterior)
    if not rehearsal.passed:
        accepted, reason = False, "rehearsed in worlds that explain the logs, it falls more often"
    report(100, {})
    seconds = sum(len(e.command) for e in episodes) * robot.control_period
    spent = Spent(len(episodes), seconds, falls)
    value = z.value if accepted else before.value
    std = z.posterior.std if accepted else robot.space.prior().std()
    state = AdaptedState(
        SCHEMA, artifact.contract.graph, "context", tuple(robot.space.names),
        tuple(map(float, value)), tuple(map(float, std)), accepted,
        spent.episodes, spent.seconds, spent.falls,
    )  # fmt: skip
    return Adaptation(accepted, reason, state, artifact.folder, z.posterior, rehearsal, spent)
