"""A gap's shapes and edits give the model that a person would have written by hand."""

from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from sim2real import schema
from sim2real.make import make_env
from sim2real.simulation.edits import Edit, Shape, apply
from sim2real.simulation.gap import Actuators, Gap, Sensor
from sim2real.simulation.gymnasium_worlds import GymnasiumWorlds
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

ENGINES = pytest.mark.parametrize("engine", ["mjbatch", "reference"])


@pytest.fixture(scope="module")
def hopper():
    return Robot.load("hopper")


def arrays(model) -> dict[str, Any]:
    """Every array of a model and of its options."""
    parts = {"": model, "opt.": model.opt, "stat.": model.stat}
    return {
        prefix + name: np.array(value)
        for prefix, part in parts.items()
        for name in dir(part)
        if not name.startswith("_")
        and isinstance(value := getattr(part, name), np.ndarray | float | int)
    }


def differing(a, b) -> set[str]:
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    return {n for n in a if a[n].shape != b[n].shape or not np.array_equal(a[n], b[n])}


def commands(size, steps=60, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (steps, size))


def run(worlds, action):
    """(T, nq + nv) of the first world."""
    worlds.reset()
    states = []
    for a in action:
        worlds.advance(np.tile(a, (worlds.num_worlds, 1)))
        states.append(np.concatenate([worlds.data["qpos"][0], worlds.data["qvel"][0]]))
    return np.array(states)


def plain(model, start, action, frame_skip):
    """The same with nothing but MuJoCo."""
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = start.qpos, start.qvel
    mujoco.mj_forward(model, data)
    states = []
    for a in action:
        data.ctrl[:] = a
        mujoco.mj_step(model, data, frame_skip)
        states.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(states)


# Edits of the compiled model

ONE_FIELD = {
    "the friction of all geoms": (
        Edit("geom_friction", 0.5),
        lambda m: np.multiply(m.geom_friction, 0.5, out=m.geom_friction),
        {"geom_friction"},
    ),
    "gravity": (
        Edit("gravity", 0.5, axis=2),
        lambda m: np.multiply(m.opt.gravity, [1, 1, 0.5], out=m.opt.gravity),
        {"opt.gravity"},
    ),
    "both ends of a range": (
        Edit("jnt_range", 0.8, select="foot_joint"),
        lambda m: np.multiply(m.jnt_range[5], 0.8, out=m.jnt_range[5]),
        {"jnt_range"},
    ),
    "one end of a range": (
        Edit("jnt_range", -1.0, select="leg_joint", axis=0, op="set", unit="rad"),
        lambda m: m.jnt_range.__setitem__((4, 0), -1.0),
        {"jnt_range"},
    ),
    "a dead motor": (
        Edit("actuator_gear", 0.0, select="#0", axis=0),
        lambda m: m.actuator_gear.__setitem__((0, 0), 0.0),
        {"actuator_gear", "actuator_acc0"},
    ),
    "the damping of one joint": (
        Edit("dof_damping", 2.0, select="leg_joint", op="set"),
        lambda m: m.dof_damping.__setitem__(4, 2.0),
        {"dof_damping"},
    ),
}


@ENGINES
@pytest.mark.parametrize("case", ONE_FIELD)
def test_worlds_of_an_edit_are_those_of_the_model_edited_by_hand(hopper, engine, case):
    edit, by_hand, fields = ONE_FIELD[case]
    worlds = Worlds(hopper, 2, gap=Gap(edits=[edit]), engine=engine, threads=1)
    assert differing(worlds.model, hopper.model) == fields
    action = np.clip(0.3 * commands(3) + [0.0, -1.0, -1.0], -1, 1)  # into the limits
    moved = run(worlds, action)
    model = hopper.compile()
    by_hand(model)
    mujoco.mj_setConst(model, mujoco.MjData(model))
    skip = hopper.config.frame_skip
    np.testing.assert_array_equal(moved, plain(model, worlds.starts[0], action, skip))
    nominal = plain(hopper.compile(), worlds.starts[0], action, skip)
    assert np.abs(moved - nominal).max() > 1e-6, "the edit does nothing"


