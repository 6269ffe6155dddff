"""ξ -> fields of MjModel. A world is a function of (nominal, ξ): nothing is read back and changed.

Field names are MuJoCo's. What follows from a change follows by itself: inertia scales with mass,
the bounds of a geom with its size, and derived constants through mj_setConst. What cannot follow in
a compiled model (the size of a mesh, the centre of mass of a body compiled as simple) is refused;
compile an edited MjSpec into another nominal for it. Mass does not follow from geom_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from itertools import groupby, product
from typing import Any, Literal, NamedTuple

import mujoco
import numpy as np
from numpy.typing import ArrayLike

from sim2real.dynamics.distribution import LogUniform, Product, Uniform
from sim2real.dynamics.inertia import realizable
from sim2real.types import Array, InputError, nearest

OPTIONS = ("density", "gravity", "impratio", "magnetic", "viscosity", "wind")
"""Fields of MjModel.opt; all other fields are MjModel's own."""

ELEMENTS: dict[str, Any] = {
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "cam": mujoco.mjtObj.mjOBJ_CAMERA,
    "dof": mujoco.mjtObj.mjOBJ_JOINT,
    "eq": mujoco.mjtObj.mjOBJ_EQUALITY,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "jnt": mujoco.mjtObj.mjOBJ_JOINT,
    "light": mujoco.mjtObj.mjOBJ_LIGHT,
    "mat": mujoco.mjtObj.mjOBJ_MATERIAL,
    "pair": mujoco.mjtObj.mjOBJ_PAIR,
    "qpos0": mujoco.mjtObj.mjOBJ_JOINT,
    "qpos": mujoco.mjtObj.mjOBJ_JOINT,
    "sensor": mujoco.mjtObj.mjOBJ_SENSOR,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "tendon": mujoco.mjtObj.mjOBJ_TENDON,
}
"""What a field's rows are, by the field's first word."""

DERIVED = (
    "actuator_acc0",
    "actuator_length0",
    "body_invweight0",
    "body_subtreemass",
    "cam_mat0",
    "cam_pos0",
    "cam_poscom0",
    "dof_M0",
    "dof_invweight0",
    "dof_length",
    "eq_data",
    "light_dir0",
    "light_pos0",
    "light_poscom0",
    "tendon_invweight0",
    "tendon_length0",
)
"""What mj_setConst computes (besides MjModel.stat, flags and frames): written by nobody else."""

STAT = ("center", "extent", "meaninertia", "meanmass", "meansize")
"""Of MjModel.stat; mj_setConst computes these too."""

BOUNDS = ("body_margin", "geom_aabb", "geom_rbound")

RUNTIME = frozenset(
    [
        *OPTIONS,
        *("actuator_ctrlrange", "actuator_delay", "actuator_dynprm", "actuator_forcerange"),
        *("actuator_gainprm", "dof_damping", "dof_frictionloss", "dof_solimp", "dof_solref"),
        *("eq_solimp", "eq_solref", "geom_friction", "geom_gap", "geom_margin", "geom_solimp"),
        *("geom_solmix", "geom_solref", "jnt_actfrcrange", "jnt_margin", "jnt_range"),
        *("jnt_solimp", "jnt_solref", "jnt_stiffness", "pair_friction", "pair_gap"),
        *("pair_margin", "pair_solimp", "pair_solref", "qpos_spring", "sensor_cutoff"),
        *("sensor_delay", "sensor_noise", "tendon_damping", "tendon_frictionloss"),
        *("tendon_range", "tendon_stiffness"),
    ]
)
"""Fields that no derived constant depends on (a test perturbs each): no mj_setConst after them."""

POSITIVE = frozenset(["body_inertia", "body_mass", "geom_size"])
NON_NEGATIVE = frozenset(
    [
        *("density", "dof_armature", "dof_damping", "dof_frictionloss", "geom_friction"),
        *("geom_margin", "impratio", "jnt_stiffness", "tendon_damping", "tendon_stiffness"),
        "viscosity",
    ]
)

