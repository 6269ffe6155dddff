"""Where simulation and robot differ: in which terms, at which joint, in which states; or nowhere.

Every logged transition (s, a, s') is repeated in nominal worlds from the same s with the same a, so
that s' alone differs, and no difference in *visited* states can pass for one in the dynamics. What
decides what:

- *Is there a gap?* A permutation test over episodes, for transitions within an episode hang
  together. Besides the robot, each episode is repeated by twins: nominal worlds that are put back
  to what the log measures and begin the rest where an episode of the simulator may begin. If there
  is no gap, the robot is one more twin; so the label "robot" is shuffled among them.
- *In the observations or in the dynamics?* Nominal worlds in which commands act later (latency),
  or which start from between what they predicted and what was then measured (noise enters s and s',
  so part of a step's surprise is taken back in the next; a gap in the dynamics is not). What
  explains enough of the difference names it; else it is called one of the dynamics. Both kinds at
  once get the name of the larger.
- *Which joint?* Worlds in which a small force acts on one joint: the share of the difference that
  some force on this joint alone would make.
- *In which states and under which commands?* The classifiers of DARC, cross-fitted over episodes,
  give Δr of transitions that they have not seen, and a map of it. They confirm and draw, and decide
  nothing: on the few hundred transitions that the test needs, they are not calibrated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from sim2real import progress
from sim2real.bridges.correct.classifiers import DomainClassifiers, Transitions
from sim2real.identification.identify import read_trajectories
from sim2real.identification.windows import Trajectory, with_heading
from sim2real.simulation.engine import Engine, make_engine
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.terms import Term
from sim2real.types import Array, InputError

STAGES = 5
"""What `report` counts to."""
LEAST = 200
"""Transitions below which nothing is said."""
TICKS = 400
"""Control steps of an episode that are looked at."""
LEVEL = 0.01
"""Of the test: a finding where there is no gap, in at most this share of trials."""
FLOOR = 1e-3
"""Differences below this share of one step's motion are none."""
LATE = 0.3
"""Share of the difference that a latency must explain to be called the reason."""
BELIEVED, TAKEN_BACK, CERTAIN = 0.7, -0.25, -4.0
"""Gain, slope and t of the test for noise."""
ONE_JOINT = 0.4
"""Share of the difference that a joint must explain to be called the reason. White noise leaves
to the best joint of a hopper or a cheetah 0.1 to 0.25."""
BASE_MARGIN = 0.15
"""By how much more a force on the floating base must explain to be ranked before a joint: with a
foot on the ground, torque at the hip and a moment on the torso are nearly the same thing."""
OUTSIDE = 0.05
"""Share of transitions outside what the simulator can do above which the answer is `unknown`."""
UPDATES = 600
"""Steps of Adam of each classifier."""
COLUMNS = ("what", "where", "difference")
"""Headings of `Localization.rows`."""

Kind = Literal["none", "dynamics", "observation", "unknown"]


class TermGap(NamedTuple):
    """How much one column of the observation differs after one step."""

    name: str
    """The term and its element."""
    unit: str
    difference: float
    """Root mean square of robot minus simulation [unit]."""
    share: float
    """The same, over the root mean square of the column's change in one step."""
    p: float
    """That a twin differs as much, Holm-corrected over the columns."""


class JointGap(NamedTuple):
    """How much of the difference some force on one joint alone would make, in [0, 1]."""

    name: str
    share: float


class Region(NamedTuple):
    """A quarter of the logged values of one column, in which the domains are told apart better."""

    name: str
    unit: str
    low: float
    high: float
    delta_r: float
    """Mean Δr of the robot's transitions minus that of the simulated ones, inside [nats]."""
    elsewhere: float
    p: float
    """Of a t-test over episodes of inside minus elsewhere, Holm-corrected over all quarters."""


class Map(NamedTuple):
    """Δr, robot minus simulation, over the two columns along which it varies most."""

    names: tuple[str, str]
    edges: tuple[list[float], list[float]]
    """Borders of the n and m cells."""
    delta_r: list[list[float | None]]
    """(n, m) [nats]; None where there are fewer than five transitions."""


