"""What a person or a robot gets wrong: one sentence that names the place and what would be right,
exit status 2 (3 where a robot had to be stopped), no traceback, and the disk as it was."""

from __future__ import annotations

import json
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sim2real import content
from sim2real.cli import main
from sim2real.deploy.artifact import contract_text, with_contract
from sim2real.deploy.logs.npz import read_logs
from sim2real.deploy.robots import protocol
from sim2real.deploy.robots.protocol import Kind, Message
from sim2real.serve import SimulatedRobot
from sim2real.simulation.robot import Robot

Edit = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, trained, logs):
    """An empty folder to work in, with links to a policy, an artifact and logs."""
    monkeypatch.chdir(tmp_path)
    for name, target in (
        ("policy", trained / "policy"), ("artifact", trained / "artifact"), ("logs", logs)
    ):  # fmt: skip
        Path(name).symlink_to(target)


def disk() -> dict[str, bytes]:
    """Everything in the folder and behind its links."""
    found: dict[str, bytes] = {}
    for path in (*Path().iterdir(), Path("policy/"), Path("artifact/"), Path("logs/")):
        files = path.resolve().rglob("*") if path.is_dir() else [path.resolve()]
        found |= {str(f): f.read_bytes() for f in files if f.is_file()}
    return found


@pytest.fixture
def refused(capsys):
    """refused(words, parts): the command ends with 2 and one sentence that has all the parts. All
    that may be new on the disk are whole logs in the folder `new`, of a robot that had moved."""

    def refused(words: list[str], parts: tuple[str, ...], status: int = 2) -> None:
        before = disk()
        try:
            given: Any = main(words)
        except SystemExit as ended:  # argparse's way
            given = ended.code
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines() if line.startswith("sim2real: ")]
        assert given == status, err
        assert "Traceback" not in out + err
        assert out == "" or status == 3  # figures of what was run until then
        assert len(said) == 1, err
        for part in parts:
            assert part in said[0]
        new = {str(f.resolve()) for f in Path().glob("new/*")}
        assert {name: data for name, data in disk().items() if name not in new} == before
        if new:
            assert all(log.info.stopped for log in read_logs("new"))

    return refused


# Recipes


RECIPE: dict[str, Any] = {
    "description": "", "env": "hopper", "observe": "measured", "randomize": "uniform",
    "correct": "none", "align": "none", "adapt": "context", "steps": 64, "worlds": 2,
    "threads": 1, "learner": {"network": [4], "settings": {"n_steps": 32, "batch_size": 64}},
}  # fmt: skip