HISTORY = {"actuator_delay": "actuator_history", "sensor_delay": "sensor_history"}

# The trees of the mid-phase collision filter are shared by all worlds (bvh_aabb is not expandable)
# and mj_setConst leaves them alone: worlds that move or resize geoms do without the filter. It
# changes the cost of bodies with many geoms, not their contacts.
MOVES_GEOMS = frozenset(
    [
        *("body_ipos", "body_iquat"),  # the frame that the trees are drawn in
        *("geom_gap", "geom_margin", "geom_pos", "geom_quat", "geom_size"),
    ]
)

SIZES = {
    int(mujoco.mjtGeom.mjGEOM_SPHERE): 1,
    int(mujoco.mjtGeom.mjGEOM_CAPSULE): 2,
    int(mujoco.mjtGeom.mjGEOM_ELLIPSOID): 3,
    int(mujoco.mjtGeom.mjGEOM_CYLINDER): 2,
    int(mujoco.mjtGeom.mjGEOM_BOX): 3,
}
"""How many of geom_size's three columns a primitive uses."""


@dataclass(frozen=True)
class Parameter:
    """One physical quantity, one entry of ξ: a MuJoCo field, where, how, in what range, and why."""

    name: str
    field: str
    """A float field of MjModel (`body_mass`, `geom_friction`, `actuator_delay`, ...) or of its
    options (`gravity`, `wind`, ...)."""
    _: KW_ONLY
    select: str = "*"
    """Element by name or glob; one value of ξ serves all that match. Fields of dof and qpos go by
    the joint's name; an element without a name is `#` and its id; the world body is never meant."""
    axis: int | None = None
    """Column of a field that has several (friction, gear, gravity); None is all of them. Of a quat
    field the axis x, y, z of the element's own frame, about which ξ [rad] turns it."""
    op: Literal["scale", "add", "set"] = "scale"
    low: float
    high: float
    unit: str = "1"
    """Of ξ. A delay is in ms, op `set`."""
    reason: str = ""
    distribution: Literal["uniform", "loguniform"] = "uniform"

    def __post_init__(self) -> None:
        if self.op not in ("scale", "add", "set"):
            raise self.refuse(f"op is scale, add or set, not '{self.op}'")
        if self.distribution not in ("uniform", "loguniform"):
            raise self.refuse(f"distribution is uniform or loguniform, not '{self.distribution}'")
        if not (np.isfinite(self.low) and np.isfinite(self.high)):
            raise self.refuse(f"low {self.low} and high {self.high} must be finite")
        if self.low > self.high:
            raise self.refuse(f"low {self.low:g} is above high {self.high:g}")
        if self.distribution == "loguniform" and self.low <= 0:
            raise self.refuse(f"loguniform needs low above 0, not {self.low:g}")
        if self.field in HISTORY and (self.op, self.unit) != ("set", "ms"):
            raise self.refuse(f"{self.field} takes op set and unit ms")
        if self.field in HISTORY and self.low < 0:
            raise self.refuse(f"a delay cannot be negative, as low {self.low:g} is")
        turns = self.field.endswith("quat")
        if turns and (self.op != "add" or self.axis not in (0, 1, 2)):
            raise self.refuse(f"{self.field} takes op add and axis 0, 1 or 2, an angle in rad")

    def refuse(self, problem: str) -> InputError:
        return InputError(f"parameter '{self.name}': {problem}")


class Target(NamedTuple):
    """Where one parameter writes."""

    entries: Array
    """(n,) int; into the flat field."""
    rows: Array
    """(r,) int; the elements' rows in the field."""
    elements: tuple[str, ...]
    """The elements' names."""
    samples: int = 0
    """Of a delay: the length of the shortest buffer [physics steps]."""


def inertia_entries(target: Target) -> Array:
    """(3 r,) int; into the flat body_inertia, of the bodies whose mass the target is."""
    return (3 * target.rows[:, None] + np.arange(3)).reshape(-1)


