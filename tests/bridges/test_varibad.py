"""VariBAD: the belief's divergences, what it must explain, and what teaches it nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sim2real.bridges.adapt.inference.belief import divergence
from sim2real.bridges.adapt.inference.varibad import Decoding, Varibad
from sim2real.bridges.adapt.memory.network import Steps
from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.policy.memory import Memory
from sim2real.policy.policy import Policy
from sim2real.policy.spec import MemorySpec
from sim2real.recipe import read
from sim2real.train import train
from sim2real.types import InputError

torch.set_num_threads(1)

NUMBERS = Actions(2)
RECIPE = {
    "description": "VariBAD of the tests", "env": "hopper", "observe": "measured",
    "learner": {"network": [16], "settings": {"n_steps": 16, "batch_size": 64, "n_epochs": 2}},
    "randomize": "uniform", "correct": "none", "align": "none",
    "adapt": {"method": "varibad", "hidden": 8, "trial": 2, "latent": 3},
    "steps": 256, "worlds": 8, "threads": 1, "checkpoint": 256,
}  # fmt: skip


def log(x: float) -> Tensor:
    return torch.tensor([float(np.log(x))])


def test_divergences_of_a_chain_of_beliefs():
    """q_0 = N(0.5, 0.25), q_1 = N(0.8, 0.1), variances."""
    q0, q1 = (torch.tensor([0.5]), log(0.25)), (torch.tensor([0.8]), log(0.1))
    prior = torch.zeros(1), torch.zeros(1)
    assert float(divergence(*q0, *prior)) == pytest.approx(0.443147, abs=1e-6)
    assert float(divergence(*q1, *q0)) == pytest.approx(0.338145, abs=1e-6)
    assert float(divergence(*q1, *prior)) == pytest.approx(1.021293, abs=1e-6)  # a planted bug
    assert float(divergence(*q0, *q1)) == pytest.approx(0.741855, abs=1e-6)  # another


def test_a_belief_diverges_from_the_one_before_and_the_first_of_a_trial_from_the_prior():
    made = decoding()
    mean = torch.tensor([0.5, 0.8, 0.5, 0.8]).view(4, 1, 1)
    log_var = torch.log(torch.tensor([0.25, 0.1, 0.25, 0.1])).view(4, 1, 1)
    begin = torch.tensor([True, False, True, False]).view(4, 1)
    found = made.divergences(mean, log_var, begin)[:, 0]
    torch.testing.assert_close(found, torch.tensor([0.443147, 0.338145] * 2), atol=1e-6, rtol=0)
    begin[0] = False  # the sequence goes on with a trial whose belief before is not known
    assert made.divergences(mean, log_var, begin)[0, 0] == 0


def decoding(latent: int = 1, **settings) -> Decoding:
    torch.manual_seed(0)
    given: dict[str, Any] = {"encoded": None, "decoded": None, "observed": 3, "decoder": (8,)}
    return Decoding(
        Memory(3 + 2 + 1, MemorySpec(8)), NUMBERS, latent=latent, **{**given, **settings}
    )


def parameters(memory: Any) -> list[torch.Tensor]:
    return list(memory.parameters())


def some_steps(T: int = 7, B: int = 3) -> Steps:
    begin = torch.zeros(T, B, dtype=torch.bool)
    begin[0, 0] = begin[3, 1] = begin[2, 2] = begin[6, 2] = True
    x = torch.randn(T, B, 6)
    x[..., -1] = 0.0
    x[4, 0, -1] = x[5, 1, -1] = 1.0  # an episode begins inside a trial
    return Steps(x, torch.zeros(T, B, 0), begin, torch.randn(T, B))


def by_hand(made: Decoding, mean: Tensor, steps: Steps, past_only: bool = False) -> float:
    """Every belief against every step of its trial, one after another."""
    T, B = steps.begin.shape
    trial = steps.begin.cumsum(dim=0)
    errors = []
    for b in range(B):
        for t in range(T):
            for k in range(T - 1):
                ends = bool(steps.begin[k + 1, b])
                if trial[t, b] != trial[k, b] or ends or (past_only and k >= t):
                    continue
                obs, after = steps.x[k, b, :3], steps.x[k + 1, b, :3]
                given = torch.cat([obs, steps.x[k + 1, b, 3:5], mean[t, b]])
                out = made.decoder(given)
                led = steps.x[k + 1, b, -1] < 0.5  # else what is seen is the next episode's begin
                error = led * (out[:3] - after).square().sum()
                error = error + (out[3] - steps.reward[k, b]).square()
                errors.append(0.5 * float(error))
    return float(np.mean(errors))


def test_every_belief_explains_the_whole_trial_past_and_future():
    made, steps = decoding(), some_steps()
    mean = torch.randn(7, 3, 1)
    certain = torch.full((7, 3, 1), -60.0)
    with torch.no_grad():
        trial = steps.begin.cumsum(dim=0)
        found = float(made.errors(mean, certain, steps, trial))
        assert found == pytest.approx(by_hand(made, mean, steps), rel=1e-5)
        assert found != pytest.approx(by_hand(made, mean, steps, past_only=True), rel=1e-2)


def test_a_few_steps_tell_the_same_in_the_mean():
    made, steps = decoding(), some_steps(16, 6)
    mean, certain = torch.randn(16, 6, 1), torch.full((16, 6, 1), -60.0)
    trial = steps.begin.cumsum(dim=0)
    with torch.no_grad():
        whole = float(made.errors(mean, certain, steps, trial))
        made.encoded = made.decoded = 6
        drawn = [float(made.errors(mean, certain, steps, trial)) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(whole, rel=0.05)


def test_reward_never_reaches_the_belief():
    made, steps = decoding(), some_steps()
    torch.nn.init.normal_(made.head.weight)  # it begins with none, which no gradient passes
    chosen, value, _ = made.unroll(steps, made.initial(3))
    (chosen.mean.sum() + value.sum()).backward()
    believing = [*parameters(made.memory), *made.head.parameters(), *made.decoder.parameters()]
    assert all(p.grad is None or not p.grad.any() for p in believing)
    made.zero_grad()
    made.unroll(steps, made.initial(3)).extra.backward()
    assert all(p.grad is None or not p.grad.any() for p in made.policy.parameters())
    assert any(p.grad is not None and p.grad.any() for p in parameters(made.memory))


# Robots that differ in which way a command moves them, and in no reward


def told(T: int, B: int, rng: torch.Generator) -> tuple[Steps, Tensor]:
    """Trials of random actions, and the sign (B,) of each."""
    sign = torch.randint(2, (B,), generator=rng) * 2.0 - 1
    action = torch.rand(T, B, 2, generator=rng) * 2 - 1
    obs = torch.zeros(T, B, 3)
    obs[1:, :, :2] = sign[:, None] * action[:-1]
    last = torch.zeros(T, B, 2)
    last[1:] = action[:-1]
    begin = torch.zeros(T, B, dtype=torch.bool)
    begin[0] = True
    x = torch.cat([obs, last, begin[..., None].float()], dim=-1)
    return Steps(x, torch.zeros(T, B, 0), begin, torch.zeros(T, B)), sign


def separation(weights: tuple[float, float]) -> float:
    """How far apart the beliefs about both kinds are after a trial, in deviations."""
    made = decoding(weights=weights, encoded=4, decoded=4, decoder=(16,))
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(150):
        steps, _ = told(8, 64, rng)
        optimizer.zero_grad()
        made.unroll(steps, made.initial(64)).extra.backward()
        optimizer.step()
    steps, sign = told(8, 256, rng)
    with torch.no_grad():
        h = made.memory.unroll(steps.x, made.initial(256), steps.begin)
        mean, log_var = made.belief(h[-1])
    apart = (mean[sign > 0].mean() - mean[sign < 0].mean()).abs()
    return float(apart / (log_var / 2).exp().mean())


def test_what_comes_next_tells_robots_apart_and_reward_alone_does_not():
    assert separation((1.0, 1.0)) > 2
    assert separation((0.0, 1.0)) < 0.3  # the control arm


def test_a_recipe_is_trained_and_leaves_a_policy(tmp_path):
    policy = train(RECIPE, out=tmp_path)
    assert policy.z_names == ("memory", "last_action")
    again = Policy.load(tmp_path)
    obs = torch.randn(2, policy.spec.obs_size)
    assert torch.equal(policy(obs, policy.initial(2))[0], again(obs, again.initial(2))[0])


@pytest.mark.parametrize(
    ("adapt", "said"),
    [
        ({"latent": 0}, "latent is 0; it must be at least 1"),
        ({"kl": -1.0}, r"kl is -1\.0; it must be 0 or more"),
    ],
)
def test_recipes_that_cannot_be_are_refused(adapt, said):
    with pytest.raises(InputError, match=said):
        read({**RECIPE, "adapt": {"method": "varibad", **adapt}})
    assert read({**RECIPE, "adapt": "varibad"})[1].memory == Varibad()
