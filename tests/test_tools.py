"""The benchmark's arithmetic, and that it runs from end to end; its figures are nobody's law."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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
