"""Imports run one way. The house and the order of its rooms: ARCHITECTURE.md.

types <- dynamics <- simulation <- identification ─┐
types <- policy ───────────────────────────────────┴─ learning <- bridges <- train <- outer <- cli
types <- deploy, which knows nothing of the others; content, schema, progress: leaves for all

Read with `ast` and without importing anything, imports inside functions included.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "sim2real"

LEAVES = {"types", "content", "schema", "progress"}
PHYSICS = {"dynamics", "simulation", "identification"}
SHOWING = {"film", "pictures", "report"}
OUTER = SHOWING | {
    "adapt", "adaptation", "compare", "demo", "evaluate", "export", "localization", "record",
    "serve", "trial",
}  # fmt: skip
UP_TO_LEARNING = LEAVES | PHYSICS | {"policy", "deploy", "learning"}
UP_TO_TRAIN = UP_TO_LEARNING | {"make", "bridges", "recipe", "train"}

# What each part may import of the others. `identification` and everything right of it reads the
# logs, the contract and the transports of `deploy`, which itself stays free of all of them.
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "content": {"types"},
    "schema": {"types"},
    "progress": set(),
    "dynamics": LEAVES,
    "simulation": LEAVES | {"dynamics"},
    "identification": LEAVES | {"dynamics", "simulation", "deploy"},
    "policy": LEAVES,
    "deploy": LEAVES - {"progress"},
    "learning": UP_TO_LEARNING,
    "make": UP_TO_LEARNING,
    "bridges": UP_TO_LEARNING,
    "recipe": UP_TO_LEARNING | {"bridges"},
    "train": UP_TO_TRAIN,
    **dict.fromkeys(OUTER, UP_TO_TRAIN | OUTER),
    "cli": UP_TO_TRAIN | OUTER,
    "__main__": {"cli"},
}

LEARNING_LIBRARIES = {"torch", "stable_baselines3", "sb3_contrib", "onnx", "onnxscript"}
SIMULATION_LIBRARIES = {"mujoco", "mjbatch", "gymnasium", "gymnasium_robotics"}
DRAWING_LIBRARIES = {"scipy", "matplotlib", "imageio", "PIL", "tensorboard"}
HEAVY = LEARNING_LIBRARIES | SIMULATION_LIBRARIES | DRAWING_LIBRARIES

# No torch left of policy; no mujoco in policy.
FORBIDDEN: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, HEAVY),
    **dict.fromkeys(PHYSICS, LEARNING_LIBRARIES),
    "policy": SIMULATION_LIBRARIES | {"stable_baselines3", "sb3_contrib"},
}

# What an optional extra brings, in its own file and only when it is called.
LATE: dict[str, str] = {"sim2real.identification.neural": "torch"}

# deploy is numpy, onnxruntime and the standard library; a transport or a log format may add one
# optional library in its own file: {"robots/example.py": "zenoh"}.
DEPLOY_LIBRARIES = {"numpy", "onnxruntime"}
DEPLOY_OPTIONAL: dict[str, str] = {}


class Import(NamedTuple):
    """One imported module, and where."""

    module: str
    """Dotted: `sim2real.dynamics.parameter`, `numpy.typing`, ..."""
    line: int
    eager: bool
    """It runs when the module is imported: outside functions and of `if TYPE_CHECKING:`."""


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("sim2real", *path.relative_to(PACKAGE).with_suffix("").parts)
        if "_content" not in parts:
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> list[Import]:
    """What a module imports; `from package import module` names the module."""
    found = list(read_imports(name, MODULES[name].read_text(encoding="utf-8")))
    return [i for i in found if i.module not in {name, "__future__"}]


def read_imports(name: str, source: str) -> Iterator[Import]:
    package = name if MODULES.get(name, Path()).name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, eager: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(full if full in MODULES else base, node.lineno, eager)
        functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, False)
            for child in node.orelse:
                yield from visit(child, eager)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager and not isinstance(node, functions))

    return visit(ast.parse(source), True)


def part(module: str) -> str:
    """The room of a module: `dynamics` for `sim2real.dynamics.parameter`."""
    return module.split(".")[1] if "." in module else ""


def ours(module: str) -> bool:
    return module.split(".")[0] == "sim2real"


# The public names are loaded lazily: `sim2real` itself points everywhere and is tested by what it
# loads. A module imported as `sim2real.x` where x is a public name would be hidden here.
ROOMS = [name for name in MODULES if part(name)]


@pytest.mark.parametrize("name", ROOMS)
def test_imports_run_one_way(name):
    room = part(name)
    assert room in ALLOWED, f"{name}: give sim2real/{room} its place in ALLOWED"
    wrong = [
        f"line {i.line}: {i.module}"
        for i in imports(name)
        if ours(i.module) and part(i.module) not in ALLOWED[room] | {room}
    ]
    assert not wrong, f"{name} may import {sorted(ALLOWED[room])}, not {wrong}"


@pytest.mark.parametrize("name", ROOMS)
def test_no_torch_left_of_policy_and_no_mujoco_in_it(name):
    forbidden = FORBIDDEN.get(part(name), set[str]())
    wrong = [
        f"line {i.line}: {i.module}"
        for i in imports(name)
        if top(i) in forbidden and (i.eager or top(i) != LATE.get(name))
    ]
    assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize("name", [name for name in ROOMS if part(name) == "deploy"])
def test_deploy_is_numpy_and_onnxruntime(name):
    file = MODULES[name].relative_to(PACKAGE / "deploy").as_posix()
    allowed = DEPLOY_LIBRARIES | {DEPLOY_OPTIONAL.get(file, "numpy")} | sys.stdlib_module_names
    wrong = [f"line {i.line}: {i.module}" for i in imports(name) if not ours(i.module)]
    wrong = [entry for entry in wrong if entry.split(": ")[1].split(".")[0] not in allowed]
    assert not wrong, f"{name} imports {wrong}"
    source = MODULES[name].read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 10))  # what the robot's computer carries


def test_the_bridges_never_import_each_other():
    wrong = [
        f"{name} line {i.line}: {i.module}"
        for name in ROOMS
        if name.startswith("sim2real.bridges.")
        for i in imports(name)
        if i.module.startswith("sim2real.bridges.") and i.module.split(".")[2] != name.split(".")[2]
    ]
    assert not wrong


def test_no_module_imports_itself_through_others():
    """Eager imports form a graph without cycles: depth-first, every edge leads to a closed node."""
    closed: set[str] = set()

    def visit(name: str, open_: tuple[str, ...]) -> None:
        assert name not in open_, f"a cycle: {' -> '.join([*open_[open_.index(name) :], name])}"
        if name in closed:
            return
        for i in imports(name):
            if i.eager and i.module in MODULES:
                visit(i.module, (*open_, name))
        closed.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize(
    "name",
    [name for name in MODULES if part(name) in {"", "__main__", "cli", "deploy"} | LEAVES],
)
def test_the_robots_side_loads_nothing_heavy(name):
    """Nor through another module: what is eager is followed, packages' `__init__` included."""
    queue, reached = [name], set[str]()
    while queue:
        module = queue.pop()
        if module in reached:
            continue
        reached.add(module)
        parents = module.split(".")
        queue += [".".join(parents[:i]) for i in range(1, len(parents))]
        if module in MODULES:
            queue += [i.module for i in imports(module) if i.eager]
    heavy = {module.split(".")[0] for module in reached} & HEAVY
    assert not heavy, f"importing {name} loads {sorted(heavy)}"


def test_there_is_no_utils():
    assert not [name for name in MODULES if name.rpartition(".")[2] in {"utils", "helpers", "misc"}]


def test_the_reader_of_imports_itself():
    source = """
import numpy.typing
from sim2real import types
from .contract import Contract
from .. import schema
if TYPE_CHECKING:
    import torch
class Controller:
    import yaml
    def run(self):
        from mujoco import viewer
"""
    found = list(read_imports("sim2real.deploy.controller", source))
    assert [(i.module, i.eager) for i in found] == [
        ("numpy.typing", True),
        ("sim2real.types", True),
        ("sim2real.deploy.contract", True),
        ("sim2real.schema", True),
        ("torch", False),
        ("yaml", True),
        ("mujoco", False),
    ]


def top(i: Import) -> str:
    return i.module.split(".")[0]
