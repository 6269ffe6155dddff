"""How fast do randomized worlds step, beside what others offer on the same machine?

    python tools/bench_simulation.py                            hopper and halfcheetah, 6 minutes
    python tools/bench_simulation.py --quick                    half a minute, rough
    python tools/bench_simulation.py hopper halfcheetah ant humanoid --json speed.json

Prints Markdown tables of world-steps (control steps times worlds) per second. *Ours* is a
`WorldsVecEnv`: physics of its own in every world, drawn anew for every episode, task functions,
auto-reset and Stable-Baselines3's interface included: all that a learner waits for. Beside it:

- `mujoco.rollout`, the open-loop limit: as many models with the same ranges of physics, as many
  threads in a persistent pool, one call for many control steps; no observation, reward or reset;
- Stable-Baselines3's DummyVecEnv and SubprocVecEnv over Gymnasium's `-v5` environment, each with 8
  or 16 environments, whichever is faster, and without Gymnasium's environment checker;
- EnvPool's `-v5` environment in its synchronous mode, as many worlds and threads, one physics for
  all; it runs in a Python of its own (`--envpool-python`), since it brings its own MuJoCo.

Everybody gets uniform random commands (float32). Under these a hopper falls every 20 to 30 control
steps, so resets weigh on everybody but the open-loop limit, and the limit pays for some contacts of
fallen hoppers instead (`--chunk` says after how many control steps it starts again standing).

MuJoCo's Python bindings start a profiling clock for the whole process whenever an MjData is made,
which costs a fifth of the hopper's time. Ours stops it; the others are measured with it, as their
users have them, and the open-loop limit without it too. EnvPool has none.

A machine is never quite idle. Therefore every measurement of another stands between two of ours,
the ratio is taken to the mean of these two, and the tables show the median over the rounds with
the quartiles. What slows the machine for longer than one measurement slows both sides. Other
programs that compute all the time still distort: they take a core from those who use all of them
and nothing from DummyVecEnv, which uses one; the tables say so where the load was high.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from mujoco import rollout
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.simulation.engine import Engine, MjbatchEngine, ReferenceEngine
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array

WORLDS = 128
PEERS = ("rollout", "limit", "dummy", "subproc", "envpool", "worlds", "engine")
GYMNASIUM = {
    "ant": "Ant-v5",
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "humanoid": "Humanoid-v5",
    "walker2d": "Walker2d-v5",
}
ASKED = {
    "hopper": {"rollout": 0.85, "dummy": 2.3, "subproc": 5.0, "envpool": 0.9},
    "halfcheetah": {"rollout": 0.80, "dummy": 1.9, "subproc": 5.0, "envpool": 0.9},
}
"""What ours over theirs is to reach, at least."""
GROWTH = 1.25
"""What a world-step among 1,024 may cost, of one among 128."""

BUSY = "; **the machine was busy: not figures to quote**"
INSTALL = (
    "python -m venv envpool-venv && envpool-venv/bin/pip install envpool, "
    "then --envpool-python envpool-venv/bin/python"
)
# Runs in another Python, which has nothing of ours. EnvPool resets in the step after an episode's
# last and ignores that step's command: elapsed_step is 0 there, and it is no world-step.
ENVPOOL = """
import sys
import envpool, numpy as np
name, worlds, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
env = envpool.make_gymnasium(name, num_envs=worlds, num_threads=threads, seed=0)
env.reset()
box = env.action_space
shape = (64, worlds, *box.shape)
actions = np.random.default_rng(0).uniform(box.low, box.high, shape).astype(np.float32)
print(envpool.__version__, flush=True)
t = 0
for line in sys.stdin:
    made = 0
    for _ in range(int(line)):
        made += np.count_nonzero(env.step(actions[t % 64])[4]["elapsed_step"])
        t += 1
    print(made, flush=True)
