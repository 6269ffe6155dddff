"""Δr against the analytic log-ratio of two Gaussian dynamics, and what is refused or warned of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sim2real.bridges.correct.classifiers import (
    AUTHORS,
    Classifiers,
    DomainClassifiers,
    LogOdds,
    Transitions,
    correction,
    count,
    rows,
    warn,
)
from sim2real.types import InputError

NOISE = 0.3
EXACT = Classifiers(noise=0.0, clip=math.inf)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(seed: int, n: int, where: float, gap: float) -> Transitions:
    """s ~ N(where, I); s' = (s1 + a/2, s2 + a·s1/2) + noise, and the gap on s'1 where s1 > 0."""
    rng = np.random.default_rng(seed)
    s, a = rng.normal(where, 1, (n, 2)), rng.uniform(-1, 1, (n, 1))
    after = np.stack([s[:, 0] + a[:, 0] / 2, s[:, 1] + a[:, 0] * s[:, 0] / 2], axis=1)
    after[:, 0] += gap * (s[:, 0] > 0)
    return Transitions(s, a, after + NOISE * rng.standard_normal((n, 2)))


def log_ratio(t: Transitions, gap: float) -> np.ndarray:
    """log N(x; shift, NOISE²) - log N(x; 0, NOISE²), x the first coordinate's innovation."""
    x = t.next_obs[:, 0] - t.obs[:, 0] - t.action[:, 0] / 2
    shift = gap * (t.obs[:, 0] > 0)
    return (x**2 - (x - shift) ** 2) / (2 * NOISE**2)


class Agreement(NamedTuple):
    correlation: float
    slope: float
    largest: float


def agreement(delta: np.ndarray, true: np.ndarray) -> Agreement:
    slope = np.polyfit(true, delta, 1)[0]
    return Agreement(np.corrcoef(delta, true)[0, 1], slope, np.abs(delta).max())


def learned(kind, gap, *, config=EXACT, n=20_000, where=1.0, updates=2000):
    classifiers = kind(2, 1, config, seed=0)
    classifiers.fit(draw(1, 20_000, 0.0, 0.0), draw(2, n, where, gap), updates)
    return classifiers


@pytest.fixture(scope="module")
def right() -> DomainClassifiers:
    return learned(DomainClassifiers, 0.3)


FRESH = draw(3, 5000, 0.0, 0.0)


def test_delta_r_is_the_analytic_log_ratio(right):
    found = agreement(right.delta_r(*FRESH), log_ratio(FRESH, 0.3))
    assert found.correlation >= 0.90
    assert 0.75 <= found.slope <= 1.05


def test_without_the_sa_classifier_it_is_far_below(right):
    """The states of the two domains differ: that is what the second classifier takes out."""
    odds = right.log_odds(*FRESH)
    assert agreement(odds.sas, log_ratio(FRESH, 0.3)).correlation <= 0.45


def test_a_flipped_sign_is_seen(right):
    odds = right.log_odds(*FRESH)
    assert agreement(correction(odds.sa, odds.sas), log_ratio(FRESH, 0.3)).correlation <= -0.90


class SoftmaxTwice(DomainClassifiers):
    """Probabilities where logits belong: the losses and the log-odds take a softmax again."""

    def logits(self, networks, x_sa, x_sas):
        sa, sas = super().logits(networks, x_sa, x_sas)
        return sa.softmax(1), sas.softmax(1)


def test_a_large_gap_is_measured_in_full_and_a_second_softmax_would_cap_it():
    true = log_ratio(FRESH, 1.2)
    found = agreement(learned(DomainClassifiers, 1.2).delta_r(*FRESH), true)
    assert 0.6 <= found.slope <= 1.1
    assert found.largest > 5
    planted = agreement(learned(SoftmaxTwice, 1.2, updates=500).delta_r(*FRESH), true)
    assert planted.largest <= 2
    assert planted.slope < 0.3


