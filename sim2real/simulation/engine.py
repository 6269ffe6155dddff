"""The seam between worlds and physics: B simulations of one model, stepped on all cores.

`MjbatchEngine` is the fast one. `ReferenceEngine` keeps a plain MjData per world and steps as
Gymnasium does; the tests compare with it, and tasks that read contact forces after the step
(`cfrc_ext`, which MuJoCo fills only in `mj_rnePostConstraint`) run on it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mjbatch
import mujoco
import numpy as np

from sim2real.types import Array

_AFTER_STEP = frozenset({"cfrc_ext", "cfrc_int", "cacc"})
"""MjData fields that mj_step leaves alone and mj_rnePostConstraint fills."""


class Engine(ABC):
    """B simulations. `data` holds live views, each (B, ...): as after `mj_step`, fields that are
    derived from the state are one physics step behind `qpos` and `qvel`."""

    data: dict[str, Array]

    @abstractmethod
    def set_model(self, worlds: Array, values: Mapping[str, Array], derive: bool) -> None:
        """Gives worlds (n,) their own MjModel fields, each (n, ...); `derive` runs mj_setConst."""

    @abstractmethod
    def reset(self, worlds: Array, qpos: Array, qvel: Array) -> None:
        """mj_resetData, the state (n, nq) and (n, nv), the command at rest, mj_forward, of worlds
        (n,)."""

    @abstractmethod
    def step(self, ctrl: Array, nstep: int) -> None:
        """nstep physics steps under ctrl (B, nu)."""


def make_engine(
    name: str, model: mujoco.MjModel, num_worlds: int, fields: Sequence[str], threads: int,
    rest: Array | None = None,
) -> Engine:  # fmt: skip
    """The engine `name`, or the reference where a field is one that mjbatch does not give. `rest`
    (A,) is the command at a reset, which late actuators still get after it; None is zeros."""
    threads = threads or os.cpu_count() or 1
    rest = None if rest is None or not rest.any() else rest
    if name == "reference" or _AFTER_STEP.intersection(fields):
        return ReferenceEngine(model, num_worlds, fields, threads, rest)
    return MjbatchEngine(model, num_worlds, fields, threads, rest)


class MjbatchEngine(Engine):
    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, fields: Sequence[str], threads: int,
        rest: Array | None = None,
    ) -> None:  # fmt: skip
        before = _threads()
        self._batch = mjbatch.Batch(model, num_worlds, min(threads, num_worlds))
        _spread(sorted(_threads() - before))
        names = ("qpos", "qvel", *fields)
        derived = [n for n in names if hasattr(mujoco.MjData, n)]
        self.data = {n: self._batch.bind(n) for n in derived}
        self.data |= {n: self._batch.expand(n) for n in names if n not in derived}
        self._ctrl = self._batch.bind("ctrl")
        self._expanded: dict[str, Array] = {}
        self._rest = rest
        self._history: Array | None = None
        if rest is not None and model.actuator_history[:, 0].any():
            self._history = self._batch.bind("history")
            self._held, self._command = _held(model, rest)

    def set_model(self, worlds: Array, values: Mapping[str, Array], derive: bool) -> None:
        for field, value in values.items():
            if field not in self._expanded:  # asking each time costs more than writing
                self._expanded[field] = self._batch.expand(field)
            self._expanded[field][worlds] = value
        if derive:
            self._batch.set_const(np.sort(worlds))

    def reset(self, worlds: Array, qpos: Array, qvel: Array) -> None:
        ids = np.sort(worlds)
        now, moving = self.data["qpos"], self.data["qvel"]
        # mjbatch takes over the entries that were changed, and mj_resetData clears the others:
        # where an entry is to stay as it is, clear it first.
        same, still = now[worlds] == qpos, moving[worlds] == qvel
        if (same.any() and (same & (qpos != self._batch.model.qpos0)).any()) or (
            still.any() and (still & (qvel != 0.0)).any()
        ):
            self._batch.reset(ids)
        now[worlds] = qpos
        moving[worlds] = qvel
        self._batch.reset(ids)
        if self._rest is not None:
            self._ctrl[worlds] = self._rest
            if self._history is not None:
                self._history[np.ix_(worlds, self._held)] = self._command
            self._batch.forward(ids)

    def step(self, ctrl: Array, nstep: int) -> None:
        self._ctrl[:] = ctrl
        _stop_clock()
        self._batch.step(nstep=nstep)


def _held(model: mujoco.MjModel, rest: Array) -> tuple[Array, Array]:
    """Where MjData.history keeps the commands that are under way to the actuators, and what they
    are at rest. Of each actuator it has two numbers, then n times, then n commands."""
    places: list[Array] = []
    commands: list[Array] = []
    for i in np.flatnonzero(model.actuator_history[:, 0]):
        n, begin = int(model.actuator_history[i, 0]), int(model.actuator_historyadr[i])
        places.append(begin + 2 + n + np.arange(n))
        commands.append(np.full(n, rest[i]))
    return np.concatenate(places), np.concatenate(commands)


def _stop_clock() -> None:
    """MuJoCo's bindings start the clock of MjData.timer, for the whole process, whenever an MjData
    is made, and every stage of every step then reads it: a fifth of the hopper's time. A clock that
    somebody set from Python stays."""
    if mujoco.get_mjcb_time() is None:
        mujoco.set_mjcb_time(None)


def _threads() -> set[int]:
    """The threads of this process; none where the system does not list them."""
    tasks = Path("/proc/self/task")
    return {int(t.name) for t in tasks.iterdir()} if tasks.is_dir() else set()


def _spread(workers: Sequence[int]) -> None:
    """Gives every worker a core of its own, where there are as many as cores. Woken together for a
    few milliseconds, they are else put on the same core now and then: measured on two cores,
    stepping 128 hoppers then loses a fifth."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(workers) == len(cores) > 1:
        for worker, core in zip(workers, cores, strict=True):
            os.sched_setaffinity(worker, {core})


