"""A straight line with normal noise has a posterior in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sim2real.identification.linearization import (
    Information,
    Line,
    Normal,
    _curvature,
    conditioned,
    design,
    information,
    regressed,
    robust,
    within,
)

K, M = 3, 400
LOW, HIGH = np.array([0.0, -1.0, 2.0]), np.array([1.0, 1.0, 4.0])
PRIOR = Normal((LOW + HIGH) / 2, np.diag((HIGH - LOW) ** 2 / 12))


def problem(seed, size=1.0, together=1):
    """r(ξ) = e + J·(ξ - truth) with e ~ N(0, size²), equal in runs of `together`."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(LOW, HIGH)
    slope = rng.standard_normal((K, M)) * np.array([[1.0], [2.0], [0.5]])
    slope = np.repeat(slope[:, ::together], together, axis=1)[:, :M]
    noise = np.repeat(size * rng.standard_normal(M)[::together], together)[:M]

    def surprise(xi):
        return noise + (np.atleast_2d(xi) - truth) @ slope

    return truth, slope, noise, surprise


def pairs(seed=0, n=40):
    return design(PRIOR, LOW, HIGH, n, np.random.default_rng(seed))


def line(surprise, seed=0, n=40):
    tried = pairs(seed, n)
    return regressed(tried, surprise(tried.xi), np.random.default_rng(1))


def test_candidates_lie_in_pairs_as_wide_as_what_is_believed():
    root = np.array([[0.1, 0.0, 0.0], [0.1, 0.2, 0.0], [0.0, -0.1, 0.3]])
    belief = Normal(np.array([0.5, 0.1, 3.0]), 0.1 * root @ root.T)
    tried = design(belief, LOW, HIGH, 60, np.random.default_rng(0))
    assert tried.xi.shape == (60, K)
    np.testing.assert_allclose(tried.xi.mean(axis=0), belief.mean, atol=1e-12)
    np.testing.assert_allclose(np.cov(tried.xi.T, bias=True), belief.covariance, atol=1e-12)
    assert (tried.xi > LOW).all()
    assert (tried.xi < HIGH).all()


def test_candidates_stay_in_the_ranges_and_a_point_stays_one():
    low, high = LOW.copy(), HIGH.copy()
    low[1] = high[1] = 0.3
    belief = Normal(np.array([0.99, 0.3, 2.0]), np.diag([0.2, 1e-18, 0.01]))
    tried = design(belief, low, high, 60, np.random.default_rng(0))
    assert (tried.xi >= low - 1e-12).all()
    assert (tried.xi <= high + 1e-12).all()
    assert (tried.xi[:, 1] == 0.3).all()
    # as far as there is room on both sides of a center that is a third of a deviation inside
    np.testing.assert_allclose(tried.center[0], 1 - 0.2**0.5 / 3)
    np.testing.assert_allclose(np.ptp(tried.xi[:, 0]), 2 * 0.2**0.5 / 3)


def test_at_the_end_of_a_range_the_center_stays_on_the_ridge():
    """What one parameter cannot be, the one that it is correlated with makes up for."""
    sd = np.array([0.1, 0.2, 0.1])
    correlation = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    belief = Normal(np.array([1.05, 0.0, 3.0]), correlation * np.outer(sd, sd))
    tried = design(belief, LOW, HIGH, 60, np.random.default_rng(0))
    moved = tried.center - belief.mean
    np.testing.assert_allclose(moved[0], -0.05 - sd[0] / 3)
    np.testing.assert_allclose(moved[1], moved[0] * 0.9 * sd[1] / sd[0], rtol=1e-6)
    np.testing.assert_allclose(moved[2], 0.0, atol=1e-9)
    assert (tried.xi >= LOW - 1e-12).all()
    assert (tried.xi <= HIGH + 1e-12).all()


@pytest.mark.parametrize("mean", [PRIOR.mean, np.array([0.99, 1.0, 2.5])])
def test_what_is_curved_stays_out_of_the_slopes_and_of_the_value_at_the_center(mean):
    """Also where pairs were drawn in, at the ends of two ranges."""
    _, slope, _, surprise = problem(4)
    rng = np.random.default_rng(0)
    curved = rng.standard_normal((K, K, M))
    belief = Normal(mean, PRIOR.covariance / 9)
    tried = design(belief, LOW, HIGH, 40, rng)

    def bent(xi):
        away = xi - tried.center
        return surprise(xi) + np.einsum("ni,nj,ijm->nm", away, away, curved)

    found = regressed(tried, bent(tried.xi), rng)
    np.testing.assert_allclose(found.slope, slope, atol=1e-9)
    np.testing.assert_allclose(found.value, surprise(tried.center)[0], atol=1e-9)
    at = rng.multivariate_normal(belief.mean, belief.covariance, 40)  # the control arm: anywhere
    r = bent(at)
    plain = np.linalg.lstsq(at - at.mean(axis=0), r - r.mean(axis=0), rcond=None)[0]
    assert np.abs(plain - slope).max() > 0.1