class Factors(NamedTuple):
    """The parameters that only multiply entries which no other parameter touches: most of them, and
    all at once is several times faster than one by one."""

    parameters: frozenset[int]
    owner: Array
    """(n,) int; the parameter k of each entry."""
    entries: Array
    """(n,) int; into `nominal`."""
    nominal: Array
    """(m,) the nominal values of all their fields, one after another."""
    fields: dict[str, slice]
    """Where each field lies in `nominal`."""


class ParameterSpace:
    """K parameters resolved in one model, whose nominal values are kept here as copies.

    Parameters that share an entry act one after the other, in their order; `set` shares with none.
    `names`, `units` (K,) of str; `low`, `high`, `nominal` (K,) float64, read-only; `fields` are the
    model fields that `values` gives, `needs_const` says whether mj_setConst must follow.

    Raises InputError for a field or element that the model does not have, and for a range that
    makes no physical sense (a mass of zero, an inertia that no body has, a delay too long for the
    model's buffer).
    """

    def __init__(self, parameters: Sequence[Parameter], model: mujoco.MjModel) -> None:
        self.parameters = tuple(parameters)
        self.K = len(self.parameters)
        self.names = tuple(p.name for p in self.parameters)
        self.units = tuple(p.unit for p in self.parameters)
        for p in self.parameters:
            if self.names.count(p.name) > 1:
                raise p.refuse("another parameter has the same name")
        self._timestep = float(model.opt.timestep)
        self._targets = tuple(resolve(p, model) for p in self.parameters)
        self._geom_type = model.geom_type.copy()
        self._no_midphase = int(mujoco.mjtDisableBit.mjDSBL_MIDPHASE)

        written = {p.field for p in self.parameters}
        self.needs_const: bool = not written <= RUNTIME
        trees = int(model.body_bvhnum.max()) > 1
        fields = list(dict.fromkeys(p.field for p in self.parameters))
        if "body_mass" in written and "body_inertia" not in written:
            fields.append("body_inertia")
        if "geom_size" in written:
            fields += ["geom_rbound", "geom_aabb"]
        if trees and written & MOVES_GEOMS:
            fields.append("disableflags")
        self.fields: tuple[str, ...] = tuple(fields)
        self._nominal = {f: np.array(read(model, f)) for f in self.fields}
        self._derived = (
            {f: np.array(getattr(model, f)) for f in DERIVED} if self.needs_const else {}
        )
        self._stat = {f: np.array(getattr(model.stat, f)) for f in STAT}
        self._factors = self._find_factors()

        for p, t in zip(self.parameters, self._targets, strict=True):
            self._check_meaning(p, t)
        self.low = frozen([p.low for p in self.parameters])
        self.high = frozen([p.high for p in self.parameters])
        self.nominal = frozen(
            [
                nominal(p, self._nominal[p.field].reshape(-1)[t.entries])
                for p, t in zip(self.parameters, self._targets, strict=True)
            ]
        )
        self.check_box(self.low, self.high)

    def prior(self) -> Product:
        """Each parameter on its own range: uniform, or uniform in the logarithm."""
        kinds = {"uniform": Uniform, "loguniform": LogUniform}
        parts: list[Uniform | LogUniform] = []
        for kind, run in groupby(self.parameters, key=lambda p: p.distribution):
            ends = [(p.low, p.high) for p in run]
            parts.append(kinds[kind]([low for low, _ in ends], [high for _, high in ends]))
        return Product(parts)

    def check(self, xi: ArrayLike) -> Array:
        """ξ as float64, (K,) or (B, K). Raises InputError for another shape, NaN or infinity.

        Values beyond [low, high] pass: a real robot may be there.
        """
        try:
            x = np.asarray(xi, np.float64)
        except (TypeError, ValueError):
            raise InputError(f"ξ must be {self.K} numbers: {', '.join(self.names)}") from None
        if x.ndim not in (1, 2) or x.shape[-1] != self.K:
            raise InputError(
                f"ξ has shape {x.shape}, but its last axis must be the {self.K} parameters "
                f"{', '.join(self.names)}"
            )
        if not np.isfinite(x).all():
            k = int(np.argwhere(~np.isfinite(np.atleast_2d(x)))[0, 1])
            raise InputError(f"parameter '{self.names[k]}': ξ must be a finite number")
        return x

    def check_box(self, low: Array, high: Array) -> None:
        """Raises InputError where physics cannot be as some ξ between low and high, each (K,).

        Tried are all low, all high, each end alone, and the ends of up to twelve inertias jointly,
        since it takes all three moments to say whether a body can have them.
        """
        self.values(self._corners(low, high))

    def values(self, xi: ArrayLike) -> dict[str, Array]:
        """Whole fields for B worlds, each (B, *field shape), from ξ (B, K) and the nominal alone.

        Entries whose parameters are nominal keep the model's bits. Derived constants are not among
        them: where `needs_const`, mj_setConst (or Batch.set_const) follows.
        """
        x = self.check(xi)
        if x.ndim != 2:
            raise InputError(f"ξ has shape {x.shape}, but B worlds take (B, {self.K})")
        B = len(x)
        factors = self._factors
        factor = x[:, factors.owner]  # (B, n)
        one_by_one = frozenset(range(self.K)) - factors.parameters
        if factor.size and factor.min() <= 0:  # one of them is wrong, and `_apply` says which
            one_by_one = frozenset(range(self.K))
        whole = np.repeat(factors.nominal[None], B, 0)  # (B, m)
        if len(one_by_one) < self.K:
            whole[:, factors.entries] *= factor
        flat = {
            f: whole[:, factors.fields[f]]
            if f in factors.fields
            else np.repeat(v.reshape(1, -1), B, 0)
            for f, v in self._nominal.items()
        }  # (B, size)
        for k in sorted(one_by_one):
            self._apply(
                self.parameters[k], self._targets[k], x[:, k : k + 1], self.nominal[k], flat
            )
        if "geom_size" in flat:
            self._follow_size(flat)
        if "disableflags" in flat:
            moved = np.zeros((B, 1), bool)
            for f in MOVES_GEOMS & flat.keys():
                moved |= (flat[f] != self._nominal[f].reshape(-1)).any(1, keepdims=True)
            flat["disableflags"] |= np.where(moved, self._no_midphase, 0).astype(np.int32)
        return {f: v.reshape(B, *self._nominal[f].shape) for f, v in flat.items()}

    def whole_delays(self, xi: ArrayLike) -> tuple[Array, Array]:
        """(B, K) ξ whose actuator delays are cut to whole physics steps, and (B, nu) what share of
        a step each actuator lost by it; (B, 1) zeros where no parameter delays actuators.

        `values` rounds delays to physics steps, as simulation has no others. Who needs what lies
        between gives every actuator that share of the command before.
        """
        x = np.array(self.check(xi))
        mine = [(k, t) for k, (p, t) in enumerate(self._pairs()) if p.field == "actuator_delay"]
        nu = len(self._nominal["actuator_delay"]) if mine else 1
        left = np.zeros((len(x), nu))
        step = 1000.0 * self._timestep
        for k, target in mine:
            steps = x[:, k] / step
            whole = np.floor(steps + 1e-9)
            left[:, target.rows] = np.maximum(steps - whole, 0.0)[:, None]
            x[:, k] = whole * step
        return x, left

    def write(self, model: mujoco.MjModel, xi: ArrayLike) -> None:
        """Make `model` the world of ξ (K,), derived constants included, whatever it was before.

        The model must be the nominal one or a copy of it. The nominal ξ gives the nominal's bits.
        """
        x = self.check(xi)
        if x.ndim != 1:
            raise InputError(f"ξ has shape {x.shape}, but one world takes ({self.K},)")
        values = self.values(x[None])
        for f, v in self._nominal.items():
            if np.shape(read(model, f)) != v.shape:
                raise InputError(f"this model is another one: its {f} has another shape")
        for f in self.fields:
            if f in (*OPTIONS, "disableflags"):
                setattr(model.opt, f, values[f][0])
            else:
                getattr(model, f)[...] = values[f][0]
        if not self.needs_const:
            return
        mujoco.mj_setConst(model, mujoco.MjData(model))
        if all(
            f in RUNTIME or np.array_equal(values[f][0], v) for f, v in self._nominal.items()
        ):  # a <statistic> of the model's own, and anything the compiler did differently
            for f, v in self._derived.items():
                getattr(model, f)[...] = v
            for f, v in self._stat.items():
                setattr(model.stat, f, v)

    def _find_factors(self) -> Factors:
        touched = [(p.field, e) for p, t in self._pairs() for e in t.entries.tolist()]
        touched += [
            ("body_inertia", e)
            for p, t in self._pairs()
            if p.field == "body_mass"
            for e in inertia_entries(t).tolist()
        ]
        fields: dict[str, slice] = {}
        nominal_: list[Array] = []
        end = 0
        chosen: list[int] = []
        owner: list[int] = []
        entries: list[int] = []
        for k, (p, t) in enumerate(self._pairs()):
            mine = [(p.field, e) for e in t.entries.tolist()]
            if p.field == "body_mass":
                mine += [("body_inertia", e) for e in inertia_entries(t).tolist()]
            alone = all(touched.count(entry) == 1 for entry in mine)
            # a size moves bounds, and an inertia must stay one that a body can have
            if p.op != "scale" or not alone or p.field in ("geom_size", "body_inertia"):
                continue
            for f in dict.fromkeys(f for f, _ in mine):
                if f not in fields:
                    values = self._nominal[f].reshape(-1).astype(np.float64)
                    fields[f] = slice(end, end + values.size)
                    nominal_.append(values)
                    end += values.size
            chosen.append(k)
            owner += [k] * len(mine)
            entries += [fields[f].start + e for f, e in mine]
        return Factors(
            frozenset(chosen), np.array(owner, int), np.array(entries, int),
            np.concatenate([np.empty(0), *nominal_]), fields,
        )  # fmt: skip

    def _pairs(self) -> list[tuple[Parameter, Target]]:
        return list(zip(self.parameters, self._targets, strict=True))

    def _apply(
        self, p: Parameter, t: Target, x: Array, nominal_x: float, flat: dict[str, Array]
    ) -> None:
        """Write one parameter, x (B, 1), and what follows from it into flat fields (B, size)."""
        old = flat[p.field][:, t.entries].astype(np.float64)  # (B, n)
        if p.field in HISTORY:
            new = delay(x, self._timestep)
            longest = 1000.0 * t.samples * self._timestep
            if ((x < 0) | (new > t.samples * self._timestep)).any():
                raise p.refuse(
                    f"a delay of {x.min():g} to {x.max():g} ms does not fit the model's buffer of "
                    f"{t.samples} physics steps, 0 to {longest:g} ms"
                )
        elif p.field.endswith("quat"):
            assert p.axis is not None
            new = turned(old.reshape(len(x), -1, 4), p.axis, x).reshape(old.shape)
        else:
            new = old * x if p.op == "scale" else old + x if p.op == "add" else x
        new = np.where(x == nominal_x, old, new)  # -0.0 + 0.0 is 0.0: nominal keeps the bits
        if p.field in POSITIVE or p.field in NON_NEGATIVE:
            low = (new <= 0) & (old > 0) if p.field in POSITIVE else new < 0
            if low.any():
                b, i = np.argwhere(low)[0]
                sign = "be positive" if p.field in POSITIVE else "not be negative"
                raise p.refuse(
                    f"{p.op} {x[b, 0]:g} makes {p.field} {new[b, i]:g}, which must {sign}"
                )
        flat[p.field][:, t.entries] = new

        if p.field == "body_mass":  # uniform density: the inertia follows the mass
            inertia = inertia_entries(t)
            ratio = x if p.op == "scale" else new / old
            ratio = np.where(x == nominal_x, 1.0, ratio) * np.ones_like(old)
            flat["body_inertia"][:, inertia] *= np.repeat(ratio, 3, axis=1)
        if p.field == "body_inertia":
            moments = flat[p.field].reshape(len(x), -1, 3)[:, t.rows]  # (B, r, 3)
            if not (ok := realizable(moments)).all():
                b, i = np.argwhere(~ok)[0]
                raise p.refuse(
                    f"{p.op} {x[b, 0]:g} makes the inertia of body '{t.elements[i]}' "
                    f"{moments[b, i].tolist()}, whose largest moment exceeds the other two's sum"
                )

    def _follow_size(self, flat: dict[str, Array]) -> None:
        """geom_rbound and geom_aabb as MuJoCo's compiler computes them, where geom_size changed."""
        B = len(flat["geom_size"])
        size = flat["geom_size"].reshape(B, -1, 3)
        changed = (size != self._nominal["geom_size"]).any(2)  # (B, ngeom)
        if changed.any():
            kind = np.broadcast_to(self._geom_type, changed.shape)[changed]
            rbound, half = bounds(kind, size[changed])
            flat["geom_rbound"][changed] = rbound
            flat["geom_aabb"].reshape(B, -1, 6)[changed, 3:] = half  # center, half size

    def _corners(self, low: Array, high: Array) -> Array:
        """(n, K) at which a range is tried; the rest is as near the nominal as the range is."""
        middle = np.clip(self.nominal, low, high)
        rows = [low, high]
        for k in range(self.K):
            for end in (low[k], high[k]):
                row = middle.copy()
                row[k] = end
                rows.append(row)
        joint = [
            k
            for k, p in enumerate(self.parameters)
            if p.field == "body_inertia" and low[k] < high[k]
        ]
        for ends in product((0, 1), repeat=min(len(joint), 12)):
            row = middle.copy()
            for k, end in zip(joint, ends, strict=False):
                row[k] = (low, high)[end][k]
            rows.append(row)
        return np.array(rows).reshape(len(rows), self.K)

    def _check_meaning(self, p: Parameter, t: Target) -> None:
        """Refuse what resolves but would do nothing, or not what was meant."""
        values = self._nominal[p.field].reshape(-1)[t.entries]
        if p.op == "scale" and not values.any():
            raise p.refuse(f"{p.field} is 0 there, and scaling it does nothing; use op add or set")
        if p.field == "body_mass" and p.op != "scale" and not values.all():
            name = t.elements[int(np.argmin(values))]
            raise p.refuse(f"body '{name}' has no mass that an inertia could follow; use op scale")
        for q, u in zip(self.parameters, self._targets, strict=True):
            shared = q is not p and q.field == p.field and np.intersect1d(t.entries, u.entries).size
            if shared and p.op == "set" and not p.field.endswith("quat"):
                raise p.refuse(f"op set would overwrite parameter '{q.name}'; give it to one only")
        if p.field in HISTORY and values.any():
            raise p.refuse(f"{p.field} must be 0 in the nominal model")


