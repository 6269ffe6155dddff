"""Memory over trials: what is kept, what is cleared, and what a trial's end alone cuts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.memory.network import RecurrentActorCritic, Steps
from sim2real.bridges.adapt.memory.recurrent_ppo import PPOSettings, RecurrentPPO, advantages
from sim2real.bridges.adapt.memory.robots import FARTHEST, RobotTrials, Running
from sim2real.bridges.adapt.memory.trials import Actions, Outcome, Told
from sim2real.policy.memory import Memory
from sim2real.policy.spec import MemorySpec
from sim2real.simulation.robot import Robot
from sim2real.simulation.trials import TrialWorlds
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

CHOICE, NUMBERS = Actions(2, discrete=True), Actions(3)


def network(actions=CHOICE, cell: Any = "gru", inputs=5, seed=0):
    torch.manual_seed(seed)
    made = RecurrentActorCritic(Memory(inputs, MemorySpec(8, cell)), actions, critic=2, network=[8])
    with torch.no_grad():
        made.policy[-1].get_parameter("weight").mul_(
            100
        )  # so that what is remembered shows in what is chosen
    return made


def memory(made) -> Memory:
    assert isinstance(made.memory, Memory)
    return made.memory


def steps(x, begin, s=None):
    s = torch.zeros(*begin.shape, 2) if s is None else s
    return Steps(x, s, begin, torch.zeros(begin.shape))


def parameters_of(chosen):
    return chosen.logits if hasattr(chosen, "logits") else chosen.mean


# z


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("actions", [CHOICE, NUMBERS])
def test_a_pass_over_a_sequence_equals_its_steps_with_trials_that_begin_at_different_times(
    cell, actions
):
    T, B = 11, 6
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(T, B, 5, generator=rng)
    begin = torch.rand(T, B, generator=rng) < 0.25
    begin[0] = torch.tensor([True, False, False, True, False, True])
    begin[1:, 1] = False  # one that goes on all along
    made = network(actions, cell)
    z = first = torch.randn(B, memory(made).spec.z_size, generator=rng)
    s = torch.randn(T, B, 2, generator=rng)
    chosen, value, _ = made.unroll(steps(x, begin, s), first)
    for t in range(T):
        z = torch.where(begin[t, :, None], made.initial(B), z)
        acted = made.act(x[t], z)[0]
        once, v, z = made.step(x[t], s[t], z)
        torch.testing.assert_close(parameters_of(once), parameters_of(acted), atol=0, rtol=0)
        torch.testing.assert_close(parameters_of(once), parameters_of(chosen)[t], atol=1e-5, rtol=0)
        torch.testing.assert_close(v, value[t], atol=1e-5, rtol=0)


def test_a_pass_without_trials_inside_is_the_same_as_one_in_pieces():
    x, made = torch.randn(7, 4, 5), network()
    begin = torch.zeros(7, 4, dtype=torch.bool)
    begin[0, 2] = True
    z = torch.randn(4, memory(made).spec.z_size)
    whole = memory(made).unroll(x, z, begin)
    first = begin.clone()
    first[0] = True
    pieces = memory(made).in_pieces(x, z, begin, first)
    torch.testing.assert_close(whole, pieces)


def test_gradients_flow_through_all_of_a_trial_and_not_into_the_one_before():
    x, made = torch.randn(6, 1, 5, requires_grad=True), network()
    begin = torch.zeros(6, 1, dtype=torch.bool)
    begin[0] = begin[3] = True
    made.unroll(steps(x, begin), made.initial(1))[1][5].sum().backward()
    assert x.grad is not None
    size = x.grad.abs().sum(dim=(1, 2))
    assert (size[:3] == 0).all()
    assert (size[3:] > 0).all()


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="actions 0; at least 1 is needed"):
        RecurrentActorCritic(Memory(5, MemorySpec(4)), Actions(0))


# What is told


def test_the_last_action_reward_and_end_of_an_episode_are_told_and_cleared_between_trials():
    told = Told(1, CHOICE)
    assert told.size == 1 + 2 + 1 + 1
    np.testing.assert_array_equal(told.first(np.array([[7.0]])), [[7, 0, 0, 0, 1]])
    obs, yes, no = np.array([[8.0]]), np.array([True]), np.array([False])
    action, reward = np.array([1]), np.array([0.5])
    inside = told.after(action, Outcome(obs, reward, yes, no))
    np.testing.assert_array_equal(inside, [[8, 0, 1, 0.5, 1]])
    between = told.after(action, Outcome(obs, reward, yes, yes))
    np.testing.assert_array_equal(between, [[8, 0, 0, 0, 1]])
    silent = Told(1, NUMBERS, reward=False)
    told_numbers = silent.after(np.array([[0.1, 0.2, -3.0]]), Outcome(obs, reward, yes, no))
    np.testing.assert_allclose(told_numbers, [[8, 0.1, 0.2, -1.0, 1]])


# Returns of trials


def test_the_end_of_an_episode_inside_a_trial_cuts_nothing():
    """Two episodes with rewards (0, 1) each, V = 0, γ = 0.99, λ = 1: 0.99 + 0.99³ at first."""
    reward = np.array([[0.0], [1.0], [0.0], [1.0]])
    value, over = np.zeros((5, 1)), np.zeros((4, 1), bool)
    over[3] = True
    found = advantages(reward, value, over, 0.99, 1.0)
    assert found[0, 0] == pytest.approx(1.960299)
    cut = over.copy()
    cut[1] = True  # the planted bug: episodes cut
    assert advantages(reward, value, cut, 0.99, 1.0)[0, 0] == pytest.approx(0.99)


def test_a_sequence_that_ends_inside_a_trial_goes_on_with_its_value():
    reward, over = np.array([[1.0], [1.0]]), np.zeros((2, 1), bool)
    value = np.array([[0.0], [0.0], [5.0]])
    assert advantages(reward, value, over, 0.5, 1.0)[0, 0] == pytest.approx(1 + 0.5 + 0.25 * 5)
    over[1] = True
    assert advantages(reward, value, over, 0.5, 1.0)[0, 0] == pytest.approx(1.5)


# Plumbing: an episode shows a bit, the next one pays for it


class ShownBit:
    """Two episodes of one step; the first shows a bit, the second pays 1 for choosing it."""

    obs_size, critic_size, actions = 1, 0, CHOICE

    def __init__(self, batch, seed=0):
        self.batch, self.rng = batch, np.random.default_rng(seed)

    def begin(self):
        self.bit, self.second = np.asarray(self.rng.integers(2, size=self.batch)), False
        return 2.0 * self.bit[:, None] - 1

    def step(self, action):
        reward = (action == self.bit) * float(self.second)
        over = np.full(self.batch, self.second)
        if self.second:
            obs = self.begin()
        else:
            self.second, obs = True, np.zeros((self.batch, 1))
        return Outcome(obs, reward, np.ones(self.batch, bool), over)

    def settle(self):
        pass


def learned(forgets=False, seed=0):
    """Mean reward of the second episode after a short training."""
    torch.manual_seed(seed)
    told, trials = Told(1, CHOICE), ShownBit(64, seed)
    made = RecurrentActorCritic(Memory(told.size, MemorySpec(16)), CHOICE)
    if forgets:  # the planted bug: z is cleared where an episode ends

        class Forgets(ShownBit):
            def step(self, action):
                outcome = super().step(action)
                return outcome._replace(over=outcome.done)

        trials = Forgets(64, seed)
    learner = RecurrentPPO(
        made,
        trials,
        told,
        PPOSettings(sequence=2, learning_rate=1e-2),
        steps=64 * 2 * 40,
        seed=seed,
    )
    learner.learn()
    return 2 * np.mean([learner.iterate().reward for _ in range(8)])


def test_what_an_episode_showed_is_used_in_the_next():
    assert learned() > 0.97
    assert learned(forgets=True) < 0.6


def test_the_same_seed_learns_the_same():
    def weights(seed):
        torch.manual_seed(0)
        told = Told(1, CHOICE)
        made = RecurrentActorCritic(Memory(told.size, MemorySpec(4)), CHOICE)
        how = PPOSettings(sequence=2, minibatches=2)
        RecurrentPPO(made, ShownBit(8, seed), told, how, steps=32, seed=seed).learn()
        return torch.cat([p.detach().flatten() for p in made.parameters()])

    a, b, c = weights(1), weights(1), weights(2)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="epochs is 0; it must be at least 1"):
        PPOSettings(epochs=0)
    told = Told(1, CHOICE)
    made = RecurrentActorCritic(Memory(told.size, MemorySpec(4)), CHOICE)
    alone = PPOSettings(minibatches=1, centered=True)
    with pytest.raises(InputError, match="centered takes the mean over the worlds"):
        RecurrentPPO(made, ShownBit(1), told, alone, steps=1)
    with pytest.raises(InputError, match=r"4 minibatches of 2 worlds.*whole sequences"):
        RecurrentPPO(made, ShownBit(2), told, PPOSettings(), steps=1)


# Robots


def hoppers(episodes=2, B=4, seed=0):
    robot = Robot.load("hopper")
    draw = robot.space.prior()
    worlds = Worlds(robot, B, observe="measured", draw=draw, seed=seed, threads=1)
    return RobotTrials(TrialWorlds(worlds, episodes=episodes))


def test_actions_are_of_the_commands_range_and_what_is_seen_is_standardised_alike_for_all():
    trials = hoppers()
    trials.begin()
    worlds = trials.trials.worlds
    low, high = worlds.robot.command_range
    trials.step(np.tile([-2.0, 0.0, 1.0], (4, 1)))
    sent = worlds.data["last_action"][0]
    np.testing.assert_allclose(sent, [low[0], (low[1] + high[1]) / 2, high[2]], atol=1e-6)
    before = trials.obs_statistics.mean.copy()
    raw = [trials.step(np.zeros((4, 3))) for _ in range(20)]
    np.testing.assert_array_equal(trials.obs_statistics.mean, before)  # still until it settles
    trials.settle()
    assert not np.array_equal(trials.obs_statistics.mean, before)
    assert np.isfinite(np.stack([o.obs for o in raw])).all()


def test_what_is_seen_is_standardised_from_the_first_step_on():
    trials = hoppers(B=8)
    first = trials.begin()
    mean = trials.obs_statistics.mean.copy()
    assert np.abs(first).max() < FARTHEST
    assert trials.return_statistics.deviation[0] != 1
    trials.begin()
    np.testing.assert_array_equal(trials.obs_statistics.mean, mean)
    assert (trials.trials.worlds.ticks == 0).all()


def test_running_statistics_are_those_of_all_that_was_added():
    values = np.random.default_rng(0).normal(3.0, 2.0, (500, 2))
    running = Running(2)
    for some in np.array_split(values, 7):
        running.add(some)
    np.testing.assert_array_equal(running.mean, 0)
    running.settle()
    np.testing.assert_allclose(running.mean, values.mean(axis=0))
    np.testing.assert_allclose(running.deviation, values.std(axis=0), atol=2e-6)
    assert np.abs(running.standardised(1e9 * values)).max() == FARTHEST


def test_a_critic_is_told_what_the_policy_is_not():
    robot = Robot.load("hopper")
    names = [t.name for s in ("measured", "v5") for t in robot.observation(s)]
    worlds = Worlds(robot, 3, observe=names, draw=robot.space.prior(), threads=1)
    O = sum(t.size for t in robot.observation("measured"))
    trials = RobotTrials(TrialWorlds(worlds, episodes=1), seen=O)
    assert trials.obs_size == O
    assert trials.critic_size == worlds.obs_size - O + robot.space.K
    told, obs = Told(O, trials.actions, reward=False), trials.begin()
    assert obs.shape == (3, O + trials.critic_size)
    np.testing.assert_array_equal(told.first(obs)[:, :O], obs[:, :O].astype(np.float32))
    mean, spread = trials.obs_statistics.mean, trials.obs_statistics.deviation
    xi = (trials.trials.worlds.xi - mean[-robot.space.K :]) / spread[-robot.space.K :]
    np.testing.assert_allclose(told.critic(obs)[:, -robot.space.K :], xi, rtol=1e-5)
    outcome = trials.step(np.zeros((3, 3)))
    assert told.after(np.zeros((3, 3)), outcome).shape == (3, told.size)


def test_a_recurrent_policy_learns_on_robots():
    torch.manual_seed(0)
    trials = hoppers(B=8)
    told = Told(trials.obs_size, trials.actions)
    made = RecurrentActorCritic(Memory(told.size, MemorySpec(16)), trials.actions)
    how = PPOSettings(sequence=32, minibatches=2)
    learner = RecurrentPPO(made, trials, told, how, steps=8 * 32 * 3)
    before = torch.cat([p.detach().flatten() for p in made.parameters()])
    counted = []
    learner.learn(report=lambda done, figures: counted.append((done, figures["reward"])))
    after = torch.cat([p.detach().flatten() for p in made.parameters()])
    assert [done for done, _ in counted] == [256, 512, 768]
    assert np.isfinite([reward for _, reward in counted]).all()
    assert torch.isfinite(after).all()
    assert not torch.equal(before, after)
