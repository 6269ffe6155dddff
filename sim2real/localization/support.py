"""Whether logs can be compared with the simulator at all, and which of their transitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim2real.identification.windows import Trajectory, check_numbers
from sim2real.localization.replay import FLOOR, Replay, compared, one_step
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array, InputError

LEAST = 200
"""Transitions below which nothing is said."""
OUTSIDE = 0.05
"""Share of transitions outside what the simulator can do above which the answer is `unknown`."""


def checked(robot: Robot, episodes: Sequence[Trajectory]) -> MjcfRobot:
    """The robot, if logs can be repeated in it and these are logs of it.

    Raises:
        InputError: an opaque robot, no episodes, episodes of another shape or that differ in their
            terms, a value that is not finite, or terms that determine nothing of the state.
    """
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
        check_numbers(f"episode {e} of the logs", *episode)
    if not compared(robot, first) or robot.state_from(first.obs) is None:
        raise InputError(
            f"{robot.name}: the logged terms ({', '.join(first.obs)}) determine nothing of its "
            "state; log joint positions and velocities"
        )
    return robot


def support(robot: MjcfRobot, episodes: Sequence[Trajectory]) -> tuple[list[str], str]:
    """Notes, and why the logs cannot be compared with what the simulator does, or an empty string:
    too few transitions, commands that never change, commands or joints beyond their ranges."""
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


def saturated(replay: Replay) -> Array:
    """(E, T) bool: at either end of the transition a velocity is at an extreme that it takes again
    and again, where a sensor or a clip stops and the state is not what the log says."""
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


def lost_starts(replay: Replay, told: Array, there: Array) -> Array:
    """(E,) bool: the log begins where no episode of the simulator does; none, where that leaves
    open nothing that makes the twins of such a log differ.

    Args:
        told: (M, E, T, D) by the twins.
        there: (E, T) bool: the transitions that are compared.
    """
    late = _later_starts(replay)
    if late.any() and _spread(told, replay, there)[late].max(initial=0.0) > FLOOR:
        return late
    return np.zeros_like(late)


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
    scale = one_step(replay.obs, told, there)
    relative = np.where(scale > 0, told.std(axis=0) / np.where(scale > 0, scale, 1.0), 0.0)
    square = np.where(there, np.square(relative).mean(axis=2), np.nan)
    return np.array([float(np.sqrt(np.nanmedian(x))) if m.any() else 0.0
                     for x, m in zip(square, there, strict=True)])  # fmt: skip