@dataclass(frozen=True)
class Localization:
    """What logs say of the gap between a robot and its nominal simulator."""

    env: str
    kind: Kind
    sentence: str
    episodes: int
    transitions: int
    p: float = math.nan
    """Of the test for a gap; NaN where none was made."""
    latency_ms: float = 0.0
    """The latency that explains most, where it explains enough."""
    latency_share: float = 0.0
    """Share of the difference that it explains."""
    noise_slope: float = 0.0
    """Regression of a step's surprise on what the previous surprise, had it been noise, would have
    caused: below 0 for sensor noise, 0 or above for most gaps in the dynamics."""
    noise_t: float = 0.0
    """Its t over blocks of 20 steps."""
    terms: tuple[TermGap, ...] = ()
    """Largest share first."""
    joints: tuple[JointGap, ...] = ()
    """Largest share first, those of a floating base behind their BASE_MARGIN; empty unless the
    dynamics differ."""
    regions: tuple[Region, ...] = ()
    """Those with p below 0.05, the most certain first."""
    auc: float = math.nan
    """How well the classifiers tell unseen transitions apart: 0.5 not at all, 1 always."""
    map: Map | None = None
    notes: tuple[str, ...] = ()
    """What to know about the logs."""

    def rows(self) -> list[list[str]]:
        """The table: terms, joints and regions, the largest first, under the headings COLUMNS."""
        rows = [["term", t.name, f"{_figure(t)} % of one step's motion"] for t in self.terms]
        rows += [["joint", j.name, f"{100 * j.share:.0f} % explained"] for j in self.joints]
        rows += [
            ["region", f"{r.name} from {r.low:.3g} to {_with(r.high, r.unit)}",
             f"Δr {r.delta_r:.2g}, elsewhere {r.elsewhere:.2g}"]
            for r in self.regions
        ]  # fmt: skip
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what is not a number is None."""
        said = asdict(self)
        for name in ("terms", "joints", "regions"):
            said[name] = [entry._asdict() for entry in getattr(self, name)]
        said["map"] = None if self.map is None else self.map._asdict()
        for name in ("p", "auc"):
            said[name] = None if math.isnan(said[name]) else said[name]
        return said


def localize(
    logs: str | Path | Iterable[str | Path], env: str | Path, *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Localization:  # fmt: skip
    """Compares NPZ logs (files, folders of them, or several) with the nominal simulator of `env`.

    Args:
        report: counts to STAGES.

    Raises:
        InputError: no logs, logs of another robot, logs that differ in their terms, a value that is
            not finite, or logs that determine nothing of the robot's state.
    """
    robot = Robot.load(env)
    return explain_gap(robot, read_trajectories(logs, robot), seed=seed, report=report)


def explain_gap(
    robot: Robot, episodes: Sequence[Trajectory], *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> Localization:  # fmt: skip
    """As `localize`, with the regions, from episodes that are already read."""
    found, evidence = examine(robot, episodes, seed=seed, report=report)
    if evidence is not None and found.kind in ("dynamics", "observation"):
        found = with_regions(found, evidence, seed)
    report(STAGES, {})
    return found


class Evidence(NamedTuple):
    """The repeated transitions: N = all that there are, in the order of episodes and time."""

    names: tuple[str, ...]
    """(D,) columns."""
    units: tuple[str, ...]
    actuators: tuple[str, ...]
    command_unit: str
    episode: Array
    """(N,)"""
    obs: Array
    """(N, D) s as logged."""
    action: Array
    """(N, A) in [-1, 1]."""
    real: Array
    """(N, D) s' of the robot minus the mean prediction."""
    simulated: Array
    """(N, D) s' of a twin minus the same."""
    half: Array
    """(A,) half of the command range."""
    middle: Array
    """(A,)"""


