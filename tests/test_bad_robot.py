"""A robot, a task or a run of one's own that is wrong: one sentence that names the file and what
would be right, before anything is trained or moved."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import sim2real
from sim2real.cli import main
from sim2real.deploy.controller import run
from sim2real.deploy.robots import connect
from sim2real.evaluate import evaluate
from sim2real.learning.learners import Learner
from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

MODEL = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0"/>
      <geom type="box" size="0.1 0.1 0.1" mass="1"/>
      <body name="pole">
        <joint name="hinge" type="hinge" axis="0 1 0"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0 0 0.5" mass="0.1"/>
        <site name="tip" pos="0 0 0.5"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor name="push" joint="slide" ctrlrange="-1 1"/></actuator>
</mujoco>
"""

ENV: dict[str, Any] = {"description": "a cart", "model": "cart.xml", "frame_skip": 2,
                       "task": "task.py", "task_access": "measured"}  # fmt: skip

TASK = """import numpy as np
from sim2real.simulation.tasks.base import Task


class Balance(Task):
    fields = ("site_xpos",)
    episode_steps = 20

    def initial_state(self, rng):
        return self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq), self.init_qvel.copy()

    def observe(self, data):
        return np.concatenate((data["qpos"], data["qvel"]), axis=1)

    def reward(self, data, before, action, dt):
        height = data["site_xpos"][:, 0, 2]
        return height, {"height": height}

    def terminated(self, data):
        return np.abs(data["qpos"][:, 1]) > 0.5
"""


@pytest.fixture
def cart(tmp_path: Path) -> Callable[..., Path]:
    """cart(old, new, ...): the folder of a robot, with these texts of its task replaced."""

    def cart(*edits: str, env: dict[str, Any] | None = None, model: str = MODEL) -> Path:
        folder, task = tmp_path / "cart", TASK
        folder.mkdir(exist_ok=True)
        for old, new in zip(edits[::2], edits[1::2], strict=True):
            assert old in task
            task = task.replace(old, new)
        (folder / "env.yaml").write_text(yaml.safe_dump({**ENV, **(env or {})}))
        (folder / "cart.xml").write_text(model)
        (folder / "task.py").write_text(task)
        return folder

    return cart


