"""A student that remembers finds out what its teacher is told."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sim2real.bridges.adapt.inference.task_inference import Believing
from sim2real.bridges.adapt.memory.remember import Remember
from sim2real.bridges.adapt.memory.student import SEQUENCE, Student
from sim2real.learning.distill import ROLLOUT, distill
from sim2real.policy.memory import believed
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, MemorySpec, ParameterInfo, PolicySpec, TermSpec
from sim2real.recipe import Recipe, read
from sim2real.simulation.robot import Robot
from sim2real.simulation.trials import TrialStep
from sim2real.train import train
from sim2real.types import InputError

torch.set_num_threads(1)

RECIPE = {
    "description": "a student of the tests", "env": "hopper", "observe": "measured",
    "learner": {"network": [16], "settings": {"n_steps": 16, "batch_size": 128}},
    "distill": {"teacher": ["v5"], "told": True, "steps": 8 * SEQUENCE * 2},
    "randomize": "uniform", "correct": "none", "align": "none",
    "adapt": {"method": "memory", "hidden": 8, "trial": 2, "seconds": 0.5},
    "steps": 1000, "worlds": 8, "threads": 1,
}  # fmt: skip


class ShownOnce:
    """ξ is seen in the first step of a trial alone, which is two episodes of five steps; its
    teacher commands half of ξ throughout."""

    steps, episodes = 10, 2

    def __init__(self, batch, seed):
        self.batch, self.worlds = batch, self
        self.rng = np.random.default_rng(seed)

    def begin(self):
        self.xi, self.taken = self.rng.uniform(-1, 1, (self.batch, 1)), 0
        return np.concatenate([self.xi, np.zeros((self.batch, 1))], axis=1)

    def step(self, command):
        assert command.shape == (self.batch, 1)
        self.taken += 1
        done = np.full(self.batch, self.taken % 5 == 0)
        over = np.full(self.batch, self.taken == 10)
        obs = self.begin() if over[0] else np.zeros((self.batch, 2))
        return TrialStep(obs, np.zeros(self.batch), done, over)


def specs():
    """Of the teacher, which is told ξ, and of its student."""
    seen = TermSpec("shown", 1, "1", "none", "none", "measured")
    hidden = TermSpec("hidden", 1, "1", "none", "none", "privileged")
    xi = (ParameterInfo("xi", "1", -1.0, 1.0, 0.0),)
    student = PolicySpec(
        "student", "hopper", (seen,), ActuatorSpec(("a",), "1", (-1.0,), (1.0,)), 0.01,
        parameters=xi, memory=MemorySpec(16, believes=("xi",)),
    )  # fmt: skip
    return replace(student, terms=(hidden,), memory=None, context=xi, parameters=()), student


def taught(steps, forgets=False, seed=0, batch=64, **how):
    """Figures of every round, and the student."""
    told, mine = specs()
    teacher = Policy(told, mlp([2, 1]), Normalizer.identity(2)).requires_grad_(False)
    teacher.network[0].get_parameter("weight")[:] = torch.tensor([[0.0, 0.5]])
    teacher.network[0].get_parameter("bias").zero_()
    torch.manual_seed(seed)
    student = Policy(mine, mlp([mine.network_size, 16, 1]), Normalizer.identity(1))
    student.requires_grad_(False)
    trials: Any = ShownOnce(batch, seed)
    teaching = Student(
        teacher, student, trials, lambda xi, rng: xi, steps=steps, learning_rate=1e-2, seed=seed,
        **how,
    )  # fmt: skip
    if forgets:  # the planted bug: z is cleared at every step
        memory: Any = student.memory
        unroll, step = memory.unroll, memory.step
        memory.unroll = lambda x, z, begin: unroll(x, z, torch.ones_like(begin))
        memory.step = lambda x, z: step(x, torch.zeros_like(z))
        tell = student.remembered  # nor may the last action carry it
        student.remembered = lambda features, last, reset: tell(features, last * 0, reset)
    figures = []
    teaching.teach(lambda done, told: figures.append((done, told)))
    return figures, student


def test_a_student_finds_out_what_the_teacher_is_told_and_one_that_forgets_does_not():
    rounds = 12
    told, student = taught(64 * SEQUENCE * rounds)
    assert [done for done, _ in told] == [64 * SEQUENCE * (k + 1) for k in range(rounds)]
    lost, _ = taught(64 * SEQUENCE * rounds, forgets=True)
    errors = [figures[-1][1]["imitation error"] for figures in (told, lost)]
    print(errors, told[-1], lost[-1])
    knows_nothing = 0.5 / 3**0.5 * 0.9**0.5  # of what is shown in one of ten steps
    assert errors[0] < 0.3 * knows_nothing
    assert errors[1] > 0.9 * knows_nothing
    assert not any(p.requires_grad for p in student.parameters())


def test_a_student_acts_on_a_belief_that_closes_in():
    """It knows ξ, and how well, as soon as that was shown, and nothing before; what is exported
    acts on the same belief."""
    kept: list[Believing] = []

    class Seen(Believing):
        def __init__(self, *of):
            super().__init__(*of)
            kept.append(self)

    rounds = 12
    figures, student = taught(64 * SEQUENCE * rounds, reading=Seen, state=False)
    (reading,) = kept
    assert figures[-1][1]["imitation error"] < 0.5 * 0.5 / 3**0.5 * 0.9**0.5
    xi = torch.linspace(-0.9, 0.9, 7)[:, None]
    obs = torch.cat([xi, torch.zeros(7, 1)])[None].unflatten(1, (2, 7))[0]  # shown, then not
    z = student.initial(7)
    memory = student.z_names.index("memory")
    assert student.memory is not None
    with torch.no_grad():
        mean, log_var = believed(reading.head(z[memory]))
        before, command = float(log_var.mean()), torch.zeros(7, 1)
        for t in range(2):
            x = student.remembered(student.normalizer(obs[t]), z[1], torch.full((7, 1), 1.0 - t))
            h, _ = student.memory.step(x, z[memory])
            mean, log_var = believed(reading.head(h))
            command, raw, z = student.forward_full(obs[t], z, torch.full((7, 1), 1.0 - t))
            torch.testing.assert_close(
                raw, reading.network(torch.cat([x, reading.head(h)], dim=1)), rtol=1e-4, atol=1e-5
            )
    told, deviation = student.believed(z)
    assert student.belief is not None
    middle, spread = student.belief.middle, student.belief.spread
    torch.testing.assert_close(told, middle + spread * mean)
    torch.testing.assert_close(deviation, spread * (log_var / 2).exp())
    torch.testing.assert_close(told, xi, atol=0.12, rtol=0)
    assert float(log_var.mean()) < before - 1.0
    torch.testing.assert_close(command, xi / 2, atol=0.15, rtol=0)


def test_a_belief_about_nothing_is_refused():
    _, mine = specs()
    teacher = Policy(mine, mlp([mine.network_size, 1]), Normalizer.identity(1))
    with pytest.raises(InputError, match="there is nothing to infer; distill with told: true"):
        Believing(teacher, 0)


def test_task_inference_is_taught_by_a_recipe(tmp_path):
    adapt = {"method": "task_inference", "hidden": 8, "trial": 2, "seconds": 0.5}
    policy = train({**RECIPE, "adapt": adapt}, out=tmp_path / "run")
    assert policy.z_names == ("memory", "last_action")
    assert policy.spec.memory == MemorySpec(8, believes=tuple(Robot.load("hopper").space.names))
    again = Policy.load(tmp_path / "run")
    assert again.spec == policy.spec
    mean, deviation = again.believed(again.initial(1))
    torch.testing.assert_close((mean, deviation), policy.believed(policy.initial(1)))
    assert (deviation > 0).all()
    for known, p in zip(mean[0].tolist(), policy.spec.parameters, strict=True):
        assert p.low < known < p.high


def test_the_same_seed_teaches_the_same():
    def weights(seed):
        student = taught(8 * SEQUENCE, seed=seed, batch=8)[1]
        return torch.cat([p.flatten() for p in student.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_recipe_trains_a_student_that_is_loaded_again(tmp_path):
    policy = train(RECIPE, out=tmp_path / "run")
    assert policy.z_names == ("memory", "last_action")
    assert policy.spec.memory == MemorySpec(8)
    assert not policy.spec.context
    assert [p.name for p in policy.spec.parameters] == list(Robot.load("hopper").space.names)
    teacher = Policy.load(tmp_path / "run" / "teacher")
    assert teacher.spec.context
    obs = torch.randn(2, policy.spec.obs_size)
    again = Policy.load(tmp_path / "run")
    assert torch.equal(policy(obs, policy.initial(2))[0], again(obs, again.initial(2))[0])


def test_a_teacher_that_carries_more_than_a_context_is_refused():
    _, mine = specs()
    teacher = Policy(mine, mlp([mine.network_size, 1]), Normalizer.identity(1))
    student = Policy(mine, mlp([mine.network_size, 1]), Normalizer.identity(1))
    trials: Any = ShownOnce(2, 0)
    with pytest.raises(InputError, match="carries memory, last_action from step to step"):
        Student(teacher, student, trials, None, steps=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"randomize": {"method": "adr", "low": 100.0, "high": 900.0}},
            "randomize: adr widens what the teacher meets",
        ),
        ({"randomize": "none"}, "with randomize: none all are alike"),
        ({"adapt": {"method": "memory", "trial": 0}}, "a trial has at least 1 episode"),
        ({"adapt": {"method": "memory", "seconds": 0.0}}, "seconds is 0.0; it must be above 0"),
        ({"adapt": {"method": "memory", "hidden": 0}}, "hidden is 0; it must be at least 1"),
        ({"adapt": {"method": "memory", "cell": "rnn"}}, "gru"),
    ],
)
def test_recipes_that_cannot_be_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        read({**RECIPE, **change})


def test_a_short_form_has_the_defaults():
    _, recipe = read({**RECIPE, "adapt": "memory"})
    assert isinstance(recipe, Recipe)
    assert recipe.memory == Remember()
    assert recipe.adaptation is None
    assert recipe.learned.adaptation is not None


def test_a_policy_without_memory_is_not_taught():
    told, _ = specs()
    teacher = Policy(told, mlp([2, 1]), Normalizer.identity(2))
    trials: Any = ShownOnce(2, 0)
    with pytest.raises(InputError, match="has no memory to be taught"):
        Student(teacher, teacher, trials, None, steps=1)


class Growing:
    """What is seen counts the steps of an episode, 200."""

    steps, episodes, num_worlds, xi = 400, 2, 4, np.zeros((4, 0))

    def __init__(self):
        self.batch, self.worlds, self.taken = 4, self, 0

    def reset(self):
        return np.repeat([[self.taken % 200.0, 1.0]], 4, axis=0)

    begin = reset

    def step(self, command):
        self.taken += 1
        done = np.full(4, self.taken % 200 == 0)
        obs = self.reset().astype(np.float32)
        whole = done & (self.taken % 400 == 0)
        return SimpleNamespace(
            obs=obs, reward=np.zeros(4), terminated=done, truncated=np.zeros_like(done), done=done,
            over=whole,
        )  # fmt: skip


@pytest.mark.parametrize("remembers", [True, False])
def test_what_is_seen_late_in_an_episode_is_not_cut_off(remembers):
    """By the first round alone, of 32 steps or 64, the end of an episode would lie twenty or nine
    deviations out."""
    told, mine = specs()
    told = replace(told, context=())
    if not remembers:
        mine = replace(mine, memory=None)
    teacher = Policy(told, mlp([1, 1]), Normalizer.identity(1)).requires_grad_(False)
    student = Policy(mine, mlp([mine.network_size, 4, 1]), Normalizer.identity(1))
    worlds: Any = Growing()
    if remembers:
        Student(teacher, student, worlds, None, steps=4 * 20 * SEQUENCE).teach()
    else:
        distill(teacher, student, worlds, None, steps=4 * 20 * ROLLOUT)
    seen = student.normalizer(torch.arange(200.0)[:, None])[:, 0]
    assert float(seen.abs().max()) < 3
    assert float(seen.std()) == pytest.approx(1.0, abs=0.2)