def examine(
    robot: Robot, episodes: Sequence[Trajectory], *, seed: int = 0,
    report: progress.Report = progress.silent,
) -> tuple[Localization, Evidence | None]:  # fmt: skip
    """Everything but the regions; the evidence is what these are made from."""
    robot = _checked(robot, episodes)
    transitions = sum(len(e.command) for e in episodes)
    answer = Localization(robot.name, "unknown", "", len(episodes), transitions)
    notes, why = _support(robot, episodes)
    answer = replace(answer, notes=tuple(notes))
    if why:
        return replace(answer, sentence=f"unknown: {why}"), None

    replay = Replay(robot, [e for e in episodes if len(e.command) > 1])
    report(0, {})
    told = replay(Plan.of(replay.model.nv, _twins_for(replay.E)), seed)
    report(1, {})
    log = replay.obs[:, 1:]
    there = np.isfinite(told).all(axis=(0, 3)) & np.isfinite(log).all(axis=2)
    lost = 1 - there.sum() / np.isfinite(log).all(axis=2).sum()
    if lost > OUTSIDE:
        why = (
            f"the simulation diverges in {100 * lost:.0f} % of the transitions when it is put where"
            " the log says the robot was; check units and signs of the logged terms"
        )
        return replace(answer, sentence=f"unknown: {why}"), None
    there &= ~_saturated(replay)
    late = _later_starts(replay)
    if late.any() and _spread(told, replay, there)[late].max(initial=0.0) > FLOOR:
        notes.append(
            f"{int(late.sum())} of {replay.E} pieces of log begin where no episode of the simulator"
            " does, which leaves the motion of the base unknown, and were left out"
        )
        there &= ~late[:, None]
    n = int(there.sum())
    answer = replace(answer, notes=tuple(notes), transitions=n)
    if n < LEAST:
        why = (
            f"{n} transitions can be repeated; log at least {LEAST}, in several episodes, each from"
            " its reset on"
        )
        return replace(answer, sentence=f"unknown: {why}"), None

    scale = _one_step(replay.obs, told, there)
    moving = scale > 0
    everyone = np.concatenate([log[None], told])  # (M + 1, E, T, D), the robot first
    centred = (everyone - everyone.mean(axis=0))[..., moving] / scale[moving]
    p, factor = _permutation(np.square(centred).mean(axis=3), there, seed)
    report(2, {"p": p})
    real = np.where(there[..., None], log - told.mean(axis=0), np.nan)
    answer = replace(answer, p=p, terms=_terms(replay, real, scale, centred, moving, there, seed))
    if p > LEVEL or factor < 1.1:
        said = f"no gap found: {n} transitions of {replay.E} episodes are what the simulator gives"
        return replace(answer, kind="none", sentence=f"{said} (p = {p:.2g})"), None

    evidence = _evidence(replay, robot, real, told, there, seed)
    frozen = _frozen(replay, there, scale)
    if frozen:
        listed = ", ".join(frozen)
        said = f"an observation gap: {listed} never changes in the logs though it moves: a dead"
        said += " sensor, or a column that was not filled"
        return replace(answer, kind="observation", sentence=said), evidence
    answer = _by_history(answer, replay, there, scale, seed)
    report(3, {})
    if answer.kind == "unknown":
        answer = _by_joint(answer, replay, there, scale, seed)
    report(4, {})
    return answer, evidence


# Repeating what was logged


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
    the log does not measure are never put back: they are each world's own."""

    def __init__(self, robot: MjcfRobot, episodes: Sequence[Trajectory]) -> None:
        self.robot = robot
        self.model = model = robot.compile()
        self.terms = _compared(robot, episodes[0])
        self.names = tuple(
            f"{t.name} {t.elements[i]}" if t.elements and t.name != "v5" else f"{t.name}[{i}]"
            for t in self.terms
            for i in range(t.size)
        )
        self.units = tuple(t.unit for t in self.terms for _ in range(t.size))
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
        engine = make_engine("mjbatch", self.model, B, fields, 1)
        data = engine.data
        data["last_action"] = np.zeros((B, self.model.nu))
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


def _compared(robot: MjcfRobot, episode: Trajectory) -> list[Term]:
    """What sensors say; the environment's own observation only where there is nothing else."""
    terms = [robot.terms[n] for n in episode.obs if n in robot.terms]
    terms = [t for t in terms if t.sensor != "command"]
    return [t for t in terms if t.name != "v5"] or terms


# Whether the logs can be compared at all