def sentence(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as refused:
        call()
    said = str(refused.value)
    assert "\n" not in said
    return said


# The task of a robot of one's own


DATACLASS = """from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Weights:
    height: float = 1.0

"""


@pytest.mark.parametrize("more", ["", DATACLASS])
def test_a_task_that_is_right_is_taken(more, cart):
    robot = Robot.load(cart("import numpy as np\n", f"{more}import numpy as np\n"))
    assert robot.terms["v5"].size == 4
    assert Worlds(robot, 3).step(np.zeros((3, 1))).reward.shape == (3,)


RIGHT_STATE = "return self.init_qpos + rng.uniform(-0.1, 0.1, self.model.nq), self.init_qvel.copy()"
RIGHT_OBS = 'return np.concatenate((data["qpos"], data["qvel"]), axis=1)'
RIGHT_REWARD = 'return height, {"height": height}'
RIGHT_END = 'return np.abs(data["qpos"][:, 1]) > 0.5'

BAD_TASKS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "syntax": ("axis=1)", "axis=1", ("task.py, line 13", "was never closed")),
    "a module": ("import numpy as np", "import nunpy as np",
                 ("task.py, line 1", "No module named 'nunpy'")),
    "a name at loading": ("episode_steps = 20", "episode_steps = STEPS",
                          ("task.py, line 7", "NameError", "'STEPS'")),
    "a name in reward": (RIGHT_REWARD, "return hight, {}",
                         ("task.py, line 17", "NameError", "'hight'")),
    "no Task": ("(Task)", "", ("0 subclasses of Task",)),
    "a misspelled method": ("observe(self, data)", "obserwe(self, data)",
                            ("class Balance", "no method 'observe'", "'obserwe'")),
    "a missing method": ("initial_state", "nothing", ("no method 'initial_state'",)),
    "a field": ('("site_xpos",)', '("site_xpso",)', ("fields", "'site_xpso'", "'site_xpos'")),
    "a field of changing size": ('("site_xpos",)', '("efc_force",)', ("fields", "'efc_force'")),
    "fields without a comma": ('("site_xpos",)', '("site_xpos")', ("fields", "a tuple of names")),
    "a field not listed": ('("site_xpos",)', "()", ("line 16", "KeyError", "'site_xpos'")),
    "episode_steps": ("= 20", "= 0.5", ("episode_steps is 0.5",)),
    "one state": (RIGHT_STATE, "return self.init_qpos", ("initial_state", "(2,)", "two arrays")),
    "a long state": (RIGHT_STATE, "return np.zeros(3), np.zeros(2)",
                     ("initial_state: qpos", "(3,)", "(2,)")),
    "an infinite state": (RIGHT_STATE, "return np.zeros(2), np.full(2, np.inf)",
                          ("initial_state: qvel", "inf", "finite")),
    "one number each": (RIGHT_OBS, 'return data["qpos"][:, 0]', ("observe", "(4,)", "(4, O)")),
    "one world": (RIGHT_OBS, 'return data["qpos"][:1]', ("observe", "(1, 2)", "(4, O)")),
    "a list": (RIGHT_OBS, 'return list(data["qpos"])', ("observe", "a list", "(4, O)")),
    "whole numbers": (RIGHT_OBS, 'return data["qpos"].astype(int)', ("observe", "int64", "floats")),
    "nothing": (RIGHT_OBS, "pass", ("observe", "nothing", "(4, O)")),
    "no number": (RIGHT_OBS, 'return data["qpos"] * np.nan', ("observe", "nan", "finite")),
    "no figures": (RIGHT_REWARD, "return height", ("reward", "two things", "figures")),
    "one reward": (RIGHT_REWARD, "return height.sum(keepdims=True), {}",
                   ("reward", "(1,)", "(4,)")),
    "a reward for each": (RIGHT_REWARD, 'return data["qpos"], {}', ("reward", "(4, 2)", "(4,)")),
    "figures in a list": (RIGHT_REWARD, "return height, [height]", ("reward", "a list", "figures")),
    "one figure": (RIGHT_REWARD, 'return height, {"h": 1.0}', ("reward", "'h'", "float")),
    "an end that is a number": (RIGHT_END, 'return data["qpos"][:, 1]',
                                ("terminated", "float64", "(4,) of bool")),
    "one end": (RIGHT_END, "return False", ("terminated", "a bool", "(4,) of bool")),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TASKS)
def test_a_task_that_is_wrong(case, cart):
    old, new, parts = BAD_TASKS[case]
    said = sentence(lambda: Robot.load(cart(old, new)).terms)
    assert "task.py" in said
    for part in parts:
        assert part in said


