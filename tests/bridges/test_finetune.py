"""Going on learning on the target: what is carried over, what is counted, what is mixed."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import BaseCallback

from sim2real.bridges.adapt.finetune import FineTune, MixedReplayBuffer, fine_tune, temperature
from sim2real.make import make_vec
from sim2real.policy.policy import load
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


@pytest.mark.parametrize("kind", [SAC, TQC])
def test_the_temperature_waits_for_the_actor(kind, tmp_path):
    model = pretrained(kind)
    alpha = model.log_ent_coef.detach().clone()
    state = copy.deepcopy(model.ent_coef_optimizer.state_dict())
    seen = []

    class Alpha(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(model.log_ent_coef.detach().clone())
            if len(seen) == 10:
                model.save(tmp_path / "held.zip")
            return True

    fine_tune(model, target(), FineTune(steps=40, critic_only=0.5), callbacks=[Alpha()])
    assert all(torch.equal(a, alpha) for a in seen[:21])  # before the 21st step's own update
    assert not any(torch.equal(a, alpha) for a in seen[21:])
    assert not torch.equal(model.log_ent_coef, seen[-1])
    held = kind.load(tmp_path / "held.zip", device="cpu")
    assert torch.equal(held.log_ent_coef, alpha)
    loaded = held.ent_coef_optimizer.state_dict()
    for name, value in state["state"][0].items():
        assert torch.equal(loaded["state"][0][name], value)
    before = held.log_ent_coef.detach().clone()
    fine_tune(held, target(), FineTune(steps=5, critic_only=0.0))
    assert not torch.equal(held.log_ent_coef, before)  # what was saved while held still learns


def test_a_temperature_that_is_fixed_stays_so():
    torch.set_num_threads(1)
    env = make_vec("inverted_pendulum", 1, randomize="none")
    model = SAC("MlpPolicy", env, ent_coef=0.2, **SMALL)
    fine_tune(model, target(), FineTune(steps=10, critic_only=0.5))
    assert temperature(model) == pytest.approx(0.2)


def test_an_interrupted_fine_tuning_holds_nothing():
    class CtrlC(BaseCallback):
        def _on_step(self) -> bool:
            raise KeyboardInterrupt

    model = pretrained()
    alpha = model.log_ent_coef.detach().clone()
    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, target(), FineTune(steps=40, critic_only=0.5), callbacks=[CtrlC()])
    assert all(p.requires_grad for p in model.actor.parameters())
    fine_tune(model, target(), FineTune(steps=5, critic_only=0.0))
    assert not torch.equal(model.log_ent_coef, alpha)


def test_the_temperature_and_the_policy_are_carried_over():
    model = pretrained()
    alpha = temperature(model)
    obs = np.random.default_rng(0).normal(size=(5, 4))
    actions = model.predict(obs, deterministic=True)[0]
    fine_tune(model, target(), FineTune(steps=1, critic_only=0.9))
    assert temperature(model) == alpha
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


def test_the_page_shows_how(tmp_path, monkeypatch):
    """The example of docs/recipes.md, with fewer steps."""
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")

    def block(head: str) -> str:
        found = re.search(rf"^```{head}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        assert found
        return re.sub(r"\b\d+_000\b", "400", found[1])

    monkeypatch.chdir(tmp_path)
    (tmp_path / "hopper-sac.yaml").write_text(block("yaml recipe hopper-sac.yaml"))
    said: dict[str, Any] = {}
    exec(block("python tune.py"), said)
    assert said["model"].num_timesteps == 3 * 400
    assert said["source"].size() == 400
    assert said["model"].replay_buffer.source is said["source"]
    before, after = (load(tmp_path / "runs" / n) for n in ("hopper-sac", "hopper-tuned"))
    assert after.spec.name == "hopper-tuned"
    first, second = before.state_dict(), after.state_dict()
    assert torch.equal(first["normalizer.mean"], second["normalizer.mean"])
    assert not torch.equal(first["network.0.weight"], second["network.0.weight"])
