"""What adaptation wins on the robots of a family, against the episodes that it cost.

    make study STUDY=adaptation                         goes on with whatever is open
    make study STUDY=adaptation ARGS="--methods student --seeds 0-0 --families worn"

Every method is a recipe of policies/, trained once for each seed into `--work`, where recipes that
learn from the same teacher share it. It then meets the same robots, drawn from a family of gaps by
`--draw`, a seed that training never saw. What is returned after 0, 1, 2, 5 and 10 episodes on a
robot is a cell: of a policy that remembers, or makes gradient steps between episodes, the next
episode of the same trial; of one that is told its context, episodes with what was identified from
the logs of so many, which it drove with the nominal context and noise on its commands; of the
others the same as before. Finished cells stand in results/adaptation and are not computed again.

Gap closed is (J - J_0) / (J_oracle - J_0): J_0 returns uniform randomization with history, of the
same training seeds as the method, J_oracle a policy that learned in the family itself for as long
as the teacher in all of the ranges, sees the simulator's state and is told the true ξ. It is
printed where the 95 % lower bound of J_oracle - J_0 exceeds a tenth of |J_oracle|. Intervals
resample robots and seeds.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from study_identification import span

from sim2real import content, progress, schema
from sim2real.bridges.adapt.context import Context, from_posterior
from sim2real.compare import commit
from sim2real.deploy.files import write_atomically
from sim2real.dynamics.distribution import Empirical
from sim2real.evaluate import evaluate
from sim2real.identification.excitation import excite
from sim2real.identification.identify import explain
from sim2real.policy.actor import Actor
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe, read
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.train import run
from sim2real.trial import trial
from sim2real.types import Array, InputError

HERE = Path(__file__).resolve().parent.parent / "results" / "adaptation"
REFERENCE, ORACLE = "uniform-history", "oracle"
RECIPES = {
    "hopper": {
        REFERENCE: "hopper-uniform-history",
        "context": "hopper-context",
        "student": "hopper-student",
        "inference": "hopper-task-inference",
        "gradient": "hopper-gradient",
    },
    "go1": {REFERENCE: "go1-uniform", "context": "go1-context"},
}
"""Method -> recipe, for every robot."""
FAMILIES = ("mild", "worn", "unseen")
AFTER = (0, 1, 2, 5, 10)
"""Episodes on a robot."""
TOLD = 5
"""Episodes on a robot that say what a context returns."""
TICKS = 1000
"""Control steps of an episode that is logged, at most."""
EXCITATION = 0.1
"""Noise on the commands that are logged, as a share of half their range."""


class Reached(NamedTuple):
    """After so many episodes."""

    returns: list[list[float]]
    """One row a robot."""
    seconds: float
    """On a robot, until then; mean over the robots."""
    falls: float


Cell = Mapping[str, Any]
"""What stands in a file; "after" maps numbers of episodes to Reached."""


def recipe_of(env: str, method: str, family: str, seed: int) -> Recipe:
    if method != ORACLE:
        return read(RECIPES[env][method], seed=seed)[1]
    told = read(RECIPES[env]["context"], seed=seed)[1]
    return replace(
        told, observe="v5", history=1, distill=None, gap=family, adapt=Context(error=0.0),
    )  # fmt: skip


def trained(env: str, method: str, family: str, seed: int, work: Path) -> Policy:
    """By its recipe, from disk where it was trained before."""
    name = f"{method}-{family}" if method == ORACLE else method
    recipe = recipe_of(env, method, family, seed)
    folder = work / env / f"{name}-{digest(recipe)}-{seed}"
    return from_disk(f"{env}-{method}", taught(recipe, work / env), folder)


def digest(recipe: Recipe) -> str:
    """Of all that a recipe says, but for its words, its seed and where its teacher lies."""
    plain = replace(recipe, description="", seed=0)
    if plain.distill is not None:
        plain = replace(plain, distill=replace(plain.distill, trained=""))
    return hashlib.sha256(schema.dump(plain).encode()).hexdigest()[:8]


def taught(recipe: Recipe, work: Path) -> Recipe:
    """The recipe, with a teacher from disk: recipes that learn from the same teacher share it."""
    if recipe.distill is None or recipe.distill.trained:
        return recipe
    learned = recipe.learned
    learned = replace(learned, description="a teacher", adapt=learned.adaptation or "none")
    folder = work / f"teacher-{digest(learned)}-{recipe.seed}"
    from_disk(f"{recipe.env}-teacher", learned, folder)
    return replace(recipe, distill=replace(recipe.distill, trained=str(folder)))


def from_disk(name: str, recipe: Recipe, folder: Path) -> Policy:
    """Trained before, now, or to its end where that was interrupted; by one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "policy.pt").is_file():
            return Policy.load(folder)
        with progress.bar(f"train {folder.name}", recipe.total_steps) as report:
            resume = (folder / "recipe.yaml").is_file()
            return run(name, recipe, folder, resume=resume, report=report)


