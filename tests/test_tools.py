"""The benchmark's arithmetic, and that it runs from end to end; its figures are nobody's law."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sim2real.simulation.robot import Robot

TOOLS = Path(__file__).resolve().parent.parent / "tools"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_simulation", TOOLS / "bench_simulation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_steady_slowdown_cancels_from_the_ratio(bench: ModuleType) -> None:
    ticks = 0

    def takes(seconds: float) -> Callable[[], float]:
        def measure() -> float:
            nonlocal ticks
            ticks += 1
            return seconds * ticks  # the machine slows down with every measurement

        return measure

    ours, others = bench.compare(takes(1e-3), {"slow": takes(3e-3), "fast": takes(5e-4)}, rounds=5)
    assert others["slow"].ratio.low == pytest.approx(3.0)
    assert others["slow"].ratio.high == pytest.approx(3.0)
    assert others["fast"].ratio.median == pytest.approx(0.5)
    assert ours.rate.low < ours.rate.median < ours.rate.high


def test_benchmark_runs(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    bench.main(
        ["hopper", "--rounds", "1", "--seconds", "0.01", "--threads", "2", "--chunk", "2"]
        + ["--worlds", "2", "128", "--peer-envs", "1", "2", "--json", str(file)]
        + ["--against", "rollout", "dummy", "envpool", "worlds", "engine"]
        + ["--envpool-python", str(tmp_path / "no-python")]
    )
    (result,) = json.loads(file.read_text())["results"]
    names = [row["name"] for row in result["peers"]]
    assert len(names) == 3  # rollout with the clock and without, DummyVecEnv
    assert all(row["rate"]["median"] > 0 for row in result["peers"])
    assert result["peers"][0]["asked"] == 0.85
    assert set(result["worlds"]) == {"2", "128"}
    assert result["worlds"]["128"]["ratio"]["median"] == 1.0
    assert result["engine"]["ratio"]["median"] > 0
    out = capsys.readouterr().out
    assert "| EnvPool | not installed: " in out
    for name in names:
        assert f"| {name} |" in out


def test_a_part_of_the_benchmark_runs_alone(bench: ModuleType) -> None:
    words = ["halfcheetah", "--rounds", "1", "--seconds", "0.01", "--against", "engine"]
    result = bench.bench("halfcheetah", bench.parse(words))
    assert result.peers == []
    assert result.worlds == {}
    assert result.engine is not None


def loaded(name: str) -> ModuleType:
    """A tool, beside those that it imports."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))


def test_robots_beyond_training_are_the_at_the_same_places_of_wider_boxes() -> None:
    study = loaded("study_extrapolation")
    robot = Robot.load("hopper")
    low, high = np.array(robot.space.low), np.array(robot.space.high)
    inside, edge, beyond = (study.robots(robot, w, 500, 3) for w in (0.5, 1.0, 2.0))
    assert ((inside >= low) & (inside <= high)).all()
    assert ((edge >= low - 1e-12) & (edge <= high + 1e-12)).all()
    assert ((beyond < low) | (beyond > high)).mean() == pytest.approx(0.5, abs=0.06)
    assert (beyond >= 0).all()  # a latency, and what is positive, stay so
    middle = (low + high) / 2
    latency = list(robot.space.names).index("action_latency")
    kept = beyond[:, latency] > 0
    away = (x[kept, latency] - middle[latency] for x in (inside, beyond))
    np.testing.assert_allclose(*(a * n for a, n in zip(away, (4, 1), strict=True)))


def test_what_lies_beyond_training_is_a_table_and_a_figure() -> None:
    study = loaded("study_extrapolation")
    widths = {str(w): {"returns": [100.0 / w] * 4} for w in study.WIDTHS}
    cells = {"one": {0: widths, 1: widths}, "one, 3 steps": {0: {"0.5": {"returns": [1.0, 3.0]}}}}
    lines = study.table(cells).splitlines()
    assert lines[2].startswith("| one | 2 | 200 [200, 200] | 100 [100, 100] |")
    assert lines[3].startswith("| one, 3 steps | 1 | 2 [1, 3] | open | open | open |")
    axes = study.draw(cells, "hopper").axes[0]
    assert [line.get_label() for line in axes.get_lines()][:2] == ["one", "one, 3 steps"]
