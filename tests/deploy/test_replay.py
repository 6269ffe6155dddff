"""Logs gone through again: what agrees, and which term is named where it does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from sim2real.cli import main
from sim2real.deploy.adapt import apply
from sim2real.deploy.artifact import Artifact, Runner
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.controller import run
from sim2real.deploy.logs.npz import EpisodeLog, read_logs
from sim2real.deploy.replay import readings, replay
from sim2real.deploy.robots import connect
from sim2real.types import InputError


@pytest.fixture
def logged(point_mass, write, tmp_path):
    """logged(**run's): the artifact, and a folder with three episodes that it drove."""

    def logged(sense=None, **how):
        artifact = Artifact.load(write())
        client = connect(f":{point_mass(episode_steps=40, sense=sense).port}")
        z = AdaptedState(
            2, artifact.contract.graph, "context", ("mass", "drag"), (1.4, 0.8), (0.1, 0.1), True,
            4, 2.0, 0,
        )  # fmt: skip
        run(artifact, client, episodes=3, seed=11, z=z, log=tmp_path / "log", **how)
        client.close()
        return artifact, tmp_path / "log"

    return logged


def tilted(tick, obs):
    """A pitch that says something."""
    return obs | {"pitch": np.array([0.2 * math.sin(0.3 * tick)])}


def otherwise(folder, out, term, change):
    """The same logs, with a term as `change` (T + 1, size) makes it."""
    for log in read_logs(folder):
        changed = {**log.obs, term: change(log.obs[term])}
        replace(log, obs=changed).write(out)
    return out


@pytest.mark.parametrize("how", [{}, {"excitation": 0.3}, {"blend": 0.1}])
def test_what_was_done_is_done_again(logged, how):
    artifact, folder = logged(**how)
    found = replay(artifact, folder)
    assert found.ok
    assert (found.episodes, found.ticks, found.agreed, found.same) == (3, 120, 120, True)
    assert found.worst < 1e-6
    assert found.sentence.startswith("pd does what the logs say: 120 ticks in 3 episodes")


def last(x):
    return np.concatenate([x[1:], x[-1:]])


@pytest.mark.parametrize(
    ("term", "change", "said"),
    [
        ("velocity", lambda x: x[:, ::-1], "with 0 and 1 exchanged"),
        ("velocity", lambda x: x * [1, -1], "with the other sign of 1"),
        ("position", lambda x: -x, "with the other sign"),
        ("position", lambda x: x / 1000, "in thousandths"),
        ("pitch", lambda x: x * math.pi / 180, "in degrees"),
        ("pitch", lambda x: x * 180 / math.pi, "in radians, taken for degrees"),
    ],
)
def test_the_term_that_was_read_otherwise_is_named(logged, tmp_path, term, change, said):
    artifact, folder = logged(sense=tilted)
    found = replay(artifact, otherwise(folder, tmp_path / "other", term, change))
    assert not found.ok
    assert found.first is not None
    assert (found.first.term, found.first.reading) == (term, said)
    assert found.first.explained == 120
    assert found.agreed < 60
    assert f"with '{term}' {said} it does what was logged, in 120 of 120 ticks" in found.sentence


def test_a_term_that_came_a_tick_late_is_named(logged, tmp_path):
    """The log has it a tick earlier than the policy saw it. From the second tick on: the first of
    an episode has nothing before it."""
    artifact, folder = logged(sense=tilted)
    found = replay(artifact, otherwise(folder, tmp_path / "other", "velocity", last))
    assert found.first is not None
    assert (found.first.term, found.first.reading) == ("velocity", "a tick late")
    assert found.first.explained >= 100


def test_a_single_sample_that_was_old_is_named(logged, tmp_path):
    """The policy saw the velocity of the tick before once, in the second episode."""
    artifact, folder = logged(sense=tilted)
    for k, log in enumerate(read_logs(folder)):
        if k == 1:
            stale = log.obs["velocity"].copy()
            stale[20] = stale[19]
            raw = Runner(artifact)
            assert log.info.z is not None
            apply(raw, log.info.z)
            said = []
            for t in range(log.ticks):
                row = {n: x[t] for n, x in {**log.obs, "velocity": stale}.items()}
                said.append(raw.step(artifact.contract.flatten(row), t == 0)[1])
            log = replace(log, raw=np.array(said, float))
        log.write(tmp_path / "other")
    found = replay(artifact, tmp_path / "other")
    assert found.first is not None
    assert (found.first.episode, found.first.tick) == (1, 20)
    assert (found.first.term, found.first.explained) == ("velocity", 120)
    assert found.first.reading == "a tick late at this tick alone"


def test_where_nothing_explains_it_that_is_said(logged, tmp_path):
    artifact, folder = logged()
    rng = np.random.default_rng(0)
    other = otherwise(
        folder, tmp_path / "other", "velocity", lambda x: x + 0.3 * rng.standard_normal(x.shape)
    )
    found = replay(artifact, other)
    assert found.first is not None
    assert found.first.term is None
    assert found.first.tick == 0
    assert found.first.actuator in ("fx", "fy")
    assert "no term, read otherwise, explains it alone" in found.sentence


def test_another_artifact_is_said_and_compared(logged, write, make_model):
    artifact, folder = logged()
    scaled = Artifact.load(write(graph=make_model(keeps_history=True), name="other"))
    found = replay(scaled, folder)
    assert not found.same
    assert not found.ok
    assert "(they were written with another artifact)" in found.sentence
    assert found.agreed < found.ticks
    assert replay(artifact, folder).ok


def test_a_tick_in_which_the_policy_did_not_run_is_none(logged, tmp_path):
    artifact, folder = logged()
    for log in read_logs(folder):
        raw = log.raw.copy()
        raw[39] = np.nan
        replace(log, raw=raw).write(tmp_path / "other")
    assert replay(artifact, tmp_path / "other").ticks == 117
    for file in (tmp_path / "other").glob("*.npz"):
        log = EpisodeLog.read(file)
        replace(log, raw=np.full_like(log.raw, np.nan)).write(tmp_path / "none")
    with pytest.raises(InputError, match="no tick in which a policy ran"):
        replay(artifact, tmp_path / "none")


def test_the_log_of_another_robot_is_refused(logged, write, contract):
    _, folder = logged()
    other = write(contract=replace(contract, control_period=0.02), name="other")
    with pytest.raises(InputError, match=r"point has a control period of 0.01 s; pd was trained"):
        replay(other, folder)


def test_the_command_answers(logged, tmp_path, capsys):
    artifact, folder = logged()
    assert main(["replay", str(folder), str(artifact.folder)]) == 0
    assert capsys.readouterr().out.startswith("pd does what the logs say")
    other = otherwise(folder, tmp_path / "other", "position", lambda x: -x)
    assert main(["replay", str(other), str(artifact.folder), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["first"]["reading"] == "with the other sign"
    assert said["ok"] is False


def test_readings_of_joints_have_their_names(contract):
    legs = replace(
        contract.observations[0], name="q", size=4, unit="rad", elements=("a", "b", "c", "d")
    )
    value = np.arange(1.0, 5.0)
    said = {name: reading(value, value - 1) for name, reading in readings(legs)}
    np.testing.assert_array_equal(said["with a and c exchanged"], [3, 2, 1, 4])
    np.testing.assert_array_equal(said["with neighbouring groups of 2 exchanged"], [3, 4, 1, 2])
    np.testing.assert_array_equal(said["with the other sign of b"], [1, -2, 3, 4])
    np.testing.assert_array_equal(said["a tick late"], value - 1)
    np.testing.assert_array_equal(said["in reverse"], [4, 3, 2, 1])
    np.testing.assert_array_equal(said["as a quaternion x, y, z, w"], [2, 3, 4, 1])
    np.testing.assert_allclose(said["in degrees"], value * 180 / math.pi)
    pair = dict(readings(replace(legs, size=8)))  # two values a joint
    assert "with the other sign of place 3" in pair
    assert "with places 0 and 7 exchanged" in pair
