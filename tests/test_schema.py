"""The strict reader: what is right arrives typed, what is wrong is refused by place and name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml

from sim2real import schema
from sim2real.types import InputError


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float = 3e-4
    epochs: int = 10
    schedule: Literal["constant", "linear"] = "constant"


@dataclass(frozen=True)
class Uniform:
    width: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Range:
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


@dataclass(frozen=True)
class Recipe:
    env: str
    steps: int = 1000
    optimizer: Optimizer = field(default_factory=Optimizer)
    randomize: Literal["none", "uniform"] | Uniform = "uniform"
    gap: str | None = None
    noise: float | Range | None = None
    ranges: dict[str, Range] = field(default_factory=dict)
    layers: tuple[int, ...] = (64, 64)
    pair: tuple[float, str] = (0.0, "m")
    joints: list[str] = field(default_factory=list)
    folder: Path = Path()
    resume: bool = False
    extra: Any = None


FULL = """
env: hopper
steps: 2_000
optimizer: {learning_rate: 1e-3, epochs: 4, schedule: linear}
randomize: {width: 1, names: [mass, "on"]}
gap: worn
noise: {low: -1, high: 2.5e+1}
ranges:
  mass: {low: 0.5, high: 1.5}
  friction: {low: 0.4, high: 1E+1}
