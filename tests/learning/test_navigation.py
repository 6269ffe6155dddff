"""2-D navigation (Finn, Abbeel and Levine 2017): a goal that one episode's rewards tell.

A point starts at 0 and moves by at most 0.1 along each axis; the reward is minus its distance to a
goal in [-0.5, 0.5]², which no observation shows. A policy that does not adapt earns no more than by
staying: -100 times the mean distance of the goals. 40 new goals, 20 episodes each for the step and
for what is scored; one seed.
"""

from __future__ import annotations

import pytest
import torch

from sim2real.bridges.adapt.gradient.policy_gradient import Episodes, normal_policy
from sim2real.bridges.adapt.gradient.promp import ProMP, ProMPSettings

pytestmark = pytest.mark.learn

STEPS, EPISODES, TASKS = 100, 20, 20


class Navigation:
    def __init__(self, number: int, generator: torch.Generator) -> None:
        self.goal = torch.rand(number, 1, 2, generator=generator) - 0.5

    def episodes(self, act) -> Episodes:
        N = len(self.goal)
        place, alive, rows = torch.zeros(N, EPISODES, 2), torch.ones(N, EPISODES).bool(), []
        for _ in range(STEPS):
            action = act(place)
            moved = place + action.clamp(-0.1, 0.1)
            reward = -(moved - self.goal).norm(dim=-1)
            rows.append((place, action, reward, alive))
            alive = alive & ((moved - self.goal).abs() > 0.01).any(dim=-1)
            place = moved
        return Episodes(*(torch.stack(x, dim=2) for x in zip(*rows, strict=True)))


def score(iterations: int, **settings) -> tuple[list[float], float]:
    """Mean return on new goals after no step and after one, and what staying earns there."""
    generator = torch.Generator().manual_seed(0)
    start = normal_policy([2, 64, 64, 2], generator, log_std=0.0)
    learner = ProMP(start, ProMPSettings(**settings), seed=1)
    for _ in range(iterations):
        learner.iterate(Navigation(TASKS, generator))
    tasks = Navigation(40, torch.Generator().manual_seed(1_000))
    tester = ProMP(learner.params, ProMPSettings(rate=0.1), seed=2)
    stages = [tester.stage(tasks, tester.params)]
    stages.append(tester.stage(tasks, tester.adapted(tester.params, stages, 1)))
    found = [float((s.episodes.reward * s.episodes.alive).sum(dim=2).mean()) for s in stages]
    return found, -STEPS * float(tasks.goal.norm(dim=-1).mean())


def test_one_step_from_a_learned_start_goes_to_the_goal():
    found, staying = score(60)
    print(f"ProMP: {found[0]:.1f} before, {found[1]:.1f} after a step; staying {staying:.1f}")
    assert found[0] < 0.9 * staying  # no better before: it has seen nothing of the goal
    assert found[1] > -18


def test_first_order():
    found, staying = score(60, first_order=True)
    print(f"first order: {found[0]:.1f} before, {found[1]:.1f} after; staying {staying:.1f}")
    assert found[1] > -18


def test_a_start_that_was_not_learned_for_a_step_goes_nowhere():
    """The control arm: no inner step in training."""
    found, _ = score(60, steps=0)
    print(f"joint training: {found[0]:.1f} before, {found[1]:.1f} after a step")
    assert found[1] < -25