class ReferenceEngine(Engine):
    def __init__(
        self, model: mujoco.MjModel, num_worlds: int, fields: Sequence[str], threads: int,
        rest: Array | None = None,
    ) -> None:  # fmt: skip
        self._rest = rest
        self._models = [model] * num_worlds
        self._own = np.zeros(num_worlds, bool)
        self._data = [mujoco.MjData(model) for _ in range(num_worlds)]
        self._after = bool(_AFTER_STEP.intersection(fields))
        names = ("qpos", "qvel", *fields)
        self._derived = [n for n in names if hasattr(mujoco.MjData, n)]
        self._model_fields = [n for n in names if n not in self._derived]
        self.data = {n: np.stack([getattr(d, n) for d in self._data]) for n in self._derived}
        self.data |= {
            n: np.stack([getattr(m, n) for m in self._models]) for n in self._model_fields
        }
        self._chunks = np.array_split(np.arange(num_worlds), min(threads, num_worlds))
        self._pool = ThreadPoolExecutor(len(self._chunks)) if len(self._chunks) > 1 else None

    def set_model(self, worlds: Array, values: Mapping[str, Array], derive: bool) -> None:
        for row, i in enumerate(worlds):
            if not self._own[i]:
                self._models[i] = _copy(self._models[i])
                self._own[i] = True
            model = self._models[i]
            for field, value in values.items():
                holder = model if hasattr(model, field) else model.opt
                target = getattr(holder, field)
                if isinstance(target, np.ndarray):
                    target[...] = value[row]
                else:
                    setattr(holder, field, value[row])
            if derive:
                mujoco.mj_setConst(model, self._data[i])
            for name in self._model_fields:
                self.data[name][i] = getattr(model, name)

    def reset(self, worlds: Array, qpos: Array, qvel: Array) -> None:
        for row, i in enumerate(worlds):
            model, data = self._models[i], self._data[i]
            mujoco.mj_resetData(model, data)
            if self._rest is not None:
                data.ctrl[:] = self._rest
                for actuator in np.flatnonzero(model.actuator_history[:, 0]).tolist():
                    held = np.full(model.actuator_history[actuator, 0], self._rest[actuator])
                    mujoco.mj_initCtrlHistory(model, data, actuator, None, held)
            data.qpos[:] = qpos[row]
            data.qvel[:] = qvel[row]
            mujoco.mj_forward(model, data)
            self._copy_out(i)

    def step(self, ctrl: Array, nstep: int) -> None:
        def advance(chunk: Array) -> None:
            for i in chunk:
                model, data = self._models[i], self._data[i]
                data.qpos[:] = self.data["qpos"][i]
                data.qvel[:] = self.data["qvel"][i]
                data.ctrl[:] = ctrl[i]
                mujoco.mj_step(model, data, nstep)
                if self._after:
                    mujoco.mj_rnePostConstraint(model, data)
                self._copy_out(i)

        _stop_clock()
        if self._pool is None:
            advance(self._chunks[0])
        else:
            list(self._pool.map(advance, self._chunks))

    def _copy_out(self, i: int) -> None:
        for name in self._derived:
            self.data[name][i] = getattr(self._data[i], name)


def _copy(model: mujoco.MjModel) -> mujoco.MjModel:
    import copy

    return copy.copy(model)
