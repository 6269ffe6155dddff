import json
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from sim2real.dynamics import distribution as D
from sim2real.types import InputError

COV: Any = np.array([[0.5, 0.3, 0.0], [0.3, 0.4, -0.1], [0.0, -0.1, 0.2]])
ATOMS = np.array([[1.0, 2.0], [3.0, 5.0], [-1.0, 0.5]])

EVERY: dict[str, D.Distribution] = {
    "uniform": D.Uniform([0.5, -1.0], [1.5, 3.0]),
    "loguniform": D.LogUniform([0.1, 2.0], [10.0, 3.0]),
    "normal": D.Normal([1.0, 2.0, -1.0], COV),
    "truncated_normal": D.TruncatedNormal([1.0, 0.0], [0.5, 2.0], [0.5, 1.0], [2.0, 4.0]),
    "beta": D.Beta([2.0, 0.7], [3.0, 1.0], [0.5, -1.0], [1.5, 2.0]),
    "empirical": D.Empirical(ATOMS, [1.0, 2.0, 5.0]),
}
EVERY["product"] = D.Product([EVERY["uniform"], EVERY["normal"], EVERY["beta"]])

SCIPY: dict[str, list[Any]] = {
    "uniform": [stats.uniform(0.5, 1.0), stats.uniform(-1.0, 4.0)],
    "loguniform": [stats.loguniform(0.1, 10.0), stats.loguniform(2.0, 3.0)],
    "normal": [
        stats.norm(m, np.sqrt(v)) for m, v in zip([1.0, 2.0, -1.0], np.diag(COV), strict=True)
    ],
    "truncated_normal": [
        stats.truncnorm(-1.0, 2.0, 1.0, 0.5),
        stats.truncnorm(0.5, 2.0, 0.0, 2.0),
    ],
    "beta": [stats.beta(2.0, 3.0, 0.5, 1.0), stats.beta(0.7, 1.0, -1.0, 3.0)],
}
SCIPY["product"] = SCIPY["uniform"] + SCIPY["normal"] + SCIPY["beta"]

every = pytest.mark.parametrize("kind", EVERY)
continuous = pytest.mark.parametrize("kind", SCIPY)


@continuous
def test_marginals_follow_scipy(kind):
    x = EVERY[kind].sample(np.random.default_rng(0), 4000)
    assert x.shape == (4000, EVERY[kind].dim)
    assert x.dtype == np.float64
    for column, marginal in zip(x.T, SCIPY[kind], strict=True):
        assert stats.kstest(column, marginal.cdf).pvalue > 1e-3


@continuous
def test_moments_equal_scipy(kind):
    np.testing.assert_allclose(EVERY[kind].mean(), [m.mean() for m in SCIPY[kind]], rtol=1e-9)
    np.testing.assert_allclose(EVERY[kind].std(), [m.std() for m in SCIPY[kind]], rtol=1e-9)


@pytest.mark.parametrize("kind", [k for k in SCIPY if k not in ("normal", "product")])
def test_log_prob_equals_scipy_and_is_minus_infinity_outside(kind):
    d = EVERY[kind]
    rng = np.random.default_rng(1)
    x = d.mean() + 3.0 * d.std() * rng.uniform(-1.5, 1.5, (500, d.dim))
    expected = sum(m.logpdf(c) for m, c in zip(SCIPY[kind], x.T, strict=True))
    got = d.log_prob(x)
    assert np.isinf(got).any()
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_log_prob_of_a_normal_equals_scipy():
    x = EVERY["normal"].sample(np.random.default_rng(2), 100)
    expected = stats.multivariate_normal.logpdf(x, [1.0, 2.0, -1.0], COV)
    np.testing.assert_allclose(EVERY["normal"].log_prob(x), expected, rtol=1e-9)


def test_a_normal_keeps_its_correlations():
    x = EVERY["normal"].sample(np.random.default_rng(3), 40_000)
    np.testing.assert_allclose(np.cov(x.T), COV, atol=0.015)


def test_a_truncated_normal_integrates_to_one():
    d = D.TruncatedNormal(0.0, 1.0, 4.0, 6.0)  # far in the tail
    area, _ = integrate.quad(lambda v: float(np.exp(d.log_prob([[v]])[0])), 4.0, 6.0)
    assert area == pytest.approx(1.0, abs=1e-9)
    x = d.sample(np.random.default_rng(4), 1000)
    assert ((x >= 4.0) & (x <= 6.0)).all()


