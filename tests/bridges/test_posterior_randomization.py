"""What logs said of ξ, drawn from: correlated, within the ranges, and never another robot's."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats

from sim2real import schema
from sim2real.bridges.randomize.posterior import FromPosterior, Smoothed
from sim2real.dynamics.distribution import Empirical, TruncatedNormal
from sim2real.identification.posterior import Posterior, at_the_edge
from sim2real.recipe import read
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

PENDULUM = Robot.load("inverted_pendulum")
SPACE = PENDULUM.space
CART, STRENGTH, LATENCY = (
    SPACE.names.index(n) for n in ("cart_mass", "motor_strength", "action_latency")
)
WIDTH = SPACE.high - SPACE.low


def ridge(seed=0, n=400) -> np.ndarray:
    """(n, K) samples in the middle of the ranges; force and mass are only known by their ratio."""
    rng = np.random.default_rng(seed)
    x = SPACE.low + WIDTH * (0.5 + 0.03 * rng.standard_normal((n, SPACE.K)))
    along = np.clip(rng.standard_normal(n), -2.5, 2.5)
    x[:, CART] = 1.1 + 0.09 * along
    x[:, STRENGTH] = 0.9 + 0.07 * along + 0.003 * rng.standard_normal(n)
    return x


def posterior(samples=None, weights=None, **other) -> Posterior:
    x = ridge() if samples is None else samples
    w = np.full(len(x), 1.0 / len(x)) if weights is None else weights
    given = Posterior(
        env="inverted_pendulum", names=SPACE.names, units=SPACE.units, samples=x, weights=w,
        low=np.array(SPACE.low), high=np.array(SPACE.high), prior_std=WIDTH / np.sqrt(12),
        log_likelihood=-1.0, log_likelihood_nominal=-2.0, gain_error=0.1, windows=10, residual={},
    )  # fmt: skip
    return replace(given, **other)


@pytest.fixture
def written(tmp_path):
    def written(given: Posterior) -> str:
        given.save(tmp_path / "posterior.json")
        return str(tmp_path / "posterior.json")

    return written


def test_the_correlations_are_kept_and_every_variance_grows(written):
    """Covariance = that of the samples + the square of the widening. Control arm: the product of
    the marginals has the right spreads and loses the ridge."""
    weights = np.random.default_rng(1).dirichlet(np.ones(400))
    given = posterior(weights=weights)
    d = FromPosterior(written(given), widen=0.03).distribution(SPACE)
    x = d.sample(np.random.default_rng(2), 100_000)
    expected = given.covariance + np.diag((0.03 * WIDTH) ** 2)
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        np.cov(x.T) / np.outer(scale, scale), expected / np.outer(scale, scale), atol=0.02
    )
    # both marginals carry their own widening, the ridge between them does not
    pair = np.ix_([CART, STRENGTH], [CART, STRENGTH])
    kept = np.corrcoef(x.T)[pair][0, 1]
    truth = expected[pair][0, 1] / (scale[CART] * scale[STRENGTH])
    assert kept == pytest.approx(truth, abs=0.02)
    assert kept > 0.8
    marginals = TruncatedNormal(d.mean(), d.std(), SPACE.low, SPACE.high)
    lost = np.corrcoef(marginals.sample(np.random.default_rng(2), 100_000).T)[pair][0, 1]
    assert abs(lost) < 0.02


def test_no_draw_leaves_the_ranges_and_worlds_take_them(written):
    near = np.clip(ridge() + 0.45 * WIDTH, SPACE.low, SPACE.high)
    config = FromPosterior(written(posterior(near)), widen=0.2, ranges={"pole_mass": (1.1, 1.1)})
    d = config.distribution(SPACE)
    x = d.sample(np.random.default_rng(0), 5000)
    pole = SPACE.names.index("pole_mass")
    assert (x >= SPACE.low).all()
    assert (x <= SPACE.high).all()
    assert (x[:, pole] == 1.1).all()
    assert np.isfinite(d.log_prob(x[:200])).all()
    assert config.bounds(SPACE)["pole_mass"] == (1.1, 1.1)
    worlds = Worlds(PENDULUM, 32, draw=d, threads=1)
    worlds.reset()
    assert ((worlds.xi >= SPACE.low) & (worlds.xi <= SPACE.high)).all()
    assert len(np.unique(worlds.xi[:, CART])) == 32


def test_without_widening_the_samples_themselves_are_drawn(written):
    given = posterior()
    d = FromPosterior(written(given), widen=0.0).distribution(SPACE)
    assert d == Empirical(given.samples, given.weights)


def test_the_density_is_that_of_the_mixture():
    atoms, weights = np.array([[0.1, 1.0], [0.7, 1.5], [1.0, 3.0]]), np.array([0.5, 0.3, 0.2])
    d = Smoothed(atoms, weights, [0.2, 0.5], [0.0, 1.0], [1.0, 3.0])
    total = integrate.dblquad(
        lambda y, x: float(np.exp(d.log_prob([[x, y]]))[0]), 0, 1, 1, 3, epsabs=1e-5
    )[0]
    assert total == pytest.approx(1.0, abs=1e-4)
    x = d.sample(np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(x.mean(axis=0), d.mean(), atol=0.01)
    np.testing.assert_allclose(x.std(axis=0), d.std(), atol=0.01)
    parts: list[Any] = [stats.truncnorm(-c / 0.2, (1 - c) / 0.2, c, 0.2) for c in atoms[:, 0]]

    def cdf(v):
        return sum(w * p.cdf(v) for w, p in zip(weights, parts, strict=True))

    assert stats.kstest(x[:4000, 0], cdf).pvalue > 1e-3
    assert (d.log_prob([[1.01, 2.0], [0.5, 0.9]]) == -np.inf).all()
    pinned = Smoothed(atoms, weights, [0.2, 0.0], [0.0, 1.0], [1.0, 3.0])
    drawn = pinned.sample(np.random.default_rng(0), 100)
    assert set(drawn[:, 1]) == {1.0, 1.5, 3.0}
    expected = np.log(0.3) + parts[1].logpdf(0.6)
    assert pinned.log_prob([[0.6, 1.5]])[0] == pytest.approx(expected)


def test_a_wrong_mixture_is_refused():
    zero, one = [0.0, 0.0], [1.0, 1.0]
    with pytest.raises(InputError, match="between low and high"):
        Smoothed([[0.5, 2.0]], [1.0], [0.1, 0.1], zero, one)
    with pytest.raises(InputError, match="spread must be 1 numbers"):
        Smoothed([[0.5]], [1.0], [0.1, 0.1], zero, one)
    with pytest.raises(InputError, match="none negative"):
        Smoothed([[0.5, 0.5]], [1.0], [0.1, -0.1], zero, one)


def test_a_posterior_at_an_edge_warns_and_says_what_to_do(written, caplog):
    x = ridge()
    x[:, CART] = SPACE.high[CART] - 0.02 * WIDTH[CART] * np.random.default_rng(0).random(len(x))
    with caplog.at_level(logging.WARNING):
        FromPosterior(written(posterior(x))).distribution(SPACE)
    (record,) = caplog.records
    said = record.getMessage()
    assert "100% of the posterior of 'cart_mass' lies at the upper edge of its range, 1.5" in said
    assert said.endswith("widen the range in env.yaml and identify again")


def test_what_is_well_inside_or_uniform_or_at_zero_latency_warns_of_nothing(written, caplog):
    prior = SPACE.prior().sample(np.random.default_rng(0), 2000)
    instant = ridge()
    instant[:, LATENCY] = 0.0
    with caplog.at_level(logging.WARNING):
        for x in (ridge(), prior, instant):
            FromPosterior(written(posterior(x))).distribution(SPACE)
    assert not caplog.records
    slow = ridge()
    slow[:, LATENCY] = 40.0
    assert "'action_latency' lies at the upper edge" in at_the_edge(posterior(slow), SPACE)[0]


def test_the_order_of_the_parameters_is_that_of_the_robot(written):
    given = posterior()
    turned = replace(
        given, names=given.names[::-1], units=given.units[::-1], samples=given.samples[:, ::-1],
        low=given.low[::-1], high=given.high[::-1], prior_std=given.prior_std[::-1],
    )  # fmt: skip
    found = FromPosterior(written(turned)).distribution(SPACE)
    assert found == FromPosterior(written(given)).distribution(SPACE)


def test_the_posterior_of_another_robot_is_refused(written):
    file = written(posterior())
    with pytest.raises(InputError, match=r"of 'inverted_pendulum' and knows nothing of 'torso_m"):
        FromPosterior(file).distribution(Robot.load("hopper").space)
    given = posterior()
    more = replace(
        given, names=(*given.names, "wind"), units=(*given.units, "m/s"),
        samples=np.c_[given.samples, np.zeros(400)], low=np.r_[given.low, 0.0],
        high=np.r_[given.high, 1.0], prior_std=np.r_[given.prior_std, 1.0],
    )  # fmt: skip
    with pytest.raises(InputError, match="with 'wind', which this robot does not have"):
        FromPosterior(written(more)).distribution(SPACE)


def test_a_posterior_outside_the_ranges_is_refused_and_a_part_of_it_kept(written):
    file = written(posterior())
    with pytest.raises(InputError, match="100% of the posterior of 'cart_mass' lies outside"):
        FromPosterior(file, ranges={"cart_mass": (0.7, 0.72)}).distribution(SPACE)
    d = FromPosterior(file, ranges={"cart_mass": (0.7, 1.1)}).distribution(SPACE)
    assert isinstance(d, Smoothed)
    assert 50 < len(d.samples) < 350
    assert (d.sample(np.random.default_rng(0), 1000)[:, CART] <= 1.1).all()


def test_damaged_files_are_refused(tmp_path, written):
    with pytest.raises(InputError, match="`sim2real identify` writes one"):
        FromPosterior(str(tmp_path / "none.json")).distribution(SPACE)
    path = tmp_path / "posterior.json"
    for text in ("", "[1, 2]", "{}", '{"names": 3}', "ξ: no JSON"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"posterior\.json: not a posterior"):
            FromPosterior(str(path)).distribution(SPACE)
    whole = json.loads(Path(written(posterior())).read_text())
    damage = {
        "samples": [row[:-1] for row in whole["samples"]],
        "weights": whole["weights"][:-1],
        "low": [float("nan")] * SPACE.K,
        "high": [],
    }
    for name, value in damage.items():
        path.write_text(json.dumps({**whole, name: value}))
        with pytest.raises(InputError, match="not a posterior"):
            FromPosterior(str(path)).distribution(SPACE)
    path.write_text(json.dumps({**whole, "weights": [1.0] * 400}))
    with pytest.raises(InputError, match="must sum to 1"):
        FromPosterior(str(path)).distribution(SPACE)


def test_wrong_settings_are_refused(written):
    with pytest.raises(InputError, match="file is empty"):
        FromPosterior("")
    with pytest.raises(InputError, match="widen is -1"):
        FromPosterior("posterior.json", widen=-1.0)
    with pytest.raises(InputError, match="did you mean 'cart_mass'"):
        FromPosterior(written(posterior()), ranges={"cart_mas": (1.0, 2.0)}).distribution(SPACE)


@pytest.mark.parametrize("at", ["posterior.json", "from_here.json"])
def test_the_file_is_found_beside_the_recipe_and_from_here_first(at, tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    posterior().save(folder / "posterior.json")
    posterior().save(tmp_path / "from_here.json")
    monkeypatch.chdir(tmp_path)
    words = {
        "description": "d", "env": "inverted_pendulum", "correct": "none", "align": "none",
        "adapt": "none", "steps": 100, "randomize": {"method": "posterior", "file": at},
    }  # fmt: skip
    schema.write(words, folder / "mine.yaml")
    _, found = read(folder / "mine.yaml")
    assert isinstance(found.randomize, FromPosterior)
    expected = folder / at if at == "posterior.json" else Path(at)
    assert Path(found.randomize.file) == expected
    found.randomize.distribution(SPACE)
