"""What the pages in docs/ promise: their examples are read, and nothing that can be said is left
out."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
import pytest
import torch
import yaml

from sim2real import content, schema
from sim2real.bridges.adapt.context import Context
from sim2real.bridges.align.adversarial import Dann
from sim2real.bridges.correct.darc import Darc
from sim2real.bridges.randomize.adr import ADR
from sim2real.bridges.randomize.doraemon import Doraemon
from sim2real.bridges.randomize.epopt import EPOpt
from sim2real.bridges.randomize.posterior import FromPosterior
from sim2real.bridges.randomize.reidentify import Reidentify
from sim2real.bridges.randomize.uniform import Uniform
from sim2real.cli import _parser
from sim2real.dynamics.parameter import Parameter
from sim2real.learning.learners import ALGORITHMS, Learner
from sim2real.recipe import Distill, Recipe
from sim2real.simulation import gap as gaps
from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import EnvConfig, Robot, Safety
from sim2real.simulation.tasks import TASKS
from sim2real.simulation.tasks.base import Task, rest_of
from sim2real.simulation.terms import SOURCES, TermConfig
from sim2real.simulation.worlds import Worlds

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = {
    page: (DOCS / f"{page}.md").read_text("utf-8") for page in ("robots", "recipes", "commands")
}
KINDS: dict[str, type] = {"env": EnvConfig, "gap": Gap, "recipe": Recipe}


class Block(NamedTuple):
    page: str
    words: list[str]
    """What stands after the fence: language, kind, file."""
    text: str


def blocks() -> Iterator[Block]:
    for page, text in PAGES.items():
        for head, body in re.findall(r"^```(.+?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            yield Block(page, head.split(), body)


YAML = [block for block in blocks() if block.words[0] == "yaml"]


@pytest.mark.parametrize("block", YAML, ids=lambda b: f"{b.page}-{b.text.splitlines()[0]}")
def test_every_example_is_read(block, tmp_path):
    assert block.words[1] in KINDS, "a yaml block says what it is: env, gap or recipe"
    file = tmp_path / "example.yaml"
    file.write_text(block.text)
    schema.read(KINDS[block.words[1]], file)


def test_every_page_has_examples():
    assert {b.words[1] for b in YAML} == set(KINDS)
    assert {b.page for b in YAML} == {"robots", "recipes"}


@pytest.fixture
def example(tmp_path, monkeypatch) -> Path:
    """The folder with the files of the worked example, where it is then."""
    for block in blocks():
        name = block.words[-1]
        if "." in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_worked_example_is_a_robot(example):
    robot = Robot.load("wagon")
    recipe = schema.read(Recipe, example / "wagon-context.yaml")
    assert recipe.env == "wagon"
    assert robot.control_period == pytest.approx(0.02)
    for names in (recipe.observe, "camera", "v5"):
        worlds = Worlds(robot, 3, gap="worn", observe=names, draw=robot.space.prior(), threads=1)
        first = worlds.reset()
        step = worlds.step(np.ones((3, 1), np.float32))
        assert first.shape == step.obs.shape
        assert np.isfinite(step.obs).all()
        assert (step.reward > 0).all()
    tip = Worlds(robot, 1, observe=["tip"], threads=1)
    tip._engine.reset(np.arange(1), np.array([[0.3, 0.2]]), np.zeros((1, 2)))
    assert tip._observe()[0, 0] == pytest.approx(0.6 * np.sin(0.2))


@pytest.mark.parametrize("block", [b for b in YAML if b.page == "robots" and b.words[1] == "gap"],
                         ids=lambda b: b.text.splitlines()[0])  # fmt: skip
def test_every_gap_is_one_that_the_wagon_can_have(block, example):
    (example / "gap.yaml").write_text(block.text)
    worlds = Worlds(Robot.load("wagon"), 2, gap="gap.yaml", observe="measured", threads=1)
    worlds.reset()
    assert np.isfinite(worlds.step(np.ones((2, 1), np.float32)).obs).all()


def test_one_gap_has_every_key():
    everything = next(b for b in YAML if "Everything at once" in b.text)
    said: Any = yaml.safe_load(everything.text)
    nominal = schema.to_dict(Gap())
    assert list(said) == list(nominal)
    for part in ("latency", "actuators", "mounting", "pushes", "network"):
        assert list(said[part]) == list(nominal[part])
    assert list(said["sensors"]["position"]) == [f.name for f in fields(gaps.Sensor)]


def rows(text: str) -> list[str]:
    """The first cell of every row of every table."""
    return [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]


def section(page: str, head: str) -> str:
    """The text below a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(head)}\n(.*?)(?=^#{{1,2}} |\Z)", PAGES[page],
                      re.DOTALL | re.MULTILINE)  # fmt: skip
    assert found, f"docs/{page}.md has no heading '{head}'"
    below = re.split(rf"^#{{1,{len(found[1])}}} ", found[2], flags=re.MULTILINE)
    return below[0]


