"""EPOpt learns from the worst episodes, all of them whole, and from nothing else.

The oracle is a bandit with a = action, p ∈ {0, 1}, P(p = 1) = q = 0.2 and R = -(a - p)². For
a ≤ 1/2 the worst ε of the draws hold those with p = 1 first, so that CVaR_ε = -mean of (a - p)²
over a mixture with P(p = 1) = min(1, q/ε), which rises up to a = q/ε; for a > 1/2 the two sides
change places and it falls. Hence the optimum a* = min(1/2, q/ε).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces
from scipy.optimize import brentq
from scipy.stats import norm
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from sim2real.bridges.randomize.epopt import EpisodeBuffer, EPOpt, EPOptPPO, cvar, worst
from sim2real.bridges.randomize.uniform import Uniform
from sim2real.dynamics.parameter import Parameter, ParameterSpace
from sim2real.types import InputError

Q = 0.2
EPSILONS = (0.25, 0.6, 1.0)
SHARES = 200  # draws of p in the exact oracle, Q of them 1


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class ManualVecEnv(VecEnv):
    """What a VecEnv must have and these tests do not use."""

    def step_async(self, actions):
        self.actions = actions

    def close(self):
        pass

    def get_attr(self, attr_name, indices=None):
        return [None] * self.num_envs

    def set_attr(self, attr_name, value, indices=None):
        raise AttributeError(attr_name)

    def env_method(self, method_name, *args, indices=None, **kwargs):
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class, indices=None):
        return [False] * self.num_envs


class Bandit(ManualVecEnv):
    """One step: R = -(a - p)². The policy sees nothing."""

    def __init__(self, B: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        super().__init__(B, spaces.Box(-1, 1, (1,)), spaces.Box(-3, 3, (1,)))

    def reset(self):
        self.p = (self.rng.random(self.num_envs) < Q).astype(float)
        return np.zeros((self.num_envs, 1), np.float32)

    def step_wait(self):
        reward = -((self.actions[:, 0] - self.p) ** 2)
        obs = self.reset()
        infos: list[dict[str, Any]] = [{"terminal_observation": o} for o in obs]
        return obs, reward.astype(np.float32), np.ones(self.num_envs, bool), infos


class Lengths(ManualVecEnv):
    """Every episode draws one of `lengths`; its steps earn `reward(length, action)`, and it times
    out at the end where its length is `timeout`. The policy sees (steps so far, length)."""

    def __init__(self, B, lengths, seed=0, reward=lambda n, a: np.ones(len(n)), timeout=None):
        self.rng = np.random.default_rng(seed)
        self.lengths, self.reward, self.timeout = np.array(lengths), reward, timeout
        self.length, self.t = np.zeros(B, int), np.zeros(B, int)
        self.steps, self.begun = 0, 0
        super().__init__(B, spaces.Box(-1, 20, (2,)), spaces.Box(-1, 1, (1,)))

    def _begin(self, who):
        self.length[who] = self.rng.choice(self.lengths, len(self.t))[who]
        self.t[who] = 0
        self.begun += int(np.sum(who))

    def _obs(self):
        return np.stack([self.t / 10, self.length / 10], axis=1).astype(np.float32)

    def reset(self):
        self._begin(np.ones(self.num_envs, bool))
        return self._obs()

    def step_wait(self):
        reward = self.reward(self.length, self.actions[:, 0]).astype(np.float32)
        self.t += 1
        self.steps += self.num_envs
        done = self.t == self.length
        infos: list[dict[str, Any]] = [{} for _ in done]
        for i in np.flatnonzero(done):
            infos[i] = {
                "terminal_observation": self._obs()[i],
                "TimeLimit.truncated": self.length[i] == self.timeout,
            }
        self._begin(done)
        return self._obs(), reward, done, infos


class Note(BaseCallback):
    """Keeps what every iteration logged, and of how long its episodes were."""

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[dict[str, Any]] = []
        self.lengths: list[np.ndarray] = []
        self.returns: list[np.ndarray] = []
        self.started = self.stepped = 0

    def _on_rollout_start(self) -> None:
        self.started += 1

    def _on_step(self) -> bool:
        self.stepped += 1
        return True

    def _on_rollout_end(self) -> None:
        buffer: Any = self.model.rollout_buffer  # type: ignore[attr-defined]
        self.logged.append(dict(self.logger.name_to_value) | {"at": self.model.num_timesteps})
        self.lengths.append(np.bincount(buffer["episode"][buffer["episode"] >= 0]))
        self.returns.append(buffer.returns)


def learner(env, **given) -> EPOptPPO:
    settings: dict[str, Any] = {"seed": 0, "device": "cpu", "warm_up": 0.0, "min_kept": 1}
    settings |= {"policy_kwargs": {"net_arch": [8]}, "n_epochs": 2, "episodes": 32, "epsilon": 0.25}
    return EPOptPPO("MlpPolicy", env, **(settings | given))


def buffer_of(model: EPOptPPO) -> EpisodeBuffer:
    buffer: Any = model.rollout_buffer
    return buffer


# The worst fraction


def test_the_worst_are_the_lowest_returns():
    R = np.random.default_rng(0).permutation(40).astype(float)
    np.testing.assert_array_equal(np.sort(R[worst(R, 0.1, 1)]), [0, 1, 2, 3])
    assert cvar(R, 0.1) == 1.5
    assert cvar(R, 1.0) == R.mean()


def test_ties_do_not_inflate_the_fraction():
    capped = np.minimum(np.random.default_rng(1).normal(0.0, 1.0, 100), -1.0)
    capped[50:] = -1.0
    assert len(worst(np.ones(50), 0.1, 1)) == 5
    assert len(worst(capped, 0.3, 1)) == 30
    assert np.sum(capped <= np.percentile(capped, 30)) == 100  # what `R <= Q_ε` would keep


def test_a_minimum_is_kept_and_never_more_than_there_are():
    R = np.arange(20.0)
    np.testing.assert_array_equal(worst(R, 0.05, 8), np.arange(8))
    assert len(worst(R, 0.05, 100)) == 20
    assert len(worst(R, 1e-9, 0)) == 0
    assert len(worst(R[:1], 0.1)) == 1


@pytest.mark.parametrize("epsilon", [0.05, 0.1, 0.5])
def test_cvar_of_a_normal(epsilon):
    J = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    exact = -norm.pdf(norm.ppf(epsilon)) / epsilon  # Rockafellar and Uryasev 2000
    assert cvar(J, epsilon) == pytest.approx(exact, abs=2e-3)


@pytest.mark.parametrize(
    ("returns", "epsilon", "said"),
    [
        ([1.0, 2.0], 0.0, r"epsilon is 0.0; it must lie in \(0, 1\]"),
        ([1.0, 2.0], 10, r"epsilon is 10; it must lie in \(0, 1\]"),
        ([], 0.1, r"shape \(0,\); give one number per episode"),
        ([[1.0]], 0.1, r"shape \(1, 1\)"),
        ([1.0, np.nan], 0.1, "the return of episode 1 is nan; it must be finite"),
    ],
)
def test_returns_that_cannot_be_sorted_are_refused(returns, epsilon, said):
    with pytest.raises(InputError, match=said):
        worst(np.array(returns), epsilon)


# The oracle: only the selection is on trial


def ascend(keep) -> float:
    """The action where gradient ascent on the mean of the kept returns ends, from a = 0.1."""
    p = np.random.default_rng(0).permutation(np.arange(SHARES) < Q * SHARES).astype(float)
    a = 0.1
    for k in range(4000):
        kept = keep(-((a - p) ** 2))
        a -= float(0.5 / (10 + k) * np.mean(2 * (a - p[kept])))
    return a


def optimum(epsilon: float) -> float:
    return min(0.5, Q / epsilon)


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_the_bandit_ends_at_its_closed_form_optimum(epsilon):
    assert ascend(lambda R: worst(R, epsilon, 1)) == pytest.approx(optimum(epsilon), abs=2e-3)


@pytest.mark.parametrize("epsilon", EPSILONS[:2])
def test_wrong_selections_end_elsewhere(epsilon):
    """Each at a closed form of its own, so the bandit tells them apart."""
    arms = {
        "the best": (lambda R: worst(-R, epsilon, 1), 0.0),
        "the percentile 1 - ε": (lambda R: worst(R, 1 - epsilon, 1), optimum(1 - epsilon)),
        "ε = 1": (lambda R: worst(R, 1.0, 1), Q),
    }
    if epsilon > Q:  # the quantile lies in the tie of all p = 0
        arms["R <= Q_ε"] = (lambda R: np.flatnonzero(np.percentile(R, 100 * epsilon) >= R), Q)
    for name, (keep, end) in arms.items():
        assert ascend(keep) == pytest.approx(end, abs=2e-3), name
        assert abs(end - optimum(epsilon)) > 0.1, name


# The learner on the same bandit


def fixed_point(epsilon: float, std: float) -> float:
    """Where E[(R - mean of the kept R) ∇log π(a) | kept] = 0 for a ~ N(a₀, std²), by quadrature.

    Not a*: the actions are spread, and an advantage normalised over the kept samples has a constant
    baseline other than Q_ε, which biases a CVaR gradient since E[∇log π | kept] is not zero.
    """
    z = norm.ppf((np.arange(4001) + 0.5) / 4001)

    def gradient(mean: float) -> float:
        a = np.tile(mean + std * z, 2)
        R = -((a - np.repeat([0.0, 1.0], len(z))) ** 2)
        weight = np.repeat([1 - Q, Q], len(z)) / len(z)
        order = np.argsort(R)
        kept = order[np.cumsum(weight[order]) <= epsilon + 1e-9]
        w = weight[kept] / weight[kept].sum()
        return float(w @ ((R[kept] - w @ R[kept]) * np.tile(z, 2)[kept]))

    return float(brentq(gradient, 0.1, 0.9))  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_ppo_of_the_worst_ends_where_the_quadrature_says(epsilon):
    """Measured over four seeds, with noise of 0.09 to 0.11 at the end: 0.476 to 0.482 at ε = 0.25
    (the quadrature says 0.476 to 0.477, the optimum of CVaR is 1/2), 0.460 to 0.466 at 0.6 (0.458
    to 0.461; 1/3), 0.174 to 0.201 at 1 (0.2; 0.2).
    """
    model = learner(
        Bandit(128, seed=1), epsilon=epsilon, episodes=512, batch_size=512, n_epochs=5,
        learning_rate=lambda left: 5e-3 * left + 1e-5,
        policy_kwargs={"net_arch": [8], "log_std_init": -1.5},
    )  # fmt: skip
    model.learn(40_000)
    a = float(model.predict(np.zeros((1, 1)), deterministic=True)[0][0, 0])
    std = float(model.policy.log_std.exp().detach())
    assert a == pytest.approx(fixed_point(epsilon, std), abs=0.035)
    assert epsilon == 1 or a > Q + 0.2  # where all episodes would have led


# Whole episodes, and each of them once


@pytest.mark.parametrize("B", [10, 64])
def test_the_physics_that_ends_episodes_soon_is_not_counted_too_often(B):
    """Half of the draws end after 1 step, half after 10; a step earns 1. Only up to its middle a
    quantile is 1."""
    note = Note()
    learner(Lengths(B, (1, 10)), episodes=64).learn(12_000, callback=note)
    lengths = np.concatenate(note.lengths)
    assert {len(n) for n in note.lengths} == {64}
    assert set(lengths) == {1, 10}
    assert abs(np.mean(lengths == 1) - 0.5) < 4 * 0.5 / np.sqrt(len(lengths))
    assert np.quantile(np.concatenate(note.returns), 0.6) == 10


def test_the_first_to_finish_are_short_ones():
    """The control arm, on the same environments."""
    env = Lengths(64, (1, 10))
    finished: list[int] = []
    for iteration in range(1, 19):
        env.reset()
        while len(finished) < 64 * iteration:
            before = env.length.copy()
            env.step_async(np.zeros((64, 1)))
            finished += before[env.step_wait()[2]].tolist()
        del finished[64 * iteration :]
    assert np.mean(np.array(finished) == 1) > 0.9
    assert np.quantile(finished, 0.6) == 1


@pytest.mark.parametrize("B", [1, 5, 32, 50])
def test_every_started_episode_is_whole_and_counted_once(B):
    env = Lengths(B, (1, 2, 3, 7))
    model = learner(env)
    model.learn(1)
    buffer = buffer_of(model)
    episode, done, time = buffer["episode"], buffer["done"], np.rint(10 * buffer["obs"][..., 0])
    for k in range(32):
        t, b = np.nonzero(episode == k)
        assert len(set(b)) == 1
        np.testing.assert_array_equal(np.diff(t), 1)
        np.testing.assert_array_equal(time[t, b], np.arange(len(t)))  # from its first step
        np.testing.assert_array_equal(done[t, b], [False] * (len(t) - 1) + [True])  # to its last
    assert set(np.unique(episode)) - {-1} == set(range(32))
    assert len(buffer.samples) == np.sum(episode >= 0)
    assert np.all(episode[0] == np.where(np.arange(B) < 32, np.arange(B), -1))


def test_every_simulated_step_counts():
    env, note = Lengths(16, (1, 10)), Note()
    model = learner(env, epsilon=0.1)
    model.learn(5_000, callback=note)
    assert model.num_timesteps == env.steps >= 5_000
    assert model.num_timesteps == 16 * note.stepped
    buffer = buffer_of(model)
    kept = np.isin(buffer["episode"], buffer.kept).sum()
    assert kept < len(buffer.samples) < 16 * len(buffer)  # dropped, and idle, and yet counted
    idle = note.logged[-1]["rollout/idle"]
    assert idle == pytest.approx(1 - len(buffer.samples) / (16 * len(buffer)))


def test_all_are_kept_in_the_warm_up_and_then_the_declared_fraction():
    note = Note()
    model = learner(Lengths(8, (4,)), epsilon=0.25, warm_up=0.5)
    model.learn(10 * 32 * 4, callback=note)
    assert [entry["rollout/kept"] for entry in note.logged] == [32] * 5 + [8] * 5
    assert [entry["rollout/epsilon"] for entry in note.logged] == [1.0] * 5 + [0.25] * 5
    always = Note()
    learner(Lengths(8, (4,)), epsilon=0.25, warm_up=1.0).learn(256, callback=always)
    assert [entry["rollout/kept"] for entry in always.logged] == [32] * 2


def test_the_minimum_is_kept_and_cvar_logged_at_the_declared_epsilon():
    note = Note()
    reward = lambda length, a: length.astype(float)  # noqa: E731
    model = learner(Lengths(8, (1, 2, 3), reward=reward), epsilon=0.1, min_kept=8)
    model.learn(1, callback=note)
    buffer = buffer_of(model)
    assert len(buffer.kept) == 8
    assert buffer.returns[buffer.kept].max() <= np.delete(buffer.returns, buffer.kept).min()
    assert note.logged[0]["rollout/cvar"] == np.sort(buffer.returns)[:3].mean()


# Returns are those of the environment


@pytest.mark.parametrize("monitor", ["below", "above", "none"])
def test_normalised_rewards_do_not_change_the_selection(monitor):
    """Rewards far beyond VecNormalize's clipping: scaled, the long episodes are the worse ones."""
    rewards = {2: -100.0, 10: -25.0}
    env: VecEnv = Lengths(8, (2, 10), reward=lambda n, a: np.vectorize(rewards.get)(n))
    env = VecMonitor(env) if monitor == "below" else env
    env = VecNormalize(env, clip_reward=0.1)
    env = VecMonitor(env) if monitor == "above" else env
    note = Note()
    model = learner(env, epsilon=0.25)
    model.learn(1, callback=note)
    buffer = buffer_of(model)
    lengths = note.lengths[0]
    np.testing.assert_allclose(buffer.returns, lengths * np.where(lengths == 2, -100.0, -25.0))
    assert set(lengths[buffer.kept]) == {10}
    scaled = np.array([buffer["reward"][buffer["episode"] == k].sum() for k in range(32)])
    assert np.abs(scaled).max() < 1.5  # what is learned from is normalised all the same


