"""The slope that tells noise from a gap in the dynamics."""

from __future__ import annotations

import numpy as np

from sim2real.localization.observation import taken_back


def test_noise_is_taken_back_and_a_constant_force_is_not():
    """A random walk that is measured with noise n: error n' - n, and starting from where it was
    believed takes back k of the surprise."""
    rng = np.random.default_rng(0)
    n, there = rng.standard_normal((8, 101, 1)), np.ones((8, 99), bool)
    surprise = n[:, 1:] - n[:, :-1]
    slope, t = taken_back(surprise[:, 1:], 0.3 * surprise[:, :-1], there)
    assert slope < -1  # -0.5 / 0.3, were it not for asinh
    assert t < -10
    force = 1 + 0.1 * rng.standard_normal((8, 100, 1))
    slope, t = taken_back(force[:, 1:], 0.3 * force[:, :-1], there)
    assert slope > 2
    assert t > 3
    white = rng.standard_normal((8, 100, 1))
    assert abs(taken_back(white[:, 1:], 0.3 * white[:, :-1], there)[1]) < 3