def _checked(robot: Robot, episodes: Sequence[Trajectory]) -> MjcfRobot:
    if not isinstance(robot, MjcfRobot):
        raise InputError(
            f"{robot.name} is a Gymnasium environment, whose steps are opaque: a log cannot be "
            "repeated in it; compare policies on it with `sim2real evaluate`"
        )
    if not episodes:
        raise InputError("the logs hold no transition; record episodes with `sim2real run --log`")
    first, A = episodes[0], len(robot.actuators)
    for e, episode in enumerate(episodes):
        if episode.command.ndim != 2 or episode.command.shape[1] != A:
            raise InputError(
                f"episode {e} of the logs has commands of shape {episode.command.shape}; "
                f"'{robot.name}' takes {A}: {', '.join(robot.actuators)}"
            )
        if set(episode.obs) != set(first.obs):
            raise InputError(
                f"the logs differ in their terms: episode 0 has {', '.join(first.obs)}, episode "
                f"{e} has {', '.join(episode.obs)}; compare them apart"
            )
        for name, value in episode.obs.items():
            term = robot.terms.get(name)
            shape = (len(episode.command) + 1, term.size if term else value.shape[-1])
            if value.shape != shape:
                raise InputError(
                    f"episode {e} of the logs has '{name}' of shape {value.shape}; '{robot.name}' "
                    f"and {len(episode.command)} commands need {shape}"
                )
        for name, value in (*episode.obs.items(), ("command", episode.command)):
            wrong = np.argwhere(~np.isfinite(value))
            if len(wrong):
                tick, column = (int(i) for i in wrong[0])
                raise InputError(
                    f"episode {e} of the logs, tick {tick}: '{name}', column {column}, is "
                    f"{value[tick, column]}; every value must be finite: leave such episodes out"
                )
    if not _compared(robot, first) or robot.state_from(first.obs) is None:
        raise InputError(
            f"{robot.name}: the logged terms ({', '.join(first.obs)}) determine nothing of its "
            "state; log joint positions and velocities"
        )
    return robot


def _support(robot: MjcfRobot, episodes: Sequence[Trajectory]) -> tuple[list[str], str]:
    """Notes, and why the logs cannot be compared, or an empty string."""
    notes: list[str] = []
    unknown = [n for n in episodes[0].obs if n not in robot.terms]
    if unknown:
        notes.append(f"{robot.name} has no terms {', '.join(unknown)}: they were left out")
    n = sum(len(e.command) for e in episodes)
    if n < LEAST:
        return notes, f"{n} transitions; log at least {LEAST}, in several episodes"
    command = np.concatenate([e.command for e in episodes])
    still = np.ptp(command, axis=0) == 0
    if still.all():
        return notes, "no command ever changes; log with `sim2real run --excitation 0.1` or above"
    if still.any():
        names = ", ".join(a for a, s in zip(robot.actuators, still, strict=True) if s)
        notes.append(f"{names} always got the same command: what drives it is not tested")
    low, high = (np.asarray(x, float) for x in robot.command_range)
    slack = 1e-6 * (high - low)
    outside = float(((command < low - slack) | (command > high + slack)).any(axis=1).mean())
    if outside > OUTSIDE:
        return notes, (
            f"{100 * outside:.0f} % of the commands lie outside the range of the actuators, from "
            f"{low.min():g} to {high.max():g}; log what was sent in the unit of env.yaml "
            f"({robot.config.command_unit})"
        )
    model = robot.model
    states = [s for e in episodes if (s := robot.state_from(e.obs)) is not None]
    worst, share = "", 0.0
    for j in range(model.njnt):
        a = int(model.jnt_qposadr[j])
        if not model.jnt_limited[j] or model.jnt_type[j] not in (2, 3):
            continue
        if not states[0].known_qpos[a]:
            continue
        q = np.concatenate([s.qpos[:, a] for s in states])
        first, last = model.jnt_range[j]
        slack = 0.25 * (last - first) + 0.1  # limits are soft, also in simulation
        beyond = float(((q < first - slack) | (q > last + slack)).mean())
        if beyond > share:
            worst, share = model.joint(j).name, beyond
    if share > OUTSIDE:
        return notes, (
            f"{worst} is beyond the simulator's limits in {100 * share:.0f} % of the transitions, "
            "where there is nothing to compare with; check its zero, sign and unit, or log "
            "motions within its range"
        )
    return notes, ""


def _saturated(replay: Replay) -> Array:
    """(E, T) bool: a velocity is at an extreme that it takes again and again, where a sensor or a
    clip stops and the state is not what the log says."""
    stop = np.zeros(replay.obs.shape[:2], bool)
    column = 0
    for term in replay.terms:
        for x in np.moveaxis(replay.obs[..., column : column + term.size], 2, 0):
            if not term.qvel and term.name != "v5":
                continue
            low, high = np.nanmin(x), np.nanmax(x)
            for at in (x == low, x == high):
                if low < high and at.sum() > 1:
                    stop |= at
        column += term.size
    return stop[:, :-1] | stop[:, 1:]


