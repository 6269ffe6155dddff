"""Gaps in the dynamics: which joint a force must act on to make the difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sim2real.localization.findings import JointGap, Localization
from sim2real.localization.replay import Plan, Replay
from sim2real.types import Array

ONE_JOINT = 0.4
"""Share of the difference that a joint must explain to be called the reason. White noise leaves
to the best joint of a hopper or a cheetah 0.1 to 0.25."""
BASE_MARGIN = 0.15
"""By how much more a force on the floating base must explain to be ranked before a joint: with a
foot on the ground, torque at the hip and a moment on the torso are nearly the same thing."""


def rank_joints(replay: Replay, there: Array, scale: Array, seed: int) -> tuple[JointGap, ...]:
    """The joints, the one that explains most first, those of a floating base behind their margin.

    Args:
        there: (E, T) bool: the transitions that are compared.
        scale: (D,) of one step, from `one_step`.
    """
    model = replay.model
    nv = model.nv
    low, high = (np.asarray(x, float) for x in replay.robot.command_range)
    largest = np.abs(model.actuator_gear[:, 0]) * np.maximum(np.abs(low), np.abs(high))
    plan = Plan.of(nv, 1 + nv)
    plan.force[1:] = 1e-3 * float(largest.max()) * np.eye(nv)
    plan.follow[1:] = 0
    told = replay(plan, seed)
    moving = scale > 0
    error = (replay.obs[:, 1:] - told[0])[..., moving] / scale[moving]  # (E, T, C)
    reach = (told[1:] - told[0])[..., moving] / scale[moving]  # (nv, E, T, C)
    share = explained_alone(error[there], reach[:, there])
    names = [_dof(model, d) for d in range(nv)]
    order = np.argsort(-(share - BASE_MARGIN * _of_the_base(model)), kind="stable")
    return tuple(JointGap(names[d], float(share[d])) for d in order)


def as_dynamics(answer: Localization, ranked: tuple[JointGap, ...]) -> Localization:
    """The answer where the dynamics differ, from its terms and from joints by their rank."""
    top, term = ranked[0], answer.terms[0]
    said = (
        f"some force on {top.name} alone would make {100 * top.share:.0f} % of the difference"
        if top.share >= ONE_JOINT
        else f"no joint explains it alone ({top.name}, the first, {100 * top.share:.0f} %)"
    )
    said = (
        f"the dynamics differ (p = {answer.p:.2g}): {said}; it is largest in {term.name}, "
        f"{term.in_words()}"
    )
    return replace(answer, kind="dynamics", sentence=said, joints=ranked)


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
