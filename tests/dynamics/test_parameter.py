import copy
import os

import gymnasium.envs.mujoco
import mjbatch
import mujoco
import numpy as np
import pytest
from scipy import stats

from sim2real.dynamics.parameter import DERIVED, RUNTIME, STAT, Parameter, ParameterSpace, delay
from sim2real.types import InputError

ASSETS = os.path.join(os.path.dirname(gymnasium.envs.mujoco.__file__), "assets")
ROBOTS = sorted(f.removesuffix(".xml") for f in os.listdir(ASSETS) if f.endswith(".xml"))


def spec_of(robot, buffer=0):
    spec = mujoco.MjSpec.from_file(os.path.join(ASSETS, f"{robot}.xml"))
    for actuator in spec.actuators:
        if buffer:
            actuator.nsample, actuator.delay, actuator.interp = buffer, 0.0, 0
    return spec


def load(robot, buffer=0):
    return spec_of(robot, buffer).compile()


def snapshot(model):
    """Every number of the model: all arrays, counts and flags, the options and the statistics."""
    out = {}
    for prefix, owner in (("", model), ("opt.", model.opt), ("stat.", model.stat)):
        for name in dir(owner):
            if not name.startswith("_") and isinstance(
                v := getattr(owner, name), np.ndarray | int | float
            ):
                out[prefix + name] = np.array(v)
    return out


def changed(before, after):
    return {f for f in before if before[f].tobytes() != after[f].tobytes()}


MASS = Parameter("torso mass", "body_mass", select="torso", low=0.5, high=2.0)
HOPPER = (
    MASS,
    Parameter("feet", "geom_friction", select="foot*", axis=0, low=0.3, high=1.5),
    Parameter("damping", "dof_damping", low=0.5, high=3.0, distribution="loguniform"),
    Parameter("armature", "dof_armature", select="*_joint", op="add", low=0.0, high=0.5),
    Parameter("gear", "actuator_gear", axis=0, low=0.6, high=1.2),
    Parameter("down", "gravity", axis=2, op="add", low=-1.0, high=1.0, unit="m/s²"),
    Parameter("latency", "actuator_delay", op="set", low=0.0, high=30.0, unit="ms"),
    Parameter("leg", "geom_size", select="leg_geom", axis=0, low=0.8, high=1.2),
    Parameter("shift", "body_ipos", select="foot", axis=0, op="add", low=-0.02, high=0.02),
    Parameter("hip", "jnt_pos", select="thigh_joint", axis=2, op="add", low=-0.02, high=0.02),
    Parameter("tilt", "geom_quat", select="foot_geom", axis=1, op="add", low=-0.1, high=0.1),
)


def draw(space, seed=0, n=1):
    return space.prior().sample(np.random.default_rng(seed), n)


def rollout(model, n=200, seed=0):
    data = mujoco.MjData(model)
    mujoco.mj_resetData(model, data)
    mujoco.mj_forward(model, data)
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        data.ctrl[:] = rng.uniform(-1, 1, model.nu)
        mujoco.mj_step(model, data)
        out.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(out)


def everything(robot):
    """One parameter for many kinds of field at once, over all elements that can follow."""
    model = load(robot)
    out = []
    for field in (
        *(
            "body_mass",
            "body_inertia",
            "body_pos",
            "dof_armature",
            "dof_damping",
            "dof_frictionloss",
        ),
        *("geom_friction", "geom_pos", "geom_solref", "geom_margin", "jnt_stiffness", "jnt_range"),
        *("actuator_gear", "actuator_gainprm", "actuator_biasprm", "actuator_forcerange"),
        *("site_pos", "tendon_stiffness", "density", "gravity", "wind", "geom_rgba"),
    ):
        op = "scale" if field.startswith(("body_mass", "body_inertia")) else "add"
        try:
            p = Parameter(field, field, op=op, low=0.9, high=1.1)
            ParameterSpace([p], model)
        except InputError:
            continue
        out.append(p)
    return out, model


@pytest.mark.parametrize("robot", ROBOTS)
def test_mj_setconst_leaves_an_untouched_model_bit_equal(robot):
    model = load(robot)
    before = snapshot(model)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    assert changed(before, snapshot(model)) == set()


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_nominal_xi_is_bit_equal_before_and_after_another(robot):
    parameters, model = everything(robot)
    assert len(parameters) > 8
    space = ParameterSpace(parameters, model)
    before = snapshot(model)
    space.write(model, space.nominal)
    assert changed(before, snapshot(model)) == set()
    space.write(model, draw(space)[0])
    assert {p.field for p in parameters} & changed(before, snapshot(model))
    space.write(model, space.nominal)
    assert changed(before, snapshot(model)) == set()