def _later_starts(replay: Replay) -> Array:
    """(E,) bool: the log begins outside of where an episode of the simulator begins."""
    rng = np.random.default_rng(0)
    draws = [replay.robot.task.initial_state(rng) for _ in range(64)]
    late = np.zeros(replay.E, bool)
    for first, drawn, known, slack in (
        (replay.qpos[:, 0], np.stack([q for q, _ in draws]), replay.known_qpos, 0.1),
        (replay.qvel[:, 0], np.stack([v for _, v in draws]), replay.known_qvel, 1.0),
    ):
        low, high = drawn.min(axis=0), drawn.max(axis=0)
        margin = 3 * (high - low) + slack
        outside = (first < low - margin) | (first > high + margin)
        late |= outside[:, known].any(axis=1)
    return late


def _spread(told: Array, replay: Replay, there: Array) -> Array:
    """(E,) how much the twins of an episode differ, as a share of one step's motion."""
    scale = _one_step(replay.obs, told, there)
    relative = np.where(scale > 0, told.std(axis=0) / np.where(scale > 0, scale, 1.0), 0.0)
    square = np.where(there, np.square(relative).mean(axis=2), np.nan)
    return np.array([float(np.sqrt(np.nanmedian(x))) if m.any() else 0.0
                     for x, m in zip(square, there, strict=True)])  # fmt: skip


# Whether there is a gap


def _twins_for(episodes: int) -> int:
    """Twins of each episode, so many that the most extreme shuffle is rare enough."""
    return {1: 99, 2: 11, 3: 5}.get(episodes, 3)


def _one_step(obs: Array, told: Array, there: Array) -> Array:
    """(D,) root mean square of a column's change in one step, logged or simulated: the larger. 0
    for what never changes."""
    start = obs[:, :-1][there]
    changes = [obs[:, 1:][there] - start, told[0][there] - start]
    rms = np.max([np.sqrt(np.square(c).mean(axis=0)) for c in changes], axis=0)
    return np.where(rms > 1e-9 * (1 + np.abs(start).max(axis=0)), rms, 0.0)


def _permutation(square: Array, there: Array, seed: int) -> tuple[float, float]:
    """Whether row 0 differs more from the mean than the others do.

    Args:
        square: (M + 1, E, T) squared distances from the mean over the first axis. If the rows are
            exchangeable within each episode, the test is exact.

    Returns:
        p, and the factor by which row 0 is further away, in energy.
    """
    log = np.where(there, np.log(square + FLOOR**2), 0.0).sum(axis=2)  # (M + 1, E)
    others, E = len(log) - 1, log.shape[1]
    rng = np.random.default_rng(np.random.SeedSequence([seed, 9]))
    shuffled = log[rng.integers(others + 1, size=(4000, E)), np.arange(E)].sum(axis=1)
    mine = log[0].sum()
    p = (1 + int((shuffled >= mine - 1e-9 * abs(mine)).sum())) / (1 + len(shuffled))
    return p, math.exp(min((mine - log[1:].sum() / others) / there.sum(), 700.0))


def _terms(
    replay: Replay, real: Array, scale: Array, centred: Array, moving: Array, there: Array,
    seed: int,
) -> tuple[TermGap, ...]:  # fmt: skip
    columns = np.flatnonzero(moving)
    p = [_permutation(np.square(centred[..., k]), there, seed)[0] for k in range(len(columns))]
    rms = np.sqrt(np.nanmean(np.square(real), axis=(0, 1)))
    rows = [
        TermGap(replay.names[c], replay.units[c], float(rms[c]), float(rms[c] / scale[c]), float(q))
        for c, q in zip(columns, holm(np.array(p)), strict=True)
    ]
    return tuple(sorted(rows, key=lambda row: -row.share))


def holm(p: Array) -> Array:
    """(n,) p-values corrected for there being n of them (Holm 1979)."""
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty(len(p))
    out[order] = np.minimum(corrected, 1.0)
    return out


# What kind of gap it is


def _frozen(replay: Replay, there: Array, scale: Array) -> list[str]:
    still = np.ptp(replay.obs[:, :-1][there], axis=0) == 0
    return [name for name, s, m in zip(replay.names, still, scale > 0, strict=True) if s and m]