@pytest.mark.parametrize(
    ("page", "head", "cls"),
    [
        ("robots", "env.yaml", EnvConfig),
        ("robots", "terms", TermConfig),
        ("robots", "parameters", Parameter),
        ("robots", "safety", Safety),
        *(("robots", "gaps/NAME.yaml", part) for part in (
            gaps.Gap, gaps.Latency, gaps.Actuators, gaps.Sensor, gaps.Mounting, gaps.Pushes,
            gaps.Network, gaps.Draw,
        )),
        ("recipes", "Keys", Recipe),
        ("recipes", "uniform", Uniform),
        ("recipes", "epopt", EPOpt),
        ("recipes", "doraemon", Doraemon),
        ("recipes", "adr", ADR),
        ("recipes", "posterior", FromPosterior),
        ("recipes", "reidentify", Reidentify),
        ("recipes", "correct", Darc),
        ("recipes", "align", Dann),
        ("recipes", "adapt", Context),
        ("recipes", "learner", Learner),
        ("recipes", "distill", Distill),
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else x,
)  # fmt: skip
def test_every_key_stands_in_a_table(page, head, cls):
    first = " ".join(rows(section(page, head)))
    missing = [f.name for f in fields(cls) if f.init and f"`{f.name}`" not in first]
    assert not missing, f"docs/{page}.md, '{head}': no row for {', '.join(missing)}"


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("terms", SOURCES),
        ("task", TASKS),
        ("task", [n for n in vars(Task) if not n.startswith("_")]),
    ],
    ids=["sources", "tasks", "methods"],
)
def test_what_a_robot_may_name_is_listed(head, names):
    missing = [n for n in names if not re.search(rf"\b{n}\b", section("robots", head))]
    assert not missing


def test_every_algorithm_is_listed():
    assert all(f"`{name}`" in section("recipes", "learner") for name in ALGORITHMS)


PARSERS: dict[str, argparse.ArgumentParser] = next(
    action.choices
    for action in _parser()._actions
    if isinstance(action, argparse._SubParsersAction)
)


@pytest.mark.parametrize("command", PARSERS)
def test_every_command_and_option_is_told(command):
    text = section("commands", command)
    assert f"sim2real {command}" in text, "no example"
    told = {word for cell in rows(text) for word in re.findall(r"`(--\w+)`", cell)}
    there = {o for o in PARSERS[command]._option_string_actions if o.startswith("--")} - {"--help"}
    assert told == there


@pytest.mark.parametrize("command", PARSERS)
def test_every_argument_has_a_help_text(command):
    silent = [a.dest for a in PARSERS[command]._actions if not a.help]
    assert not silent


def test_commands_that_are_told_are_commands():
    """Lines of the pages that begin with `sim2real` parse."""
    lines = [
        shlex.split(line.split("&")[0], comments=True)[1:]
        for text in PAGES.values()
        for line in map(str.strip, text.splitlines())
        if line.startswith("sim2real ") and "..." not in line
    ]
    assert len(lines) > 15
    for words in lines:
        arguments, unknown = _parser().parse_known_args(words)
        assert not unknown
        assert arguments.command.__name__.rstrip("_") == words[0]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target, head in re.findall(r"\]\(([^)#:]+)(?:#([^)]+))?\)", page.read_text("utf-8")):
        assert (DOCS / target).is_file(), target
        heads = re.findall(r"^#+ (.+)$", (DOCS / target).read_text("utf-8"), re.MULTILINE)
        assert not head or head in [h.lower().replace(" ", "-") for h in heads], head


