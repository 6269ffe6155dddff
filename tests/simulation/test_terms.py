"""Observation terms against MuJoCo's own quantities, and back to the state they were read from."""

import mujoco
import numpy as np
import pytest

from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.terms import (
    SOURCES,
    TermConfig,
    quaternion_from_gravity,
    resolve,
    state_from,
)
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

MEASURED = ("halfcheetah", "hopper", "walker2d", "ant", "humanoid", "reacher", "pusher",
            "inverted_pendulum", "inverted_double_pendulum")  # fmt: skip


def term(model, source, *joints):
    return resolve("x", TermConfig(source, "1", "s", joints=joints), model, "env.yaml: terms: x")


def random_states(model, n, seed=0):
    """n MjData somewhere, moving; their data as worlds give them."""
    rng = np.random.default_rng(seed)
    states = []
    for _ in range(n):
        data = mujoco.MjData(model)
        data.qpos[:] = rng.normal(size=model.nq)
        data.qvel[:] = rng.normal(size=model.nv)
        mujoco.mj_normalizeQuat(model, data.qpos)
        mujoco.mj_forward(model, data)
        states.append(data)
    return states, {f: np.stack([getattr(s, f) for s in states]) for f in ("qpos", "qvel", "xpos")}


def test_joint_terms_read_the_joints_that_they_name():
    model = Robot.load("ant").model
    states, data = random_states(model, 5)
    names = ("ankle_3", "hip_1")
    position, velocity = (term(model, f"joint_{x}", *names) for x in ("position", "velocity"))
    for i, state in enumerate(states):
        for j, name in enumerate(names):
            assert position.read(data)[i, j] == state.joint(name).qpos[0]
            assert velocity.read(data)[i, j] == state.joint(name).qvel[0]
    assert position.elements == velocity.elements == names
    assert (position.size, velocity.size) == (2, 2)


def test_gravity_and_gyro_are_what_an_imu_on_the_body_says():
    """Against MuJoCo's rotation matrix and its velocity of the body in the body's own frame."""
    model = Robot.load("ant").model
    torso = model.body("torso").id
    states, data = random_states(model, 20)
    gravity, gyro = (
        term(model, "gravity", "root").read(data),
        term(model, "gyro", "root").read(data),
    )
    velocity = np.zeros(6)
    for i, state in enumerate(states):
        R = state.xmat[torso].reshape(3, 3)
        np.testing.assert_allclose(gravity[i], R.T @ [0.0, 0.0, -1.0], atol=1e-12)
        mujoco.mj_objectVelocity(model, state, mujoco.mjtObj.mjOBJ_BODY, torso, velocity, 1)
        np.testing.assert_allclose(gyro[i], velocity[:3], atol=1e-12)


def test_gravity_is_a_unit_vector_before_mujoco_normalises_the_quaternion():
    """Ant's initial quaternion has noise on every entry."""
    robot = Robot.load("ant")
    worlds = Worlds(robot, 20, observe=["gravity"])
    told = worlds.reset()
    quaternion = worlds.data["qpos"][:, 3:7]
    assert np.abs(np.linalg.norm(quaternion, axis=1) - 1).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(told, axis=1), 1.0, rtol=1e-12)
    normalised = quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)
    same = robot.terms["gravity"].read({"qpos": np.insert(normalised, 0, np.zeros((3, 1)), axis=1)})
    np.testing.assert_allclose(told, same, atol=1e-12)


def test_a_gravity_direction_gives_roll_and_pitch_with_yaw_zero():
    model = Robot.load("ant").model
    _, data = random_states(model, 200)
    gravity = term(model, "gravity", "root").read(data)
    quaternion = quaternion_from_gravity(3.7 * gravity)  # only the direction counts
    np.testing.assert_allclose(np.linalg.norm(quaternion, axis=1), 1.0, rtol=1e-12)
    R, forward = np.zeros(9), []
    for q, g in zip(quaternion, gravity, strict=True):
        mujoco.mju_quat2Mat(R, q)
        np.testing.assert_allclose(R.reshape(3, 3).T @ [0.0, 0.0, -1.0], g, atol=1e-12)
        forward.append(R.reshape(3, 3)[:, 0])
    assert np.abs(np.array(forward)[:, 1]).max() < 1e-12
    assert np.array(forward)[:, 0].min() > -1e-12


def test_body_positions_are_those_of_the_bodies():
    model = Robot.load("pusher").model
    states, data = random_states(model, 4)
    bodies = term(model, "body_position", "object", "tips_arm")
    for i, state in enumerate(states):
        expected = np.concatenate([state.body("object").xpos, state.body("tips_arm").xpos])
        np.testing.assert_array_equal(bodies.read(data)[i], expected)
    assert bodies.elements == ("object.x", "object.y", "object.z",
                               "tips_arm.x", "tips_arm.y", "tips_arm.z")  # fmt: skip


@pytest.mark.parametrize("gap", [None, "worn"])
def test_the_last_action_is_the_command_as_given(gap):
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 3, gap=gap, observe=["last_action"])
    assert not worlds.reset().any()
    action = np.random.default_rng(0).uniform(-1, 1, (3, 3)).astype(np.float32)
    np.testing.assert_array_equal(worlds.advance(action).obs, action)
    assert not worlds.reset().any()