def test_log_prob_of_a_product_is_the_sum_over_its_parts():
    d = EVERY["product"]
    x = d.sample(np.random.default_rng(5), 50)
    parts = [
        EVERY["uniform"].log_prob(x[:, :2]),
        EVERY["normal"].log_prob(x[:, 2:5]),
        EVERY["beta"].log_prob(x[:, 5:]),
    ]
    np.testing.assert_allclose(d.log_prob(x), sum(parts), rtol=1e-12)


def test_an_empirical_distribution_draws_its_atoms_by_weight():
    d = EVERY["empirical"]
    x = d.sample(np.random.default_rng(6), 8000)
    counts = [int(np.all(x == a, axis=1).sum()) for a in ATOMS]
    assert sum(counts) == 8000
    assert stats.chisquare(counts, [1000, 2000, 5000]).pvalue > 1e-3
    np.testing.assert_allclose(np.exp(d.log_prob(ATOMS)), [1 / 8, 2 / 8, 5 / 8])
    assert d.log_prob(np.zeros((1, 2)))[0] == -np.inf
    np.testing.assert_allclose(d.mean(), np.average(ATOMS, axis=0, weights=[1, 2, 5]))
    expanded = np.repeat(ATOMS, [1, 2, 5], axis=0)
    np.testing.assert_allclose(d.std(), expanded.std(0))


@every
def test_a_round_trip_through_json_keeps_every_bit(kind):
    d = EVERY[kind]
    back = D.from_dict(json.loads(json.dumps(d.to_dict())))
    assert back == d
    assert hash(back) == hash(d)
    a, b = (v.sample(np.random.default_rng(7), 5) for v in (d, back))
    assert a.tobytes() == b.tobytes()


@every
def test_distributions_are_immutable_values(kind):
    d = EVERY[kind]
    name, value = next((k, v) for k, v in vars(d).items())
    with pytest.raises(AttributeError):
        setattr(d, name, value)
    if isinstance(value, np.ndarray):
        with pytest.raises(ValueError, match="read-only"):
            value[...] = 0


@every
def test_the_same_seed_gives_the_same_draws(kind):
    a, b = (EVERY[kind].sample(np.random.default_rng(8), 7) for _ in range(2))
    assert a.tobytes() == b.tobytes()


def test_arguments_are_copied():
    low = np.zeros(2)
    d = D.Uniform(low, 1.0)
    low[:] = 9.0
    assert d.low.tolist() == [0.0, 0.0]


def test_a_range_without_width_is_a_point():
    for d in (D.Uniform([1.0, 0.0], [1.0, 2.0]), D.LogUniform([1.0, 1.0], [1.0, np.e])):
        x = d.sample(np.random.default_rng(9), 20)
        assert (x[:, 0] == 1.0).all()
        assert np.isfinite(d.log_prob(x)).all()
        assert d.log_prob(x + np.array([0.1, 0.0])).max() == -np.inf
        assert (d.mean()[0], d.std()[0]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: D.Uniform([0.0, 2.0], [1.0, 1.0]), r"low 2 is above high 1 \(entry 1\)"),
        (lambda: D.Uniform([0.0, np.nan], 1.0), "low must be finite"),
        (lambda: D.Uniform([0.0, 1.0], [1.0, 2.0, 3.0]), "vectors of one length"),
        (lambda: D.Uniform("a", 1.0), "vectors of one length"),
        (lambda: D.LogUniform(0.0, 1.0), "above 0"),
        (lambda: D.Normal([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: D.Normal([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: D.Normal([0.0, 0.0], [[1.0]]), r"\(2, 2\)"),
        (lambda: D.TruncatedNormal(0.0, -1.0, 0.0, 1.0), "scale must be above 0"),
        (lambda: D.Beta(0.0, 1.0), "above 0"),
        (lambda: D.Empirical([1.0, 2.0]), r"\(n, K\)"),
        (lambda: D.Empirical([[1.0], [2.0]], [0.0, 0.0]), "not all zero"),
        (lambda: D.from_dict({"kind": "unifrom"}), "did you mean 'uniform'"),
        (lambda: D.from_dict({"kind": "uniform", "lwo": 1, "high": 2}), "did you mean 'low'"),
        (lambda: D.from_dict({"kind": "uniform", "low": 1}), "high missing"),
        (lambda: D.Uniform(0.0, 1.0).log_prob(np.zeros(3)), r"\(n, 1\)"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()
