"""A task by name: shipped, of an installed module, or of a file beside env.yaml.

What a person wrote is tried once, in a few nominal worlds, before anything is built on it.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import traceback
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

from sim2real.simulation.engine import Engine, make_engine
from sim2real.simulation.tasks import TASKS
from sim2real.simulation.tasks.base import Task
from sim2real.types import Array, InputError, nearest


def load_task(
    task: str, folder: Path, model: mujoco.MjModel, frame_skip: int, where: str,
    rewards: Mapping[str, float] | None = None,
) -> Task:  # fmt: skip
    """The task that `where`, the env.yaml in `folder`, names, with the weights of its rewards.

    Raises:
        InputError: there is no such task, its code raises, or what a method of it gives has not
            the shape and type that `Task` says.
    """
    if task in TASKS:
        shipped = TASKS[task](model)
        shipped.period = float(model.opt.timestep * frame_skip)
        shipped.weigh(rewards or {}, where)
        return shipped
    path, kind = _class(task, folder, where)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise InputError(f"{where}: task: {path} has no class '{kind}' that is a Task")
    missing = sorted(kind.__abstractmethods__)
    if missing:
        own = [name for name in vars(kind) if name not in vars(Task)]
        close = get_close_matches(missing[0], own, n=1, cutoff=0.5)
        hint = f"; is '{close[0]}' meant to be it?" if close else ""
        raise InputError(f"{path}: class {kind.__name__} has no method '{missing[0]}'{hint}")
    made = tried(lambda: kind(model), path)
    made.weigh(rewards or {}, where)
    made.period = float(model.opt.timestep * frame_skip)
    _try(made, model, frame_skip, path)
    return made


def tried(call: Callable[[], Any], path: Path) -> Any:
    """What `call` gives; whatever it raises becomes an InputError that names `path` and line."""
    try:
        return call()
    except InputError:
        raise
    except SyntaxError as error:
        place = f"{path if _same(error.filename, path) else error.filename}, line {error.lineno}"
        raise InputError(f"{place}: {error.msg}") from error
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__)
                 if _same(f.filename, path)]  # fmt: skip
        place = f"{path}, line {lines[-1]}" if lines else str(path)
        said = " ".join(str(error).split())
        if isinstance(error, KeyError):
            said += "; data holds qpos, qvel and what the task lists in `fields`"
        raise InputError(f"{place}: {type(error).__name__}: {said}") from error


def read_term(read: Any, data: Mapping[str, Array], path: Path, name: str) -> int:
    """How many values a method of a task gives as a term; InputError where it is not (B, n)."""
    B = len(data["qpos"])
    value = tried(lambda: read(data), path)
    _check(path, f"{name} of {B} worlds", value, f"({B}, n)", lambda a: a.ndim == 2 and len(a) == B)
    return value.shape[1]


def task_path(task: Task) -> Path:
    """The file that the task's class is written in."""
    return Path(type(task).initial_state.__code__.co_filename)