def test_a_return_that_is_not_finite_is_an_error():
    env = Lengths(8, (2,), reward=lambda n, a: np.full(len(n), np.nan))
    with pytest.raises(InputError, match="the return of episode 0 is nan"):
        learner(env).learn(1)


# What learns from what


def altered(epsilon: float) -> list[torch.Tensor]:
    """Every parameter's change between two updates that differ only in the rewards and the
    observations of the episodes outside the worst quarter: policy network, then value network."""
    after = []
    for alter in (False, True):
        model = learner(
            Lengths(8, (2, 3), reward=lambda n, a: a), epsilon=epsilon, n_epochs=1,
            batch_size=1000, max_grad_norm=1e9, ent_coef=0.01, policy_kwargs={},
        )  # fmt: skip
        model._setup_learn(1000)
        callback = model._init_callback(None)
        assert model.env is not None
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 0)
        buffer = buffer_of(model)
        if alter:
            others = np.isin(buffer["episode"], worst(buffer.returns, 0.25), invert=True)
            buffer["reward"][others] += 3.0
            buffer["obs"][others] += 0.5
            buffer.finish(buffer.returns, buffer.kept)
        model.train()
        after.append({n: p.detach().clone() for n, p in model.policy.named_parameters()})
    policy = [n for n in after[0] if "policy" in n or "action" in n or n == "log_std"]
    value = [n for n in after[0] if "value" in n]
    assert len(policy) + len(value) == len(after[0])
    return [
        torch.cat([(after[0][n] - after[1][n]).abs().flatten() for n in names])
        for names in (policy, value)
    ]