BAD_RECIPES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    # unknown keys
    "a key": ({"learer": {}}, ("learer", "did you mean 'learner'")),
    "a key inside": ({"learner": {"lerning_rate": 1e-3}}, ("lerning_rate", "learning_rate")),
    "a key of a bridge": ({"adapt": {"method": "context", "eror": 0.1}}, ("adapt", "eror")),
    "a setting": ({"learner": {"settings": {"n_stepz": 2}}}, ("settings.n_stepz", "'n_steps'")),
    # wrong types
    "steps in words": ({"steps": "many"}, ("steps", "a whole number", "'many'")),
    "half a world": ({"worlds": 2.5}, ("worlds", "a whole number", "2.5")),
    "a network in words": ({"learner": {"network": "wide"}}, ("learner.network", "a list")),
    "a switch": ({"learner": {"her": "perhaps"}}, ("learner.her", "true or false")),
    "a bridge that is none": ({"correct": "darc9"}, ("correct", "none")),
    # values that cannot be
    "no steps": ({"steps": 0}, ("steps is 0", "at least 1")),
    "no worlds": ({"worlds": 0}, ("worlds is 0", "at least 1")),
    "a gamma": ({"learner": {"gamma": 1.5}}, ("gamma is 1.5", "(0, 1]")),
    "no network": ({"learner": {"network": []}}, ("network is []", "at least 1")),
    "an error": ({"adapt": {"method": "context", "error": 7}}, ("error is 7", "0 to 1")),
    # an element that is not there
    "a robot": ({"env": "hoper"}, ("hoper", "did you mean 'hopper'")),
    "an observation set": ({"observe": "mesured"}, ("mesured", "did you mean 'measured'")),
    "a parameter": (
        {"randomize": {"method": "uniform", "ranges": {"torso_mas": [1, 2]}}},
        ("ranges", "torso_mas", "did you mean 'torso_mass'"),
    ),
    # low above high
    "a range": (
        {"randomize": {"method": "uniform", "ranges": {"torso_mass": [2, 1]}}},
        ("torso_mass", "low 2.0 is above high 1.0"),
    ),
    # a recipe for another robot
    "terms of another robot": ({"env": "fetch_reach"}, ("fetch_reach", "'measured'", "the sets")),
    "physics of another robot": (
        {"env": "ant", "randomize": {"method": "uniform", "ranges": {"leg_mass": [1, 2]}}},
        ("leg_mass", "the parameters are"),
    ),
    "a learner for goals": (
        {"learner": {"algorithm": "sac", "her": True}}, ("her needs a goal environment", "hopper")
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_recipes(case, refused):
    changes, parts = BAD_RECIPES[case]
    recipe = dict(RECIPE)
    for key, value in changes.items():
        inner: Any = recipe.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        recipe[key] = inner | value if both else value
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused(["train", "recipe.yaml", "--out", "run"], parts)


def test_a_recipe_without_a_bridge(refused):
    recipe = {key: value for key, value in RECIPE.items() if key != "align"}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused(["train", "recipe.yaml"], ("recipe.yaml", "align"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("steps: [1, 2", ("recipe.yaml",)),
        ("", ("recipe.yaml", "is empty")),
        ("seed: 012\n", ("seed", "012")),
        ("align: no\n", ("align", "no")),
    ],
)
def test_yaml_and_its_traps(text, parts, refused):
    Path("recipe.yaml").write_text(text)
    refused(["train", "recipe.yaml"], parts)


# Own robots and gaps


def own_robot(edit: Edit) -> None:
    """The hopper as a folder of one's own, with something wrong in it."""
    shutil.copytree(content.env_folder("hopper"), "mine")
    said = yaml.safe_load(Path("mine/env.yaml").read_text())
    edit(said)
    Path("mine/env.yaml").write_text(yaml.safe_dump(said))


def parameter(**changes: Any) -> Edit:
    return lambda said: said["parameters"][0].update(changes)


BAD_ROBOTS = {
    "an unknown key": (lambda said: said.update(frame_skipp=4), ("frame_skipp", "'frame_skip'")),
    "a parameter's key": (parameter(lowest=1), ("parameters[0]", "lowest")),
    "a wrong type": (lambda said: said.update(frame_skip="four"), ("frame_skip", "'four'")),
    "a body": (parameter(select="torzo"), ("torzo", "did you mean 'torso'")),
    "a field": (parameter(field="body_mas"), ("body_mas", "body_mass")),
    "a joint": (
        lambda said: said["terms"]["pitch"].update(joints=["rooti"]), ("rooti", "rooty")
    ),
    "low above high": (parameter(low=3, high=2), ("torso_mass", "3", "2")),
    "nothing to scale by": (
        parameter(low=0, high=2, distribution="loguniform"), ("torso_mass", "loguniform")
    ),
    "a missing model": (lambda said: said.update(model="other.xml"), ("other.xml",)),
    "a missing task": (lambda said: said.update(task="hop"), ("hop", "did you mean 'hopper'")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROBOTS)
def test_robots_of_ones_own(case, refused):
    edit, parts = BAD_ROBOTS[case]
    own_robot(edit)
    refused(["evaluate", "policy", "--env", "mine"], ("mine", *parts))


def test_a_term_that_a_set_of_ones_own_robot_names(refused):
    own_robot(lambda said: said["observations"]["measured"].append("pich"))
    Path("recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "env": "mine"}))
    refused(["train", "recipe.yaml"], ("mine", "observations", "pich", "did you mean 'pitch'"))


BAD_GAPS = {
    "an unknown key": ({"latencies": {}}, ("latencies", "did you mean 'latency'")),
    "a key inside": ({"latency": {"action": 5}}, ("latency", "action", "action_ms")),
    "a wrong type": ({"actuators": {"strength": "weak"}}, ("actuators.strength", "'weak'")),
    "a sensor": ({"sensors": {"picth": {"noise": 1}}}, ("picth", "did you mean 'pitch'")),
    "an actuator": (
        {"actuators": {"weak": {"knee": 0.5}}}, ("no actuator 'knee'", "the actuators are")
    ),
    "a parameter": ({"xi": {"torso_mas": 2}}, ("torso_mas", "did you mean 'torso_mass'")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_GAPS)
def test_gaps(case, refused):
    gap, parts = BAD_GAPS[case]
    Path("gap.yaml").write_text(yaml.safe_dump(gap))
    refused(["serve", "hopper", "--gap", "gap.yaml", "--port", "0"], ("gap.yaml", *parts))


# The command line


BAD_WORDS = {
    "a command": (["evalute", "policy"], ("evalute", "did you mean 'evaluate'")),
    "an option": (["verify", "artifact", "--jsn"], ("--jsn", "did you mean '--json'")),
    "a word too many": (["verify", "artifact", "other"], ("'other'", "one word too many")),
    "no policy": (["evaluate"], ("POLICY",)),
    "episodes in words": (["evaluate", "policy", "--episodes", "ten"], ("--episodes", "'ten'")),
    "no episodes": (["evaluate", "policy", "--episodes", "0"], ("--episodes", "from 1")),
    "a seed below zero": (["evaluate", "policy", "--seed", "-1"], ("--seed", "from 0")),
    "a time": (["run", "artifact", "--seconds", "soon"], ("--seconds", "above 0 s")),
    "a share": (["run", "artifact", "--excitation", "5"], ("--excitation", "from 0 to 1")),
    "a port": (["serve", "hopper", "--port", "99999"], ("--port", "65535")),
    "an engine": (["adapt", "policy", "hopper/worn", "--engine", "serch"], ("serch", "'search'")),
    "a context": (["evaluate", "policy", "--context", "treu"], ("treu", "did you mean 'true'")),
    "physics": (["evaluate", "policy", "--xi", "torso_mass"], ("torso_mass", "NAME=NUMBER")),
    "a number": (["evaluate", "policy", "--xi", "torso_mass=big"], ("NAME=NUMBER",)),
    "a parameter": (["evaluate", "policy", "--xi", "torso_mas=2"], ("torso_mas", "torso_mass")),
    "an axis": (["evaluate", "policy", "--grid", "torso_mas"], ("torso_mas", "torso_mass")),
    "a picture": (["evaluate", "policy", "--picture", "a.png"], ("--picture", "--grid")),
    "an override": (["train", "hopper-nominal", "--set", "steps"], ("steps", "=")),
    "an override's key": (
        ["train", "hopper-nominal", "--set", "learner.gama=1"], ("gama", "gamma")
    ),
    "an override's type": (["train", "hopper-nominal", "--set", "steps=1.5"], ("steps", "1.5")),
    "an address": (["run", "artifact", "--robot", "here"], ("'here'", "127.0.0.1:47800")),
    # missing files
    "a policy": (["evaluate", "polcy"], ("polcy/policy.pt", "no such file")),
    "a recipe": (["train", "hopper-nominl"], ("hopper-nominl", "did you mean 'hopper-nominal'")),
    "a recipe file": (["train", "there/is/none.yaml"], ("there/is/none.yaml", "no such file")),
    "a gap": (["evaluate", "policy", "--gap", "wron"], ("wron", "did you mean 'worn'")),
    "an artifact": (["verify", "artefact"], ("artefact", "no policy.onnx")),
    "logs": (["identify", "log", "--env", "hopper"], ("log", "did you mean 'logs'")),
    "a folder without logs": (["identify", "policy", "--env", "hopper"], ("policy", "*.npz")),
    "a target": (["adapt", "policy", "hopper"], ("target 'hopper'", "hopper/worn")),
    # another robot
    "a policy's robot": (
        ["evaluate", "policy", "--env", "walker2d"], ("'hopper'", "'walker2d'")
    ),
    "a log's robot": (["identify", "logs", "--env", "halfcheetah"], ("halfcheetah", "drives")),
    "no run to resume": (
        ["train", "hopper-nominal", "--resume", "--out", "run"], ("run holds no run to resume",)
    ),
    "another run": (["train", "hopper-nominal", "--out", "policy"], ("already holds a run",)),
    "a file as folder": (["train", "hopper-nominal", "--out", "artifact/card.md"], ("is a file",)),
    "not an artifact's folder": (
        ["export", "policy", "--out", "logs"], ("logs holds something other than an artifact",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WORDS)
def test_words(case, refused):
    words, parts = BAD_WORDS[case]
    refused(words, parts)


# Files of another schema version, or damaged


def copied(name: str) -> Path:
    """A copy that may be changed, in place of the link."""
    target = Path(name).resolve()
    Path(name).unlink()
    shutil.copytree(target, name)
    return Path(name)


def edit_policy(edit: Edit) -> None:
    folder = copied("policy")
    (folder / "policy.json").unlink()
    saved = torch.load(folder / "policy.pt", weights_only=True)
    description = json.loads(saved["description"])
    edit(description)
    torch.save({**saved, "description": json.dumps(description)}, folder / "policy.pt")


def edit_contract(edit: Edit) -> None:
    file = copied("artifact") / "policy.onnx"
    said = json.loads(contract_text(file.read_bytes()))
    edit(said)
    file.write_bytes(with_contract(file.read_bytes(), json.dumps(said)))


def edit_log(edit: Edit) -> None:
    file = min(copied("logs").glob("*.npz"))
    with np.load(file) as data:
        arrays = dict(data)
    said = json.loads(str(arrays["info"]))
    edit(said)
    arrays["info"] = np.array(json.dumps(said))
    np.savez(file, **arrays)


def edit_state(edit: Edit) -> None:
    space = Robot.load("hopper").space
    said = {
        "schema": 2, "artifact": json.loads(
            contract_text(Path("artifact/policy.onnx").read_bytes())
        )["graph"],
        "state": "context", "names": list(space.names), "value": [float(x) for x in space.nominal],
        "std": [0.1] * 5, "accepted": True, "episodes": 1, "seconds": 1.0, "falls": 0,
    }  # fmt: skip
    edit(said)
    Path("z.json").write_text(json.dumps(said))


RUN = ["run", "artifact", "--log", "new"]
STATE = [*RUN, "--z", "z.json"]
BAD_FILES = {
    "policy version": (edit_policy, {"schema": 2}, ["export", "policy"], ("schema 2", "reads 1")),
    "contract version": (edit_contract, {"schema": 3}, RUN, ("schema", "3")),
    "log version": (
        edit_log, {"schema": 7}, ["identify", "logs", "--env", "hopper"], ("schema 7", "schema 1")
    ),
    "state version": (edit_state, {"schema": 3}, STATE, ("z.json", "schema", "3")),
    "a contract's key": (edit_contract, {"contrl_period": 1}, RUN, ("contrl_period",)),
    "a contract's type": (edit_contract, {"control_period": "1"}, RUN, ("control_period",)),
    "a state's key": (edit_state, {"vlue": []}, STATE, ("z.json", "vlue", "did you mean 'value'")),
    "a state of another artifact": (edit_state, {"artifact": "0" * 64}, STATE, ("another",)),
    "a state out of bounds": (edit_state, {"value": [9, 1, 1, 1, 0]}, STATE, ("torso_mass", "9")),
    "a state that did not help": (edit_state, {"accepted": False}, STATE, ("was not accepted",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_files(case, refused, serving):
    change, edit, words, parts = BAD_FILES[case]
    change(lambda said: said.update(edit))
    with serving() as address:
        # an artifact that does not verify is an answer, as for `verify`
        status = 1 if change is edit_contract else 2
        refused([*words, "--robot", address] if words[0] == "run" else words, parts, status)
    assert not Path("new").exists()


@pytest.mark.parametrize(
    ("folder", "name", "words"),
    [
        ("policy", "policy.pt", ["export", "policy"]),
        ("artifact", "golden.npz", [*RUN, "--robot", "127.0.0.1:1"]),
        ("artifact", "policy.onnx", [*RUN, "--robot", "127.0.0.1:1"]),
        ("logs", None, ["identify", "logs", "--env", "hopper"]),
    ],
)
def test_files_cut_in_half(folder, name, words, refused, serving):
    file = copied(folder) / name if name else min(copied(folder).glob("*.npz"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with serving() as address:
        words = [address if word == "127.0.0.1:1" else word for word in words]
        refused(words, (file.name,), status=1 if folder == "artifact" else 2)


def test_a_changed_artifact_is_an_answer_of_verify(capsys):
    edit_contract(lambda said: said.update(schema=3))
    assert main(["verify", "artifact"]) == 1
    assert "schema" in capsys.readouterr().out


# Robots


class Other(threading.Thread):
    """A robot behind the real protocol whose messages are changed on their way out:
    `spoil(tick, message) -> message or None`, and whose description may be changed."""

    def __init__(self, spoil: Callable[[int, Message], Message | None], env="hopper", **edit: Any):
        super().__init__(daemon=True)
        self.robot = SimulatedRobot(Robot.load(env), gap=None)
        self.robot.description = replace(self.robot.description, **edit)
        self.spoil, self.over, self.damped = spoil, threading.Event(), threading.Event()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.05)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def run(self) -> None:
        tick = 0
        while not self.over.is_set():
            try:
                data, peer = self.socket.recvfrom(protocol.MAX_DATAGRAM)
            except TimeoutError:
                continue
            message = protocol.decode(data)
            assert message is not None
            if message.kind is Kind.DAMP:
                self.damped.set()
            if message.kind is Kind.HELLO:
                answer = protocol.describe(self.robot.description)
            elif message.kind is Kind.BYE or (data := self.robot.answer(message)) is None:
                continue
            else:
                answer = protocol.decode(data)
            tick += 1
            assert answer is not None
            spoiled = self.spoil(tick, answer)
            if spoiled is not None:
                self.socket.sendto(spoiled.encode(), peer)
        self.socket.close()


@pytest.fixture
def other():
    """other(spoil, **description): a running robot; it ends with the test."""
    running: list[Other] = []

    def start(*arguments: Any, **how: Any) -> Other:
        running.append(Other(*arguments, **how))
        running[-1].start()
        return running[-1]

    yield start
    for robot in running:
        robot.over.set()
        robot.join()


def untouched(tick: int, message: Message) -> Message:
    return message


def value(place: int, number: float, since: int) -> Callable[[int, Message], Message]:
    """From message `since` on, the observation has `number` at `place` (the reward stands at 0)."""

    def spoil(tick: int, message: Message) -> Message:
        if message.kind is not Kind.OBSERVATION or tick < since:
            return message
        values = message.values().copy()
        values[place] = number
        return message._replace(payload=values.tobytes())

    return spoil


def length(change: Callable[[bytes], bytes], since: int) -> Callable[[int, Message], Message]:
    def spoil(tick: int, message: Message) -> Message:
        if message.kind is not Kind.OBSERVATION or tick < since:
            return message
        return message._replace(payload=change(message.payload))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (value(1, np.nan, since=2), ("joint_positions", "nan", "thigh_joint")),
        (value(7, np.nan, since=9), ("pitch", "nan")),
        (value(6, np.inf, since=5), ("joint_velocities", "inf", "foot_joint")),
        (value(8, -np.inf, since=3), ("pitch_rate", "-inf")),
    ],
)
def test_a_sensor_that_gives_no_number_stops_the_robot(spoil, parts, other, refused):
    robot = other(spoil)
    refused(["run", "artifact", "--robot", robot.address, "--log", "new"], parts, status=3)
    assert robot.damped.wait(2)
    (log,) = read_logs("new")
    assert log.info.stopped is not None
    assert all(part in log.info.stopped for part in parts)


def test_a_sensor_that_gives_no_number_ends_an_adaptation(other, capsys):
    """A stop is for a person to look at: the next episode does not begin by itself."""
    robot = other(value(7, np.nan, since=30))
    assert main(["adapt", "policy", robot.address, "--episodes", "4", "--out", "new"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "sim2real: stopped for safety: not finite: observation term 'pitch' gave nan" in err
    assert "Traceback" not in err
    assert robot.damped.wait(2)
    assert {p.name for p in Path("new").iterdir()} == {"artifact", "logs"}
    assert len(list(Path("new/logs").rglob("*.npz"))) <= 2


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (length(lambda data: data[:-8], since=2), ("observation of 10 numbers", "says 11")),
        (length(lambda data: data + bytes(8), since=6), ("observation of 12 numbers", "says 11")),
        (length(lambda data: data[:-3], since=4), ("OBSERVATION", "not a list of float64")),
        (length(lambda data: b"", since=3), ("observation of -1 numbers", "says 11")),
    ],
)
def test_an_observation_of_another_length(spoil, parts, other, refused):
    robot = other(spoil)
    refused(["run", "artifact", "--robot", robot.address, "--log", "new"], parts)
    assert robot.damped.wait(2)


def silent(tick: int, message: Message) -> None:
    return None


def no_reset(tick: int, message: Message) -> Message | None:
    return message if message.kind is Kind.DESCRIBE else None


def refusing(tick: int, message: Message) -> Message:
    return protocol.error("the battery is empty; charge it first")


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (silent, ("no robot answers at", "sim2real serve")),
        (no_reset, ("has not answered for",)),
        (refusing, ("refuses: the battery is empty; charge it first",)),
    ],
)
def test_a_robot_that_does_not_answer(spoil, parts, other, refused):
    robot = other(spoil)
    refused(["run", "artifact", "--robot", robot.address], (robot.address, *parts))


@pytest.mark.parametrize("words", [["run", "artifact", "--robot"], ["adapt", "policy"]])
def test_a_robot_that_is_not_there(words, refused):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    refused([*words, address], ("no robot answers at", address))


@pytest.mark.parametrize(
    ("how", "parts"),
    [
        ({"env": "halfcheetah"}, ("halfcheetah",)),
        ({"control_period": 0.02}, ("control period of 0.02 s", "trained at 0.008 s")),
        ({"actuators": None}, ("takes the commands a, b, c",)),
        ({"terms": None}, ("sends no term 'pitch_rate'", "it sends")),
    ],
)
@pytest.mark.parametrize("words", [["run", "artifact", "--robot"], ["adapt", "policy"]])
def test_another_robot_than_the_policy_was_trained_for(words, how, parts, other, refused):
    usual = SimulatedRobot(Robot.load("hopper"), gap=None).description
    edits: dict[str, Any] = {
        "actuators": replace(usual.actuators, names=("a", "b", "c")),
        "terms": tuple(t for t in usual.terms if t.name != "pitch_rate"),
    }
    how = {key: edits[key] if edit is None else edit for key, edit in how.items()}
    robot = other(untouched, **how)
    before = disk()
    refused([*words, robot.address], parts)
    assert disk() == before
    assert not robot.damped.is_set()  # it was not even asked to begin