"""

Advance = Callable[[int], int]
"""Makes about that many control steps of all its worlds; gives the world-steps that it made."""
Measure = Callable[[], float]
"""Gives the seconds per world-step of one measurement."""


@dataclass(frozen=True)
class Quartiles:
    low: float
    median: float
    high: float

    @staticmethod
    def of(values: Iterable[float]) -> Quartiles:
        return Quartiles(*np.percentile(list(values), (25, 50, 75)).tolist())

    def text(self, form: str) -> str:
        return f"{self.low:{form}} to {self.high:{form}}"


@dataclass(frozen=True)
class Row:
    """One contender beside the base: world-steps per second, and the base's over its own."""

    name: str
    rate: Quartiles
    ratio: Quartiles
    asked: float | None = None


@dataclass
class Result:
    robot: str
    episode_steps: float
    """Mean length of ours [control steps]."""
    ours: Row
    peers: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    worlds: dict[int, Row] = field(default_factory=dict)
    engine: Row | None = None
    """The reference engine beside mjbatch, physics alone."""


def compare(
    base: Measure, others: Mapping[str, Measure], rounds: int
) -> tuple[Row, dict[str, Row]]:
    """base, other, base, other, ..., base in every round. A ratio is (seconds of other) / (mean
    seconds of the base before and after it): a machine that slows down steadily cancels."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in others}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(rounds):
        ours.append(base())
        for name, measure in others.items():
            theirs[name].append(measure())
            ours.append(base())
            ratios[name].append(theirs[name][-1] / (0.5 * (ours[-2] + ours[-1])))
    rate = {name: Quartiles.of(1.0 / s for s in seconds) for name, seconds in theirs.items()}
    rows = {name: Row(name, rate[name], Quartiles.of(ratios[name])) for name in others}
    return Row("ours", Quartiles.of(1.0 / s for s in ours), Quartiles(1.0, 1.0, 1.0)), rows


def timed(advance: Advance, seconds: float) -> Measure:
    """Measurements that last about `seconds`, after a first run that warms up and finds how many
    control steps that takes."""
    steps, spent = 1, 0.0
    while spent < 0.3 * seconds:
        steps *= 2
        start = time.perf_counter()
        advance(steps)
        spent = time.perf_counter() - start
    steps = max(1, round(steps * seconds / spent))

    def measure() -> float:
        start = time.perf_counter()
        made = advance(steps)
        return (time.perf_counter() - start) / made

    return measure


class VecEnvStepper:
    """Random commands for a VecEnv; `episodes` and `made` count."""

    def __init__(self, env: VecEnv) -> None:
        self.env = env
        self.episodes = self.made = self._t = 0
        box = env.action_space
        assert isinstance(box, gymnasium.spaces.Box)
        self._actions = commands(box.low, box.high, env.num_envs)
        env.reset()

    def __call__(self, steps: int) -> int:
        for _ in range(steps):
            _, _, done, _ = self.env.step(self._actions[self._t % len(self._actions)])
            self.episodes += int(np.count_nonzero(done))
            self._t += 1
        self.made += steps * self.env.num_envs
        return steps * self.env.num_envs


def commands(low: Array, high: Array, worlds: int) -> Array:
    """(64, worlds, A) float32, uniform; used round and round."""
    rng = np.random.default_rng(0)
    return rng.uniform(low, high, (64, worlds, len(low))).astype(np.float32)


def ours(robot: MjcfRobot, worlds: int, threads: int) -> VecEnvStepper:
    """The default of `make_vec`: every episode draws its ξ from the ranges in env.yaml."""
    draw = robot.space.prior()
    return VecEnvStepper(WorldsVecEnv(Worlds(robot, worlds, draw=draw, seed=0, threads=threads)))


def starts(robot: MjcfRobot, worlds: int) -> tuple[Array, Array, Array]:
    """ξ (B, K), qpos (B, nq) and qvel (B, nv) at the beginning of an episode."""
    rng = np.random.default_rng(1)
    xi = robot.space.prior().sample(rng, worlds)
    states = [robot.task.initial_state(rng) for _ in range(worlds)]
    return xi, np.stack([qpos for qpos, _ in states]), np.stack([qvel for _, qvel in states])


def open_loop(robot: MjcfRobot, worlds: int, threads: int, chunk: int, stack: ExitStack) -> Advance:
    """`mujoco.rollout` over `chunk` control steps per call, always from the same standing start."""
    nominal = robot.compile()
    models: list[mujoco.MjModel] = []
    initial: list[Array] = []
    spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
    size = mujoco.mj_stateSize(nominal, spec.value)
    for xi, qpos, qvel in zip(*starts(robot, worlds), strict=True):
        model = copy.copy(nominal)
        robot.space.write(model, xi)
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = qpos, qvel
        state = np.zeros(size)
        mujoco.mj_getState(model, data, state, spec.value)
        models.append(model)
        initial.append(state)
    frame_skip = robot.config.frame_skip
    each = commands(*robot.command_range, worlds)  # (64, B, A)
    control = each[np.arange(chunk) % len(each)].swapaxes(0, 1).astype(float)  # (B, chunk, A)
    control = np.repeat(control, frame_skip, axis=1)
    # Written by every call: to allocate them each time would slow the limit.
    states = np.zeros((worlds, chunk * frame_skip, size))
    sensors = np.zeros((worlds, chunk * frame_skip, nominal.nsensordata))
    pool = stack.enter_context(rollout.Rollout(nthread=threads if threads > 1 else 0))
    data = [mujoco.MjData(nominal) for _ in range(threads)]
    start = np.stack(initial)

    def advance(steps: int) -> int:
        calls = -(-steps // chunk)
        for _ in range(calls):
            pool.rollout(models, data, start, control, state=states, sensordata=sensors)
        return calls * chunk * worlds

    return advance


def with_clock(advance: Advance) -> Advance:
    """A peer as its users have it: MuJoCo's bindings start a profiling clock whenever an MjData is
    made, for the whole process, and our engines stop it."""
    empty = mujoco.MjModel.from_xml_string("<mujoco/>")

    def advance_with_clock(steps: int) -> int:
        mujoco.MjData(empty)
        return advance(steps)

    return advance_with_clock


def gymnasium_env(
    kind: type[DummyVecEnv] | type[SubprocVecEnv], name: str, count: int, stack: ExitStack
) -> VecEnvStepper:
    make = functools.partial(gymnasium.make, name, disable_env_checker=True)
    env = kind([make] * count)
    stack.callback(env.close)
    return VecEnvStepper(env)


def faster(candidates: Mapping[int, Advance], seconds: float) -> tuple[int, Measure]:
    """The count of environments that steps fastest; each is tried three times, interleaved."""
    measures = {count: timed(advance, seconds) for count, advance in candidates.items()}
    tried = [{count: measure() for count, measure in measures.items()} for _ in range(3)]
    best = min(measures, key=lambda count: float(np.median([each[count] for each in tried])))
    return best, measures[best]


def envpool(
    python: str, name: str, worlds: int, threads: int, stack: ExitStack
) -> tuple[str, Advance]:
    """EnvPool in another process: its version, and how to make it step.

    Raises:
        FileNotFoundError: there is no such Python, or it has no EnvPool.
    """
    process = subprocess.Popen(
        [python, "-c", ENVPOOL, name, str(worlds), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    stack.enter_context(process)  # closes the pipes, at which it ends, and waits
    assert process.stdin is not None
    assert process.stdout is not None
    orders, answers = process.stdin, process.stdout
    version = answers.readline().strip()
    if not version:
        raise FileNotFoundError(f"{python} cannot make EnvPool's {name}")

    def advance(steps: int) -> int:
        orders.write(f"{steps}\n")
        orders.flush()
        return int(answers.readline())

    return version, advance


def physics(robot: MjcfRobot, kind: type[Engine], worlds: int, threads: int, chunk: int) -> Advance:
    """An engine alone, back at the start every `chunk` control steps. What only the reference gives
    (`cfrc_ext`, which ant and humanoid observe) is left out of mjbatch."""
    fields = list(robot.task.fields)
    if kind is MjbatchEngine:
        fields = [name for name in fields if name != "cfrc_ext"]
    xi, qpos, qvel = starts(robot, worlds)
    engine = kind(robot.compile(), worlds, fields, threads)  # type: ignore[call-arg]
    engine.set_model(np.arange(worlds), robot.space.values(xi), robot.space.needs_const)
    control = commands(*robot.command_range, worlds)
    t = 0

    def advance(steps: int) -> int:
        nonlocal t
        for _ in range(steps):
            if t % chunk == 0:
                engine.reset(np.arange(worlds), qpos, qvel)
            engine.step(control[t % len(control)], robot.config.frame_skip)
            t += 1
        return steps * worlds

    return advance


def bench(name: str, options: argparse.Namespace) -> Result:
    """Everything about one robot.

    Raises:
        InputError: there is no such robot.
    """
    robot = Robot.load(name)
    assert isinstance(robot, MjcfRobot)
    threads, seconds, against = options.threads, options.seconds, options.against
    with ExitStack() as stack:
        base = ours(robot, WORLDS, threads)
        others: dict[str, Measure] = {}
        labels: dict[str, str] = {}
        missing: dict[str, str] = {}
        if "rollout" in against:
            limit = open_loop(robot, WORLDS, threads, options.chunk, stack)
            others["rollout"] = timed(with_clock(limit), seconds)
            labels["rollout"] = (
                f"`mujoco.rollout`, {WORLDS} models, {options.chunk} control steps a call"
            )
            others["limit"] = timed(limit, seconds)
            labels["limit"] = "the same with MuJoCo's profiling clock stopped"
        for key, kind in (("dummy", DummyVecEnv), ("subproc", SubprocVecEnv)):
            if key in against:
                tried = {
                    n: gymnasium_env(kind, GYMNASIUM[name], n, stack) for n in options.peer_envs
                }
                tried = {n: with_clock(advance) for n, advance in tried.items()}
                best, others[key] = faster(tried, seconds)
                labels[key] = f"SB3 `{kind.__name__}`, {best} environments"
        if "envpool" in against:
            try:
                python = options.envpool_python
                if not python:
                    raise FileNotFoundError("no envpool")
                version, advance = envpool(python, GYMNASIUM[name], WORLDS, threads, stack)
                others["envpool"] = timed(advance, seconds)
                labels["envpool"] = f"EnvPool {version}, {WORLDS} environments, one physics for all"
            except FileNotFoundError:
                missing["EnvPool"] = f"not installed: {INSTALL}"
        if "worlds" in against:
            for B in options.worlds:
                if B != WORLDS:
                    others[str(B)] = timed(ours(robot, B, threads), seconds)
                    labels[str(B)] = f"{B} worlds"
        row, rows = compare(timed(base, seconds), others, options.rounds)
        rows = {
            key: Row(labels[key], r.rate, r.ratio, ASKED.get(name, {}).get(key))
            for key, r in rows.items()
        }
        result = Result(name, base.made / max(1, base.episodes), row, missing=missing)
        result.peers = [r for key, r in rows.items() if key in PEERS]
        if "worlds" in against:
            result.worlds = {B: rows.get(str(B), row) for B in options.worlds}
        if "engine" in against:
            pair = [
                timed(physics(robot, kind, WORLDS, threads, options.chunk), seconds)
                for kind in (MjbatchEngine, ReferenceEngine)
            ]
            _, slow = compare(pair[0], {"reference": pair[1]}, options.rounds)
            result.engine = slow["reference"]
        base.env.close()
    return result


def machine(threads: int) -> dict[str, str]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        model = next((v.strip() for k, _, v in lines if k.strip() == "model name"), model)
    load = os.getloadavg()[0]
    packages = ("mujoco", "mjbatch", "gymnasium", "stable-baselines3", "numpy")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return {
        "processor": f"{model}, {len(os.sched_getaffinity(0))} cores, {threads} threads used",
        "load": f"{load:.1f} before the start{BUSY if load > 0.5 else ''}",
        "software": ", ".join([f"Python {platform.python_version()}", *versions]),
        "system": platform.platform(),
    }


def markdown(results: Sequence[Result], about: Mapping[str, str], settings: str) -> str:
    """The tables."""
    lines = [*(f"- {key}: {value}" for key, value in about.items()), f"- {settings}"]
    for r in results:
        lines += [
            f"\n### {r.robot}\n",
            f"Episodes last {r.episode_steps:.0f} control steps under random commands."
            if r.episode_steps < 1e3
            else "Episodes last 1,000 control steps or more than was measured.",
            "\n| | world-steps per second | quartiles | ours over theirs | quartiles | asked |",
            "|---|--:|--:|--:|--:|--:|",
            f"| **sim2real**, {WORLDS} worlds, each its own physics "
            f"| {r.ours.rate.median:,.0f} | {r.ours.rate.text(',.0f')} | | | |",
        ]
        for row in r.peers:
            lines.append(
                f"| {row.name} | {row.rate.median:,.0f} | {row.rate.text(',.0f')} "
                f"| {row.ratio.median:.2f} | {row.ratio.text('.2f')} "
                f"| {'' if row.asked is None else f'≥ {row.asked:g}'} |"
            )
        lines += [f"| {name} | {why} | | | | |" for name, why in r.missing.items()]
        if r.worlds:
            lines += [
                f"\n| worlds | world-steps per second | cost of a world-step, of that at {WORLDS} "
                "| quartiles | asked |",
                "|--:|--:|--:|--:|--:|",
            ]
        for B, row in r.worlds.items():
            asked = f"≤ {GROWTH:g}" if B > WORLDS else ""
            spread = "" if B == WORLDS else row.ratio.text(".2f")
            lines.append(
                f"| {B:,} | {row.rate.median:,.0f} | {row.ratio.median:.2f} | {spread} | {asked} |"
            )
        if r.engine is not None:
            only = "contact forces" if "cfrc_ext" in _fields(r.robot) else ""
            lines.append(
                f"\nPhysics alone, {WORLDS} worlds: the reference engine"
                f"{f' with {only}, which this task runs on,' if only else ''} takes "
                f"{r.engine.ratio.median:.2f} ({r.engine.ratio.text('.2f')}) of the time of mjbatch"
                f"{f' without {only}' if only else ''}."
            )
    return "\n".join(lines)


def _fields(name: str) -> tuple[str, ...]:
    robot = Robot.load(name)
    return robot.task.fields if isinstance(robot, MjcfRobot) else ()


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ["hopper", "halfcheetah"]
    parser.add_argument("robots", nargs="*", default=default, metavar="ROBOT", help=str(default))
    parser.add_argument("--quick", action="store_true", help="3 short rounds: rough figures")
    parser.add_argument("--rounds", type=int, help="how often all take turns (7; quick: 3)")
    parser.add_argument("--seconds", type=float, help="per measurement (1.0; quick: 0.2)")
    parser.add_argument(
        "--worlds", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024], metavar="B"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help=f"of ours and theirs ({cores})")
    parser.add_argument("--chunk", type=int, default=100, help="control steps of a rollout (100)")
    parser.add_argument(
        "--peer-envs", type=int, nargs="+", default=[8, 16], metavar="N", help="SB3's, best taken"
    )
    parser.add_argument("--against", nargs="*", default=list(PEERS), choices=PEERS)
    has_envpool = sys.executable if importlib.util.find_spec("envpool") else ""
    parser.add_argument("--envpool-python", default=has_envpool, metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    options = parser.parse_args(words)
    for name in options.robots:
        if name not in GYMNASIUM:
            parser.error(f"robot '{name}'; the robots are {', '.join(GYMNASIUM)}")
    if min(options.threads, options.chunk, *options.worlds, *options.peer_envs) < 1:
        parser.error("--threads, --chunk, --worlds and --peer-envs must be at least 1")
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.seconds = options.seconds or (0.2 if options.quick else 1.0)
    return options


def main(words: Sequence[str] | None = None) -> None:
    options = parse(words)
    about = machine(options.threads)
    results: list[Result] = []
    for name in options.robots:
        print(f"{name} ...", file=sys.stderr, flush=True)
        results.append(bench(name, options))
    settings = f"{options.rounds} rounds, {options.seconds:g} s a measurement"
    print(markdown(results, about, settings))
    if options.json:
        everything = {
            "machine": about,
            "settings": {**vars(options), "json": str(options.json)},
            "results": [asdict(r) for r in results],
        }
        options.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
