"""GymnasiumWorlds against the environments themselves: the same bits, and nothing hidden."""

from __future__ import annotations

import logging
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

from sim2real.learning.gym import register
from sim2real.make import make_env, make_vec
from sim2real.simulation.gap import Actuators, Draw, Gap, Latency, Mounting, Network, Pushes, Sensor
from sim2real.simulation.gymnasium_robot import GymnasiumRobot
from sim2real.simulation.gymnasium_worlds import GymnasiumWorlds
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

IDS = {"fetch_reach": "FetchReach-v4", "fetch_push": "FetchPush-v4", "hand_reach": "HandReach-v3"}


@pytest.fixture(scope="module")
def robots():
    return {name: Robot.load(name) for name in IDS}


def actions(robot, worlds, ticks, seed=0):
    """(T, B, A), beyond the limits too: the environment clips for itself."""
    rng = np.random.default_rng(seed)
    shape = (ticks, worlds, len(robot.actuators))
    return rng.uniform(-1.2, 1.2, shape).astype(np.float32)


def rollout(worlds, commands, **reset):
    seen = [worlds.reset(**reset)]
    rewards = []
    for command in commands:
        step = worlds.step(command)
        seen.append(step.obs)
        rewards.append(step.reward)
    return np.stack(seen), np.stack(rewards)


def own_folder(tmp_path, text):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "env.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("name", IDS)
def test_nominal_worlds_are_gymnasiums_environment_bit_for_bit(robots, name):
    robot, B, seed = robots[name], 2, 7
    worlds = make_worlds(robot, B, seed=seed, threads=1)
    envs: list[Any] = [gymnasium.make(IDS[name], disable_env_checker=True) for _ in range(B)]

    def flat(obs):
        return np.concatenate([obs[key] for key in envs[0].observation_space.spaces])

    told = worlds.reset()
    theirs = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    assert np.array_equal(told, [flat(o) for o in theirs])
    for command in actions(robot, B, 110):  # two episodes and a bit, resets without a seed
        step = worlds.step(command)
        for i, env in enumerate(envs):
            obs, reward, terminated, truncated, info = env.step(command[i])
            assert step.reward[i] == reward
            assert step.terminated[i] == terminated
            assert step.truncated[i] == truncated
            assert {k: v[i] for k, v in step.info.items()} == info
            assert np.array_equal(step.terminal_obs[i], flat(obs))
            if terminated or truncated:
                obs, _ = env.reset()
            assert np.array_equal(step.obs[i], flat(obs))


def test_writing_the_nominal_after_another_physics_gives_the_environment_back(robots):
    robot = robots["fetch_push"]
    commands = actions(robot, 1, 20)
    fresh = rollout(make_worlds(robot, 1, threads=1), commands)
    worlds = make_worlds(robot, 1, threads=1)
    other = rollout(worlds, commands, xi=robot.space.low)
    worlds.seed(0)
    again = rollout(worlds, commands, xi=robot.space.nominal)
    assert not np.array_equal(fresh[0], other[0])
    assert np.array_equal(fresh[0], again[0])


def test_worlds_have_their_own_physics_and_the_rest_of_the_batch_does_not_matter(robots):
    robot = robots["fetch_reach"]
    xi = np.stack([robot.space.nominal, robot.space.high, robot.space.low])
    commands = actions(robot, 3, 15)
    together, _ = rollout(make_worlds(robot, 3, threads=2), commands, xi=xi)
    for i in range(3):
        alone, _ = rollout(
            make_worlds(robot, 1, seed=i, threads=1), commands[:, i : i + 1], xi=xi[i]
        )
        assert np.array_equal(together[:, i], alone[:, 0])


def test_threads_do_not_change_a_bit_and_every_episode_draws_its_physics(robots):
    robot = robots["hand_reach"]
    commands = actions(robot, 3, 60)
    results = []
    for threads in (1, 2):
        worlds = make_worlds(robot, 3, gap="worn", draw=robot.space.prior(), threads=threads)
        results.append((*rollout(worlds, commands), worlds.xi))
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)
    free = make_worlds(robot, 2, draw=robot.space.prior(), threads=1)
    free.reset()
    first = free.xi.copy()
    free.reset(np.array([True, False]))
    assert (free.xi[0] != first[0]).all()
    assert np.array_equal(free.xi[1], first[1])
    assert (free.xi >= robot.space.low).all()
    assert (free.xi <= robot.space.high).all()


