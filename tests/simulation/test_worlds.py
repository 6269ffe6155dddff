"""Worlds against Gymnasium, against Stable-Baselines3's own VecEnv, and against themselves."""

import copy
import time
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.vec_env import DummyVecEnv

import sim2real.learning.gym
from sim2real.dynamics.distribution import Uniform
from sim2real.make import make_env, make_vec
from sim2real.simulation.draws import Draws
from sim2real.simulation.gap import Actuators, Draw, Gap, Latency, Network, Sensor
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Start, Worlds
from sim2real.types import InputError

REFERENCES = {
    "ant": "Ant-v5",
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "humanoid": "Humanoid-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "pusher": "Pusher-v5",
    "reacher": "Reacher-v5",
    "walker2d": "Walker2d-v5",
}
CONTACT_FORCES = ("ant", "humanoid")  # run on the reference engine
FAST = [name for name in REFERENCES if name not in CONTACT_FORCES]
WRONG: Any = "unifrom"
every_robot = pytest.mark.parametrize("name", REFERENCES)

EVERYTHING = Gap(
    latency=Latency(action_ms=6.0, observation_ms=5.0),
    actuators=Actuators(strength=0.9, lag_ms=3.0, backlash=0.02, stiction=0.05),
    sensors={"joint_positions": Sensor(noise=0.01, bias=0.02, drift=0.01, quantization=0.001)},
    network=Network(loss=0.1, jitter_ms=4.0),
)


def reference(name) -> Any:
    return gymnasium.make(REFERENCES[name], disable_env_checker=True)


def commands(robot, worlds, steps, seed=0):
    low, high = robot.command_range
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, (steps, worlds, len(low))).astype(np.float32)


def rollout(worlds, action):
    """Everything that comes out of stepping through action (T, B, A), auto-reset included."""
    out = [worlds.reset()]
    for a in action:
        step = worlds.step(a)
        done = step.terminated | step.truncated
        last = np.where(done[:, None], step.terminal_obs, 0.0)
        out += [step.obs, step.reward, done, last, worlds.xi.copy(), *step.info.values()]
    return out


