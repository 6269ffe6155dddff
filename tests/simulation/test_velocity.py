"""The quadruped: its model against the public figures, its servos, its task and its gears."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from sim2real.simulation.friction import GearFriction
from sim2real.simulation.gap import Actuators, Draw, Gap, Mounting, Network, ServoFriction
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.servos import servos
from sim2real.simulation.tasks import velocity
from sim2real.simulation.tasks.velocity import Velocity
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

GO1: Any = Robot.load("go1")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "build_go1.py"
HIPS, CALVES = slice(0, 12, 3), slice(2, 12, 3)


def stand(worlds, gap=None, **options):
    w = Worlds(GO1, worlds, gap=gap, observe="measured", threads=1, **options)
    w.reset()
    return w


def test_the_model_is_what_the_figures_give():
    subprocess.run([sys.executable, str(TOOL), "--check"], check=True)


def test_feet_slide_as_far_whichever_way_the_robot_heads():
    """Cones of friction, not MuJoCo's pyramids, whose edges lie along the axes of the world."""
    moved = []
    for yaw in (0.0, np.pi / 4):
        model = GO1.compile()
        data = mujoco.MjData(model)
        model.geom_friction[:, 0] = 0.2
        data.qpos[:] = GO1.task.init_qpos
        data.qpos[3:7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        data.ctrl[:] = GO1.task.rest
        mujoco.mj_step(model, data, 400)
        begin = data.qpos[:2].copy()
        data.xfrc_applied[1, :2] = 30 * np.cos(yaw), 30 * np.sin(yaw)
        mujoco.mj_step(model, data, 100)
        moved.append(np.linalg.norm(data.qpos[:2] - begin))
    assert moved[0] > 0.02
    assert moved[1] == pytest.approx(moved[0], rel=1e-3)


def test_feet_that_stand_hardly_creep():
    """Less than a millimetre a second; with impratio 1, MuJoCo's default, more than that."""
    creep = []
    for impratio in (None, 1.0):
        model = GO1.compile()
        model.opt.impratio = impratio or model.opt.impratio
        data = mujoco.MjData(model)
        data.qpos[:], data.ctrl[:] = GO1.task.init_qpos, GO1.task.rest
        feet = [model.geom(f"{leg}_foot").id for leg in ("FR", "FL", "RR", "RL")]
        mujoco.mj_step(model, data, 500)
        begin = data.geom_xpos[feet].copy()
        mujoco.mj_step(model, data, 1000)
        creep.append(np.linalg.norm(data.geom_xpos[feet] - begin, axis=1).max() / 4)
    assert creep[0] < 1e-3 < creep[1]


def test_masses_are_those_of_the_urdf():
    """Sums of const.xacro: a leg of hip, thigh, calf, foot and two rotors; a trunk with four."""
    model = GO1.model
    leg = 0.591 + 0.92 + 0.135862 + 0.06 + 2 * 0.089
    payload = model.body("payload").mass[0]
    assert model.body_subtreemass[model.body("FR_hip").id] == pytest.approx(leg, abs=1e-9)
    total = 5.204 + 4 * 0.089 + 4 * leg + payload
    assert model.body_subtreemass[model.body("trunk").id] == pytest.approx(total, abs=1e-9)
    # mujoco_menagerie states the joined hip: mass, centre and moments
    hip = model.body("FR_hip")
    assert hip.mass[0] == pytest.approx(0.68)
    np.testing.assert_allclose(hip.ipos, (-0.0049166, 0.00762615, -8.865e-05), atol=1e-8)
    moments = (0.000734064, 0.000468438, 0.000398719)
    np.testing.assert_allclose(np.sort(hip.inertia), np.sort(moments), rtol=2e-3)


@pytest.mark.parametrize(("leg", "limit", "fastest"), [(HIPS, 23.7, 30.1), (CALVES, 35.55, 20.06)])
def test_a_servo_is_a_pd_controller_within_its_torque_speed_limit(leg, limit, fastest):
    model = GO1.model
    data = mujoco.MjData(model)
    rng = np.random.default_rng(0)
    low, high = GO1.command_range
    for _ in range(50):
        data.qpos[:] = model.key("home").qpos
        data.qpos[2] = 2.0
        data.qpos[7:] += rng.uniform(-0.4, 0.4, 12)
        data.qvel[6:] = rng.uniform(-25, 25, 12)
        data.ctrl[:] = rng.uniform(low, high)
        mujoco.mj_forward(model, data)
        wish = 35.0 * (data.ctrl - data.qpos[7:]) - 0.5 * data.qvel[6:]
        speed = data.qvel[6:] / fastest
        bound = np.minimum(limit * (1 - speed), limit), np.maximum(-limit * (1 + speed), -limit)
        told = np.clip(wish, bound[1], bound[0])
        np.testing.assert_allclose(data.actuator_force[leg], told[leg], rtol=1e-4, atol=1e-3)


def test_a_weak_battery_has_less_torque_and_speed():
    gap = GO1.gap("weak_battery")
    model = GO1.compile(gap)
    data = mujoco.MjData(model)
    data.qpos[:] = model.key("home").qpos
    data.qpos[2], data.qpos[9] = 2.0, -2.7  # a calf far from where it is to be
    data.ctrl[:] = model.key("home").ctrl
    data.ctrl[2] = -1.0
    forces = []
    for speed in (0.0, 0.75 * 20.06):
        data.qvel[8] = speed
        mujoco.mj_forward(model, data)
        forces.append(data.actuator_force[2])
    assert forces[0] == pytest.approx(0.75 * 35.55, rel=1e-3)
    assert forces[1] == pytest.approx(0.0, abs=0.01)


def test_it_stands_where_nothing_moves_it():
    w = stand(2)
    assert not any(w.step(np.tile(w.task.rest, (2, 1))).terminated.any() for _ in range(100))
    assert np.abs(w.data["qvel"]).max() < 0.05
    weight = 9.81 * GO1.model.body_subtreemass[1]
    np.testing.assert_allclose(GO1.task.feet(w.data).sum(axis=1), weight, rtol=0.02)


@pytest.mark.parametrize("gap", [None, "worn", "rough", "servo_friction"])
def test_both_engines_agree(gap):
    """With latency too: the commands that are under way at the start are those of rest."""
    draw = GO1.space.prior() if gap is None else None
    a, b = (
        Worlds(GO1, 3, gap=gap, observe="measured", draw=draw, seed=3, engine=engine, threads=1)
        for engine in ("mjbatch", "reference")
    )
    np.testing.assert_array_equal(a.reset(), b.reset())
    rng = np.random.default_rng(0)
    for _ in range(40):
        action = a.task.rest + rng.uniform(-0.3, 0.3, (3, 12))
        one, other = a.step(action), b.step(action)
        np.testing.assert_array_equal(one.obs, other.obs)
        np.testing.assert_array_equal(one.reward, other.reward)


def test_a_late_command_is_that_of_rest_until_the_first_arrives():
    w = stand(1)
    late = {"action_latency": 20.0}
    xi = np.array([late.get(n, x) for n, x in zip(w.space.names, w.space.nominal, strict=True)])
    w.reset(xi=xi)
    before = w.data["qpos"].copy()
    w.step(w.task.rest[None] + 0.4)
    assert np.abs(w.data["qpos"] - before)[:, 7:].max() < 0.05


def test_what_it_is_told_changes_when_its_time_has_come():
    w = stand(4)
    told = []
    for tick in range(1000):
        told.append(w.data["goal"].copy())
        step = w.advance(np.tile(w.task.rest, (4, 1)))
        assert (step.obs[:, -3:] == w.data["goal"]).all()
        w.ticks[:] = tick + 1
    told = np.array(told)
    for i, start in enumerate(w.starts):
        assert start is not None
        np.testing.assert_array_equal(told[:, i], np.repeat(start.goals, 250, axis=0))
    assert len(np.unique(told[:, 0], axis=0)) >= 3


def test_an_episode_repeats_with_its_commands():
    w = stand(2, gap="worn", seed=5)
    rng = np.random.default_rng(1)
    actions = w.task.rest + rng.uniform(-0.2, 0.2, (260, 2, 12))
    starts = [s for s in w.starts if s is not None]
    first = [w.advance(a).obs for a in actions]
    w.reset(starts=starts)
    again = [w.advance(a).obs for a in actions]
    np.testing.assert_array_equal(first, again)


def moment(**changes):
    B, zeros = 1, np.zeros
    m = velocity.Moment(
        command=zeros((B, 3)), velocity=zeros((B, 3)), rate=zeros((B, 3)),
        gravity=np.array([[0.0, 0.0, -1.0]]), joints=zeros((B, 12)), beyond=zeros((B, 12)),
        joint_speed=zeros((B, 12)), torque=zeros((B, 12)), action=zeros((B, 12)),
        action_change=zeros((B, 12)), standing=np.ones((B, 4), bool),
        foot_height=zeros((B, 4)), foot_velocity=zeros((B, 4, 2)),
    )  # fmt: skip
    return replace(m, **{k: np.array(v, float)[None] for k, v in changes.items()})


@pytest.mark.parametrize(
    ("term", "changes", "value"),
    [
        ("track_linear", {"command": [1, 0, 0], "velocity": [0.5, 0, 3]}, np.exp(-1)),
        ("track_yaw", {"command": [0, 0, 1], "rate": [9, 9, 0.5]}, np.exp(-1)),
        ("alive", {}, 1.0),
        ("vertical_velocity", {"velocity": [5, 5, -2]}, 4.0),
        ("roll_pitch_rate", {"rate": [1, -2, 7]}, 5.0),
        ("tilt", {"gravity": [0.6, 0.0, -0.8]}, 0.36),
        ("pose", {"joints": [0.5] * 4 + [0] * 8}, 1.0),
        ("stand_still", {"joints": [-0.5] * 4 + [0] * 8}, 2.0),
        ("stand_still", {"joints": [-0.5] * 12, "command": [0, 0, 0.2]}, 0.0),
        ("joint_limits", {"beyond": [0.1] * 12}, 1.2),
        ("torque", {"torque": [2] * 12}, 48.0),
        ("power", {"torque": [2] * 12, "joint_speed": [-3] * 12}, 72.0),
        ("action_rate", {"action_change": [0.5] * 12}, 3.0),
        ("foot_slip", {"foot_velocity": [[3, 4]] * 4, "standing": [1, 0, 0, 0]}, 25.0),
        ("foot_clearance", {"foot_velocity": [[3, 4], *[[0, 0]] * 3]}, 5 * 0.08**2),
    ],
)
def test_the_reward_terms_by_hand(term, changes, value):
    made = moment(**changes)
    made = replace(made, standing=made.standing.astype(bool))
    assert Velocity.reward_terms[term](made) == pytest.approx(value)


def test_the_reward_is_the_weighted_sum_of_its_parts():
    w = stand(3)
    rng = np.random.default_rng(0)
    step = w.step(w.task.rest + rng.uniform(-0.3, 0.3, (3, 12)))
    parts = {k: v for k, v in step.info.items() if k.startswith("reward_")}
    assert parts.keys() == {f"reward_{name}" for name in GO1.config.rewards}
    np.testing.assert_allclose(step.reward, sum(parts.values()))
    np.testing.assert_allclose(parts["reward_alive"], GO1.config.rewards["alive"] * 0.02)


def test_velocity_and_gravity_are_in_the_frame_of_the_trunk():
    task = GO1.task
    yaw, pitch = 0.7, 0.3
    turn = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
    nod = [np.cos(pitch / 2), 0, np.sin(pitch / 2), 0]
    q = np.zeros(4)
    mujoco.mju_mulQuat(q, np.array(turn), np.array(nod))
    R = np.zeros(9)
    mujoco.mju_quat2Mat(R, q)
    data = {"qpos": np.zeros((1, 19)), "qvel": np.zeros((1, 18))}
    data["qpos"][0, 3:7], data["qvel"][0, :3] = 2 * q, (1.0, 2.0, 3.0)  # any length will do
    frame = R.reshape(3, 3).T
    np.testing.assert_allclose(task.base_velocity(data)[0], frame @ (1, 2, 3), atol=1e-12)
    _, gravity = task._velocity_gravity(data)
    np.testing.assert_allclose(gravity[0], frame @ (0, 0, -1), atol=1e-12)


@pytest.mark.parametrize(
    ("rewards", "says"),
    [
        ("{}", "rewards is missing; give a weight to some of track_linear"),
        ("{track_liner: 1}", "no reward term 'track_liner'. Did you mean 'track_linear'?"),
    ],
)
def test_weights_that_are_wrong_are_refused(tmp_path, rewards, says):
    text = (GO1.folder / "env.yaml").read_text()
    begin, end = text.index("rewards:"), text.index("terms:")
    model = GO1.folder / "go1.xml"
    text = f"{text[:begin]}rewards: {rewards}\n\n{text[end:]}".replace("go1.xml", str(model))
    (tmp_path / "env.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        _ = Robot.load(tmp_path).task  # type: ignore[attr-defined]
    assert says.split("'")[0] in str(error.value)


def test_a_task_without_terms_takes_no_weights():
    with pytest.raises(InputError, match="its reward has no weights"):
        Robot.load("hopper").task.weigh({"alive": 1.0}, "here")  # type: ignore[attr-defined]


def test_gear_friction_by_hand():
    friction = ServoFriction(stribeck=0.1, load=0.05, load_stribeck=0.2, speed=2.0, exponent=1.5)
    gears = GearFriction(friction, [np.random.default_rng(0)], np.array([1]))
    data = {
        "qvel": np.array([[9.0, 2.0]]), "qfrc_actuator": np.array([[9.0, 3.0]]),
        "qfrc_constraint": np.array([[9.0, 1.0]]), "qfrc_bias": np.array([[9.0, 2.0]]),
    }  # fmt: skip
    load = 3.0 - (1.0 - 2.0)
    slow = np.exp(-1.0)
    bound = gears.bound(np.array([[0.3]]), data)
    assert bound[0, 0] == pytest.approx(0.3 + 0.05 * load + slow * (0.1 + 0.2 * load))


def test_a_loaded_gear_holds_what_a_free_one_lets_fall():
    """A robot whose legs are loaded by its weight moves less under the same small command."""
    gap = Gap(actuators=Actuators(friction=ServoFriction(load_stribeck=0.3, speed=1.5)))
    moved = []
    for g in (None, gap):
        w = stand(1, gap=g)
        for _ in range(100):
            w.step(w.task.rest[None])
        before = w.data["qpos"][0, 7:].copy()
        for _ in range(50):
            w.step(w.task.rest[None] + 0.03)
        moved.append(np.abs(w.data["qpos"][0, 7:] - before).mean())
    assert moved[1] < 0.7 * moved[0]


def test_the_gears_keep_what_xi_says_of_friction():
    gap = Gap(actuators=Actuators(friction=ServoFriction(stribeck=1e-12)))
    w = stand(2, gap=gap, draw=GO1.space.prior(), seed=1)
    w.step(np.tile(w.task.rest, (2, 1)))
    k = w.space.names.index("joint_friction")
    told = w.data["dof_frictionloss"][:, 6:]
    np.testing.assert_allclose(told, np.repeat(0.2 * w.xi[:, k : k + 1], 12, axis=1), rtol=1e-6)
    w.seed(2)
    w.reset()
    w.step(np.tile(w.task.rest, (2, 1)))
    told = w.data["dof_frictionloss"][:, 6:]
    np.testing.assert_allclose(told, np.repeat(0.2 * w.xi[:, k : k + 1], 12, axis=1), rtol=1e-6)


def test_a_servo_holds_what_its_encoder_says():
    """Held in the air, told a pose: the encoders read it, and the joints are off by as much."""
    w = stand(1, gap=Gap(mounting=Mounting(encoder=0.05)))
    qpos = GO1.task.init_qpos.copy()
    qpos[2] = 3.0
    w.set_state(np.arange(1), qpos[None], np.zeros((1, 18)))
    obs = [w.advance(w.task.rest[None]).obs for _ in range(20)]
    np.testing.assert_allclose(obs[-1][0, :12], w.task.rest, atol=0.02)
    np.testing.assert_allclose(w.data["qpos"][0, 7:], w.task.rest - 0.05, atol=0.02)
    assert servos(GO1.model).all()
    assert not servos(Robot.load("hopper").model).any()


def test_servo_and_term_have_the_same_offset_where_it_is_drawn():
    drawn = Draw("uniform", -0.1, 0.1)
    w = stand(4, gap=Gap(mounting=Mounting(encoder=drawn)))
    qpos = np.tile(GO1.task.init_qpos, (4, 1))
    qpos[:, 2] = 3.0
    w.set_state(np.arange(4), qpos, np.zeros((4, 18)))
    obs = [w.advance(np.tile(w.task.rest, (4, 1))).obs for _ in range(20)]
    off = obs[-1][:, :12] - w.data["qpos"][:, 7:]
    assert np.ptp(off[:, 0]) > 0.01
    np.testing.assert_allclose(obs[-1][:, :12], np.tile(w.task.rest, (4, 1)), atol=0.02)


def test_a_first_command_that_is_lost_leaves_the_servo_where_it_stands():
    w = stand(3, gap=Gap(network=Network(loss=1.0)))
    step = w.step(w.task.rest[None] + np.full((3, 12), 0.3))
    assert np.abs(w.data["qpos"][:, 7:] - step.obs[:, :12]).max() < 0.3
    np.testing.assert_allclose(w.data["qpos"][:, 7:], np.tile(w.task.rest, (3, 1)), atol=0.2)


def test_at_reset_the_servos_hold_the_pose_in_both_engines():
    a, b = (Worlds(GO1, 2, seed=4, engine=engine, threads=1) for engine in ("mjbatch", "reference"))
    np.testing.assert_array_equal(a.reset(), b.reset())  # contact forces too
    joints = np.abs(a.data["qpos"][:, 7:] - GO1.task.home).max()
    assert np.abs(a.data["actuator_force"]).max() < 35 * joints + 1.0


def test_a_site_on_a_fixed_body_is_turned_with_it(tmp_path):
    text = (
        (GO1.folder / "go1.xml")
        .read_text()
        .replace(
            '<site name="imu" pos="-0.01592 -0.06659 -0.00617"/>',
            '<body name="imu_link" quat="0 1 0 0"><site name="imu"/><geom size="0.001"/></body>',
        )
    )
    assert "imu_link" in text
    (tmp_path / "go1.xml").write_text(text)
    (tmp_path / "bumps.png").write_bytes((GO1.folder / "bumps.png").read_bytes())
    (tmp_path / "env.yaml").write_text((GO1.folder / "env.yaml").read_text())
    robot: Any = Robot.load(tmp_path)
    w = Worlds(robot, 1, observe=["gravity"], threads=1)
    w.reset()
    w.set_state(np.arange(1), GO1.task.init_qpos[None], np.zeros((1, 18)))
    np.testing.assert_allclose(w._observe()[0], (0, 0, 1), atol=1e-12)
    assert robot.terms["gravity"].quaternion is None  # a log of it is not put back as it is
    env = (tmp_path / "env.yaml").read_text().replace("site: imu", "site: FR_foot")
    (tmp_path / "env.yaml").write_text(env)
    with pytest.raises(InputError, match="site 'FR_foot' moves against 'trunk'"):
        _ = Robot.load(tmp_path).terms


def test_a_keyframe_without_ctrl_is_refused(tmp_path):
    text = (GO1.folder / "go1.xml").read_text()
    begin = text.index(' ctrl="', text.index("<keyframe>"))
    (tmp_path / "go1.xml").write_text(text[:begin] + text[text.index('"', begin + 7) + 1 :])
    (tmp_path / "bumps.png").write_bytes((GO1.folder / "bumps.png").read_bytes())
    (tmp_path / "env.yaml").write_text((GO1.folder / "env.yaml").read_text())
    with pytest.raises(InputError, match=r"the servo 'FR_thigh' to be -0\.90 from where"):
        _ = Robot.load(tmp_path).task  # type: ignore[attr-defined]


def test_a_goal_is_a_command(tmp_path):
    (tmp_path / "go1.xml").write_text((GO1.folder / "go1.xml").read_text())
    (tmp_path / "bumps.png").write_bytes((GO1.folder / "bumps.png").read_bytes())
    env = (GO1.folder / "env.yaml").read_text()
    changed = env.replace("frame: trunk, sensor: command", "frame: trunk, sensor: imu")
    (tmp_path / "env.yaml").write_text(changed)
    with pytest.raises(InputError, match="source goal takes sensor: command"):
        _ = Robot.load(tmp_path).terms


def test_an_offset_of_an_encoder_turns_the_link_and_not_the_reading():
    w = stand(2)
    xi = np.tile(w.space.nominal, (2, 1))
    xi[1, w.space.names.index("calf_offset")] = 0.05
    w.reset(xi=xi)
    w.set_state(np.arange(2), np.tile(GO1.task.init_qpos, (2, 1)), np.zeros((2, 18)))
    foot = w.data["site_xpos"][:, GO1.model.site("FR_foot").id]
    calf = 0.213  # the knee turns about y, and the foot swings back by so much
    assert np.linalg.norm(foot[1] - foot[0]) == pytest.approx(2 * calf * np.sin(0.025), rel=1e-6)
    np.testing.assert_array_equal(w._observe()[0, :12], w._observe()[1, :12])


def test_a_turned_imu_tells_turned_vectors():
    w = stand(2)
    xi = np.tile(w.space.nominal, (2, 1))
    xi[1, w.space.names.index("imu_pitch")] = 0.05
    w.reset(xi=xi)
    w.set_state(np.arange(2), np.tile(GO1.task.init_qpos, (2, 1)), np.ones((2, 18)))
    at = np.cumsum([0] + [t.size for t in w.terms])
    gravity, gyro = (w._observe()[:, at[i] : at[i] + 3] for i in (2, 3))
    np.testing.assert_allclose(gravity[0], (0, 0, -1), atol=1e-12)
    np.testing.assert_allclose(gravity[1], (np.sin(0.05), 0, -np.cos(0.05)), atol=1e-12)
    c, s = np.cos(0.05), np.sin(0.05)
    np.testing.assert_allclose(gyro[1], (c - s, 1, s + c), atol=1e-12)


def test_the_commands_are_drawn_between_their_ends_and_some_ask_to_stand():
    rng = np.random.default_rng(0)
    goals = np.concatenate([GO1.task.goals(rng) for _ in range(500)])
    assert (np.abs(goals) <= Velocity.fastest).all()
    assert 0.05 < (goals == 0).all(axis=1).mean() < 0.15
    assert np.abs(goals).max(axis=0) == pytest.approx(Velocity.fastest, rel=0.02)


def test_a_robot_on_its_side_has_fallen():
    w = stand(2)
    qpos = np.tile(GO1.task.init_qpos, (2, 1))
    qpos[1, 3:7] = np.cos(0.8), np.sin(0.8), 0, 0
    w.set_state(np.arange(2), qpos, np.zeros((2, 18)))
    assert GO1.task.terminated(w.data).tolist() == [False, True]


def test_the_robot_is_of_the_kind_that_the_task_needs():
    with pytest.raises(InputError, match="keyframe 'home'"):
        Velocity(Robot.load("hopper").model)
    assert isinstance(GO1, MjcfRobot)
