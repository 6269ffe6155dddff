"""The command line: what stands on standard output, and the exit status. Status 2 and 3 are in
test_bad_input.py."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sim2real
from sim2real import cli
from sim2real.adaptation.session import Adaptation, Spent
from sim2real.cli import main
from sim2real.deploy.contract import AdaptedState
from sim2real.identification.posterior import Posterior


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture
def answer(capfd):
    """answer(*words, status=0): the one JSON object that stands on standard output."""

    def answer(*words: object, status: int = 0) -> dict[str, Any]:
        capfd.readouterr()
        given = main([str(word) for word in (*words, "--json")])
        out, err = capfd.readouterr()
        assert given == status, err
        assert "Traceback" not in err
        assert len(out.splitlines()) == 1, out
        figures = json.loads(out, parse_constant=refuse)
        assert isinstance(figures, dict)
        return figures

    return answer


# One JSON object and nothing else


def test_list(answer):
    figures = answer("list")
    assert "hopper" in figures["robots"]
    assert {"mild", "worn", "unseen"} <= set(figures["robots"]["hopper"])
    assert "hopper-context" in figures["recipes"]


def test_evaluate(answer, trained):
    figures = answer("evaluate", trained / "policy", "--gap", "worn", "--episodes", 3)
    assert figures["low"] <= figures["return"] <= figures["high"]
    assert (figures["env"], figures["gap"], figures["context"]) == ("hopper", "worn", "nominal")
    assert len(figures["returns"]) == 3
    told = answer("evaluate", trained / "policy", "--gap", "worn", "--episodes", 3,
                  "--context", "true")  # fmt: skip
    assert told["context"] == "true"
    heavy = answer("evaluate", trained / "policy", "--xi", "torso_mass=1.7", "--episodes", 2)
    assert heavy["episodes"] == 2


def test_evaluate_on_a_grid_with_its_picture(answer, trained, tmp_path):
    figures = answer("evaluate", trained / "policy", "--grid", "torso_mass",
                     "--picture", tmp_path / "map.png")  # fmt: skip
    assert figures["parameters"] == ["torso_mass"]
    assert len(figures["values"][0]) == len(figures["mean"]) == len(figures["returns"]) == 9
    cells = zip(figures["low"], figures["mean"], figures["high"], strict=True)
    assert all(low <= mean <= high for low, mean, high in cells)
    assert [len(cell) for cell in figures["returns"]] == [4] * 9
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_between_a_reference_and_an_oracle(answer, trained, tmp_path, capfd):
    run = str(trained / "policy")
    words = ["evaluate", run, "--gap", "worn", "--episodes", "2"]
    ends = ["--reference", run, "--oracle", run]
    figures = answer(*words, *ends, "--context", "true")
    assert figures["context"] == "true"
    for end in ("reference", "oracle"):
        assert figures[end]["context"] == "nominal"
        assert {"return", "low", "high", "falls", "returns"} <= set(figures[end])
        assert figures[end]["xi"] == figures["xi"]
    assert figures["closed"] is None  # both ends are one policy
    assert main([*words, *ends]) == 0
    out = capfd.readouterr().out
    assert out.endswith("no gap\n")
    for name in ("policy", "reference", "oracle"):
        assert name in out
    reckless = sim2real.load(run)
    with torch.no_grad():
        reckless.network[-1].get_parameter("bias").fill_(50.0)
    reckless.save(tmp_path / "reckless")
    assert main([*words, "--reference", str(tmp_path / "reckless"), "--oracle", run]) == 0
    assert capfd.readouterr().out.splitlines()[-1].startswith("gap closed: 1.00 [")
    for alone in (ends[:2], ends[2:]):
        assert main([*words, *alone]) == 2
        assert "--reference and --oracle are the two ends of a gap" in capfd.readouterr().err
    assert main([*words, *ends, "--grid", "torso_mass"]) == 2
    assert "leave out --reference and --oracle" in capfd.readouterr().err


def test_identify(answer, logs, tmp_path):
    out = tmp_path / "posterior.json"
    figures = answer("identify", sorted(logs.glob("*.npz"))[0], "--env", "hopper", "--out", out)
    assert [p["name"] for p in figures["parameters"]] == json.loads(out.read_text())["names"]
    assert {"mean", "std", "unit", "revealed"} <= set(figures["parameters"][0])


def test_export_and_verify(answer, trained, tmp_path):
    figures = answer("export", trained / "policy", "--out", tmp_path / "artifact")
    assert figures["parity"] <= 1e-5
    assert figures["ticks"] >= 200
    verified = answer("verify", tmp_path / "artifact")
    assert verified["ok"] is True
    assert all(check["ok"] for check in verified["checks"])


def test_verify_says_no_with_status_1(answer, trained, tmp_path, capfd):
    shutil.copytree(trained / "artifact", tmp_path / "artifact")
    file = tmp_path / "artifact" / "golden.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    refused = answer("verify", tmp_path / "artifact", status=1)
    assert refused["ok"] is False
    (wrong,) = (check for check in refused["checks"] if not check["ok"])
    assert "golden.npz" in wrong["sentence"]
    assert main(["verify", str(tmp_path / "artifact")]) == 1
    assert "NO  hashes: golden.npz" in capfd.readouterr().out


def test_run(answer, trained, serving, tmp_path):
    with serving(gap="mild") as address:
        words = ("run", trained / "artifact", "--robot", address, "--episodes", 2)
        figures = answer(*words, "--log", tmp_path / "logs")
    assert len(figures["episodes"]) == 2
    assert figures["stopped"] is None
    assert figures["latency"]["missed"] == 0
    assert figures["latency"]["lateness"] is None  # in lockstep nothing is late
    assert len(list((tmp_path / "logs").glob("*.npz"))) == 2


@pytest.mark.parametrize("command", ["demo", "adapt"])
def test_the_long_commands_take_json_too(command):
    """They are run elsewhere; here, that the option is known."""
    words = {"demo": [], "adapt": ["policy", "hopper/worn"]}[command]
    assert cli._parser().parse_args([command, *words, "--json"]).json is True


# For people


def test_tables_for_people(trained, serving, tmp_path, capsys):
    assert main(["list"]) == 0
    assert "worn" in capsys.readouterr().out
    assert main(["evaluate", str(trained / "policy"), "--episodes", "2"]) == 0
    assert "return [95 %]" in capsys.readouterr().out
    with serving(realtime=True) as address:
        words = ["--robot", address, "--seconds", "0.2", "--log", str(tmp_path)]
        assert main(["run", str(trained / "artifact"), *words]) == 0
    out = capsys.readouterr().out
    for word in ("p50", "p99.9", "inference", "reaction", "lateness", "missed deadlines: "):
        assert word in out
    assert main(["verify", str(trained / "artifact")]) == 0
    assert "ok  replay" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["identify", "search"])
def test_the_table_of_an_adaptation_has_the_spread(
    engine, trained, hopper, tmp_path, capsys, monkeypatch
):
    space = hopper.space
    K = space.K
    samples = np.array(space.nominal) + np.array([[-0.125], [0.125]]) * np.ones(K)
    posterior = Posterior(
        "hopper", tuple(space.names), tuple(space.units), samples, np.full(2, 0.5),
        np.array(space.low), np.array(space.high), np.ones(K), -1.0, -2.0, 0.1, 10, {},
    )  # fmt: skip
    z = AdaptedState(2, "0" * 64, "context", tuple(space.names), (1.0,) * K, (0.5,) * K, True,
                     10, 12.5, 1)  # fmt: skip
    known = posterior if engine == "identify" else None
    result = Adaptation(True, "it won", z, Path("artifact"), known, None, Spent(10, 12.5, 1))
    monkeypatch.setattr(import_module("sim2real.adapt"), "adapt", lambda *_, **how: result)
    words = ["adapt", str(trained / "policy"), "hopper/worn", "--engine", engine]
    assert main([*words, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "std" in out
    (row,) = (line for line in out.splitlines() if "motor_strength" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["motor_strength", "1", "0.12" if known else "-"]
    assert f"The report with pictures is {tmp_path / 'report.html'}" in " ".join(out.split())
    page = (tmp_path / "report.html").read_text()
    assert "adapted on hopper/worn" in page
    assert ("0.12" in page) == (known is not None)


def test_train_says_what_comes_next(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = ["distill=null", "steps=64", "worlds=2", "threads=1", "learner.network=[4]",
            "learner.settings={n_steps: 32, batch_size: 64}"]  # fmt: skip
    words = [word for value in sets for word in ("--set", value)]
    assert main(["train", "hopper-nominal", *words, "--seed", "5"]) == 0
    out = capsys.readouterr().out
    run = "runs/hopper-nominal"
    assert out == f"The policy is in {run}; next: sim2real export {run}\n"
    assert "seed: 5" in (tmp_path / run / "recipe.yaml").read_text()
    assert sim2real.load(run).spec.name == "hopper-nominal"


def test_serve_says_where_it_listens_and_ends_when_asked():
    process = subprocess.Popen(
        [sys.executable, "-m", "sim2real", "serve", "hopper", "--gap", "mild", "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert line.startswith("hopper in lockstep, listening on 127.0.0.1:")
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.parametrize("command", [
    "demo", "list", "train", "evaluate", "identify", "adapt", "export", "verify", "serve", "run"
])  # fmt: skip
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"sim2real {command}" in capsys.readouterr().out


def test_paths_may_be_relative_and_the_folder_elsewhere(trained, tmp_path, monkeypatch, answer):
    shutil.copytree(trained / "policy", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert answer("export", "mine")["artifact"] == "mine/artifact"
    assert Path("mine/artifact/policy.onnx").is_file()
