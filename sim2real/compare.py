"""The ladder: which bridge wins on this robot and this gap, all with equal target budgets.

Every method of the ladder is trained for each seed, evaluated on one target robot, and put beside
what stands below and above it: a policy that never heard of the target, and the best that learning
in the target itself reaches. A method with one seed is one *cell*. Finished cells are kept on disk
and never computed twice; nothing is chosen by what it returned on the target.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from sim2real import progress, schema
from sim2real.bridges.adapt.finetune import FineTune, fine_tune
from sim2real.bridges.correct.darc import Darc, taken
from sim2real.bridges.randomize.doraemon import Doraemon
from sim2real.bridges.randomize.epopt import EPOpt
from sim2real.bridges.randomize.posterior import FromPosterior
from sim2real.bridges.randomize.uniform import Uniform
from sim2real.evaluate import Interval, bootstrap, evaluate, gap_closed
from sim2real.identification.excitation import Logs, excite
from sim2real.identification.identify import explain
from sim2real.learning.folder import STEPS, checkpoints
from sim2real.learning.learners import Learner, to_policy
from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.policy.actor import Actor
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe
from sim2real.simulation.gap import MOUNTED, Gap, Sensor
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.simulation.terms import Term
from sim2real.train import describe, run, versions
from sim2real.types import Array, InputError, nearest


@dataclass(frozen=True)
class Ladder:
    """What every cell of a ladder has in common; two ladders that differ in it share no cell."""

    env: str
    gap: str
    """Where it is a family of robots, one of them: see `robot`."""
    budget: int
    """Control steps on the target that each method may use, random ones included."""
    robot: int = 0
    """Seed of the robot that is drawn from a family."""
    observe: str = "v5"
    history: int = 4
    """Observations that the reference policy sees; the others see one."""
    ppo_steps: int = 1_000_000
    """Control steps in simulation of what learns by PPO."""
    sac_steps: int = 200_000
    """Control steps in simulation of what learns by SAC."""
    sac_worlds: int = 8
    """Worlds of what learns by SAC in simulation, so that a gradient step may cost more than one
    simulated step; on the target there is one, and a gradient step for each of its steps."""
    oracle_steps: int = 2
    """How many times as long the oracles learn, in the target."""
    episodes: int = 20
    """Episodes on the target of every evaluation; they are not part of the budget."""
    ppo: Learner = field(
        default_factory=lambda: Learner(
            "ppo", (64, 64), learning_rate=7e-4, final_learning_rate=2e-4,
            settings={"n_steps": 32, "batch_size": 128, "n_epochs": 4},
        )
    )  # fmt: skip
    sac: Learner = field(
        default_factory=lambda: Learner(
            "sac", (64, 64), "relu", learning_rate=7e-4,
            settings={
                "batch_size": 128, "gradient_steps": 2, "learning_starts": 2_000,
                "buffer_size": 400_000,
            },
        )
    )  # fmt: skip

    def __post_init__(self) -> None:
        for name in (
            "budget", "ppo_steps", "sac_steps", "sac_worlds", "oracle_steps", "episodes", "history",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def gap_name(self) -> str:
        return self.gap if Path(self.gap).suffix != ".yaml" else Path(self.gap).stem


class Made(NamedTuple):
    """What a method made, before its evaluation."""

    policy: Policy
    target_steps: int
    """Control steps on the target that it used."""
    source_steps: int
    rise: float | None = None
    """Of an oracle: by what share its return in training still rose, from the fourth to the last
    fifth of its steps. Above a few hundredths, J_oracle is a lower bound."""


class Place(NamedTuple):
    """Where a cell works."""

    ladder: Ladder
    seed: int
    work: Path
    """Folder of everything that is trained for this robot and these settings."""

    @property
    def target(self) -> Path:
        """The gap file of the one target robot."""
        return self.work / self.ladder.gap_name / "robot.yaml"

    def folder(self, arm: str) -> Path:
        """Of an arm that knows nothing of the target: shared by all gaps."""
        return self.work / "source" / f"{arm}-{self.seed}"

    def target_folder(self, arm: str) -> Path:
        return self.work / self.ladder.gap_name / f"{arm}-{self.seed}"


@dataclass(frozen=True)
class Arm:
    """One method of the ladder."""

    make: Callable[[Place], Made]
    needs: tuple[str, ...] = ()
    """Arms of the same seed that must be finished before."""
    kind: str = "method"
    """`method`, `reference` (J_0) or `oracle` (J_oracle)."""


@dataclass(frozen=True)
class Cell:
    """One method with one seed, on one robot and gap: what is kept on disk."""

    arm: str
    seed: int
    returns: list[float]
    """On the target, of `episodes` episodes."""
    falls: int
    target_steps: int
    source_steps: int
    seconds: float
    """That the cell took to compute, trainings that it shares with others not counted."""
    versions: dict[str, str]
    commit: str
    machine: str
    rise: float | None = None
    """See `Made`."""


# The methods


def _recipe(ladder: Ladder, seed: int, **changes: Any) -> Recipe:
    base = Recipe(
        description=f"A cell of the ladder of {ladder.env}.", env=ladder.env, randomize="none",
        correct="none", align="none", adapt="none", steps=ladder.ppo_steps, observe=ladder.observe,
        learner=ladder.ppo, worlds=64, threads=1, seed=seed,
    )  # fmt: skip
    return replace(base, **changes)


def _trained(folder: Path, recipe: Recipe) -> Policy:
    """What the recipe gives, from disk where it was trained before."""
    if (folder / "policy.pt").is_file():
        return Policy.load(folder)
    resume = (folder / "recipe.yaml").is_file()
    return run(folder.name, recipe, folder, resume=resume, report=progress.silent)


def _from_source(arm: str, **changes: Any) -> Callable[[Place], Made]:
    def make(place: Place) -> Made:
        recipe = _recipe(place.ladder, place.seed, **changes)
        return Made(_trained(place.folder(arm), recipe), 0, recipe.steps)

    return make


def _reference(place: Place) -> Made:
    ladder = place.ladder
    recipe = _recipe(ladder, place.seed, randomize="uniform", history=ladder.history)
    return Made(_trained(place.folder("uniform-history"), recipe), 0, recipe.steps)


def _epopt(place: Place) -> Made:
    """The worst quarter of sixteen episodes, for a million steps are few: see `study_epopt`."""
    randomize = EPOpt(epsilon=0.25, episodes=16, min_kept=4)
    recipe = _recipe(place.ladder, place.seed, randomize=randomize, worlds=16)
    return Made(_trained(place.folder("epopt"), recipe), 0, recipe.steps)


def _automatic(place: Place) -> Made:
    """A success is half of what the policy without randomization returns in its own world."""
    own = evaluate(Policy.load(place.folder("zero-shot")), place.ladder.env, seed=place.seed)
    randomize = Doraemon(success=0.5 * own.interval.mean)
    recipe = _recipe(place.ladder, place.seed, randomize=randomize)
    return Made(_trained(place.folder("automatic"), recipe), 0, recipe.steps)


def _posterior(place: Place) -> Made:
    """Logs of the uniformly randomized policy on the target, what they say of ξ, and training
    from there."""
    folder = place.target_folder("posterior")
    robot = Robot.load(place.ladder.env)
    file = folder.with_name(f"{folder.name}.json")
    count = file.with_suffix(".steps")
    if not file.is_file():
        uniform = Policy.load(place.folder("uniform"))
        logs = _logs(place, robot, uniform)
        count.parent.mkdir(parents=True, exist_ok=True)
        count.write_text(str(logs.steps))
        explain(robot, logs.episodes, seed=place.seed).save(file)
    recipe = _recipe(place.ladder, place.seed, randomize=FromPosterior(file=str(file)))
    return Made(_trained(folder, recipe), int(count.read_text()), recipe.steps)


LOGGED_EPISODES = 8
"""More episodes of logs cost more than they tell."""


def _logs(place: Place, robot: Robot, policy: Policy) -> Logs:
    names = [t.name for t in policy.spec.terms]
    worlds = make_worlds(robot, 1, gap=place.target, observe=names, seed=place.seed, threads=1)
    return excite(
        worlds, Actor(policy), episodes=LOGGED_EPISODES, steps=place.ladder.budget,
        rng=np.random.default_rng([place.seed, 6]),
    )  # fmt: skip


def _sac(ladder: Ladder, seed: int, **changes: Any) -> Recipe:
    sac = {"learner": ladder.sac, "steps": ladder.sac_steps, "worlds": ladder.sac_worlds}
    return _recipe(ladder, seed, **{**sac, **changes})


def _on_target(sac: Learner) -> Learner:
    """A gradient step for every step, and from early on: the budget is small."""
    return replace(sac, settings={**sac.settings, "gradient_steps": 1, "learning_starts": 100})


def _sac_source(place: Place) -> Made:
    recipe = _sac(place.ladder, place.seed)
    return Made(_trained(place.folder("sac-source"), recipe), 0, recipe.steps)


def _darc(place: Place) -> Made:
    """In the ratio that uses the budget up."""
    budget, folder = place.ladder.budget, place.target_folder("darc")
    ratio = max(1, place.ladder.sac_steps // budget)
    darc = Darc(target=str(place.target), target_steps=budget, ratio=ratio)
    recipe = _sac(place.ladder, place.seed, correct=darc)
    policy = _trained(folder, recipe)
    return Made(policy, taken(checkpoints(folder)[-1]), recipe.steps)


SOURCE_STEPS = 20_000
"""Transitions of the pretrained policy in simulation that mixed replay draws from."""


def _tuned(place: Place, arm: str, source_share: float) -> Made:
    """The pretrained SAC goes on learning on the target; finished ones come from disk."""
    folder, ladder = place.target_folder(arm), place.ladder
    steps = ladder.sac_steps + (SOURCE_STEPS if source_share else 0)
    if (folder / "policy.pt").is_file():
        return Made(Policy.load(folder), ladder.budget, steps)
    robot = Robot.load(ladder.env)
    recipe = _sac(ladder, place.seed)
    trained = checkpoints(place.folder("sac-source"))[-1]

    def env(gap: Path | None, seed: int) -> VecNormalize:
        worlds = make_worlds(robot, 1, gap=gap, observe=ladder.observe, seed=seed, threads=1)
        inner = VecMonitor(WorldsVecEnv(worlds))
        normalized = VecNormalize.load(str(trained / "normalize.pkl"), inner)
        normalized.training = False
        return normalized

    target = env(place.target, place.seed)
    model: Any = SAC.load(trained / "model.zip", env=target, device="cpu")
    model.set_random_seed(place.seed)
    model.gradient_steps = 1
    source = None
    if source_share:
        source = _gathered(model, env(None, place.seed + 1), SOURCE_STEPS)
    fine_tune(model, target, FineTune(ladder.budget, source_share=source_share), source=source)
    policy = to_policy(model, target, describe(arm, robot, recipe))
    policy.save(folder)
    return Made(policy, ladder.budget, steps)


def _gathered(model: SAC, env: VecNormalize, steps: int) -> ReplayBuffer:
    """Transitions of the stochastic policy, as Stable-Baselines3 itself gathers them."""
    model.set_env(env)
    model.replay_buffer = ReplayBuffer(
        steps, model.observation_space, model.action_space, device=model.device, n_envs=1
    )
    model.learning_starts = model.num_timesteps
    before, model.gradient_steps = model.gradient_steps, 0
    model.learn(steps, reset_num_timesteps=False)
    model.gradient_steps = before
    return model.replay_buffer


def _target_only(place: Place) -> Made:
    ladder = place.ladder
    recipe = _sac(
        ladder, place.seed, gap=str(place.target), steps=ladder.budget, worlds=1,
        learner=_on_target(ladder.sac),
    )  # fmt: skip
    policy = _trained(place.target_folder("target-only"), recipe)
    return Made(policy, ladder.budget, 0)


def _oracle(arm: str) -> Callable[[Place], Made]:
    def make(place: Place) -> Made:
        ladder = place.ladder
        one = _sac if arm == "oracle-sac" else _recipe
        steps = ladder.oracle_steps * (
            ladder.sac_steps if arm == "oracle-sac" else ladder.ppo_steps
        )
        recipe = one(ladder, place.seed, gap=str(place.target), steps=steps)
        folder = place.target_folder(arm)
        return Made(_trained(folder, recipe), steps, 0, rise(folder / "log" / "progress.csv"))

    return make


def rise(curve: Path) -> float | None:
    """By what share the return in training rose from the fourth to the last fifth of its curve;
    None where a fifth has no finished episode."""
    with curve.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r.get("rollout/ep_rew_mean") and r.get(STEPS)]
    steps = np.array([float(r[STEPS]) for r in rows])
    returns = np.array([float(r["rollout/ep_rew_mean"]) for r in rows])
    end = steps.max(initial=0.0)
    fourth, last = (
        returns[(steps > a * end) & (steps <= b * end)] for a, b in ((0.6, 0.8), (0.8, 1.0))
    )
    if not (len(fourth) and len(last)):
        return None
    return float((last.mean() - fourth.mean()) / max(abs(last.mean()), 1e-9))


ARMS: dict[str, Arm] = {
    "zero-shot": Arm(_from_source("zero-shot")),
    "uniform": Arm(_from_source("uniform", randomize=Uniform())),
    "uniform-history": Arm(_reference, kind="reference"),
    "epopt": Arm(_epopt),
    "automatic": Arm(_automatic, needs=("zero-shot",)),
    "posterior": Arm(_posterior, needs=("uniform",)),
    "sac-source": Arm(_sac_source),
    "darc": Arm(_darc),
    "fine-tune": Arm(lambda p: _tuned(p, "fine-tune", 0.0), needs=("sac-source",)),
    "mixed": Arm(lambda p: _tuned(p, "mixed", 0.5), needs=("sac-source",)),
    "target-only": Arm(_target_only),
    "oracle-ppo": Arm(_oracle("oracle-ppo"), kind="oracle"),
    "oracle-sac": Arm(_oracle("oracle-sac"), kind="oracle"),
}
"""From the bottom of the ladder to its top."""


# Cells


class Results:
    """The finished cells of one ladder, on disk.

    Raises:
        InputError: the folder holds cells of another ladder, or a file that is no cell.
    """

    def __init__(self, folder: Path, ladder: Ladder) -> None:
        self.folder, self.ladder = folder, ladder
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder / "ladder.yaml"
        if settings.is_file():
            before = schema.read(Ladder, settings)
            other = [k for k, v in asdict(before).items() if v != asdict(ladder)[k]]
            if other:
                raise InputError(
                    f"{settings}: its cells were made with another {', '.join(other)}; give "
                    "another --out, or the same settings"
                )
        else:
            schema.write(ladder, settings)

    def path(self, arm: str, seed: int) -> Path:
        return self.folder / f"{arm}-{seed}.json"

    def read(self, arm: str, seed: int) -> Cell | None:
        path = self.path(arm, seed)
        if not path.is_file():
            return None
        try:
            return Cell(**json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not a cell ({error}); remove it to have it anew") from None

    def write(self, cell: Cell) -> None:
        path = self.path(cell.arm, cell.seed)
        new = path.with_name(f".{path.name}.new")
        new.write_text(json.dumps(asdict(cell), indent=1) + "\n")
        os.replace(new, path)

    def cells(self, arm: str) -> list[Cell]:
        """Finished cells of an arm, by seed."""
        seeds = sorted(
            int(p.stem.rpartition("-")[2]) for p in self.folder.glob(f"{arm}-[0-9]*.json")
        )
        found = [self.read(arm, seed) for seed in seeds]
        return [cell for cell in found if cell is not None and cell.arm == arm]


def compute(arm: str, place: Place) -> Cell:
    """One cell: trained (or gone on with), then evaluated on the target."""
    torch.set_num_threads(1)
    ladder, begin = place.ladder, time.monotonic()
    made = ARMS[arm].make(place)
    result = evaluate(
        made.policy, ladder.env, gap=place.target, episodes=ladder.episodes, seed=1_000 + place.seed
    )
    return Cell(
        arm, place.seed, result.returns.tolist(), int(result.falls.sum()), made.target_steps,
        made.source_steps, time.monotonic() - begin, versions(), commit(), _machine(),
        made.rise,
    )  # fmt: skip


def train_again(arm: str, place: Place) -> None:
    """What others need of a finished cell whose training is no longer on disk."""
    torch.set_num_threads(1)
    ARMS[arm].make(place)


def compare(
    ladder: Ladder,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    arms: Sequence[str] | None = None,
    out: str | Path | None = None,
    work: str | Path = "runs/compare",
    jobs: int = 1,
    seconds: float | None = None,
    report: progress.Report = progress.silent,
) -> Table:
    """Computes what is not finished yet of a ladder, and gives the table.

    Args:
        seeds: of the methods; the oracles learn with the first one.
        arms: names of ARMS; None is all. What they need is computed with them.
        out: folder of the cells; default `work`/ENV/GAP/cells.
        work: folder of what is trained on the way, and kept, so that a killed training goes on.
            What open cells need of a finished one is trained again where it is not there.
        jobs: cells at a time, each in a process with one thread.
        seconds: no cell is begun after so long; the rest stays open.

    A cell that what a person gave makes impossible (too small a budget, say) leaves the others: why
    is a note of the table, and its row is `failed`.

    Raises:
        InputError: an unknown robot, gap or arm; cells of other settings in `out`.
        RuntimeError: cells failed for another reason; the others are finished and kept.
    """
    names = list(ARMS) if arms is None else list(arms)
    cells = cells_of(names, seeds)
    robot = Robot.load(ladder.env)
    folder = Path(work) / robot.name
    one = robot.gap(ladder.gap).robot(ladder.robot)
    results = Results(Path(out) if out else folder / ladder.gap_name / "cells", ladder)
    _same_settings(folder, ladder)
    (folder / ladder.gap_name).mkdir(parents=True, exist_ok=True)
    schema.write(one, folder / ladder.gap_name / "robot.yaml")
    refused = _compute_open(cells, results, folder, jobs, seconds, report)
    return table(results, seeds, refused)


def _same_settings(folder: Path, ladder: Ladder) -> None:
    """What is shared between gaps must have been trained alike."""
    path = folder / "source.yaml"
    shared = replace(ladder, gap="", budget=1, robot=0, episodes=1, oracle_steps=1)
    if path.is_file() and schema.read(Ladder, path) != shared:
        raise InputError(f"{path}: what is trained there has other settings; give another --work")
    path.parent.mkdir(parents=True, exist_ok=True)
    schema.write(shared, path)


def cells_of(arms: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """(arm, seed) of every cell that these arms and what they need have.

    Raises:
        InputError: an unknown arm.
    """
    for name in arms:
        if name not in ARMS:
            raise InputError(
                f"arms: no '{name}'{nearest(name, ARMS)}; the arms are {', '.join(ARMS)}"
            )
    wanted = _with_needs(arms)
    return [(a, s) for s in seeds for a in ARMS if a in wanted and s in _asked(a, seeds)]


def _asked(arm: str, seeds: Sequence[int]) -> Sequence[int]:
    """Of an oracle the first seed only: it costs most, and all methods share it."""
    return seeds[:1] if ARMS[arm].kind == "oracle" else seeds


def _with_needs(names: Sequence[str]) -> set[str]:
    wanted = set(names)
    for name in names:
        wanted |= _with_needs(ARMS[name].needs)
    return wanted


def _compute_open(
    asked: Sequence[tuple[str, int]], results: Results, folder: Path, jobs: int,
    seconds: float | None, report: progress.Report,
) -> dict[str, str]:  # fmt: skip
    """Arm -> why it is refused, of those that are."""
    finished = {(a, s) for a, s in asked if results.read(a, s) is not None}
    done, begin, failed, refused = len(finished), time.monotonic(), list[str](), dict[str, str]()
    waiting = [cell for cell in asked if cell not in finished]
    lost = [
        (arm, seed)
        for arm, seed in finished
        if any(arm in ARMS[a].needs and seed == s for a, s in waiting)
        and not (Place(results.ladder, seed, folder).folder(arm) / "policy.pt").is_file()
    ]
    waiting = [*lost, *waiting]
    finished -= set(lost)
    report(done, {})
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        running: dict[Future[Cell | None], tuple[str, int]] = {}
        while waiting or running:
            late = seconds is not None and time.monotonic() - begin > seconds
            waiting = [c for c in waiting if c[0] not in refused]  # other seeds say the same
            ready = [c for c in waiting if all((n, c[1]) in finished for n in ARMS[c[0]].needs)]
            for arm, seed in [] if late else ready[: jobs - len(running)]:
                waiting.remove((arm, seed))
                place = Place(results.ladder, seed, folder)
                job = train_again if (arm, seed) in lost else compute
                running[pool.submit(job, arm, place)] = (arm, seed)
            if not running:
                break  # too late, or nothing that is left can begin
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                error = future.exception()
                if isinstance(error, InputError):
                    refused[cell[0]] = str(error)
                    continue
                if error is not None:
                    failed.append(f"{cell[0]} with seed {cell[1]}: {error}")
                    continue
                finished.add(cell)
                made = future.result()
                if made is None:
                    continue
                results.write(made)
                done += 1
                report(done, {"arm": list(ARMS).index(cell[0]), "seed": cell[1]})
    if failed:
        raise RuntimeError("; ".join(failed))
    return refused


# The table


class Row(NamedTuple):
    arm: str
    kind: str
    seeds: int
    """Finished."""
    asked: int
    """Seeds that there are to be."""
    mean: Interval | None
    """Return on the target, with the interval over seeds and episodes; None where it is open."""
    closed: Interval | None
    """Gap closed; None where there is no gap, or what it needs is open."""
    falls: float
    """Share of the episodes."""
    target_steps: int
    refused: bool = False
    """What a person gave makes this method impossible; a note says why."""

    @property
    def alone(self) -> bool:
        """One training of several: what its interval leaves out is most of what varies."""
        return self.seeds == 1 < self.asked


@dataclass(frozen=True)
class Table:
    ladder: Ladder
    asked: int
    """Seeds."""
    rows: list[Row]
    gap: bool | None
    """Whether there is a gap to close; None where reference or oracle is open."""

    folder: Path
    """Of the cells."""
    notes: tuple[str, ...] = ()
    """What a reader must know beside the figures, a sentence each."""

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows as text."""
        columns = ["method", "return on the target [95 %]", "gap closed", "falls", "target steps",
                   "seeds"]  # fmt: skip
        rows: list[list[str]] = []
        for row in self.rows:
            seeds = f"{row.seeds} of {row.asked}"
            if row.mean is None:
                state = "failed" if row.refused else "open"
                rows.append([row.arm, state, state, "", "", seeds])
                continue
            closed = "open" if self.gap is None else "no gap"
            if row.closed is not None:
                closed = f"{row.closed.mean:.2f} [{row.closed.low:.2f}, {row.closed.high:.2f}]"
            mean = str(row.mean)
            if row.alone:
                mean, closed = f"{row.mean.mean:.4g}, one seed", closed.partition(" [")[0]
            rows.append([row.arm, mean, closed, f"{100 * row.falls:.0f} %",
                         f"{row.target_steps:,}", seeds])  # fmt: skip
        return columns, rows

    def markdown(self) -> str:
        columns, rows = self.cells()
        ruler = ["---", *["--:"] * (len(columns) - 1)]
        return "\n".join(f"| {' | '.join(line)} |" for line in [columns, ruler, *rows])

    def to_dict(self) -> dict[str, Any]:
        rows = [{**r._asdict(), "mean": r.mean and r.mean._asdict(),
                 "closed": r.closed and r.closed._asdict()} for r in self.rows]  # fmt: skip
        return {"ladder": schema.to_dict(self.ladder), "seeds": self.asked, "rows": rows,
                "notes": list(self.notes)}  # fmt: skip


