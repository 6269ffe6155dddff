"""Alignment makes features alike where only the sensors differ, and says when it did not."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sim2real.bridges.align.adversarial import Aligned, Dann, align, fresh_discriminator
from sim2real.bridges.align.gather import gather, wandering
from sim2real.bridges.align.reversal import reverse, scheduled
from sim2real.simulation.gap import Gap, Sensor
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError

SEEDS, N = range(4), 5000
ORACLE = Dann(steps=1000, lam=1.0)
ARMS = {
    "source only": replace(ORACLE, lam=0.0),
    "scheduled": ORACLE,
    "constant": replace(ORACLE, schedule="constant"),
    "wrong sign": replace(ORACLE, lam=-1.0),
    "confusion": replace(ORACLE, method="confusion"),
}


class Toy(NamedTuple):
    """y = tanh(s₁ + ½·s₂·s₃) from three noisy signals and three nuisances: in the source the first
    nuisance is y with less noise than any signal, in the target it has nothing to do with y."""

    obs: Array
    """(n, 6)"""
    y: Array
    """(n, 1)"""


def toy(rng: np.random.Generator, *, target: bool, n: int = N) -> Toy:
    s = rng.standard_normal((n, 3))
    y = np.tanh(s[:, 0] + 0.5 * s[:, 1] * s[:, 2])[:, None]
    signal = s + 0.3 * rng.standard_normal((n, 3))
    if target:
        nuisance = np.c_[rng.normal(2, 0.5, n), rng.normal(1, 1.5, (n, 2))]
    else:
        nuisance = np.c_[y + 0.1 * rng.standard_normal((n, 1)), rng.standard_normal((n, 2))]
    return Toy(np.c_[signal, nuisance], y)


def domains(seed: int, n: int = N) -> tuple[Toy, Toy]:
    rng = np.random.default_rng(seed)
    return toy(rng, target=False, n=n), toy(rng, target=True, n=n)


def mse(aligned: Aligned, data: Toy) -> float:
    return float(((aligned.predict(data.obs) - data.y) ** 2).mean())


class Arm(NamedTuple):
    source: float
    """Mean squared error on fresh source data, mean over seeds."""
    target: float
    domain: float
    """Accuracy of a fresh discriminator."""


@pytest.fixture(scope="module")
def measured() -> dict[str, Arm]:
    torch.set_num_threads(1)
    found = {}
    for name, config in ARMS.items():
        source, target, domain = [], [], []
        for seed in SEEDS:
            own, other = domains(seed)
            aligned = align(own.obs, own.y, other.obs, config, seed=seed)
            fresh_own, fresh_other = domains(seed + 1000)
            source.append(mse(aligned, fresh_own))
            target.append(mse(aligned, fresh_other))
            given = fresh_own.obs, fresh_other.obs
            domain.append(fresh_discriminator(aligned.estimator, *given, seed=seed, steps=300))
        found[name] = Arm(*(float(np.mean(x)) for x in (source, target, domain)))
    return found


@pytest.mark.parametrize("name", ["scheduled", "constant", "confusion"])
def test_alignment_takes_a_quarter_of_the_error_or_less(measured, name) -> None:
    """Error of source-only on the target: 2.4; of a constant: 0.43; on the source: 0.01."""
    assert measured[name].target <= 0.25 * measured["source only"].target
    assert measured[name].source <= 0.03


def test_the_wrong_sign_gives_nothing(measured) -> None:
    """Control arm: without the reversal, the encoder helps the discriminator."""
    assert measured["wrong sign"].target >= 0.8 * measured["source only"].target
    assert measured["wrong sign"].source <= 0.03


def test_without_alignment_the_error_is_worse_than_a_constants(measured) -> None:
    _, target = domains(0)
    assert measured["source only"].source <= 0.03
    assert measured["source only"].target > 3 * target.y.var()
    assert measured["scheduled"].target < target.y.var()


def test_a_fresh_discriminator_sees_more_in_features_that_are_not_aligned(measured) -> None:
    """Even aligned features are told apart far more often than not: a discriminator at 0.5 during
    the training proves nothing."""
    assert measured["source only"].domain > 0.95
    assert 0.8 < measured["scheduled"].domain < measured["source only"].domain - 0.01
    assert measured["wrong sign"].domain > measured["scheduled"].domain + 0.02


def test_a_fresh_discriminator_guesses_where_there_is_nothing_to_see() -> None:
    own, other = domains(0)
    aligned = align(own.obs, own.y, other.obs, Dann(steps=5))
    again, _ = domains(1)
    assert fresh_discriminator(aligned.estimator, own.obs, again.obs, steps=200) == pytest.approx(
        0.5, abs=0.04
    )


def test_reversal_turns_the_gradient_and_nothing_else() -> None:
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    weight = torch.tensor([[2.0, -1.0], [4.0, 0.25]])
    assert torch.equal(reverse(x, 0.7), x)
    (reverse(x, 0.7) * weight).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, -0.7 * weight)
    x.grad = None
    (reverse(reverse(x, 1.0), 1.0) * weight).sum().backward()  # the pitfall: it helps
    torch.testing.assert_close(x.grad, weight)


def test_the_schedule_is_the_published_one() -> None:
    """2/(1 + exp(-10·p)) - 1 = tanh(5·p)."""
    for p in (0.0, 0.05, 0.1, 0.5, 1.0):
        assert scheduled(p) == pytest.approx(np.tanh(5 * p), abs=1e-12)
    assert Dann(lam=0.5).strength(0.1) == pytest.approx(0.5 * np.tanh(0.5))
    assert Dann(lam=0.5, schedule="constant").strength(0.0) == 0.5
    with pytest.raises(InputError, match="a share of the training"):
        scheduled(3000)


@pytest.mark.parametrize("method", ["dann", "confusion"])
def test_at_strength_zero_the_target_is_not_looked_at(method) -> None:
    """Whatever the target is, bit for bit. Control: at any other strength it is."""
    own, other = domains(0, 500)
    moved = other.obs + 1.0
    for lam, same in ((0.0, True), (0.1, False)):
        config = Dann(method=method, lam=lam, schedule="constant", steps=30, batch=32)
        a, b = (align(own.obs, own.y, o, config).predict(own.obs) for o in (other.obs, moved))
        assert np.array_equal(a, b) == same


@pytest.mark.parametrize("method", ["dann", "confusion"])
def test_the_seed_is_all_that_chance_depends_on(method) -> None:
    own, other = domains(0, 500)
    config = Dann(method=method, steps=20, batch=32)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a = align(own.obs, own.y, other.obs, config, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    b = align(own.obs, own.y, other.obs, config, seed=1)
    c = align(own.obs, own.y, other.obs, config, seed=2)
    np.testing.assert_array_equal(a.predict(own.obs), b.predict(own.obs))
    assert not np.array_equal(a.predict(own.obs), c.predict(own.obs))


def test_units_do_not_matter() -> None:
    """Observations and labels in millimetres give the same estimates, in millimetres."""
    own, other = domains(0, 500)
    config = Dann(steps=50, batch=32)
    metres = align(own.obs, own.y, other.obs, config)
    milli = align(own.obs * 1e3, own.y * 1e3, other.obs * 1e3, config)
    np.testing.assert_allclose(
        milli.predict(own.obs * 1e3), metres.predict(own.obs) * 1e3, atol=2.0
    )


def test_progress_and_history_tell_what_was_learned() -> None:
    own, other = domains(0, 500)
    steps: list[int] = []
    aligned = align(
        own.obs, own.y, other.obs, Dann(steps=120, batch=32),
        report=lambda done, figures: steps.append(done),
    )  # fmt: skip
    assert steps == [1, 51, 101, 120]
    assert aligned.history["task"][-1] < 0.5 * aligned.history["task"][0]
    assert aligned.history["domain"][0] == pytest.approx(np.log(2), abs=0.1)
    assert aligned.history["lam"][0] == 0.0
    assert not any(p.requires_grad for p in aligned.estimator.parameters())


def test_gathered_observations_are_told_and_labels_are_true() -> None:
    robot = Robot.load("reacher")
    gap = Gap(sensors={"joint_positions": Sensor(bias=0.2)})
    observe = ["joint_positions", "target_to_fingertip"]
    worlds = Worlds(robot, 4, gap=gap, observe=observe, threads=1)
    found = gather(worlds, wandering(worlds), 60, labels=observe)  # past the end of an episode
    assert found.obs.shape == found.labels.shape == (240, 5)
    np.testing.assert_allclose(found.obs[:, :2] - found.labels[:, :2], 0.2)
    np.testing.assert_array_equal(found.obs[:, 2:], found.labels[:, 2:])
    np.testing.assert_array_equal(found.qpos[:, :2], found.labels[:, :2])


def test_wandering_is_spread_as_it_says() -> None:
    robot = Robot.load("reacher")
    worlds = Worlds(robot, 500, threads=1)
    act = wandering(worlds, size=0.2, memory=0.8)
    commands = np.stack([act(np.zeros((500, 1))) for _ in range(20)])
    assert commands.std() == pytest.approx(0.2, rel=0.03)
    after = np.corrcoef(commands[:-1].ravel(), commands[1:].ravel())[0, 1]
    assert after == pytest.approx(0.8, abs=0.03)


def test_the_wrong_shapes_are_named() -> None:
    own, other = domains(0, 200)
    with pytest.raises(InputError, match=r"all but the count must be the same"):
        align(own.obs, own.y, other.obs[:, :5])
    with pytest.raises(InputError, match=r"a row for every source observation"):
        align(own.obs, own.y[:-1], other.obs)
    with pytest.raises(InputError, match="50 target observations for batches of 128"):
        align(own.obs, own.y, other.obs[:50])
    with pytest.raises(InputError, match="numbers \\(N, O\\) or pictures"):
        align(own.obs[:, None], own.y, other.obs[:, None])
    broken = other.obs.copy()
    broken[3, 1] = np.nan
    with pytest.raises(InputError, match="target: row 3, value 1 is nan"):
        align(own.obs, own.y, broken)


def test_a_channel_that_only_the_target_changes_is_named() -> None:
    own, other = domains(0, 200)
    still = own.obs.copy()
    still[:, 4] = 1.0
    with pytest.warns(UserWarning, match=r"channels \[4\] never change in the source"):
        aligned = align(still, own.y, other.obs, Dann(steps=5))
    assert np.isfinite(aligned.predict(other.obs)).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"steps": 0}, "steps is 0"), ({"lam": float("nan")}, "lam is nan"),
        ({"encoder": ()}, "it must have a layer"), ({"learning_rate": 0.0}, "above 0"),
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(wrong, said) -> None:
    with pytest.raises(InputError, match=said):
        Dann(**wrong)


def test_a_label_that_the_worlds_lack_is_refused() -> None:
    robot = Robot.load("reacher")
    worlds = Worlds(robot, 1, threads=1)
    with pytest.raises(InputError, match="no term 'joint_position'"):
        gather(worlds, wandering(worlds), 1, labels=["joint_position"])
