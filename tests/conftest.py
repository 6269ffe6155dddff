"""One tiny policy, trained and exported once for all tests that need a real one."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """once(name, make): a folder that make(folder) fills, in one worker of pytest-xdist; the others
    wait for it and share it. Tests read it and write elsewhere."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder = root / name
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "made").exists():
                make(folder)
                (folder / "made").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def trained(once: Any) -> Path:
    """A folder that holds `policy`, the run of RECIPE, and `artifact`, its export."""

    def make(folder: Path) -> None:
        import sim2real

        policy = sim2real.train(RECIPE, out=folder / "policy")
        sim2real.export(policy, folder / "artifact")

    return once("trained", make)


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """serving(env, gap=, realtime=, seed=): HOST:PORT of a simulated robot in a thread."""
    from sim2real.serve import serve

    @contextmanager
    def serving(env: str | Path = "hopper", **how: Any) -> Iterator[str]:
        address: list[str] = []
        heard, over = threading.Event(), threading.Event()

        def ready(host: str, port: int) -> None:
            address.append(f"{host}:{port}")
            heard.set()

        thread = threading.Thread(
            target=serve, args=(env,), kwargs={**how, "ready": ready, "stop": over.is_set}
        )
        thread.start()
        try:
            assert heard.wait(60)
            yield address[0]
        finally:
            over.set()
            thread.join()

    return serving


@pytest.fixture(scope="session")
def logs(once: Any, trained: Path, serving: Any) -> Path:
    """A folder with the logs of two excited episodes on a hopper with the gap `worn`."""

    def make(folder: Path) -> None:
        from sim2real.deploy.controller import run
        from sim2real.deploy.robots import connect

        with serving(gap="worn", seed=5) as address:
            robot = connect(address)
            run(trained / "artifact", robot, episodes=2, excitation=0.3, log=folder, seed=20)
            robot.close()

    return once("logs", make)


@pytest.fixture
def policy(trained: Path) -> Any:
    import sim2real

    return sim2real.load(trained / "policy")


@pytest.fixture
def hopper() -> Any:
    from sim2real.simulation.robot import Robot

    return Robot.load("hopper")