def test_a_recorded_start_repeats_its_episode(robots):
    robot = robots["fetch_push"]
    commands = actions(robot, 1, 30)
    worlds = make_worlds(robot, 1, gap="worn", draw=robot.space.prior(), threads=1)
    for reset in range(2):  # the first start is a seed, the second a state of the generator
        seen, rewards = rollout(worlds, commands)
        start = worlds.starts[0]
        worlds.reset()
        again, rewards_again = rollout(worlds, commands, starts=[start])
        assert np.array_equal(seen, again), reset
        assert np.array_equal(rewards, rewards_again)


def test_a_gap_without_effect_is_the_identity(robots):
    robot = robots["fetch_reach"]
    commands = actions(robot, 2, 12)
    plain = rollout(make_worlds(robot, 2, threads=1), commands)
    idle = Gap(network=Network(loss=0.0, jitter_ms=1e-12), sensors={"observation": Sensor()})
    through = rollout(make_worlds(robot, 2, gap=idle, threads=1), commands)
    assert np.array_equal(plain[1], through[1])
    assert np.allclose(plain[0], through[0], rtol=0, atol=1e-12)


def test_action_latency_is_rounded_to_control_periods_and_said(robots, caplog):
    robot, ticks = robots["fetch_reach"], 12
    commands = actions(robot, 1, ticks)
    with caplog.at_level(logging.WARNING):
        late = GymnasiumWorlds(robot, 1, gap=Gap(latency=Latency(action_ms=70.0)), threads=1)
    assert late.latency_note in caplog.text
    assert "70 ms acts as 80 ms" in late.latency_note
    shifted = np.concatenate([np.zeros((2, *commands.shape[1:]), np.float32), commands[:-2]])
    expected, _ = rollout(GymnasiumWorlds(robot, 1, threads=1), shifted)
    seen, _ = rollout(late, commands)
    assert np.array_equal(seen, expected)
    for gap in (None, Gap(latency=Latency(action_ms=80.0))):  # what rounding does not change
        assert GymnasiumWorlds(robot, 1, gap=gap, threads=1).latency_note == ""
    family = Gap(latency=Latency(action_ms=Draw("uniform", 0.0, 100.0), observation_ms=10.0))
    note = GymnasiumWorlds(robot, 8, gap=family, threads=1).latency_note
    assert "0 or 40" in note
    assert "observation latency interpolates" in note


def test_sensor_noise_and_loss_reach_the_policy_and_not_the_reward(robots):
    robot = robots["fetch_reach"]
    commands = np.zeros((40, 1, 4), np.float32)
    gap = Gap(sensors={"achieved_goal": Sensor(noise=0.01, bias=0.5)})
    told, rewards = rollout(make_worlds(robot, 1, gap=gap, threads=1), commands)
    true, true_rewards = rollout(make_worlds(robot, 1, threads=1), commands)
    error = (told - true)[1:, 0]
    assert np.array_equal(rewards, true_rewards)
    assert not error[:, 3:].any()
    assert error[:, :3].mean() == pytest.approx(0.5, abs=0.005)
    assert error[:, :3].std() == pytest.approx(0.01, rel=0.2)


def test_sensor_effects_that_nothing_observed_feels_are_warned_of_once(robots, caplog):
    robot = robots["hand_reach"]
    gap = Gap(sensors={"joint_positions": Sensor(bias=0.1)}, mounting=Mounting(encoder=0.1))
    commands = actions(robot, 1, 4)
    with caplog.at_level(logging.WARNING):
        seen, _ = rollout(make_worlds(robot, 1, gap=gap, observe="measured", threads=1), commands)
        assert not caplog.messages
        idle, _ = rollout(make_worlds(robot, 1, gap=gap, threads=1), commands)
    assert caplog.messages == [
        "hand_reach: the observation (achieved_goal, desired_goal, observation) feels nothing of "
        "the gap's sensors (joint_positions) and mounting.encoder; with observe: measured it would"
    ]
    true, _ = rollout(make_worlds(robot, 1, threads=1), commands)
    assert np.array_equal(idle, true)
    assert np.allclose(seen[..., 30:54] - true[..., 30:54], 0.2, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "gap", "says"),
    [
        ("fetch_reach", Gap(actuators=Actuators(strength=0.8)), "strength.*mocap"),
        ("fetch_reach", Gap(actuators=Actuators(weak={"x": 0.5})), "weak.*mocap"),
        ("fetch_reach", Gap(actuators=Actuators(lag_ms=20)), "lag_ms.*mocap"),
        ("fetch_push", Gap(actuators=Actuators(stiction=0.1)), "stiction.*mocap"),
        ("fetch_push", Gap(actuators=Actuators(backlash=0.1)), "backlash.*mocap"),
        ("fetch_push", Gap(pushes=Pushes(interval=1.0, speed=1.0)), "pushes.*held in place"),
        ("fetch_reach", Gap(mounting=Mounting(encoder=0.1)), "mounting.encoder.*bias"),
        ("hand_reach", Gap(mounting=Mounting(imu=0.1)), "mounting.imu.*sensor 'imu'"),
        ("hand_reach", Gap(xi={"finger_mass": -1.0}), "'finger_mass': scale -1 makes body_mass"),
        ("hand_reach", Gap(actuators=Actuators(strength=0.8)), "actuator_forcerange"),
        ("hand_reach", Gap(actuators=Actuators(lag_ms=20)), "compiles its own model"),
        ("hand_reach", Gap(xi={"joint_dampin": 1.0}), "did you mean 'joint_damping'"),
        ("hand_reach", Gap(sensors={"observations": Sensor()}), "did you mean 'observation'"),
    ],
)
def test_effects_without_meaning_are_refused(robots, name, gap, says):
    with pytest.raises(InputError, match=says):
        make_worlds(robots[name], 1, gap=gap)