def test_the_nominal_keeps_a_statistic_that_the_model_states_itself():
    model = mujoco.MjModel.from_xml_string(
        """<mujoco><statistic meaninertia="7" extent="3"/><worldbody><body name="b"><freejoint/>
        <geom size=".1"/></body></worldbody></mujoco>"""
    )
    before = snapshot(model)
    space = ParameterSpace([Parameter("m", "body_mass", low=0.5, high=2.0)], model)
    for xi in (0.7, 1.0):
        space.write(model, [xi])
    assert changed(before, snapshot(model)) == set()


def test_nominal_keeps_the_sign_of_zero():
    model = load("hopper")
    model.geom_pos[1] = [-0.0, 0.0, -0.0]
    before = snapshot(model)
    shift = Parameter("p", "geom_pos", select="torso_geom", op="add", low=-0.1, high=0.1)
    turn = Parameter("q", "geom_quat", select="foot_geom", axis=0, op="add", low=-1, high=1)
    space = ParameterSpace([shift, turn], model)
    space.write(model, space.nominal)
    assert changed(before, snapshot(model)) == set()


def test_writing_twice_is_writing_once_whatever_came_before():
    a, b = load("hopper", 20), load("hopper", 20)
    space = ParameterSpace(HOPPER, a)
    xi, other = draw(space, n=2)
    space.write(a, xi)
    once = snapshot(a)
    space.write(a, xi)
    assert changed(once, snapshot(a)) == set()
    space.write(b, other)
    space.write(b, xi)
    assert changed(once, snapshot(b)) == set()


CONSEQUENCES = {
    "body_mass": {
        *("body_inertia", "body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0"),
        *("actuator_acc0", "stat.meanmass", "stat.meaninertia"),
        *("cam_poscom0", "light_poscom0"),
    },
    "dof_armature": {
        *("body_invweight0", "dof_M0", "dof_invweight0", "actuator_acc0", "stat.meaninertia"),
    },
    "actuator_gear": {"actuator_acc0", "actuator_length0"},
    "geom_size": {
        *("geom_rbound", "geom_aabb", "dof_length"),
        *("stat.meansize", "stat.extent", "stat.center"),
    },
    "body_ipos": {
        *("body_invweight0", "dof_M0", "dof_invweight0", "dof_length", "actuator_acc0"),
        *("stat.meaninertia", "stat.meansize", "cam_poscom0", "light_poscom0"),
        *("body_sameframe", "geom_sameframe"),
    },
    "jnt_pos": {
        *("body_invweight0", "dof_M0", "dof_invweight0", "dof_length", "actuator_acc0"),
        *("stat.meaninertia", "stat.meansize"),
    },
    "geom_quat": {"geom_sameframe"},
    "geom_friction": set(),
    "dof_damping": set(),
    "gravity": set(),
    "actuator_delay": set(),
}
"""What may change besides the field itself; the hopper has no body with several geoms."""


@pytest.mark.parametrize("p", HOPPER, ids=lambda p: p.name)
def test_only_the_addressed_entries_and_their_consequences_change(p):
    model = load("hopper", 20)
    before = snapshot(model)
    space = ParameterSpace([p], model)
    space.write(model, space.high if p.high != space.nominal[0] else space.low)
    after = snapshot(model)
    name = f"opt.{p.field}" if p.field == "gravity" else p.field
    assert name in changed(before, after)
    assert changed(before, after) <= {name} | CONSEQUENCES[p.field]
    allowed = set(DERIVED) | {f"stat.{f}" for f in STAT} | {"body_inertia"}
    allowed |= {"geom_rbound", "geom_aabb", "body_sameframe", "geom_sameframe"}
    assert CONSEQUENCES[p.field] <= allowed

    entries = before[name] != after[name]  # of the field itself, only the addressed
    meant = np.zeros_like(entries)
    column = slice(None) if p.axis is None or p.field == "geom_quat" else p.axis
    rows = {
        "body_mass": [model.body("torso").id],
        "body_ipos": [model.body("foot").id],
        "dof_armature": [3, 4, 5],
        "dof_damping": range(model.nv),
        "actuator_gear": range(3),
        "actuator_delay": range(3),
        "geom_friction": [model.geom("foot_geom").id],
        "geom_quat": [model.geom("foot_geom").id],
        "geom_size": [model.geom("leg_geom").id],
        "jnt_pos": [model.joint("thigh_joint").id],
    }
    if p.field == "gravity":
        meant[2] = True
    elif meant.ndim == 1:
        meant[list(rows[p.field])] = True
    else:
        meant[list(rows[p.field]), column] = True
    assert not (entries & ~meant).any()
    if p.field == "body_mass":
        assert (np.flatnonzero((before["body_inertia"] != after["body_inertia"]).any(1)) == 1).all()


