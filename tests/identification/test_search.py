"""How the search of `fit` goes down in drift, and which part of a log it begins with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim2real import progress
from sim2real.identification.axes import Axes
from sim2real.identification.fit import LOCAL, NATS, WIDE, _At, _Found, _Search
from sim2real.identification.linearization import Normal, conditioned
from sim2real.identification.tracking import LEAST_DRIFT, Supposed, Track, _huber
from sim2real.identification.trajectories import LEAST_PART, part
from sim2real.identification.windows import Trajectory

BELIEF = Normal(np.zeros(1), np.eye(1))


def searched(rounds, says):
    """What `descended` returns and which drifts it tried, where `says` (drift, visit) gives the
    size of the posterior, the log-likelihood, whether ξ is settled, and what was not foreseen."""
    tried: list[float] = []

    class Told(_Search):
        def stepped(self, tracker, at):
            drift = at.supposed.drift
            tried.append(round(drift, 4))
            size, likely, settled, *more = says(drift, tried.count(round(drift, 4)))
            none, innovation = np.zeros(0), np.full((1, 10, 1), *more or [1.0])
            track = Track(at.supposed, none, none, innovation, likely)
            line: Any = None
            return _Found(
                _At(BELIEF, at.supposed, None, at.round + 1),
                line,
                track,
                np.zeros(0),
                size,
                settled,
            )

    axes, rng = Axes.of(-np.ones(1), np.ones(1)), np.random.default_rng(0)
    search = Told(0, axes, BELIEF, rng, progress.silent, LOCAL)
    begin = _At(BELIEF, Supposed(1.0, np.ones(1)), None, 0)
    tracker: Any = None
    return search.descended(tracker, begin, rounds), tried


def test_drift_falls_as_long_as_more_is_known_and_then_xi_settles():
    found, tried = searched(20, lambda drift, visit: (np.log(drift), 0.0, visit > 1))
    assert tried[:5] == [1.0, 0.4, 0.16, 0.064, 0.0256]
    assert found.drift == LEAST_DRIFT
    assert found.settled
    assert len(tried) < 10


def test_a_step_that_was_sure_and_wrong_gives_way_to_those_that_explain_the_log():
    """The first one's spread is the narrowest, far from ξ, where the line is curved."""

    def says(drift, visit):
        first = drift == 1.0 and visit == 1
        return (-2.0, -100.0, False) if first else (-1.0 + 0.1 * np.log(drift), 0.0, visit > 1)

    found, tried = searched(20, says)
    assert tried[:3] == [1.0, 0.4, 0.16]
    assert found.drift == LEAST_DRIFT
    assert found.track.log_likelihood == 0.0


def test_it_goes_on_as_long_as_the_log_becomes_likelier():
    """A step is taken from where one was: what it led to, only the next one tells."""

    def says(drift, visit):
        return (0.0, min(100.0 * visit, 400.0), True) if drift == 1.0 else (1.0, 0.0, True)

    _, tried = searched(20, says)
    assert tried.count(1.0) == 5


def test_where_less_drift_tells_less_it_goes_back_and_stays():
    sizes = {1.0: 0.0, 0.4: -0.5, 0.16: -1.0, 0.064: -0.2}
    found, tried = searched(20, lambda d, visit: (sizes[round(d, 4)], 0.0, visit > 1))
    assert found.drift == pytest.approx(0.16)
    assert tried.count(0.064) == 1
    assert 0.0256 not in tried


def test_after_a_step_back_the_log_is_no_likelier_than_where_it_went_back_to():
    """And not than the step that failed, above which anything rises."""
    says = {1.0: (0.0, 0.0, True), 0.4: (1.0, -1000.0, True)}
    _, tried = searched(20, lambda drift, visit: says[round(drift, 4)])
    assert tried == [1.0, 0.4, 1.0]


def test_what_only_seemed_known_where_little_was_foreseen_does_not_hold_it_up():
    """The first linearisation was far off, and sure."""

    def says(drift, visit, foreseen=True):
        size = -3.0 if drift == 1.0 else -1.0 + np.log(drift)
        return size, 0.0, visit > 1, 10.0 if foreseen and drift == 1.0 else 1.0

    found, tried = searched(20, says)
    assert found.drift == LEAST_DRIFT
    assert tried.count(1.0) == 1
    stuck, _ = searched(20, lambda d, visit: says(d, visit, foreseen=False))  # the control arm
    assert stuck.drift == 1.0