def test_a_wrong_task_is_one_line_on_the_command_line(cart, capsys):
    folder = cart("import numpy", "import nunpy")
    assert main(["serve", str(folder), "--port", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sim2real: {folder / 'task.py'}, line 1: ModuleNotFoundError")
    assert "pip install" not in err
    assert len(err.splitlines()) == 1


def test_a_term_of_a_task_that_is_wrong(cart):
    term = {"source": "tip", "unit": "m", "sensor": "camera"}
    method = 'tip(self, data):\n        return data["site_xpos"][:, 0, 2]\n\n    def terminated('
    folder = cart("terminated(", method, env={"terms": {"tip": term}})
    said = sentence(lambda: Robot.load(folder).terms)
    assert re.search(r"task\.py: tip of 1 worlds gives an array \(1,\).* \(1, n\)", said)


def test_a_task_in_an_installed_module(cart, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_tasks_of_test.py").write_text(TASK.replace("import numpy", "import nunpy"))
    folder = cart(env={"task": "my_tasks_of_test:Balance"})
    assert "my_tasks_of_test.py, line 1" in sentence(lambda: Robot.load(folder).terms)
    folder = cart(env={"task": "my_task_of_test:Balance"})
    assert "no module 'my_task_of_test'" in sentence(lambda: Robot.load(folder).terms)
    (tmp_path / "my_tasks_of_test.py").write_text(TASK)
    folder = cart(env={"task": "my_tasks_of_test:Balence"})
    assert "did you mean 'Balance'" in sentence(lambda: Robot.load(folder).terms)
    sys.modules.pop("my_tasks_of_test")


def test_a_model_that_mujoco_refuses_is_one_line(cart):
    folder = cart(model=MODEL.replace('joint="slide"', 'joint="slid"'))
    said = sentence(lambda: Robot.load(folder).model)
    assert "cart.xml: MuJoCo cannot read it" in said
    assert "slid" in said


# Numbers that are none, later than at the first step


FIELDS = ('("site_xpos",)', '("site_xpos", "time")')
NAN_OBS = (*FIELDS, RIGHT_OBS, RIGHT_OBS.replace("return", "obs =") + """
        obs[1:2, 2] *= np.where(data["time"][1:2] > 0.1, np.nan, 1.0)
        return obs""")  # fmt: skip
INF_REWARD = (*FIELDS, RIGHT_REWARD, """reward = height.copy()
        reward[1:2] += np.where(data["time"][1:2] > 0.1, np.inf, 0.0)
        return reward, {}""")  # fmt: skip


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (NAN_OBS, "cart: the observation term 'v5' (v5[2]) is nan in world 1; it must be finite"),
        (INF_REWARD, "cart: the reward is inf in world 1; it must be finite"),
    ],
)
def test_an_observation_or_a_reward_that_is_no_number_ends_learning(edits, said, cart):
    env = WorldsVecEnv(Worlds(Robot.load(cart(*edits)), 3))
    env.reset()
    steps = [np.zeros((3, 1), np.float32)] * 19
    assert sentence(lambda: [env.step(step) for step in steps]).startswith(said)


def test_an_observation_that_is_no_number_ends_an_evaluation(cart, tmp_path):
    recipe = {
        "description": "", "env": str(cart()), "randomize": "none", "correct": "none",
        "align": "none", "adapt": "none", "steps": 32, "worlds": 2, "threads": 1,
        "learner": {"network": [4], "settings": {"n_steps": 16, "batch_size": 16}},
    }  # fmt: skip
    policy = sim2real.train(recipe, out=tmp_path / "run")
    assert np.isfinite(evaluate(policy, cart(), episodes=4).returns).all()
    said = sentence(lambda: evaluate(policy, cart(*NAN_OBS), episodes=4))
    assert "'v5' (v5[2]) is nan" in said


# Settings of the algorithm


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"n_stepz": 2}, ("learner.settings.n_stepz", "'n_steps'", "settings belong to the algo")),
        ({"buffer_size": 9}, ("ppo has no such setting", "batch_size")),
        ({"learning_rate": 0.1}, ("settings.learning_rate", "learner.learning_rate")),
        ({"n_steps": "many"}, ("settings.n_steps is 'many'", "a whole number")),
        ({"n_steps": 2.5}, ("settings.n_steps is 2.5", "a whole number")),
        ({"n_epochs": True}, ("settings.n_epochs is True", "a whole number")),
        ({"clip_range": "wide"}, ("settings.clip_range is 'wide'", "a number")),
        ({"target_kl": "none"}, ("settings.target_kl is 'none'", "a number")),
        ({"normalize_advantage": 1}, ("settings.normalize_advantage is 1", "true or false")),
    ],
)
def test_a_setting_that_the_algorithm_does_not_take(settings, parts):
    said = sentence(lambda: Learner(settings=settings))
    for part in parts:
        assert part in said


def test_settings_that_the_algorithms_take():
    Learner(settings={"clip_range": 1, "target_kl": None, "n_steps": 4, "clip_range_vf": 0.1})
    for algorithm in ("sac", "tqc"):
        Learner(algorithm, settings={"ent_coef": "auto_0.1", "train_freq": [1, "step"], "tau": 1})


# Checkpoints that cannot be read


RECIPE: dict[str, Any] = {
    "description": "", "env": "hopper", "observe": "measured", "randomize": "none",
    "correct": "none", "align": "none", "adapt": "none", "steps": 128, "worlds": 2, "threads": 1,
    "learner": {"network": [4], "settings": {"n_steps": 32, "batch_size": 64}}, "checkpoint": 64,
}  # fmt: skip