def _class(task: str, folder: Path, where: str) -> tuple[Path, Any]:
    """(its file, the class); the class may be something else that has the name."""
    module_name, _, class_name = task.partition(":")
    if module_name.endswith(".py"):
        path = folder / module_name
        if not path.is_file():
            raise InputError(f"{where}: task: no file {path}")
        spec = importlib.util.spec_from_file_location(f"{folder.name}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        loader, module = spec.loader, importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look for it
        tried(lambda: loader.exec_module(module), path)
        if not class_name:
            return path, _only_task(module, path, where)
    elif class_name:
        try:
            found = importlib.util.find_spec(module_name)
        except ModuleNotFoundError:  # a package above it
            found = None
        if found is None:
            raise InputError(f"{where}: task: no module '{module_name}'")
        path = Path(found.origin or module_name)
        module = tried(lambda: importlib.import_module(module_name), path)
    else:
        raise InputError(
            f"{where}: no task '{task}'{nearest(task, TASKS)}; the tasks are {', '.join(TASKS)}, "
            "or give module:Class or task.py:Class"
        )
    if not hasattr(module, class_name):
        raise InputError(
            f"{where}: task: {module_name} has no class '{class_name}'"
            + nearest(class_name, vars(module))
        )
    return path, getattr(module, class_name)


def _only_task(module: ModuleType, path: Path, where: str) -> type[Task]:
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    own = [c for c in classes if issubclass(c, Task) and c.__module__ == module.__name__]
    if len(own) != 1:
        raise InputError(
            f"{where}: task: {path} has {len(own)} subclasses of Task; it must have one, "
            "or name it as task.py:Class"
        )
    return own[0]


def _same(filename: str | None, path: Path) -> bool:
    return filename is not None and Path(filename).resolve() == path.resolve()


def _try(task: Task, model: mujoco.MjModel, frame_skip: int, path: Path) -> None:
    """One episode's beginning and one step."""
    sizes = {model.nq, model.nv, model.nu, model.nbody, len(task.goal_names)}
    B = next(n for n in itertools.count(2) if n not in sizes)  # no other axis has this length
    steps: Any = task.episode_steps
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"{path}: episode_steps is {steps}; it must be a whole number from 1")
    engine = _engine(task, model, B, path)
    names: Any = task.goal_names
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: goal_names is {names!r}; it must be a tuple of names")
    data = engine.data
    data["last_action"] = np.tile(task.rest, (B, 1))
    data["goal"] = np.zeros((B, len(names)))

    start = tried(lambda: task.initial_state(np.random.default_rng(0)), path)
    if not isinstance(start, tuple) or len(start) != 2:
        raise InputError(
            f"{path}: initial_state gives {_shown(start)}; it must give two arrays, qpos "
            f"({model.nq},) and qvel ({model.nv},)"
        )
    for part, value, n in zip(("qpos", "qvel"), start, (model.nq, model.nv), strict=True):
        what = f"initial_state: {part}"
        _check(path, what, value, f"({n},)", lambda a, n=n: a.shape == (n,), finite=True)
    qpos, qvel = (np.tile(np.asarray(value, float), (B, 1)) for value in start)
    engine.reset(np.arange(B), qpos, qvel)
    G = len(names)
    goals = tried(lambda: task.goals(np.random.default_rng(0)), path)
    _check(path, f"goals, of which goal_names names {G} values,", goals, f"(S, {G})",
           lambda a: a.ndim == 2 and len(a) > 0 and a.shape[1] == G, finite=True)  # fmt: skip
    data["goal"][:] = goals[0]

    obs = tried(lambda: task.observe(data), path)
    _check(path, f"observe of {B} worlds", obs, f"({B}, O)",
           lambda a: a.ndim == 2 and len(a) == B and a.size > 0,
           kinds="f", finite=True)  # fmt: skip
    _check_figures(path, "reset_info", tried(lambda: task.reset_info(data), path), B)
    before = tried(lambda: task.before(data), path)
    action = np.zeros((B, model.nu), np.float32)
    engine.step(action, frame_skip)
    dt = float(model.opt.timestep * frame_skip)
    given = tried(lambda: task.reward(data, before, action, dt), path)
    if not isinstance(given, tuple) or len(given) != 2:
        raise InputError(
            f"{path}: reward gives {_shown(given)}; it must give two things: the reward of {B} "
            f"worlds, an array ({B},), and a dictionary of figures, which may be empty"
        )
    reward, info = given
    _check(path, f"reward of {B} worlds", reward, f"({B},)", lambda a: a.shape == (B,), finite=True)
    _check_figures(path, "reward", info, B)
    ended = tried(lambda: task.terminated(data), path)
    _check(
        path, f"terminated of {B} worlds", ended, f"({B},)", lambda a: a.shape == (B,), kinds="b"
    )


def _engine(task: Task, model: mujoco.MjModel, B: int, path: Path) -> Engine:
    """Worlds with the fields that the task names."""
    fields: Any = task.fields
    if isinstance(fields, str) or not all(isinstance(name, str) for name in fields):
        raise InputError(
            f"{path}: fields is {fields!r}; it must be a tuple of names, such as ('site_xpos',)"
        )
    for name in fields:
        try:
            make_engine("mjbatch", model, 1, [name], 1)
        except (ValueError, AttributeError):
            state = mujoco.MjData(model)
            known = [n for n in dir(state) if isinstance(getattr(state, n), np.ndarray)]
            raise InputError(
                f"{path}: fields: '{name}' is none that worlds can give{nearest(name, known)}; "
                "name fields of MjData, or body_mass"
            ) from None
    return make_engine("mjbatch", model, B, fields, 1)


def _check_figures(path: Path, what: str, figures: Any, B: int) -> None:
    if not isinstance(figures, dict):
        raise InputError(
            f"{path}: {what} gives {_shown(figures)} where figures are due: a dictionary of "
            f"arrays, each ({B}, ...) for {B} worlds"
        )
    for name, value in figures.items():
        _check(path, f"{what} of {B} worlds: '{name}'", value, f"({B}, ...)",
               lambda a: a.ndim > 0 and len(a) == B, kinds="fiub")  # fmt: skip


def _check(
    path: Path, what: str, value: Any, shape: str, fits: Callable[[Array], bool],
    *, kinds: str = "fiu", finite: bool = False,
) -> None:  # fmt: skip
    type_ = {"f": "floats", "b": "bool"}.get(kinds, "numbers")
    if not isinstance(value, np.ndarray) or not fits(value) or value.dtype.kind not in kinds:
        raise InputError(
            f"{path}: {what} gives {_shown(value)}; it must give an array {shape} of {type_}"
        )
    if finite and not np.isfinite(value).all():
        raise InputError(f"{path}: {what} gives {value[~np.isfinite(value)][0]}; it must be finite")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    return "nothing" if value is None else f"a {type(value).__name__}"