def test_the_policy_learns_nothing_from_the_dropped_and_the_value_function_from_all():
    policy, value = altered(epsilon=0.25)
    assert policy.max() == 0
    assert value.max() > 1e-5
    policy, value = altered(epsilon=1.0)  # the control: the alteration does reach a policy
    assert policy.max() > 1e-5


def test_advantages_are_those_of_each_episode_alone():
    """Against the sum Σ (γλ)^k δ of every episode; long ones time out and go on in value."""
    env = Lengths(5, (2, 3, 7), timeout=7, reward=lambda n, a: a)
    model = learner(env, gamma=0.9, gae_lambda=0.8)
    model._setup_learn(1000)
    assert model.env is not None
    callback = model._init_callback(None)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 0)
    buffer = buffer_of(model)
    seen = set()
    for k in range(32):
        t, b = np.nonzero(buffer["episode"] == k)
        n = len(t)
        reward = np.clip(buffer["action"][t, b, 0], -1, 1).astype(float)
        beyond = 0.0
        if n == 7:
            last = torch.tensor([[n / 10, n / 10]])
            beyond = float(model.policy.predict_values(last).detach())
        value = np.append(buffer["value"][t, b], beyond)
        delta = reward + 0.9 * value[1:] - value[:-1]
        expected = [sum(0.72 ** (j - i) * delta[j] for j in range(i, n)) for i in range(n)]
        np.testing.assert_allclose(buffer["advantage"][t, b], expected, atol=1e-5)
        assert buffer.returns[k] == pytest.approx(reward.sum(), abs=1e-5)
        seen.add(n)
    assert seen == {2, 3, 7}


