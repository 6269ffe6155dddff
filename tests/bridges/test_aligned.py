"""An aligned policy sees its own observation again, and training says where it does not."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from sim2real import schema
from sim2real.bridges.align.adversarial import Dann
from sim2real.bridges.align.aligned import aligned_estimator, lost
from sim2real.bridges.align.gather import gather, wandering
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

CHEETAH = Robot.load("halfcheetah")
ALONE = Dann(lam=0.0, steps=1000)
OLD = (64, 16)


def mean_loss(config: Dann, seed: int) -> float:
    """Share of the simulated variance that the estimate loses, mean over the 17 values."""
    torch.set_num_threads(1)
    source, target = (
        Worlds(CHEETAH, n, gap=gap, seed=seed + n, threads=1)
        for n, gap in ((16, None), (1, "mild"))
    )
    estimator, _ = aligned_estimator(config, source, target, seed=seed)
    seen = gather(source, wandering(source, seed=77), 100, labels=["v5"])
    with torch.no_grad():
        told = estimator(torch.as_tensor(seen.obs, dtype=torch.float32)).numpy()
    return float(np.square(lost(told, seen.labels)).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_default_width_passes_the_observation_on(seed) -> None:
    """Control arm: 16 features for 17 values, as it was, do not."""
    assert mean_loss(ALONE, seed) < 0.015
    assert mean_loss(replace(ALONE, encoder=OLD), seed) > 0.02


@pytest.mark.parametrize(
    ("values", "widths"), [(1, (64, 16)), (8, (64, 16)), (17, (136, 34)), (46, (368, 92))]
)
def test_the_width_is_twice_what_is_told(values, widths) -> None:
    assert Dann().widths(values) == widths
    assert Dann(encoder=(32, 8)).widths(values) == (32, 8)


@pytest.mark.parametrize("said", [{}, {"encoder": None}, {"encoder": [136, 34]}])
def test_a_recipe_may_leave_the_width_open(said) -> None:
    assert schema.read(Dann, said).widths(17) == (136, 34)


def test_the_loss_by_hand() -> None:
    true = np.array([[0.0, 5.0], [2.0, 5.0]])
    np.testing.assert_allclose(lost(true + [0.5, 0.1], true), [0.5, 0.1])  # constant: in its unit


def test_an_estimate_that_loses_a_value_warns_of_the_worst(caplog) -> None:
    source, target = (
        Worlds(CHEETAH, 8, observe=["joint_positions", "pitch_rate"], seed=s, threads=1)
        for s in (0, 1)
    )
    few = Dann(lam=0.0, observations=2000, steps=2)
    with caplog.at_level(logging.WARNING):
        aligned_estimator(few, source, target)
    (record,) = caplog.records
    assert "align: the estimate of '" in record.getMessage()
    assert "of its standard deviation" in record.getMessage()
    assert "\n" not in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        aligned_estimator(replace(few, steps=800), source, target)
    assert not caplog.records


def test_other_terms_are_refused() -> None:
    source = Worlds(CHEETAH, 1, observe=["joint_positions"], threads=1)
    with pytest.raises(InputError, match="must observe the same terms"):
        aligned_estimator(Dann(), source, Worlds(CHEETAH, 1, observe=["pitch"], threads=1))