def resolve(p: Parameter, model: mujoco.MjModel) -> Target:
    """Where `p` writes in `model`."""
    if p.field in OPTIONS:
        if p.select != "*":
            raise p.refuse(f"{p.field} belongs to the whole model; leave select at '*'")
        size = np.size(getattr(model.opt, p.field))
        return Target(columns(p, np.arange(size)[None]), np.zeros(1, int), ())
    if p.field == "timestep":
        raise p.refuse("the timestep is not physics: the control period would change with it")
    if p.field in (*DERIVED, *BOUNDS):
        raise p.refuse(f"{p.field} follows from other fields; write those")
    known = addressable(model)
    if p.field not in known:
        raise p.refuse(
            f"no field '{p.field}'{nearest(p.field, known)}; it is a float field of MjModel, such "
            f"as body_mass or geom_friction, or one of the options {', '.join(OPTIONS)}"
        )
    ids, names = select(p, model)
    check_kind(p, model, ids, names)
    rows = field_rows(p, model, ids)
    shape = getattr(model, p.field).shape
    grid = np.arange(int(np.prod(shape))).reshape(shape[0], -1)[rows]  # (r, columns)
    if p.field == "geom_size":
        used = np.array([SIZES[int(model.geom_type[i])] for i in ids])
        if p.axis is None:
            return Target(grid[np.arange(3) < used[:, None]], rows, names)
        if not 0 <= p.axis < used.min():
            raise p.refuse(f"axis {p.axis}: '{names[used.argmin()]}' has {used.min()} sizes")
    samples = buffer(p, getattr(model, HISTORY[p.field])[rows], names) if p.field in HISTORY else 0
    return Target(columns(p, grid), rows, names, samples)