@pytest.mark.parametrize("seed", range(20))
def test_the_value_at_the_end_of_the_only_range_is_as_sharp_as_elsewhere(seed):
    """Where all pairs are drawn in to the same distance, near ones stay nearer than far ones."""
    rng = np.random.default_rng(seed)
    values = []
    for mean in (0.0, 0.5):
        belief = Normal(np.array([mean]), np.array([[0.29**2]]))
        tried = design(belief, np.zeros(1), np.ones(1), 48, rng)
        r = 0.1 * rng.standard_normal((len(tried.xi), 500))
        values.append(np.sqrt(np.square(regressed(tried, r, rng).value).mean()))
    assert values[0] < 0.05
    assert values[0] < 1.5 * values[1]


def test_a_line_is_found_and_nothing_is_left():
    truth, slope, noise, surprise = problem(0)
    found = line(surprise)
    np.testing.assert_allclose(found.slope, slope, atol=1e-10)
    np.testing.assert_allclose(found.at(truth), noise, atol=1e-10)
    np.testing.assert_allclose(found.left, 0, atol=1e-20)


def test_what_is_no_line_is_left_over_as_its_variance():
    rng = np.random.default_rng(0)
    tried = pairs(n=4_000)
    r = tried.xi[:, :1] + 0.3 * rng.standard_normal((len(tried.xi), 5))
    np.testing.assert_allclose(regressed(tried, r, rng).left, 0.09, rtol=0.1)


def test_a_candidate_that_went_astray_is_left_out():
    _, slope, _, surprise = problem(3)
    rng = np.random.default_rng(0)
    tried = pairs()
    r = surprise(tried.xi)
    r = r + 0.01 * rng.standard_normal(r.shape)
    astray = r.copy()
    astray[[3, 17]] += 20 * rng.standard_normal((2, M))
    got, right = (regressed(tried, x, rng) for x in (astray, r))
    np.testing.assert_allclose(got.slope, slope, atol=0.05)
    np.testing.assert_allclose(got.slope, right.slope, atol=0.05)
    assert got.left.max() < 0.01


def test_no_direction_is_lost_where_a_pair_went_astray_and_there_are_no_more_than_parameters():
    """Left out with its near pair, nothing would be known of it."""
    size, rng = 12, np.random.default_rng(0)
    low, high = np.zeros(size), np.ones(size)
    spread = np.geomspace(1e-3, 0.2, size)
    turn = np.linalg.qr(rng.standard_normal((size, size))).Q
    belief = Normal(np.full(size, 0.5), (turn * spread**2) @ turn.T / 30)
    tried = design(belief, low, high, 48, rng)
    assert len(tried.away) == size
    slope = turn @ np.diag(1 / spread) @ rng.standard_normal((size, M))
    r = (tried.xi - 0.5) @ slope + 1e-3 * rng.standard_normal((4 * size, M))
    bent = r.copy()
    bent[3] += 3 * rng.standard_normal(M)  # far, on one side
    for said in (r, bent):
        found = regressed(tried, said, np.random.default_rng(1))
        error = np.linalg.norm(turn.T @ (found.slope - slope), axis=1)
        assert (error < 0.2 * np.linalg.norm(turn.T @ slope, axis=1)).all()