def table(
    results: Results, seeds: Sequence[int], refused: Mapping[str, str] | None = None
) -> Table:
    """From the cells that are finished; `refused` are the arms that cannot be, and why."""
    refused = refused or {}
    cells = {arm: [c for c in results.cells(arm) if c.seed in seeds] for arm in ARMS}
    reference = next(cells[a] for a in ARMS if ARMS[a].kind == "reference")
    oracle = _best_oracle(cells)
    known = bool(reference and oracle)
    ends = (_returns(reference), _returns(oracle))
    is_gap = gap_closed(ends[1], *ends) is not None if known else None
    rows: list[Row] = []
    for arm, have in cells.items():
        closed = gap_closed(_returns(have), *ends) if have and is_gap else None
        steps = max((c.target_steps for c in have), default=0)
        episodes = sum(len(c.returns) for c in have)
        falls = sum(c.falls for c in have) / episodes if episodes else 0.0
        mean = bootstrap(_returns(have)) if have else None
        asked = len(_asked(arm, seeds))
        rows.append(
            Row(arm, ARMS[arm].kind, len(have), asked, mean, closed, falls, steps, arm in refused)
        )
    why = [f"{arm} failed: {sentence}." for arm, sentence in refused.items()]
    notes = (*why, *_notes(results.ladder, rows, cells))
    return Table(results.ladder, len(seeds), rows, is_gap, results.folder, notes)


