"""Robots and recipes are found in a checkout, in an installed wheel, in a person's folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim2real import content
from sim2real.types import InputError


def make(root: Path, *files: str) -> None:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


CONTENT = (
    "envs/hopper/env.yaml",
    "envs/hopper/gaps/mild.yaml",
    "envs/hopper/gaps/worn.yaml",
    "envs/ant/env.yaml",
    "envs/no_robot/README.md",
    "policies/hopper_context/recipe.yaml",
)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout: envs/ and policies/ beside the package and its pyproject.toml."""
    make(tmp_path / "checkout", "pyproject.toml", "sim2real/content.py", *CONTENT)
    monkeypatch.setattr(content, "_PACKAGE", tmp_path / "checkout" / "sim2real")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "checkout"


def test_a_checkout(checkout):
    assert content.env_names() == ("ant", "hopper")
    assert content.policy_names() == ("hopper_context",)
    assert content.gap_names("hopper") == ("mild", "worn")
    assert content.gap_names("ant") == ()
    assert content.env_folder("hopper") == checkout / "envs" / "hopper"
    assert content.policy_folder("hopper_context") == checkout / "policies" / "hopper_context"
    assert content.recipe_file("hopper_context").name == "recipe.yaml"
    assert content.gap_file("hopper", "worn") == checkout / "envs" / "hopper" / "gaps" / "worn.yaml"


def test_a_wheel_brings_its_own_and_ignores_what_lies_beside(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    make(site, "envs/__init__.py", "envs/alien/env.yaml", "sim2real/content.py")
    monkeypatch.setattr(content, "_PACKAGE", site / "sim2real")
    assert content.env_names() == ()
    with pytest.raises(InputError, match="the shipped envs are none"):
        content.env_folder("alien")
    make(site / "sim2real" / "_content", *CONTENT)
    assert content.env_names() == ("ant", "hopper")
    assert content.env_folder("ant") == site / "sim2real" / "_content" / "envs" / "ant"


def test_a_persons_own_folder(checkout, tmp_path):
    own = tmp_path / "here" / "my_robot"
    make(own, "env.yaml", "gaps/rainy.yaml", "recipe.yaml")
    for given in ("my_robot", "./my_robot", own, str(own), own / "." / ".." / "my_robot"):
        assert content.env_folder(given) == own
        assert content.policy_folder(given) == own
        assert content.gap_file(given, "rainy") == own / "gaps" / "rainy.yaml"
    assert content.recipe_file(own / "recipe.yaml") == own / "recipe.yaml"
    assert content.gap_file("hopper", "my_robot/gaps/rainy.yaml") == own / "gaps" / "rainy.yaml"


def test_a_bare_name_means_the_shipped_one_and_a_path_the_own(checkout, tmp_path):
    make(tmp_path / "here", "hopper/env.yaml")
    assert content.env_folder("hopper") == checkout / "envs" / "hopper"
    assert content.env_folder("./hopper") == tmp_path / "here" / "hopper"


def test_the_home_folder(checkout, tmp_path, monkeypatch):
    make(tmp_path / "home", "robots/mine/env.yaml")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert content.env_folder("~/robots/mine") == tmp_path / "home" / "robots" / "mine"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "hoper",
            "robot 'hoper': no such name or folder (did you mean 'hopper'?); the shipped env",
        ),
        ("zebra", "robot 'zebra': no such name or folder; the shipped envs are ant, hopper"),
        ("./hopper", "robot './hopper': no such name or folder (did you mean 'hopper'?)"),
        ("../elsewhere/ant", "no such name or folder (did you mean 'ant'?)"),
        ("", "robot '': no such name or folder"),
        ("..", "robot '..': the folder has no env.yaml"),
        ("../checkout/envs", "the folder has no env.yaml (did you mean '../checkout/envs/ant'?)"),
        ("../checkout/envs/no_robot", "the folder has no env.yaml; the shipped envs are ant, hop"),
        ("../checkout/envs/ant/env.yaml", "is a file: give the folder that holds env.yaml"),
    ],
)
def test_no_such_robot(checkout, given, message):
    with pytest.raises(InputError) as error:
        content.env_folder(given)
    assert message in str(error.value)


def test_no_such_recipe_or_gap(checkout):
    with pytest.raises(InputError, match=r"recipe 'hopper_contxt': .*did you mean 'hopper_cont"):
        content.recipe_file("hopper_contxt")
    with pytest.raises(InputError, match=r"recipe 'mine.yaml': no such file$"):
        content.recipe_file("mine.yaml")
    with pytest.raises(InputError, match=r"'hopper' has no such gap \(did you mean 'worn'\?\); it"):
        content.gap_file("hopper", "wron")
    with pytest.raises(InputError, match=r"'ant' has no such gap; its gaps are none, or give"):
        content.gap_file("ant", "worn")
    gap = checkout / "envs" / "hopper" / "gaps" / "midl.yaml"
    with pytest.raises(InputError, match=r"midl.yaml': no such file \(did you mean 'mild.yaml'"):
        content.gap_file("hopper", gap)


def test_what_is_shipped_is_complete():
    for name in content.env_names():
        assert (content.env_folder(name) / "README.md").is_file(), f"envs/{name} has no README.md"
    for name in (*content.env_names(), *content.policy_names()):
        assert re.fullmatch("[a-z][a-z0-9_-]*", name), name