@pytest.mark.parametrize("told", [[], [1]])
def test_chance_in_the_slopes_is_no_information(told):
    """Rough surprises on which ξ has no influence at all, and on which one of three has."""
    shares = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        tried = design(PRIOR, LOW, HIGH, 36, rng)
        xi = tried.xi
        rough = np.repeat(rng.standard_normal((len(xi), 50)), 100, axis=1)  # alike in runs of 100
        r = rng.standard_normal((1, 5_000)) + 0.5 * rough
        for k in told:
            r += 0.3 * xi[:, k : k + 1] * rng.standard_normal((1, 5_000))
        std = np.sqrt(np.diag(conditioned(regressed(tried, r, rng), PRIOR).covariance))
        shares.append(std / np.sqrt(np.diag(PRIOR.covariance)))
        x, y = xi - xi.mean(axis=0), r - r.mean(axis=0)  # the control arm: least squares as it is
        slope = np.linalg.lstsq(x, y, rcond=None)[0]
        plain = np.linalg.inv(np.linalg.inv(PRIOR.covariance) + slope @ slope.T / 1.25)
        assert (np.sqrt(np.diag(plain) / np.diag(PRIOR.covariance)) < 0.4).all()
    share = np.array(shares)
    untold = [k for k in range(K) if k not in told]
    assert (share[:, told] < 0.2).all()
    assert share[:, untold].mean() > 0.85
    assert share[:, untold].min() > 0.4


def test_the_posterior_is_that_of_bayesian_regression():
    """Information form against the textbook's covariance form (Bishop 2006, eq. 2.113)."""
    truth, slope, noise, surprise = problem(1)
    got = conditioned(line(surprise), PRIOR)
    J, m, C = slope.T, PRIOR.mean, PRIOR.covariance
    target = -(noise - truth @ slope)  # r = J·ξ - target
    gain = C @ J.T @ np.linalg.inv(J @ C @ J.T + np.eye(M))
    np.testing.assert_allclose(got.mean, m + gain @ (target - J @ m), atol=1e-8)
    np.testing.assert_allclose(got.covariance, C - gain @ J @ C, atol=1e-8)


