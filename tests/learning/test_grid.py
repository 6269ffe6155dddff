"""The grid of VariBAD (Zintgraf et al. 2020), whose bounds are computed here: near them, and never
above.

Five by five cells, from a corner; the goal is one of the 21 that are not beside it, and no
observation shows it. A step on the goal pays 1, another -0.1; four episodes of 15 steps are a trial
with one goal. Scores over 4,000 trials with new goals; one seed. A run is some minutes of a core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.inference.varibad import Decoding
from sim2real.bridges.adapt.memory.network import RecurrentActorCritic
from sim2real.bridges.adapt.memory.recurrent_ppo import PPOSettings, RecurrentPPO
from sim2real.bridges.adapt.memory.trials import Actions, Outcome, Told
from sim2real.policy.memory import Memory
from sim2real.policy.spec import MemorySpec

pytestmark = pytest.mark.learn

SIDE, STEPS, EPISODES, TESTED = 5, 15, 4, 4000
MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
GOALS = np.array([c for c in np.ndindex(SIDE, SIDE) if max(c) > 1])
CHOICE = Actions(5, discrete=True)


class Grid:
    """A trial is one goal, four episodes from the corner."""

    obs_size, critic_size, actions = 2 * SIDE, 0, CHOICE

    def __init__(self, batch, seed):
        self.batch, self.rng = batch, np.random.default_rng(seed)

    def begin(self):
        self.goal, self.t = GOALS[self.rng.integers(len(GOALS), size=self.batch)], 0
        self.place = np.zeros((self.batch, 2), int)
        return self.seen()

    def seen(self):
        return np.eye(SIDE)[self.place].reshape(self.batch, -1)

    def step(self, action):
        self.place = np.clip(self.place + MOVES[action], 0, SIDE - 1)
        reward = np.where((self.place == self.goal).all(axis=1), 1.0, -0.1)
        self.t += 1
        done = np.full(self.batch, self.t % STEPS == 0)
        over = np.full(self.batch, self.t == STEPS * EPISODES)
        if over[0]:
            return Outcome(self.begin(), reward, done, over)
        if done[0]:
            self.place = np.zeros((self.batch, 2), int)
        return Outcome(self.seen(), reward, done, over)

    def settle(self):
        pass


def clairvoyant():
    """Of one episode, where the goal is known."""
    away = GOALS.sum(axis=1)
    return float((-0.1 * (away - 1) + STEPS - away + 1).mean())


def bayes():
    """Of the first episode: the best walk over the cells that can hold the goal, by dynamic
    programming over where one is and which were not seen."""
    bits = {tuple(goal): 1 << i for i, goal in enumerate(GOALS)}
    best = {((0, 0), (1 << len(GOALS)) - 1): 0.0}
    for left in range(STEPS, 0, -1):
        after: dict[Any, float] = {}
        for (place, unseen), value in best.items():
            for move in MOVES:
                new = (place[0] + int(move[0]), place[1] + int(move[1]))
                if not (min(new) >= 0 and max(new) < SIDE):
                    continue
                found = bits.get(new, 0) & unseen
                still = unseen & ~found
                gain = left * bool(found) - 0.1 * still.bit_count()
                now = value + gain / len(GOALS)
                if now > after.get((new, still), -np.inf):
                    after[new, still] = now
        best = after
    return max(best.values())


def returns(network, told, seed=10_000):
    """(TESTED, 4) of the episodes of new trials."""
    grid = Grid(TESTED, seed)
    x, z = told.first(grid.begin()), network.initial(TESTED)
    out = np.zeros((TESTED, EPISODES))
    with torch.no_grad():
        for t in range(STEPS * EPISODES):
            chosen, z = network.act(torch.as_tensor(x), z)
            action = chosen.sample().numpy()
            outcome = grid.step(action)
            out[:, t // STEPS] += outcome.reward
            x = told.after(action, outcome)
    return out


def forgetful(memory: Any) -> None:
    """The planted bug: z is cleared where an episode begins."""
    step, unroll = memory.step, memory.unroll
    memory.step = lambda x, z: step(x, torch.where(x[:, -1:] > 0.5, torch.zeros_like(z), z))
    memory.unroll = lambda x, z, begin: unroll(x, z, begin | (x[..., -1] > 0.5))


class Amnesia(Told):
    """An episode begins as a trial does, without the action and reward before: a policy whose z
    alone is cleared tells itself, by the last action of an episode, where the goal was."""

    def after(self, action, outcome):
        x = super().after(action, outcome)
        x[outcome.done, self.obs_size : -1] = 0.0
        return x


TOLD = Told(2 * SIDE, CHOICE)


def learned(network, steps, batch=256, seed=0, told=TOLD, **settings):
    how = PPOSettings(
        sequence=STEPS * EPISODES, learning_rate=2e-3, gamma=0.95, entropy=0.03, centered=True,
        **settings,
    )  # fmt: skip
    RecurrentPPO(network, Grid(batch, seed), told, how, steps=steps, seed=seed).learn()
    found = returns(network, told)
    return found.mean(axis=0), found.std(axis=0) / TESTED**0.5


def rl2(forgets=False):
    torch.manual_seed(0)
    network = RecurrentActorCritic(Memory(2 * SIDE + 7, MemorySpec(64)), CHOICE)
    if forgets:
        forgetful(network.memory)
        return learned(network, 4_000_000, told=Amnesia(2 * SIDE, CHOICE))
    return learned(network, 4_000_000)


def varibad(told=TOLD, **decoding):
    torch.manual_seed(0)
    network = Decoding(
        Memory(2 * SIDE + 7, MemorySpec(64)), CHOICE, latent=5, observed=2 * SIDE, kl=0.01,
        decoder=(32, 32), network=(32,), **decoding,
    )  # fmt: skip
    return learned(network, 4_000_000, told=told)


def near_and_below(mean, error):
    assert mean[0] > bayes() / 2
    assert (mean[1:] > 0.8 * clairvoyant()).all()
    assert mean[0] < bayes() + 3 * error[0]
    assert (mean[1:] < clairvoyant() + 3 * error[1:]).all()


def test_the_bounds():
    assert clairvoyant() == pytest.approx(11.0714, abs=1e-4)
    assert bayes() == pytest.approx(4.0, abs=1e-9)


def test_what_the_first_episode_finds_the_others_use():
    mean, error = rl2()
    print("RL²:", *(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True)))
    near_and_below(mean, error)


def test_a_policy_that_forgets_finds_it_anew_in_every_episode():
    """The control arm."""
    mean, error = rl2(forgets=True)
    print("cleared:", *(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True)))
    assert (np.abs(mean[1:] - mean[0]) < 4 * 2**0.5 * error[1:]).all()


def test_a_belief_that_explains_the_rewards_finds_the_goal():
    """VariBAD: reward teaches the policy, the decoder alone teaches the memory."""
    mean, error = varibad(weights=(0.0, 20.0))
    print("VariBAD:", *(f"{m:.2f} ± {e:.2f}" for m, e in zip(mean, error, strict=True)))
    near_and_below(mean, error)


def test_a_belief_that_explains_what_is_seen_alone_knows_of_no_goal():
    """A control arm: here tasks differ in their rewards, and observations tell nothing of them."""
    mean, _ = varibad(Amnesia(2 * SIDE, CHOICE), weights=(1.0, 0.0))
    print("VariBAD without rewards:", *(f"{m:.2f}" for m in mean))
    assert (mean[1:] < 0.6 * clairvoyant()).all()