@pytest.mark.parametrize("size", [64, 500, 100_000])
def test_minibatches_hold_every_sample_once_and_their_share_of_the_kept(size):
    model = learner(Lengths(16, (5, 10)), episodes=256, batch_size=size, n_epochs=1)
    model.learn(1)
    buffer = buffer_of(model)
    parts = list(buffer.minibatches(size))
    kept = np.array([len(part.advantage) for part in parts])
    every = np.array([len(part.target) for part in parts])
    assert every.sum() == len(buffer.samples)
    assert kept.sum() == np.isin(buffer["episode"], buffer.kept).sum()
    assert np.ptp(kept) <= 1
    assert np.ptp(every) <= 2
    assert kept.min() >= 64
    if size >= 500:
        assert every.max() <= size


# It is PPO


def test_with_all_episodes_an_iteration_is_ppo_to_the_last_digit():
    """Four environments, one episode of five steps each, one full batch: the same update."""

    def parameters(model) -> dict[str, torch.Tensor]:
        model.learn(20)
        assert model.num_timesteps == 20
        return model.policy.state_dict()

    both: dict[str, Any] = {"seed": 3, "device": "cpu", "n_epochs": 4, "batch_size": 20}
    both |= {"n_steps": 5, "ent_coef": 0.1, "clip_range_vf": 0.2, "policy_kwargs": {}}
    both |= {"learning_rate": 0.01, "clip_range": 0.05}  # far enough for every clip to matter
    env = Lengths(4, (5,), reward=lambda n, a: a, timeout=5)
    ours = parameters(learner(env, epsilon=1.0, episodes=4, **both))
    theirs = parameters(PPO("MlpPolicy", env, **both))
    start = PPO("MlpPolicy", env, **both).policy.state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=2e-5, rtol=1e-4)
        assert (value - start[name]).abs().max() > 1e-4, name


