"""The command line: one function per command; the only file that parses arguments or prints.

Exit status: 0 done, 1 the answer is no, 2 the input is wrong, 3 stopped for safety.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim2real import content
from sim2real.types import InputError, SafetyStop, nearest

if TYPE_CHECKING:
    from sim2real.identification.windows import Trajectory
    from sim2real.localization.attribution import Attribution
    from sim2real.simulation.robot import Robot

DONE, NO, WRONG, STOPPED = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        known = [o for o in arguments.parser._option_string_actions if o.startswith("--")]
        word = unknown[0].partition("=")[0]
        arguments.parser.error(
            f"unknown option '{word}'{nearest(word, known)}" if word.startswith("-")
            else f"'{word}' is one word too many"
        )  # fmt: skip
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except InputError as error:
        print(f"sim2real: {error}", file=sys.stderr)
        return WRONG
    except SafetyStop as stop:
        print(f"sim2real: stopped for safety: {stop}", file=sys.stderr)
        return STOPPED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "sim2real":
            raise
        print(
            'sim2real: this command needs the extra train: pip install "sim2real[train]" '
            f"({package} is missing)",
            file=sys.stderr,
        )
        return WRONG
    except KeyboardInterrupt:
        print("sim2real: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return DONE
    except OSError as error:  # a disk that is full, a folder that may not be written
        place = f"{error.filename}: " if error.filename else ""
        print(f"sim2real: {place}{error.strerror or error}", file=sys.stderr)
        return WRONG


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="sim2real", description="Train in simulation, adapt on the robot, export."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    p = _command(commands, demo, "the whole line on the hopper, in about six minutes")
    p.add_argument("--out", default="runs/demo", help="folder for everything it writes")
    p.add_argument("--steps", type=_positive, help="control steps of training, for a shorter try")

    p = _command(commands, list_, "the shipped robots, gaps and recipes")

    p = _command(commands, train, "train what a recipe says", json_=False)
    p.add_argument("recipe", metavar="RECIPE", help="a name from policies/, or a recipe file")
    p.add_argument("--out", help="folder of the run; default runs/RECIPE")
    p.add_argument("--seed", type=_seed, help="instead of the recipe's")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                   help="replace a value of the recipe; may be given several times")  # fmt: skip
    p.add_argument("--resume", action="store_true", help="continue from the last checkpoint")

    p = _command(commands, evaluate, "returns of a policy, with intervals")
    p.add_argument("policy", metavar="POLICY", help="folder of a trained policy")
    p.add_argument("--env", help="the robot, if not the policy's own")
    p.add_argument("--gap", help="a gap of the robot, or a gap file")
    p.add_argument("--xi", action="append", default=[], metavar="NAME=VALUE", type=_assignment,
                   help="physics, over the gap's; may be given several times")  # fmt: skip
    p.add_argument("--context", choices=["nominal", "true", "other"], default="nominal",
                   help="what the policy is told of ξ")  # fmt: skip
    p.add_argument(
        "--grid", metavar="NAME[,NAME]", help="robustness map over one or two parameters"
    )
    p.add_argument("--picture", help="where the robustness map is drawn (PNG)")
    p.add_argument("--reference", metavar="RUN", help="policy that never heard of the target; "
                   "with --oracle: how much of the gap is closed")  # fmt: skip
    p.add_argument("--oracle", metavar="RUN", help="policy that learned in the target")
    p.add_argument("--trial", type=_positive, metavar="N",
                   help="N episodes on every robot, one after another, in which the policy may "
                   "adapt: the return of each")  # fmt: skip
    p.add_argument("--episodes", type=_positive, default=20,
                   help="each on a robot of its own; default 20; with --trial robots; not with "
                   "--grid")  # fmt: skip
    p.add_argument("--seed", type=_seed, default=0, help="of the episodes and the gap's robots")

    p = _command(commands, compare, "the ladder: which bridge wins on a robot and a gap")
    p.add_argument("env", metavar="ENV", help="a name from envs/, or the folder of a robot")
    p.add_argument("--gap", required=True, help="a gap of the robot, or a gap file")
    p.add_argument("--budget", type=_positive, required=True, metavar="N",
                   help="control steps on the target for every method")  # fmt: skip
    p.add_argument("--seeds", type=_positive, default=3, help="trainings of each method; default 3")
    p.add_argument("--arms", metavar="NAME[,NAME...]", help="methods; default all")
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
                   help="another setting, such as ppo_steps=200000; several times")  # fmt: skip
    p.add_argument("--out", help="folder of the finished cells; default WORK/ENV/GAP/cells")
    p.add_argument("--work", default="runs/compare", help="folder of the trainings")
    p.add_argument("--jobs", type=_positive, default=1, help="cells at a time; default 1")
    p.add_argument("--seconds", type=_seconds, help="begin no cell after so long; go on later")

    p = _command(commands, excite, "a safe motion that reveals the physics")
    p.add_argument("env", metavar="ENV", help="a name from envs/, or the folder of a robot")
    p.add_argument("--policy", metavar="POLICY", help="folder of a trained policy that drives it")
    p.add_argument("--seconds", type=_seconds, default=10.0, help="of the motion; default 10")
    p.add_argument("--suspended", action="store_true",
                   help="on a stand, clear of the ground, where a robot with a floating base needs "
                   "no policy")  # fmt: skip
    p.add_argument("--out", help="where the motion is written (CSV); default excitation.csv")
    p.add_argument("--seed", type=_seed, default=0, help="of the motion and its rehearsals")

    p = _command(commands, identify, "the physics that explain logs")
    p.add_argument(
        "logs", metavar="LOGS", nargs="+",
        help="logs of `sim2real run`, or their folders; or CSV recordings of an arm",
    )  # fmt: skip
    p.add_argument("--load", metavar="CSV", nargs="+", default=[],
                   help="recordings of the same arm with a load of unknown mass")  # fmt: skip
    p.add_argument("--env", required=True, help="the robot that wrote them")
    p.add_argument("--out", help="default posterior.json, or arm.json of an arm, right here")
    p.add_argument(
        "--method", help="fit; grid, exact and slow, for one or two parameters; or neural"
    )
    p.add_argument("--only", metavar="NAME[,NAME...]",
                   help="parameters that may differ, all others nominal; default all")  # fmt: skip
    p.add_argument("--suspended", action="store_true",
                   help="logged on a stand, clear of the ground")  # fmt: skip
    p.add_argument("--prior", metavar="FILE",
                   help="what other logs of this robot revealed (posterior.json)")  # fmt: skip
    p.add_argument(
        "--seed", type=_seed, default=0, help="of the search, which an arm needs none of; default 0"
    )

    p = _command(commands, gap, "where robot and simulator differ, from logs")
    p.add_argument(
        "logs", metavar="LOGS", nargs="+",
        help="logs of `sim2real run`, or their folders; or CSV recordings of an arm",
    )  # fmt: skip
    p.add_argument(
        "--identified",
        metavar="FILE",
        help="what `identify` wrote: effects to switch off in turn, default identified here; of "
        "an arm, what is judged",
    )
    p.add_argument(
        "--loaded", action="store_true", help="of an arm: recorded with its identified load"
    )
    p.add_argument("--env", required=True, help="the robot that wrote them")
    p.add_argument("--suspended", action="store_true",
                   help="logged on a stand, clear of the ground")  # fmt: skip
    p.add_argument("--picture", help="where the finding is drawn (PNG)")
    p.add_argument("--seed", type=_seed, default=0, help="of the test; default 0")

    p = _command(commands, adapt, "adapt a policy to a target, and decide whether it helps")
    p.add_argument("policy", metavar="POLICY", help="folder of a trained policy")
    p.add_argument("target", metavar="TARGET", help="HOST:PORT, logs, or ENV/GAP")
    p.add_argument("--env", help="the robot's folder, if it is not where the policy was trained")
    p.add_argument("--episodes", type=_positive, default=10,
                   help="robot episodes that may be used, at least 3; default 10")  # fmt: skip
    p.add_argument("--seconds", type=_seconds, help="robot seconds that may be used")
    p.add_argument("--engine", choices=["identify", "search"], default="identify",
                   help="explain logs (default), or search for the best return")  # fmt: skip
    p.add_argument("--excitation", type=_share, default=0.1,
                   help="noise on commands while data is gathered, as a share of half their range; "
                   "default 0.1")  # fmt: skip
    p.add_argument("--out", help="default runs/NAME-adapt, of the policy's name")
    p.add_argument("--seed", type=_seed, default=0, help="of everything drawn; default 0")

    p = _command(commands, export, "write a policy as a verified ONNX artifact")
    p.add_argument("policy", metavar="POLICY", help="folder of a trained policy")
    p.add_argument("--env", help="the robot's folder, if it is not where the policy was trained")
    p.add_argument("--out", help="folder of the artifact; default POLICY/artifact")

    p = _command(
        commands, verify, "is this artifact what was exported, and does it compute it here?"
    )
    p.add_argument("artifact", metavar="ARTIFACT", help="folder that `sim2real export` wrote")

    p = _command(commands, lint, "what of an artifact cannot work on a robot, before it moves")
    p.add_argument("artifact", metavar="ARTIFACT", help="folder that `sim2real export` wrote")
    p.add_argument(
        "--robot", metavar="HOST:PORT", help="that it is for; asked what it is, not moved"
    )
    p.add_argument("--posterior", metavar="FILE", help="what `sim2real identify` said of it")
    p.add_argument("--logs", nargs="+", metavar="LOGS", help="what it logged, whatever drove it")

    p = _command(
        commands, replay, "does an artifact do what logs say was done, and which term differs?"
    )
    p.add_argument("logs", metavar="LOGS", nargs="+",
                   help="logs of `sim2real run`, or their folders")  # fmt: skip
    p.add_argument("artifact", metavar="ARTIFACT", help="folder that `sim2real export` wrote")

    p = _command(commands, serve, "a simulated robot as a process, over UDP", json_=False)
    p.add_argument("env", metavar="ENV", help="a name from envs/, or the folder of a robot")
    p.add_argument("--gap", help="a gap of the robot, or a gap file")
    p.add_argument("--port", type=_port, default=47800, help="default 47800; 0 takes a free one")
    p.add_argument("--realtime", action="store_true", help="paced by the clock; else in lockstep")
    p.add_argument("--seed", type=_seed, default=0, help="which robot, where the gap is a family")

    p = _command(commands, run, "drive a robot with an artifact")
    p.add_argument("artifact", metavar="ARTIFACT", help="folder that `sim2real export` wrote")
    p.add_argument("--robot", default="127.0.0.1:47800", metavar="HOST:PORT",
                   help="where the robot is; default 127.0.0.1:47800")  # fmt: skip
    p.add_argument("--episodes", type=_positive, help="at most so many; default 1")
    p.add_argument("--seconds", type=_seconds, help="at most so much robot time, in all")
    p.add_argument("--z", help="the z.json of an adaptation")
    p.add_argument("--excitation", type=_share, default=0.0,
                   help="noise on commands, as a share of half their range; default 0")  # fmt: skip
    p.add_argument("--log", default="runs/logs", help="folder for the logs; default runs/logs")
    p.add_argument("--seed", type=_seed, default=0, help="episode k is reset with seed + k")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        if "invalid choice: '" in message and "choose from" in message:
            word = message.split("invalid choice: '")[1].split("'")[0]
            known = message.split("choose from ")[1].rstrip(")").replace("'", "").split(", ")
            what = message.split(": ")[0].removeprefix("argument ")
            message = f"{what}: no '{word}'{nearest(word, known)}; it is one of {', '.join(known)}"
        print(f"sim2real: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(WRONG)


def _command(
    commands: Any, function: Callable[[argparse.Namespace], int], help: str, *, json_: bool = True
) -> argparse.ArgumentParser:
    name = function.__name__.rstrip("_")
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(command=function, parser=parser)
    if json_:
        parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def _positive(text: str) -> int:
    return _whole(text, 1, 10**12)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**32 - 1)  # what numpy takes


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number from {low} to {high}")
    return value


def _seconds(text: str) -> float:
    return _number(text, "a time above 0 s, such as 20", lambda x: 0 < x < float("inf"))


def _share(text: str) -> float:
    return _number(text, "a share from 0 to 1, such as 0.1", lambda x: 0 <= x <= 1)


def _number(text: str, right: str, fits: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not fits(value):
        raise argparse.ArgumentTypeError(f"'{text}' must be {right}")
    return value


def _assignment(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        return (name, float(value)) if equals else _fail(text)
    except ValueError:
        return _fail(text)


def _fail(text: str) -> Any:
    raise argparse.ArgumentTypeError(f"'{text}' must be NAME=NUMBER, such as torso_mass=1.5")


def _answer(
    arguments: argparse.Namespace, figures: dict[str, Any], show: Callable[[], None]
) -> None:
    if arguments.json:
        print(json.dumps(_finite(figures), allow_nan=False))
    else:
        show()


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for a figure that there is not."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(text: Any) -> None:
    Console(highlight=False, soft_wrap=not isinstance(text, Table)).print(text)


def demo(arguments: argparse.Namespace) -> int:
    from sim2real.demo import demo, figures_table

    result = demo(Path(arguments.out), steps=arguments.steps)
    _answer(arguments, result, lambda: _print(_table(*figures_table(result))))
    if not arguments.json:
        print(f"The report with pictures is {Path(arguments.out) / 'report.html'}")
    return DONE if result["accepted"] else NO


def list_(arguments: argparse.Namespace) -> int:
    robots = {name: list(content.gap_names(name)) for name in content.env_names()}
    recipes = list(content.policy_names())

    def show() -> None:
        rows = [[name, ", ".join(gaps)] for name, gaps in robots.items()]
        _print(_table(["robot", "gaps"], rows))
        _print(_table(["recipe"], [[name] for name in recipes]))

    _answer(arguments, {"robots": robots, "recipes": recipes}, show)
    return DONE


def train(arguments: argparse.Namespace) -> int:
    from sim2real.recipe import read
    from sim2real.train import train

    name, _ = read(arguments.recipe, overrides=arguments.overrides)
    out = Path(arguments.out or Path("runs") / name)
    try:
        train(
            arguments.recipe, out=out, seed=arguments.seed, overrides=arguments.overrides,
            resume=arguments.resume,
        )  # fmt: skip
    except KeyboardInterrupt:
        print(f"sim2real: interrupted; continue with --resume --out {out}", file=sys.stderr)
        return 130
    print(f"The policy is in {out}; next: sim2real export {out}")
    return DONE


def evaluate(arguments: argparse.Namespace) -> int:
    from sim2real.evaluate import Evaluation, between, bootstrap, evaluate
    from sim2real.policy.policy import Policy
    from sim2real.simulation.robot import Robot

    if (arguments.reference is None) != (arguments.oracle is None):
        raise InputError("--reference and --oracle are the two ends of a gap: give both or neither")
    policy = Policy.load(arguments.policy)
    robot = Robot.load(arguments.env or policy.spec.env)
    if arguments.grid is not None:
        return _robustness(arguments, policy, robot)
    if arguments.picture:
        raise InputError("--picture draws a robustness map: give --grid NAME or --grid NAME,NAME")
    target: dict[str, Any] = {
        "gap": arguments.gap, "xi": dict(arguments.xi) or None, "episodes": arguments.episodes,
        "seed": arguments.seed, "context": arguments.context,
    }  # fmt: skip
    if arguments.trial is not None:
        return _trial(arguments, policy, robot, target)
    given = " ".join(f"{name}={value:g}" for name, value in arguments.xi)
    columns = ["robot", "gap", "ξ given", "told", "return [95 %]", "falls", "seconds"]
    counted = [f"{name.replace('_', ' ')} [{unit}]" for name, unit in robot.figures.items()]

    def row(result: Evaluation) -> list[str]:
        return [
            result.env, result.gap, given, result.told, str(result.interval),
            str(int(result.falls.sum())), f"{result.seconds.sum():.0f}",
        ]  # fmt: skip

    def counts(result: Evaluation) -> list[str]:
        return [str(bootstrap(values)) for values in result.figures.values()]

    if arguments.reference is None:
        result = evaluate(policy, robot, **target)
        figures = {**result.to_dict(), "seed": arguments.seed}

        def tell() -> None:
            _print(_table(columns, [row(result)]))
            if counted:
                _print(_table(counted, [counts(result)]))

        _answer(arguments, figures, tell)
        return DONE
    three = between(policy, arguments.reference, arguments.oracle, robot, **target)

    def show() -> None:
        rows = {"policy": three.policy, "reference": three.reference, "oracle": three.oracle}
        _print(_table(["", *columns], [[name, *row(result)] for name, result in rows.items()]))
        if counted:
            told = [[name, *counts(result)] for name, result in rows.items()]
            _print(_table(["", *counted], told))
        closed = three.closed
        print("no gap" if closed is None else
              f"gap closed: {closed.mean:.2f} [{closed.low:.2f}, {closed.high:.2f}]")  # fmt: skip

    _answer(arguments, {**three.to_dict(), "seed": arguments.seed}, show)
    return DONE


def _trial(arguments: argparse.Namespace, policy: Any, robot: Any, target: dict[str, Any]) -> int:
    from sim2real.evaluate import bootstrap
    from sim2real.trial import trial

    if arguments.reference is not None:
        raise InputError("--trial follows one policy: leave out --reference and --oracle")
    robots = target.pop("episodes")
    result = trial(policy, robot, robots=robots, episodes=arguments.trial, **target)
    counted = [f"{name.replace('_', ' ')} [{unit}]" for name, unit in robot.figures.items()]
    rows = [
        [
            str(e + 1), str(told), str(gain), str(int(result.falls[:, e].sum())),
            f"{result.seconds[:, e].sum():.0f}",
            *(str(bootstrap(values[:, e])) for values in result.figures.values()),
        ]
        for e, (told, gain) in enumerate(zip(result.intervals, result.gains, strict=True))
    ]  # fmt: skip
    columns = ["episode", "return [95 %]", "above the first", "falls", "seconds", *counted]

    def tell() -> None:
        print(f"{robots} robots {result.env}, gap {result.gap}, told {result.told}")
        _print(_table(columns, rows))

    _answer(arguments, {**result.to_dict(), "seed": arguments.seed}, tell)
    return DONE


def _robustness(arguments: argparse.Namespace, policy: Any, robot: Any) -> int:
    from sim2real.evaluate import grid

    if arguments.xi:
        raise InputError("--xi and --grid both set the physics: give one of them")
    if arguments.reference is not None:
        raise InputError("--grid draws one policy's map: leave out --reference and --oracle")
    if arguments.trial is not None:
        raise InputError("--grid and --trial are two evaluations: give one of them")
    axes = arguments.grid.split(",")
    map_ = grid(
        policy, robot, axes, gap=arguments.gap, seed=arguments.seed, context=arguments.context
    )
    if arguments.picture:
        from sim2real.report import save_robustness

        save_robustness(map_, Path(arguments.picture), robot)
    mean = map_.mean.reshape(len(map_.values[0]), -1)  # one row a value of the first parameter
    across = [f"{v:.3g}" for v in map_.values[1]] if len(axes) > 1 else ["return"]
    rows = [
        [f"{value:.3g}", *(f"{r:.0f}" for r in row)]
        for value, row in zip(map_.values[0], mean, strict=True)
    ]
    heads = [" \\ ".join(map_.names), *across]
    _answer(arguments, map_.to_dict(), lambda: _print(_table(heads, rows)))
    return DONE


def compare(arguments: argparse.Namespace) -> int:
    from sim2real import progress, schema
    from sim2real.compare import ARMS, Ladder, cells_of, compare
    from sim2real.report import save_ladder

    fixed = {"env": arguments.env, "gap": arguments.gap, "budget": arguments.budget}
    ladder = schema.read(Ladder, schema.apply_overrides(fixed, arguments.overrides), "--set")
    arms = arguments.arms.split(",") if arguments.arms else list(ARMS)
    seeds = range(arguments.seeds)
    with progress.bar(f"compare {ladder.env}", len(cells_of(arms, seeds))) as report:
        table = compare(
            ladder, seeds=seeds, arms=arms, out=arguments.out,
            work=arguments.work, jobs=arguments.jobs, seconds=arguments.seconds, report=report,
        )  # fmt: skip
    picture = save_ladder(table)
    _answer(arguments, table.to_dict(), lambda: _print(_table(*table.cells())))
    if not arguments.json:
        for note in table.notes:
            print(note)
        print(f"The picture is {picture}")
    return NO if any(row.refused for row in table.rows) else DONE


def excite(arguments: argparse.Namespace) -> int:
    from sim2real import progress
    from sim2real.deploy.files import write_atomically
    from sim2real.evaluate import observation_names
    from sim2real.identification.proposal import propose, stages
    from sim2real.policy.actor import Actor
    from sim2real.policy.policy import Policy
    from sim2real.simulation.robot import Robot
    from sim2real.simulation.suspended import on_stand

    if arguments.policy and arguments.out:
        raise InputError("--out is for a motion; with --policy there is none to write")
    if arguments.policy and arguments.suspended:
        raise InputError(
            "--suspended is for a motion of its own: how much noise a policy bears on a stand says "
            "nothing of the ground"
        )
    robot = Robot.load(arguments.env)
    if arguments.suspended:
        robot = on_stand(robot)
    policy = Policy.load(arguments.policy) if arguments.policy else None
    act = None if policy is None else partial(Actor, policy)
    observe = [] if policy is None else observation_names(policy, robot)
    with progress.bar("excite", stages(act is not None)) as report:
        found = propose(
            robot, act, observe=observe, seconds=arguments.seconds, seed=arguments.seed,
            report=report,
        )  # fmt: skip
    out = None if act else str(arguments.out or "excitation.csv")
    if out is not None:
        write_atomically(Path(out), found.csv().encode())

    def show() -> None:
        rows = [
            [e.name, ", ".join(f"{100 * x:.0f} %" for x in e.left),
             "revealed" if e.revealed else "the data cannot tell"]
            for e in found.parameters
        ]  # fmt: skip
        _print(_table(["parameter", "spread left, of its range", ""], rows))
        safe = f"{found.unsafe} of {found.tried} were unsafe on {found.rehearsals} robots of its ξ"
        if out is None:
            print(f"noise of {found.share:g} on the policy's commands, with "
                  f"{found.falls_per_minute:.2g} falls per minute ({safe}):")  # fmt: skip
            print(f"sim2real run ARTIFACT --excitation {found.share:g} --log runs/logs ...")
        else:
            print(f"{out}: sines of up to {found.fastest_hz:g} Hz and {found.share:g} of half the "
                  f"commands' range around the pose at rest ({safe})")  # fmt: skip

    _answer(arguments, {**found.to_dict(), "motion": out}, show)
    return DONE


def identify(arguments: argparse.Namespace) -> int:
    if _recorded([*arguments.logs, *arguments.load]):
        return _identify_arm(arguments)
    if arguments.load:
        raise InputError("--load goes with CSV recordings of an arm")
    arguments.out = arguments.out or "posterior.json"
    from sim2real import progress
    from sim2real.identification.identify import identify, method_named
    from sim2real.identification.posterior import ALARM

    method = arguments.method or "fit"
    only = [name.strip() for name in arguments.only.split(",")] if arguments.only else []
    with progress.bar("identify", method_named(method).steps) as report:
        posterior = identify(
            arguments.logs, arguments.env, method=method, only=only,
            suspended=arguments.suspended, prior=arguments.prior, seed=arguments.seed,
            report=report,
        )  # fmt: skip
    posterior.save(arguments.out)
    figures = {
        "env": posterior.env, "parameters": posterior.summary(), "windows": posterior.windows,
        "log_likelihood": posterior.log_likelihood, "nominal": posterior.log_likelihood_nominal,
        "residual": posterior.residual, "noise": posterior.noise, "drift": posterior.drift,
        "misfit": posterior.misfit, "outside": posterior.outside,
        "calibration": posterior.calibration,
    }  # fmt: skip
    rows = [
        [r["name"], f"{r['mean']:.3g}", f"{r['std']:.2g}", r["unit"],
         "" if r["revealed"] else "the data cannot tell"]
        for r in posterior.summary()
    ]  # fmt: skip

    def show() -> None:
        _print(_table(["parameter", "mean", "std", "unit", ""], rows))
        noise = ", ".join(f"{name} {size:.2g}" for name, size in posterior.noise.items())
        print(f"noise of the sensors: {noise}")
        share = f"{100 * posterior.drift:.2g} %"
        print(f"what no ξ explains: {share} of how much velocities change in a control step")
        if math.isfinite(posterior.misfit):
            print(
                f"misfit: {posterior.misfit:.1f} deviations of robots that this posterior "
                f"imagines; above {ALARM:g}, no ξ within the ranges explains the logs"
            )
        if math.isfinite(posterior.calibration):
            print(f"calibration: p = {posterior.calibration:.2g} of uniform ranks")

    _answer(arguments, figures, show)
    return DONE


def _recorded(files: Sequence[str]) -> bool:
    """Whether these are recordings of an arm; InputError where only some are."""
    tables = [f for f in files if f.lower().endswith(".csv")]
    if tables and len(tables) < len(files):
        other = next(f for f in files if f not in tables)
        raise InputError(f"{tables[0]} is a CSV recording and {other} is not: give one kind")
    return bool(tables)


def _identify_arm(arguments: argparse.Namespace) -> int:
    for option in ("method", "only", "suspended", "prior"):
        if getattr(arguments, option):
            raise InputError(f"--{option} goes with logs of `sim2real run`")
    from sim2real.identification.arm import TERMS, fit_arm
    from sim2real.identification.recordings import read_recordings
    from sim2real.simulation.robot import Robot

    robot = Robot.load(arguments.env)
    plain = read_recordings(arguments.logs, robot)
    loaded = read_recordings(arguments.load, robot)
    arguments.out = arguments.out or "arm.json"
    arm = fit_arm(robot.model, robot.name, plain, loaded)
    arm.save(arguments.out)
    columns = ["joint", "gain", "Coulomb", "of load", "viscous", "offset", "rotor", "left"]
    rows = [
        [
            name.removesuffix("_joint"),
            *(f"{getattr(arm, part)[j]:.2f}" for part in ("gain", *TERMS, "noise")),
        ]
        for j, name in enumerate(arm.joints)
    ]

    def show() -> None:
        _print(_table(columns, rows))
        print("gain in N m/A; Coulomb and offset in N m; of load a share; viscous in N m s/rad;")
        print("rotor in kg m²; left: what the model leaves of the filtered current, in A")
        if arm.load_mass is not None:
            mass, low, high = arm.load_mass
            print(f"load: {mass:.2f} kg [{low:.2f}, {high:.2f}]")

    _answer(arguments, asdict(arm), show)
    return DONE


def gap(arguments: argparse.Namespace) -> int:
    if _recorded(arguments.logs):
        if arguments.suspended:
            raise InputError("--suspended goes with logs of `sim2real run`")
        return _arm_gap(arguments)
    if arguments.loaded:
        raise InputError("--loaded goes with CSV recordings of an arm")
    from sim2real import progress
    from sim2real.identification.trajectories import read_trajectories
    from sim2real.localization import attribution
    from sim2real.localization.findings import COLUMNS
    from sim2real.localization.localize import STAGES, explain_gap
    from sim2real.simulation.robot import Robot
    from sim2real.simulation.suspended import on_stand

    robot = Robot.load(arguments.env)
    if arguments.suspended:
        robot = on_stand(robot)
    episodes = read_trajectories(arguments.logs, robot)
    with progress.bar("gap", STAGES) as report:
        found = explain_gap(robot, episodes, seed=arguments.seed, report=report)
    shares = why = None
    if arguments.identified or found.kind in ("dynamics", "observation"):
        try:
            shares = _attribution(arguments, robot, episodes)
        except InputError as error:
            if arguments.identified:
                raise
            why = f"what the mismatch consists of cannot be said: {error}"
    if arguments.picture:
        from sim2real.report import save_localization

        save_localization(found, arguments.picture, shares)

    def show() -> None:
        print(found.sentence)
        for note in found.notes:
            print(note)
        rows = found.rows()
        if rows and found.kind in ("dynamics", "observation"):
            _print(_table(list(COLUMNS), rows))
        if shares is not None:
            print(shares.sentence)
            _print(_table(list(attribution.COLUMNS), shares.rows()))
        elif why is not None:
            print(why)

    said = None if shares is None else shares.to_dict()
    _answer(arguments, {**found.to_dict(), "attribution": said}, show)
    return DONE


def _attribution(
    arguments: argparse.Namespace, robot: Robot, episodes: Sequence[Trajectory]
) -> Attribution:
    from sim2real import progress
    from sim2real.identification.fit import ROUNDS
    from sim2real.identification.identify import explain
    from sim2real.identification.posterior import Posterior
    from sim2real.localization.attribution import attribute

    if arguments.identified:
        posterior = Posterior.load(arguments.identified)
    else:
        with progress.bar("identify", ROUNDS) as report:
            posterior = explain(robot, episodes, seed=arguments.seed, report=report)
    return attribute(robot, episodes, posterior, seed=arguments.seed)


def _arm_gap(arguments: argparse.Namespace) -> int:
    from sim2real.identification.arm import Arm, compare_arm
    from sim2real.identification.recordings import read_recordings
    from sim2real.simulation.robot import Robot

    if arguments.picture:
        raise InputError("--picture goes with logs of `sim2real run`")
    if arguments.loaded and arguments.identified is None:
        raise InputError("--loaded needs --identified: the nominal arm has no load")
    robot = Robot.load(arguments.env)
    arm = None if arguments.identified is None else Arm.read(arguments.identified)
    found = [
        compare_arm(robot.model, recording, arm, loaded=arguments.loaded, env=robot.name)
        for recording in read_recordings(arguments.logs, robot)
    ]
    by = ["nominal", "identified"] if arm is not None else ["nominal"]

    def show() -> None:
        for judged in found:
            print(f"{judged['recording']}: what is left of the motor current, predicted by")
            rows = [
                [row["joint"], f"{row['current']:.2f} A", *(f"{row[name]:.1%}" for name in by)]
                for row in judged["joints"]
            ]
            _print(_table(["joint", "RMS", *by], rows))

    _answer(arguments, {"recordings": found}, show)
    return DONE


def adapt(arguments: argparse.Namespace) -> int:
    from sim2real.adapt import adapt, folder_of
    from sim2real.report import write_adaptation
    from sim2real.simulation.robot import Robot

    policy = _policy(arguments)
    report = folder_of(policy, arguments.out) / "report.html"
    result = adapt(
        policy, arguments.target, episodes=arguments.episodes,
        seconds=arguments.seconds,
        seed=arguments.seed, engine=arguments.engine, excitation=arguments.excitation,
        out=arguments.out,
    )  # fmt: skip
    robot = Robot.load(policy.spec.env)
    write_adaptation(report, result, policy, robot, str(arguments.target))

    def show() -> None:
        posterior = result.posterior
        std = {} if posterior is None else {
            name: f"{s:.2g}" for name, s in zip(posterior.names, posterior.std, strict=True)
        }  # fmt: skip
        rows = [
            [name, f"{value:.3g}", std.get(name, "-")] for name, value in result.z.context.items()
        ]
        if rows:
            _print(_table(["context", "value", "std"], rows))
        if result.belief is not None:
            said = [
                [r["name"], f"{r['mean']:.3g}", f"{r['std']:.2g}"] for r in result.belief.summary()
            ]
            _print(_table(["believed", "mean", "std"], said))
        for stage, returns in result.stages.items():
            if stage in ("trial", "steps"):
                what = "of the trial" if stage == "trial" else "between gradient steps"
                each = ", ".join(f"{r:.4g}" for r in returns)
                print(f"return of each episode {what}: {each}")
        spent = result.spent
        print(
            f"{'accepted' if result.accepted else 'not accepted, rolled back'}: {result.reason} "
            f"({spent.episodes} episodes, {spent.seconds:.1f} s, {spent.falls} falls)"
        )
        if result.posterior is not None:
            unknown = [r["name"] for r in result.posterior.summary() if not r["revealed"]]
            if unknown:
                print(f"the data cannot tell {', '.join(unknown)}: drawn towards the nominal")
        print(f"The report with pictures is {report}")

    _answer(arguments, result.to_dict(), show)
    return DONE


def _policy(arguments: argparse.Namespace) -> Any:
    """The policy of a command, bound to the robot that --env names."""
    from dataclasses import replace

    from sim2real.policy.policy import Policy
    from sim2real.simulation.robot import Robot

    policy = Policy.load(arguments.policy)
    if arguments.env:
        policy.spec = replace(policy.spec, env=str(Robot.load(arguments.env).folder))
    return policy


def export(arguments: argparse.Namespace) -> int:
    from sim2real.export import export

    out = Path(arguments.out or Path(arguments.policy) / "artifact")
    artifact = export(_policy(arguments), out)
    evidence = artifact.contract.evidence
    figures = {"artifact": str(out), "parity": evidence.parity, "ticks": evidence.ticks}
    said = f"{out}: verified, torch and onnxruntime agree to {evidence.parity:.1e}"
    _answer(arguments, figures, lambda: print(said))
    return DONE


def verify(arguments: argparse.Namespace) -> int:
    from sim2real.deploy.verify import verify

    result = verify(arguments.artifact)

    def show() -> None:
        for check in result.checks:
            print(f"{'ok ' if check.ok else 'NO '} {check.name}: {check.sentence}")

    _answer(arguments, result.to_dict(), show)
    return DONE if result.ok else NO


def lint(arguments: argparse.Namespace) -> int:
    from contextlib import closing

    from sim2real.deploy.lint import Known, lint
    from sim2real.deploy.robots import connect

    robot, known = None, list[Known]()
    if arguments.posterior:
        import numpy as np

        from sim2real.identification.posterior import Posterior

        posterior = Posterior.load(arguments.posterior)
        order = np.argsort(posterior.samples, axis=0)
        for k, name in enumerate(posterior.names):
            x, w = posterior.samples[order[:, k], k], posterior.weights[order[:, k]].cumsum()
            low, high = (float(x[np.searchsorted(w, q).clip(0, len(x) - 1)]) for q in (0.05, 0.95))
            known.append(Known(name, low, high))
    if arguments.robot:
        with closing(connect(arguments.robot)) as connection:
            robot = connection.describe()
    result = lint(arguments.artifact, robot=robot, known=known, logs=arguments.logs)

    def show() -> None:
        for finding in result.findings:
            print(f"{finding.level:5}  {finding.sentence}")
        faults = sum(f.level == "fault" for f in result.findings)
        risks = len(result.findings) - faults
        print(
            f"{result.artifact}: {faults} fault{'s' * (faults != 1)}, "
            f"{risks} risk{'s' * (risks != 1)}"
        )

    _answer(arguments, result.to_dict(), show)
    return DONE if result.ok else NO


def replay(arguments: argparse.Namespace) -> int:
    from sim2real.deploy.replay import replay

    result = replay(arguments.artifact, arguments.logs)
    _answer(arguments, result.to_dict(), lambda: print(result.sentence))
    return DONE if result.ok else NO


def serve(arguments: argparse.Namespace) -> int:
    from sim2real.serve import serve

    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    mode = "real time" if arguments.realtime else "lockstep"

    def ready(host: str, port: int) -> None:
        print(f"{arguments.env} in {mode}, listening on {host}:{port}", flush=True)

    serve(
        arguments.env, gap=arguments.gap, port=arguments.port, realtime=arguments.realtime,
        seed=arguments.seed, ready=ready, stop=lambda: bool(stopping),
    )  # fmt: skip
    return DONE


def run(arguments: argparse.Namespace) -> int:
    from sim2real.deploy.controller import run
    from sim2real.deploy.robots import connect
    from sim2real.deploy.verify import verify

    verification = verify(arguments.artifact)
    if not verification.ok:
        said = f"{arguments.artifact} is not run: {verification.sentence}"
        print(f"sim2real: {said}", file=sys.stderr)
        return NO
    robot = connect(arguments.robot)
    try:
        result = run(
            arguments.artifact, robot, episodes=arguments.episodes, seconds=arguments.seconds,
            z=arguments.z, excitation=arguments.excitation, seed=arguments.seed, log=arguments.log,
        )  # fmt: skip
    finally:
        robot.close()
    from dataclasses import asdict

    figures = {
        "episodes": [
            {"return": e.return_, "seconds": e.seconds, "fell": e.terminated, "stopped": e.stopped}
            for e in result.episodes
        ],
        "latency": asdict(result.latency), "stopped": result.stopped, "log": arguments.log,
    }  # fmt: skip

    def show() -> None:
        rows = [
            [str(i), "" if e.return_ is None else f"{e.return_:.0f}", f"{e.seconds:.2f}",
             "fell" if e.terminated else e.stopped or ""]
            for i, e in enumerate(result.episodes)
        ]  # fmt: skip
        _print(_table(["episode", "return", "seconds", ""], rows))
        _print(_table(*latency_table(result.latency)))

    _answer(arguments, figures, show)
    if result.stopped:
        print(f"sim2real: stopped for safety: {result.stopped}", file=sys.stderr)
        return STOPPED
    return DONE


def latency_table(latency: Any) -> tuple[list[str], list[list[str]]]:
    rows = [
        [name, f"{p.p50:.0f}", f"{p.p99:.0f}", f"{p.p999:.0f}"]
        for name in ("inference", "reaction", "lateness")
        if (p := getattr(latency, name)) is not None
    ]
    rows.append([f"missed deadlines: {latency.missed} of {latency.ticks}", "", "", ""])
    return ["latency [µs]", "p50", "p99", "p99.9"], rows


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    table = Table()
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table
