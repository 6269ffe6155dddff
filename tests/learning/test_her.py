"""SAC with hindsight on a goal environment, from the recipe to the artifact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecNormalize

from sim2real.evaluate import evaluate
from sim2real.export import export
from sim2real.learning.folder import checkpoints
from sim2real.learning.learners import Learner, build, to_policy
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe
from sim2real.schema import read
from sim2real.simulation.robot import Robot
from sim2real.train import describe, make_training_env, train

SMALL: dict[str, Any] = {
    "description": "a small run",
    "env": "fetch_reach",
    "randomize": "uniform",
    "correct": "none",
    "align": "none",
    "adapt": "none",
    "steps": 2000,
    "worlds": 4,
    "threads": 1,
    "checkpoint": 1000,
    "learner": {
        "algorithm": "sac",
        "her": True,
        "network": [64, 64],
        "activation": "relu",
        "learning_rate": 1e-3,
        "gamma": 0.95,
        "settings": {"batch_size": 64, "buffer_size": 10_000, "train_freq": 4},
    },
}

SIZES = {"fetch_reach": 16, "fetch_push": 31}
"""Robot -> O: achieved and desired goal, and the rest."""


def recipe(**changes):
    learner = {**SMALL["learner"], **changes.pop("learner", {})}
    return read(Recipe, {**SMALL, **changes, "learner": learner})


def build_model(recipe) -> tuple[Any, Any]:
    envs = make_training_env(Robot.load(recipe.env), recipe, seed=0)
    env = VecNormalize(envs.env, gamma=recipe.learner.gamma)
    return build(recipe.learner, env, 0), env


def test_a_small_run_trains_loads_exports_evaluates_and_resumes(tmp_path):
    torch.set_num_threads(1)
    out = tmp_path / "run"
    policy = train(SMALL, out=out)
    assert [t.name for t in policy.spec.terms] == ["achieved_goal", "desired_goal", "observation"]
    assert policy.spec.head == "tanh"
    assert policy.spec.actuators.names == ("x", "y", "z", "gripper")

    loaded = Policy.load(out)
    obs = torch.randn(5, 16)
    assert torch.equal(policy(obs, ())[0], loaded(obs, ())[0])

    result = evaluate(loaded, gap="mild", episodes=4)
    assert result.returns.shape == (4,)
    assert (result.returns >= -50).all()
    assert np.allclose(result.seconds, 50 * 0.04)

    artifact = export(loaded, tmp_path / "artifact")
    assert artifact.contract.robot == "fetch_reach"
    assert artifact.contract.evidence.parity <= 1e-5

    # a resumed run fills its replay buffer anew before it learns on
    train({**SMALL, "steps": 2600}, out=out, resume=True)


def test_the_recipe_of_fetch_push_trains(tmp_path):
    """As it is, but short: its networks, batches and goals."""
    shorter = ["steps=440", "worlds=4", "threads=1", "learner.settings.buffer_size=2000"]
    policy = train("fetch_push", out=tmp_path / "run", overrides=shorter)
    assert policy.spec.obs_size == SIZES["fetch_push"]
    data, *_ = load_from_zip_file(checkpoints(tmp_path / "run")[-1] / "model.zip")
    assert data is not None
    assert data["_n_updates"] == 40  # from the end of two episodes of every world: 400 steps


@pytest.mark.parametrize(("env", "size"), SIZES.items())
def test_the_policy_is_what_stable_baselines_trained(env, size):
    """Normaliser, order of the dictionary and head: the same command for the same observation."""
    r = recipe(env=env, adapt={"method": "context", "error": 0.05})
    model, env = build_model(r)
    model.learn(440)
    assert isinstance(model.replay_buffer, HerReplayBuffer)
    assert list(env.observation_space.spaces) == ["achieved_goal", "desired_goal", "observation"]
    robot = Robot.load(r.env)
    policy = to_policy(model, env, describe("small", robot, r))
    env.training = False
    rng = np.random.default_rng(0)
    flat = rng.uniform(-1, 1, (6, size + robot.space.K))
    parts = {"achieved_goal": flat[:, :3], "desired_goal": flat[:, 3:6], "observation": flat[:, 6:]}
    theirs, _ = model.predict(env.normalize_obs(parts), deterministic=True)
    obs, context = torch.as_tensor(flat, dtype=torch.float32).split([size, robot.space.K], dim=1)
    mine, _ = policy(obs, (context,))
    assert np.allclose(mine.numpy(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("env", SIZES)
def test_hindsight_rewards_are_the_environments_for_the_relabelled_goals(env):
    model, env = build_model(recipe(env=env, randomize="none"))
    model.learn(450)
    env.norm_reward = False
    batch = model.replay_buffer.sample(256, env=None)
    goal, reached = batch.observations["desired_goal"], batch.next_observations["achieved_goal"]
    distance = torch.linalg.vector_norm(goal - reached, dim=1)
    reward = batch.rewards[:, 0]
    sure = (distance - 0.05).abs() > 1e-6  # the buffer holds float32
    assert torch.equal(reward[sure], -(distance > 0.05).float()[sure])
    assert (reward == 0).any()  # random motion almost never meets the goal that was asked


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learner": {"algorithm": "ppo", "settings": {}}}, "use sac or tqc"),
        ({"learner": {"settings": {"learning_starts": 100}}}, "at least 200"),
        ({"history": 3}, "use history: 1"),
        ({"env": "hopper"}, "hopper is none"),
        ({"env": "hand_reach", "observe": "joints"}, "no observation set 'joints'"),
        ({"learner": {"settings": {"batchsize": 64}}}, "batchsize"),
    ],
)
def test_what_her_cannot_do_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        build_model(recipe(**changes))


def test_learners_without_her_see_flat_observations():
    r = recipe(learner={"her": False, "algorithm": "ppo", "settings": {"n_steps": 16}}, history=2)
    model, env = build_model(r)
    assert env.observation_space.shape == (32,)
    model.learn(64)
    assert Learner().her is False
