"""A belief is learned where ξ is known, acted on without teaching it, and exported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.inference.task_inference import Informed, TaskInference
from sim2real.bridges.adapt.memory.network import Steps
from sim2real.bridges.adapt.memory.recurrent_ppo import PPOSettings, RecurrentPPO
from sim2real.bridges.adapt.memory.trials import Actions, Outcome, Told
from sim2real.policy.memory import Memory
from sim2real.policy.policy import Policy
from sim2real.policy.spec import MemorySpec
from sim2real.recipe import read
from sim2real.train import train
from sim2real.types import InputError

torch.set_num_threads(1)

CHOICE, NUMBERS = Actions(2, discrete=True), Actions(3)
RECIPE = {
    "description": "task inference of the tests", "env": "hopper", "observe": "measured",
    "learner": {"network": [16], "settings": {"n_steps": 16, "batch_size": 64, "n_epochs": 2}},
    "randomize": "uniform", "correct": "none", "align": "none",
    "adapt": {"method": "task_inference", "hidden": 8, "trial": 2},
    "steps": 256, "worlds": 8, "threads": 1, "checkpoint": 256,
}  # fmt: skip


def network(actions: Actions = NUMBERS, layers: Any = (8,)) -> Informed:
    torch.manual_seed(0)
    made = Informed(Memory(5, MemorySpec(8)), actions, latent=2, critic=3, network=layers)
    with torch.no_grad():  # so that what is believed shows in what is done
        made.policy[-1].get_parameter("weight").mul_(100)
        made.head.weight.normal_()
        made.head.bias.normal_()
    return made


def passed(made: Informed) -> Any:
    T, B = 6, 4
    x, s = torch.randn(T, B, 5), torch.randn(T, B, 3)
    begin = torch.zeros(T, B, dtype=torch.bool)
    begin[0] = True
    return made.unroll(Steps(x, s, begin, torch.zeros(T, B)), made.initial(B))


def parameters(memory: Any) -> list[torch.Tensor]:
    return list(memory.parameters())


def gradients(made: Informed, loss: torch.Tensor) -> tuple[float, float]:
    """Sizes: of what believes, of what acts."""
    made.zero_grad()
    loss.backward()
    believing = [*parameters(made.memory), *made.head.parameters()]
    acting = [*made.policy.parameters(), *made.value.parameters()]
    return tuple(
        sum(float(p.grad.abs().sum()) for p in some if p.grad is not None)
        for some in (believing, acting)
    )  # type: ignore[return-value]


def test_reward_never_reaches_the_belief_and_the_belief_teaches_no_action():
    made = network()
    chosen, value, _ = passed(made)
    believing, acting = gradients(made, chosen.mean.sum() + value.sum())
    assert believing == 0
    assert acting > 0
    believing, acting = gradients(made, passed(made).extra)
    assert believing > 0
    assert acting == 0


def test_without_the_cut_reward_would_reach_it(monkeypatch):
    """The control arm of the test above."""
    made = network()
    monkeypatch.setattr(made, "seen", lambda x, h: torch.cat([x, made.head(h)], dim=-1))
    chosen, value, _ = passed(made)
    assert gradients(made, chosen.mean.sum() + value.sum())[0] > 0


@pytest.mark.parametrize("layers", [(), (8,), (8, 8)])
def test_what_is_exported_sees_the_memory_and_does_the_same(layers):
    made = network(layers=layers)
    x, z = torch.randn(7, 5), torch.randn(7, 8)
    with torch.no_grad():
        chosen, _ = made.act(x, z)
        h, _ = made.memory.step(x, z)
        again = made.on_memory()(torch.cat([x, h], dim=-1))
    torch.testing.assert_close(again, chosen.mean, atol=1e-4, rtol=1e-5)


def test_the_loss_is_the_likelihood_of_a_normal_belief():
    made = network()
    h, s = 0.3 * torch.randn(9, 4, 8), torch.randn(9, 4, 3)
    mean, log_var = made.belief(h)
    right = -torch.distributions.Normal(mean, (log_var / 2).exp()).log_prob(s[..., -2:])
    inside = (log_var > -8) & (log_var < 4)
    assert inside.all()
    constant = 0.5 * np.log(2 * np.pi)
    none = torch.zeros(9, 4)
    found = made.extra(h, Steps(torch.zeros(9, 4, 5), s, none > 0, none))
    torch.testing.assert_close(found, right.mean() - constant)


def test_before_anything_is_learned_the_belief_is_the_prior():
    made = Informed(Memory(5, MemorySpec(8)), CHOICE, latent=2)
    mean, log_var = made.belief(torch.randn(3, 8))
    assert (mean == 0).all()
    assert (log_var == 0).all()


class ShownBit:
    """Two episodes of one step; the first shows a bit, the second pays 1 for choosing it. The
    critic is told the bit: ±1."""

    obs_size, critic_size, actions = 1, 1, CHOICE

    def __init__(self, batch: int, seed: int = 0, shuffled: bool = False) -> None:
        self.batch, self.rng, self.shuffled = batch, np.random.default_rng(seed), shuffled

    def told(self, shown: Any) -> Any:
        bit = 2.0 * self.bit[:, None] - 1
        bit = self.rng.permutation(bit) if self.shuffled else bit
        return np.concatenate([shown, bit], axis=1)

    def begin(self) -> Any:
        self.bit, self.second = np.asarray(self.rng.integers(2, size=self.batch)), False
        return self.told(2.0 * self.bit[:, None] - 1)

    def step(self, action: Any) -> Outcome:
        reward = (action == self.bit) * float(self.second)
        over = np.full(self.batch, self.second)
        if self.second:
            obs = self.begin()
        else:
            self.second, obs = True, self.told(np.zeros((self.batch, 1)))
        return Outcome(obs, reward, np.ones(self.batch, bool), over)

    def settle(self) -> None:
        pass


class WithoutActions(Told):
    """What it did last is not told: it could carry the bit past the belief."""

    def after(self, action: Any, outcome: Outcome) -> Any:
        x = super().after(action, outcome)
        x[:, self.obs_size : self.obs_size + self.actions.size] = 0.0
        return x


def learned(shuffled: bool = False) -> tuple[float, float]:
    """Mean reward of the second episode after a short training, and the loss of the belief."""
    torch.manual_seed(0)
    trials = ShownBit(64, shuffled=shuffled)
    told = WithoutActions(1, CHOICE, reward=False)
    made = Informed(Memory(told.size, MemorySpec(16)), CHOICE, latent=1, critic=1)
    how = PPOSettings(sequence=2, learning_rate=1e-2)
    learner = RecurrentPPO(made, trials, told, how, steps=64 * 2 * 150)
    learner.learn()
    figures = [learner.iterate() for _ in range(8)]
    return float(2 * np.mean([f.reward for f in figures])), float(
        np.mean([f.extra for f in figures])
    )


def test_what_an_episode_showed_is_believed_and_acted_on_in_the_next():
    reward, loss = learned()
    assert reward > 0.97
    assert loss < -1.0  # all but certain, in both episodes


def test_a_belief_that_is_taught_about_other_robots_stays_at_the_prior():
    """A control arm: labels shuffled over trials. -log N(±1; 0, 1) is 0.5 without its constant."""
    reward, loss = learned(shuffled=True)
    assert reward < 0.65
    assert loss == pytest.approx(0.5, abs=0.05)


def test_a_recipe_is_trained_and_leaves_a_policy(tmp_path):
    policy = train(RECIPE, out=tmp_path)
    assert policy.z_names == ("memory", "last_action")
    again = Policy.load(tmp_path)
    obs = torch.randn(2, policy.spec.obs_size)
    assert torch.equal(policy(obs, policy.initial(2))[0], again(obs, again.initial(2))[0])
    assert policy.spec.memory is not None
    assert policy.spec.memory.believes == tuple(p.name for p in policy.spec.parameters)
    mean, deviation = policy.believed(policy.initial(1))  # after 256 steps, about the prior
    for known, apart, p in zip(mean[0], deviation[0], policy.spec.parameters, strict=True):
        assert p.low < float(known) < p.high
        assert 0.1 < float(apart) / (p.high - p.low) < 0.5
    assert "train/belief_loss" in (tmp_path / "log" / "progress.csv").read_text()


def test_a_short_form_has_the_defaults_and_a_teacher_that_is_told_nothing_is_refused():
    _, recipe = read({**RECIPE, "adapt": "task_inference"})
    assert recipe.memory == TaskInference()
    distill = {"teacher": ["v5"], "steps": 100}
    with pytest.raises(InputError, match="task_inference learns what its teacher is told; add"):
        read({**RECIPE, "distill": distill})
    with pytest.raises(InputError, match="varibad learns by reward; leave distill out"):
        read({**RECIPE, "adapt": "varibad", "distill": distill})
