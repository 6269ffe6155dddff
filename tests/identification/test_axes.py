"""The axes along which ξ is searched."""

from __future__ import annotations

import numpy as np
import pytest

from sim2real.identification.axes import Axes
from sim2real.identification.linearization import Information, Normal, within

LOW, HIGH = np.array([0.5, -1.0, 0.0, 2.0]), np.array([2.0, 3.0, 4.0, 2.0])
AXES = Axes.of(LOW, HIGH)


def test_what_is_positive_is_a_logarithm_and_comes_back():
    assert AXES.log.tolist() == [True, False, False, True]
    xi = np.random.default_rng(0).uniform(LOW, HIGH, (50, 4))
    np.testing.assert_allclose(AXES.to(xi)[:, 0], np.log(xi[:, 0]))
    np.testing.assert_array_equal(AXES.to(xi)[:, 1:3], xi[:, 1:3])
    np.testing.assert_allclose(AXES.back(AXES.to(xi)), xi, rtol=1e-14)


def test_the_ends_come_back_to_the_last_digit():
    low, high = np.array([0.1, 0.7, 1e-3]), np.array([0.3, 1.9, 77.0])
    axes = Axes.of(low, high)
    assert (axes.back(axes.low) >= low).all()
    assert (axes.back(axes.high) <= high).all()
    np.testing.assert_allclose(axes.back(axes.high), high)


def test_flat_has_the_moments_of_uniform_draws():
    x = AXES.to(np.random.default_rng(1).uniform(LOW, HIGH, (200_000, 4)))
    np.testing.assert_allclose(AXES.flat.mean, x.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.diag(AXES.flat.covariance)[:3], x.var(axis=0)[:3], rtol=0.02)
    assert AXES.flat.covariance[3, 3] == pytest.approx(0.0, abs=1e-12)


def test_draws_of_a_log_that_says_nothing_are_uniform_over_xi():
    rng = np.random.default_rng(2)
    nothing = Information(np.zeros(4), np.zeros((4, 4)), np.zeros(4))

    def drawn(said: Information):
        return AXES.back(within(said, AXES.flat, AXES.low, AXES.high, 4000, rng))

    error = 4 * (HIGH - LOW) / 48_000**0.5
    assert (np.abs(drawn(nothing.plus(AXES.tilt)).mean(axis=0) - (LOW + HIGH) / 2) <= error).all()
    # the control arm: flat along the axes, small ξ are too many
    assert drawn(nothing).mean(axis=0)[0] < 1.25 - error[0]


@pytest.mark.parametrize("precision", [0.0, 0.0011, 0.002, 0.005, 0.02])
def test_a_log_that_says_next_to_nothing_leaves_them_uniform(precision):
    """In units of the axes' ranges, of which a uniform density has 12."""
    axes = Axes.of(np.array([0.2, 0.1, -1.0]), np.array([5.0, 10.0, 3.0]))
    width = axes.high - axes.low
    said = Information(axes.low + width / 2, np.diag(precision / width**2), np.zeros(3))
    rng = np.random.default_rng(4)
    xi = axes.back(within(said.plus(axes.tilt), axes.flat, axes.low, axes.high, 4000, rng))
    share = (xi - axes.xi_low) / (axes.xi_high - axes.xi_low)
    np.testing.assert_allclose(share.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(share.std(axis=0), 12**-0.5, rtol=0.03)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.00001), (200.0, 200.001), (1e5, 1.0001e5)])
def test_a_narrow_range_has_the_moments_of_its_axis(low, high):
    flat = Axes.of(np.array([low]), np.array([high])).flat
    assert flat.covariance[0, 0] == pytest.approx(np.log(high / low) ** 2 / 12, rel=1e-3)


def test_a_product_is_straight():
    """All (k, w) with one k times w lie on one line of the axes, and on none of ξ."""
    axes = Axes.of(np.array([0.5, 0.5]), np.array([2.0, 2.0]))
    w = np.linspace(0.6, 1.4, 9)
    xi = np.stack([1 / w, w], axis=1)

    def bent(x):
        far = x - x[0]
        return np.abs(far[:, 0] * far[-1, 1] - far[:, 1] * far[-1, 0]).max()

    assert bent(axes.to(xi)) < 1e-12
    assert bent(xi) > 0.05


def test_draws_stay_inside_where_the_log_points_beyond():
    beyond = Normal(np.array([5.0, 9.0, 9.0, 0.0]), np.eye(4))
    pull = np.linalg.solve(beyond.covariance, beyond.mean)
    said = Information(np.zeros(4), np.eye(4), pull).plus(AXES.tilt)
    xi = AXES.back(within(said, AXES.flat, AXES.low, AXES.high, 64, np.random.default_rng(3)))
    assert (xi >= LOW).all()
    assert (xi <= HIGH).all()
    assert (xi[:, 3] == 2.0).all()
