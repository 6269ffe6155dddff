"""RL² on Bernoulli bandits, whose Bayes-optimal value is known: near it, and never above.

Two arms whose probabilities are uniform, ten pulls, a trial each bandit; 1.2 million pulls and one
training per arm of the test, scores over 20,000 new bandits. A run is about a minute of a core.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.memory.network import RecurrentActorCritic
from sim2real.bridges.adapt.memory.recurrent_ppo import PPOSettings, RecurrentPPO
from sim2real.bridges.adapt.memory.trials import Actions, Outcome, Told
from sim2real.policy.memory import Memory
from sim2real.policy.spec import MemorySpec

pytestmark = pytest.mark.learn

PULLS, BATCH, TRAINED, TESTED = 10, 1024, 1_200_000, 20_000
CHOICE = Actions(2, discrete=True)


class Bandits:
    """A trial is one bandit, PULLS pulls, each an episode."""

    obs_size, critic_size, actions = 1, 0, CHOICE

    def __init__(self, batch, seed):
        self.batch, self.rng = batch, np.random.default_rng(seed)

    def begin(self):
        self.p, self.pulled = self.rng.random((self.batch, 2)), 0
        return np.ones((self.batch, 1))

    def step(self, action):
        reward = (self.rng.random(self.batch) < self.p[np.arange(self.batch), action]).astype(float)
        self.pulled += 1
        over = np.full(self.batch, self.pulled == PULLS)
        if over[0]:
            self.begin()
        return Outcome(np.ones((self.batch, 1)), reward, np.ones(self.batch, bool), over)

    def settle(self):
        pass


def bayes():
    """The value of the best policy there is, by dynamic programming over what was seen."""

    @cache
    def value(left, *seen):
        if not left:
            return 0.0
        best = 0.0
        for arm in (0, 1):
            won, lost = seen[2 * arm : 2 * arm + 2]
            p = (won + 1) / (won + lost + 2)
            more = [list(seen), list(seen)]
            more[0][2 * arm] += 1
            more[1][2 * arm + 1] += 1
            now = p * (1 + value(left - 1, *more[0])) + (1 - p) * value(left - 1, *more[1])
            best = max(best, now)
        return best

    return value(PULLS, 0, 0, 0, 0)


def score(reward=True, forgets=False, seed=0):
    """Mean return of 20,000 bandits after training, and its standard error."""
    torch.manual_seed(seed)
    told = Told(1, CHOICE, reward=reward)
    network = RecurrentActorCritic(Memory(told.size, MemorySpec(64)), CHOICE)
    if forgets:  # the planted bug: z is cleared at every pull
        memory: Any = network.memory
        step, unroll = memory.step, memory.unroll
        memory.step = lambda x, z: step(x, torch.zeros_like(z))
        memory.unroll = lambda x, z, begin: unroll(x, z, torch.ones_like(begin))
    how = PPOSettings(sequence=PULLS, learning_rate=3e-3, gamma=1.0, entropy=0.02, centered=True)
    RecurrentPPO(network, Bandits(BATCH, seed), told, how, steps=TRAINED, seed=seed).learn()
    bandits = Bandits(TESTED, 10_000 + seed)
    x, z, total = told.first(bandits.begin()), network.initial(TESTED), np.zeros(TESTED)
    with torch.no_grad():
        for _ in range(PULLS):
            chosen, z = network.act(torch.as_tensor(x), z)
            action = chosen.sample().numpy()
            outcome = bandits.step(action)
            total += outcome.reward
            x = told.after(action, outcome)
    return total.mean(), total.std() / TESTED**0.5


def test_the_bound_is_that_of_the_literature():
    assert bayes() == pytest.approx(6.0218, abs=1e-4)


def test_a_policy_that_remembers_comes_near_the_bayes_optimum_and_not_above():
    mean, error = score()
    print(f"RL²: {mean:.4f} ± {error:.4f}, Bayes-optimal {bayes():.4f}")
    assert mean > 5.90
    assert mean < bayes() + 3 * error


def test_a_policy_that_forgets_is_no_better_than_one_that_knows_the_last_pull():
    """A control arm. 5.7962: the best deterministic rule that knows the last pull alone."""
    mean, error = score(forgets=True)
    print(f"z cleared at every pull: {mean:.4f} ± {error:.4f}")
    assert mean < 5.7962 + 3 * error


def test_a_policy_that_is_told_no_reward_is_at_chance():
    """A control arm."""
    mean, error = score(reward=False)
    print(f"without reward: {mean:.4f} ± {error:.4f}")
    assert abs(mean - PULLS / 2) < 4 * error
