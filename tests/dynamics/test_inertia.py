import numpy as np
import pytest

from sim2real.dynamics.inertia import (
    consistent,
    from_pseudo_inertia,
    perturb,
    pseudo_inertia,
    realizable,
)


def cloud(rng, n=30):
    """A body of n point masses: its mass, centre of mass and inertia by summation."""
    m, x = rng.uniform(0.1, 1.0, n), rng.normal(size=(n, 3))
    com = m @ x / m.sum()
    r = x - com
    inertia = np.einsum("n,nk,nk->", m, r, r) * np.eye(3) - (r.T * m) @ r
    return m, x, com, inertia


def test_pseudo_inertia_is_the_second_moment_of_the_points():
    m, x, com, inertia = cloud(np.random.default_rng(0))
    h = np.column_stack([x, np.ones(len(x))])  # homogeneous points: J = Σ m h·hᵀ
    np.testing.assert_allclose(pseudo_inertia(m.sum(), com, inertia), (h.T * m) @ h, atol=1e-12)


def test_from_pseudo_inertia_inverts():
    m, _, com, inertia = cloud(np.random.default_rng(1))
    mass, c, inertia_back = from_pseudo_inertia(pseudo_inertia(m.sum(), com, inertia))
    np.testing.assert_allclose([mass, *c], [m.sum(), *com], rtol=1e-12)
    np.testing.assert_allclose(inertia_back, inertia, rtol=1e-12, atol=1e-12)


def test_perturbed_bodies_are_consistent_and_zero_changes_nothing():
    rng = np.random.default_rng(2)
    m, _, com, inertia = cloud(rng)
    for _ in range(100):
        body = perturb(m.sum(), com, inertia, rng.normal(size=10))
        assert consistent(*body)
        assert realizable(np.linalg.eigvalsh(body[2]))
    mass, c, same = perturb(m.sum(), com, inertia, np.zeros(10))
    np.testing.assert_allclose([mass, *c], [m.sum(), *com], rtol=1e-12)
    np.testing.assert_allclose(same, inertia, rtol=1e-12, atol=1e-12)


def test_perturb_is_a_linear_map_of_the_points():
    """J' = U·J·Uᵀ is the body whose points U moved and whose weights grew by U44²."""
    m, x, com, inertia = cloud(np.random.default_rng(3))
    theta = np.array([0.1, 0.2, -0.1, 0.05, 0.3, -0.2, 0.1, 0.5, -0.4, 0.2])
    a, d1, d2, d3, s12, s23, s13, *t = theta
    A = np.array([[np.exp(d1), s12, s13], [0, np.exp(d2), s23], [0, 0, np.exp(d3)]])
    y, weight = x @ A.T + t, m * np.exp(2 * a)
    mass, c, moved = perturb(m.sum(), com, inertia, theta)
    r = y - weight @ y / weight.sum()
    expected = np.einsum("n,nk,nk->", weight, r, r) * np.eye(3) - (r.T * weight) @ r
    np.testing.assert_allclose([mass, *c], [weight.sum(), *(weight @ y / weight.sum())], rtol=1e-12)
    np.testing.assert_allclose(moved, expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("moments", "some_body"),
    [((1, 1, 1), True), ((1, 1, 2), True), ((0, 1, 1), True), ((1, 1, 2.1), False)],
)
def test_the_triangle_inequality(moments, some_body):
    assert realizable(np.array(moments, float)) == some_body
    assert consistent(1.0, np.array([0.3, 0.0, 0.0]), np.diag(moments).astype(float)) == some_body


def test_a_body_weighs_something():
    assert not consistent(-1.0, np.zeros(3), np.eye(3))
