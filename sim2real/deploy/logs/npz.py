"""One episode, one NPZ file: written whole or not at all, read strictly.

Row t of `command`, `raw`, `reward`, `inference_us`, `lateness_us` and `flags` is control tick t;
row t of an observation is what was seen then; row T, one more, is what was seen last. So (obs[t],
command[t], reward[t], obs[t+1]) is a transition.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.files import canonical, npz, parse, parse_npz, write_atomically
from sim2real.deploy.robots.base import RobotDescription
from sim2real.schema import read, to_dict
from sim2real.types import Array, InputError, nearest

SCHEMA = 1
ARRAYS = ("seq", "stamp", "command", "raw", "reward", "inference_us", "lateness_us", "flags")


class TickFlag(IntFlag):
    HELD = 1
    """No new command: the sample was stale or not finite, or the result came too late."""
    LATE = 2
    """The tick missed its deadline."""
    LIMITED = 4
    """A limit, on range or rate, changed the command."""


@dataclass(frozen=True)
class LogInfo:
    """What is said once per episode."""

    schema: int
    started: str
    """UTC, as 20261130T125959.123456Z."""
    episode: int
    robot: RobotDescription
    commands: tuple[str, ...]
    """The order of `command` and `raw`: the artifact's."""
    artifact: str
    """The `graph` hash of the artifact, and its name."""
    artifact_name: str
    z: AdaptedState | None
    seed: int | None
    """What the robot was reset with."""
    excitation: float
    terminated: bool
    truncated: bool
    stopped: str | None
    """Why the controller stopped the robot; None: it did not."""


@dataclass(frozen=True)
class EpisodeLog:
    info: LogInfo
    obs: dict[str, Array]
    """term -> (T+1, size), every term that the robot sent."""
    seq: NDArray[np.int64]
    """(T+1,) of the sample; the same number twice: no new sample had come."""
    stamp: Array
    """(T+1,) [s] of the sample."""
    command: Array
    """(T, A) as sent: within limits, excitation included; in the artifact's order."""
    raw: Array
    """(T, A) the policy's raw action; NaN in a tick in which it gave none."""
    reward: Array | None
    """(T,) what followed the command; None: the robot has no such channel."""
    inference_us: Array
    """(T,) the policy's own time [µs]; NaN in a tick in which it did not run."""
    lateness_us: Array
    """(T,) how long after its deadline the tick began [µs]; NaN in lockstep."""
    flags: NDArray[np.uint8]
    """(T,) TickFlag"""

    @property
    def ticks(self) -> int:
        return len(self.command)

    def write(self, folder: str | Path) -> Path:
        """Write into `folder`, under a name made of time and episode; the path."""
        arrays: dict[str, Any] = {f"obs/{name}": value for name, value in self.obs.items()}
        arrays |= {name: getattr(self, name) for name in ARRAYS if getattr(self, name) is not None}
        arrays["info"] = canonical(to_dict(self.info))
        path = Path(folder) / f"{self.info.started}-{self.info.episode:04d}.npz"
        write_atomically(path, npz(arrays))
        return path

    @staticmethod
    def read(path: str | Path) -> EpisodeLog:
        """The log at `path`; InputError with one sentence where it is not a whole log."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        arrays: dict[str, Any] = dict(parse_npz(data, f"{path} is not a log of `sim2real run`: it"))
        if "info" not in arrays:
            raise InputError(f"{path} is not a log of `sim2real run`: the array 'info' is missing")
        said = parse(str(arrays.pop("info")), f"{path}: info")
        if said.get("schema") != SCHEMA:
            raise InputError(
                f"{path} is of schema {said.get('schema')!r}; this package reads schema {SCHEMA}"
            )
        info = read(LogInfo, said, f"{path}: info")
        obs = {
            key.removeprefix("obs/"): arrays.pop(key)
            for key in list(arrays)
            if key.startswith("obs/")
        }
        reward = info.robot.reward
        for name in ARRAYS:
            if name not in arrays and (name != "reward" or reward):
                raise InputError(f"{path}: the array '{name}' is missing")
        for name in arrays:
            if name not in ARRAYS:
                raise InputError(f"{path}: unknown array '{name}'{nearest(name, ARRAYS)}")
        T = len(arrays["command"]) if arrays["command"].ndim == 2 else -1
        A = len(info.commands)
        shapes: dict[str, tuple[int, ...]] = {name: (T,) for name in arrays}
        shapes |= {"seq": (T + 1,), "stamp": (T + 1,), "command": (T, A), "raw": (T, A)}
        for name, shape in shapes.items():
            if arrays[name].shape != shape:
                raise InputError(
                    f"{path}: '{name}' has shape {arrays[name].shape}; {shape} fits the rest"
                )
        sizes = {t.name: t.size for t in info.robot.terms}
        for name, size in sizes.items():
            if name not in obs or obs[name].shape != (T + 1, size):
                found = f"has shape {obs[name].shape}" if name in obs else "is missing"
                raise InputError(f"{path}: 'obs/{name}' {found}; {(T + 1, size)} fits the rest")
        arrays.setdefault("reward", None)
        return EpisodeLog(info, obs, **arrays)


def read_logs(paths: str | Path | Iterable[str | Path]) -> list[EpisodeLog]:
    """The episodes in a file, in a folder of files, or in several of either, in the order of time.

    Raises:
        InputError: a path that does not exist, a folder without logs, a file that is not a whole
        log.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.glob("*.npz") if not file.name.startswith("."))
            if not found:
                raise InputError(
                    f"{path} holds no logs (*.npz); `sim2real run --log {path}` writes them"
                )
            files += found
        elif path.is_file():
            files.append(path)
        else:
            beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise InputError(f"there is no log at {path}{nearest(path.name, beside)}")
    logs = [EpisodeLog.read(file) for file in files]
    return sorted(logs, key=lambda log: (log.info.started, log.info.episode))


def stamp_of(seconds: float) -> str:
    """Seconds since 1970 as LogInfo.started writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