def addressable(model: mujoco.MjModel) -> list[str]:
    """The float fields of `model` that a parameter may address element by element, and OPTIONS."""
    own = [
        f
        for f in dir(model)
        if prefix(f) in ELEMENTS
        and f not in (*DERIVED, *BOUNDS)
        and isinstance(v := getattr(model, f), np.ndarray)
        and v.dtype.kind == "f"
    ]
    return [*own, *OPTIONS]


def prefix(field: str) -> str:
    return field.split("_")[0]


def buffer(p: Parameter, history: Array, names: tuple[str, ...]) -> int:
    """The shortest of the delay buffers `history` (r, 2): length, order of interpolation."""
    for name, (samples, interpolation) in zip(names, history.tolist(), strict=True):
        if samples == 0 or interpolation != 0:
            raise p.refuse(
                f"'{name}' has no delay buffer; compile the model with nsample, delay=0 and "
                f"interp=0 set on it in MjSpec"
            )
    return int(history[:, 0].min())


def select(p: Parameter, model: mujoco.MjModel) -> tuple[Array, tuple[str, ...]]:
    """Ids and names of the elements that `p.select` means, in the model's order."""
    kind = ELEMENTS[prefix(p.field)]
    count = {"dof": model.njnt, "qpos": model.njnt, "qpos0": model.njnt}.get(
        prefix(p.field), getattr(model, p.field).shape[0]
    )
    first = 1 if prefix(p.field) == "body" else 0  # the world neither moves nor weighs
    names = {i: mujoco.mj_id2name(model, kind, i) or f"#{i}" for i in range(first, count)}
    ids = [i for i, n in names.items() if n == p.select]
    ids = ids or [i for i, n in names.items() if fnmatchcase(n, p.select)]
    if not ids:
        noun = kind.name.removeprefix("mjOBJ_").lower()
        there = f"there are {', '.join(names.values())}" if names else "the model has none"
        raise p.refuse(f"no {noun} '{p.select}'{nearest(p.select, names.values())}; {there}")
    return np.array(ids), tuple(names[i] for i in ids)


