"""Do methods that infer overfit the robots of training, and do gradient steps go beyond them?

    make study STUDY=extrapolation                         goes on with whatever is open
    make study STUDY=extrapolation ARGS="--seeds 0-0"

Every policy of the adaptation study meets robots drawn from boxes of 0.5, 1, 1.5 and 2 times the
half-width of its training ranges, along logarithms where a range is positive, for five episodes
each; one whose fast numbers gradient steps find makes 0, 1, 3, 10 and 30 of them after every
episode. What is compared is the return of the fifth episode. Robots are the same for all methods.
Finished cells stand in results/extrapolation and are not computed again; beside them the figure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from study_adaptation import RECIPES, digest, drawn, recipe_of, trained
from study_identification import span

from sim2real.compare import commit
from sim2real.deploy.files import write_atomically
from sim2real.identification.axes import Axes
from sim2real.pictures import LIGHT, png, style
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe
from sim2real.simulation.robot import Robot
from sim2real.trial import trial
from sim2real.types import Array, InputError

HERE = Path(__file__).resolve().parent.parent / "results" / "extrapolation"
WIDTHS = (0.5, 1.0, 1.5, 2.0)
"""Times the half-width of the ranges."""
STEPS = (0, 1, 3, 10, 30)
"""Gradient steps after an episode."""
EPISODES = 5


def robots(robot: Robot, width: float, number: int, draw: int) -> Array:
    """(R, K) physics, robot r at the same relative place of every box. What no range lets be
    negative, a latency or a load, stays at zero where a box goes beyond."""
    low, high = np.array(robot.space.low, float), np.array(robot.space.high, float)
    axes = Axes.of(low, high)
    middle, half = (axes.high + axes.low) / 2, (axes.high - axes.low) / 2
    side = np.random.default_rng(draw).uniform(-1, 1, (number, len(low)))
    at = middle + width * half * side
    xi = np.where(axes.log, np.exp(np.where(axes.log, at, 0.0)), at)
    return np.where(low >= 0, np.maximum(xi, 0.0), xi)


def arms(recipe: Recipe) -> list[tuple[str, int | None]]:
    """(what a cell adds to its method's name, gradient steps)."""
    if recipe.gradient is None:
        return [(", told the truth" if recipe.adaptation is not None else "", None)]
    return [(f", {n} steps", n) for n in STEPS]


def cell(policy: Policy, width: float, steps: int | None, options: Any) -> dict[str, Any]:
    xi = robots(Robot.load(policy.spec.env), width, options.robots, options.draw)
    told = "true" if "context" in policy.z_names else "nominal"
    found = trial(
        policy, xi=xi, robots=len(xi), episodes=EPISODES, seed=options.draw, context=told,
        steps=steps,
    )  # fmt: skip
    return {"returns": found.returns[:, -1].tolist(), "commit": commit()}


Cells = dict[str, dict[int, dict[str, Any]]]
"""Method -> seed -> width -> cell."""


def read_cells(folder: Path, draw: int, number: int) -> Cells:
    """Of these robots."""
    found: Cells = {}
    for path in sorted(folder.glob("*.json")):
        said = json.loads(path.read_text())
        if (said["draw"], said["robots"]) != (draw, number):
            continue
        found.setdefault(said["method"], {})[said["seed"]] = said["widths"]
    return found


def returns(cells: dict[int, dict[str, Any]], width: float) -> Array | None:
    """(S, R); None where none is there."""
    rows = [w[str(width)]["returns"] for w in cells.values() if str(width) in w]
    return np.array(rows) if rows else None


def interval(values: Array) -> tuple[float, float, float]:
    """Mean of (S, R), with robots and seeds drawn anew."""
    rng = np.random.default_rng(0)
    again = drawn(values, rng.integers(values.shape[1], size=(4000, values.shape[1])), rng)
    low, high = np.percentile(again[1:], [2.5, 97.5])
    return float(again[0]), float(low), float(high)


def table(cells: Cells) -> str:
    lines = ["| method | seeds | " + " | ".join(f"{w:g} half-widths" for w in WIDTHS) + " |"]
    lines.append("|---|--:|" + "--:|" * len(WIDTHS))
    for method, seeds in cells.items():
        row = [method, str(len(seeds))]
        for width in WIDTHS:
            values = returns(seeds, width)
            told = None if values is None else interval(values)
            row.append("open" if told is None else "{:.4g} [{:.4g}, {:.4g}]".format(*told))
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def draw(cells: Cells, env: str) -> Figure:
    """Return over the width of the box, a line a method."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained", facecolor=LIGHT.background)
    axes = figure.subplots()
    style(axes, LIGHT)
    for number, (method, seeds) in enumerate(cells.items()):
        found = [(w, returns(seeds, w)) for w in WIDTHS]
        known = [(w, *interval(v)) for w, v in found if v is not None]
        if not known:
            continue
        x, mean, low, high = np.array(known).T
        dashed = "--" if "steps" in method else "-"
        (line,) = axes.plot(x, mean, dashed, marker="o", label=method, color=f"C{number}")
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.axvline(1.0, color=LIGHT.other, linewidth=0.8)
    axes.annotate("training ends", (1.01, 0.98), xycoords=("data", "axes fraction"), va="top")
    axes.set_xlabel("half-widths of the training ranges")
    axes.set_ylabel(f"{env}: return of the fifth episode")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--env", choices=list(RECIPES), default="hopper")
    parser.add_argument("--draw", type=int, default=5151, help="draws the robots")
    parser.add_argument("--robots", type=int, default=50)
    parser.add_argument("--seeds", type=span, default="0-4", help="of training, FIRST-LAST")
    parser.add_argument("--methods", help="NAME[,NAME...]; default all")
    parser.add_argument("--work", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    known = list(RECIPES[options.env])
    methods = known if options.methods is None else options.methods.split(",")
    if unknown := set(methods) - set(known):
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for method in methods:  # before hours of training, not after
        recipe_of(options.env, method, "", 0)
    folder: Path = options.out / options.env
    folder.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for method in methods:
            recipe = recipe_of(options.env, method, "", seed)
            for more, steps in arms(recipe):
                path = folder / f"{method}{'' if steps is None else f'-{steps}'}-{seed}.json"
                said: dict[str, Any] = {
                    "method": method + more, "seed": seed, "draw": options.draw,
                    "robots": options.robots, "recipe": digest(recipe), "widths": {},
                }  # fmt: skip
                if path.is_file():
                    before = json.loads(path.read_text())
                    if any(before[k] != said[k] for k in ("draw", "robots")):
                        raise InputError(
                            f"{path} is of {before['robots']} robots drawn by {before['draw']}; go "
                            "on with these, or give another --out"
                        )
                    if before.get("recipe") != said["recipe"]:
                        raise InputError(
                            f"{path} is of another recipe; remove it, or give another --out"
                        )
                    said = before
                for width in WIDTHS:
                    if str(width) not in said["widths"]:
                        policy = trained(options.env, method, "", seed, options.work)
                        said["widths"][str(width)] = cell(policy, width, steps, options)
                        write_atomically(path, (json.dumps(said) + "\n").encode())
    cells = read_cells(folder, options.draw, options.robots)
    write_atomically(options.out / f"{options.env}.png", png(draw(cells, options.env)))
    print(table(cells))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"study_extrapolation: {error}") from None
