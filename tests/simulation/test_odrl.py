"""The gaps after ODRL and DARC do to the model what the benchmark says, seen where it takes effect.

Levels and ranges are those of ODRL (arXiv 2410.20750); the masses were derived once by compiling
Gymnasium's files with changed text. Friction is read from contacts, for of two geoms the larger one
counts.
"""

from typing import Any

import mujoco
import numpy as np
import pytest

from sim2real import content
from sim2real.simulation.edits import Edit
from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.worlds import Worlds

ENVS = ("ant", "halfcheetah", "hopper", "walker2d")
LEVELS = ("0.1", "0.5", "2", "5")
GRADES = {"easy": 0.8, "medium": 0.5, "hard": 0.2}
NAMES = [
    *(f"odrl_{kind}_{level}" for kind in ("friction", "gravity") for level in LEVELS),
    *(f"odrl_{kind}_{grade}" for kind in ("kinematic", "morphology") for grade in GRADES),
]
NOMINAL_FRICTION = {"hopper": 2.0, "walker2d": 1.9, "halfcheetah": 0.4, "ant": 1.0}
every_env = pytest.mark.parametrize("env", ENVS)


def contacts(worlds, steps=40, seed=0):
    """(n, 3) the two geoms and the sliding friction of every contact that the first world makes."""
    engine: Any = worlds._engine
    rng = np.random.default_rng(seed)
    worlds.reset()
    seen = []
    for _ in range(steps):
        size = (worlds.num_worlds, len(worlds.action_low))
        worlds.advance(0.5 * rng.uniform(-1, 1, size))
        contact = engine._data[0].contact
        seen += [(*g, f[0]) for g, f in zip(contact.geom, contact.friction, strict=True)]
    assert seen, "nothing has touched the floor"
    return np.array(seen)


def reference(env, gap):
    return Worlds(Robot.load(env), 1, gap=gap, engine="reference", threads=1)


def robot_only(env, level):
    """The planted error: every geom but the floor."""
    model = Robot.load(env).model
    names = [model.geom(i).name for i in range(model.ngeom)]
    edits = [Edit("geom_friction", level, select=n) for n in names if n != "floor"]
    return Gap(edits=edits)


@every_env
def test_every_gap_is_there_and_found_by_name_and_by_path(env):
    assert set(NAMES) <= set(content.gap_names(env))
    robot = Robot.load(env)
    for name in NAMES:
        file = content.gap_file(env, name)
        assert file == content.env_folder(env) / "gaps" / f"{name}.yaml"
        assert content.gap_file(env, file) == file
        gap = robot.gap(name)
        assert gap.edited
        assert gap.in_the_model
        assert not gap.xi, "ξ is free for randomization and for other gaps"
        level = name.rpartition("_")[2]
        assert f"ODRL's {name.split('_')[1]} {level}" in gap.description
        assert "v5" in gap.description, "what differs from ODRL is said"


