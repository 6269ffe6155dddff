"""Boundaries move with the returns found at them, and settle where the returns say."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sim2real.bridges.randomize import adr
from sim2real.bridges.randomize.adr import ADR, Boundaries, BoundaryBox, moved
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

PENDULUM = Robot.load("inverted_pendulum").space
CART, LATENCY = (PENDULUM.names.index(n) for n in ("cart_mass", "action_latency"))


def alone(name: str, low: float, high: float) -> dict[str, tuple[float, float]]:
    """Every other parameter held at its nominal."""
    nominal = dict(zip(PENDULUM.names, PENDULUM.nominal.tolist(), strict=True))
    return {n: (v, v) for n, v in nominal.items()} | {name: (low, high)}


def box(rule: Boundaries) -> tuple[np.ndarray, np.ndarray]:
    d = rule.distribution
    assert isinstance(d, BoundaryBox)
    return d.low, d.high


@pytest.mark.parametrize(
    ("boundary", "outward", "mean", "expected"),
    [
        (1.2, 0.1, 80.0, 1.3),  # at the threshold already
        (1.2, 0.1, 79.9, 1.2),
        (1.2, 0.1, 40.1, 1.2),
        (1.2, 0.1, 40.0, 1.1),
        (1.45, 0.1, 99.0, 1.5),  # the declared range ends
        (1.05, 0.1, 0.0, 1.0),  # the nominal is never left out
        (0.8, -0.1, 99.0, 0.7),
        (0.8, -0.1, 0.0, 0.9),
        (0.55, -0.1, 99.0, 0.5),
        (0.95, -0.1, 0.0, 1.0),
    ],
)
def test_a_boundary_moves_by_hand_values(boundary, outward, mean, expected):
    limit = 1.5 if outward > 0 else 0.5
    found = moved(boundary, outward, mean, high=80.0, low=40.0, nominal=1.0, limit=limit)
    assert found == pytest.approx(expected, abs=1e-12)


def test_a_buffer_is_gathered_judged_and_emptied():
    config = ADR(high=80.0, low=40.0, step=0.1, buffer=2, ranges=alone("cart_mass", 0.5, 1.5))
    rule = config.rule(PENDULUM)
    nominal = PENDULUM.nominal
    assert rule.observe(nominal[None], np.array([90.0])) is None  # one of two
    assert rule.observe(nominal[None], np.array([70.0])) is not None  # both sides are that point
    np.testing.assert_allclose([end[CART] for end in box(rule)], [0.9, 1.1])
    low, high, inside = (nominal.copy() for _ in range(3))
    low[CART], high[CART], inside[CART] = box(rule)[0][CART], box(rule)[1][CART], 1.05
    # what is inside says nothing of a boundary, nor does what was drawn at another place
    assert rule.observe(np.stack([inside, inside, nominal]), np.full(3, 100.0)) is None
    # the upper one hears (100, 61), the lower one (10) and is not judged yet
    rule.observe(np.stack([high, low, high]), np.array([100.0, 10.0, 61.0]))
    np.testing.assert_allclose([end[CART] for end in box(rule)], [0.9, 1.2])
    rule.observe(
        np.stack([low, high]), np.array([70.0, 0.0])
    )  # a mean of 40; `high` is the old one
    np.testing.assert_allclose([end[CART] for end in box(rule)], [1.0, 1.2])
    assert rule.to_dict()["queues"][CART] == [[], []]


def test_a_point_counts_episodes_that_were_not_chosen_for_another_parameter():
    ranges = alone("cart_mass", 0.5, 1.5) | {"pole_mass": (0.5, 1.5)}
    rule = ADR(high=80.0, low=40.0, buffer=100, ranges=ranges).rule(PENDULUM)
    pole = PENDULUM.names.index("pole_mass")
    data = rule.to_dict()
    data["high"][CART], data["low"][CART] = 1.2, 0.8
    rule.restore(data)
    x = np.tile(PENDULUM.nominal, (3, 1))
    x[:, CART] = 1.2, 0.8, 1.07
    rule.observe(x, np.array([1.0, 2.0, 3.0]))
    queues = rule.to_dict()["queues"]
    assert queues[CART] == [[2.0], [1.0]]
    assert queues[pole] == [[3.0], [3.0]]


def settle(rule: Boundaries, value, *, episodes: int, seed: int = 0) -> None:
    """Episodes as training would run them, if their return were `value` of ξ (n, K)."""
    rng = np.random.default_rng(seed)
    for _ in range(episodes // 50):
        x = rule.distribution.sample(rng, 50)
        rule.observe(x, value(x))


def slope(x):
    """100 at the nominal mass, 0 at 0.5 and 1.5 times it, whatever the latency."""
    return 100.0 * (1 - np.abs(x[:, CART] - 1) / 0.5)


def test_boundaries_settle_between_the_thresholds_and_at_the_limits():
    """The return at 1 ± d is 100 (1 - 2 d): 80 at d = 0.1, 40 at d = 0.3. Steps of 0.05 from the
    nominal end at the first that is below 79, which is 0.15. At the ends of the latency the masses
    between give 85 on average: all of its range is taken."""
    ranges = alone("cart_mass", 0.5, 1.5) | {"action_latency": (0.0, 40.0)}
    config = ADR(high=79.0, low=40.0, step=0.05, buffer=8, ranges=ranges)
    rule = config.rule(PENDULUM)
    settle(rule, slope, episodes=20_000)
    low, high = box(rule)
    assert (low[CART], high[CART]) == pytest.approx((0.85, 1.15))
    assert (low[LATENCY], high[LATENCY]) == (0.0, 40.0)
    assert rule.figures()["width/action_latency"] == 1.0


def test_a_boundary_too_far_out_comes_back():
    config = ADR(high=79.0, low=40.0, step=0.05, buffer=8, ranges=alone("cart_mass", 0.5, 1.5))
    rule = config.rule(PENDULUM)
    data = rule.to_dict()
    data["low"][CART], data["high"][CART] = 0.5, 1.5
    rule.restore(data)
    settle(rule, slope, episodes=6000)
    # from outside, the first that is above 40
    assert (box(rule)[0][CART], box(rule)[1][CART]) == pytest.approx((0.75, 1.25), abs=0.051)
    edge = np.tile(PENDULUM.nominal, (1, 1))
    edge[0, CART] = box(rule)[1][CART]
    assert 40 < slope(edge)[0] < 79


def test_with_swapped_thresholds_it_grows_where_it_fails(monkeypatch):
    """The control arm: 40 is enough to widen, and the feasible region is left behind."""

    def swapped(boundary, outward, mean, *, high, low, nominal, limit):
        return moved(boundary, outward, mean, high=low, low=high, nominal=nominal, limit=limit)

    monkeypatch.setattr(adr, "moved", swapped)
    config = ADR(high=79.0, low=40.0, step=0.05, buffer=8, ranges=alone("cart_mass", 0.5, 1.5))
    rule = config.rule(PENDULUM)
    settle(rule, slope, episodes=6000)
    assert box(rule)[1][CART] - box(rule)[0][CART] > 0.55  # 0.3 is right


BOX = BoundaryBox([0.0, 1.0, 5.0, 2.0], [2.0, 4.0, 5.0, 2.0], [True, True, True, False], 0.6)


def test_a_share_of_the_episodes_is_exactly_at_one_end():
    n = 60_000
    x = BOX.sample(np.random.default_rng(0), n)
    low, high = x[:, :2] == BOX.low[:2], x[:, :2] == BOX.high[:2]
    # each of three free parameters has a fifth of the episodes; the third is a point and shows none
    np.testing.assert_allclose(low.mean(axis=0), 0.1, atol=0.005)
    np.testing.assert_allclose(high.mean(axis=0), 0.1, atol=0.005)
    assert not ((low | high).sum(axis=1) > 1).any()
    assert (x[:, 2:] == [5.0, 2.0]).all()
    np.testing.assert_allclose(x.mean(axis=0), BOX.mean(), atol=0.02)
    np.testing.assert_allclose(x.std(axis=0), BOX.std(), atol=0.01)


def test_the_density_belongs_to_the_draws():
    """E[1/p] over the draws of one kind is the volume that this kind fills."""
    x = BOX.sample(np.random.default_rng(1), 40_000)
    inverse = np.exp(-BOX.log_prob(x))
    ends = [x[:, k] == end[k] for k in range(2) for end in (BOX.low, BOX.high)]
    inside = ~np.any(ends, axis=0)
    volumes = [3.0, 3.0, 2.0, 2.0, 6.0]
    found = [(inverse * kind).mean() for kind in (*ends, inside)]
    np.testing.assert_allclose(found, volumes, rtol=0.05)
    outside = [[2.1, 2.0, 5.0, 2.0], [0.0, 1.0, 5.0, 2.0], [1.0, 2.0, 5.1, 2.0]]
    assert (BOX.log_prob(outside) == -np.inf).all()


def test_the_start_is_the_nominal_or_the_end_of_the_range_next_to_it():
    config = ADR(high=2.0, low=1.0, ranges={"cart_mass": (1.2, 1.5)})
    x = config.distribution(PENDULUM).sample(np.random.default_rng(0), 5)
    expected = PENDULUM.nominal.copy()
    expected[CART] = 1.2
    np.testing.assert_array_equal(x, np.tile(expected, (5, 1)))
    assert config.bounds(PENDULUM)["cart_mass"] == (1.2, 1.5)


def test_ninety_percent_counts_what_the_boundaries_hold():
    """One free parameter and half of the episodes at its ends: a quarter each, so the ends bound
    90 %. With a chance of 0.02 and 90 % of the rest, 5 % lie beyond on either side."""
    ranges = alone("cart_mass", 0.5, 1.5)
    for chance in (0.5, 0.02):
        rule = ADR(high=2.0, low=1.0, boundary=chance, buffer=1, ranges=ranges).rule(PENDULUM)
        for _ in range(10):
            rule.observe(np.stack([*box(rule)]), np.full(2, 5.0))
        bounds = rule.summary()["parameters"]["cart_mass"]
        x = rule.distribution.sample(np.random.default_rng(0), 50_000)[:, CART]
        found = np.quantile(x, [0.05, 0.95])
        np.testing.assert_allclose([bounds["low"], bounds["high"]], found, atol=0.01)


def test_a_rule_is_restored():
    config = ADR(high=80.0, low=40.0, buffer=3)
    rule = config.rule(PENDULUM)
    rng = np.random.default_rng(0)
    x = rule.distribution.sample(rng, 40)
    rule.observe(x, rng.uniform(50, 120, 40))
    again = config.rule(PENDULUM)
    again.restore(json.loads(json.dumps(rule.to_dict())))
    assert again.to_dict() == rule.to_dict()
    x, returns = rule.distribution.sample(rng, 200), rng.uniform(0, 120, 200)
    assert again.observe(x, returns) == rule.observe(x, returns)
    assert again.to_dict() == rule.to_dict()
    with pytest.raises(InputError, match="not of adr over torso_mass"):
        config.rule(Robot.load("hopper").space).restore(rule.to_dict())
    with pytest.raises(InputError, match="'queues'"):
        rule.restore({k: v for k, v in rule.to_dict().items() if k != "queues"})
    with pytest.raises(InputError, match="of 6 parameters"):
        rule.restore({**rule.to_dict(), "low": [0.0]})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"high": 40.0}, "low must be below high"),
        ({"step": 0.0}, "step is 0.0"),
        ({"buffer": 0}, "buffer is 0"),
        ({"boundary": 0.0}, "boundary is 0.0"),
    ],
)
def test_wrong_settings_are_refused(given, says):
    with pytest.raises(InputError, match=says):
        replace(ADR(high=80.0, low=40.0), **given)


def test_nothing_to_widen_is_refused():
    fixed = {name: (1.0, 1.0) for name in PENDULUM.names}
    with pytest.raises(InputError, match="nothing to widen"):
        ADR(high=2.0, low=1.0, ranges=fixed).rule(PENDULUM)
    with pytest.raises(InputError, match="one must be"):
        BoundaryBox([0.0], [1.0], [False], 0.5)