ARM = """<mujoco><option timestep="0.002" gravity="0 0 -9.81"/><worldbody>
<geom name="floor" type="plane" size="5 5 1"/>
<body name="upper" pos="0 0 1"><joint name="shoulder" axis="0 1 0" stiffness="2" damping=".1"
frictionloss=".3"/><geom name="rod" type="capsule" fromto="0 0 0 0 .02 -.4" size=".03"/>
<body name="lower" pos="0 .02 -.4"><joint name="elbow" axis="0 1 0" stiffness="1"
frictionloss=".2"/><geom name="stick" type="capsule" fromto="0 0 0 .03 0 -.3" size=".02"/>
<geom name="hand" type="box" size=".03 .04 .05" pos=".04 .01 -.35" euler="0 20 0"/></body></body>
</worldbody><tendon><fixed name="cable" stiffness="5" springlength="0.1">
<joint joint="shoulder" coef="1"/><joint joint="elbow" coef="-.5"/></fixed></tendon><actuator>
<position name="servo" joint="shoulder" kp="30" kv="1" forcerange="-9 9" ctrlrange="-1 1"/>
<motor name="pull" tendon="cable" gear="2" forcerange="-4 4" ctrlrange="-1 1"/></actuator>
</mujoco>"""

INERTIAL = {
    *("body_invweight0", "dof_M0", "dof_invweight0", "tendon_invweight0", "actuator_acc0"),
    "stat.meaninertia",
}
MOVED = {"dof_length", "stat.meansize", "opt.disableflags"}
"""`lower` has two geoms: its collision tree no longer holds, see MOVES_GEOMS. `stat.extent`,
the height from the floor's box to the shoulder, stays as it is."""
BEYOND = {  # parameter, rows of the field, columns (None: it has one), what else changes
    "inertia": (
        Parameter("p", "body_inertia", select="lower", axis=1, low=0.98, high=1.01),
        [2], [1], INERTIAL,
    ),
    "all inertia": (
        Parameter("p", "body_inertia", low=0.5, high=2.0), [1, 2], [0, 1, 2], INERTIAL,
    ),
    "joint spring": (
        Parameter("p", "jnt_stiffness", select="elbow", low=0.5, high=2.0), [1], None, set(),
    ),
    "tendon spring": (
        Parameter("p", "tendon_stiffness", op="add", low=-1.0, high=2.0), [0], None, set(),
    ),
    "dry friction": (
        Parameter("p", "dof_frictionloss", select="shoulder", op="set", low=0.0, high=1.0),
        [0], None, set(),
    ),
    "servo gain": (
        Parameter("p", "actuator_gainprm", select="servo", axis=0, low=0.5, high=2.0),
        [0], [0], set(),
    ),
    "servo feedback": (
        Parameter("p", "actuator_biasprm", select="servo", axis=1, low=0.5, high=2.0),
        [0], [1], set(),
    ),
    "servo damping": (
        Parameter("p", "actuator_biasprm", select="servo", axis=2, op="add", low=-1.0, high=0.0),
        [0], [2], set(),
    ),
    "force limits": (
        Parameter("p", "actuator_forcerange", low=0.3, high=1.0), [0, 1], [0, 1], set(),
    ),
    "upper force limit": (
        Parameter("p", "actuator_forcerange", select="pull", axis=1, low=0.3, high=1.5),
        [1], [1], set(),
    ),
    "place of a geom": (
        Parameter("p", "geom_pos", select="hand", axis=0, op="add", low=0.0, high=0.3),
        [3], [0], MOVED,
    ),
    "size of a geom": (
        Parameter("p", "geom_size", select="hand", axis=2, low=1.0, high=9.0),
        [3], [2], {"geom_rbound", "geom_aabb", *MOVED},
    ),
    "gravity": (
        Parameter("p", "gravity", op="add", low=-1.0, high=1.0), [0, 1, 2], None, set(),
    ),
    "slope": (
        Parameter("p", "gravity", axis=0, op="set", low=-1.0, high=1.0), [0], None, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_what_follows_from_a_change_of_the_arm_is_all_that_changes(case):
    """Of the field every addressed entry and no other, and of the rest exactly what follows."""
    p, rows, axes, follows = BEYOND[case]
    model = mujoco.MjModel.from_xml_string(ARM)
    before = snapshot(model)
    space = ParameterSpace([p], model)
    space.write(model, space.high if p.high != space.nominal[0] else space.low)
    after = snapshot(model)
    name = f"opt.{p.field}" if p.field == "gravity" else p.field
    assert changed(before, after) == {name} | follows
    meant = np.zeros_like(before[name], bool)
    meant[rows if axes is None else np.ix_(rows, axes)] = True
    np.testing.assert_array_equal(before[name] != after[name], meant)
    if p.field == "geom_size":
        for bound in ("geom_rbound", "geom_aabb"):
            moved = (before[bound] != after[bound]).reshape(model.ngeom, -1).any(1)
            assert np.flatnonzero(moved).tolist() == rows


@pytest.mark.parametrize("robot", ["ant", "humanoid", "pusher_v5"])
def test_no_derived_constant_depends_on_a_runtime_field(robot):
    rng = np.random.default_rng(0)
    for field in sorted(RUNTIME):
        model = load(robot)
        owner = model if hasattr(model, field) else model.opt
        v = np.array(getattr(owner, field))
        v = v * rng.uniform(0.9, 1.1, v.shape) + rng.uniform(0.0, 0.01, v.shape)
        if owner is model:
            getattr(model, field)[...] = v
        else:
            setattr(model.opt, field, v)
        before = snapshot(model)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        assert changed(before, snapshot(model)) == set(), field


def test_two_models_never_share_memory():
    a, b = load("hopper", 20), load("hopper", 20)
    space = ParameterSpace(HOPPER, a)
    values = space.values(draw(space, n=3))
    for model, xi in zip((a, b), draw(space, n=2), strict=True):
        space.write(model, xi)
    for f in (f for f in space.fields if hasattr(a, f)):
        assert not np.shares_memory(getattr(a, f), getattr(b, f))
        assert not np.shares_memory(getattr(a, f), values[f])
    before = {f: v.copy() for f, v in space.values(space.nominal[None]).items()}
    for v in values.values():
        v[...] = 0
    a.body_mass[:] = 0.0
    for f, v in space.values(space.nominal[None]).items():
        assert v.tobytes() == before[f].tobytes()


ROD = """<mujoco><worldbody><body name="rod"><joint name="h" type="hinge" axis="0 1 0"/>
<geom name="g" type="capsule" fromto="0 0 0 0 0 -1" size=".05" mass="{}"/></body>
</worldbody></mujoco>"""


@pytest.mark.parametrize(("op", "xi"), [("scale", 0.5), ("add", -0.5), ("set", 0.5)])
def test_half_the_mass_of_a_rod_is_a_rod_of_half_the_mass(op, xi):
    model = mujoco.MjModel.from_xml_string(ROD.format(1))
    half = mujoco.MjModel.from_xml_string(ROD.format(0.5))
    p = Parameter("m", "body_mass", select="rod", op=op, low=min(xi, 0), high=1)
    if op != "add":
        p = Parameter("m", "body_mass", select="rod", op=op, low=xi, high=1)
    ParameterSpace([p], model).write(model, [xi])
    a, b = snapshot(model), snapshot(half)
    for f in a:
        np.testing.assert_allclose(a[f], b[f], rtol=1e-12, atol=1e-12, err_msg=f)
    assert model.dof_M0[0] == pytest.approx(0.1728, abs=5e-5)  # 0.2206 with the old inertia


@pytest.mark.parametrize("robot", ["hopper", "ant", "humanoid"])
def test_scaling_all_masses_is_compiling_with_that_density(robot):
    model = load(robot)
    ParameterSpace([Parameter("m", "body_mass", low=0.5, high=2.0)], model).write(model, [1.7])
    spec = spec_of(robot)
    for geom in spec.geoms:
        geom.density *= 1.7
    a, b = snapshot(model), snapshot(spec.compile())
    for f in a:
        np.testing.assert_allclose(a[f], b[f], rtol=1e-9, atol=1e-9, err_msg=f)


BODIES = """<mujoco><option gravity="0 0 -9.81"/><worldbody>
<geom name="floor" type="plane" size="5 5 1"/>
<body name="shelf" pos="0 0 .3"><geom name="s1" type="box" size=".2 .2 .02" pos="-.3 0 0"/>
<geom name="s2" type="box" size=".2 .2 .02" pos=".3 0 .05"/>
<geom name="s3" size=".1" pos="0 .5 0"/></body>
<body name="many" pos=".1 0 .8"><freejoint/>
<inertial pos="0 0 0.01" mass="1" diaginertia=".02 .03 .04"/>
<geom name="sphere" size=".1"/>
<geom name="capsule" type="capsule" size=".05 .1" pos=".2 0 0" euler="0 40 10"/>
<geom name="cylinder" type="cylinder" size=".05 .1" pos="-.2 0 0" euler="30 0 0"/>
<geom name="ellipsoid" type="ellipsoid" size=".05 .1 .08" pos="0 .2 0"/>
<geom name="box" type="box" size=".05 .1 .08" pos="0 -.2 0"/></body></worldbody></mujoco>"""

GEOMS = ("sphere", "capsule", "cylinder", "ellipsoid", "box")
SHAPES = (
    [Parameter(g, "geom_size", select=g, low=0.5, high=2.0) for g in GEOMS],
    [Parameter("box", "geom_size", select="box", axis=2, op="set", low=0.05, high=0.4)],
    [Parameter("all", "geom_pos", select="*l*", axis=0, op="add", low=-0.3, high=0.3)],
    [Parameter("turn", "geom_quat", select="box", axis=1, op="add", low=0.5, high=1.0)],
    [Parameter("com", "body_ipos", select="many", axis=1, op="add", low=0.3, high=0.4)],
    [Parameter("shelf", "body_pos", select="shelf", op="add", low=0.05, high=0.15)],
    [Parameter("margin", "geom_margin", select="box", op="add", low=0.05, high=0.1)],
)


@pytest.mark.parametrize("parameters", SHAPES, ids=lambda s: f"{s[0].field}-{s[0].name}")
def test_changed_shapes_are_those_of_a_recompiled_model_and_collide_alike(parameters):
    model = mujoco.MjModel.from_xml_string(BODIES)
    space = ParameterSpace(parameters, model)
    space.write(model, draw(space)[0])
    spec = mujoco.MjSpec.from_string(BODIES)
    for g in spec.geoms:
        i = model.geom(g.name).id
        g.size, g.pos, g.quat = model.geom_size[i], model.geom_pos[i], model.geom_quat[i]
        g.alt.type = mujoco.mjtOrientation.mjORIENTATION_QUAT
        g.margin = model.geom_margin[i]
    spec.body("many").ipos = model.body_ipos[model.body("many").id]
    spec.body("shelf").pos = model.body_pos[model.body("shelf").id]
    compiled = spec.compile()
    a, b = snapshot(model), snapshot(compiled)
    trees = {"bvh_aabb", "bvh_child", "bvh_nodeid", "bvh_depth", "body_margin", "opt.disableflags"}
    for f in a.keys() - trees:
        if np.shape(a[f]) != np.shape(b[f]) or f.startswith(("narena", "nbuffer")):
            continue
        np.testing.assert_allclose(a[f], b[f], rtol=1e-9, atol=1e-9, err_msg=f)
    contacts = []
    for m in (model, compiled):
        data = mujoco.MjData(m)
        history = []
        for _ in range(500):
            mujoco.mj_step(m, data)
            history.append(data.ncon)
        contacts.append(history)
    assert contacts[0] == contacts[1]
    assert max(contacts[0]) > 0


def test_quaternion_turns_compose_like_mujocos():
    model = load("humanoid")
    i = model.geom("torso1").id
    q = model.geom_quat[i].copy()
    for axis in range(3):
        p = Parameter("turn", "geom_quat", select="torso1", axis=axis, op="add", low=-1, high=1)
        value = ParameterSpace([p], model).values([[0.7]])["geom_quat"][0, i]
        expected, turn = np.empty(4), np.empty(4)
        mujoco.mju_axisAngle2Quat(turn, np.eye(3)[axis], 0.7)
        mujoco.mju_mulQuat(expected, q, turn)
        np.testing.assert_allclose(value, expected, rtol=1e-14, atol=1e-15)


def test_operations_and_their_order():
    model = load("hopper")
    nominal = model.dof_damping.copy()
    scale = Parameter("a", "dof_damping", select="foot_joint", low=0.5, high=2.0)
    add = Parameter("b", "dof_damping", select="foot_joint", op="add", low=0.0, high=2.0)
    i = model.joint("foot_joint").dofadr[0]
    both = ParameterSpace([scale, add], model).values([[1.5, 0.25]])["dof_damping"][0]
    assert both[i] == nominal[i] * 1.5 + 0.25
    both = ParameterSpace([add, scale], model).values([[0.25, 1.5]])["dof_damping"][0]
    assert both[i] == (nominal[i] + 0.25) * 1.5
    fixed = Parameter("c", "dof_damping", select="foot_joint", op="set", low=0.0, high=2.0)
    space = ParameterSpace([fixed], model)
    assert space.nominal[0] == nominal[i]
    assert space.values([[1.75]])["dof_damping"][0, i] == 1.75


def test_one_value_serves_all_elements_of_a_glob():
    model = load("ant")
    gears = Parameter("gears", "actuator_gear", axis=0, low=0.5, high=1.5)
    ankles = Parameter("ankles", "dof_armature", select="ankle_*", op="set", low=0.1, high=2.0)
    space = ParameterSpace([gears, ankles], model)
    assert space.K == 2
    v = space.values([[0.8, 0.5], [1.0, 1.0]])
    np.testing.assert_array_equal(v["actuator_gear"][0, :, 0], 150.0 * 0.8 * np.ones(8))
    dofs = [model.joint(f"ankle_{k}").dofadr[0] for k in (1, 2, 3, 4)]
    expected = model.dof_armature.copy()
    expected[dofs] = 0.5
    np.testing.assert_array_equal(v["dof_armature"][0], expected)
    np.testing.assert_array_equal(v["dof_armature"][1], model.dof_armature)


@pytest.mark.parametrize(
    ("robot", "parameters"),
    [
        ("hopper", HOPPER),
        ("hopper", HOPPER[1:3]),  # without derived constants
        (
            "half_cheetah",
            [
                Parameter("mass", "body_mass", low=0.5, high=2.0),
                Parameter("head", "geom_pos", select="head", axis=0, op="add", low=-0.1, high=0.1),
                Parameter("gravity", "gravity", op="add", low=-1.0, high=1.0),
                Parameter("latency", "actuator_delay", op="set", low=0, high=90, unit="ms"),
            ],
        ),
    ],
)
def test_a_batch_with_these_values_moves_like_the_written_models(robot, parameters):
    model = load(robot, 20)
    space = ParameterSpace(parameters, model)
    B = 4
    xi = draw(space, n=B)
    xi[0] = space.nominal
    batch = mjbatch.Batch(model, B, 2)
    for field, value in space.values(xi).items():
        batch.expand(field)[...] = value
    if space.needs_const:
        batch.set_const()
    batch.reset()
    ctrl, qpos, qvel = batch.bind("ctrl"), batch.bind("qpos"), batch.bind("qvel")
    rng = np.random.default_rng(0)
    steps = []
    for _ in range(200):
        ctrl[:] = rng.uniform(-1, 1, model.nu)
        batch.step()
        steps.append(np.concatenate([qpos, qvel], axis=1))
    for b in range(B):
        world = copy.copy(model)
        space.write(world, xi[b])
        alone = rollout(world)
        assert np.array([s[b] for s in steps]).tobytes() == alone.tobytes()
    assert len({s.tobytes() for s in steps[-1]}) == B
    untouched = rollout(load(robot, 20))
    assert np.array([s[0] for s in steps]).tobytes() == untouched.tobytes()


def test_needs_const_only_where_a_derived_constant_follows():
    model = load("hopper", 20)
    flags = [ParameterSpace([p], model).needs_const for p in HOPPER]
    assert flags == [True, False, False, True, True, False, False, True, True, True, True]


@pytest.mark.parametrize("milliseconds", [0.0, 4.9, 5.0, 10.0, 20.0, 34.9, 70.0, 200.0])
def test_a_latency_is_a_queue_of_whole_physics_steps(milliseconds):
    model, plain = load("half_cheetah", 20), load("half_cheetah")  # Euler, 10 ms
    p = Parameter("lag", "actuator_delay", op="set", low=0.0, high=200.0, unit="ms")
    ParameterSpace([p], model).write(model, [milliseconds])
    k = int(np.floor(milliseconds / 10.0 + 0.5))
    got = rollout(model, 1000)
    rng = np.random.default_rng(0)
    queue = [np.zeros(model.nu)] * k
    data = mujoco.MjData(plain)
    mujoco.mj_forward(plain, data)
    for t in range(1000):
        queue.append(rng.uniform(-1, 1, model.nu))
        data.ctrl[:] = queue.pop(0)
        mujoco.mj_step(plain, data)
        assert np.concatenate([data.qpos, data.qvel]).tobytes() == got[t].tobytes()


CLOCK = """<mujoco><option timestep="0.002" integrator="{}"/><worldbody><body><joint name="j"/>
<geom size=".1"/></body></worldbody><sensor><clock name="clock"/></sensor></mujoco>"""


@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
def test_a_sensor_latency_is_exact_too(integrator):
    spec = mujoco.MjSpec.from_string(CLOCK.format(integrator))
    spec.sensors[0].nsample = 5
    model = spec.compile()
    p = Parameter("lag", "sensor_delay", op="set", low=0.0, high=10.0, unit="ms")
    space = ParameterSpace([p], model)
    for k in range(6):
        space.write(model, [2.0 * k])
        data = mujoco.MjData(model)
        seen = []
        for t in range(1000):
            mujoco.mj_step(model, data)
            seen.append(t - round(data.sensordata[0] / 0.002))
        assert set(seen[k:]) == {k}


def test_what_a_delay_has_beyond_whole_physics_steps_is_told_apart():
    """2 ms a step. One parameter delays the thigh, another all other motors."""
    space = ParameterSpace(
        [
            MASS,
            Parameter("thigh", "actuator_delay", select="#0", op="set", low=0, high=20,
                      unit="ms"),
            Parameter("leg", "actuator_delay", select="#1", op="set", low=0, high=20, unit="ms"),
        ],
        load("hopper", 16),
    )  # fmt: skip
    xi = np.array([[1.2, 3.0, 8.0], [1.0, 0.5, 7.9], [1.0, 0.0, 4.0 - 1e-12]])
    whole, left = space.whole_delays(xi)
    np.testing.assert_allclose(whole, [[1.2, 2.0, 8.0], [1.0, 0.0, 6.0], [1.0, 0.0, 4.0]])
    np.testing.assert_allclose(left, [[0.5, 0, 0], [0.25, 0.95, 0], [0, 0, 0]], atol=1e-9)
    np.testing.assert_array_equal(space.whole_delays(whole)[0], whole)
    none = ParameterSpace([MASS], load("hopper")).whole_delays(np.array([[1.2]]))
    np.testing.assert_array_equal(none[1], [[0.0]])


def test_delay_in_seconds():
    ms = np.array([0.0, 0.9, 1.0, 2.0, 3.1, 60.0])
    np.testing.assert_allclose(delay(ms, 0.002), [0, 0, 0.0015, 0.0015, 0.0035, 0.0595])


def test_the_prior_is_a_product_over_the_ranges():
    space = ParameterSpace(HOPPER, load("hopper", 20))
    x = draw(space, n=2000)
    assert x.shape == (2000, len(HOPPER))
    assert (x >= space.low).all()
    assert (x <= space.high).all()
    k = space.names.index("damping")
    assert stats.kstest(x[:, k], stats.loguniform(0.5, 3.0).cdf).pvalue > 1e-3
    assert stats.kstest(x[:, 0], stats.uniform(0.5, 1.5).cdf).pvalue > 1e-3


def test_a_space_without_parameters_changes_nothing():
    model = load("hopper")
    before = snapshot(model)
    space = ParameterSpace([], model)
    assert space.prior().sample(np.random.default_rng(0), 3).shape == (3, 0)
    assert space.values(np.empty((3, 0))) == {}
    space.write(model, np.empty(0))
    assert changed(before, snapshot(model)) == set()


def test_elements_without_a_name_go_by_number():
    model = load("pusher_v5")
    i = next(i for i in range(model.ngeom) if not model.geom(i).name)
    p = Parameter("x", "geom_friction", select=f"#{i}", axis=0, low=0.5, high=2.0)
    v = ParameterSpace([p], model).values([[2.0]])["geom_friction"][0]
    assert np.flatnonzero((v != model.geom_friction).any(1)).tolist() == [i]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(low=2.0, high=1.0), "low 2 is above high 1"),
        (dict(low=float("nan"), high=1.0), "must be finite"),
        (dict(low=0.0, high=float("inf")), "must be finite"),
        (dict(low=0.0, high=1.0, distribution="loguniform"), "low above 0"),
        (dict(low=0.0, high=1.0, distribution="normal"), "uniform or loguniform"),
        (dict(low=0.0, high=1.0, op="multiply"), "scale, add or set"),
        (dict(low=0.0, high=1.0, field="actuator_delay", op="set"), "unit ms"),
        (dict(low=-1.0, high=1.0, field="actuator_delay", op="set", unit="ms"), "negative"),
        (dict(low=-1.0, high=1.0, field="geom_quat"), "axis 0, 1 or 2"),
    ],
)
def test_a_parameter_that_means_nothing_is_refused(arguments, message):
    with pytest.raises(InputError, match=f"parameter 'p': .*{message}"):
        Parameter("p", **({"field": "body_mass"} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(select="trso"), r"no body 'trso' \(did you mean 'torso'\?\); there are torso, thigh"),
        (dict(select="world"), "no body 'world'.*there are torso"),
        (dict(field="dof_damping", select="knee"), "no joint 'knee'.*foot_joint"),
        (dict(field="tendon_stiffness"), "no tendon .*the model has none"),
        (dict(field="body_mas"), r"no field 'body_mas' \(did you mean 'body_mass'\?\)"),
        (dict(field="gravty"), r"did you mean 'gravity'"),
        (dict(field="body_parentid"), "no field"),
        (dict(field="dof_M0"), "follows from other fields"),
        (dict(field="geom_rbound"), "follows from other fields"),
        (dict(field="timestep"), "control period"),
        (dict(field="gravity", select="torso"), "whole model"),
        (dict(axis=0), "body_mass has no axis"),
        (dict(field="geom_friction", axis=3), "axes 0 to 2"),
        (dict(field="geom_friction", op="set"), "one nominal value"),
        (dict(field="jnt_stiffness"), "scaling it does nothing"),
        (dict(low=0.0), "must be positive"),
        (dict(op="add", low=-10.0), "must be positive"),
        (dict(field="dof_damping", low=-1.0), "must not be negative"),
        (dict(field="geom_size", select="floor", op="add"), "floor' is a plane; sphere, capsule"),
        (dict(field="geom_size", select="leg_geom", axis=2), "has 2 sizes"),
        (dict(field="body_inertia", select="torso", axis=0, high=9.0), "largest moment"),
        (dict(field="qpos0", select="rootx", axis=1), "no axis"),
        (dict(field="actuator_delay", op="set", unit="ms", low=0.0), "no delay buffer"),
        (dict(field="jnt_axis"), "unit vector"),
    ],
)
def test_a_parameter_that_the_model_lacks_is_refused(arguments, message):
    p = Parameter("p", **({"field": "body_mass", "low": 0.5, "high": 2.0} | arguments))
    with pytest.raises(InputError, match=f"parameter 'p': .*{message}"):
        ParameterSpace([p], load("hopper"))


