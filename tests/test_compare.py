"""The ladder: cells, what is shared, what is open, and the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sim2real import cli
from sim2real.compare import (
    ARMS,
    Cell,
    Ladder,
    Place,
    Results,
    calls_for,
    compare,
    compute,
    rise,
    table,
)
from sim2real.evaluate import bootstrap
from sim2real.learning.learners import Learner
from sim2real.policy.policy import Policy
from sim2real.simulation.gap import Gap, Latency, Mounting, Network, Sensor
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

TINY = Ladder(
    "inverted_pendulum", "worn", 300, ppo_steps=1_024, sac_steps=300, oracle_steps=1, episodes=3,
    ppo=Learner(network=(8,), settings={"n_steps": 8, "batch_size": 256, "n_epochs": 1}),
    sac_worlds=2, sac=Learner("sac", (8,), settings={"batch_size": 16, "learning_starts": 50}),
)  # fmt: skip


def cell(arm: str, seed: int, returns: list[float], **more: Any) -> Cell:
    facts: dict[str, Any] = {
        "falls": 0, "target_steps": 300, "source_steps": 0, "seconds": 1.0, "versions": {},
        "commit": "", "machine": "",
    }  # fmt: skip
    return Cell(arm, seed, returns, **{**facts, **more})


def test_every_arm_gives_a_cell_within_its_budget(tmp_path):
    ladder = replace(TINY, gap="mild")
    found = compare(ladder, seeds=[0], work=tmp_path / "work", jobs=2)
    assert [r.arm for r in found.rows] == list(ARMS)
    assert all(r.seeds == 1 and r.mean is not None for r in found.rows)
    used = {r.arm: r.target_steps for r in found.rows}
    for arm, steps in used.items():
        assert steps <= 300 or ARMS[arm].kind == "oracle"
    assert used["zero-shot"] == used["uniform"] == used["epopt"] == used["automatic"] == 0
    assert used["darc"] == used["fine-tune"] == used["mixed"] == used["target-only"] == 300
    assert 0 < used["posterior"] <= 300
    picture = found.folder / "ladder.yaml"
    before = {p: p.stat().st_mtime_ns for p in found.folder.glob("*.json")}
    again = compare(ladder, seeds=[0], work=tmp_path / "work")
    assert picture.is_file()
    assert {p: p.stat().st_mtime_ns for p in found.folder.glob("*.json")} == before
    assert again.to_dict() == found.to_dict()


def test_what_a_finished_cell_had_trained_is_trained_again_where_it_is_lost(tmp_path):
    out = tmp_path / "cells"
    compare(TINY, seeds=[0], arms=["uniform"], out=out, work=tmp_path / "before")
    before = (out / "uniform-0.json").read_text()
    compare(TINY, seeds=[0], arms=["posterior"], out=out, work=tmp_path / "after")
    assert (out / "uniform-0.json").read_text() == before
    assert json.loads((out / "posterior-0.json").read_text())["returns"]
    trained = [tmp_path / w / "inverted_pendulum/source/uniform-0" for w in ("before", "after")]
    old, new = (Policy.load(folder).state_dict() for folder in trained)
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_an_oracle_is_shared_by_all_seeds(tmp_path):
    found = compare(TINY, seeds=[3, 4], arms=["oracle-ppo"], work=tmp_path / "work")
    cells = {p.stem for p in found.folder.glob("*.json")}
    assert cells == {"oracle-ppo-3"}
    row = next(r for r in found.rows if r.arm == "oracle-ppo")
    assert (row.seeds, row.asked) == (1, 1)
    assert {r.asked for r in found.rows if r.kind != "oracle"} == {2}


def test_the_target_is_one_robot_of_the_family(tmp_path):
    compare(TINY, seeds=[0], arms=["zero-shot"], work=tmp_path)
    text = (tmp_path / "inverted_pendulum/worn/robot.yaml").read_text()
    assert "distribution" not in text


def test_what_is_open_is_shown_as_open(tmp_path):
    found = compare(TINY, seeds=[0, 1], arms=["zero-shot"], work=tmp_path, seconds=1e-9)
    assert all(r.mean is None for r in found.rows)
    assert found.gap is None
    assert found.markdown().count("| open | open |") == len(ARMS)


# The table


def filled(folder: Path, returns: dict[str, list[list[float]]]) -> Results:
    results = Results(folder, TINY)
    for arm, seeds in returns.items():
        for seed, values in enumerate(seeds):
            results.write(cell(arm, seed, values))
    return results


def test_the_reference_has_closed_nothing_and_the_oracle_all(tmp_path):
    results = filled(
        tmp_path,
        {"uniform-history": [[9, 11, 10]] * 2, "oracle-ppo": [[99, 101, 100]] * 2,
         "oracle-sac": [[50, 50, 50]] * 2, "darc": [[54, 56, 55]] * 2},
    )  # fmt: skip
    rows: dict[str, Any] = {r.arm: r for r in table(results, [0, 1]).rows}
    for arm, closed in {"uniform-history": 0.0, "oracle-ppo": 1.0, "darc": 0.5}.items():
        assert rows[arm].closed.mean == pytest.approx(closed, abs=0.01)
    assert rows["oracle-sac"].closed.mean == pytest.approx(40 / 90)  # the worse one is a method
    assert rows["fine-tune"].mean is None


def test_without_a_gap_nothing_is_closed(tmp_path):
    results = filled(
        tmp_path, {"uniform-history": [[95.0] * 3] * 2, "oracle-ppo": [[100.0] * 3] * 2}
    )
    found = table(results, [0, 1])
    assert found.gap is False
    assert "no gap" in found.markdown()


def test_the_interval_is_over_seeds_first():
    rng = np.random.default_rng(0)
    alike = rng.normal(100, 30, (3, 20))
    apart = alike + np.array([[-50.0], [0.0], [50.0]])
    narrow, wide = bootstrap(alike), bootstrap(apart)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert wide.mean == pytest.approx(apart.mean())
    flat = bootstrap(apart.reshape(-1))  # a control arm: episodes taken for independent
    assert flat.high - flat.low < 0.6 * (wide.high - wide.low)


@pytest.mark.parametrize(
    ("returns", "share"), [([1, 2, 3, 4, 5], 0.2), ([4, 4, 4, 4, 4], 0.0), ([0, 0, 0, 4, 2], -1.0)]
)
def test_an_oracle_that_still_rises_is_a_lower_bound(returns, share, tmp_path):
    curve = tmp_path / "progress.csv"
    lines = [f"{100 * (i + 1)},{r}" for i, r in enumerate(returns)]
    curve.write_text("\n".join(["time/total_timesteps,rollout/ep_rew_mean", *lines, "600,"]) + "\n")
    assert rise(curve) == pytest.approx(share)
    results = filled(tmp_path / "cells", {"uniform-history": [[10.0] * 3]})
    results.write(cell("oracle-ppo", 0, [99.0, 100.0, 101.0], rise=share))
    said = " ".join(table(results, [0]).notes)
    assert ("oracle-ppo still rose by 20 %" in said) == (share > 0)


@pytest.mark.parametrize(("reached", "said"), [(130.0, True), (99.0, False)])
def test_a_method_above_the_oracle_says_that_the_oracle_is_no_bound(reached, said, tmp_path):
    results = Results(tmp_path / "c", TINY)
    results.write(cell("oracle-ppo", 0, [99.0, 100.0, 101.0]))
    results.write(cell("oracle-sac", 0, [20.0, 21.0, 22.0]))
    results.write(cell("uniform", 0, [reached - 1, reached, reached + 1]))
    notes = " ".join(table(results, [0]).notes)
    assert ("uniform returns more than the better oracle" in notes) == said


def test_the_winner_is_named_and_what_is_not_told_from_it(tmp_path):
    assert not any("returns most" in n for n in table(Results(tmp_path / "0", TINY), [0]).notes)
    close = {
        "uniform": [[60.0, 62, 64]], "darc": [[61.0, 63, 65]], "epopt": [[10.0, 11, 12]],
        "oracle-ppo": [[99.0, 99, 99]],
    }  # fmt: skip
    notes = table(filled(tmp_path / "1", close), [0]).notes
    assert notes[0] == "darc returns most so far; not told apart from it: uniform."
    every = {arm: [[10.0, 11, 12]] for arm in ARMS} | {"fine-tune": [[90.0, 91, 92]]}
    first = table(filled(tmp_path / "2", every), [0]).notes[0]
    assert first == "fine-tune returns most, and intervals are apart."


def test_one_seed_of_several_has_no_interval_and_wins_nothing_for_certain(tmp_path):
    every = {arm: [[10.0, 11, 12]] * 2 for arm in ARMS} | {"fine-tune": [[90.0, 91, 92]]}
    found = table(filled(tmp_path, every), [0, 1])
    columns, rows = found.cells()
    shown = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert shown["fine-tune"]["return on the target [95 %]"] == "91, one seed"
    assert "[" not in shown["fine-tune"]["gap closed"]
    assert "[" in shown["darc"]["return on the target [95 %]"]
    assert found.notes[0].startswith("fine-tune returns most so far; not told apart from it: zero-")
    assert not any("more than the better oracle" in n for n in found.notes)


def test_that_the_oracles_are_one_training_is_said(tmp_path):
    cells = {"uniform-history": [[9.0, 10, 11]] * 2, "oracle-ppo": [[99.0, 100, 101]]}
    notes = " ".join(table(filled(tmp_path, cells), [0, 1]).notes)
    assert "The oracles have one training" in notes


def test_a_gap_says_which_bridge_it_calls_for():
    hopper = Robot.load("hopper")
    v5, measured = hopper.observation("v5"), hopper.observation("measured")
    for name in ("odrl_gravity_2", "odrl_morphology_foot_easy"):
        (only,) = calls_for(hopper.gap(name), measured)
        assert "align does nothing" in only
    dynamics, sensors = calls_for(hopper.gap("worn"), measured)
    assert dynamics.startswith("Its dynamics")
    assert "calls for align" in sensors
    assert calls_for(hopper.gap("worn"), v5) == [dynamics]  # whose sensors the gap leaves alone
    assert calls_for(Gap(sensors={"pitch": Sensor(bias=0.1)}), measured) == [sensors]
    assert calls_for(Gap(mounting=Mounting(imu=0.1)), measured) == [sensors]
    assert calls_for(Gap(mounting=Mounting(imu=0.1)), v5) == []
    for late in (Gap(latency=Latency(observation_ms=20)), Gap(network=Network(loss=0.1))):
        (only,) = calls_for(late, measured)
        assert "comes late or is lost" in only
    assert calls_for(Gap(), measured) == []


# Bad input


def test_cells_of_other_settings_are_not_mixed(tmp_path):
    Results(tmp_path, TINY)
    with pytest.raises(InputError, match=r"another budget, ppo_steps; give another --out"):
        Results(tmp_path, replace(TINY, budget=999, ppo_steps=2_048))


def test_what_is_shared_between_gaps_is_not_mixed_either(tmp_path):
    compare(TINY, seeds=[0], arms=["zero-shot"], work=tmp_path, seconds=1e-9)
    other = replace(TINY, gap="mild", ppo_steps=2_048)
    with pytest.raises(InputError, match=r"other settings; give another --work"):
        compare(other, seeds=[0], arms=["zero-shot"], work=tmp_path)


@pytest.mark.parametrize("content", ["{", "{}", '{"arm": 3}'])
def test_a_file_that_is_no_cell_is_named(content, tmp_path):
    results = Results(tmp_path, TINY)
    results.path("darc", 0).write_text(content)
    with pytest.raises(InputError, match=r"darc-0\.json: not a cell"):
        table(results, [0])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gap", "worm"], "did you mean 'worn'"),
        (["--gap", "worn", "--arms", "uniform,dark"], "arms: no 'dark'"),
        (["--gap", "worn", "--set", "ppo_stebs=3"], "ppo_stebs: unknown key"),
        (["--gap", "worn", "--set", "episodes=0"], "episodes is 0"),
    ],
)
def test_the_command_says_what_is_wrong(words, sentence, tmp_path, capsys):
    status = cli.main(["compare", "hopper", "--budget", "100", "--work", str(tmp_path), *words])
    assert status == 2
    assert sentence in capsys.readouterr().err


def test_the_command_answers_in_json(tmp_path, capsys):
    what = ["inverted_pendulum", "--gap", "worn", "--budget", "100", "--seeds", "1"]
    how = ["--arms", "zero-shot", "--seconds", "0.000001", "--work", str(tmp_path), "--json"]
    assert cli.main(["compare", *what, *how]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ladder"]["budget"] == 100
    assert len(answer["rows"]) == len(ARMS)


def test_a_cell_that_fails_leaves_the_others(tmp_path):
    ladder = replace(TINY, budget=20)  # too few target steps for the classifiers
    found = compare(ladder, seeds=[0, 1], arms=["zero-shot", "darc"], work=tmp_path)
    shown = {row[0]: row[1:3] for row in found.cells()[1]}
    assert shown["darc"] == ["failed", "failed"]
    assert shown["uniform"] == ["open", "open"]
    (why,) = [n for n in found.notes if n.startswith("darc failed: ")]
    assert "20" in why
    assert "target steps" in why
    assert sorted(p.name for p in found.folder.glob("*.json")) == [
        "zero-shot-0.json", "zero-shot-1.json"
    ]  # fmt: skip


def test_the_command_shows_what_failed_and_keeps_the_rest(tmp_path, capsys):
    what = ["compare", "inverted_pendulum", "--gap", "worn", "--budget", "20", "--seeds", "1"]
    small = [w for s in ("ppo_steps=1024", "sac_steps=300", "episodes=3") for w in ("--set", s)]
    status = cli.main([*what, *small, "--arms", "zero-shot,darc", "--work", str(tmp_path)])
    said = capsys.readouterr()
    assert status == 1
    assert "darc failed: " in said.out
    assert "Traceback" not in said.err
    assert list(tmp_path.rglob("ladder.png"))


def test_what_fails_for_another_reason_is_an_error_and_leaves_the_others(tmp_path):
    found = compare(TINY, seeds=[0], arms=["oracle-ppo"], work=tmp_path)
    (found.folder / "oracle-ppo-0.json").unlink()
    (tmp_path / "inverted_pendulum/worn/oracle-ppo-0/log/progress.csv").unlink()
    with pytest.raises(RuntimeError, match="oracle-ppo with seed 0: "):
        compare(TINY, seeds=[0], arms=["zero-shot", "oracle-ppo"], work=tmp_path)
    assert (found.folder / "zero-shot-0.json").is_file()


def test_a_training_that_was_killed_goes_on(tmp_path):
    compare(TINY, seeds=[0], arms=["zero-shot"], work=tmp_path, seconds=1e-9)
    place = Place(TINY, 0, tmp_path / "inverted_pendulum")
    made = compute("zero-shot", place)
    (place.folder("zero-shot") / "policy.pt").unlink()  # as if killed after its last checkpoint
    again = compute("zero-shot", place)
    assert again.returns == made.returns
