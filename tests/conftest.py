"""One tiny policy, trained and exported once for all tests that need a real one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

# A policy that is told its physics, on what a robot measures. It learns to stand for a moment.
RECIPE: dict[str, Any] = {
    "description": "the hopper of the tests",
    "env": "hopper",
    "observe": "measured",
    "history": 3,
    "learner": {
        "network": [32, 32],
        "learning_rate": 1e-3,
        "log_std_init": -0.5,
        "settings": {"n_steps": 64, "batch_size": 512, "n_epochs": 4},
    },
    "randomize": "uniform",
    "correct": "none",
    "align": "none",
    "adapt": "context",
    "steps": 20_000,
    "worlds": 32,
    "threads": 1,
    "seed": 3,
    "checkpoint": 8_000,
}


@pytest.fixture
def recipe() -> dict[str, Any]:
    """The recipe of `trained`, with a network and a run small enough to be trained in a test."""
    return {**RECIPE, "steps": 2048, "checkpoint": 512, "worlds": 8,
            "learner": {"network": [8], "settings": {"n_steps": 32, "batch_size": 64, "n_epochs": 2}}}  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `policy`, the run of RECIPE, and `artifact`, its export. Tests read it
    and write elsewhere: the workers of pytest-xdist share it."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / "trained"
    with (root / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "artifact").is_dir():
            import sim2real

            policy = sim2real.train(RECIPE, out=folder / "policy")
            sim2real.export(policy, folder / "artifact")
    return folder


@pytest.fixture
def policy(trained: Path) -> Any:
    import sim2real

    return sim2real.load(trained / "policy")


@pytest.fixture
def hopper() -> Any:
    from sim2real.simulation.robot import Robot

    return Robot.load("hopper")
