"""Every task against Gymnasium's own environment, bit for bit; no engine of ours in between."""

import re
import textwrap
from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco import mujoco_env
from gymnasium.utils.seeding import np_random

from sim2real.simulation.tasks import TASKS, Task
from sim2real.types import InputError

WORLDS = 3
REFERENCES = {  # task -> environment, model file, frame_skip
    "ant": ("Ant-v5", "ant.xml", 5),
    "halfcheetah": ("HalfCheetah-v5", "half_cheetah.xml", 5),
    "hopper": ("Hopper-v5", "hopper.xml", 4),
    "humanoid": ("Humanoid-v5", "humanoid.xml", 5),
    "inverted_double_pendulum": ("InvertedDoublePendulum-v5", "inverted_double_pendulum.xml", 5),
    "inverted_pendulum": ("InvertedPendulum-v5", "inverted_pendulum.xml", 2),
    "pusher": ("Pusher-v5", "pusher_v5.xml", 5),
    "reacher": ("Reacher-v5", "reacher.xml", 2),
    "walker2d": ("Walker2d-v5", "walker2d_v5.xml", 4),
}
every_task = pytest.mark.parametrize("name", sorted(REFERENCES))


def load(name):
    path = Path(mujoco_env.__file__).parent / "assets" / REFERENCES[name][1]
    return mujoco.MjModel.from_xml_path(str(path))


def gather(task, worlds):
    """The mapping a task reads, stacked from plain MjData."""
    fields = {"qpos", "qvel", *task.fields} - {"body_mass"}
    data = {field: np.stack([getattr(world, field) for world in worlds]) for field in fields}
    return data | {"body_mass": np.stack([task.model.body_mass for _ in worlds])}


def reset(task, world, rng):
    mujoco.mj_resetData(task.model, world)
    world.qpos[:], world.qvel[:] = task.initial_state(rng)
    mujoco.mj_forward(task.model, world)


def step(task, world, action, frame_skip):
    world.ctrl[:] = action
    mujoco.mj_step(task.model, world, frame_skip)
    mujoco.mj_rnePostConstraint(task.model, world)


def assert_info(info, i, expected):
    assert info.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(info[key][i], value, err_msg=key)


@every_task
def test_a_thousand_steps_are_gymnasiums(name):
    environment, _, frame_skip = REFERENCES[name]
    task = TASKS[name](load(name))
    dt = task.model.opt.timestep * frame_skip
    envs = [gymnasium.make(environment, disable_env_checker=True) for _ in range(WORLDS)]
    worlds = [mujoco.MjData(task.model) for _ in range(WORLDS)]
    rngs = [np_random(seed)[0] for seed in range(WORLDS)]
    elapsed = np.zeros(WORLDS, int)
    episodes = 0

    for i, env in enumerate(envs):
        assert gymnasium.spec(environment).max_episode_steps == task.episode_steps
        env.action_space.seed(100 + i)
        reset(task, worlds[i], rngs[i])
        expected, expected_info = env.reset(seed=i)
        data = gather(task, worlds)
        np.testing.assert_array_equal(task.observe(data)[i], expected)
        assert_info(task.reset_info(data), i, expected_info)

    for _ in range(1000):
        action = np.stack([env.action_space.sample() for env in envs])
        before = task.before(gather(task, worlds))
        for world, a in zip(worlds, action, strict=True):
            step(task, world, a, frame_skip)
        data = gather(task, worlds)
        obs, terminated = task.observe(data), task.terminated(data)
        reward, info = task.reward(data, before, action, dt)
        elapsed += 1

        assert obs.dtype == reward.dtype == np.float64
        assert terminated.dtype == bool
        for i, env in enumerate(envs):
            expected = env.step(action[i])
            np.testing.assert_array_equal(obs[i], expected[0])
            assert reward[i] == expected[1]
            assert terminated[i] == expected[2]
            assert (elapsed[i] == task.episode_steps) == expected[3]
            assert_info(info, i, expected[4])
            if expected[2] or expected[3]:
                elapsed[i] = 0
                episodes += 1
                reset(task, worlds[i], rngs[i])
                expected, expected_info = env.reset()
                data = gather(task, worlds)
                np.testing.assert_array_equal(task.observe(data)[i], expected)
                assert_info(task.reset_info(data), i, expected_info)
    assert episodes >= WORLDS


@pytest.mark.parametrize("name", ["ant", "hopper", "humanoid", "walker2d"])
def test_the_edge_of_health_is_gymnasiums(name):
    """What random actions never reach: every limit met exactly, overshot, infinite, NaN."""
    task = TASKS[name](load(name))
    env: Any = gymnasium.make(REFERENCES[name][0], disable_env_checker=True).unwrapped
    values = [0.2, 0.7, 0.8, 1.0, 2.0, 99.0, 100.0, np.inf, np.nan]
    values += [np.nextafter(v, side) for v in values for side in (-np.inf, np.inf)]
    values += [-v for v in values]
    verdicts = set()
    for size in ("qpos", "qvel"):
        for k in range(getattr(env.data, size).size):
            for value in values:
                env.reset(seed=0)
                getattr(env.data, size)[k] = value
                terminated = task.terminated(gather(task, [env.data]))
                assert terminated == (not env.is_healthy), (size, k, value)
                verdicts.add(bool(terminated[0]))
    assert verdicts == {True, False}