def assert_equal(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_info(info, expected):
    assert info.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(info[key], value, err_msg=key)


@every_robot
def test_make_env_is_gymnasiums_environment(name):
    env, ref = make_env(name, seed=3), reference(name)
    assert env.action_space == ref.action_space
    assert env.observation_space == ref.observation_space
    ref.action_space.seed(0)
    obs, info = env.reset(seed=3)
    expected, expected_info = ref.reset(seed=3)
    np.testing.assert_array_equal(obs, expected)
    assert_info(info, expected_info)

    episodes = 0
    for t in range(1101):
        action = ref.action_space.sample()
        obs, reward, terminated, truncated, info = env.step(action)
        expected, expected_reward, *ends, expected_info = ref.step(action)
        np.testing.assert_array_equal(obs, expected)
        assert (reward, terminated, truncated) == (expected_reward, *ends)
        assert_info(info, expected_info)
        if any(ends) or t == 100:
            episodes += 1
            seed = 11 if t == 100 else None
            (obs, info), (expected, expected_info) = env.reset(seed=seed), ref.reset(seed=seed)
            np.testing.assert_array_equal(obs, expected)
            assert_info(info, expected_info)
    assert episodes > 1


def test_the_seed_of_make_env_is_that_of_the_first_reset():
    np.testing.assert_array_equal(
        make_env("hopper", seed=5).reset()[0], reference("hopper").reset(seed=5)[0]
    )


@every_robot
def test_make_vec_is_stable_baselines_dummy_vec_env(name):
    B, steps = 2, 1001 if name == "halfcheetah" else 250
    venv: Any = make_vec(name, B, randomize="none", seed=7)
    ref: Any = DummyVecEnv([lambda: reference(name)] * B)
    assert venv.observation_space == ref.observation_space
    assert venv.action_space == ref.action_space
    assert venv.seed(7) == ref.seed(7)
    np.testing.assert_array_equal(venv.reset(), ref.reset())

    ends = 0
    for action in commands(Robot.load(name), B, steps):
        for i in range(B):
            assert_info(venv.reset_infos[i], ref.reset_infos[i])
        obs, reward, done, infos = venv.step(action)
        expected, expected_reward, expected_done, expected_infos = ref.step(action)
        np.testing.assert_array_equal(obs, expected)
        np.testing.assert_array_equal(reward, expected_reward)
        np.testing.assert_array_equal(done, expected_done)
        assert (obs.dtype, reward.dtype, done.dtype) == (
            expected.dtype,
            expected_reward.dtype,
            expected_done.dtype,
        )
        for info, expected_info in zip(infos, expected_infos, strict=True):
            assert_info(info, expected_info)
            assert type(info["TimeLimit.truncated"]) is bool
        ends += int(done.sum())
    assert ends >= B


def test_make_vec_begins_where_gymnasium_begins_without_being_seeded():
    obs: Any = make_vec("hopper", 3, seed=20).reset()
    for i in range(3):
        np.testing.assert_array_equal(obs[i], reference("hopper").reset(seed=20 + i)[0])


def test_seeding_a_vec_env_restarts_everything_that_is_random():
    venv = make_vec("hopper", 3, observe="measured", gap=EVERYTHING, seed=1)
    action = commands(Robot.load("hopper"), 3, 40)

    def trajectory():
        venv.seed(4)
        return [venv.reset(), *(x for a in action for x in venv.step(a)[:3])]

    assert_equal(trajectory(), trajectory())


def test_a_vec_env_has_the_attributes_that_worlds_have_and_no_others():
    venv = make_vec("hopper", 2)
    assert venv.get_attr("control_period") == [0.008] * 2
    assert not venv.has_attr("no_such_thing")


@pytest.mark.parametrize("name", ["ant", "halfcheetah", "hopper"])
def test_the_number_of_threads_changes_nothing(name):
    robot = Robot.load(name)

    def run(threads):
        worlds = Worlds(robot, 7, gap="worn", observe="measured", draw=robot.space.prior(), seed=5,
                        threads=threads)  # fmt: skip
        return rollout(worlds, commands(robot, 7, 60))

    assert_equal(run(1), run(2))


@pytest.mark.parametrize("name", FAST)
def test_both_engines_give_the_same_bits(name):
    robot = Robot.load(name)

    def run(engine, observe, gap, draw):
        worlds = Worlds(robot, 3, gap=gap, observe=observe, draw=draw, engine=engine, threads=1)
        return rollout(worlds, commands(robot, 3, 80))

    for observe, gap, draw in (
        (None, None, None),
        (None, None, robot.space.prior()),
        ("measured", "worn", None),
    ):
        args = observe, gap, draw
        assert_equal(run("mjbatch", *args), run("reference", *args))


def test_both_engines_give_the_same_bits_under_every_effect():
    robot = Robot.load("hopper")

    def run(engine):
        worlds = Worlds(robot, 3, gap=EVERYTHING, observe="measured", draw=robot.space.prior(),
                        engine=engine, threads=1)  # fmt: skip
        return rollout(worlds, commands(robot, 3, 120))

    assert_equal(run("mjbatch"), run("reference"))


@pytest.mark.parametrize("gap", [None, EVERYTHING], ids=["nominal", "gap"])
@pytest.mark.parametrize("name", ["ant", "halfcheetah", "hopper"])
def test_a_logged_start_reproduces_the_episode(name, gap):
    """In another place, among other worlds, under another seed."""
    robot = Robot.load(name)
    worlds = Worlds(robot, 4, gap=gap, observe="measured", draw=robot.space.prior(), seed=8)
    worlds.reset()
    action = commands(robot, 4, 60)
    for a in action[:20]:
        worlds.step(a)
    first = worlds.reset()  # an episode that is not the first of its world
    logged = worlds.starts[2]
    assert isinstance(logged, Start)
    steps = [worlds.advance(a) for a in action]

    other = Worlds(robot, 2, gap=gap, observe="measured", seed=99)
    other.reset()
    again = other.reset(worlds=np.array([1]), starts=[logged])
    np.testing.assert_array_equal(again[1], first[2])
    np.testing.assert_array_equal(other.xi[1], logged.xi)
    for a, step in zip(action, steps, strict=True):
        repeated = other.advance(a[[0, 2]])
        np.testing.assert_array_equal(repeated.obs[1], step.obs[2])
        assert repeated.reward[1] == step.reward[2]
        assert repeated.terminated[1] == step.terminated[2]


@pytest.mark.parametrize("engine", ["mjbatch", "reference"])
def test_a_start_can_be_repeated_at_once(engine):
    """Without a step in between, the state that is written is the one that is already there."""
    robot = Robot.load("reacher")
    worlds = Worlds(robot, 2, engine=engine, threads=1)
    first = worlds.reset()
    starts = [s for s in worlds.starts if s is not None]
    np.testing.assert_array_equal(worlds.reset(starts=starts), first)
    swapped = worlds.reset(worlds=np.array([1, 0]), starts=starts)
    np.testing.assert_array_equal(swapped, first[::-1])


@pytest.mark.parametrize("engine", ["mjbatch", "reference"])
def test_worlds_share_no_memory(engine):
    robot = Robot.load("humanoid" if engine == "reference" else "pusher")
    one, two = (Worlds(robot, 3, engine=engine, threads=1) for _ in range(2))
    for name in one.data:
        for i in range(3):
            assert not np.shares_memory(one.data[name][i], two.data[name])
            for j in range(i):
                assert not np.shares_memory(one.data[name][i], one.data[name][j])
    for xi in (robot.space.low, robot.space.high):  # physics of the neighbours, and of the model
        one.reset(worlds=np.array([0, 2]), xi=xi)
        one.step(commands(robot, 3, 1)[0])
    untouched = robot.space.values(robot.space.nominal[None])
    for field in set(untouched) - {"gravity", "disableflags"}:
        np.testing.assert_array_equal(getattr(robot.model, field), untouched[field][0])
        np.testing.assert_array_equal(getattr(one.model, field), untouched[field][0])

    one, two = (Worlds(robot, 3, engine=engine, threads=1) for _ in range(2))
    for worlds in (one, two):
        worlds.reset()
    one.reset(worlds=np.array([0, 2]), xi=robot.space.high)
    for a in commands(robot, 3, 30):
        np.testing.assert_array_equal(one.advance(a).obs[1], two.advance(a).obs[1])


@pytest.mark.parametrize("gap", [None, EVERYTHING], ids=["nominal", "gap"])
def test_what_worlds_gave_out_they_do_not_change(gap):
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 3, gap=gap, observe="measured")
    given = [worlds.reset()]
    kept = copy.deepcopy(given)
    for a in commands(robot, 3, 80):
        step = worlds.step(a)
        new = [step.obs, step.terminal_obs, step.reward, *step.info.values()]
        given += new
        kept += copy.deepcopy(new)
    assert_equal(given, kept)


