"""Going on learning on the target: what is carried over, what is counted, what is mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

from sim2real.bridges.adapt.finetune import FineTune, MixedReplayBuffer, fine_tune, temperature
from sim2real.make import make_vec
from sim2real.types import InputError

SMALL: dict[str, Any] = {
    "policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 32, "learning_starts": 50, "seed": 0,
    "buffer_size": 2_000, "device": "cpu",
}  # fmt: skip


def pretrained(kind: Any = SAC, steps: int = 120) -> Any:
    torch.set_num_threads(1)
    model = kind("MlpPolicy", make_vec("inverted_pendulum", 1, randomize="none"), **SMALL)
    model.learn(steps)
    return model


def target() -> Any:
    return make_vec("inverted_pendulum", 1, gap="worn", randomize="none", seed=7)


class Watch(BaseCallback):
    """The weights of actor and critic after every step."""

    def __init__(self) -> None:
        super().__init__()
        self.actor: list[torch.Tensor] = []
        self.critic: list[torch.Tensor] = []

    def _on_step(self) -> bool:
        model: Any = self.model
        self.actor.append(
            torch.cat([p.detach().flatten().clone() for p in model.actor.parameters()])
        )
        self.critic.append(
            torch.cat([p.detach().flatten().clone() for p in model.critic.parameters()])
        )
        return True


@pytest.mark.parametrize("kind", [SAC, TQC])
def test_every_target_step_is_counted_and_learned_from(kind):
    model = pretrained(kind)
    before = model.num_timesteps, model._n_updates
    fine_tune(model, target(), FineTune(steps=60))
    assert model.num_timesteps - before[0] == 60
    assert model._n_updates - before[1] == 60
    assert model.replay_buffer.full  # it holds 60


def test_the_libraries_own_learn_begins_again_at_random():
    model = pretrained()  # the control arm of the test above
    updates = model._n_updates
    model.set_env(target())
    model.learn(50)
    assert model._n_updates == updates


def test_the_critic_learns_first_alone():
    model, watch = pretrained(), Watch()
    fine_tune(model, target(), FineTune(steps=40, critic_only=0.5), callbacks=[watch])
    same = [torch.equal(a, watch.actor[0]) for a in watch.actor]
    assert all(same[:20])
    assert not any(same[22:])
    assert not torch.equal(watch.critic[0], watch.critic[10])
    assert all(p.requires_grad for p in model.actor.parameters())


def test_the_temperature_and_the_policy_are_carried_over():
    model = pretrained()
    alpha = temperature(model)
    obs = np.random.default_rng(0).normal(size=(5, 4))
    actions = model.predict(obs, deterministic=True)[0]
    fine_tune(model, target(), FineTune(steps=1, critic_only=0.9))
    assert temperature(model) == pytest.approx(alpha, rel=2e-3)  # one step of its own optimizer
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], actions)


def test_the_first_target_actions_are_those_of_the_policy():
    model = pretrained()
    with torch.no_grad():  # a policy that nobody would take for a random one
        for p in model.actor.parameters():
            p.zero_()
        model.actor.mu.bias.fill_(3.0)
        model.actor.log_std.bias.fill_(-5.0)
    fine_tune(model, target(), FineTune(steps=20, critic_only=0.9))
    np.testing.assert_allclose(model.replay_buffer.actions[:20], np.tanh(3.0), atol=0.01)


@pytest.mark.parametrize(("share", "of_32"), [(0.5, 16), (0.25, 8), (0.0, 0)])
def test_batches_hold_the_declared_share_of_the_source(share, of_32):
    model = pretrained()
    source = model.replay_buffer
    source.rewards[:] = 1_000.0  # what marks them
    fine_tune(model, target(), FineTune(steps=40, source_share=share), source=source)
    mixed = model.replay_buffer
    assert isinstance(mixed, MixedReplayBuffer)
    for _ in range(5):
        batch = mixed.sample(32)
        assert len(batch.rewards) == len(batch.observations) == len(batch.dones) == 32
        assert int((batch.rewards == 1_000.0).sum()) == of_32
    assert source.pos == 120  # read, not written


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("ppo", "continues SAC or TQC.*PPO"),
        ("source", "no source transitions"),
        ("robot", r"observation space has shape \(11,\).*learned with \(4,\)"),
    ],
)
def test_what_cannot_be_continued_is_refused(what, sentence):
    env = make_vec("hopper" if what == "robot" else "inverted_pendulum", 1)
    learned = make_vec("inverted_pendulum", 1)
    model: Any = PPO("MlpPolicy", learned, device="cpu") if what == "ppo" else SAC(
        "MlpPolicy", learned, **SMALL
    )  # fmt: skip
    with pytest.raises(InputError, match=sentence):
        fine_tune(model, env, FineTune(steps=5, source_share=0.5 if what == "source" else 0.0))


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"steps": 5, "critic_only": 1.0}, {"steps": 5, "source_share": -0.1}]
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match=r"it (must|is)"):
        FineTune(**wrong)