def field_rows(p: Parameter, model: mujoco.MjModel, ids: Array) -> Array:
    """The rows of `p.field` that belong to the elements `ids`; a joint may have several dofs."""
    if prefix(p.field) == "dof":
        return np.flatnonzero(np.isin(model.dof_jntid, ids))
    if prefix(p.field) in ("qpos", "qpos0"):
        return model.jnt_qposadr[ids].astype(int)
    return ids


def columns(p: Parameter, grid: Array) -> Array:
    """The entries (n,) of `grid` (r, columns) that `p.axis` means."""
    if p.axis is None or p.field.endswith("quat"):
        return grid.reshape(-1)
    if grid.shape[1] == 1 or not 0 <= p.axis < grid.shape[1]:
        takes = "has no axis" if grid.shape[1] == 1 else f"has axes 0 to {grid.shape[1] - 1}"
        raise p.refuse(f"axis {p.axis}: {p.field} {takes}")
    return grid[:, p.axis]


def check_kind(p: Parameter, model: mujoco.MjModel, ids: Array, names: tuple[str, ...]) -> None:
    """Refuse elements whose compiled form cannot follow a change of this field."""
    for i, name in zip(ids.tolist(), names, strict=True):
        if prefix(p.field) in ("qpos", "qpos0") and int(model.jnt_type[i]) not in (2, 3):
            raise p.refuse(f"{p.field} of joint '{name}': only hinge and slide joints have one")
        if p.field in ("body_ipos", "body_iquat") and model.body_simple[i]:
            raise p.refuse(f"body '{name}' is compiled as simple; give it simple=\"false\" in MJCF")
        if p.field == "jnt_pos" and model.body_simple[model.jnt_bodyid[i]]:
            raise p.refuse(
                f"the body of joint '{name}' is simple; give it simple=\"false\" in MJCF"
            )
        if p.field == "geom_size" and int(model.geom_type[i]) not in SIZES:
            kind = mujoco.mjtGeom(int(model.geom_type[i])).name.removeprefix("mjGEOM_").lower()
            raise p.refuse(
                f"geom '{name}' is a {kind}; sphere, capsule, cylinder, ellipsoid and box "
                f"can be resized"
            )
        if p.field == "geom_size" and model.geom_fluid[i, 0] > 0:
            raise p.refuse(f"geom '{name}' has fluid coefficients, computed from its size")
    if p.field in ("jnt_axis", "light_dir"):
        raise p.refuse(f"{p.field} is a unit vector; turn the body instead (body_quat)")