def test_commands_have_names_even_where_the_model_gives_none():
    robot = Robot.load("hopper")
    assert robot.terms["last_action"].elements == robot.actuators
    assert len(set(robot.actuators)) == 3
    assert all(robot.actuators)


@pytest.mark.parametrize("name", MEASURED)
def test_an_observation_is_its_terms_in_order(name):
    robot = Robot.load(name)
    worlds = Worlds(robot, 2, observe="measured")
    obs = worlds.reset()
    names = robot.config.observations["measured"]
    assert [t.name for t in worlds.terms] == names
    parts = [robot.terms[n].read(worlds.data) for n in names]
    np.testing.assert_array_equal(obs, np.concatenate(parts, axis=1))
    for t, part in zip(worlds.terms, parts, strict=True):
        assert part.shape == (2, t.size)
        assert len(t.elements) == t.size
    backwards = Worlds(robot, 2, observe=names[::-1]).reset()
    np.testing.assert_array_equal(backwards, np.concatenate(parts[::-1], axis=1))


@pytest.mark.parametrize(
    ("name", "unknown_qpos", "unknown_qvel"),
    [
        ("ant", [0, 1, 2], [0, 1, 2]),
        ("halfcheetah", [0, 1], [0, 1]),
        ("hopper", [0, 1], [0, 1]),
        ("humanoid", [0, 1, 2], [0, 1, 2]),
        ("inverted_double_pendulum", [], []),
        ("inverted_pendulum", [], []),
        ("pusher", [9, 10], [7, 8, 9, 10]),
        ("reacher", [], [2, 3]),
        ("walker2d", [0, 1], [0, 1]),
    ],
)
def test_what_a_robot_measures_gives_the_state_back(name, unknown_qpos, unknown_qvel):
    robot = Robot.load(name)
    assert isinstance(robot, MjcfRobot)
    model = robot.model
    states, _ = random_states(model, 6)
    fields = {"qpos", "qvel", "xpos", *robot.task.fields} - {"body_mass"}
    data = {f: np.stack([getattr(s, f) for s in states]) for f in fields}
    data["last_action"] = np.zeros((6, model.nu))
    values = {t.name: t.read(data) for t in robot.observation("measured")}
    logged = robot.state_from(values)
    assert logged is not None
    assert np.flatnonzero(~logged.known_qpos).tolist() == unknown_qpos
    assert np.flatnonzero(~logged.known_qvel).tolist() == unknown_qvel
    for told, known, true, nominal in (
        (logged.qpos, logged.known_qpos.copy(), data["qpos"], model.qpos0),
        (logged.qvel, logged.known_qvel.copy(), data["qvel"], np.zeros(model.nv)),
    ):
        np.testing.assert_array_equal(told[:, ~known], np.tile(nominal[~known], (6, 1)))
        if "gravity" in values and told is logged.qpos:
            again = robot.terms["gravity"].read({"qpos": told})
            np.testing.assert_allclose(again, values["gravity"], atol=1e-12)
            known[3:7] = False  # the quaternion is known up to its heading
        np.testing.assert_array_equal(told[:, known], true[:, known])


def test_commands_alone_say_nothing_of_the_state():
    robot = Robot.load("hopper")
    assert robot.state_from({"last_action": np.zeros((4, 3))}) is None
    assert robot.state_from({}) is None
    one = state_from([robot.terms["pitch"]], {"pitch": np.full((2, 1), 0.1)}, robot.model)
    assert one.known_qpos.tolist() == [False, False, True, False, False, False]
    assert not one.known_qvel.any()


def test_the_task_is_a_source_of_terms():
    robot = Robot.load("reacher")
    worlds = Worlds(robot, 3, observe=["target_to_fingertip"])
    told, xpos = worlds.reset(), worlds.data["xpos"]
    fingertip, target = (robot.model.body(name).id for name in ("fingertip", "target"))
    np.testing.assert_array_equal(told, xpos[:, fingertip] - xpos[:, target])
    assert robot.terms["target_to_fingertip"].access == "estimated"


@pytest.mark.parametrize(
    ("source", "joints", "message"),
    [
        (
            "joint_positon",
            ["hip_1"],
            "unknown source 'joint_positon' .did you mean 'joint_position'",
        ),
        ("joint_position", ["hip1"], "no joint 'hip1' .did you mean 'hip_1'.*they are root, hip_1"),
        ("joint_velocity", [], "'joints' is empty; name at least one joint"),
        (
            "joint_position",
            ["root"],
            "'root' is neither a hinge nor a slide; use the sources gravity",
        ),
        ("gravity", ["hip_1"], "'hip_1' is not a free joint"),
        ("gyro", [], "'joints' must name exactly one free joint"),
        ("gyro", ["root", "hip_1"], "'joints' must name exactly one free joint"),
        ("body_position", ["trso"], "no body 'trso' .did you mean 'torso'"),
    ],
)
def test_wrong_sources_and_elements_are_refused(source, joints, message):
    with pytest.raises(InputError, match=message) as error:
        term(Robot.load("ant").model, source, *joints)
    assert str(error.value).startswith("env.yaml: terms: x: ")


def test_every_source_is_tried_here():
    assert set(SOURCES) == {"joint_position", "joint_velocity", "gravity", "gyro",
                            "body_position", "last_action"}  # fmt: skip