def test_what_cannot_follow_in_a_compiled_model_is_refused():
    com = Parameter("p", "body_ipos", select="target", axis=0, op="add", low=0.0, high=0.1)
    with pytest.raises(InputError, match=r"simple=\"false\""):
        ParameterSpace([com], load("reacher"))
    pose = Parameter("p", "qpos0", select="root", op="add", low=0.0, high=0.1)
    with pytest.raises(InputError, match="only hinge and slide"):
        ParameterSpace([pose], load("ant"))
    long = Parameter("p", "actuator_delay", op="set", low=0.0, high=60.0, unit="ms")
    with pytest.raises(InputError, match=r"does not fit .* of 20 physics steps, 0 to 40 ms"):
        ParameterSpace([long], load("hopper", 20))


def test_parameters_that_exclude_each_other_are_refused():
    fixed = Parameter("q", "body_mass", select="torso", op="set", low=1.0, high=5.0)
    with pytest.raises(InputError, match=r"parameter 'q': op set would overwrite .*'torso mass'"):
        ParameterSpace([MASS, fixed], load("hopper"))
    with pytest.raises(InputError, match="same name"):
        ParameterSpace([MASS, MASS], load("hopper"))


def test_a_bad_xi_is_refused():
    model = load("hopper", 20)
    space = ParameterSpace(HOPPER, model)
    with pytest.raises(InputError, match="last axis must be the 11 parameters torso mass, feet"):
        space.check(np.ones(3))
    with pytest.raises(InputError, match="'feet': ξ must be a finite number"):
        space.check([1.0, np.nan, *space.nominal[2:]])
    with pytest.raises(InputError, match=r"B worlds take \(B, 11\)"):
        space.values(space.nominal)
    with pytest.raises(InputError, match=r"one world takes \(11,\)"):
        space.write(model, space.nominal[None])
    with pytest.raises(InputError, match="ξ must be 11 numbers"):
        space.check(["a"] * 11)
    with pytest.raises(InputError, match="'torso mass': scale -1 makes body_mass"):
        space.write(model, [-1.0, *space.nominal[1:]])
    with pytest.raises(InputError, match="another one"):
        space.write(load("ant", 20), space.nominal)
    with pytest.raises(InputError, match="a delay of 100 to 100 ms does not fit"):
        space.write(model, np.where(np.array(space.names) == "latency", 100.0, space.nominal))
    beyond = space.check([5.0, *space.nominal[1:]])  # outside the range, but possible
    space.write(model, beyond)
