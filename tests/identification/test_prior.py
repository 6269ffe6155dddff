"""What one log revealed is where the next one begins."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sim2real.identification.fit import axes_of, fit, revealed
from sim2real.identification.identify import explain, identify, restricted
from sim2real.identification.linearization import Information, Normal, told, within
from sim2real.identification.posterior import Posterior
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

ROBOT = restricted(Robot.load("inverted_pendulum"), ["motor_strength"])
STRENGTH = ROBOT.space.names.index("motor_strength")
TRUE = 0.85


def normal(seed):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((3, 3))
    return Information(rng.standard_normal(3), root @ root.T, rng.standard_normal(3))


PRIOR = Normal(np.array([0.5, -1.0, 2.0]), np.diag([0.1, 4.0, 1.0]))


def test_two_logs_together_say_the_same_in_either_order_and_one_after_the_other():
    a, b = normal(0), normal(1)
    one, other = a.plus(b).with_prior(PRIOR), b.plus(a).with_prior(PRIOR)
    after = b.with_prior(a.with_prior(PRIOR))
    for again in (other, after):
        np.testing.assert_allclose(again.mean, one.mean)
        np.testing.assert_allclose(again.covariance, one.covariance)


def test_what_a_log_said_is_told_from_its_posterior():
    posterior = normal(2).with_prior(PRIOR)
    again = told(posterior, PRIOR).with_prior(PRIOR)
    np.testing.assert_allclose(again.mean, posterior.mean)
    np.testing.assert_allclose(again.covariance, posterior.covariance)


def test_a_posterior_that_is_no_narrower_than_the_prior_says_nothing():
    wide = told(Normal(PRIOR.mean + 1, 1.5 * PRIOR.covariance), PRIOR)
    for part in (wide.precision, wide.pull):
        np.testing.assert_allclose(part, 0, atol=1e-12)


@pytest.fixture(scope="module")
def posteriors(pendulum_logs):
    """Of one log, of another, and of the other after the one."""
    logs = [pendulum_logs(seed, episodes=1, ticks=20, motor_strength=TRUE) for seed in (0, 1)]
    first, second = (explain(ROBOT, log, seed=0) for log in logs)
    return first, second, fit(ROBOT, logs[1], prior=first, seed=0)


def test_precisions_add_up(posteriors):
    first, second, both = (1 / p.std[STRENGTH] ** 2 for p in posteriors)
    assert both == pytest.approx(first + second, rel=0.3)
    assert abs(posteriors[2].mean[STRENGTH] - TRUE) < 3 * posteriors[2].std[STRENGTH]


def test_a_wrong_prior_is_believed(posteriors, pendulum_logs):
    """A control arm: what is begun with counts."""
    first, _, both = posteriors
    shift = np.zeros(len(first.names))
    shift[STRENGTH] = 4 * first.std[STRENGTH]
    wrong = np.clip(first.samples + shift, first.low, first.high)
    wrong = replace(first, samples=wrong, said=None)
    log = pendulum_logs(1, episodes=1, ticks=20, motor_strength=TRUE)
    found = fit(ROBOT, log, prior=wrong, seed=0)
    assert found.mean[STRENGTH] > both.mean[STRENGTH] + both.std[STRENGTH]


def test_what_was_fixed_when_the_prior_was_found_is_not_known_from_it(posteriors):
    """Found with --only: nothing was learned of the others."""
    first = posteriors[0]
    free = Robot.load("inverted_pendulum")
    said = revealed(first, free)
    others = [k for k in range(free.space.K) if k != STRENGTH]
    assert said.precision[STRENGTH, STRENGTH] > 0
    assert not said.precision[others].any()
    assert not said.pull[others].any()


def test_a_prior_counts_over_the_range_in_which_it_was_searched(posteriors):
    """A posterior that is as wide as its range was knows nothing, however wide the range is now."""
    first = posteriors[0]
    low, high = first.low.copy(), first.high.copy()
    low[STRENGTH], high[STRENGTH] = 0.8, 1.2
    samples = first.samples.copy()
    samples[:, STRENGTH] = np.linspace(0.8, 1.2, len(samples))
    flat = replace(first, low=low, high=high, samples=samples, said=None)
    assert revealed(flat, ROBOT).precision[STRENGTH, STRENGTH] * 0.1**2 < 0.05


def test_the_sides_of_the_ranges_are_not_what_a_log_said(posteriors):
    """Where these cut off what is known, its draws are narrower than that; a prior that was only
    its draws would count the sides twice (the control arm)."""
    first = posteriors[0]
    axes = axes_of(ROBOT)
    width = (axes.high - axes.low)[STRENGTH]
    said = Information(axes.low.copy(), np.zeros((len(axes.low),) * 2), np.zeros(len(axes.low)))
    said.precision[STRENGTH, STRENGTH] = 1 / width**2
    said.pull[STRENGTH] = -8 / width  # the less the likelier
    rng = np.random.default_rng(0)
    x = within(said.plus(axes.tilt), axes.flat, axes.low, axes.high, 4000, rng)
    cut = replace(
        first, samples=axes.back(x), weights=np.full(4000, 1 / 4000), low=axes.xi_low,
        high=axes.xi_high, said=said,
    )  # fmt: skip
    ours = revealed(cut, ROBOT).precision[STRENGTH, STRENGTH]
    drawn = revealed(replace(cut, said=None), ROBOT).precision[STRENGTH, STRENGTH]
    assert ours == pytest.approx(1 / width**2)
    assert drawn > 10 * ours


def test_where_a_range_went_down_to_zero_the_draws_say_it_along_todays_axes(posteriors):
    """Then along ξ, now along its logarithm."""
    first = posteriors[0]
    low = first.low.copy()
    low[STRENGTH] = 0.0
    rng = np.random.default_rng(0)
    samples = first.samples.copy()
    samples[:, STRENGTH] = rng.normal(TRUE, 0.02, len(samples))
    was = replace(first, low=low, samples=samples)
    axes = axes_of(ROBOT)
    found = axes.back(revealed(was, ROBOT).with_prior(axes.flat).mean)[STRENGTH]
    assert found == pytest.approx(TRUE, abs=0.02)


def test_what_is_no_posterior_is_refused(posteriors, tmp_path):
    file = tmp_path / "p.json"
    posteriors[0].save(file)
    short = {"center": [0.0], "precision": [[1.0]], "pull": [0.0]}
    for said in ([1, 2], {"center": [0.0]}, 3, short):
        text = json.dumps({**json.loads(file.read_text()), "said": said})
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(InputError, match="not a posterior"):
            Posterior.load(tmp_path / "other.json")


def test_what_a_log_said_is_kept_in_the_file(posteriors, tmp_path):
    first = posteriors[0]
    first.save(tmp_path / "p.json")
    again = Posterior.load(tmp_path / "p.json")
    for one, other in zip(revealed(first, ROBOT), revealed(again, ROBOT), strict=True):
        np.testing.assert_array_equal(one, other)
    assert first.said is not None
    assert again.said is not None


def test_a_prior_of_another_robot_and_a_method_that_takes_none_are_refused(posteriors, tmp_path):
    first = posteriors[0]
    for name, robot in (("inverted_pendulum", "hopper"), ("hopper", "inverted_pendulum")):
        other = replace(first, env=name)
        with pytest.raises(InputError, match=f"the prior is of {name} with cart_mass.*{robot}"):
            revealed(other, Robot.load(robot))
    with pytest.raises(InputError, match="method 'grid' takes no prior; 'fit' does"):
        identify(tmp_path, "inverted_pendulum", method="grid", prior=first)
    with pytest.raises(InputError, match=r"p\.json: no such file"):
        identify(tmp_path, "inverted_pendulum", prior=tmp_path / "p.json")