layers: [256, 256]
pair: [5, mm]
joints: []
folder: runs/one
resume: true
extra: {a: [1, {b: null}], c: 1e-3}
"""


def write_text(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    """The message with which the text is refused: one sentence that names the file."""
    path = write_text(folder, text)
    with pytest.raises(InputError) as error:
        schema.read(Recipe, path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_reads_every_kind_of_field(tmp_path):
    assert schema.read(Recipe, write_text(tmp_path, FULL)) == Recipe(
        env="hopper",
        steps=2000,
        optimizer=Optimizer(1e-3, 4, "linear"),
        randomize=Uniform(1.0, ("mass", "on")),
        gap="worn",
        noise=Range(-1.0, 25.0),
        ranges={"mass": Range(0.5, 1.5), "friction": Range(0.4, 10.0)},
        layers=(256, 256),
        pair=(5.0, "mm"),
        joints=[],
        folder=Path("runs/one"),
        resume=True,
        extra={"a": [1, {"b": None}], "c": "1e-3"},
    )


def test_file_and_mapping_read_the_same(tmp_path):
    from_file = schema.read(Recipe, write_text(tmp_path, FULL))
    assert schema.read(Recipe, yaml.safe_load(FULL)) == from_file
    assert schema.read(Recipe, str(tmp_path / "recipe.yaml")) == from_file


def test_defaults_fill_what_is_absent():
    assert schema.read(Recipe, {"env": "ant"}) == Recipe("ant")


def test_the_result_is_frozen_and_numbers_have_their_declared_type():
    recipe = schema.read(Recipe, {"env": "ant", "noise": 1, "pair": [2, "m"]})
    assert type(recipe.noise) is float
    assert type(recipe.pair[0]) is float
    with pytest.raises(FrozenInstanceError):
        recipe.steps = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.e-3", "+1e-03", ".1e-2", "'1e-3'", "1.0e-3"])
def test_exponents_are_numbers_where_a_float_is_declared(tmp_path, text):
    path = write_text(tmp_path, f"env: hopper\noptimizer: {{learning_rate: {text}}}\nnoise: {text}")
    recipe = schema.read(Recipe, path)
    assert recipe.optimizer.learning_rate == recipe.noise == 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown keys, with the nearest known one
        ("env: a\nstep: 3", "step: unknown key (did you mean 'steps'?); here belong the keys env,"),
        ("env: a\nenviroment: b", "enviroment: unknown key"),
        (
            "env: a\noptimizer: {learning_rte: 1}",
            "optimizer.learning_rte: unknown key (did you mean 'learning_rate'?)",
        ),
        ("env: a\nranges: {mass: {low: 0, hgih: 1}}", "ranges.mass.hgih: unknown key (did you"),
        ("env: a\nrandomize: {widht: 1}", "randomize.widht: unknown key (did you mean 'width'?)"),
        # missing keys
        ("steps: 3", "env: the key is missing; write text"),
        ("env: a\nrandomize: {names: [b]}", "randomize.width: the key is missing; write a number"),
        ("env: a\nnoise: {low: 1}", "noise.high: the key is missing"),
        # wrong types
        ("env: 3", "env: expected text, got the whole number 3: write '3' in quotes"),
        ("env: true", "env: expected text, got the boolean true: write 'true' in quotes"),
        ("env: [a]", "env: expected text, got a list of 1"),
        ("env:", "env: expected text, got nothing (null)"),
        ("env: 2026-01-02", "env: expected text, got the date 2026-01-02; write it in quotes"),
        ("env: a\nsteps: 1e6", "steps: expected a whole number, got the text '1e6': write 1000000"),
        ("env: a\nsteps: 1.0e+6", "steps: expected a whole number, got the number 1000000.0: wri"),
        ("env: a\nsteps: 1.5", "steps: expected a whole number, got the number 1.5"),
        ("env: a\nsteps: true", "steps: expected a whole number, got the boolean true"),
        ("env: a\nresume: 1", "resume: expected true or false, got the whole number 1"),
        ("env: a\nresume: 'true'", "resume: expected true or false, got the text 'true': write tr"),
        ("env: a\nlayers: 64", "layers: expected a list, got the whole number 64"),
        ("env: a\nlayers: [64, big]", "layers[1]: expected a whole number, got the text 'big'"),
        ("env: a\npair: [1, m, 2]", "pair: expected a list of 2, got a list of 3"),
        ("env: a\nranges: [1]", "ranges: expected a mapping, got a list of 1"),
        ("env: a\noptimizer: adam", "optimizer: expected a mapping with the keys learning_rate,"),
        ("env: a\ngap: [b]", "gap: expected text, got a list of 1"),
        ("env: a\nnoise: [1]", "noise: expected a number or a mapping with the keys low, high or"),
        ("- env", "expected a mapping with the keys env,"),
        ("env: a\nrandomize: unifrom", "randomize: expected one of none, uniform, got the text"),
        ("env: a\noptimizer: {schedule: liner}", "(did you mean 'linear'?)"),
        # strings that look like numbers
        (
            "env: a\noptimizer: {learning_rate: '0.5'}",
            "optimizer.learning_rate: expected a number, got the text '0.5': write 0.5 without quo",
        ),
        (
            "env: a\noptimizer: {learning_rate: 0.1.}",
            "optimizer.learning_rate: expected a number, got the text '0.1.': write digits",
        ),
        ("env: a\noptimizer: {learning_rate: fast}", "for example 0.001 or 1e-3"),
        ("env: a\noptimizer: {learning_rate: true}", "expected a number, got the boolean true"),
        # not finite
        ("env: a\nnoise: .nan", "noise: expected a finite number, got nan"),
        ("env: a\nnoise: -.inf", "noise: expected a finite number, got -inf"),
        ("env: a\nnoise: 1e999", "noise: expected a finite number, got inf"),
        ("env: a\nextra: {b: [.nan]}", "extra.b[0]: expected a finite number, got nan"),
        (f"env: a\nnoise: 1{'0' * 400}", "noise: expected a number, got one too large"),
        # what the class itself refuses
        ("env: a\nnoise: {low: 2, high: 1}", "noise: low 2.0 is above high 1.0"),
        ("env: a\nranges: {m: {low: 2, high: 1}}", "ranges.m: low 2.0 is above high 1.0"),
        # the traps of YAML 1.1
        ("on: 1\nenv: a", "line 1: YAML reads the key on as a boolean: write 'on' in quotes"),
        ("env: a\nranges:\n  no: 1", "line 3: YAML reads the key no as a boolean: write 'no'"),
        ("env: a\nextra: {Yes: 1}", "line 2: YAML reads the key Yes as a boolean"),
        ("env: a\nextra: {1: 1}", "line 2: YAML reads the key 1 as a number"),
        ("env: a\nextra: {~: 1}", "line 2: YAML reads the key ~ as null"),
        ("env: no", "line 1: YAML reads no as false: write false, or 'no' in quotes if it is text"),
        ("env: a\nresume: on", "line 2: YAML reads on as true: write true, or 'on' in quotes"),
        ("env: a\nsteps: 012", "line 2: YAML reads 012 as 10 (octal): write 10, or '012' in quot"),
        ("env: a\nsteps: 3:30", "line 2: YAML reads 3:30 as 210 (base 60): write 210"),
        # not YAML
        ("env: a\nenv: b", "line 2: the key 'env' is already on line 1: keep one"),
        ("env: a\nextra: {b: 1, b: 2}", "line 2: the key 'b' is already on line 2: keep one"),
        ("env: [a", "line 1: "),
        ("env: a\n\tsteps: 1", "line 2: "),
        ("env: a\n---\nenv: b", "line 2: "),
        ("env: !!python/object:os.system a", "line 1: could not determine a constructor"),
        ("? [a]\n: 1", "line 1: a key must be plain text"),
        ("env: \x07", "not YAML: "),
        ("", "is empty; it needs the keys env,"),
        ("# nothing but a remark\n", "is empty; it needs the keys env,"),
    ],
)
def test_refuses(tmp_path, text, message):
    assert message in refusal(tmp_path, text)


def test_a_missing_file_names_the_nearest(tmp_path):
    write_text(tmp_path, "env: a")
    with pytest.raises(InputError, match=r"no such file \(did you mean 'recipe.yaml'\?\)"):
        schema.read(Recipe, tmp_path / "recpie.yaml")
    with pytest.raises(InputError, match=r"no such file$"):
        schema.read(Recipe, tmp_path / "nowhere" / "recipe.yaml")


def test_a_folder_and_a_binary_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a YAML file"):
        schema.read(Recipe, tmp_path)
    binary = tmp_path / "policy.yaml"
    binary.write_bytes(b"env: \xff\xfe")
    with pytest.raises(InputError, match=r"is not text in UTF-8 \(byte 5\)"):
        schema.read(Recipe, binary)


def test_load_gives_plain_data_and_refuses_what_is_not_a_mapping(tmp_path):
    assert schema.load(write_text(tmp_path, "a: {b: [1, 1e-3]}")) == {"a": {"b": [1, "1e-3"]}}
    for text, message in [("", "is empty"), ("- a", "got a list of 1"), ("a", "got the text 'a'")]:
        with pytest.raises(InputError, match=message):
            schema.load(write_text(tmp_path, text))


def test_boolean_keys_of_a_mapping_are_refused_too():
    with pytest.raises(InputError, match="Recipe: extra: a key is the boolean true, as YAML reads"):
        schema.read(Recipe, {"env": "a", "extra": {True: 1}})
    with pytest.raises(InputError, match=r"^here: a key is the boolean false"):
        schema.read(Recipe, {"env": "a", False: 1}, "here")  # pyright: ignore[reportArgumentType]


def test_merge_keys_and_anchors_work(tmp_path):
    text = """