def reached(policy: Policy, family: str, robots: int, draw: int, method: str) -> Iterator[Any]:
    """(episodes, Reached) on the robots of a family."""
    told = "true" if method == ORACLE else "nominal"
    whole = trial(
        policy, gap=family, robots=robots, episodes=1 + AFTER[-1], seed=draw, context=told
    )
    lasting = {"memory", "fast"} & set(policy.z_names)
    for n in AFTER:
        if n and method == "context":
            yield n, identified(policy, family, whole.xi, n, draw)
        else:
            column = whole.returns[:, n : n + 1] if lasting else whole.returns
            spent = whole.seconds[:, :n].sum(axis=1).mean(), whole.falls[:, :n].sum(axis=1).mean()
            yield n, Reached(column.tolist(), *map(float, spent))


def identified(policy: Policy, family: str, xi: Array, n: int, draw: int) -> Reached:
    """With a context for each robot of physics (R, K), from the logs of n episodes."""
    robot = Robot.load(policy.spec.env)
    names = [term.name for term in policy.spec.terms]
    low, high = (
        np.array([getattr(p, end) for p in policy.spec.context]) for end in ("low", "high")
    )
    returns, seconds, falls = list[list[float]](), 0.0, 0
    for i, true in enumerate(xi):
        worlds = make_worlds(robot, 1, gap=family, observe=names, seed=draw + i, threads=1)
        worlds.draws.distribution = Empirical(true[None])
        rng = np.random.default_rng([draw, i])
        logs = excite(
            worlds, Actor(policy), episodes=n, steps=n * TICKS, rng=rng, ticks=TICKS,
            excitation=EXCITATION,
        )  # fmt: skip
        seconds += logs.steps * robot.control_period
        falls += sum(len(e.command) < TICKS for e in logs.episodes)
        found = from_posterior(explain(robot, logs.episodes, seed=draw + i), robot.space)
        told = evaluate(
            policy, gap=family, xi=true, episodes=TOLD, seed=draw + i,
            context=np.clip(found, low, high),
        )  # fmt: skip
        returns.append(told.returns.tolist())
    return Reached(returns, seconds / len(xi), falls / len(xi))


def fill(path: Path, method: str, family: str, seed: int, options: Any) -> None:
    """A cell, and first the policy that it is of; what was reached is written as soon as it is
    known."""
    recipe = digest(recipe_of(options.env, method, family, seed))
    cell: dict[str, Any] = {"draw": options.draw, "robots": options.robots, "recipe": recipe}
    cell["after"] = {}
    if path.is_file():
        cell = json.loads(path.read_text())
        if (cell["draw"], cell["robots"]) != (options.draw, options.robots):
            raise InputError(
                f"{path} is of {cell['robots']} robots drawn by {cell['draw']}; go on with these, "
                "or give another --out"
            )
        if cell.get("recipe") != recipe:
            raise InputError(f"{path} is of another recipe; remove it, or give another --out")
        if len(cell["after"]) == len(AFTER):
            return
    policy = trained(options.env, method, family, seed, options.work)
    for n, found in reached(policy, family, options.robots, options.draw, method):
        cell["after"][str(n)] = found._asdict()
        cell["commit"] = options.commit
        write_atomically(path, (json.dumps(cell) + "\n").encode())