def test_it_learns_cartpole():
    """Measured over four seeds of 8,000 steps: 110 to 163 over the last 32 episodes."""
    env = make_vec_env("CartPole-v1", 8, seed=0)
    model = learner(env, epsilon=0.5, warm_up=0.5, min_kept=8, n_epochs=10, learning_rate=1e-3,
                    policy_kwargs={})  # fmt: skip
    model.learn(8_000)
    assert buffer_of(model).returns.mean() > 60  # a random policy: 22


def test_dictionaries_and_several_discrete_actions():
    class Both(gymnasium.Env[Any, Any]):
        observation_space = spaces.Dict(
            {"a": spaces.Box(-1, 1, (2,)), "b": spaces.Discrete(3), "c": spaces.Box(-1, 1, (1,))}
        )
        action_space = spaces.MultiDiscrete([2, 3])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left = int(self.np_random.integers(1, 5))
            return self._obs(), {}

        def step(self, action):
            self.left -= 1
            return self._obs(), float(action[0]), self.left == 0, self.left == 1, {}

        def _obs(self):
            return {
                "a": np.zeros(2, np.float32), "b": self.left % 3, "c": np.zeros(1, np.float32),
            }  # fmt: skip

    env = make_vec_env(Both, 4, seed=0)
    model = EPOptPPO("MultiInputPolicy", env, episodes=16, min_kept=2, warm_up=0.0, n_epochs=2,
                     seed=0, device="cpu")  # fmt: skip
    model.learn(300)
    assert buffer_of(model)["action"].shape[2:] == (2,)
    assert len(buffer_of(model).kept) == 2