def test_early_stopping_and_averaging_pay_where_target_steps_are_few():
    """2,000 of them, by the default, beside classifiers that go on for as long."""
    default = learned(DomainClassifiers, 0.3, config=Classifiers(), n=2000)
    plain = replace(EXACT, patience=0, averaging=0.0, weight_decay=0.0)
    worse = learned(DomainClassifiers, 0.3, config=plain, n=2000)
    true = log_ratio(FRESH, 0.3)
    ours, theirs = (agreement(c.delta_r(*FRESH), true).correlation for c in (default, worse))
    assert ours >= 0.80
    assert theirs <= ours - 0.04


def test_the_held_out_score_says_where_the_domains_differ():
    same = DomainClassifiers(2, 1, seed=0).fit(
        draw(1, 4000, 0.0, 0.0), draw(2, 4000, 0.0, 0.0), 400
    )
    assert same.held_out is not None
    assert abs(same.held_out.auc_sas - 0.5) < 0.08
    assert same.held_out.loss_sas > math.log(2) - 0.02
    moved = DomainClassifiers(2, 1, seed=0).fit(
        draw(1, 4000, 0.0, 0.0), draw(2, 4000, 0.0, 1.2), 400
    )
    assert moved.held_out is not None
    assert abs(moved.held_out.auc_sa - 0.5) < 0.08  # the same states are visited
    assert moved.held_out.auc_sas > 0.7


def test_the_published_constants():
    assert Classifiers(
        hidden=(32,), standardize=False, noise=1.0, clip=math.inf, learning_rate=3e-4,
        weight_decay=0.0, batch=256, averaging=0.0, patience=0,
    ) == AUTHORS  # fmt: skip
    source, target = draw(1, 256, 0.0, 0.0), draw(2, 256, 1.0, 0.3)
    classifiers = DomainClassifiers(2, 1, AUTHORS)
    classifiers.update(source, target)
    np.testing.assert_array_equal(classifiers.mean, 0)  # raw inputs
    np.testing.assert_array_equal(classifiers.scale, 1)
    sizes = [tuple(p.shape) for p in classifiers.newest.parameters()]
    assert sizes == [(32, 3), (32,), (2, 32), (2,), (32, 5), (32,), (2, 32), (2,)]


def test_noise_is_for_learning_only_and_drawn_apart_for_the_two_networks():
    seen = []

    class Spied(DomainClassifiers):
        def logits(self, networks, x_sa, x_sas):
            seen.append((x_sa.clone(), x_sas.clone()))
            return super().logits(networks, x_sa, x_sas)

    t = draw(1, 256, 0.0, 0.0)
    classifiers = Spied(2, 1, AUTHORS)
    classifiers.update(t, t)
    classifiers.delta_r(*t)
    (x_sa, x_sas), (clean_sa, clean_sas) = seen
    raw = torch.from_numpy(np.concatenate(t, axis=1)).float()
    assert torch.equal(clean_sas, raw)
    assert torch.equal(clean_sa, raw[:, :3])
    noise = (x_sa - raw[:, :3].repeat(2, 1)), (x_sas - raw.repeat(2, 1))[:, :3]
    assert abs(float(noise[0].std()) - 1) < 0.1
    assert abs(float(torch.corrcoef(torch.stack([n.flatten() for n in noise]))[0, 1])) < 0.1


def test_delta_r_repeats_and_leaves_the_global_streams_alone(right):
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state()
    small = DomainClassifiers(2, 1, seed=1)
    small.fit(draw(1, 400, 0.0, 0.0), draw(2, 2000, 1.0, 0.3), 20)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.randint(10**6) == 297827  # noqa: NPY002
    again = DomainClassifiers(2, 1, seed=1)
    again.fit(draw(1, 400, 0.0, 0.0), draw(2, 2000, 1.0, 0.3), 20)
    np.testing.assert_array_equal(small.delta_r(*FRESH), again.delta_r(*FRESH))


def test_delta_r_is_bounded():
    odds = LogOdds(np.array([30.0, -30.0, 1.0]), np.zeros(3))
    np.testing.assert_array_equal(correction(*odds, 10.0), [10, -10, 1])
    np.testing.assert_array_equal(correction(*odds), [30, -30, 1])