env: a
extra: &base {low: 0, high: 1}
ranges:
  mass: {<<: *base, high: 2}
  both: {<<: {<<: *base, low: 1}, high: 3}
"""
    recipe = schema.read(Recipe, write_text(tmp_path, text))
    assert recipe.ranges == {"mass": Range(0, 2), "both": Range(1, 3)}


def test_what_was_written_reads_back_equal(tmp_path):
    recipe = schema.read(Recipe, write_text(tmp_path, FULL))
    path = tmp_path / "resolved.yaml"
    schema.write(recipe, path)
    assert schema.read(Recipe, path) == recipe
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["recipe.yaml", "resolved.yaml"]


@pytest.mark.parametrize("text", ["on", "no", "012", "3:30", "1e-3", "0.5", "", "null", "ξ", "~"])
def test_texts_that_look_like_something_else_survive(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    schema.write(Recipe(env=text, joints=[text], ranges={text: Range(0, 1)}), path)
    recipe = schema.read(Recipe, path)
    assert (recipe.env, recipe.joints, list(recipe.ranges)) == (text, [text], [text])


def test_floats_survive_bit_for_bit(tmp_path):
    values = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.arange(-100, 100)
    path = tmp_path / "numbers.yaml"
    schema.write({"values": list(values)}, path)
    assert schema.load(path)["values"] == values.tolist()


def test_write_takes_the_numbers_of_numpy_and_refuses_what_read_would(tmp_path):
    path = tmp_path / "numbers.yaml"
    schema.write({"n": np.int64(3), "x": np.float32(0.5), "path": tmp_path}, path)
    assert schema.load(path) == {"n": 3, "x": 0.5, "path": str(tmp_path)}
    with pytest.raises(ValueError, match="not finite"):
        schema.write({"x": float("nan")}, path)
    with pytest.raises(TypeError, match="ndarray cannot be written"):
        schema.write({"x": np.zeros(2)}, path)
    assert schema.load(path)["n"] == 3


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "recipe.yaml"
    schema.write({"env": "old"}, path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        schema.write({"env": "new"}, path)
    assert schema.load(path) == {"env": "old"}
    assert list(tmp_path.iterdir()) == [path]


def test_overrides_replace_add_and_leave_the_original():
    original: Mapping[str, Any] = {"env": "a", "optimizer": {"epochs": 1}, "layers": (64, 64)}
    changed = schema.apply_overrides(
        original,
        [
            "optimizer.epochs=5",
            "optimizer.learning_rate=1e-3",
            "gap=null",
            "layers.1=32",
            "ranges.mass={low: 0, high: 1}",
            "ranges.mass.high=2",
            "env=has=equals",
        ],
    )
    assert schema.read(Recipe, changed) == Recipe(
        env="has=equals",
        optimizer=Optimizer(1e-3, 5),
        layers=(64, 32),
        ranges={"mass": Range(0, 2)},
    )
    assert original == {"env": "a", "optimizer": {"epochs": 1}, "layers": (64, 64)}


def test_overrides_as_a_mapping_and_none():
    value = {"low": 0, "high": 1}
    changed = schema.apply_overrides({"env": "a"}, {"ranges.mass": value, "ranges.mass.high": 3})
    assert changed["ranges"]["mass"] == {"low": 0, "high": 3}
    assert value == {"low": 0, "high": 1}
    assert schema.apply_overrides({"env": "a"}, None) == {"env": "a"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "override 'steps': write it as key=value"),
        ("steps=", "write it as key=value"),
        ("=3", "a part of the key path is empty"),
        ("optimizer..epochs=3", "a part of the key path is empty"),
        ("env.name=3", "'env' is the text 'a' and has no key 'name' below it"),
        ("layers.2=3", "'layers' is a list (0 to 1) and has no entry '2'"),
        ("layers.first=3", "has no entry 'first'"),
        ("resume=on", "YAML reads on as true: write true"),
        ("steps=[1", "override 'steps=[1': line 1: "),
    ],
)
def test_overrides_that_are_refused(override, message):
    with pytest.raises(InputError) as error:
        schema.apply_overrides({"env": "a", "layers": [1, 2]}, [override])
    assert message in str(error.value)


def test_a_schema_with_an_unknown_type_is_the_programmers_error():
    @dataclass(frozen=True)
    class Wrong:
        value: complex

    Wrong.__annotations__ = {"value": complex}
    assert [f.name for f in fields(Wrong)] == ["value"]
    with pytest.raises(TypeError, match="does not know the type"):
        schema.read(Wrong, {"value": 1})


# Tagged unions


@dataclass(frozen=True)
class _Round:
    method: Literal["round"] = "round"
    radius: float = 1.0


@dataclass(frozen=True)
class _Square:
    method: Literal["square"] = "square"
    radius: float = 2.0


@dataclass(frozen=True)
class _Shaped:
    shape: Literal["none"] | _Round | _Square


def test_a_tag_decides_which_member_of_a_union_is_meant():
    read_ = schema.read(_Shaped, {"shape": {"method": "square", "radius": 3}})
    assert read_.shape == _Square(radius=3.0)
    assert schema.read(_Shaped, {"shape": {"radius": 3}}).shape == _Round(radius=3.0)


@pytest.mark.parametrize("tag", ["sqare", "triangle", "Round"])
def test_a_tag_that_no_member_has_is_refused_with_those_there_are(tag):
    with pytest.raises(InputError, match=rf"shape\.method: expected one of round, square.*{tag}"):
        schema.read(_Shaped, {"shape": {"method": tag, "radius": 3}})


def test_a_member_with_a_right_tag_says_itself_what_is_wrong():
    with pytest.raises(InputError, match=r"shape\.side: unknown key.*method, radius"):
        schema.read(_Shaped, {"shape": {"method": "square", "side": 3}})
