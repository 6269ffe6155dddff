"""Simulations that may diverge, without MuJoCo's words about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco


@contextmanager
def may_diverge() -> Iterator[None]:
    """While candidates are tried, that some are unstable is a result and no mishap: MuJoCo neither
    prints it nor writes MUJOCO_LOG.TXT, in whichever thread of this process. A decorator, too."""
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_unheard)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _unheard(text: str) -> None:
    del text