def test_it_is_saved_and_goes_on(tmp_path: Path):
    env = Lengths(8, (2, 3))
    model = learner(env, epsilon=0.3, warm_up=0.25, min_kept=4, use_sde=True, sde_sample_freq=2)
    model.learn(500)
    model.save(tmp_path / "model.zip")
    again = EPOptPPO.load(tmp_path / "model.zip", env=env, device="cpu")
    assert (again.epsilon, again.warm_up, again.episodes, again.min_kept) == (0.3, 0.25, 32, 4)
    for a, b in zip(model.policy.parameters(), again.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    before = again.num_timesteps
    again.learn(500, reset_num_timesteps=False)
    assert again.num_timesteps >= before + 500
    assert len(buffer_of(again).kept) == 10


def test_callbacks_are_called_and_can_stop():
    class Stop(Note):
        def _on_step(self) -> bool:
            super()._on_step()
            return self.stepped < 3

    note = Stop()
    model = learner(Lengths(8, (4,)))
    model.learn(1000, callback=note)
    assert (note.started, note.stepped, note.lengths, model.num_timesteps) == (1, 3, [], 24)


def test_a_small_target_kl_stops_the_epochs():
    env = Lengths(8, (4,), reward=lambda n, a: a)
    free, held = (
        learner(env, n_epochs=20, target_kl=kl, learning_rate=0.01) for kl in (None, 1e-4)
    )
    free.learn(1)
    held.learn(1)
    assert free._n_updates == 20
    assert held._n_updates < 20


def test_environments_without_an_end_are_an_error(monkeypatch):
    monkeypatch.setattr("sim2real.bridges.randomize.epopt.LONGEST", 50)
    with pytest.raises(InputError, match="one has not ended in 50 steps; give the environment a"):
        learner(Lengths(8, (1, 51))).learn(1)


# The recipe's side

BAD = [
    ({"epsilon": 0}, r"epsilon is 0; it must lie in \(0, 1\]"),
    ({"epsilon": 1.5}, r"epsilon is 1.5; it must lie in \(0, 1\]"),
    ({"warm_up": -0.1}, r"warm_up is -0.1; it must lie in \[0, 1\]"),
    ({"episodes": 0}, "episodes is 0; it must be at least 1"),
    ({"episodes": 4, "min_kept": 5}, "min_kept is 5; it must lie between 1 and episodes, 4"),
    ({"min_kept": 0}, "min_kept is 0; it must lie between 1 and episodes, 128"),
]


@pytest.mark.parametrize(("given", "said"), BAD)
def test_what_is_out_of_range_is_refused(given, said):
    with pytest.raises(InputError, match=f"randomize: {said}"):
        EPOpt(**given)
    with pytest.raises(InputError, match=f"EPOptPPO: {said}"):
        EPOptPPO("MlpPolicy", Bandit(2, 0), **given)


def test_a_buffer_of_ones_own_is_refused():
    with pytest.raises(InputError, match="rollout_buffer_class cannot be given"):
        learner(Bandit(2, 0), rollout_buffer_class=EpisodeBuffer)


def test_physics_is_drawn_as_by_uniform():
    body = '<body name="torso"><geom name="ball" size="0.1" mass="1"/></body>'
    model = mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{body}</worldbody></mujoco>")
    space = ParameterSpace(
        [
            Parameter("mass", "body_mass", select="torso", low=3.0, high=9.0),
            Parameter("friction", "geom_friction", select="ball", low=0.5, high=2.0),
        ],
        model,
    )
    ranges = {"mass": (4.0, 5.0)}
    config, uniform = EPOpt(ranges=ranges), Uniform(ranges=ranges)
    assert config.bounds(space) == uniform.bounds(space) == {"mass": (4, 5), "friction": (0.5, 2)}
    drawn, same = (
        c.distribution(space).sample(np.random.default_rng(0), 50) for c in (config, uniform)
    )
    np.testing.assert_array_equal(drawn, same)
    with pytest.raises(InputError, match="no parameter 'mas'"):
        EPOpt(ranges={"mas": (1.0, 2.0)}).distribution(space)
    told = EPOptPPO("MlpPolicy", Bandit(2, 0), device="cpu", **EPOpt(epsilon=0.2).settings())
    assert (told.epsilon, told.episodes) == (0.2, 128)