def test_running_statistics_are_those_of_all_batches():
    classifiers = DomainClassifiers(2, 1)
    seen = []
    for seed in range(5):
        source, target = draw(seed, 64, 0.0, 0.0), draw(seed + 9, 64, 3.0, 0.3)
        classifiers.update(source, target)
        seen += [np.concatenate([t.obs, t.action, t.next_obs - t.obs], 1) for t in (source, target)]
    everything = np.concatenate(seen)
    np.testing.assert_allclose(classifiers.mean, everything.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(1 / classifiers.scale, everything.std(0), rtol=1e-4)


@pytest.mark.parametrize("n", [1, 179, 180, 181, 200, 399, 1000])
def test_every_row_is_held_out_or_learned_from(n):
    both = [rows(np.arange(count(n, held_out=h)), held_out=h) for h in (False, True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(both)), np.arange(n))


# --- what is refused, and what is warned of


def with_(t: Transitions, **changes) -> Transitions:
    return t._replace(**changes)


def test_too_few_transitions():
    t, few = draw(1, 1000, 0.0, 0.0), draw(2, 199, 0.0, 0.0)
    with pytest.raises(InputError, match="199 target transitions; the classifiers need at least 2"):
        DomainClassifiers(2, 1).fit(t, few)
    with pytest.raises(InputError, match="199 source transitions"):
        DomainClassifiers(2, 1).fit(few, t)


def test_a_nan_is_named_and_nothing_is_lost():
    t = draw(1, 1000, 0.0, 0.0)
    wrong = t.next_obs.copy()
    wrong[7, 1] = np.nan
    said = "target transition 7: next observation channel 1 is nan"
    with pytest.raises(InputError, match=said):
        DomainClassifiers(2, 1).fit(t, with_(t, next_obs=wrong))
    classifiers = DomainClassifiers(2, 1)
    classifiers.update(t, t)
    before = {k: v.clone() for k, v in classifiers.state_dict().items()}
    with pytest.raises(InputError, match=said):
        classifiers.update(t, with_(t, next_obs=wrong))
    assert all(torch.equal(v, before[k]) for k, v in classifiers.state_dict().items())


def test_sizes_that_do_not_fit():
    t = draw(1, 1000, 0.0, 0.0)
    with pytest.raises(InputError, match=r"must be \(N, 3\), \(N, 1\), \(N, 3\)"):
        DomainClassifiers(3, 1).fit(t, t)
    with pytest.raises(InputError, match="give as many each"):
        DomainClassifiers(2, 1).update(t, draw(1, 999, 0.0, 0.0))


def test_constant_channels_and_few_steps_are_warned_of(caplog):
    t, u = draw(1, 1000, 0.0, 0.0), draw(2, 1000, 0.0, 0.3)
    still = [with_(x, obs=np.c_[x.obs, np.full(1000, 3.0)]) for x in (t, u)]
    still = [with_(x, next_obs=np.c_[x.next_obs, np.full(1000, 3.0)]) for x in still]
    classifiers = DomainClassifiers(3, 1)
    classifiers.fit(*still, updates=5)
    assert not caplog.records  # who gives the transitions may know it
    warn(still[0], still[1], 1000)
    assert "observation channels [2] never change: the classifiers learn nothing" in caplog.text
    assert "1000 target steps: Δr will scatter" in caplog.text
    assert np.isfinite(classifiers.delta_r(*still[0])).all()
    caplog.clear()
    shifted = with_(still[1], obs=np.c_[u.obs, np.full(1000, 4.0)])
    warn(still[0], shifted, 1000)
    assert "channels [2] never change but differ" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hidden": ()}, "hidden is"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"noise": math.nan}, "noise is nan"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"batch": 0}, "batch is 0"),
        ({"averaging": 1.0}, "averaging is 1.0"),
    ],
)
def test_settings_that_mean_nothing(settings, said):
    with pytest.raises(InputError, match=said):
        Classifiers(**settings)