def nominal(p: Parameter, values: Array) -> float:
    """The ξ that leaves the model as it is."""
    if p.op != "set":
        return {"scale": 1.0, "add": 0.0}[p.op]
    if (values != values[0]).any():
        low, high = values.min(), values.max()
        raise p.refuse(
            f"op set needs one nominal value, but {p.field} goes from {low:g} to {high:g} there; "
            f"use scale or add, or select fewer"
        )
    return float(values[0])


def delay(milliseconds: Array, timestep: float) -> Array:
    """The delay [s] for MuJoCo that lags by round(ms / timestep) physics steps.

    MuJoCo reads the newest sample not after time - delay. Of the delays in (k-1, k] timesteps, all
    of them k steps in exact arithmetic, k - ¼ keeps clear of rounding at both ends, and also at the
    half steps of Runge-Kutta. There, for k > 1, the last of the four stages, which stands at the
    end of the step, reads the sample that follows: no delay gives all stages the same one.
    """
    k = np.floor(milliseconds / 1000.0 / timestep + 0.5)
    return np.where(k > 0, (k - 0.25) * timestep, 0.0)


TIMES_UNIT = (
    ([1, 0, 3, 2], [-1, 1, 1, -1]),
    ([2, 3, 0, 1], [-1, -1, 1, 1]),
    ([3, 2, 1, 0], [-1, 1, -1, 1]),
)
"""q·i, q·j and q·k of a quaternion q = (w, x, y, z): which component, with which sign."""