def test_without_shape_and_edits_nothing_is_different(hopper):
    worlds = Worlds(hopper, 1, gap=Gap(description="none"))
    assert worlds.space is hopper.space
    assert not differing(worlds.model, hopper.model)


def test_the_robot_itself_keeps_its_model(hopper):
    before = arrays(hopper.model)
    gap = Gap(edits=[Edit("body_mass", 2.0)], shape=[Shape(geom="leg_geom", size=(0.1, 0.3))])
    worlds = Worlds(hopper, 1, gap=gap)
    assert worlds.model.body_mass.sum() > 2 * hopper.model.body_mass.sum()
    assert all(np.array_equal(before[n], v) for n, v in arrays(hopper.model).items())
    assert not differing(hopper.compile(), hopper.model)


def test_edits_follow_each_other(hopper):
    edits = [Edit("geom_friction", 2.0), Edit("geom_friction", 0.25, select="foot_geom", axis=0)]
    model = Worlds(hopper, 1, gap=Gap(edits=edits)).model
    factor = model.geom_friction / hopper.model.geom_friction
    assert factor[model.geom("foot_geom").id].tolist() == [0.5, 2.0, 2.0]
    assert (factor[:-1] == 2.0).all()


@pytest.mark.parametrize("env", ["hopper", "halfcheetah"])
def test_a_mass_takes_its_inertia_and_the_derived_constants_along(env):
    robot = Robot.load(env)
    torso = robot.model.body("torso").id
    model = robot.compile(Gap(edits=[Edit("body_mass", 1.5, select="torso")]))
    ratio = 1.5
    assert model.body_mass[torso] == ratio * robot.model.body_mass[torso]
    np.testing.assert_array_equal(
        model.body_inertia[torso], ratio * robot.model.body_inertia[torso]
    )
    gained = 0.5 * robot.model.body_mass[torso]
    assert model.body_subtreemass[torso] == pytest.approx(
        robot.model.body_subtreemass[torso] + gained, rel=1e-12
    )
    assert (model.dof_invweight0[:3] < robot.model.dof_invweight0[:3]).all()

    # control: the mass alone is another robot, and one step shows it
    bare = robot.compile()
    bare.body_mass[torso] *= ratio
    mujoco.mj_setConst(bare, mujoco.MjData(bare))
    worlds = Worlds(robot, 1)
    worlds.reset()
    action = commands(robot.model.nu, 1)
    skip = robot.config.frame_skip
    right, wrong = (plain(m, worlds.starts[0], action, skip) for m in (model, bare))
    assert np.abs(right - wrong).max() > 1e-3


@ENGINES
def test_xi_acts_on_the_edited_model(hopper, engine):
    gap = Gap(
        xi={"torso_mass": 1.5, "floor_friction": 0.5},
        edits=[
            Edit("body_mass", 2.0, select="torso"),
            Edit("geom_friction", 0.1),
            Edit("gravity", 2.0, axis=2),
        ],
    )
    worlds = Worlds(hopper, 2, gap=gap, engine=engine, threads=1)
    assert worlds.space.names == hopper.space.names
    np.testing.assert_array_equal(worlds.space.low, hopper.space.low)
    action = commands(3)
    moved = run(worlds, action)
    assert (worlds.xi[:, 0] == 1.5).all()

    model = hopper.compile()
    torso = model.body("torso").id
    model.body_mass[torso] *= 3.0
    model.body_inertia[torso] *= 3.0
    model.geom_friction[:] *= 0.1
    model.geom_friction[:, 0] *= 0.5
    model.opt.gravity[2] *= 2.0
    mujoco.mj_setConst(model, mujoco.MjData(model))
    expected = plain(model, worlds.starts[0], action, hopper.config.frame_skip)
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-9)


