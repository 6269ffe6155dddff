"""The permutation test under exchangeable rows, and Holm's correction by hand."""

from __future__ import annotations

import numpy as np
from scipy import stats

from sim2real.localization.significance import LEVEL, holm, permutation, twins_for


def test_the_permutation_test_is_exact_and_sees_what_is_further_away():
    rng = np.random.default_rng(0)
    there = np.ones((6, 10), bool)
    p = [permutation(rng.chisquare(1, (4, 6, 10)), there, s)[0] for s in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    square = rng.chisquare(1, (4, 6, 10))
    square[0] *= 30
    small, factor = permutation(square, there, 0)
    assert small < 0.002
    assert 10 < factor < 90


def test_transitions_of_an_episode_are_not_independent():
    """A control arm: shuffled one by one, the same noise would be a finding far too often."""
    rng = np.random.default_rng(0)
    wrong = right = 0
    for s in range(100):
        square = rng.chisquare(1, (4, 6, 1)) * rng.chisquare(5, (4, 6, 30))
        right += permutation(square, np.ones((6, 30), bool), s)[0] <= 0.05
        apart = square.reshape(4, 180, 1)
        wrong += permutation(apart, np.ones((180, 1), bool), s)[0] <= 0.05
    assert right <= 11
    assert wrong > 25


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_few_episodes_have_twins_enough_for_the_level():
    assert LEVEL <= 0.05
    assert twins_for(1) + 1 >= 1 / LEVEL
    assert all((twins_for(n) + 1) ** n >= 1 / LEVEL for n in range(1, 20))