def turned(quat: Array, axis: int, angle: Array) -> Array:
    """quat (B, n, 4) turned by angle (B, 1) [rad] about its own axis: q·(cos ½φ + sin ½φ·e)."""
    order, sign = TIMES_UNIT[axis]
    half = 0.5 * angle[:, :, None]
    return np.cos(half) * quat + np.sin(half) * quat[..., order] * np.array(sign)


def bounds(kind: Array, size: Array) -> tuple[Array, Array]:
    """Radius (n,) and half sizes (n, 3) of the bounds of primitives of kind (n,), size (n, 3)."""
    a, b, _ = size.T
    sphere, capsule, ellipsoid, cylinder, box = (kind == k for k in SIZES)
    rbound = np.select(
        [sphere, capsule, ellipsoid, cylinder, box],
        [a, a + b, size.max(1), np.sqrt(a * a + b * b), np.sqrt((size * size).sum(1))],
    )
    half = size.copy()
    half[sphere] = a[sphere, None]
    half[capsule] = np.stack([a, a, a + b], 1)[capsule]
    half[cylinder] = np.stack([a, a, b], 1)[cylinder]
    return rbound, half


def read(model: mujoco.MjModel, field: str) -> Any:
    return getattr(model.opt if field in (*OPTIONS, "disableflags") else model, field)


def frozen(values: Sequence[float]) -> Array:
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array