def test_under_the_same_drift_a_log_that_became_much_less_likely_is_no_progress():
    def says(drift, visit):
        return -0.03 * visit, -100.0 * (visit > 3), False

    found, _ = searched(8, lambda d, visit: says(d, visit) if d == LEAST_DRIFT else (d, 0.0, False))
    assert found.track.log_likelihood == 0.0


def test_drift_that_makes_the_log_less_likely_is_refused_even_in_the_last_round():
    def says(drift, visit):
        return np.log(drift), -10 * NATS if drift < 0.3 else 0.0, True

    for rounds in (3, 20):
        found, tried = searched(rounds, says)
        assert 0.16 in tried
        assert found.drift == pytest.approx(0.4)


def test_single_contacts_count_linearly():
    np.testing.assert_allclose(_huber(np.array([0.0, -1.0, 2.0, -8.0])), [0, 0.5, 2, 2 * 7])


def episode(n, value=0.0):
    return Trajectory({"x": np.full((n + 1, 1), value)}, np.zeros((n, 1)))


def test_a_part_is_whole_episodes_the_longest_first():
    logs = [episode(n, n) for n in (100, 300, 200, 8)]
    some = part(logs, 1000)
    assert [len(e.command) for e in some] == [150]  # a quarter of 600
    assert some[0].obs["x"][0, 0] == 300
    assert len(some[0].obs["x"]) == 151
    many = part([episode(100, i) for i in range(8)], 1000)
    assert [len(e.command) for e in many] == [100, 100]
    assert [e.obs["x"][0, 0] for e in many] == [0, 1]


def test_a_part_is_no_less_than_can_be_followed_and_no_more_than_is():
    assert [len(e.command) for e in part([episode(40)], 1000)] == [40]
    assert [len(e.command) for e in part([episode(500)], 100)] == [LEAST_PART]


class Valley:
    """A log that tells well what two parameters are to each other, along a curve, and hardly where
    they are on it; with contacts, where `rough`, that come to every candidate in its own way."""

    truth = np.array([0.3, 0.35])

    def __init__(self, rough=0.0):
        self.rough, self._rng = rough, np.random.default_rng(3)
        self.noise = self._rng.standard_normal(8)

    def follow(self, xi, supposed):
        r = self.surprise(xi[None], None)[0]
        root, likely = np.ones((*r.shape, 1)), -0.5 * float(np.square(r).sum())
        return [Track(s, np.zeros(0), root, r, likely) for s in supposed]

    def surprise(self, xi, track):
        contacts = self.rough * self._rng.standard_normal((len(xi), 8))
        return (self.noise + self.said(xi) - self.said(self.truth) + contacts)[:, None, :, None]

    def said(self, xi):
        x, y = np.atleast_2d(xi).T[:, :, None]
        well = 30 * (y - 0.3 * np.sin(3 * x)) * np.linspace(0.5, 1.5, 8)
        return well + 5 * x * np.linspace(-1.0, 1.0, 8)


@pytest.mark.parametrize("rough", [0.0, 1.0])
@pytest.mark.parametrize("local", [True, False])
def test_what_is_near_counts_alone_where_logs_are_smooth(rough, local):
    """Then the posterior has the curvature of the valley's bottom. Candidates that are always wide
    over it, as rough logs need them, average what is farther away: the control arm."""
    ends = np.ones(2)
    prior = Normal(np.zeros(2), np.diag(ends**2 / 3))
    axes, rng = Axes.of(-ends, ends), np.random.default_rng(0)
    search = _Search(48, axes, prior, rng, progress.silent, LOCAL if local else WIDE)
    valley: Any = Valley(rough)
    at = _At(prior, Supposed(LEAST_DRIFT, np.ones(1)), None, 0)
    found = search.stepped(valley, at)
    for _ in range(7):
        at = found.at._replace(shown=None)
        found = search.stepped(valley, at)
    at = found.at
    posterior = conditioned(found.line, prior)
    wide = np.sqrt(np.diag(at.belief.covariance) / np.diag(posterior.covariance))
    if rough and local:
        assert (wide > 2 * LOCAL).all()
    else:
        np.testing.assert_allclose(wide, LOCAL if local else WIDE, rtol=1e-6)
    if not rough:
        x = found.line.center
        slope = np.array([valley.said(x + d) - valley.said(x - d) for d in 1e-6 * np.eye(2)])[:, 0]
        exact = np.linalg.inv(slope @ slope.T / 4e-12 + np.linalg.inv(prior.covariance))
        off = np.abs(posterior.covariance / exact - 1).max()
        assert (off < 0.05) == local
