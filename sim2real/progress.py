"""How long work is shown while it runs: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Report = Callable[[int, dict[str, float]], None]
"""report(done, figures): how much of the total is done, and what to show beside it."""


def silent(done: int, figures: dict[str, float]) -> None:
    """A Report that shows nothing."""


@contextmanager
def bar(title: str, total: int) -> Iterator[Report]:
    """A Report that draws on standard error, so that standard output stays for answers."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _rich(console, title, total) as report:
            yield report
    else:
        yield _lines(title, total)


@contextmanager
def _rich(console: Console, title: str, total: int) -> Iterator[Report]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task: TaskID = progress.add_task(title, total=total, figures="")

        def report(done: int, figures: dict[str, float]) -> None:
            progress.update(task, completed=done, figures=_text(figures))

        yield report


def _lines(title: str, total: int, every: float = 10.0) -> Report:
    last = time.monotonic()

    def report(done: int, figures: dict[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every or done >= total:
            last = now
            print(f"{title}: {100 * done / total:3.0f}%  {_text(figures)}", file=sys.stderr)

    return report


def _text(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())
