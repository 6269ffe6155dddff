"""Fast numbers: what gradient steps find of a robot, and a student that learns to be found so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.gradient import meta_student
from sim2real.bridges.adapt.gradient.fast import (
    FARTHEST,
    FastAdapter,
    Foretold,
    Gradient,
    found,
    logged,
    windows,
)
from sim2real.bridges.adapt.gradient.meta_student import SEQUENCE, MetaStudent
from sim2real.identification.windows import Trajectory
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.prediction import Prediction
from sim2real.policy.spec import ActuatorSpec, FastSpec, ParameterInfo, PolicySpec, TermSpec
from sim2real.recipe import Recipe, read
from sim2real.simulation.trials import TrialStep
from sim2real.train import train
from sim2real.types import InputError

torch.set_num_threads(1)
O, J, RATE = 3, 4, 0.3


def linear() -> Prediction:
    """Foretells that every number of an observation changes by the fast number of its own."""
    prediction = Prediction(FastSpec(O, J, ()), features=O, newest=0, obs=O, action=1)
    layer = prediction.network[0]
    with torch.no_grad():
        layer.get_parameter("weight").zero_()
        layer.get_parameter("bias").zero_()
        layer.get_parameter("weight")[:, -O:] = torch.eye(O)
        prediction.log_rate.fill_(np.log(RATE))
    return prediction


def steps(N=5, S=7, seed=0) -> Foretold:
    g = torch.Generator().manual_seed(seed)
    features, change = torch.randn(N, S, O, generator=g), torch.randn(N, S, O, generator=g)
    there = torch.rand(N, S, generator=g) < 0.7
    there[0], there[1] = True, False
    return Foretold(features, torch.zeros(N, S, 1), features + change, there)


def golden(given: Foretold, rates) -> torch.Tensor:
    """φ_J of ½ mean |Δ - φ|² / O: towards the mean of Δ by α / O of what is left, every step."""
    change = (given.after - given.features) * given.there[..., None]
    mean = change.sum(dim=1) / given.there.sum(dim=1, keepdim=True).clamp(min=1)
    return mean * float(1 - np.prod([1 - rate / O for rate in rates]))


def test_of_a_quadratic_the_steps_have_a_closed_form_and_robots_share_nothing():
    given = steps()
    fast = found(linear(), given)
    torch.testing.assert_close(fast, golden(given, [RATE] * J), rtol=1e-5, atol=1e-6)
    assert (fast[1] == 0).all()  # of which nothing is known
    alone = found(linear(), Foretold(*(part[2:3] for part in given)))
    torch.testing.assert_close(alone, fast[2:3])
    order = torch.randperm(given.features.shape[1])
    again = found(linear(), Foretold(*(part[:, order] for part in given)))
    torch.testing.assert_close(again, fast, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 4, 30])
def test_any_number_of_steps_beyond_those_of_training_at_half_the_rate(n):
    given = steps()
    rates = [RATE] * min(n, J) + [RATE / 2] * (n - J)
    torch.testing.assert_close(
        found(linear(), given, n), golden(given, rates), rtol=1e-4, atol=1e-5
    )


def test_fast_numbers_end_where_training_never_was():
    given = steps()
    far = given._replace(after=given.features + 1e3)
    assert (found(linear(), far).abs() <= FARTHEST).all()
    with pytest.raises(InputError, match="steps is -1"):
        found(linear(), given, -1)


def test_the_outer_gradient_goes_through_the_steps():
    """Into rates and weights; of what was foretold before any step alone there is none into the
    rates."""
    prediction, given = linear(), steps()
    found(prediction, given).square().sum().backward()
    rate = prediction.log_rate.grad
    assert rate is not None
    assert (rate != 0).all()
    weight = prediction.network[0].get_parameter("weight").grad
    assert weight is not None
    assert weight.abs().max() > 0
    change = (given.after - given.features) * given.there[..., None]
    mean = change.sum(dim=1) / given.there.sum(dim=1, keepdim=True).clamp(min=1)
    left = 1 - RATE / O  # d φ_J / d log α_j = mean · α / O · left^(J - 1)
    slope = 2 * golden(given, [RATE] * J) * mean * RATE / O * left ** (J - 1)
    torch.testing.assert_close(rate, slope.sum(dim=0).expand(J, O), rtol=1e-4, atol=1e-6)


class Wired:
    """A point that is moved by the command or, wired the other way, by minus the command. Its
    teacher, which is told how, drives it back, and moves with a beat that all hear."""

    steps, episodes = 40, 2

    def __init__(self, batch, seed, trial=40):
        self.batch, self.worlds, self.trial = batch, self, trial
        self.rng = np.random.default_rng(seed)

    def begin(self):
        self.xi, self.taken = self.rng.choice([-1.0, 1.0], (self.batch, 1)), 0
        self.place = self.rng.uniform(-1, 1, (self.batch, 1))
        return self.seen()

    def seen(self):
        beat = self.rng.uniform(-1, 1, (self.batch, 1))
        return np.concatenate([self.place, beat, self.xi * self.place, beat], 1)

    def step(self, command):
        self.taken += 1
        self.place = self.place + 0.5 * self.xi * command
        done, over = (np.full(self.batch, self.taken % n == 0) for n in (20, self.trial))
        if done[0]:
            self.place = self.rng.uniform(-1, 1, (self.batch, 1))
        obs = self.begin() if over[0] else self.seen()
        return TrialStep(obs, np.zeros(self.batch), done, over)


def specs():
    """Of the teacher, which sees the place as its command moves it, and of its student."""
    seen, beat = (TermSpec(n, 1, "1", "none", "none", "measured") for n in ("place", "beat"))
    hidden = TermSpec("wired", 1, "1", "none", "none", "privileged")
    student = PolicySpec(
        "student", "hopper", (seen, beat), ActuatorSpec(("a",), "1", (-1.0,), (1.0,)), 0.01,
        fast=FastSpec(4, 2, (16,)),
    )  # fmt: skip
    gain = (ParameterInfo("gain", "1", -1.0, 1.0, 1.0),)
    return replace(student, terms=(hidden, beat), fast=None, context=gain), student


def taught(rounds, seed=0, batch=64, trial=40):
    """Figures of every round, and the student."""
    told, mine = specs()
    teacher = Policy(told, mlp([3, 1]), Normalizer.identity(3)).requires_grad_(False)
    teacher.network[0].get_parameter("weight")[:] = torch.tensor([[-0.7, 0.5, 0.0]])
    teacher.network[0].get_parameter("bias").zero_()
    torch.manual_seed(seed)
    student = Policy(mine, mlp([mine.network_size, 16, 1]), Normalizer.identity(2))
    student.requires_grad_(False)
    trials: Any = Wired(batch, seed, trial)
    teaching = MetaStudent(
        teacher, student, trials, lambda xi, rng: xi, steps=batch * SEQUENCE * rounds,
        learning_rate=1e-2, seed=seed,
    )  # fmt: skip
    figures = []
    teaching.teach(lambda done, told: figures.append((done, told)))
    return figures, student


def wired(student, gain, n=30, seed=5):
    """An episode of a robot, driven at random."""
    rng = np.random.default_rng(seed)
    command = rng.uniform(-1, 1, (n, 1))
    place = 0.2 + np.concatenate([np.zeros((1, 1)), 0.5 * gain * command.cumsum(axis=0)])
    return Trajectory({"place": place, "beat": rng.uniform(-1, 1, (n + 1, 1))}, command)


def apart(student):
    """By how much commands half a meter out differ for the two kinds of robot, after an episode of
    each (its teacher's: 0.7), and the mean of both less what is commanded before anything is
    known."""
    obs, said = torch.tensor([[0.5, 0.0]]), []
    adapter, nothing = FastAdapter(student), student.initial(1)
    for gain in (-1.0, 1.0):
        z = adapter.adapt(adapter.prior(np.random.default_rng(0)), [wired(student, gain)])
        said.append(float(student(obs, student.given(nothing, "fast", z))[0]))
    return said[0] - said[1], np.mean(said) - float(student(obs, nothing)[0])


def test_a_student_is_found_by_gradient_steps_and_one_that_makes_none_is_not(monkeypatch):
    _, student = taught(25)
    found_out, between = apart(student)
    print(found_out, between)
    assert found_out > 0.3
    assert abs(between) < 0.2
    assert not any(p.requires_grad for p in student.parameters())
    usual = meta_student.found
    monkeypatch.setattr(meta_student, "found", lambda p, s: usual(p, s, 0))  # the planted bug
    lost, _ = apart(taught(25)[1])
    print(lost)
    assert abs(lost) < 0.1


def test_the_same_seed_teaches_the_same():
    def weights(seed):
        student = taught(2, seed=seed, batch=8)[1]
        return torch.cat([p.flatten() for p in student.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_what_was_logged_is_what_the_policy_saw():
    """History included, and actions as the network gave them."""
    _, mine = specs()
    mine = replace(mine, history=3, scale=(0.5,), offset=(0.1,))
    policy = Policy(mine, mlp([mine.network_size, 1]), Normalizer(np.ones(6), np.full(6, 4.0)))
    logs = [wired(policy, 1.0, n=4, seed=1), wired(policy, 1.0, n=6, seed=2)]
    given = logged(policy, logs)
    assert given.features.shape == (1, 10, 6)
    z, rows = policy.initial(1), []
    for log in logs:
        both = np.concatenate([log.obs["place"], log.obs["beat"]], axis=1)
        for t, obs in enumerate(torch.as_tensor(both, dtype=torch.float32)):
            features, z = policy.features(obs[None], z, torch.tensor([[float(t == 0)]]))
            rows.append(policy.normalizer(features)[0])
    seen = torch.stack(rows)
    here, next_ = [*range(4), *range(5, 11)], [*range(1, 5), *range(6, 12)]
    torch.testing.assert_close(given.features[0], seen[here])
    torch.testing.assert_close(given.after[0], seen[next_])
    sent = np.concatenate([log.command for log in logs])
    raw = torch.as_tensor((sent - 0.1) / 0.5, dtype=torch.float32).clamp(-1, 1)
    torch.testing.assert_close(given.action[0], raw)
    two = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 2.0]])
    torch.testing.assert_close(windows(torch.arange(3.0)[:, None], 2), two)


def test_what_is_not_finite_leaves_z_as_it_was():
    _, mine = specs()
    policy = Policy(mine, mlp([mine.network_size, 1]), Normalizer.identity(2))
    log = wired(policy, 1.0)
    log.obs["place"][3] = np.nan
    before = np.full(4, 0.3)
    assert FastAdapter(policy).adapt(before, [log]) is before


def test_no_steps_leave_z_as_it_was():
    _, mine = specs()
    policy = Policy(mine, mlp([mine.network_size, 1]), Normalizer.identity(2))
    before = np.full(4, 0.3)
    assert FastAdapter(policy).adapt(before, []) is before


def test_a_trial_that_ends_with_the_sequence_teaches_what_can_be_taught():
    """All worlds go over to other robots at the last step of every sequence."""
    _, student = taught(3, batch=1, trial=SEQUENCE)
    assert all(torch.isfinite(p).all() for p in student.parameters())


def test_policies_without_fast_numbers_are_refused():
    told, mine = specs()
    plain = Policy(told, mlp([3, 1]), Normalizer.identity(3))
    student = Policy(mine, mlp([mine.network_size, 1]), Normalizer.identity(2))
    trials: Any = Wired(2, 0)
    with pytest.raises(InputError, match="has no fast numbers; train one with adapt: gradient"):
        FastAdapter(plain)
    with pytest.raises(InputError, match="has no fast numbers; adapt: gradient gives some"):
        MetaStudent(plain, plain, trials, None, steps=1)
    with pytest.raises(InputError, match="carries fast from step to step"):
        MetaStudent(student, student, trials, None, steps=1)


RECIPE = {
    "description": "a student of the tests", "env": "hopper", "observe": "measured", "history": 2,
    "learner": {"network": [16], "settings": {"n_steps": 16, "batch_size": 128}},
    "distill": {"teacher": ["v5"], "told": True, "steps": 8 * SEQUENCE * 2},
    "randomize": "uniform", "correct": "none", "align": "none",
    "adapt": {"method": "gradient", "size": 5, "steps": 2, "prediction": [8], "seconds": 0.5},
    "steps": 1000, "worlds": 8, "threads": 1,
}  # fmt: skip


def test_a_recipe_trains_a_policy_that_is_loaded_again(tmp_path):
    policy = train(RECIPE, out=tmp_path / "run")
    assert policy.z_names == ("history", "fast")
    assert policy.spec.fast == FastSpec(5, 2, (8,))
    assert policy.spec.episodes == 10
    assert Policy.load(tmp_path / "run" / "teacher").spec.context
    again = Policy.load(tmp_path / "run")
    assert policy.prediction is not None
    assert again.prediction is not None
    obs = torch.randn(2, policy.spec.obs_size)
    z = policy.given(policy.initial(2), "fast", torch.randn(2, 5))
    assert torch.equal(policy(obs, z)[0], again(obs, z)[0])
    assert torch.equal(policy.prediction.rates, again.prediction.rates)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"randomize": {"method": "adr", "low": 100.0, "high": 900.0}},
            "randomize: adr widens what the teacher meets",
        ),
        ({"randomize": "none"}, "with randomize: none all are alike"),
        (
            {"distill": {"teacher": ["v5"], "steps": 1000}},
            "adapt: gradient learns from a teacher that is told",
        ),
        ({"distill": None}, "adapt: gradient learns from a teacher that is told"),
        ({"adapt": {"method": "gradient", "trial": 0}}, "a trial has at least 1 episode"),
        ({"adapt": {"method": "gradient", "seconds": 0.0}}, "seconds is 0.0; it must be above 0"),
        ({"adapt": {"method": "gradient", "size": 0}}, "size is 0; it must be at least 1"),
        ({"adapt": {"method": "gradient", "steps": 0}}, "steps is 0; it must be at least 1"),
        ({"adapt": {"method": "gradient", "prediction": [0]}}, "each width must be at least 1"),
        ({"adapt": {"method": "gradient", "episodes": 2}}, "adaptation needs at least 3"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        read({**RECIPE, **change})


def test_the_short_form_is_the_method_with_its_defaults():
    recipe: Recipe = read({**RECIPE, "adapt": "gradient"})[1]
    assert recipe.gradient == Gradient()
    assert recipe.memory is None
    assert recipe.learned.adaptation is not None  # of the teacher, which is told
