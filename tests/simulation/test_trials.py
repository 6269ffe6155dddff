"""Trials: one robot for several episodes, then another."""

import numpy as np
import pytest

from sim2real.simulation.robot import Robot
from sim2real.simulation.trials import TrialWorlds
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError


def hoppers(episodes=2, steps=0, B=4, seed=0):
    robot = Robot.load("hopper")
    worlds = Worlds(robot, B, observe="measured", draw=robot.space.prior(), seed=seed, threads=1)
    return TrialWorlds(worlds, episodes=episodes, steps=steps, seed=seed)


def test_a_trial_keeps_its_robot_over_its_episodes_and_the_next_has_another():
    trials = hoppers()
    trials.begin()
    rng, ended, seen = np.random.default_rng(0), np.zeros(4, int), 0
    for _ in range(200):
        xi, episodes = trials.worlds.xi.copy(), trials.worlds.episodes.copy()
        step = trials.step(rng.uniform(-1, 1, (4, 3)))
        ended += step.done
        same = (trials.worlds.xi == xi).all(axis=1)
        np.testing.assert_array_equal(same, ~step.over)
        np.testing.assert_array_equal(trials.worlds.episodes - episodes, step.done)
        np.testing.assert_array_equal(step.over, step.done & (ended % 2 == 0))
        seen += step.over.sum()
    assert seen > 4


def test_what_is_seen_next_is_of_the_new_episode():
    trials = hoppers(B=8)
    trials.begin()
    rng, ended = np.random.default_rng(0), 0
    for _ in range(100):
        step = trials.step(rng.uniform(-1, 1, (8, 3)))
        begun = trials.worlds.ticks == 0
        np.testing.assert_array_equal(begun, step.done)
        ended += step.done.sum()
        if step.done.any():  # the hopper stands where an episode begins
            height = trials.worlds.data["qpos"][step.done, 1]
            np.testing.assert_allclose(height, 1.25, atol=0.01)
    assert ended > 5


def test_a_trial_ends_after_so_many_steps_each_world_at_its_own():
    trials = hoppers(episodes=100, steps=7, B=16)
    trials.begin()
    ends = np.array([trials.step(np.zeros((16, 3))).over for _ in range(28)])
    assert (ends.sum(axis=0) == 4).all()
    assert len(np.unique(ends.argmax(axis=0))) > 3
    for ended in ends.T:
        assert (np.diff(np.flatnonzero(ended)) == 7).all()


def test_trials_that_cannot_be_are_refused():
    worlds = Worlds(Robot.load("hopper"), 2, threads=1)
    with pytest.raises(InputError, match="hopper draw no ξ, so there is nothing to adapt to"):
        TrialWorlds(worlds, episodes=2)
    with pytest.raises(InputError, match="episodes is 0; a trial needs at least 1"):
        hoppers(episodes=0)
    with pytest.raises(InputError, match="steps is -1; it must be 0 or more"):
        hoppers(steps=-1)
