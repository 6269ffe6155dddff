"""What is found before anything moves, and that a robot as it should be is left in peace."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from sim2real.cli import main
from sim2real.deploy import lint as home
from sim2real.deploy.contract import Parameter
from sim2real.deploy.controller import run
from sim2real.deploy.lint import Known, lint
from sim2real.deploy.logs.npz import read_logs
from sim2real.deploy.robots import connect


@pytest.fixture
def careful(contract):
    """A contract about which there is nothing to say."""
    terms = tuple(
        replace(t, low=(-3.0,) * t.size, high=(3.0,) * t.size) for t in contract.observations
    )
    return replace(
        contract, observations=terms, commands=replace(contract.commands, rate_limit=(50.0, 50.0))
    )


def said(found, level=None):
    return [f.sentence for f in found.findings if level in (None, f.level)]


def test_a_robot_as_it_should_be_is_left_in_peace(careful, write, point_mass, tmp_path):
    folder = write(contract=careful)
    client = connect(f":{point_mass(actuators=wide(point_mass)).port}")
    run(folder, client, episodes=2, log=tmp_path / "log")
    known = [Known("mass", 0.9, 1.1), Known("something else", 0.0, 9.0)]
    found = lint(folder, robot=client.describe(), known=known, logs=tmp_path / "log")
    client.close()
    assert found.findings == ()
    assert found.ok


def wide(point_mass):
    """Actuators whose limits are those of the artifact at least."""
    return replace(point_mass().description.actuators, low=(-5.0, -5.0), high=(5.0, 5.0))


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda c: replace(c, latency_ms=(0.0, 0.0)), "training assumed no latency"),
        (
            lambda c: replace(c, safety=replace(c.safety, max_tilt=None, tilt_term=None)),
            "no tilt limit",
        ),
        (lambda c: replace(c, commands=replace(c.commands, rate_limit=None)), "no rate limit"),
        (
            lambda c: replace(c, adaptation=replace(c.adaptation, reward=True)),
            "its adaptation needs a reward measured on the robot",
        ),
        (
            lambda c: replace(
                c, observations=(replace(c.observations[0], access="estimated"),
                                 *c.observations[1:])
            ),
            "'position' is an estimate, which no sensor gives",
        ),
    ],
)  # fmt: skip
def test_an_artifact_alone_has_risks(careful, write, edit, sentence):
    found = lint(write(contract=edit(careful)))
    assert found.ok
    assert [s for s in said(found) if sentence in s], said(found)
    assert len(found.findings) == 1


def test_what_the_robot_is_not_is_a_fault(careful, write, point_mass):
    other = replace(careful, adaptation=replace(careful.adaptation, reward=True))
    folder = write(contract=other)
    robot = point_mass(reward=False).description
    found = lint(folder, robot=robot)
    assert not found.ok
    assert said(found, "fault") == ["its adaptation needs a reward, and point measures none"]
    assert any("'fx' has narrower limits on point" in s for s in said(found, "risk"))
    late = lint(folder, robot=replace(robot, control_period=0.02))
    assert said(late, "fault")[0].startswith("point has a control period of 0.02 s")


@pytest.mark.parametrize(
    ("low", "high", "how"), [(0.9, 2.2, "reaches beyond"), (2.1, 2.4, "lies outside of")]
)
def test_physics_that_training_never_met_is_a_risk(careful, write, low, high, how):
    found = lint(write(contract=careful), known=[Known("mass", low, high)])
    (sentence,) = said(found)
    assert sentence == (
        f"'mass' was identified as {low} to {high} 1, which {how} the 0.5 to 2 of training"
    )
    latency = (*careful.parameters, Parameter("action_latency", "ms", 0.0, 20.0, 0.0))
    slow = replace(careful, parameters=latency, adaptation=None, states=careful.states)
    (sentence,) = said(
        lint(write(contract=slow, name="b"), known=[Known("action_latency", 21, 30)])
    )
    assert "lies outside of the 0 to 20 of training" in sentence


@pytest.mark.parametrize(("seconds", "level"), [(0.007, "risk"), (0.02, "fault")])
def test_an_inference_that_takes_too_long(careful, write, monkeypatch, seconds, level):
    """By a clock that says so."""
    clock = itertools.accumulate(itertools.cycle([1.0, seconds]))
    monkeypatch.setattr(home.time, "perf_counter", lambda: next(clock))
    (finding,) = lint(write(contract=careful)).findings
    assert finding.level == level
    assert finding.about == "inference"


def logged(write, careful, point_mass, folder, change):
    """Logs whose pitch is changed."""
    client = connect(
        f":{point_mass(sense=lambda t, o: o | {'pitch': np.array([2.5 * np.sin(t)])}).port}"
    )
    artifact = write(contract=replace(careful, safety=replace(
        careful.safety, max_tilt=None, tilt_term=None)))  # fmt: skip
    run(artifact, client, episodes=1, log=folder / "log")
    client.close()
    (log,) = read_logs(folder / "log")
    replace(log, obs=log.obs | {"pitch": change(log.obs["pitch"])}).write(folder / "other")
    return artifact, folder / "log", folder / "other"


@pytest.mark.parametrize(
    ("change", "level", "sentence"),
    [
        (lambda x: x * 180 / np.pi, "fault", "'pitch' looks like degrees"),
        (lambda x: x + 20, "risk", "'pitch' (place 0) is where training never was in 100 %"),
        (lambda x: np.where(x > 0, np.nan, x), "fault", "'pitch' is not finite in the logs"),
    ],
)
def test_readings_that_training_never_saw(
    careful, write, point_mass, tmp_path, change, level, sentence
):
    artifact, fine, other = logged(write, careful, point_mass, tmp_path, change)
    assert all(f.about == "tilt" for f in lint(artifact, logs=fine).findings)
    found = [f for f in lint(artifact, logs=other).findings if f.about == "pitch"]
    assert [f.level for f in found] == [level]
    assert sentence in found[0].sentence


def test_the_command_answers(careful, write, point_mass, capsys):
    folder = write(contract=careful)
    words = ["lint", str(folder), "--robot", f":{point_mass().port}"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "risk   'fx' has narrower limits on point than in training" in out
    assert out.endswith("pd: 0 faults, 1 risk\n")
    other = write(contract=replace(careful, control_period=0.02), name="other")
    assert main(["lint", str(other), "--robot", f":{point_mass().port}", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["level"] == "fault"
