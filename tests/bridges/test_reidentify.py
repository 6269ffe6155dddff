"""Training and identification in turn, on one recipe."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sim2real import schema
from sim2real.bridges.randomize.reidentify import Reidentification, Reidentify
from sim2real.identification.excitation import excite
from sim2real.recipe import Recipe
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.train import describe, train
from sim2real.types import InputError

RECIPE = {
    "description": "a test", "env": "hopper", "correct": "none", "align": "none", "adapt": "none",
    "steps": 4_096, "worlds": 32, "checkpoint": 1_024,
    "learner": {"network": [16], "settings": {"n_steps": 32, "batch_size": 256, "n_epochs": 1}},
}  # fmt: skip


def test_logs_are_what_the_robot_saw_and_was_sent():
    robot = Robot.load("hopper")
    worlds = make_worlds(robot, 1, gap="worn", observe="measured", seed=3, threads=1)
    rng = np.random.default_rng(0)
    firsts: list[bool] = []

    def act(obs, first):
        firsts.append(first)
        return np.full((1, 3), 0.2)

    logs = excite(worlds, act, episodes=3, steps=70, rng=rng, excitation=0.1)
    assert logs.steps == sum(len(e.command) for e in logs.episodes) <= 70
    assert sum(firsts) == len(logs.episodes)
    for episode in logs.episodes:
        assert set(episode.obs) == {t.name for t in worlds.terms}
        assert all(len(x) == len(episode.command) + 1 for x in episode.obs.values())
        assert np.abs(episode.command - 0.2).max() <= 0.1
        # what was sent last is what the robot says it was sent
        np.testing.assert_allclose(episode.obs["last_action"][1:], episode.command)


def test_the_steps_are_not_exceeded_and_end_the_last_episode():
    worlds = Worlds(Robot.load("halfcheetah"), 1, seed=1, threads=1)
    logs = excite(
        worlds, lambda obs, first: np.zeros((1, 6)), episodes=9, steps=250,
        rng=np.random.default_rng(0), ticks=100,
    )  # fmt: skip
    assert [len(e.command) for e in logs.episodes] == [100, 100, 50]


def test_logs_are_of_one_robot():
    worlds = Worlds(Robot.load("hopper"), 2, threads=1)
    with pytest.raises(InputError, match=r"one robot.*2 worlds"):
        excite(worlds, lambda o, f: o, episodes=1, steps=1, rng=np.random.default_rng(0))


def test_the_worlds_then_draw_what_the_logs_say(tmp_path):
    gap = tmp_path / "robot.yaml"
    gap.write_text("xi: {torso_mass: 1.6, motor_strength: 0.7}\n")
    loop = {"method": "reidentify", "target": str(gap), "rounds": 1, "episodes": 2}
    train(RECIPE | {"randomize": loop}, out=tmp_path / "run")
    saved = sorted((tmp_path / "run/checkpoints").glob("*/posterior.json"))
    assert saved
    data = json.loads(saved[-1].read_text())
    k = data["names"].index("motor_strength")
    mean = np.array(data["weights"]) @ np.array(data["samples"])
    low, high = data["low"][k], data["high"][k]
    assert abs(mean[k] - 0.7) < abs((low + high) / 2 - 0.7)  # nearer than the prior was
    assert (tmp_path / "run/policy.pt").is_file()


def test_a_round_whose_logs_are_too_short_is_left_out_and_said(tmp_path, caplog):
    loop = {"method": "reidentify", "target": "mild", "rounds": 1, "target_steps": 5}
    train(RECIPE | {"randomize": loop, "steps": 2_048}, out=tmp_path / "run")
    assert (tmp_path / "run/policy.pt").is_file()
    assert not list((tmp_path / "run/checkpoints").glob("*/posterior.json"))
    (said,) = [r.getMessage() for r in caplog.records if "round 1 is left out" in r.getMessage()]
    assert "has 5 control steps, and identification needs more than 12" in said


def test_a_loop_goes_on_where_it_was_saved(tmp_path):
    robot = Robot.load("hopper")
    worlds = make_worlds(robot, 4, draw=robot.space.prior(), threads=1)
    target = make_worlds(robot, 1, gap="mild", threads=1)
    config = Reidentify("mild", episodes=2)
    spec = describe("test", robot, schema.read(Recipe, RECIPE | {"randomize": "uniform"}))
    one = Reidentification(config, robot, worlds, target, spec=spec, steps=100, seed=0)
    one.logs = excite(
        target, lambda obs, first: np.zeros((1, 3)), episodes=2, steps=60, ticks=30,
        rng=np.random.default_rng(0),
    ).episodes  # fmt: skip
    one.target_steps = 44
    one.save(tmp_path)
    other = Reidentification(config, robot, worlds, target, spec=spec, steps=100, seed=0)
    other.load(tmp_path)
    assert other.target_steps == 44
    assert len(other.logs) == 2
    for a, b in zip(one.logs, other.logs, strict=True):
        np.testing.assert_array_equal(a.command, b.command)
        np.testing.assert_array_equal(a.obs["v5"], b.obs["v5"])
    (tmp_path / "target_logs.npz").write_bytes(b"half")
    with pytest.raises(InputError, match=r"target_logs.npz: not the logs"):
        other.load(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [({"rounds": 0}, "rounds is 0"), ({"widen": 2.0}, "widen is 2"), ({"episodes": -1}, "-1")],
)
def test_a_configuration_that_makes_no_sense_is_refused(wrong, sentence):
    with pytest.raises(InputError, match=sentence):
        Reidentify("mild", **wrong)
