"""Policy gradients of few episodes, and the start that ProMP learns for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from sim2real.bridges.adapt.gradient.inner_loop import inner_loop
from sim2real.bridges.adapt.gradient.policy_gradient import (
    Episodes,
    advantages,
    baseline,
    log_prob,
    log_std,
    mean,
    normal_policy,
    returns,
)
from sim2real.bridges.adapt.gradient.promp import (
    ProMP,
    ProMPSettings,
    divergence,
    inner_loss,
)
from sim2real.types import InputError

torch.set_num_threads(1)

N, E, T = 3, 4, 6


class Reach:
    """Tasks of one step's memory: the reward is minus the distance of the command to the task's."""

    def __init__(self, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.goal = torch.rand(N, 1, 2, generator=rng) - 0.5

    def episodes(self, act) -> Episodes:
        obs = torch.zeros(N, E, 1)
        rows = []
        for t in range(T):
            action = act(obs + t)
            reward = -(action - self.goal).norm(dim=-1)
            rows.append((obs + t, action, reward, torch.ones(N, E, dtype=torch.bool)))
        return Episodes(*(torch.stack(x, dim=2) for x in zip(*rows, strict=True)))


def policy(seed: int = 0, **settings) -> dict[str, Tensor]:
    return normal_policy([1, 8, 2], torch.Generator().manual_seed(seed), **settings)


def stacked(number: int = N) -> dict[str, Tensor]:
    each = [policy(seed) for seed in range(number)]
    return {name: torch.stack([p[name] for p in each]) for name in each[0]}


def test_the_density_is_that_of_a_normal_action():
    params = policy(log_std=-0.3)
    obs, action = torch.randn(5, 7, 1), torch.randn(5, 7, 2)
    right = Independent(Normal(mean(params, obs), log_std(params).exp()), 1)
    torch.testing.assert_close(log_prob(params, obs, action), right.log_prob(action))


def test_policies_side_by_side_are_those_one_by_one():
    params, obs = stacked(), torch.randn(N, 9, 1)
    action = torch.randn(N, 9, 2)
    together = log_prob(params, obs, action)
    for i in range(N):
        alone = log_prob({k: v[i] for k, v in params.items()}, obs[i], action[i])
        torch.testing.assert_close(together[i], alone)


def test_noise_does_not_end():
    params = {**policy(), "log_std": torch.full((2,), -1e3)}
    assert torch.isfinite(log_prob(params, torch.zeros(1, 1), mean(params, torch.zeros(1, 1))))


def some_episodes(alive: Tensor | None = None) -> Episodes:
    obs = torch.randn(N, E, T, 2, dtype=torch.float64)
    there = torch.ones(N, E, T, dtype=torch.bool) if alive is None else alive
    reward = torch.randn(N, E, T, dtype=torch.float64)
    return Episodes(obs, torch.zeros(N, E, T, 1), reward, there)


def test_returns_are_discounted_sums_of_what_follows():
    found = returns(torch.tensor([[1.0, 2.0, 4.0]]), 0.5)
    torch.testing.assert_close(found, torch.tensor([[1 + 1 + 1.0, 2 + 2.0, 4.0]]))


def test_a_return_that_the_features_tell_leaves_no_advantage():
    torch.manual_seed(0)
    episodes = some_episodes()
    told = 2 * episodes.obs[..., 0] - episodes.obs[..., 1] ** 2 + 1
    after = torch.cat([told[..., 1:], torch.zeros_like(told[..., :1])], dim=-1)
    episodes = episodes._replace(reward=told - 0.9 * after)
    torch.testing.assert_close(baseline(episodes, 0.9), told, atol=1e-3, rtol=0)


def test_advantages_are_of_one_size_in_every_task_and_end_with_the_episode():
    torch.manual_seed(0)
    alive = torch.ones(N, E, T, dtype=torch.bool)
    alive[0, 1, 3:] = False
    episodes = some_episodes(alive)
    episodes = episodes._replace(
        reward=episodes.reward * torch.tensor([1.0, 100.0, 1e4])[:, None, None]
    )
    found = advantages(episodes, 0.9, 0.95)
    assert (found[0, 1, 3:] == 0).all()
    for i in range(N):
        own = found[i][alive[i]]
        assert float(own.mean()) == pytest.approx(0, abs=1e-9)
        assert float(own.std(correction=0)) == pytest.approx(1, rel=1e-6)
    rest = episodes._replace(reward=episodes.reward + 7.0 * ~alive)  # what is not there
    torch.testing.assert_close(advantages(rest, 0.9, 0.95), found)


def test_the_divergence_is_that_of_normal_policies():
    old, new = policy(0, log_std=-0.2), policy(1, log_std=0.3)
    obs = torch.randn(5, 1)
    a, b = (Independent(Normal(mean(p, obs), log_std(p).exp()), 1) for p in (old, new))
    found = divergence(mean(old, obs), log_std(old), mean(new, obs), log_std(new))
    torch.testing.assert_close(found, kl_divergence(a, b))


def test_before_a_step_the_outer_gradient_is_that_through_the_inner_step():
    """Ratios are 1 then, nothing is clipped, and the divergence is flat."""
    settings = ProMPSettings(kl=10.0)
    learner, tasks = ProMP(policy(), settings), Reach()
    start = {k: p.detach() for k, p in learner.params.items()}
    first = learner.stage(tasks, start)
    phi = learner.adapted(start, [first], 1)
    second = learner.stage(tasks, phi)

    def outer(params):
        total = torch.zeros(())
        for i in range(N):

            def mine(stage, i=i):
                return Episodes(*(x[i] for x in stage.episodes)), stage.advantage[i], stage.acted[i]

            adapted = inner_loop(params, inner_loss, [mine(first)], settings.rate)
            total = total + inner_loss(adapted, mine(second))
        return total / N

    right = torch.func.grad(outer)(start)
    rewound: Any = ProMP(start, replace(settings, outer_steps=1))
    moved: dict[str, Tensor] = {}

    class Kept(torch.optim.SGD):
        def step(self, closure=None):
            moved.update(
                {k: p.grad.clone() for k, p in rewound.params.items() if p.grad is not None}
            )

    rewound.optimizer = Kept(list(rewound.params.values()), 0.1)
    rewound.iterate(tasks)
    for name, gradient in right.items():
        torch.testing.assert_close(moved[name], gradient, atol=1e-6, rtol=1e-4)


def test_first_order_and_joint_training_are_other_gradients():
    def start_after(**settings):
        learner = ProMP(policy(), ProMPSettings(**settings), seed=0)
        learner.iterate(Reach())
        return torch.cat([p.detach().flatten() for p in learner.params.values()])

    whole, again = start_after(), start_after()
    assert torch.equal(whole, again)
    assert not torch.equal(whole, start_after(first_order=True))
    assert not torch.equal(whole, start_after(steps=0))


def test_a_start_gets_better_at_adapting():
    learner, tasks = ProMP(policy(log_std=-1.0), ProMPSettings(outer_rate=1e-2)), Reach()
    told = [learner.iterate(tasks) for _ in range(40)]
    assert all(len(row) == 2 for row in told)
    before, after = (sum(row[1] for row in some) / len(some) for some in (told[:5], told[-5:]))
    assert after > before


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="steps is -1; it must be 0 or more"):
        ProMPSettings(steps=-1)
    with pytest.raises(InputError, match="outer_steps is 0; it must be at least 1"):
        ProMPSettings(outer_steps=0)
    with pytest.raises(InputError, match=r"sizes \[1\]: expected two or more"):
        normal_policy([1], torch.Generator())
