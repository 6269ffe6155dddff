"""RL² by recipe: the policy that leaves is the one that learned, and a run goes on where it was."""

import json

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.memory.recurrent_ppo import PPOSettings
from sim2real.bridges.adapt.memory.trial_learner import TrialLearner, settings_of
from sim2real.learning.learners import Learner
from sim2real.policy.policy import Policy
from sim2real.policy.spec import MemorySpec
from sim2real.recipe import read
from sim2real.simulation.robot import Robot
from sim2real.simulation.trials import TrialWorlds
from sim2real.simulation.worlds import Worlds
from sim2real.train import describe, train
from sim2real.types import InputError

torch.set_num_threads(1)

RECIPE = {
    "description": "RL² of the tests", "env": "hopper", "observe": "measured",
    "learner": {"network": [16], "settings": {"n_steps": 16, "batch_size": 64, "n_epochs": 2}},
    "randomize": "uniform", "correct": "none", "align": "none",
    "adapt": {"method": "memory", "hidden": 8, "trial": 2},
    "steps": 512, "worlds": 8, "threads": 1, "checkpoint": 256,
}  # fmt: skip


def made(B=4, seed=0):
    _, recipe = read(RECIPE)
    robot = Robot.load("hopper")
    spec = describe("test", robot, recipe)
    mine = [t.name for t in spec.terms]
    names = [*mine, *(t.name for t in robot.observation("v5") if t.name not in mine)]
    worlds = Worlds(robot, B, observe=names, draw=robot.space.prior(), seed=seed, threads=1)
    trials = TrialWorlds(worlds, episodes=2, seed=seed)
    learner = Learner(network=(16,), settings={"n_steps": 8})
    return TrialLearner(spec, trials, learner, steps=10_000, seed=seed)


def test_the_policy_that_leaves_does_what_the_network_learned_to_do():
    """Over trials and the ends of episodes, from observations in their own units."""
    learner = made()
    for _ in range(3):
        learner.ppo.iterate()
    with torch.no_grad():
        learner.network.policy[-1].get_parameter("weight").mul_(30)
    policy, told = learner.policy(), learner.ppo.told
    robots, worlds = learner.robots, learner.robots.trials.worlds
    x, z = told.first(robots.begin()), learner.network.initial(4)
    seen, O = robots.obs_statistics, policy.spec.obs_size
    state, reset, ended = policy.initial(4), torch.ones(4, 1), 0
    with torch.no_grad():
        for _ in range(300):
            raw_obs = worlds._observe()[:, :O]
            standard = (raw_obs - seen.mean[:O]) / seen.deviation[:O]
            np.testing.assert_allclose(x[:, :O], np.clip(standard, -10, 10), atol=1e-4)
            chosen, z = learner.network.act(torch.as_tensor(x), z)
            obs = torch.as_tensor(raw_obs, dtype=torch.float32)
            _, own, state = policy.forward_full(obs, state, reset)
            torch.testing.assert_close(own, chosen.mean, atol=2e-4, rtol=1e-3)
            outcome = robots.step(chosen.mean.numpy())
            x = told.after(chosen.mean.numpy(), outcome)
            new = torch.as_tensor(outcome.over)[:, None]
            z = torch.where(new, 0.0, z)
            state = tuple(torch.where(new, 0.0, part) for part in state)
            reset = torch.as_tensor(outcome.done[:, None]).float()
            ended += outcome.done.sum()
    assert ended > 4, ended


def test_what_is_kept_is_all_that_a_run_needs(tmp_path):
    one = made()
    one.ppo.iterate()
    one.save(tmp_path)
    other = made(seed=1)
    other.load(tmp_path)
    assert other.ppo.taken == one.ppo.taken
    for a, b in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(a, b)
    a, b = one.robots, other.robots
    np.testing.assert_array_equal(a.obs_statistics.mean, b.obs_statistics.mean)
    np.testing.assert_array_equal(a.return_statistics.deviation, b.return_statistics.deviation)
    assert a.obs_statistics.count == b.obs_statistics.count
    assert str(one.ppo.optimizer.state_dict()) == str(other.ppo.optimizer.state_dict())