def test_the_nominal_value_of_a_set_parameter_is_the_edited_models(cart_folder):
    with (cart_folder / "env.yaml").open("a") as file:
        file.write("  - {name: drag, field: dof_damping, op: set, low: 0, high: 2}\n")
    worlds = Worlds(Robot.load(cart_folder), 1, gap=Gap(edits=[Edit("dof_damping", 0.7, op="set")]))
    worlds.reset()
    assert worlds.xi[0, -1] == 0.7
    worlds.advance(np.ones((1, 1)))
    first = worlds.data["qvel"][0, 0]
    assert 0.0 < first < 0.02 * 3 / 2, "undamped it would be 3 N / 2 kg for 20 ms"


def test_edits_alone_leave_commands_and_observations_as_they_are(hopper):
    edits = [Edit("gravity", 0.5, axis=2)]
    worlds = Worlds(hopper, 1, gap=Gap(edits=edits, xi={"torso_mass": 1.2}))
    assert worlds._reality is None
    noisy = Worlds(hopper, 1, gap=Gap(edits=edits, sensors={"pitch": Sensor(noise=0.1)}),
                   observe="measured")  # fmt: skip
    assert noisy._reality is not None
    lagged = Worlds(hopper, 1, gap=Gap(edits=edits, actuators=Actuators(lag_ms=20.0)))
    assert lagged.model.na == 3
    assert lagged.model.opt.gravity[2] == 0.5 * -9.81


# Shapes

LONG = '<geom friction="0.9" name="torso_geom" size="0.1" type="capsule" fromto="0 0 -.2 0 0 .44"/>'
SHAPES = [
    (
        '<geom friction="0.9" name="torso_geom" size="0.05 0.19999999999999996" type="capsule"/>',
        LONG,
        Shape(geom="torso_geom", fromto=(0, 0, -0.2, 0, 0, 0.44), size=(0.1,)),
    ),
    (
        '<geom friction="0.9" name="leg_geom" size="0.04 0.25" type="capsule"/>',
        '<geom friction="0.9" name="leg_geom" size="0.03 0.2" type="capsule" pos="0 0 .05"/>',
        Shape(geom="leg_geom", size=(0.03, 0.2), pos=(0, 0, 0.05)),
    ),
    ('<body name="foot" pos="0.13 0 -0.35">', '<body name="foot" pos="0.15 0 -0.3">',
     Shape(body="foot", pos=(0.15, 0, -0.3))),
    ('name="foot_joint" pos="-0.13 0 0.1"', 'name="foot_joint" pos="-0.1 0 0.1"',
     Shape(joint="foot_joint", pos=(-0.1, 0, 0.1))),
]  # fmt: skip


def from_text(text):
    """The model of a text, with the robot's own buffers for delays."""
    spec = mujoco.MjSpec.from_string(text)
    for actuator in spec.actuators:
        actuator.nsample, actuator.delay, actuator.interp = 64, 0.0, 0
    return spec.compile()


def test_a_shape_is_the_model_whose_text_says_so(hopper):
    nominal = hopper.model_path.read_text()
    for n in range(1, len(SHAPES) + 1):
        text = nominal
        for old, new, _ in SHAPES[:n]:
            assert text.count(old) == 1
            text = text.replace(old, new)
        model = hopper.compile(Gap(shape=[shape for *_, shape in SHAPES[:n]]))
        assert not differing(model, from_text(text))
        assert differing(model, hopper.model)


def test_shapes_come_before_edits_and_xi(hopper):
    shape = [Shape(geom="torso_geom", fromto=(0, 0, -0.2, 0, 0, 0.28), size=(0.075,))]
    heavy = hopper.compile(Gap(shape=shape)).body("torso").mass[0]
    gap = Gap(shape=shape, edits=[Edit("body_mass", 2.0, select="torso")], xi={"torso_mass": 0.8})
    worlds = Worlds(hopper, 1, gap=gap, engine="reference", threads=1)
    worlds.reset()
    own: Any = worlds._engine
    assert own._models[0].body("torso").mass[0] == pytest.approx(1.6 * heavy, rel=1e-12)