def _by_history(
    answer: Localization, replay: Replay, there: Array, scale: Array, seed: int
) -> Localization:
    """The answer where a latency explains the difference; else only the slope that noise has."""
    skip = replay.robot.config.frame_skip
    delays = sorted({max(1, round(skip * x)) for x in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)})
    plan = Plan.of(replay.model.nv, 2 + len(delays))
    plan.gain[1], plan.follow[1] = BELIEVED, 0
    plan.delay[2:] = delays
    told = replay(plan, seed)
    moving = scale > 0
    error = (replay.obs[:, 1:] - told)[..., moving] / scale[moving]
    energy = [_geometric(e, there) for e in error]
    explained = 1 - np.array(energy[2:]) / energy[0]
    best = int(np.argmax(explained))
    slope, t = taken_back(error[0], error[1] - error[0], there)
    answer = replace(answer, noise_slope=slope, noise_t=t)
    if explained[best] <= LATE:
        return answer
    ms = 1000 * float(replay.model.opt.timestep) * delays[best]
    said = (
        f"an observation gap: with commands {ms:g} ms late, the simulator explains "
        f"{100 * explained[best]:.0f} % of the difference (p = {answer.p:.2g}); whether the "
        "actuators or the sensors are late, logs do not tell, and Δr of such transitions, which "
        "are not Markov, is spurious: model the latency first"
    )
    return replace(answer, kind="observation", sentence=said, latency_ms=ms,
                   latency_share=float(explained[best]))  # fmt: skip


def _geometric(error: Array, there: Array) -> float:
    """Geometric mean over transitions of the squared error (E, T, D): contacts that come a step
    early count like any other transition."""
    return float(np.exp(np.log(np.square(error).mean(axis=2)[there] + FLOOR**2).mean()))