@pytest.mark.parametrize("name", IDS)
def test_shipped_gaps_load_and_worn_lies_inside_the_ranges(robots, name):
    robot = robots[name]
    low, high = (
        dict(zip(robot.space.names, v, strict=True)) for v in (robot.space.low, robot.space.high)
    )

    def outside(gap):
        ends = {
            n: (v.low, v.high) if isinstance(v, Draw) else (v, v)
            for n, v in robot.gap(gap).xi.items()
        }
        return [n for n, (a, b) in ends.items() if a < low[n] or b > high[n]]

    assert outside("mild") == []
    assert outside("worn") == []
    assert len(outside("unseen")) == 1
    make_worlds(robot, 1, gap="worn", threads=1).reset()


def test_terms_are_the_keys_in_the_order_of_the_space_and_more_may_be_declared(robots):
    hand = robots["hand_reach"]
    worlds = make_worlds(hand, 2, observe="measured", threads=1)
    names = [t.name for t in worlds.terms]
    assert [t.name for t in hand.observation(None)] == [
        "achieved_goal",
        "desired_goal",
        "observation",
    ]
    assert names == ["achieved_goal", "desired_goal", "joint_positions", "joint_velocities"]
    told = worlds.reset()
    full = make_worlds(hand, 2, threads=1).reset()
    joints = told[:, 30:]  # the environment's own observation begins with the same joints
    assert np.array_equal(joints, full[:, 30 : 30 + 48])


def test_make_vec_is_dummy_vec_env(robots):
    ours = make_vec("fetch_push", 2, randomize="none", seed=5)
    theirs = DummyVecEnv([lambda: gymnasium.make("FetchPush-v4") for _ in range(2)])
    theirs.seed(5)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    ours_obs: Any = ours.reset()
    theirs_obs: Any = theirs.reset()
    for command in actions(robots["fetch_push"], 2, 53):
        for key in theirs_obs:
            assert np.array_equal(ours_obs[key], theirs_obs[key])
        ours_obs, reward, done, infos = ours.step(command)
        theirs_obs, their_reward, their_done, their_infos = theirs.step(command)
        assert np.array_equal(reward, their_reward)
        assert np.array_equal(done, their_done)
        for info, theirs_info in zip(infos, their_infos, strict=True):
            last = theirs_info.pop("terminal_observation", {})
            own = info.pop("terminal_observation", {})
            assert info == theirs_info
            assert own.keys() == last.keys()
            assert all(np.array_equal(own[key], last[key]) for key in last)
    goals = np.arange(12.0).reshape(4, 3) / 30
    arguments = (goals, goals[::-1] * 0.5, [{}] * 4)
    mine = ours.env_method("compute_reward", *arguments, indices=[0])
    other = theirs.env_method("compute_reward", *arguments, indices=[0])
    assert np.array_equal(mine, other)


