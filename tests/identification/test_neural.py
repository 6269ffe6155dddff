"""Neural posterior estimation: against a posterior in closed form, and on a pendulum."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from sim2real.identification import neural
from sim2real.identification.identify import explain, restricted
from sim2real.identification.neural import CHECKED, Score, _learned
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

ROBOT = Robot.load("inverted_pendulum")


def simulated(simulations: int, size: float) -> tuple[np.ndarray, np.ndarray]:
    """ξ in the unit square, and ξ with normal noise."""
    rng = np.random.default_rng(0)
    unit = rng.random((simulations + CHECKED, 2))
    return unit, unit + size * rng.standard_normal(unit.shape)


def test_what_is_learned_is_the_posterior_and_calibrated(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    unit, x = simulated(500, 0.1)
    drawn, p = _learned(unit, x, np.array([0.4, 0.6]), 500, 400, 0)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.4, 0.6], atol=0.035)
    np.testing.assert_allclose(drawn.std(axis=0), 0.1, rtol=0.25)
    assert p > 0.01
    assert not list(tmp_path.iterdir())  # sbi keeps a diary where it is run, and prints
    assert capsys.readouterr().out == ""
    wrong = unit.copy()  # the planted bug: the robots that it is checked on are others than it says
    wrong[500:] = 1 - wrong[500:]
    assert _learned(wrong, x, np.array([0.4, 0.6]), 500, 50, 0)[1] < 0.01


def test_a_score_is_the_posterior_mean_of_a_straight_line_up_to_scale():
    rng = np.random.default_rng(0)
    slope = rng.standard_normal((2, 300))
    xi = rng.random((400, 2))
    r = xi @ slope + rng.standard_normal((400, 300))
    score = Score(xi, r, np.arange(300) // 150)(r)
    assert score.shape == (400, 4)
    back = score[:, :2] @ np.linalg.inv(slope @ slope.T)
    for k in range(2):
        assert np.corrcoef(back[:, k], xi[:, k])[0, 1] > 0.95


def test_a_score_is_the_same_in_pieces(monkeypatch):
    rng = np.random.default_rng(1)
    xi, terms = rng.random((50, 2)), np.arange(90) // 30
    r = xi @ rng.standard_normal((2, 90)) + rng.standard_normal((50, 90))
    whole = Score(xi, r, terms)(r)
    monkeypatch.setattr(neural, "COLUMNS", 20)
    np.testing.assert_allclose(Score(xi, r, terms)(r), whole)


def test_a_pendulum_is_identified_as_by_the_fit(pendulum_logs):
    robot = restricted(ROBOT, ["motor_strength"])
    logs = pendulum_logs(0, motor_strength=0.8)
    learned = explain(robot, logs, method="neural", simulations=250)
    linear = explain(robot, logs)
    k = ROBOT.space.names.index("motor_strength")
    assert abs(learned.mean[k] - linear.mean[k]) < 1.5 * linear.std[k]
    assert 0.4 < learned.std[k] / linear.std[k] < 1.6
    assert 0 <= learned.calibration <= 1
    fixed = [i for i in range(ROBOT.space.K) if i != k]
    np.testing.assert_array_equal(learned.samples[:, fixed], linear.samples[:, fixed])


def test_it_says_what_it_needs(pendulum_logs, monkeypatch):
    with pytest.raises(InputError, match="simulations 20: a density is learned from 200"):
        explain(ROBOT, pendulum_logs(0), method="neural", simulations=20)
    monkeypatch.setitem(sys.modules, "sbi", None)
    with pytest.raises(InputError, match=r'needs the extra sbi: pip install "sim2real\[sbi\]"'):
        explain(ROBOT, pendulum_logs(0), method="neural")
