"""An inner step without reward: what it moves and knows, and what an outer step makes of it."""

from __future__ import annotations

import pytest
import torch

from sim2real.bridges.adapt.gradient.inner_loop import inner_loop
from sim2real.bridges.adapt.gradient.policy_gradient import Episodes, mean, normal_policy
from sim2real.bridges.adapt.gradient.prediction import (
    HEAD,
    change,
    predicting,
    prediction_loss,
)
from sim2real.bridges.adapt.gradient.promp import ProMP, ProMPSettings
from sim2real.types import InputError

torch.set_num_threads(1)

STEPS, EPISODES = 20, 10


class Wired:
    """A point on a line that goes to 1, moved by 0.1 of the command or, wired the other way, of
    minus the command: dynamics differ, and the reward does not."""

    def __init__(self, number: int, generator: torch.Generator) -> None:
        self.gain = torch.randint(2, (number, 1, 1), generator=generator) * 2.0 - 1.0

    def episodes(self, act) -> Episodes:
        N = len(self.gain)
        place, alive, rows = torch.zeros(N, EPISODES, 1), torch.ones(N, EPISODES).bool(), []
        for _ in range(STEPS):
            action = act(place)
            moved = place + 0.1 * self.gain * action.clamp(-1, 1)
            rows.append((place, action, -(moved - 1).abs()[..., 0], alive))
            place = moved
        return Episodes(*(torch.stack(x, dim=2) for x in zip(*rows, strict=True)))


def start(seed: int = 0):
    rng = torch.Generator().manual_seed(seed)
    return predicting(normal_policy([1, 16, 16, 1], rng, log_std=-0.7), 1, 16, rng)


def some_stage(params, seed: int = 0):
    learner = ProMP(params, ProMPSettings(), seed=seed, inner=prediction_loss)
    return learner, learner.stage(Wired(3, torch.Generator().manual_seed(seed)), params)


def test_the_loss_is_the_mean_squared_error_of_what_was_seen_next():
    params = start()
    _, stage = some_stage(params)
    one = Episodes(*(part[0] for part in stage.episodes))
    alive = one.alive.clone()
    alive[0, 5:] = False  # an episode that ended
    one = one._replace(alive=alive)
    total, number = 0.0, 0
    for e in range(EPISODES):
        for t in range(STEPS - 1):
            if alive[e, t + 1]:
                told = change(params, one.obs[e, t], one.action[e, t])
                total += float((one.obs[e, t + 1] - one.obs[e, t] - told).square().sum())
                number += 1
    assert number == (EPISODES - 1) * (STEPS - 1) + 4
    assert float(prediction_loss(params, (one, None, None))) == pytest.approx(total / number)


def test_a_step_moves_what_is_shared_and_knows_of_no_reward():
    params = start()
    learner, stage = some_stage(params)
    moved = learner.adapted(params, [stage], 1)
    changed = {name for name in params if not torch.equal(moved[name][0], params[name])}
    assert changed == {"weight0", "bias0", "weight1", "bias1", *HEAD}
    other = stage._replace(
        episodes=stage.episodes._replace(reward=torch.randn_like(stage.episodes.reward)),
        advantage=torch.randn_like(stage.advantage),
    )
    again = learner.adapted(params, [other], 1)
    assert all(torch.equal(moved[name], again[name]) for name in params)


def test_the_outer_gradient_goes_through_the_step_into_the_prediction():
    params = {name: p.requires_grad_() for name, p in start().items()}
    learner, stage = some_stage({n: p.detach() for n, p in params.items()})

    def outer(first_order: bool) -> dict[str, float]:
        one = tuple(part[0] for part in stage.episodes)
        phi = inner_loop(params, prediction_loss, [(one, None, None)], 0.1, first_order=first_order)
        grads = torch.autograd.grad(
            mean(phi, torch.ones(1, 1)).sum(), list(params.values()), allow_unused=True
        )
        sizes = [0.0 if g is None else float(g.abs().max()) for g in grads]
        return dict(zip(params, sizes, strict=True))

    assert all(outer(first_order=False)[name] > 0 for name in HEAD)
    assert all(outer(first_order=True)[name] == 0 for name in HEAD)  # a control arm
    assert learner.settings.steps == 1


def test_what_shares_nothing_is_refused():
    rng = torch.Generator().manual_seed(0)
    with pytest.raises(InputError, match="0 hidden layers"):
        predicting(normal_policy([1, 1], rng), 1, 8, rng)
    with pytest.raises(InputError, match="width 0"):
        predicting(normal_policy([1, 4, 1], rng), 1, 0, rng)


def score(steps: int = 1) -> list[float]:
    """Mean return on 60 new robots before a step without reward and after it; one seed."""
    rng = torch.Generator().manual_seed(1)
    how = ProMPSettings(rate=0.5, outer_rate=1e-3, steps=steps)
    learner = ProMP(start(1), how, seed=1, inner=prediction_loss)
    for _ in range(120):
        learner.iterate(Wired(20, rng))
    tester = ProMP(learner.params, ProMPSettings(rate=0.5), seed=2, inner=prediction_loss)
    tasks = Wired(60, torch.Generator().manual_seed(99))
    params = {name: p.detach() for name, p in tester.params.items()}
    stages = [tester.stage(tasks, params)]
    stages.append(tester.stage(tasks, tester.adapted(params, stages, 1)))
    return [float(s.episodes.reward.sum(dim=2).mean()) for s in stages]


def test_a_step_without_reward_finds_out_how_a_robot_is_wired():
    """Who stays earns -20, who knows how it is wired -4.5 at best."""
    before, after = score()
    assert before < -16
    assert after > -12


def test_a_start_that_was_not_learned_for_the_step_gains_nothing_by_it():
    """The control arm: the prediction is as little trained, and nobody asked what it moves."""
    _, after = score(steps=0)
    assert after < -16
