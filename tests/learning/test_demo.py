"""The whole line of `make demo`, with policies that have hardly learned: a minute and a half."""

from __future__ import annotations

import json

import pytest

from sim2real.demo import EPISODES, demo, figures_table
from sim2real.deploy.verify import verify
from sim2real.policy.policy import Policy

pytestmark = pytest.mark.learn

ROWS = [
    "uniform randomization", "uniform randomization, history", "zero-shot", "adapted",
    "true context", "another robot's context",
]  # fmt: skip


def test_the_line_runs_to_its_end_and_goes_on_where_it_was_killed(tmp_path):
    figures = demo(tmp_path, steps=20_000)
    assert list(figures["rows"]) == ROWS
    for row in figures["rows"].values():
        assert row["episodes"] == EPISODES
        assert row["low"] <= row["return"] <= row["high"]
        assert row["seconds"] > 0
    assert figures["adaptation"]["episodes"] <= 10
    assert 0 < figures["latency"]["ticks"] <= 2500, "20 s at 125 Hz, fewer on a busy machine"
    _, table = figures_table(figures)
    assert [line[0] for line in table[: len(ROWS)]] == ROWS
    assert json.loads((tmp_path / "figures.json").read_text())["rows"] == figures["rows"]
    page = (tmp_path / "report.html").read_text()
    assert "<html" in page
    assert all(row in page or row.replace("'", "&#x27;") in page for row in ROWS)
    for name in ("artifact", "history-artifact", "uniform-artifact"):
        assert verify(tmp_path / name).ok
    assert Policy.load(tmp_path / "uniform").spec.history == 1
    trained = (tmp_path / "policy" / "policy.pt").stat().st_mtime_ns
    again = demo(tmp_path, steps=20_000)  # as after a kill: what is trained is kept
    assert (tmp_path / "policy" / "policy.pt").stat().st_mtime_ns == trained
    assert again["rows"] == figures["rows"], "simulated time goes in lockstep"