@pytest.mark.filterwarnings("ignore:.*infinity:UserWarning")  # the checker's, as of Fetch itself
def test_make_env_is_the_environment_and_passes_gymnasiums_checker():
    register()
    env = gymnasium.make("sim2real/fetch_reach")
    reference = gymnasium.make("FetchReach-v4", disable_env_checker=True)
    assert env.observation_space == reference.observation_space
    for seed in (3, None):
        mine, _ = env.reset(seed=seed)
        theirs, _ = reference.reset(seed=seed)
        for _ in range(5):
            command = reference.action_space.sample()
            assert all(np.array_equal(mine[key], theirs[key]) for key in theirs)
            mine, *rest = env.step(command)
            theirs, *their_rest = reference.step(command)
            assert rest == their_rest
    check_env(make_env("fetch_reach", gap="mild"), skip_render_check=True)
    flat = make_env("fetch_reach", observe=["observation"], xi={"arm_slowness": 2.0})
    assert flat.reset(seed=0)[0].shape == (10,)


def test_gymnasiums_own_environments_work_too_and_agree_with_worlds(tmp_path):
    folder = own_folder(
        tmp_path,
        "description: the hopper as Gymnasium has it\n"
        "gymnasium: Hopper-v5\n"
        "terms: {last: {source: last_action, unit: '1', sensor: command}}\n"
        "parameters: [{name: torso, field: body_mass, select: torso, low: 0.5, high: 2}]\n",
    )
    robot, reference = Robot.load(folder), Robot.load("hopper")
    assert isinstance(robot, GymnasiumRobot)
    assert isinstance(reference, MjcfRobot)
    assert robot.actuators == reference.actuators
    assert robot.control_period == reference.control_period
    assert robot.episode_steps == reference.episode_steps == 1000
    gap = Gap(actuators=Actuators(strength=0.7, weak={robot.actuators[0]: 0.9}, backlash=0.05,
                                  stiction=0.1), sensors={}, network=Network(loss=0.1))  # fmt: skip
    commands = actions(robot, 2, 40).clip(-1, 1)
    heavy, heavy_xi = robot.space.high, reference.space.nominal.copy()
    heavy_xi[reference.space.names.index("torso_mass")] = 2.0
    mine = GymnasiumWorlds(robot, 2, gap=gap, threads=1)
    theirs = Worlds(reference, 2, gap=gap, threads=1, engine="reference")
    seen, _ = rollout(mine, commands, xi=heavy)
    expected, _ = rollout(theirs, commands, xi=heavy_xi)
    # float32 commands behind the gap, here and not there; hopping amplifies the difference
    assert np.allclose(seen[:15], expected[:15], rtol=0, atol=1e-4)
    assert np.array_equal(
        make_worlds(robot, 1, observe=["observation", "last"]).reset().shape, (1, 14)
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("gymnasium: FetchRech-v4", "did you mean 'FetchReach-v4'"),
        ("gymnasium: CartPole-v1", "does not expose a MuJoCo model"),
        ("gymnasium: FetchReach-v4\nframe_skip: 20", "frame_skip: leave it out"),
        ("gymnasium: FetchReach-v4\ntask: hopper", "task: leave it out"),
        ("gymnasium: FetchReach-v4\nmodel: a.xml", "either 'model' or 'gymnasium'"),
        ("model: gymnasium:envs/mujoco/assets/hopper.xml\ntask: hopper", "frame_skip is 0"),
        ("gymnasium: FetchReach-v4\nactions: [x]", "1 names for 4 entries"),
        (
            "gymnasium: FetchReach-v4\nterms: {a: {source: observatio, unit: m, sensor: encoder}}",
            "did you mean 'observation'",
        ),
        (
            "gymnasium: FetchReach-v4\n"
            "parameters: [{name: a, field: body_mass, select: object0, low: 1, high: 2}]",
            "no body 'object0'",
        ),
    ],
)
def test_bad_folders_are_refused(tmp_path, text, says):
    folder = own_folder(tmp_path, "description: mine\n" + text + "\n")
    with pytest.raises(InputError, match=says):
        make_worlds(Robot.load(folder), 1).reset()


def test_wrong_kinds_and_shapes_are_refused(robots):
    with pytest.raises(InputError, match="runs in GymnasiumWorlds"):
        Worlds(robots["fetch_reach"], 1)
    with pytest.raises(InputError, match="only a robot with 'gymnasium'"):
        GymnasiumWorlds(Robot.load("hopper"), 1)
    with pytest.raises(InputError, match="at least 1"):
        make_worlds(robots["fetch_reach"], 0)
    worlds = make_worlds(robots["fetch_reach"], 2, threads=1)
    worlds.reset()
    with pytest.raises(InputError, match=r"takes \(2, 4\)"):
        worlds.step(np.zeros((2, 3)))
    assert robots["fetch_reach"].state_from({"observation": np.zeros((3, 10))}) is None