def test_without_a_slope_the_prior_stays():
    found = line(lambda xi: np.zeros((len(xi), M)))
    said = robust(found, PRIOR, np.arange(M) // 20)
    for posterior in (conditioned(found, PRIOR), said.with_prior(PRIOR)):
        np.testing.assert_allclose(posterior.mean, PRIOR.mean)
        np.testing.assert_allclose(posterior.covariance, PRIOR.covariance, atol=1e-12)


@pytest.mark.parametrize(("size", "together"), [(1.0, 1), (2.0, 1), (1.0, 5)])
def test_the_robust_spread_covers_where_the_plain_one_claims_too_much(size, together):
    """Errors twice as large as stated, or the same five times over: the plain posterior is too
    narrow by 2 and by √5, which is the control arm."""
    inside = {"robust": 0, "plain": 0}
    trials = 150
    for seed in range(trials):
        truth, _, _, surprise = problem(seed, size, together)
        found = line(surprise)
        posteriors = {
            "robust": robust(found, PRIOR, np.arange(M) // 10).with_prior(PRIOR),
            "plain": conditioned(found, PRIOR),
        }
        for name, p in posteriors.items():
            z = np.abs(p.mean - truth) / np.sqrt(np.diag(p.covariance))
            inside[name] += int((z < stats.norm.ppf(0.95)).sum())
    share = {name: count / (K * trials) for name, count in inside.items()}
    assert 0.85 <= share["robust"] <= 0.95
    if (size, together) == (1.0, 1):
        assert 0.85 <= share["plain"] <= 0.95
    else:
        assert share["plain"] <= 0.75


def test_few_windows_of_many_parameters_cover_what_they_claim():
    """Twelve windows that surprises share, eight parameters. The control arm takes every surprise
    for one of its own."""
    n, M, W, trials = 8, 240, 12, 120
    prior = Normal(np.zeros(n), np.eye(n))
    windows = np.arange(M) // (M // W)
    inside = {"robust": 0, "plain": 0}
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        slope = 3 * rng.standard_normal((n, W))[:, windows] * rng.uniform(0.5, 1.5, (n, M))
        truth = 0.2 * rng.standard_normal(n)
        noise = (rng.standard_normal(M) + rng.standard_normal(W)[windows]) / 2**0.5
        said = Line(truth, noise, slope, np.zeros(M))
        posteriors = {
            "robust": robust(said, prior, windows).with_prior(prior),
            "plain": conditioned(said, prior),
        }
        for name, p in posteriors.items():
            z = np.abs(p.mean - truth) / np.sqrt(np.diag(p.covariance))
            inside[name] += int((z < stats.norm.ppf(0.95)).sum())
    share = {name: count / (n * trials) for name, count in inside.items()}
    print(share)
    assert 0.8 <= share["robust"] <= 0.95
    assert share["plain"] <= 0.6


def test_one_window_or_nothing_free_is_no_error():
    _, _, _, surprise = problem(7)
    found = line(surprise)
    alone = robust(found, PRIOR, np.zeros(M, int)).with_prior(PRIOR)
    assert (np.diag(alone.covariance) > np.diag(conditioned(found, PRIOR).covariance)).all()
    fixed = Normal(PRIOR.mean, np.full((K, K), 0.0) + 1e-18 * np.eye(K))
    none = Line(PRIOR.mean, found.value, 0 * found.slope, found.left)
    got = robust(none, fixed, np.arange(M) // 10).with_prior(fixed)
    np.testing.assert_allclose(got.mean, PRIOR.mean)


def test_deviations_that_surprises_have_in_common_are_a_covariance():
    """Against the inverse of all of it."""
    rng = np.random.default_rng(0)
    said = Line(np.zeros(K), rng.standard_normal(M), rng.standard_normal((K, M)), np.full(M, 0.3))
    together = rng.standard_normal((5, M))
    got = information(said, together=together)
    inverse = np.linalg.inv(np.diag(1 + said.left) + together.T @ together)
    np.testing.assert_allclose(got.precision, said.slope @ inverse @ said.slope.T, atol=1e-8)
    np.testing.assert_allclose(got.pull, -said.slope @ inverse @ said.value, atol=1e-8)


@pytest.mark.parametrize("known", [1.0, 0.2])
def test_what_is_curved_is_noise_by_as_much_as_is_known(known):
    """½ dᵀ A d over the posterior, which another log may have made narrower, against chance. Seen
    by candidates that lie in its shape."""
    rng = np.random.default_rng(1)
    prior = Normal(np.zeros(K), np.eye(K))
    curved = rng.standard_normal((K, K, M)) / 3
    curved = curved + curved.swapaxes(0, 1)
    tried = design(prior, np.full(K, -50.0), np.full(K, 50.0), 4000, rng)
    r = 0.5 * np.einsum("ni,nj,ijm->nm", tried.xi, tried.xi, curved)
    found = regressed(tried, r, rng)
    normal = Normal(np.zeros(K), known**2 * np.eye(K))
    shared = _curvature(found, normal)
    d = known * rng.standard_normal((200_000, K))
    some = slice(0, 40)
    bent = 0.5 * np.einsum("ni,nj,ijm->nm", d, d, curved[..., some])
    right = bent.T @ bent / len(d)
    got = (shared.T @ shared)[some, some]
    scale = np.sqrt(np.outer(np.diag(right), np.diag(right)))
    np.testing.assert_allclose(got / scale, right / scale, atol=0.2)


def test_a_curve_widens_what_is_sharp_across_it():
    """A straight valley's width is that of the noise; along a curve that goes up to ten times as
    far aside it is more, and less so where another log said where on the curve ξ is."""
    x = np.linspace(0.5, 1.5, M)
    sharp, weak = np.array([0.0, 20.0]), np.array([0.1, 0.0])
    slope = np.outer(sharp, x) + np.outer(weak, np.sin(9 * x))
    prior = Normal(np.zeros(2), np.eye(2))
    away = np.array([[1.0, 0.0], [0.0, 1.0]]) * 2**0.5
    flat = Line(np.zeros(2), np.zeros(M), slope, np.zeros(M))
    bent = flat._replace(bent=np.stack([10 * x, 0 * x]) * 2, away=away)
    windows = np.arange(M) // 10
    told = Normal(np.zeros(2), np.diag([0.01, 1.0]))
    widths = [
        np.diag(robust(line_, prior, windows, known).with_prior(prior).covariance)[1] ** 0.5
        for line_, known in ((flat, None), (bent, told), (bent, None))
    ]
    assert widths[0] < 1.2 * widths[1]
    assert widths[1] < widths[2] / 3


def test_what_is_made_wider_keeps_its_summit():
    """Also in a direction that the log hardly tells, where a posterior is led by its prior. Errors
    are three times as large as stated."""
    _, _, _, surprise = problem(6, 3.0)
    found = line(surprise)
    weak = found._replace(slope=found.slope * np.array([[1e-3], [1.0], [1.0]]))
    windows = np.arange(M) // 10
    plain, wide = information(weak), robust(weak, PRIOR, windows)
    summits = [x.center + np.linalg.solve(x.precision, x.pull) for x in (plain, wide)]
    np.testing.assert_allclose(summits[0], summits[1], rtol=1e-6)
    assert np.linalg.eigvalsh(plain.precision / 4 - wide.precision).min() > -1e-6


def test_what_is_fixed_takes_no_freedom():
    _, _, _, surprise = problem(7)
    found = line(surprise)
    more = found._replace(
        center=np.append(found.center, np.ones(6)),
        slope=np.concatenate([found.slope, np.zeros((6, M))]),
    )
    prior = Normal(more.center, np.diag(np.append(np.diag(PRIOR.covariance), np.full(6, 1e-18))))
    prior.mean[:K] = PRIOR.mean
    windows = np.arange(M) // 40  # ten of them
    alone, beside = robust(found, PRIOR, windows), robust(more, prior, windows)
    np.testing.assert_allclose(beside.precision[:K, :K], alone.precision, rtol=1e-6)


def test_parameters_of_any_unit_are_found():
    rng = np.random.default_rng(0)
    unit = np.array([1e3, 1.0, 1e-8])
    tried = pairs()
    other = tried._replace(center=tried.center * unit, away=tried.away * unit)
    _, slope, _, surprise = problem(8)
    found = regressed(other, surprise(tried.xi), rng)
    np.testing.assert_allclose(found.slope * unit[:, None], slope, atol=1e-8)


def test_only_what_is_used_counts():
    _, _, _, surprise = problem(2)
    found = line(surprise)
    half = np.arange(M) < M // 2
    got = conditioned(found, PRIOR, half)
    alone = found._replace(
        value=found.value[half], slope=found.slope[:, half], left=found.left[half]
    )
    np.testing.assert_allclose(got.mean, conditioned(alone, PRIOR).mean)


def test_draws_in_the_box_are_the_normal_cut_at_its_sides():
    rng = np.random.default_rng(0)
    known = np.linalg.inv(np.array([[0.05, 0.04, 0.0], [0.04, 0.05, 0.0], [0.0, 0.0, 0.02]]))
    mean = np.array([1.05, 0.9, 2.2])  # beyond one side, near two others
    center = np.array([0.5, 0.0, 3.0])
    said = Information(center, known, known @ (mean - center))
    got = within(said, PRIOR, LOW, HIGH, 20_000, rng)
    assert ((got >= LOW) & (got <= HIGH)).all()
    free = rng.multivariate_normal(mean, np.linalg.inv(known), 400_000)
    free = free[((free >= LOW) & (free <= HIGH)).all(axis=1)]
    np.testing.assert_allclose(got.mean(axis=0), free.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(np.cov(got.T), np.cov(free.T), atol=0.002)


def test_draws_of_what_nothing_is_known_of_fill_the_range():
    nothing = Information(LOW, np.zeros((K, K)), np.zeros(K))
    got = within(nothing, PRIOR, LOW, HIGH, 4_000, np.random.default_rng(0))
    for k in range(K):
        assert stats.kstest((got[:, k] - LOW[k]) / (HIGH[k] - LOW[k]), "uniform").pvalue > 0.01


def test_a_range_of_one_point_stays_there():
    low, high = LOW.copy(), HIGH.copy()
    low[1] = high[1] = 0.3
    prior = Normal((low + high) / 2, np.diag([1 / 12, 1e-18, 4 / 12]))
    nothing = Information(low, np.zeros((K, K)), np.zeros(K))
    got = within(nothing, prior, low, high, 100, np.random.default_rng(0))
    np.testing.assert_array_equal(got[:, 1], 0.3)
    assert np.ptp(got[:, 0]) > 0.5


def test_draws_reach_the_ends_of_a_ridge_across_the_box():
    """Of five parameters the log tells only what they are to each other. The draws then lie from
    one corner to the other; those of a sampler that moves along one parameter after another stay
    where they began, in the middle."""
    size, narrow = 5, 0.01
    along = np.ones(size) / size**0.5
    across = (np.eye(size) - np.outer(along, along)) / narrow**2
    low, high = np.array([0.0, 1.0, -3.0, 10.0, 0.0]), np.array([1.0, 2.0, 3.0, 11.0, 1e-3])
    unit = high - low
    said = Information(low + unit / 2, across / np.outer(unit, unit), np.zeros(size))
    prior = Normal(low + unit / 2, np.diag(unit**2 / 12))
    got = (within(said, prior, low, high, 4_000, np.random.default_rng(0)) - low) / unit
    assert ((got >= 0) & (got <= 1)).all()
    np.testing.assert_allclose(got.std(axis=0), 12**-0.5, rtol=0.04)
    assert (got - got.mean(axis=1, keepdims=True)).std() == pytest.approx(
        narrow * (1 - 1 / size) ** 0.5, rel=0.05
    )