@pytest.mark.parametrize("gap", [None, EVERYTHING], ids=["nominal", "gap"])
def test_a_step_is_an_advance_and_a_reset_where_it_ended(gap):
    robot = Robot.load("hopper")
    auto, manual = (Worlds(robot, 4, gap=gap, observe="measured", seed=2) for _ in range(2))
    np.testing.assert_array_equal(auto.reset(), manual.reset())
    ends = 0
    for a in commands(robot, 4, 120):
        one, two = auto.step(a), manual.advance(a)
        done, last = two.terminated | two.truncated, two.obs.copy()
        obs = manual.reset(done) if done.any() else two.obs
        np.testing.assert_array_equal(one.obs, obs)
        np.testing.assert_array_equal(one.terminal_obs[done], last[done])
        np.testing.assert_array_equal(two.obs, last)
        np.testing.assert_array_equal(one.reward, two.reward)
        ends += int(done.sum())
    assert ends > 4


@every_robot
def test_without_a_gap_the_pipeline_is_the_identity(name):
    """An empty gap, and a gap whose every effect is nothing: the second builds all of the paths."""
    robot = Robot.load(name)
    one = Draw("uniform", 1.0, 1.0)
    nothing = Gap(actuators=Actuators(strength=one), xi={robot.space.names[0]: one})

    def run(gap):
        return rollout(Worlds(robot, 2, gap=gap, threads=1), commands(robot, 2, 50))

    plain = run(None)
    assert_equal(plain, run(Gap(description="an empty gap")))
    assert_equal(plain, run(nothing))