def test_a_recipe_is_trained_and_resumed(tmp_path):
    out = tmp_path / "run"
    policy = train(RECIPE, out=out)
    assert policy.spec.memory == MemorySpec(8)
    assert policy.z_names == ("memory", "last_action")
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [
        "000000000256", "000000000512",
    ]  # fmt: skip
    rows = (out / "log" / "progress.csv").read_text().splitlines()
    assert "rollout/ep_rew_mean" in rows[0]
    assert len(rows) == 1 + 4
    again = Policy.load(out)
    assert all(
        torch.equal(a, b)
        for a, b in zip(policy.state_dict().values(), again.state_dict().values(), strict=True)
    )
    longer = train({**RECIPE, "steps": 1024}, out=out, resume=True)
    first, last = (p.network[0].get_parameter("weight") for p in (policy, longer))
    assert not torch.equal(first, last)
    rows = (out / "log" / "progress.csv").read_text().splitlines()
    assert len(rows) == 1 + 8
    facts = json.loads((out / "run.json").read_text())
    assert facts["seed"] == 0


def test_a_checkpoint_that_cannot_be_read_gives_way_to_the_one_before(tmp_path, caplog):
    train(RECIPE, out=tmp_path)
    (tmp_path / "checkpoints" / "000000000512" / "learner.pt").write_bytes(b"half")
    train({**RECIPE, "steps": 768}, out=tmp_path, resume=True)
    assert "000000000512 cannot be read" in caplog.text
    assert "going on from" in caplog.text
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "learner.pt").write_bytes(b"half")
    with pytest.raises(InputError, match="begin anew with another --out"):
        train({**RECIPE, "steps": 1024}, out=tmp_path, resume=True)


def test_a_resumed_run_begins_with_the_statistics_of_the_run(tmp_path):
    one = made()
    for _ in range(3):
        one.ppo.iterate()
    one.save(tmp_path)
    other = made(seed=1)
    other.load(tmp_path)
    seen, O = other.robots.obs_statistics, other.spec.obs_size
    raw = other.robots.trials.worlds._observe()[:, :O]
    standard = np.clip((raw - seen.mean[:O]) / seen.deviation[:O], -10, 10)
    np.testing.assert_allclose(other.ppo._x[:, :O], standard, atol=1e-4)
    assert not other.robots.returns  # of random actions
    drawn = torch.randn(3)
    one.load(tmp_path)
    assert torch.equal(torch.randn(3), drawn)


def test_worlds_that_give_nan_are_named_and_nothing_is_lost(tmp_path, monkeypatch):
    advance = Worlds.advance
    calls = [0]

    def breaks(self, action):
        step = advance(self, action)
        calls[0] += 1
        return step if calls[0] < 100 else step._replace(reward=step.reward * np.nan)

    monkeypatch.setattr(Worlds, "advance", breaks)
    with pytest.raises(InputError, match="hopper"):
        train(RECIPE, out=tmp_path)
    kept = max((tmp_path / "checkpoints").iterdir())
    weights = torch.load(kept / "learner.pt", weights_only=True)["network"]
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_settings_have_the_names_of_stable_baselines3():
    learner = Learner(
        learning_rate=1e-3, final_learning_rate=1e-4, gamma=0.98,
        settings={"n_steps": 32, "batch_size": 256, "n_epochs": 3, "gae_lambda": 0.9,
                  "clip_range": 0.1, "ent_coef": 0.0, "vf_coef": 1.0, "max_grad_norm": 1.0},
    )  # fmt: skip
    assert settings_of(learner, 16, "memory") == PPOSettings(
        sequence=32, minibatches=2, epochs=3, gae_lambda=0.9, clip=0.1, entropy=0.0, value=1.0,
        max_grad_norm=1.0, learning_rate=1e-3, final_learning_rate=1e-4, gamma=0.98,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learner": {"algorithm": "sac"}}, "memory learns by ppo; learner.algorithm is sac"),
        ({"learner": {"settings": {"target_kl": 0.1}}}, "target_kl: adapt: memory learns from"),
        ({"learner": {"settings": {"batch_size": 0}}}, "batch_size is 0; it must be at least 1"),
        ({"learner": {"settings": {"n_steps": 0}}}, "n_steps is 0; it must be at least 1"),
        ({"learner": {"settings": {"gae_lambda": 1.5}}}, "at least 0 and at most 1"),
        (
            {"learner": {"settings": {"n_steps": 16, "batch_size": 40}}},
            "batch_size is 40; a batch is of whole sequences, 16 steps each",
        ),
        ({"history": 2}, "history: with adapt: memory a policy"),
        ({"randomize": "epopt"}, "randomize: epopt does not go with adapt: memory"),
        ({"randomize": "none"}, "with randomize: none all are alike"),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        read({**RECIPE, **change})
