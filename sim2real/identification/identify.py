"""ξ from logs: which method, which parameters, and whether any ξ explains them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sim2real import progress
from sim2real.identification import fit, grid, neural
from sim2real.identification.posterior import Posterior, at_the_edge
from sim2real.identification.predictive import Predictive, check
from sim2real.identification.trajectories import read_trajectories
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.simulation.suspended import on_stand
from sim2real.types import InputError, nearest

log = logging.getLogger(__name__)


class Method(NamedTuple):
    """How ξ is found."""

    explain: Callable[..., Posterior]
    """(robot, episodes, *, seed, report) -> Posterior; `fit` takes a `prior`, too."""
    steps: int
    """That it reports."""


METHODS = {
    "fit": Method(fit.fit, fit.ROUNDS),
    "grid": Method(grid.grid, grid.ROUNDS),
    "neural": Method(neural.neural, neural.STEPS),
}


AGAIN = 1_000_003
"""Added to the seed of a search for the next: far from what a person would try."""


def method_named(name: str) -> Method:
    """Raises InputError where there is none of that name."""
    if name not in METHODS:
        raise InputError(f"method '{name}'{nearest(name, METHODS)}; it is {' or '.join(METHODS)}")
    return METHODS[name]


def identify(
    logs: str | Path | Iterable[str | Path], env: str | Path, *, method: str = "fit",
    only: Sequence[str] = (), suspended: bool = False, prior: str | Path | Posterior | None = None,
    seed: int = 0, report: progress.Report = progress.silent,
) -> Posterior:  # fmt: skip
    """ξ of the robot `env` from NPZ logs: files, folders of them, or several.

    Args:
        method: `fit`; `grid` for one or two parameters; or `neural`, with the extra `sbi`.
        only: names of the parameters that may differ from the nominal; all where empty.
        suspended: a robot with a floating base logged on a stand, clear of the ground.
        prior: what other logs of the robot revealed, a posterior or its file; for `fit`.

    Raises:
        InputError: no logs, logs of another robot, logs that determine nothing of its state, or in
            which nothing is finite, no such method or parameter, a prior of another robot or with
            a method that takes none, a stand for a base that does not float.

    A search may end in a wrong valley, where the logs seem to be of no robot within the ranges. A
    `fit` whose logs are not explained is searched once more from other candidates, and the one that
    explains them is taken, or the likelier.

    Warns, in the log of the program, of a parameter whose posterior crowds at an edge of its range,
    and where no ξ explains the logs.
    """
    robot = restricted(Robot.load(env), only)
    if suspended:
        robot = on_stand(robot)
    settings: dict[str, Any] = {}
    if prior is not None:
        if method_named(method) is not METHODS["fit"]:
            raise InputError(f"method '{method}' takes no prior; 'fit' does")
        settings["prior"] = prior if isinstance(prior, Posterior) else Posterior.load(prior)
    episodes = read_trajectories(logs, robot)
    found = _checked(robot, episodes, method, seed, report, settings)
    if found.posterior.outside and method == "fit":

        def again(done: int, figures: dict[str, float]) -> None:
            report(done, {"search": 2, **figures})

        other = _checked(robot, episodes, method, seed + AGAIN, again, settings)
        found = max(found, other, key=_explains)
    posterior, said = found
    if posterior.outside:
        log.warning(
            "%s: no ξ within the ranges explains these logs: what surprises in them lasts, %.2g "
            "where robots of the posterior show %.2g; take its intervals for too narrow, and see "
            "`sim2real gap%s` for which joint or sensor differs",
            robot.name, said.correlation, said.imagined.mean(),
            " --suspended" if suspended else "",
        )  # fmt: skip
    for sentence in at_the_edge(posterior, robot.space):
        log.warning("%s: %s", robot.name, sentence)
    return posterior


class _Checked(NamedTuple):
    posterior: Posterior
    said: Predictive


def _checked(
    robot: Robot, episodes: Sequence[Trajectory], method: str, seed: int, report: progress.Report,
    settings: dict[str, Any],
) -> _Checked:  # fmt: skip
    """A posterior, and what robots that it imagines say of it."""
    posterior = method_named(method).explain(robot, episodes, seed=seed, report=report, **settings)
    said = check(robot, episodes, posterior, seed=seed)
    return _Checked(replace(posterior, misfit=said.misfit), said)


def _explains(found: _Checked) -> tuple[bool, float]:
    """Whether the logs are explained, and how likely what was held out is; nothing is less likely
    than what could not be told."""
    held_out = float(np.nan_to_num(found.posterior.log_likelihood, nan=-np.inf))
    return not found.posterior.outside, held_out


def explain(
    robot: Robot, episodes: Sequence[Trajectory], *, method: str = "fit", seed: int = 0,
    report: progress.Report = progress.silent, **settings: Any,
) -> Posterior:  # fmt: skip
    """ξ that explains episodes of one robot, by a method of `METHODS`, with its errors. Whether it
    does is not checked, and a search that ended in a wrong valley not done again: see `identify`.

    Args:
        settings: more arguments of the method, such as `candidates`.

    Warns, in the log of the program, of a parameter whose posterior crowds at an edge of its range.
    """
    posterior = method_named(method).explain(robot, episodes, seed=seed, report=report, **settings)
    for sentence in at_the_edge(posterior, robot.space):
        log.warning("%s: %s", robot.name, sentence)
    return posterior


def restricted(robot: Robot, only: Sequence[str]) -> Robot:
    """The robot, its other parameters nominal. Raises InputError for an unknown name."""
    names = [p.name for p in robot.config.parameters]
    for name in only:
        if name not in names:
            raise InputError(
                f"{robot.name}: no parameter '{name}'{nearest(name, names)}; it has "
                f"{', '.join(names) or 'none'}"
            )
    if not only:
        return robot
    nominal = dict(zip(robot.space.names, robot.space.nominal, strict=True))
    own = [
        p if p.name in only else replace(p, low=float(nominal[p.name]), high=float(nominal[p.name]))
        for p in robot.config.parameters
    ]
    return replace(robot, config=replace(robot.config, parameters=own))