@pytest.mark.parametrize("name", ["ant", "halfcheetah", "hopper", "pusher"])
def test_back_at_the_nominal_physics_the_bits_are_back(name):
    robot = Robot.load(name)
    worlds, fresh = (Worlds(robot, 2, draw=d, seed=1) for d in (robot.space.prior(), None))
    worlds.reset()
    worlds.step(commands(robot, 2, 1)[0])
    worlds.seed(1)
    np.testing.assert_array_equal(worlds.reset(xi=robot.space.nominal), fresh.reset())
    for a in commands(robot, 2, 40):
        np.testing.assert_array_equal(worlds.advance(a).obs, fresh.advance(a).obs)


def test_a_world_obeys_its_physics():
    """Against a plain MjModel that ParameterSpace.write made and plain mj_step calls."""
    robot = Robot.load("hopper")
    xi = robot.space.prior().sample(np.random.default_rng(0), 3)
    xi[:, -1] = 0.0
    worlds = Worlds(robot, 3)
    worlds.reset(xi=xi)
    np.testing.assert_array_equal(worlds.xi, xi)
    action = commands(robot, 3, 100)
    for a in action:
        worlds.advance(a)
    for i, start in enumerate(worlds.starts):
        assert start is not None
        model = robot.compile()
        robot.space.write(model, xi[i])
        data = mujoco.MjData(model)
        data.qpos[:], data.qvel[:] = start.qpos, start.qvel
        mujoco.mj_forward(model, data)
        for a in action:
            data.ctrl[:] = a[i]
            mujoco.mj_step(model, data, robot.config.frame_skip)
        np.testing.assert_array_equal(worlds.data["qpos"][i], data.qpos)
        np.testing.assert_array_equal(worlds.data["qvel"][i], data.qvel)


def test_every_episode_draws_new_physics_inside_the_ranges():
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 4, draw=robot.space.prior())
    worlds.reset()
    draws = [worlds.xi.copy()]
    worlds.reset(worlds=np.array([True, False, True, False]))
    draws.append(worlds.xi.copy())
    assert ((draws[1] != draws[0]).all(axis=1) == [True, False, True, False]).all()
    drawn = np.concatenate(draws)
    assert ((drawn >= robot.space.low) & (drawn <= robot.space.high)).all()


@pytest.mark.parametrize("name", ["hopper", "ant"])
@pytest.mark.filterwarnings("ignore:.*Box observation space (min|max)imum value:UserWarning")
@pytest.mark.parametrize("gap", [None, "worn"])
def test_gymnasiums_checker_passes(name, gap):
    env = gymnasium.make(f"sim2real/{name}", gap=gap, observe="measured")
    check_env(env.unwrapped, skip_render_check=True)


def test_gymnasium_makes_what_is_registered():
    gymnasium.register_envs(sim2real.learning.gym)
    sim2real.learning.gym.register()  # a second time
    env: Any = gymnasium.make("sim2real/hopper", xi={"torso_mass": 1.5}, observe="measured", seed=4)
    assert env.spec is not None
    assert env.spec.id == "sim2real/hopper"
    obs, _ = env.reset()
    assert obs.shape == (11,)
    assert env.unwrapped.worlds.xi[0].tolist() == [1.5, 1.0, 1.0, 1.0, 0.0]
    plain = gymnasium.make("sim2real/walker2d")
    np.testing.assert_array_equal(plain.reset(seed=1)[0], reference("walker2d").reset(seed=1)[0])


def test_an_env_folder_of_ones_own(cart_folder):
    env = make_env(cart_folder, observe="measured", xi={"mass": 0.5, "slope": -0.25})
    obs, _ = env.reset(seed=0)
    x, v = obs[0], 0.0
    assert abs(x) <= 0.1
    for a in (1.0, -0.5):
        obs, reward, terminated, truncated, info = env.step(np.array([a], np.float32))
        for _ in range(2):
            v += 0.01 * (3 * a / (0.5 * 2) - 0.25)
            x += 0.01 * v
        np.testing.assert_allclose(obs, [x, v, a], rtol=1e-12)
        assert info == {"distance": abs(obs[0])}
        assert reward == -abs(obs[0])
        assert not terminated
        assert not truncated

    robot = Robot.load(cart_folder)
    np.testing.assert_array_equal(robot.gap("weak").actuators.strength, 0.5)

    def run(engine):
        worlds = Worlds(robot, 5, gap="weak", draw=robot.space.prior(), engine=engine, threads=1)
        return rollout(worlds, commands(robot, 5, 40))

    assert_equal(run("mjbatch"), run("reference"))

    venv = make_vec(cart_folder, 4, gap="weak")
    venv.reset()
    ends = [venv.step(np.zeros((4, 1), np.float32))[2].any() for _ in range(30)]
    assert ends[-1]


