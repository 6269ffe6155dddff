"""PEARL: the posterior's arithmetic, which gradient reaches what, and what a trial leaks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sim2real.bridges.adapt.inference.belief import divergence
from sim2real.bridges.adapt.inference.pearl import Pearl, PearlSettings, Transitions, product
from sim2real.bridges.adapt.inference.pearl_trials import (
    Gathering,
    PearlTraining,
    Replay,
    trial,
)
from sim2real.types import InputError

torch.set_num_threads(1)

SMALL = PearlSettings(latent=2, network=(16,), encoder=(16,), rate=3e-3)


class Points:
    """A point moves by at most 0.2 along each axis; the reward is minus the distance to a goal."""

    obs_size = actions = 2
    horizon = 6

    def __init__(self, number: int = 6, seed: int = 0) -> None:
        self.number = number
        generator = torch.Generator().manual_seed(seed)
        self.goal = 2 * torch.rand(number, 2, generator=generator) - 1

    def episode(self, tasks: Tensor, act: Any) -> Transitions:
        place, rows = torch.zeros(len(tasks), 2), []
        for _ in range(self.horizon):
            action = act(place)
            moved = place + 0.2 * action
            reward = -(moved - self.goal[tasks]).norm(dim=-1)
            done = torch.zeros(len(tasks), dtype=torch.bool)
            rows.append((place, action, reward, moved, done, reward))
            place = moved
        return Transitions(*(torch.stack(x, dim=1) for x in zip(*rows, strict=True)))


def agent(seed: int = 0, **settings: Any) -> Pearl:
    return Pearl(2, 2, PearlSettings(**{**SMALL.__dict__, **settings}), seed=seed)


def some(N: int = 3, n: int = 5, seed: int = 0) -> Transitions:
    rng = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng) * 2 - 1

    return Transitions(drawn(N, n, 2), drawn(N, n, 2), drawn(N, n), drawn(N, n, 2),
                       torch.zeros(N, n, dtype=torch.bool), drawn(N, n))  # fmt: skip


def test_the_product_of_normal_factors():
    mean = torch.tensor([[1.0], [2.0], [4.0]])
    log_var = torch.tensor([[1.0], [0.5], [2.0]]).log()
    found, log = product(mean, log_var)
    assert float(found) == pytest.approx(2.0)
    assert float(log.exp()) == pytest.approx(0.285714, abs=1e-6)
    zero = torch.zeros(1)
    assert float(divergence(found, log, zero, zero)) == pytest.approx(2.269239, abs=1e-6)
    alone, its = product(mean[:1], log_var[:1])
    assert (float(alone), float(its.exp())) == (1.0, 1.0)
    # the planted bug: a factor of the prior besides
    found, log = product(torch.cat([mean, zero[None]]), torch.cat([log_var, zero[None]]))
    assert float(log.exp()) == pytest.approx(0.222222, abs=1e-6)
    assert float(found) == pytest.approx(1.555556, abs=1e-6)


def test_the_order_of_transitions_tells_nothing_and_none_tell_the_prior():
    made, context = agent(), some()
    with torch.no_grad():
        found = made.posterior(context)
        turned = made.posterior(Transitions(*(x[:, [3, 1, 4, 0, 2]] for x in context)))
        for a, b in zip(found, turned, strict=True):
            torch.testing.assert_close(a, b)
        mean, log_var = made.posterior(Transitions(*(x[:, :0] for x in context)))
    assert (mean == 0).all()
    assert (log_var == 0).all()


def sizes(made: Pearl, loss: Tensor) -> dict[str, float]:
    made.zero_grad()
    loss.backward()
    parts = {"encoder": made.encoder, "actor": made.actor, "critics": made.critics,
             "value": made.value}  # fmt: skip
    return {
        name: sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        for name, part in parts.items()
    }


def test_the_context_holds_what_the_target_shows_and_sac_learns_from_the_reward():
    made, context, batch = agent(), some(), some(seed=1)

    def losses(context, batch):
        return made.losses(context, batch, torch.Generator().manual_seed(0))

    was = losses(context, batch)
    other = losses(
        context._replace(reward=context.reward + 1), batch._replace(shown=batch.shown + 1)
    )
    assert torch.equal(torch.stack(was), torch.stack(other))
    assert not torch.equal(was.kl, losses(context._replace(shown=context.shown + 1), batch).kl)
    taught = losses(context, batch._replace(reward=batch.reward + 1))
    assert not torch.equal(was.critic, taught.critic)
    assert torch.equal(was.kl, taught.kl)


def test_the_encoder_learns_from_critics_and_divergence_alone():
    made = agent()

    def losses():
        return made.losses(some(), some(seed=1), torch.Generator().manual_seed(0))

    critic = sizes(made, losses().critic)
    assert critic["encoder"] > 0
    assert critic["actor"] == critic["value"] == 0
    assert sizes(made, losses().kl)["encoder"] > 0
    actor = sizes(made, losses().actor)
    assert actor["encoder"] == actor["value"] == 0
    assert actor["actor"] > 0
    value = sizes(made, losses().value)
    assert value["encoder"] == value["actor"] == value["critics"] == 0
    assert value["value"] > 0


def test_an_update_moves_every_part_by_its_own_loss():
    made = agent()
    before = {k: v.clone() for k, v in made.state_dict().items()}
    told = made.update(some(), some(seed=1), torch.Generator().manual_seed(0))
    after = made.state_dict()
    assert all(not torch.equal(before[k], after[k]) for k in before if not k.endswith("bias"))
    assert all(torch.isfinite(x) for x in told)
    moved = after["target.0.weight"] - before["target.0.weight"]
    whole = after["value.0.weight"] - before["target.0.weight"]
    torch.testing.assert_close(moved, 0.005 * whole, atol=1e-7, rtol=1e-3)


def test_the_density_of_an_action_is_that_after_tanh():
    made = agent()
    obs, z = torch.randn(1, 2).expand(4000, 2), torch.randn(1, 2).expand(4000, 2)
    with torch.no_grad():
        action, log_prob = made.act(obs, z, torch.Generator().manual_seed(0))
        mean, log_std = made.actor(torch.cat([obs, z], dim=-1)).chunk(2, dim=-1)
    base = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(
        base, torch.distributions.TanhTransform(cache_size=1)
    )
    inside = (action.abs() < 0.999).all(dim=-1)
    right = squashed.log_prob(action).sum(dim=-1)
    torch.testing.assert_close(log_prob[inside], right[inside], atol=1e-3, rtol=1e-3)


def test_a_replay_keeps_the_last_and_forgets_what_is_cleared():
    tasks = Points(3)
    replay, which = Replay(tasks, 8), torch.tensor([0, 2])
    rng = torch.Generator().manual_seed(0)
    for k in range(3):
        new = tasks.episode(which, lambda obs: torch.zeros_like(obs))
        replay.add(which, new._replace(reward=torch.full((2, 6), float(k))))
    drawn = replay.sample(which, 500, rng)
    assert set(drawn.reward.unique().tolist()) == {1.0, 2.0}  # of the first 6, 4 and 2 are gone
    with pytest.raises(InputError, match="a task has no transitions yet"):
        replay.sample(torch.tensor([1]), 4, rng)
    replay.clear(torch.tensor([2]))
    with pytest.raises(InputError, match="a task has no transitions yet"):
        replay.sample(torch.tensor([0, 2]), 4, rng)


def test_the_encoder_is_given_recent_episodes_of_the_prior_alone():
    tasks = Points()
    how = Gathering(tasks=2, prior_episodes=1, posterior_episodes=3, updates=1, together=2)
    training = PearlTraining(agent(), tasks, how)
    assert (training.recent.added == 6).all()
    training.iterate()
    assert (training.recent.added == 6).all()  # cleared, and one episode again
    assert sorted(training.all.added.tolist()) == [6] * 4 + [6 + 4 * 6] * 2
    assert training.steps == 6 * 6 + 2 * 4 * 6


def test_a_trial_begins_with_nothing_and_leaves_nothing():
    tasks, made = Points(), agent()
    before = {k: v.clone() for k, v in made.state_dict().items()}

    def run(which: list[int]) -> Any:
        return trial(made, tasks, torch.tensor(which), 3, torch.Generator().manual_seed(0))

    both, again = run([0, 1]), run([0, 1])
    torch.testing.assert_close(both.returns, again.returns)
    same = run([0, 0])  # the same draws for the first, whatever the second is
    torch.testing.assert_close(both.returns[0], same.returns[0])
    assert both.returns.shape == (2, 3)
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())


def test_z_is_held_for_an_episode_and_drawn_anew_for_the_next():
    seen: list[Tensor] = []

    class Watched(Points):
        def episode(self, tasks, act):
            place = torch.zeros(len(tasks), 2)
            seen.append(torch.stack([act(place) for _ in range(3)]))
            return super().episode(tasks, act)

    trial(agent(), Watched(), torch.tensor([0]), 2, torch.Generator().manual_seed(0))
    first, second = seen[:2]
    assert (first == first[0]).all()
    assert not torch.equal(first[0], second[0])


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="latent is 0; it must be at least 1"):
        PearlSettings(latent=0)
    with pytest.raises(InputError, match="obs_size 0, actions 2: each at least 1"):
        Pearl(0, 2, SMALL)
