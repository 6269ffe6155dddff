"""The widest distribution that succeeds: one step, and where the steps lead, are known exactly."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from sim2real.bridges.randomize import doraemon
from sim2real.bridges.randomize.doraemon import Doraemon, Step, entropy, kl, update
from sim2real.dynamics.distribution import Beta, Product
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

PENDULUM = Robot.load("inverted_pendulum").space
START = Beta([100.0], [100.0])
N = 2000


def within(w):
    """Success on |x - 0.5| < w, and its true share under a Beta."""

    def succeeds(x):
        return np.abs(x[:, 0] - 0.5) < w

    def share(p):
        a, b = float(p.a[0]), float(p.b[0])
        return special.betainc(a, b, 0.5 + w) - special.betainc(a, b, 0.5 - w)

    return succeeds, share


def climb(w, *, seed, updates, epsilon=0.1, n=N) -> list[tuple[Beta, Step]]:
    """The distributions of successive updates, fresh draws for each."""
    succeeds, _ = within(w)
    rng = np.random.default_rng(seed)
    p, path = START, []
    for _ in range(updates):
        x = p.sample(rng, n)
        p, step = update(p, x, succeeds(x), epsilon=epsilon)
        path.append((p, step))
    return path


def test_kl_and_entropy_equal_quadrature():
    p, q = Beta([2.0, 30.0], [3.5, 11.0]), Beta([1.5, 25.0], [5.0, 14.0])
    divergence = surprise = 0.0
    for k in range(2):
        f: Any = stats.beta(p.a[k], p.b[k])
        g: Any = stats.beta(q.a[k], q.b[k])

        def integrand(x, f=f, g=g):
            return f.pdf(x) * (f.logpdf(x) - g.logpdf(x))

        divergence += integrate.quad(integrand, 0, 1)[0]
        surprise += float(f.entropy())
    assert kl(p, q) == pytest.approx(divergence, rel=1e-7)
    assert entropy(p) == pytest.approx(surprise, rel=1e-9)
    assert entropy(START) == pytest.approx(-1.926, abs=5e-4)
    assert entropy(Beta([1.0], [1.0])) == pytest.approx(0.0, abs=1e-12)
    assert entropy(Beta([2.0], [3.0], [0.5], [9.0])) == entropy(Beta([2.0], [3.0]))


def test_small_divergences_survive_in_float64_and_not_in_float32():
    divergence = kl(START, Beta([99.994], [99.994]))
    assert 0 < divergence < 1e-8
    assert divergence == pytest.approx(9.0e-10, rel=0.01)
    a, c = np.float32(100), np.float32(99.994)
    single = (
        special.betaln(c, c) - special.betaln(a, a)
        + 2 * (a - c) * special.digamma(a) + 2 * (c - a) * special.digamma(a + a)
    )  # fmt: skip
    assert single.dtype == np.float32
    assert not 0 < single < 1e-8


FIRST = [(0.1, 49.45), (0.05, 61.78), (0.01, 81.36), (0.005, 86.55), (0.001, 93.82)]


@pytest.mark.parametrize(("epsilon", "expected"), FIRST)
def test_the_first_step_is_where_the_trust_region_ends(epsilon, expected):
    x = START.sample(np.random.default_rng(0), N)
    p, step = update(START, x, np.ones(N, bool), epsilon=epsilon)
    assert p.a[0] == pytest.approx(expected, rel=0.005)
    assert p.b[0] == pytest.approx(expected, rel=0.005)
    assert step.kl == pytest.approx(epsilon, rel=0.01)
    assert step.outcome == "widen"


def reversed_trust(self, epsilon):
    """The planted bug KL(proposed || current) <= ε."""
    a, b = self._current.a, self._current.b

    def curve(theta):
        c, d = np.split(np.exp(theta), 2)
        both = (c + d - a - b) * special.polygamma(1, c + d)
        dc = (c - a) * special.polygamma(1, c) - both
        dd = (d - b) * special.polygamma(1, d) - both
        return epsilon - kl(self.beta(theta), self._current), -np.concatenate([c * dc, d * dd])

    return curve


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(0.1, 56.53), (0.05, 66.04), (0.01, 82.45), (0.005, 87.13)]
)
def test_the_reversed_divergence_lands_elsewhere(monkeypatch, epsilon, expected):
    monkeypatch.setattr(doraemon._Search, "within", reversed_trust)
    x = START.sample(np.random.default_rng(0), N)
    p, _ = update(START, x, np.ones(N, bool), epsilon=epsilon)
    assert p.a[0] == pytest.approx(expected, rel=0.001)
    assert abs(p.a[0] / dict(FIRST)[epsilon] - 1) > 0.005  # the gate above would have caught it


def test_it_ends_uniform_where_the_uniform_succeeds():
    path = climb(0.4, seed=0, updates=12)
    assert entropy(path[-1][0]) == pytest.approx(0.0, abs=1e-3)
    np.testing.assert_allclose(path[-1][0].a, 1.0, atol=0.01)
    assert sum(entropy(p) < -0.01 for p, _ in path) < 10  # reached in under ten updates


@pytest.mark.parametrize(("w", "a", "h"), [(0.2, 1.528, -0.0526), (0.1, 5.816, -0.5478)])
def test_it_ends_where_half_of_the_episodes_succeed(w, a, h):
    _, share = within(w)
    limit: Any = optimize.brentq(lambda c: share(Beta([c], [c])) - 0.5, 1.0, 100.0)
    assert limit == pytest.approx(a, rel=1e-3)
    assert entropy(Beta([limit], [limit])) == pytest.approx(h, abs=2e-4)
    for seed in range(3):
        last = [p for p, _ in climb(w, seed=seed, updates=30)[-10:]]
        for p in last:
            assert 0.47 <= share(p) <= 0.53
        assert np.mean([p.a[0] for p in last]) == pytest.approx(a, rel=0.06)
        assert np.mean([p.b[0] for p in last]) == pytest.approx(a, rel=0.06)


@pytest.mark.parametrize("epsilon", [0.1, 0.01])
def test_while_slack_the_divergence_is_all_used_and_the_entropy_grows(epsilon):
    slack = 0
    before = entropy(START)
    for p, step in climb(0.2, seed=1, updates=60, epsilon=epsilon):
        if step.expected < 0.51:  # the share of successes binds: then the entropy oscillates
            break
        slack += 1
        assert step.kl == pytest.approx(epsilon, rel=0.01)
        assert step.entropy == entropy(p) > before
        before = step.entropy
    assert slack >= 5


def test_the_expected_share_is_what_fresh_draws_show():
    succeeds, _ = within(0.2)
    rng = np.random.default_rng(5)
    errors = [
        abs(step.expected - succeeds(p.sample(rng, 20_000)).mean())
        for p, step in climb(0.2, seed=2, updates=25)
    ]
    assert np.mean(errors) < 0.02
    assert max(errors) < 0.045  # four standard errors of 2000 draws


def reversed_ratio(self, theta):
    """The planted bug φ_k/φ."""
    p, (c, d) = self._current, np.split(np.exp(theta), 2)
    log_ratio = (
        self._log_u @ (p.a - c) + self._log_v @ (p.b - d)
        + (special.betaln(c, d) - special.betaln(p.a, p.b)).sum()
    )  # fmt: skip
    ratio = np.exp(np.minimum(log_ratio, 300.0)) / self._n
    total, mean = ratio.sum(), special.digamma(c + d)
    dc = -(ratio @ self._log_u + total * (mean - special.digamma(c)))
    dd = -(ratio @ self._log_v + total * (mean - special.digamma(d)))
    return float(total), np.concatenate([c * dc, d * dd])


def no_ratio(self, theta):
    """The planted bug of a plain mean."""
    return len(self._log_u) / self._n, np.zeros_like(theta)


@pytest.mark.parametrize("bug", [reversed_ratio, no_ratio])
def test_without_the_right_ratio_it_grows_past_half(monkeypatch, bug):
    monkeypatch.setattr(doraemon._Search, "success", bug)
    _, share = within(0.1)
    shares = [share(p) for p, _ in climb(0.1, seed=0, updates=20)]
    assert min(shares) < 0.45


def test_derivatives_equal_finite_differences():
    rng = np.random.default_rng(0)
    current = Beta([20.0, 3.0, 1.0], [8.0, 40.0, 60.0], [0.0, -1.0, 2.0], [1.0, 3.0, 5.0])
    x = current.sample(rng, 400)
    search = doraemon._Search(current, x[x[:, 0] < 0.75], 400, 210.0, 0.1)
    theta = search.point(current) + rng.normal(0, 0.05, 6)
    for curve in (search.entropy, search.success, search.within(0.1), search.succeeds(0.3)):
        found: Any = optimize.approx_fprime(theta, lambda t, curve=curve: curve(t)[0], 1e-7)
        np.testing.assert_allclose(curve(theta)[1], found, rtol=1e-4, atol=1e-5)


def test_no_point_of_a_grid_beats_the_step_where_success_is_lopsided():
    current, epsilon = Beta([12.0], [20.0]), 0.05
    x = current.sample(np.random.default_rng(3), N)
    success = x[:, 0] < 0.4
    p, step = update(current, x, success, epsilon=epsilon)
    search = doraemon._Search(current, x[success], N, 210.0, epsilon)
    best = -np.inf
    for a in np.geomspace(3, 30, 120):
        for b in np.geomspace(6, 50, 120):
            theta = np.log([a, b])
            q = search.beta(theta)
            if kl(current, q) <= epsilon and search.success(theta)[0] >= 0.5:
                best = max(best, entropy(q))
    assert step.kl <= epsilon * 1.001
    assert step.expected >= 0.5 - 2e-4
    assert best - 1e-3 <= entropy(p) <= best + 0.01


def test_another_solver_finds_the_same_step_in_five_dimensions():
    """trust-constr, as the authors use, over a sigmoid of unbounded numbers, as they do."""
    K, epsilon = 5, 0.1
    rng = np.random.default_rng(4)
    current = Beta(rng.uniform(5, 40, K), rng.uniform(5, 40, K))
    x = current.sample(rng, 4000)
    success = x @ np.array([1.0, 0.5, -0.5, 0.2, 0.0]) < np.median(x @ [1.0, 0.5, -0.5, 0.2, 0.0])
    success |= rng.random(4000) < 0.1
    p, step = update(current, x, success, epsilon=epsilon)
    search = doraemon._Search(current, x[success], 4000, 210.0, epsilon)

    def theta(z):
        return np.log(1 + 209 / (1 + np.exp(-z)))

    u = (np.exp(search.point(current)) - 1) / 209
    found = optimize.minimize(
        lambda z: -search.entropy(theta(z))[0], np.log(u / (1 - u)), method="trust-constr",
        constraints=[
            optimize.NonlinearConstraint(lambda z: kl(current, search.beta(theta(z))), 0, epsilon),
            optimize.NonlinearConstraint(lambda z: search.success(theta(z))[0], 0.4999, np.inf),
        ],
        options={"maxiter": 400},
    )  # fmt: skip
    assert step.outcome == "widen"
    assert step.entropy == pytest.approx(-found.fun, abs=2e-3)
    assert step.expected >= 0.4999 - 2e-6
    assert kl(current, p) <= epsilon * 1.001


@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.01])
def test_few_episodes_in_many_dimensions_do_not_stop_it(epsilon):
    """Far from the current point, 32 ratios mean nothing; the solver must not look there."""
    p = Doraemon(success=1.0).distribution(PENDULUM)
    assert isinstance(p, Beta)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        x = p.sample(rng, 32)
        _, step = update(p, x, rng.random(32) < 0.8, epsilon=epsilon)
        assert step.outcome == "widen"
        assert step.kl == pytest.approx(epsilon, rel=0.01)


def test_nothing_moves_before_the_share_was_reached_once():
    x = START.sample(np.random.default_rng(0), N)
    few = np.arange(N) % 10 == 0
    p, step = update(START, x, few, reached=False)
    assert p is START
    assert step == Step("wait", 0.0, entropy(START), 0.1, 0.1)
    enough = np.arange(N) % 10 != 0
    assert update(START, x, enough, reached=False)[1].outcome == "widen"


def test_a_lost_share_is_restored_within_the_trust_region():
    succeeds, share = within(0.1)
    rng = np.random.default_rng(0)
    p, outcomes = Beta([1.5], [1.5]), []
    before = share(p)
    assert before < 0.3
    for _ in range(12):
        x = p.sample(rng, N)
        p, step = update(p, x, succeeds(x), epsilon=0.1)
        outcomes.append(step.outcome)
        assert step.kl <= 0.1 * 1.001
        if step.outcome == "retreat":
            assert share(p) > before
        before = share(p)
    assert outcomes[0] == "retreat"
    assert outcomes[-1] == "widen"
    assert 0.47 <= share(p) <= 0.53


def test_no_success_at_all_moves_nothing():
    x = START.sample(np.random.default_rng(0), N)
    p, step = update(START, x, np.zeros(N, bool))
    assert p is START
    assert (step.outcome, step.success, step.expected) == ("retreat", 0.0, 0.0)


def test_the_start_has_its_mode_at_the_nominal():
    """The latency, nominally zero, starts at the end of its range."""
    rule = Doraemon(success=1.0).rule(PENDULUM)
    p = rule.distribution
    assert isinstance(p, Beta)
    np.testing.assert_allclose(p.a + p.b, 200.0)
    mode = p.low + (p.high - p.low) * (p.a - 1) / (p.a + p.b - 2)
    np.testing.assert_allclose(mode, PENDULUM.nominal, atol=1e-12)
    x = p.sample(np.random.default_rng(0), 1000)
    assert ((x >= PENDULUM.low) & (x <= PENDULUM.high)).all()
    centred = Doraemon(success=1.0, ranges={"cart_mass": (0.5, 1.5)}).rule(PENDULUM)
    assert isinstance(centred.distribution, Beta)
    k = PENDULUM.names.index("cart_mass")
    assert centred.distribution.a[k] == centred.distribution.b[k] == 100.0


def test_all_starts_can_widen_to_the_uniform():
    rule = Doraemon(success=0.0, epsilon=1.0).rule(PENDULUM)
    rng = np.random.default_rng(0)
    for _ in range(40):
        x = rule.distribution.sample(rng, rule.batch)
        if rule.observe(x, np.ones(rule.batch)) is None:
            break
    figures = rule.figures()
    assert figures["entropy"] == pytest.approx(0.0, abs=0.01)
    assert figures["success"] == 1.0
    assert figures["width/action_latency"] == pytest.approx(0.9, abs=0.01)
    bounds = rule.summary()["parameters"]["action_latency"]
    assert (bounds["low"], bounds["high"]) == pytest.approx((2.0, 38.0), abs=0.3)


def test_fixed_parameters_stay_fixed():
    k = PENDULUM.names.index("pole_mass")
    rule = Doraemon(success=0.0, ranges={"pole_mass": (1.2, 1.2)}).rule(PENDULUM)
    start = rule.distribution
    assert isinstance(start, Product)
    x = start.sample(np.random.default_rng(0), 300)
    assert (x[:, k] == 1.2).all()
    before = rule.figures()["entropy"]
    moved = rule.observe(x, np.ones(300))
    assert moved is not None
    others = np.arange(PENDULUM.K) != k
    assert (moved.std()[others] >= start.std()[others]).all()
    assert moved.std()[k] == 0
    assert rule.figures()["entropy"] > before
    assert "width/pole_mass" not in rule.figures()
    assert rule.summary()["parameters"]["pole_mass"] == {"low": 1.2, "high": 1.2}


def test_a_rule_waits_moves_and_is_restored():
    config = Doraemon(success=10.0, every=64)
    rule, rng = config.rule(PENDULUM), np.random.default_rng(1)
    x = rule.distribution.sample(rng, 64)
    assert rule.observe(x, np.full(64, 9.9)) is None
    assert rule.observe(x, np.full(64, 10.0)) == rule.distribution
    again = config.rule(PENDULUM)
    again.restore(json.loads(json.dumps(rule.to_dict())))
    assert again.to_dict() == rule.to_dict()
    x = rule.distribution.sample(rng, 64)
    returns = np.where(x[:, 0] < np.median(x[:, 0]), 0.0, 20.0)
    assert again.observe(x, returns) == rule.observe(x, returns)
    assert again.summary() == rule.summary()


def test_states_of_others_are_refused():
    rule = Doraemon(success=1.0).rule(PENDULUM)
    hopper = Doraemon(success=1.0).rule(Robot.load("hopper").space)
    with pytest.raises(InputError, match="over torso_mass"):
        rule.restore(hopper.to_dict())
    with pytest.raises(InputError, match="state of adr"):
        rule.restore({**rule.to_dict(), "method": "adr"})
    with pytest.raises(InputError, match="'reached'"):
        rule.restore({k: v for k, v in rule.to_dict().items() if k != "reached"})
    with pytest.raises(InputError, match="a and b of 6 parameters"):
        rule.restore({**rule.to_dict(), "a": [1.0]})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"alpha": 1.0}, "alpha is 1.0"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"start": 1.0}, "start is 1.0"),
        ({"every": 3}, "every is 3"),
    ],
)
def test_wrong_settings_are_refused(given, says):
    with pytest.raises(InputError, match=says):
        Doraemon(success=1.0, **given)


def test_wrong_ranges_and_shapes_are_refused():
    with pytest.raises(InputError, match="did you mean 'cart_mass'"):
        Doraemon(success=1.0, ranges={"cart_mas": (1.0, 2.0)}).rule(PENDULUM)
    fixed = {name: (1.0, 1.0) for name in PENDULUM.names}
    with pytest.raises(InputError, match="nothing to widen"):
        Doraemon(success=1.0, ranges=fixed).rule(PENDULUM)
    with pytest.raises(InputError, match=r"ξ \(n, 1\)"):
        update(START, np.zeros((4, 2)), np.ones(4, bool))