def means(cells: list[Cell], n: int) -> Array | None:
    """(S, R) mean returns of seeds on robots; None where a cell is open."""
    if not cells or any(str(n) not in cell["after"] for cell in cells):
        return None
    return np.array([[np.mean(r) for r in cell["after"][str(n)]["returns"]] for cell in cells])


def interval(values: Array) -> str:
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return f"{values[0]:.4g} [{low:.4g}, {high:.4g}]"


def drawn(values: Array, robots: Array, rng: np.random.Generator) -> Array:
    """(1 + draws,) mean of (S, R): as it is, and with robots (draws, R) and seeds drawn anew."""
    seeds = rng.integers(len(values), size=(len(robots), len(values)))
    again = values[seeds[:, :, None], robots[:, None, :]].mean(axis=(1, 2))
    return np.concatenate([[values.mean()], again])


def table(env: str, out: Path, families: list[str]) -> str:
    """Markdown: returns, and gap closed where there is a gap."""
    lines: list[str] = []
    methods = [*RECIPES[env], ORACLE]
    for family in families:
        cells = {m: read_cells(out / env / family, m) for m in methods}
        heads = ["method", "seeds", *(f"after {n}" for n in AFTER), "seconds", "falls"]
        lines += [f"### {env}, {family}", "", "| " + " | ".join(heads) + " |"]
        lines += ["|---|--:|" + "--:|" * (len(heads) - 2)]
        best = means(list(cells[ORACLE].values()), 0)
        for method in methods:
            mine = cells[method]
            same = [cells[REFERENCE][s] for s in mine if s in cells[REFERENCE]]
            ends = [means(same, 0) if len(same) == len(mine) else None, best]
            if method in (REFERENCE, ORACLE):
                ends = [None, None]
            row = [method, str(len(mine))]
            for n in AFTER:
                row.append(entry(means(list(mine.values()), n), ends))
            last = [cell["after"].get(str(AFTER[-1])) for cell in mine.values()]
            for what in ("seconds", "falls"):
                known = [x[what] for x in last if x]
                row.append(f"{np.mean(known):.3g}" if known else "open")
            lines.append("| " + " | ".join(row) + " |")
        lines.append("")
    return "\n".join(lines)


def entry(values: Array | None, ends: Sequence[Array | None]) -> str:
    """The return and, below it, gap closed between reference and oracle, where both are there."""
    if values is None:
        return "open"
    rng = np.random.default_rng(0)
    robots = rng.integers(values.shape[1], size=(4000, values.shape[1]))
    said = interval(own := drawn(values, robots, rng))
    zero, best = (None if end is None else drawn(end, robots, rng) for end in ends)
    if zero is None or best is None:
        return said
    if np.percentile((best - zero)[1:], 2.5) <= 0.1 * abs(best[0]):
        return f"{said}<br>no gap"
    return f"{said}<br>closed {interval((own - zero) / (best - zero))}"


def read_cells(folder: Path, method: str) -> dict[int, Cell]:
    """Training seed -> cell."""
    paths = sorted(folder.glob(f"{method}-[0-9]*.json"))
    return {int(p.stem.rpartition("-")[2]): json.loads(p.read_text()) for p in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", choices=list(RECIPES), default="hopper")
    parser.add_argument("--draw", type=int, default=9191, help="draws the robots")
    parser.add_argument("--robots", type=int, default=30)
    parser.add_argument("--seeds", type=span, default="0-4", help="of training, FIRST-LAST")
    parser.add_argument("--methods", help="NAME[,NAME...]; default all and the oracle")
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--work", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    options.commit = commit()  # of what runs: a commit that comes meanwhile is another
    known = [*RECIPES[options.env], ORACLE]
    methods = known if options.methods is None else options.methods.split(",")
    families = options.families.split(",")
    if unknown := set(methods) - set(known):
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for family in families:
        content.gap_file(options.env, family)
    for method in methods:  # before hours of training, not after
        recipe_of(options.env, method, families[0], 0)
    for seed in options.seeds:
        for family in families:
            for method in methods:
                if method == ORACLE and seed != options.seeds[0]:
                    continue  # one, which all methods share
                path = options.out / options.env / family / f"{method}-{seed}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                fill(path, method, family, seed, options)
    print(table(options.env, options.out, families))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"study_adaptation: {error}") from None