def taken_back(error: Array, change: Array, there: Array) -> tuple[float, float]:
    """The slope of `error` (E, T, D) on minus `change`, and its t over blocks of 20 steps.

    `change` is by how much the error would be another if the world had started from where it
    believed to be a step ago, in part, and not from what was measured. With noise n, Jacobian F and
    a share k of the surprise believed to be noise, error = n' - F n and change = F k (n - F n-),
    so the two correlate negatively; a start that is exact gives no such correlation. Both are taken
    as asinh of multiples of the column's median error, for F n has the tails of contacts.
    """
    size = np.sqrt(np.median(np.square(error[there]), axis=0))
    size = np.where(size > 0, size, 1.0)
    error, change = np.arcsinh(error / size), np.arcsinh(change / size)
    change = -np.where(there[..., None], change, 0.0)
    error = np.where(there[..., None], error, 0.0)
    square = np.square(change).mean(axis=2)
    weight = there / (square + np.median(square[there]) + 1e-12)
    xy, xx = (weight * (-change * y).sum(axis=2) for y in (error, -change))
    E, T = xy.shape
    blocks = (np.arange(E)[:, None] * T + np.arange(T) // 20).ravel()
    _, blocks = np.unique(blocks, return_inverse=True)
    by = np.bincount(blocks, xy.ravel()), np.bincount(blocks, xx.ravel())
    total = by[1].sum()
    if total <= 0:
        return 0.0, 0.0
    slope = float(by[0].sum() / total)
    rest = by[0] - slope * by[1]
    deviation = float(np.sqrt(np.square(rest).sum()))
    return slope, slope * float(total) / deviation if deviation > 0 else 0.0


# Which joint


def _by_joint(
    answer: Localization, replay: Replay, there: Array, scale: Array, seed: int
) -> Localization:
    model = replay.model
    nv = model.nv
    low, high = (np.asarray(x, float) for x in replay.robot.command_range)
    largest = np.abs(model.actuator_gear[:, 0]) * np.maximum(np.abs(low), np.abs(high))
    plan = Plan.of(nv, 1 + nv)
    plan.force[1:] = 1e-3 * float(largest.max()) * np.eye(nv)
    plan.follow[1:] = 0
    told = replay(plan, seed)
    moving = scale > 0
    error = (replay.obs[:, 1:] - told[0])[..., moving] / scale[moving]
    reach = (told[1:] - told[0])[..., moving] / scale[moving]
    share = explained_alone(error[there], reach[:, there])
    names = [_dof(model, d) for d in range(nv)]
    order = np.argsort(-(share - BASE_MARGIN * _of_the_base(model)), kind="stable")
    ranked = [JointGap(names[d], float(share[d])) for d in order]
    top, term = ranked[0], answer.terms[0]
    if top.share < ONE_JOINT and answer.noise_slope < TAKEN_BACK and answer.noise_t < CERTAIN:
        said = (
            "an observation gap: what differs after one step is taken back in the next, as the "
            f"noise of sensors is (slope {answer.noise_slope:.2f}, p = {answer.p:.2g}), most in "
            f"{term.name}; Δr of such transitions, which are not Markov, is spurious: filter the "
            "sensors or model their noise first"
        )
        return replace(answer, kind="observation", sentence=said)
    said = (
        f"some force on {top.name} alone would make {100 * top.share:.0f} % of the difference"
        if top.share >= ONE_JOINT
        else f"no joint explains it alone ({top.name}, the first, {100 * top.share:.0f} %)"
    )
    said = (
        f"the dynamics differ (p = {answer.p:.2g}): {said}; it is largest in {term.name}, "
        f"{_figure(term)} % of one step's motion"
    )
    return replace(answer, kind="dynamics", sentence=said, joints=tuple(ranked))


def explained_alone(error: Array, reach: Array) -> Array:
    """(J,) share of the error (N, D) that is left out by the best multiple of each of J directions
    (J, N, D), step by step, in [0, 1]. Steps with errors far above the median count like it."""
    size = np.square(error).sum(axis=1)
    weight = 1 / (size + np.median(size) + 1e-300)
    length = np.square(reach).sum(axis=2)
    along = np.square((reach * error).sum(axis=2)) / np.where(length > 0, length, np.inf)
    return (weight * along).sum(axis=1) / max(float((weight * size).sum()), 1e-300)


def _of_the_base(model: Any) -> Array:
    """(nv,) bool: between the world and the robot, and no actuator drives it."""
    kinds, ids = model.actuator_trntype, model.actuator_trnid[:, 0]
    driven = set(ids[kinds == 0].tolist())  # mjTRN_JOINT
    joints = model.dof_jntid.tolist()
    free = [model.body_parentid[model.jnt_bodyid[j]] == 0 and j not in driven for j in joints]
    return np.array(free)


def _dof(model: Any, dof: int) -> str:
    """The joint of a degree of freedom; with its axis where the joint has several."""
    joint = int(model.dof_jntid[dof])
    name, kind = model.joint(joint).name or f"joint {joint}", int(model.jnt_type[joint])
    axes = {0: ("x", "y", "z", "roll", "pitch", "yaw"), 1: ("roll", "pitch", "yaw")}.get(kind)
    return name if axes is None else f"{name} {axes[dof - int(model.jnt_dofadr[joint])]}"


# In which states


def _evidence(
    replay: Replay, robot: MjcfRobot, real: Array, told: Array, there: Array, seed: int
) -> Evidence:
    low, high = (np.asarray(x, float) for x in robot.command_range)
    half, middle = (high - low) / 2, (high + low) / 2
    rng = np.random.default_rng(np.random.SeedSequence([seed, 10]))
    centred = (told - told.mean(axis=0))[:, there]  # (M, N, D)
    one = rng.integers(len(centred), size=centred.shape[1])
    episode = np.broadcast_to(np.arange(replay.E)[:, None], there.shape)[there]
    return Evidence(
        replay.names, replay.units, robot.actuators, robot.config.command_unit, episode,
        replay.obs[:, :-1][there], (replay.command[there] - middle) / half,
        real[there], centred[one, np.arange(centred.shape[1])], half, middle,
    )  # fmt: skip


def with_regions(found: Localization, evidence: Evidence, seed: int = 0) -> Localization:
    """`found` with the regions and the map that cross-fitted classifiers give; as it is, with a
    note, where there are too few transitions or episodes for them."""
    odds = _cross_fitted(evidence, seed)
    if odds is None:
        note = "too few transitions or episodes for the classifiers: no regions"
        return replace(found, notes=(*found.notes, note))
    real, simulated = odds
    rank = stats.rankdata(np.concatenate([simulated, real]))[len(simulated) :]
    auc = (rank.sum() / len(real) - (len(real) + 1) / 2) / len(simulated)
    told_apart = real - simulated  # (N,) robot minus simulation from the same (s, a)
    values = np.concatenate([evidence.obs, evidence.action * evidence.half + evidence.middle], 1)
    names = [*evidence.names, *(f"command {a}" for a in evidence.actuators)]
    units = [*evidence.units, *[evidence.command_unit] * len(evidence.actuators)]
    regions: list[Region] = []
    for c, (name, unit) in enumerate(zip(names, units, strict=True)):
        edges = np.unique(np.quantile(values[:, c], np.linspace(0, 1, 5)))
        for low, high in itertools.pairwise(edges):
            inside = (values[:, c] >= low) & (values[:, c] <= high)
            region = _region(told_apart, inside, evidence.episode)
            if region is not None:
                regions.append(Region(name, unit, float(low), float(high), *region))
    if regions:
        p = holm(np.array([r.p for r in regions]))
        regions = [r._replace(p=float(q)) for r, q in zip(regions, p, strict=True)]
    certain = sorted((r for r in regions if r.p < 0.05), key=lambda r: r.p)
    first = list(dict.fromkeys(r.name for r in [*certain, *regions]))[:2]
    map_ = _map(values, names, told_apart, first) if len(first) == 2 else None
    return replace(found, regions=tuple(certain[:8]), auc=float(auc), map=map_)


def _cross_fitted(evidence: Evidence, seed: int) -> tuple[Array, Array] | None:
    """(N,) Δr of the robot's and of the simulated transitions, each from classifiers that learned
    from other episodes.

    The classifiers are given asinh((s' - f(s, a)) / median) for s' - s, f the simulator's own
    prediction. Given (s, a) that is one-to-one, so Δr stays what it is, and what is small beside
    one step's motion can be seen.
    """
    episodes = np.unique(evidence.episode)
    half = np.isin(evidence.episode, episodes[::2])
    if len(episodes) < 2 or min(half.sum(), (~half).sum()) < LEAST:
        return None
    size = np.median(np.abs(evidence.real), axis=0)
    size = np.where(size > 0, size, np.sqrt(np.square(evidence.real).mean(axis=0)) + 1e-12)
    domains = [
        Transitions(evidence.obs, evidence.action, evidence.obs + np.arcsinh(x / size))
        for x in (evidence.simulated, evidence.real)
    ]
    out = np.zeros((2, len(half)))
    for fold, learn in enumerate((half, ~half)):
        classifiers = DomainClassifiers(
            evidence.obs.shape[1], evidence.action.shape[1], seed=seed + fold
        )
        classifiers.fit(*(Transitions(*(x[learn] for x in d)) for d in domains), updates=UPDATES)
        for k, d in enumerate(domains):
            out[k, ~learn] = classifiers.delta_r(*(x[~learn] for x in d))
    return out[1], out[0]


def _region(value: Array, inside: Array, episode: Array) -> tuple[float, float, float] | None:
    """Means inside and elsewhere, and p of a one-sided t-test over episodes of their difference."""
    contrasts = [
        value[mine & inside].mean() - value[mine & ~inside].mean()
        for e in np.unique(episode)
        for mine in [episode == e]
        if (mine & inside).sum() >= 3 and (mine & ~inside).sum() >= 3
    ]
    if len(contrasts) < 3 or np.ptp(contrasts) == 0:
        return None
    error = np.std(contrasts, ddof=1) / math.sqrt(len(contrasts))
    p = float(stats.t.sf(np.mean(contrasts) / error, len(contrasts) - 1))
    return float(value[inside].mean()), float(value[~inside].mean()), p


def _map(values: Array, names: Sequence[str], told_apart: Array, first: Sequence[str]) -> Map:
    x, y = (values[:, names.index(name)] for name in first)
    edges = [np.unique(np.quantile(v, np.linspace(0, 1, 7))) for v in (x, y)]
    cells = [np.clip(np.searchsorted(e, v, "right") - 1, 0, len(e) - 2)
             for e, v in zip(edges, (x, y), strict=True)]  # fmt: skip
    mean: list[list[float | None]] = []
    for i in range(len(edges[0]) - 1):
        row = [told_apart[(cells[0] == i) & (cells[1] == j)] for j in range(len(edges[1]) - 1)]
        mean.append([float(cell.mean()) if len(cell) >= 5 else None for cell in row])
    return Map((first[0], first[1]), (edges[0].tolist(), edges[1].tolist()), mean)


def _figure(term: TermGap) -> str:
    percent = 100 * term.share
    share = f"{percent:.0f}" if percent >= 10 else f"{percent:.2g}"
    return f"{_with(term.difference, term.unit)}, {share}"


def _with(value: float, unit: str) -> str:
    return f"{value:.3g}" if unit in ("1", "mixed") else f"{value:.3g} {unit}"