@every_task
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_world_does_not_feel_its_neighbours(name, dtype):
    """Rounding must not depend on B, nor on how the batch lies in memory."""
    rng = np.random.default_rng(0)
    task = TASKS[name](load(name))
    world = mujoco.MjData(task.model)
    shapes = {field: value.shape[1:] for field, value in gather(task, [world]).items()}

    def draw():
        return {
            f: rng.uniform(0.1, 1.3, (130, *s)) * 10 ** rng.uniform() for f, s in shapes.items()
        }

    first, second = draw(), draw()
    action = rng.uniform(-1, 1, (130, task.model.nu)).astype(dtype)

    def figures(rows, order):
        def take(data):
            return {f: np.array(x[rows], order=order) for f, x in data.items()}

        before, data = task.before(take(first)), take(second)
        reward, info = task.reward(data, before, np.array(action[rows], order=order), 0.01)
        return [task.observe(data), task.terminated(data), reward, *info.values()]

    alone = [figures(slice(i, i + 1), "C") for i in range(130)]
    alone = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
    for order in "CF":
        for batch, single in zip(figures(slice(None), order), alone, strict=True):
            np.testing.assert_array_equal(batch, single)


@every_task
def test_what_a_task_returns_is_not_a_view_of_the_simulation(name):
    task = TASKS[name](load(name))
    world = mujoco.MjData(task.model)
    reset(task, world, np.random.default_rng(0))
    data = gather(task, [world])
    action = np.zeros((1, task.model.nu), np.float32)
    before = task.before(data)
    reward, info = task.reward(data, before, action, 0.01)
    given = [task.observe(data), reward, task.terminated(data), *info.values()]
    given += [*task.reset_info(data).values(), *([] if before is None else [before])]
    for x in given:
        assert not any(np.shares_memory(x, field) for field in data.values())


@every_task
def test_the_logged_state_is_the_true_state(name):
    rng = np.random.default_rng(0)
    task = TASKS[name](load(name))
    worlds = [mujoco.MjData(task.model) for _ in range(20)]
    for world in worlds:
        reset(task, world, rng)
    data = gather(task, worlds)
    state = task.state_from({"v5": task.observe(data)})
    assert state is not None

    for logged, known, true in (
        (state.qpos, state.known_qpos, data["qpos"]),
        (state.qvel, state.known_qvel, data["qvel"]),
    ):
        assert logged.shape == true.shape
        assert known.shape == true.shape[1:]
        np.testing.assert_allclose(logged[:, known], true[:, known], rtol=0, atol=1e-12)
        assert not logged[:, ~known].any()
    assert task.state_from({"joint_positions": data["qpos"]}) is None


@pytest.mark.parametrize(
    ("name", "qpos", "qvel"),
    [
        ("ant", {0, 1}, set()),
        ("halfcheetah", {0}, set()),
        ("hopper", {0}, set()),
        ("humanoid", {0, 1}, set()),
        ("inverted_double_pendulum", set(), set()),
        ("inverted_pendulum", set(), set()),
        ("pusher", set(), {7, 8, 9, 10}),
        ("reacher", set(), {2, 3}),
        ("walker2d", {0}, set()),
    ],
)
def test_the_log_is_silent_about(name, qpos, qvel):
    task = TASKS[name](load(name))
    state = task.state_from({"v5": task.observe(gather(task, [mujoco.MjData(task.model)]))})
    assert state is not None
    assert set(np.flatnonzero(~state.known_qpos)) == qpos
    assert set(np.flatnonzero(~state.known_qvel)) == qvel


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("reacher", "hopper", "a body 'fingertip'.*its bodies are world, torso, thigh, leg, foot"),
        ("pusher", "reacher", "a body 'tips_arm'.*its bodies are world, body0, body1, "),
        ("inverted_double_pendulum", "inverted_pendulum", "a site at the tip"),
    ],
)
def test_a_task_names_what_the_model_lacks(name, wrong, message):
    with pytest.raises(InputError, match=message):
        TASKS[name](load(wrong))


def test_the_example_for_ones_own_task_runs():
    example = re.search(r"\n\n(        import.*?)\n\n    \*\*data", Task.__doc__ or "", re.DOTALL)
    assert example is not None
    scope = {}
    exec(textwrap.dedent(example[1]), scope)
    task = scope["KeepUpright"](load("inverted_double_pendulum"))
    world = mujoco.MjData(task.model)
    reset(task, world, np.random.default_rng(0))
    data = gather(task, [world])
    reward, info = task.reward(data, task.before(data), np.ones((1, 1), np.float32), 0.01)
    assert task.observe(data).shape == (1, 6)
    assert reward == pytest.approx(info["height"] - 0.01)
    assert not task.terminated(data)
    assert task.reset_info(data) == {}
    assert task.state_from({}) is None
