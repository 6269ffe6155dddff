"""A student imitates what it can see, and only that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from sim2real import recipe
from sim2real.learning.distill import distill
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.recipe import Recipe
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.train import describe, train

RECIPE = {
    "description": "a test", "env": "hopper", "observe": "v5", "randomize": "uniform",
    "correct": "none", "align": "none", "adapt": "none", "steps": 1000,
}  # fmt: skip


def policy_of(robot: Robot, given: Recipe, seed: int) -> Policy:
    torch.manual_seed(seed)
    spec = describe("test", robot, given)
    network = mlp([spec.feature_size, 32, 32, spec.action_size], "tanh")
    return Policy(spec, network, Normalizer.identity(spec.feature_size), None)


def imitation_error(observe: str | list[str]) -> float:
    """What is left of the teacher's commands after imitation, as a share of their spread."""
    torch.set_num_threads(1)
    robot = Robot.load("hopper")
    _, given = recipe.read(RECIPE)
    teacher = policy_of(robot, given, 1)
    student = policy_of(robot, replace(given, observe=observe), 2)
    names = [t.name for t in (*student.spec.terms, *teacher.spec.terms)]
    worlds = Worlds(robot, 32, observe=names, draw=robot.space.prior(), threads=1)
    errors: list[float] = []
    distill(
        teacher, student, worlds, None, steps=40_000, seed=3,
        report=lambda done, figures: errors.append(figures["imitation error"]),
    )  # fmt: skip
    said = []
    rng = np.random.default_rng(4)
    with torch.no_grad():
        for _ in range(20):
            obs = worlds.step(rng.uniform(-1, 1, (32, 3))).obs[:, student.spec.obs_size :]
            said.append(teacher(torch.as_tensor(obs, dtype=torch.float32), ())[0])
    spread = float(torch.cat(said).std(dim=0).mean())
    assert not any(p.requires_grad for p in student.network.parameters())
    return errors[-1] / spread


def test_a_student_becomes_its_teacher_as_far_as_it_sees_what_the_teacher_sees() -> None:
    """The control arm sees its last action alone, which says little of the state."""
    seeing, blind = imitation_error("v5"), imitation_error(["last_action"])
    assert seeing < 0.03
    assert blind > 3 * seeing


def test_a_recipe_with_a_told_teacher_gives_a_policy_that_is_told_nothing(tmp_path) -> None:
    distilled = {"teacher": ["v5"], "steps": 600, "told": True}
    given = {
        **RECIPE, "observe": "measured", "history": 2, "steps": 600, "worlds": 8,
        "learner": {"settings": {"n_steps": 32, "batch_size": 64}},
        "distill": distilled,
    }  # fmt: skip
    policy = train(given, out=tmp_path / "a")
    teacher = Policy.load(tmp_path / "a" / "teacher")
    assert policy.z_names == ("history",)
    assert teacher.z_names == ("context",)
    again = {**given, "distill": {**distilled, "trained": str(tmp_path / "a" / "teacher")}}
    same = train(again, out=tmp_path / "b")
    for a, b in zip(policy.parameters(), same.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