RISING = 0.05
"""Share by which the return of an oracle may still rise, as training ends, without a word."""


def _notes(ladder: Ladder, rows: Sequence[Row], cells: Mapping[str, list[Cell]]) -> list[str]:
    rises = {
        arm: max((c.rise for c in have if c.rise is not None), default=0.0)
        for arm, have in cells.items()
    }
    late = [
        f"{arm} still rose by {100 * rise:.0f} % in the last fifth of its training: what can be "
        "reached in the target is at least this."
        for arm, rise in rises.items()
        if rise > RISING
    ]
    robot = Robot.load(ladder.env)
    seen = robot.observation(ladder.observe)
    one = [
        "The oracles have one training: how much that varies is in no interval of gap closed."
        for r in rows
        if r.closed is not None and len(cells[r.arm]) > 1
    ][:1]
    return [*_winner(rows), *_above(rows), *one, *calls_for(robot.gap(ladder.gap), seen), *late]


def _winner(rows: Sequence[Row]) -> list[str]:
    """Which finished method returns most, and which the intervals do not tell from it: a single
    seed of several has none."""
    methods = [r for r in rows if r.kind != "oracle"]
    found = [(r, r.mean) for r in methods if r.mean is not None]
    if len(found) < 2:
        return []
    best, top = max(found, key=lambda row: row[1].mean)
    near = [
        r.arm
        for r, mean in found
        if r is not best and (r.alone or best.alone or mean.high >= top.low)
    ]
    alike = f"; not told apart from it: {', '.join(near)}" if near else ", and intervals are apart"
    open_ = " so far" if any(r.seeds < r.asked for r in methods) else ""
    return [f"{best.arm} returns most{open_}{alike}."]