def test_an_env_without_parameters_or_terms(cart_folder):
    (cart_folder / "env.yaml").write_text(
        "{description: A cart., model: cart.xml, frame_skip: 2, task: task.py}"
    )
    venv: Any = make_vec(cart_folder, 2)
    assert venv.reset().shape == (2, 2)
    obs, *_ = venv.step(np.ones((2, 1), np.float32))
    np.testing.assert_allclose(obs[:, 1], 0.02 * 3 / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_vec("hoper", 1), "did you mean 'hopper'"),
        (lambda: make_vec("hopper", 0), "num_envs is 0; it must be a whole number of at least 1"),
        (lambda: make_vec("hopper", 1, randomize=WRONG), "did you mean 'uniform'"),
        (lambda: make_vec("hopper", 1, observe="mesured"), "did you mean 'measured'"),
        (lambda: make_vec("hopper", 1, observe=["pich"]), "did you mean 'pitch'"),
        (lambda: make_env("hopper", gap="wron"), "did you mean 'worn'"),
        (lambda: make_env("hopper", xi={"torso_mas": 1.0}), "did you mean 'torso_mass'"),
        (lambda: make_env("hopper", xi=np.ones(3)), "the 5 parameters torso_mass"),
        (lambda: make_env("hopper", xi={"torso_mass": np.nan}).reset(), "must be a finite number"),
        (lambda: make_env("hopper", xi={"torso_mass": -1.0}).reset(), "must be positive"),
    ],
)
def test_wrong_names_and_numbers_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_an_action_of_another_shape_is_refused():
    worlds = Worlds(Robot.load("hopper"), 2)
    worlds.reset()
    with pytest.raises(InputError, match=r"shape \(3,\); hopper with 2 worlds takes \(2, 3\)"):
        worlds.step(np.zeros(3))


# Draws


def test_another_distribution_holds_from_the_next_episode_on():
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 3, draw=robot.space.prior(), threads=1)
    worlds.reset()
    before = worlds.xi.copy()
    worlds.draws.distribution = Uniform(robot.space.nominal, robot.space.nominal)
    np.testing.assert_array_equal(worlds.xi, before)
    worlds.reset()
    np.testing.assert_array_equal(worlds.xi, np.tile(robot.space.nominal, (3, 1)))


def test_draws_ahead_are_the_draws_of_the_stream():
    space = Robot.load("hopper").space
    draws = Draws(space, 2, space.prior())
    draws.seed(5)
    one_by_one = np.array([draws.next(np.array([1]))[0] for _ in range(20)])
    draws.seed(5)
    for _ in range(20):
        draws.next(np.array([0]))  # what another world does changes nothing
    np.testing.assert_array_equal([draws.next(np.array([1]))[0] for _ in range(20)], one_by_one)
    assert len(np.unique(one_by_one, axis=0)) == 20


# The clock of MuJoCo's bindings


@pytest.mark.parametrize("engine", ["mjbatch", "reference"])
def test_stepping_stops_the_profiling_clock(engine):
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 2, engine=engine, threads=1)
    worlds.reset()
    other = mujoco.MjData(robot.model)  # the bindings start the clock here
    worlds.step(np.zeros((2, 3)))
    mujoco.mj_step(robot.model, other)
    assert other.timer[mujoco.mjtTimer.mjTIMER_STEP].duration == 0.0


def test_a_clock_of_ones_own_stays():
    worlds = Worlds(Robot.load("hopper"), 1, threads=1)
    worlds.reset()
    clock = time.perf_counter
    mujoco.set_mjcb_time(clock)
    try:
        worlds.step(np.zeros((1, 3)))
        assert mujoco.get_mjcb_time() is clock
    finally:
        mujoco.set_mjcb_time(None)