@pytest.mark.parametrize("name", content.env_names())
def test_every_robot_has_a_picture(name):
    """It is drawn by `tools/draw_robots.py`."""
    folder = content.env_folder(name)
    shown = re.search(r"^!\[(.+)\]\((.+)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert shown, f"envs/{name}/README.md shows no picture"
    assert len(shown[1]) > 20, "say what is to be seen"
    picture = folder / shown[2]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size <= 60_000


URDF = """<robot name="t"><mujoco><compiler fusestatic="false" discardvisual="true"/></mujoco>
<link name="base"><inertial><mass value="1"/>
<inertia ixx="0.01" iyy="0.01" izz="0.01" ixy="0" ixz="0" iyz="0"/></inertial></link>
<link name="leg"><inertial><origin xyz="0 0 -0.1"/><mass value="0.5"/>
<inertia ixx="0.01" iyy="0.01" izz="0.001" ixy="0" ixz="0" iyz="0"/></inertial>
<collision><geometry><sphere radius="0.02"/></geometry></collision></link>
<joint name="hip" type="revolute"><parent link="base"/><child link="leg"/><axis xyz="0 1 0"/>
<limit lower="-1" upper="1" effort="20" velocity="10"/></joint></robot>"""


def test_a_urdf_becomes_a_model_as_the_page_says(tmp_path, monkeypatch):
    page = (DOCS / "your_robot.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    Path("robot.urdf").write_text(URDF)
    exec(code, {})
    model = mujoco.MjModel.from_xml_path("robot.xml")
    assert [model.joint(i).name for i in range(model.njnt)] == ["root", "hip"]
    assert model.nu == 1
    assert model.key("home").qpos[2] == 0.3
    assert rest_of(model).tolist() == [0.0]
    assert model.geom("floor").type == int(mujoco.mjtGeom.mjGEOM_PLANE)
    assert model.body_mass.sum() == 1.5


def test_robots_of_ones_own_are_drawn():
    page = (DOCS / "adaptation.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    drawn = {tuple(xi) for xi in names["mine"]}
    assert {tuple(xi) for xi in names["worlds"].xi} <= drawn
    assert names["step"].obs.shape == names["obs"].shape


def test_the_bridges_go_into_a_program_of_ones_own(tmp_path, monkeypatch):
    """The page's program, with fewer steps."""
    (code,) = re.findall(
        r"^```python alone.py\n(.*?)^```$", PAGES["recipes"], re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code.replace("100_000", "2_000"), names)
    assert names["robust"].num_timesteps >= 2_000
    assert names["corrected"].replay_buffer.correction.active


def test_a_start_is_learned_from_which_a_few_steps_go_far(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(
        r"^```python meta.py\n(.*?)^```$", PAGES["recipes"], re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(code, names)
    before, after = (float(x) for x in capsys.readouterr().out.split())
    assert after < before


def test_a_policy_that_remembers_is_trained(tmp_path, monkeypatch, capsys):
    code = re.findall(r"^```python rl2.py\n(.*?)^```$", PAGES["recipes"], re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for part in code:
        exec(part, names)
    assert len(code) == 2
    assert np.isfinite(names["x"]).all()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["4096", "8192"]


def test_what_the_page_names_is_there():
    page = (DOCS / "your_robot.md").read_text("utf-8")
    for name in re.findall(r"`task: (\w+)`|`(joint_trajectory|reach_pose)`", page):
        assert (name[0] or name[1]) in TASKS
    for name in ("joint_position", "joint_velocity", "gravity", "gyro", "last_action"):
        assert f"`{name}`" in page
        assert name in SOURCES
    for link in re.findall(r"\]\((\w+\.md)", page):
        assert (DOCS / link).is_file()