def test_a_geom_between_two_ends_keeps_them_when_it_is_only_made_thicker():
    robot = Robot.load("halfcheetah")
    model = robot.compile(Gap(shape=[Shape(geom="torso", size=(0.1,))]))
    assert model.geom("torso").size.tolist() == [0.1, 0.5, 0.0]
    assert model.body_mass.sum() == pytest.approx(14.0, rel=1e-12)


# Gymnasium environments


@pytest.fixture
def gymnasium_hopper(tmp_path):
    folder = tmp_path / "gym_hopper"
    folder.mkdir()
    (folder / "env.yaml").write_text(
        "description: Gymnasium's own.\ngymnasium: Hopper-v5\nparameters:\n"
        "  - {name: torso_mass, field: body_mass, select: torso, low: 0.5, high: 2}\n"
    )
    return Robot.load(folder)


def test_edits_in_a_gymnasium_environment(gymnasium_hopper):
    """Against Gymnasium's own environment, whose model is edited by hand."""
    gap = Gap(edits=[Edit("gravity", 0.5, axis=2), Edit("geom_friction", 0.1)],
              xi={"torso_mass": 1.5})  # fmt: skip
    worlds = GymnasiumWorlds(gymnasium_hopper, 2, gap=gap, seed=3, threads=1)
    env: Any = gymnasium.make("Hopper-v5")
    model = env.unwrapped.model
    model.opt.gravity[2] *= 0.5
    model.geom_friction[:] *= 0.1
    torso = model.body("torso").id
    model.body_mass[torso] *= 1.5
    model.body_inertia[torso] *= 1.5
    mujoco.mj_setConst(model, mujoco.MjData(model))
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(worlds.reset()[0], obs)
    for a in commands(3, 20).astype(np.float32):
        obs, *_ = env.step(a)
        np.testing.assert_allclose(worlds.advance(np.tile(a, (2, 1))).obs[0], obs, atol=1e-9)
    assert gymnasium_hopper.model.opt.gravity[2] == -9.81


def test_shapes_are_refused_in_a_gymnasium_environment(gymnasium_hopper):
    gap = Gap(shape=[Shape(geom="leg_geom", size=(0.1, 0.3))])
    with pytest.raises(InputError, match=r"compiles its own model.*use edits"):
        GymnasiumWorlds(gymnasium_hopper, 1, gap=gap)


# Files and bad input


def test_a_gap_is_written_and_read(tmp_path):
    gap = Gap(
        edits=[Edit("jnt_range", 0.5, select="foot_joint"), Edit("gravity", -1.0, op="add")],
        shape=[Shape(body="foot", pos=(0.1, 0.0, -0.3)),
               Shape(geom="leg_geom", fromto=(0, 0, 0, 0, 0, 0.4), size=(0.03,))],
    )  # fmt: skip
    schema.write(gap, tmp_path / "gap.yaml")
    assert schema.read(Gap, tmp_path / "gap.yaml") == gap