@every_env
@pytest.mark.parametrize("name", NAMES)
def test_it_steps_and_differs_from_the_nominal_robot(env, name):
    robot = Robot.load(env)
    nominal, there = Worlds(robot, 2, threads=1), Worlds(robot, 2, gap=name, threads=1)
    apart = 0.0
    rng = np.random.default_rng(0)
    for worlds in (nominal, there):
        worlds.reset()
    for t in range(100):
        # commands that hold their sign drive joints into their limits
        action = np.where((t // 25) % 2, 1.0, -1.0) * rng.uniform(0.5, 1, there.action_low.shape)
        for worlds in (nominal, there):
            worlds.advance(np.tile(action.astype(np.float32), (2, 1)))
        apart = max(apart, np.abs(nominal.data["qpos"] - there.data["qpos"]).max())
    assert np.isfinite(there.data["qpos"]).all()
    assert apart > 1e-3


# R1: friction, where it acts


@every_env
@pytest.mark.parametrize("level", LEVELS)
def test_contacts_slide_with_the_level_times_the_nominal_friction(env, level):
    worlds = reference(env, f"odrl_friction_{level}")
    nominal = worlds.robot.model.geom_friction[:, 0]
    found = contacts(worlds)
    a, b = found[:, 0].astype(int), found[:, 1].astype(int)
    expected = float(level) * np.maximum(nominal[a], nominal[b])
    np.testing.assert_allclose(found[:, 2], expected, rtol=1e-12)
    feet = float(level) * NOMINAL_FRICTION[env]
    assert np.isclose(found[:, 2], feet, rtol=1e-12).any(), f"no foot slides with {feet:g}"


@pytest.mark.parametrize("env", ["halfcheetah", "ant"])
@pytest.mark.parametrize("level", [0.1, 0.5])
def test_scaling_the_robot_alone_leaves_contacts_as_they_are(env, level):
    found = contacts(reference(env, robot_only(env, level)))
    on_floor = found[(found[:, :2] == 0).any(axis=1), 2]
    assert (on_floor == NOMINAL_FRICTION[env]).all()


def test_without_the_floor_two_levels_of_the_hopper_are_one_environment():
    """ODRL's own files leave the floor at 1; ours do not."""

    def run(gap):
        worlds = Worlds(Robot.load("hopper"), 1, gap=gap, threads=1)
        worlds.reset()
        rng = np.random.default_rng(0)
        return np.array([worlds.step(rng.uniform(-1, 1, (1, 3))).obs for _ in range(300)])

    one, other = (run(robot_only("hopper", level)) for level in (0.1, 0.5))
    np.testing.assert_array_equal(one, other)
    one, other = (run(f"odrl_friction_{level}") for level in (0.1, 0.5))
    assert np.abs(one - other).max() > 0.01


# Gravity


@every_env
@pytest.mark.parametrize("level", LEVELS)
def test_a_robot_in_the_air_falls_with_the_level_times_gravity(env, level):
    worlds = Worlds(Robot.load(env), 1, gap=f"odrl_gravity_{level}", threads=1)
    assert worlds.model.opt.gravity.tolist() == [0.0, 0.0, -9.81 * float(level)]
    data = mujoco.MjData(worlds.model)
    data.qpos[2 if env == "ant" else 1] += 5.0
    mujoco.mj_forward(worlds.model, data)
    jacobian = np.zeros((3, worlds.model.nv))  # of the centre of mass of the whole robot

    def falling():
        mujoco.mj_jacSubtreeCom(worlds.model, data, jacobian, 1)
        return jacobian[2] @ data.qvel

    before, steps = falling(), 5
    mujoco.mj_step(worlds.model, data, steps)
    fallen = (falling() - before) / (steps * worlds.model.opt.timestep)
    assert fallen == pytest.approx(-9.81 * float(level), rel=2e-2)


# Kinematic


def degrees(model, joint):
    return np.degrees(model.joint(joint).range)


@pytest.mark.parametrize("grade", GRADES)
def test_ranges_shrink_as_in_the_table(grade):
    share = GRADES[grade]
    leg, foot = {"easy": (-120, 36), "medium": (-75, 22.5), "hard": (-30, 9)}[grade]
    ankle = {"easy": 62, "medium": 50, "hard": 38}[grade]
    hip = {"easy": 24, "medium": 15, "hard": 6}[grade]
    expected: dict[str, dict[str, Any]] = {
        "hopper": {"leg_joint": (leg, 0), "foot_joint": (-foot, foot)},
        "walker2d": {
            **{f"thigh{side}_joint": (leg, 0) for side in ("", "_left")},
            **{f"foot{side}_joint": (-foot, foot) for side in ("", "_left")},
        },
        "halfcheetah": {
            "bfoot": np.degrees([-0.4 * share, 0.785 * share]),
            "ffoot": np.degrees([-0.5 * share, 0.5 * share]),
        },
        "ant": {
            **{f"hip_{i}": (-hip, hip) for i in (1, 2, 3, 4)},
            **{f"ankle_{i}": (30, ankle) for i in (1, 4)},
            **{f"ankle_{i}": (-ankle, -30) for i in (2, 3)},
        },
    }
    for env, joints in expected.items():
        robot = Robot.load(env)
        model = robot.compile(robot.gap(f"odrl_kinematic_{grade}"))
        for j in range(model.njnt):
            name = model.joint(j).name
            should = joints.get(name, degrees(robot.model, name))
            np.testing.assert_allclose(degrees(model, name), should, rtol=0, atol=1e-4)


def test_motion_shrinks_with_the_range():
    """The limits are soft, so that a joint may overshoot: what it reaches follows its range."""

    def reach(gap):
        worlds = Worlds(Robot.load("hopper"), 8, gap=gap, threads=1)
        worlds.reset()
        rng, furthest = np.random.default_rng(0), 0.0
        for t in range(100):
            push = np.where((t // 20) % 2, 1.0, -1.0) * rng.uniform(0.5, 1, (8, 3))
            worlds.advance(push)
            furthest = max(furthest, np.abs(worlds.data["qpos"][:, 5]).max())
        return furthest

    reaches = [reach(gap) for gap in (None, *(f"odrl_kinematic_{g}" for g in GRADES))]
    assert reaches == sorted(reaches, reverse=True)
    assert reaches[-1] < 0.5 * reaches[0]


# R3: morphology

MASSES = {  # env -> gap's level -> body -> kg; "" is the whole robot
    "hopper": {
        "easy": {"torso": 10.25, "": 22.4},
        "medium": {"torso": 24.30, "": 36.5},
        "hard": {"torso": 47.45, "": 59.6},
    },
    "walker2d": {"easy": {"torso": 10.25}, "medium": {"torso": 24.30}, "hard": {"torso": 47.45}},
    "halfcheetah": {
        "easy": {"torso": 5.73, "": 14.0},
        "medium": {"torso": 4.81, "": 14.0},
        "hard": {"torso": 3.65, "": 14.0},
    },
    "ant": {"easy": {"": 0.865}, "medium": {"": 0.797}, "hard": {"": 0.729}},
}


LIMBS: dict[str, tuple[str, dict[str, dict[str, float]]]] = {
    "hopper": ("foot", {"easy": {"foot": 2.72}, "medium": {"foot": 1.15}, "hard": {"foot": 0.34}}),
    "walker2d": (
        "leg",
        {
            "easy": {"thigh": 4.84, "thigh_left": 4.84, "leg": 2.28, "leg_left": 2.28},
            "medium": {"thigh": 6.02, "thigh_left": 6.02, "leg": 1.525, "leg_left": 1.525},
            "hard": {"thigh": 7.20, "thigh_left": 7.20, "leg": 0.77, "leg_left": 0.77},
        },
    ),
    "halfcheetah": (
        "thigh",
        {
            "easy": {"bthigh": 1.09, "": 14.0},
            "medium": {"bthigh": 0.90, "": 14.0},
            "hard": {"bthigh": 0.49, "": 14.0},
        },
    ),
    "ant": ("half_legs", {"easy": {"": 0.888}, "medium": {"": 0.854}, "hard": {"": 0.820}}),
}
CHANGED = [
    *((e, g, f"odrl_morphology_{g}", MASSES[e][g]) for e in MASSES for g in GRADES),
    *((e, g, f"odrl_morphology_{LIMBS[e][0]}_{g}", LIMBS[e][1][g]) for e in LIMBS for g in GRADES),
]


@pytest.mark.parametrize(("env", "grade", "gap", "masses"), CHANGED, ids=lambda x: str(x)[:30])
def test_masses_follow_from_the_geometry(env, grade, gap, masses):
    robot = Robot.load(env)
    model = robot.compile(robot.gap(gap))
    for body, kg in masses.items():
        mass = model.body(body).mass[0] if body else model.body_mass.sum()
        digits = len(str(kg).partition(".")[2])
        assert mass == pytest.approx(kg, abs=0.51 * 10**-digits), body


def test_the_total_of_the_cheetah_holds_and_text_would_lose_it():
    robot = Robot.load("halfcheetah")
    assert robot.model.body_mass.sum() == pytest.approx(14.0, rel=1e-12)
    for grade in GRADES:
        model = robot.compile(robot.gap(f"odrl_morphology_{grade}"))
        assert model.body_mass.sum() == pytest.approx(14.0, rel=1e-12)

    assert isinstance(robot, MjcfRobot)
    spec = mujoco.MjSpec.from_file(str(robot.model_path))
    spec.compile()
    lost = mujoco.MjSpec.from_string(spec.to_xml()).compile()
    assert lost.body_mass.sum() == pytest.approx(21.18, abs=0.005)


def test_limbs_hang_where_the_changed_ones_end():
    robot = Robot.load("halfcheetah")
    for grade, half in {"easy": 0.4, "medium": 0.25, "hard": 0.1}.items():
        model = robot.compile(robot.gap(f"odrl_morphology_{grade}"))
        assert model.geom("torso").size[1] == pytest.approx(half)
        assert model.geom("head").pos[0] == pytest.approx(half + 0.1)
        assert model.body("bthigh").pos[0] == -half
        assert model.body("fthigh").pos[0] == half
    robot = Robot.load("hopper")
    for grade, (top, radius) in {"easy": (0.28, 0.075), "medium": (0.44, 0.1),
                                 "hard": (0.6, 0.125)}.items():  # fmt: skip
        model = robot.compile(robot.gap(f"odrl_morphology_{grade}"))
        geom = model.geom("torso_geom")
        np.testing.assert_allclose(geom.size[:2], [radius, (top + 0.2) / 2])
        assert geom.pos[2] == pytest.approx((top - 0.2) / 2)

    robot = Robot.load("walker2d")
    for grade, knee in {"easy": 0.5, "medium": 0.35, "hard": 0.2}.items():
        model = robot.compile(robot.gap(f"odrl_morphology_leg_{grade}"))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        for side in ("", "_left"):
            thigh, leg = data.geom(f"thigh{side}_geom"), model.geom(f"leg{side}_geom")
            assert data.joint(f"leg{side}_joint").xanchor[2] == pytest.approx(knee)
            half = model.geom(f"thigh{side}_geom").size[1]
            assert thigh.xpos[2] - half == pytest.approx(knee), "the thigh ends at the knee"
            assert 2 * leg.size[1] == pytest.approx(knee - 0.1), "the foot stays where it is"


# DARC


def test_a_dead_actuator_is_dead_and_the_others_are_not():
    robot = Robot.load("halfcheetah")
    assert robot.actuators[0] == "bthigh"

    def after(gap, command):
        worlds = Worlds(robot, 1, gap=gap, threads=1)
        worlds.reset()
        steps = [worlds.advance(np.array([command])) for _ in range(20)]
        return worlds.data["qpos"].copy(), sum(s.reward[0] for s in steps)

    rest = np.zeros(6)
    for i in range(6):
        command = np.eye(6)[i]
        still, _ = after("dead_actuator", rest)
        moved, _ = after("dead_actuator", command)
        assert np.array_equal(moved, still) == (i == 0)
        assert not np.array_equal(after(None, command)[0], after(None, rest)[0])
    paid = after("dead_actuator", rest)[1] - after("dead_actuator", np.eye(6)[0])[1]
    assert paid == pytest.approx(20 * 0.1), "the reward pays for the command"
