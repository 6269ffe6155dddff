"""What a run writes while it learns: checkpoints, each whole or not at all, and the curve."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)

STEPS = "time/total_timesteps"


def checkpoints(out: Path) -> list[Path]:
    """Folders of the whole checkpoints of a run, oldest first."""
    folder = out / "checkpoints"
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def write_checkpoint(out: Path, done: int, save: Callable[[Path], None]) -> None:
    """Writes the checkpoint after `done` control steps beside the others, then removes all but the
    last two. `save` writes into the folder that it is given."""
    folder = out / "checkpoints"
    new = folder / f".{done}.new"
    for unfinished in folder.glob(".*.new"):  # of a run that was killed while it wrote
        shutil.rmtree(unfinished)
    new.mkdir(parents=True)
    save(new)
    target = folder / f"{done:012d}"
    shutil.rmtree(target, ignore_errors=True)
    os.replace(new, target)
    for old in checkpoints(out)[:-2]:
        shutil.rmtree(old)


def curve(folder: Path, done: int) -> Logger:
    """progress.csv and TensorBoard in `folder`, going on after `done` control steps."""
    folder.mkdir(parents=True, exist_ok=True)
    writers: list[KVWriter] = [
        _Curve(folder / "progress.csv", done),
        TensorBoardOutputFormat(str(folder)),
    ]
    return Logger(str(folder), writers)


class _Curve(CSVOutputFormat):
    """progress.csv, which goes on where the last checkpoint was written."""

    def __init__(self, path: Path, done: int) -> None:
        head, rows = "", list[str]()
        if done and path.is_file():
            head, *rows = path.read_text().splitlines(keepends=True)
        new = path.with_name("progress.csv.new")
        super().__init__(str(new))
        names = head.strip().split(",")
        if STEPS in names:
            self.keys = names
            at = names.index(STEPS)
            self.file.write(head)
            for row in rows:
                cells = row.rstrip("\n").split(",")  # a killed run may leave half a row
                if row.endswith("\n") and len(cells) == len(names) and int(cells[at]) <= done:
                    self.file.write(row)
            self.file.flush()
        os.replace(new, path)