@pytest.fixture
def two(once, tmp_path) -> Path:
    """A run with two checkpoints, which may be damaged."""
    made = once("two-checkpoints", lambda folder: sim2real.train(RECIPE, out=folder / "run"))
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE: list[Callable[[Path], Any]] = [
    lambda folder: cut(folder / "model.zip"),
    lambda folder: cut(folder / "normalize.pkl"),
    lambda folder: (folder / "normalize.pkl").unlink(),
    lambda folder: (folder / "model.zip").unlink(),
    lambda folder: (folder / "model.zip").write_bytes(b""),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_on_from_the_older_checkpoint_where_the_last_cannot_be_read(
    damage, two, tmp_path, caplog
):
    older, last = sorted((two / "checkpoints").iterdir())
    shutil.copytree(two, tmp_path / "right")
    shutil.rmtree(tmp_path / "right" / "checkpoints" / last.name)
    damage(last)
    with caplog.at_level(logging.WARNING):
        policy = sim2real.train(RECIPE, out=two, resume=True)
    (said,) = caplog.messages
    assert f"{last} cannot be read" in said
    assert f"going on from {older}" in said
    right = sim2real.train(RECIPE, out=tmp_path / "right", resume=True)
    assert all((a == b).all() for a, b in zip(policy.parameters(), right.parameters(), strict=True))


def test_a_run_without_a_checkpoint_that_can_be_read_is_not_resumed(two):
    for folder in (two / "checkpoints").iterdir():
        cut(folder / "model.zip")
    before = {p: p.read_bytes() for p in two.rglob("*") if p.is_file()}
    said = sentence(lambda: sim2real.train(RECIPE, out=two, resume=True))
    assert said.count("cannot be read") == 2
    assert "another --out" in said
    assert {p: p.read_bytes() for p in two.rglob("*") if p.is_file()} == before


# Addresses, logs, choices


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:99999", "127.0.0.1:0", "robot:http"])
def test_an_address_that_is_none(address, trained, capsys):
    assert main(["run", str(trained / "artifact"), "--robot", address]) == 2
    said = capsys.readouterr().err
    assert (
        f"'{address}' is not the address of a robot; give HOST:PORT with a port from 1 to" in said
    )
    assert "127.0.0.1:47800" in said


@pytest.mark.parametrize("inside", ["", "deep/er"])
def test_a_file_is_no_folder_for_logs(inside, trained, serving, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    with serving() as address:
        robot = connect(address)
        said = sentence(lambda: run(trained / "artifact", robot, log=file / inside))
        assert robot.reset(seed=1).seq == 1  # nothing was sent before
        robot.close()
    assert said == f"{file} is a file; give a folder for the logs (--log)"
    assert file.read_text() == "mine"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n" + bytes(100), b"", b"hello"])
def test_a_picture_is_no_log(content, tmp_path, capsys):
    (tmp_path / "map.png").write_bytes(content)
    assert main(["identify", str(tmp_path / "map.png"), "--env", "hopper"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "map.png is not a log of `sim2real run`" in said
    assert "pickle" not in said


def test_python_objects_are_no_log(tmp_path):
    np.savez(tmp_path / "a.npz", info=np.array({"a": 1}, dtype=object))
    said = sentence(lambda: sim2real.identify(tmp_path / "a.npz", "hopper"))
    assert "Python objects" in said
    assert "pickle" not in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "p", "--context", "treu"], "sim2real: --context: no 'treu' (did you mean "
         "'true'?); it is one of nominal, true, other; see sim2real evaluate --help\n"),
        (["lisd"], "sim2real: COMMAND: no 'lisd' (did you mean 'list'?); it is one of demo, "),
    ],
)  # fmt: skip
def test_a_wrong_choice_is_one_sentence(words, said, capsys):
    with pytest.raises(SystemExit):
        main(words)
    err = capsys.readouterr().err
    assert err.startswith(said)
    assert err.count("(") == 1


# Gymnasium environments


def test_a_gymnasium_environment_is_adapted_with_the_engine_search(tmp_path):
    from sim2real.identification.windows import Observers

    said = sentence(lambda: Observers(Robot.load("fetch_reach"), [], candidates=2))
    assert "--engine search" in said
    assert 'engine="search"' in said


def test_gymnasium_robotics_is_imported_in_silence(capfd):
    import subprocess

    program = (
        "from sim2real.simulation.robot import Robot; Robot.load('fetch_reach').control_period"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