BAD = {
    "an unknown field": ({"edits": [{"field": "geom_fricton", "value": 1}]},
                         r"edits\[0\]: no field 'geom_fricton' \(did you mean 'geom_friction'"),
    "an unknown element": ({"edits": [{"field": "jnt_range", "select": "fot_joint", "value": 0.5}]},
                           r"edits\[0\]: no joint 'fot_joint' \(did you mean 'foot_joint'\?\)"),
    "an axis": ({"edits": [{"field": "gravity", "axis": 3, "value": 0.5}]}, "axes 0 to 2"),
    "no value": ({"edits": [{"field": "gravity"}]}, r"edits\[0\]\.value: the key is missing"),
    "an op": ({"edits": [{"field": "gravity", "value": 1, "op": "multiply"}]}, "scale, add, set"),
    "a negative friction": ({"edits": [{"field": "geom_friction", "value": -1}]},
                            "must not be negative"),
    "no mass": ({"edits": [{"field": "body_mass", "value": 0}]}, "must be positive"),
    "a delay without its unit": ({"edits": [{"field": "actuator_delay", "value": 4}]},
                                 r"edits\[0\]: actuator_delay takes op set and unit ms"),
    "a delay that xi has": (
        {"edits": [{"field": "actuator_delay", "value": 4, "op": "set", "unit": "ms"}]},
        "no longer suits .*env.yaml: parameter 'action_latency'.*say it under xi",
    ),
    "a joint without limits": ({"edits": [{"field": "jnt_range", "select": "rootx", "value": 0.5}]},
                               "joint 'rootx' has no limits"),
    "an empty range": (
        {"edits": [{"field": "jnt_range", "select": "foot_joint", "axis": 0, "op": "set",
                    "value": 2}]},
        "range of joint 'foot_joint' is empty, from 2 to 0.78",
    ),
    "an unknown geom": ({"shape": [{"geom": "leg", "size": [0.1, 0.2]}]},
                        r"shape\[0\]: no geom 'leg'; there are floor, torso_geom"),
    "an unknown body": ({"shape": [{"body": "fot", "pos": [0, 0, 0]}]},
                        r"no body 'fot' \(did you mean 'foot'\?\); there are torso, thigh"),
    "a size too many": ({"shape": [{"geom": "leg_geom", "size": [0.1, 0.2, 0.3]}]},
                        "capsule and takes 2 sizes, not 3"),
    "a length that follows": (
        {"shape": [{"geom": "leg_geom", "fromto": [0, 0, 0, 0, 0, 1], "size": [0.1, 0.2]}]},
        "takes 1 sizes, not 2, for its length follows from fromto",
    ),
    "a negative size": ({"shape": [{"geom": "leg_geom", "size": [-0.1, 0.2]}]}, "must be positive"),
    "the floor": ({"shape": [{"geom": "floor", "size": [1, 1, 1]}]}, "is a plane"),
    "one point": ({"shape": [{"geom": "leg_geom", "fromto": [0, 0, 1, 0, 0, 1]}]}, "same point"),
    "two places": (
        {"shape": [{"geom": "leg_geom", "fromto": [0, 0, 0, 0, 0, 1], "pos": [0, 0, 0]}]},
        "leave out pos",
    ),
    "two elements": ({"shape": [{"geom": "leg_geom", "body": "leg", "pos": [0, 0, 0]}]},
                     "one geom, one body or one joint, not geom and body"),
    "no element": ({"shape": [{"pos": [0, 0, 0]}]}, "one geom, one body or one joint, not none"),
    "nothing to do": ({"shape": [{"body": "leg"}]}, "give fromto, size or pos"),
    "a thick body": ({"shape": [{"body": "leg", "size": [0.1]}]}, "a body has a pos"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_where_it_stands(case, tmp_path):
    content, message = BAD[case]
    schema.write(content, tmp_path / "wrong.yaml")
    with pytest.raises(InputError, match=message) as error:
        make_env("hopper", gap=tmp_path / "wrong.yaml")
    assert "wrong.yaml" in str(error.value)
    assert "parameter 'edit'" not in str(error.value)


def test_a_geom_with_two_ends_has_no_other_place():
    with pytest.raises(InputError, match="lies between two ends; give fromto"):
        Robot.load("halfcheetah").compile(Gap(shape=[Shape(geom="torso", pos=(0, 0, 0.1))]))


def test_an_edit_of_nothing_is_refused():
    """Pusher has no gravity to scale."""
    with pytest.raises(InputError, match=r"edits\[0\]: gravity is 0 there.*use op add or set"):
        apply(Robot.load("pusher").compile(), [Edit("gravity", 2.0, axis=2)])
    with pytest.raises(InputError, match="must be finite"):
        Edit("gravity", np.nan)