def _above(rows: Sequence[Row]) -> list[str]:
    """Methods that return more than the oracle, which is then no bound."""
    oracles = [r.mean for r in rows if r.kind == "oracle" and r.mean is not None]
    if not oracles:
        return []
    best = max(oracles, key=lambda mean: mean.mean)
    above = [
        r.arm
        for r in rows
        if r.kind != "oracle" and r.mean and not r.alone and r.mean.low > best.high
    ]
    if not above:
        return []
    return [
        f"{', '.join(above)} return{'s' if len(above) == 1 else ''} more than the better oracle, "
        "which is then no bound of what can be reached in the target: gap closed is "
        "overstated here."
    ]


def calls_for(gap: Gap, terms: Iterable[Term]) -> list[str]:
    """Which bridge what a gap consists of calls for where a policy sees these terms, a sentence
    each."""
    nothing, terms = Gap(), list(terms)
    dynamics = ("xi", "shape", "edits", "actuators", "pushes")
    wrong = any(sensor != Sensor() for sensor in gap.sensors.values())
    askew = sum(getattr(gap.mounting, p) != getattr(nothing.mounting, p) for p in MOUNTED)
    said: list[str] = []
    if gap.latency.action_ms != 0.0 or any(
        getattr(gap, part) != getattr(nothing, part) for part in dynamics
    ):
        said.append(
            "Its dynamics differ, which calls for randomizing, adapting or fine-tuning, and for "
            "correcting the reward where the simulator can do what the target cannot; align does "
            "nothing for it."
        )
    if wrong + askew > len(gap.idle(terms)):
        said.append(
            "Its sensors differ, which calls for align, or for the sensors' errors in training."
        )
    if gap.latency.observation_ms != 0.0 or gap.network != nothing.network:
        said.append(
            "What the policy sees comes late or is lost, which calls for a history in what it "
            "sees, or for memory: no single observation tells what align could estimate."
        )
    return said


def _returns(cells: Sequence[Cell]) -> Array:
    """(S, E)"""
    return np.array([c.returns for c in cells])


def _best_oracle(cells: Mapping[str, list[Cell]]) -> list[Cell]:
    """Of the oracles, the one that returns most: what a robot could reach is a maximum."""
    oracles = [cells[a] for a in ARMS if ARMS[a].kind == "oracle" and cells[a]]
    return max(oracles, key=lambda have: float(_returns(have).mean()), default=[])


def commit() -> str:
    """Of the package's own checkout; empty where there is none."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return ""
    said = subprocess.run(
        ["git", "-C", str(here), "rev-parse", "--short", "HEAD"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return said.stdout.strip()


def _machine() -> str:
    """Processor and number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"
