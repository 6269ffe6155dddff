"""Another nominal model: what a gap changes in the model itself, before ξ acts on it.

A `Shape` is written into the MjSpec and compiled, so that the compiler gives bodies the mass and
the inertia of their new geometry. An `Edit` is written into the compiled model, in the words of a
`Parameter` and by the same code: what follows from a change follows here, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mujoco
import numpy as np

from sim2real.dynamics.parameter import SIZES, Parameter, ParameterSpace, select
from sim2real.types import InputError, nearest

_NAME = "edit"
_STRETCHED = frozenset(
    int(kind)
    for kind in (
        mujoco.mjtGeom.mjGEOM_CAPSULE,
        mujoco.mjtGeom.mjGEOM_CYLINDER,
        mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        mujoco.mjtGeom.mjGEOM_BOX,
    )
)
"""Geoms that may be given by the two ends of their axis, the last of their sizes."""


@dataclass(frozen=True)
class Edit:
    """One number in a field of the compiled model. See `Parameter` for the vocabulary."""

    field: str
    """A float field of MjModel (`geom_friction`, `jnt_range`, ...) or of its options (`gravity`,
    ...)."""
    value: float
    """The factor, the summand or the value itself, as `op` says; rad for angles."""
    select: str = "*"
    """Element by name or glob; an element without a name is `#` and its id."""
    axis: int | None = None
    """Column of a field that has several; None is all of them."""
    op: Literal["scale", "add", "set"] = "scale"
    unit: str = "1"
    """Of `value`."""

    def __post_init__(self) -> None:
        if not np.isfinite(self.value):
            raise InputError(f"value {self.value} must be finite")
        try:
            self.parameter()
        except InputError as error:
            raise InputError(_problem(error)) from None

    def parameter(self) -> Parameter:
        """The parameter whose only value this is."""
        return Parameter(
            _NAME, self.field, select=self.select, axis=self.axis, op=self.op, low=self.value,
            high=self.value, unit=self.unit,
        )  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Where one geom, body or joint is in its parent's frame, and how large a geom is [m].

    Mass and inertia follow from the geometry as the model's compiler says: by density, and where
    the model states a total mass (`settotalmass`), all bodies are scaled to it. A mass that the
    model states for a geom or a body stays.
    """

    geom: str = ""
    body: str = ""
    joint: str = ""
    fromto: tuple[float, float, float, float, float, float] | None = None
    """Both ends of a capsule, cylinder, ellipsoid or box."""
    size: tuple[float, ...] | None = None
    """MuJoCo's sizes of the geom's type: radius, or radius and half the length, or half the sides.
    The last one follows from `fromto` where the geom has one."""
    pos: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        named = [kind for kind in ("geom", "body", "joint") if getattr(self, kind)]
        if len(named) != 1:
            raise InputError(
                "give the name of one geom, one body or one joint, not "
                + (" and ".join(named) or "none")
            )
        if named != ["geom"] and (self.fromto or self.size):
            raise InputError(f"a {named[0]} has a pos, and neither fromto nor size")
        if self.fromto is None and self.size is None and self.pos is None:
            raise InputError("give fromto, size or pos")
        if self.fromto is not None and self.pos is not None:
            raise InputError("fromto says where the geom is; leave out pos")
        if self.fromto is not None and self.fromto[:3] == self.fromto[3:]:
            raise InputError("the two ends of fromto are the same point")
        if self.size is not None and any(size <= 0 for size in self.size):
            raise InputError(f"size {list(self.size)} must be positive")
        for part in (self.fromto, self.size, self.pos):
            if part is not None and not np.isfinite(part).all():
                raise InputError(f"{list(part)} must be finite")


def reshape(spec: mujoco.MjSpec, shapes: Sequence[Shape]) -> None:
    """Write shapes into a model that is yet to be compiled, in their order.

    Raises:
        InputError: the model has no such geom, body or joint, or the geom's type has no such sizes.
    """
    for i, shape in enumerate(shapes):
        try:
            _reshape(spec, shape)
        except InputError as error:
            raise InputError(f"shape[{i}]: {error}") from None


def apply(model: mujoco.MjModel, edits: Sequence[Edit]) -> None:
    """Write edits into a compiled model, one after the other, derived constants included.

    Raises:
        InputError: what a `Parameter` would be refused for; the range of a joint without limits, or
            one that is empty afterwards.
    """
    for i, edit in enumerate(edits):
        try:
            _check_limits(model, edit)
            ParameterSpace([edit.parameter()], model).write(model, [edit.value])
        except InputError as error:
            raise InputError(f"edits[{i}]: {_problem(error)}") from None
    low, high = model.jnt_range.T
    for j in np.flatnonzero(model.jnt_limited.astype(bool) & (low >= high)):
        raise InputError(
            f"edits: the range of joint '{model.joint(j).name}' is empty, from {low[j]:g} to "
            f"{high[j]:g} rad"
        )


def _check_limits(model: mujoco.MjModel, edit: Edit) -> None:
    """A range that MuJoCo does not look at would be a gap in name only."""
    if edit.field != "jnt_range":
        return
    ids, names = select(edit.parameter(), model)
    free = [name for j, name in zip(ids, names, strict=True) if not model.jnt_limited[j]]
    if free:
        raise InputError(f"joint '{free[0]}' has no limits in the model; select others")


def _reshape(spec: mujoco.MjSpec, shape: Shape) -> None:
    if shape.geom:
        _reshape_geom(_find("geom", shape.geom, spec.geoms), shape)
        return
    element = (
        _find("body", shape.body, [b for b in spec.bodies if b.name != "world"])
        if shape.body
        else _find("joint", shape.joint, spec.joints)
    )
    element.pos = shape.pos


def _reshape_geom(geom: Any, shape: Shape) -> None:
    kind = int(geom.type)
    noun = mujoco.mjtGeom(kind).name.removeprefix("mjGEOM_").lower()
    if shape.fromto is not None:
        if kind not in _STRETCHED:
            raise InputError(f"geom '{shape.geom}' is a {noun}, which has no two ends; give pos")
        geom.fromto = shape.fromto
        geom.pos = np.zeros(3)  # MuJoCo refuses a geom that says where it is in two ways
        geom.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
    elif shape.pos is not None:
        if np.isfinite(geom.fromto).all():
            raise InputError(f"geom '{shape.geom}' lies between two ends; give fromto, not pos")
        geom.pos = shape.pos
    if shape.size is None:
        return
    if kind not in SIZES:
        raise InputError(
            f"geom '{shape.geom}' is a {noun}; sphere, capsule, cylinder, ellipsoid and box can be "
            "resized"
        )
    between = bool(np.isfinite(geom.fromto).all())
    count = SIZES[kind] - between
    if len(shape.size) != count:
        why = ", for its length follows from fromto" if between else ""
        raise InputError(
            f"geom '{shape.geom}' is a {noun} and takes {count} sizes, not {len(shape.size)}{why}"
        )
    size = np.array(geom.size)
    size[:count] = shape.size
    geom.size = size


def _find(noun: str, name: str, elements: Sequence[Any]) -> Any:
    for element in elements:
        if element.name == name:
            return element
    known = [element.name for element in elements if element.name]
    raise InputError(
        f"no {noun} '{name}'{nearest(name, known)}; there are {', '.join(known) or 'none'}"
    )


def _problem(error: InputError) -> str:
    """What a parameter is refused for, without the name that only this file gave it."""
    return str(error).removeprefix(f"parameter '{_NAME}': ")
