"""Does the installed package work, without its checkout? Run from an empty folder.

    python smoke_test.py            after `pip install sim2real`: the robot's side
    python smoke_test.py --train    after `pip install "sim2real[train]"`: simulation too, and the
                                    example of docs/robots.md from training to adaptation

`make build` runs it on the wheel and on the source distribution, each in a clean environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "robots.md"
PORT = "127.0.0.1:47800"  # where the page's robot listens; here it takes a free one
SHORTER = {"train": "--set steps=60_000", "evaluate": "--episodes 5", "adapt": "--episodes 6"}

# What the robot's computer must never be made to load.
HEAVY = ("torch", "mujoco", "gymnasium", "stable_baselines3", "scipy", "matplotlib")


def python(code: str) -> str:
    """The standard output of `code` in a fresh interpreter that does not look in this folder."""
    return command(sys.executable, "-I", "-c", code)


def command(*words: str) -> str:
    """The standard output of a command that must succeed."""
    # one thread: on two, small networks are several times slower
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def check_installation() -> None:
    """The package comes from this environment, and brings its content along."""
    where = Path(python("import sim2real; print(sim2real.__file__)").strip())
    site = Path(sysconfig.get_path("purelib"))
    assert site.resolve() in where.resolve().parents, f"{where} is not in {site}"
    assert (where.parent / "py.typed").is_file()
    assert not (site / "envs").exists()
    assert not (site / "policies").exists()


def check_import_is_light() -> None:
    """`import sim2real` and the robot's side load nothing of simulation and learning."""
    loaded = python(
        f"import sys, sim2real\nsim2real.verify\nprint(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    ).split()
    assert not loaded, f"the robot's side loads {', '.join(loaded)}"


def check_content() -> tuple[str, ...]:
    """The shipped robots and recipes are found and listed; shipped artifacts are verified."""
    from sim2real import content

    envs, policies = content.env_names(), content.policy_names()
    assert envs, "the package ships no robots"
    assert policies, "the package ships no recipes"
    listed = command(str(program()), "list")
    for name in (*envs, *policies):
        assert name in listed, f"`sim2real list` does not name {name}"
    for name in policies:
        folder = content.policy_folder(name)
        if (folder / "policy.onnx").is_file():
            command(str(program()), "verify", str(folder))
    return envs


def check_training_names_explain() -> None:
    """Without the extra, a training name says what to install."""
    message = python(
        "import sim2real\n"
        "try:\n"
        "    sim2real.make_vec\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    assert 'pip install "sim2real[train]"' in message, f"make_vec without the extra says: {message}"
    done = subprocess.run([program(), "demo"], capture_output=True, text=True, check=False)
    assert (done.returncode, "the extra train" in done.stderr) == (2, True), done.stderr


def check_simulation() -> None:
    """With the extra, worlds step."""
    shape = python(
        "import sim2real\n"
        "worlds = sim2real.make_vec('hopper', 2)\n"
        "worlds.reset()\n"
        "actions = [worlds.action_space.sample() for _ in range(2)]\n"
        "obs, reward, done, info = worlds.step(actions)\n"
        "assert reward.shape == done.shape == (2,) and len(info) == 2\n"
        "print(*obs.shape)\n"
        "worlds.close()"
    ).split()
    assert shape == ["2", "11"], f"two hoppers are observed as {shape}"


def check_a_robot_of_ones_own() -> str:
    """What docs/robots.md tells a new user to write and to type, shorter: MJCF, task, gap and
    recipe of one's own; train, export, serve, run, identify, adapt, and run with what was found."""
    commands: list[list[str]] = []
    for head, body in re.findall(r"^```(.+?)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S):
        name = head.split()[-1]
        if "." in name:
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(body, "utf-8")
        elif name == "sh":
            lines = [shlex.split(line.split("&")[0], comments=True) for line in body.splitlines()]
            commands = [words[1:] for words in lines if words[0] == "sim2real"]
    (serve,) = (words for words in commands if words[0] == "serve")
    begun = time.monotonic()
    adaptation = Path("runs/wagon-context-adapt/z.json")
    with served(serve) as robot:
        for words in commands:
            if words == serve:
                continue
            more = SHORTER.get(words[0], "").split()
            if words[0] == "run":
                more = ["--robot", robot]
            if "--z" in words and not json.loads(adaptation.read_text())["accepted"]:
                return "its adaptation was not accepted, so that nothing ran with it"
            command(str(program()), *(robot if w == PORT else w for w in words), *more)
            if words[0] == "export":
                command(str(program()), "verify", "runs/wagon-context/artifact")
    return f"trained, adapted and ran in {time.monotonic() - begun:.0f} s"


@contextmanager
def served(words: list[str]) -> Iterator[str]:
    """A simulated robot in a process of its own, and its HOST:PORT."""
    words = [str(program()), *words, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as robot:
        assert robot.stdout is not None
        try:
            yield robot.stdout.readline().split()[-1]
        finally:
            robot.terminate()
    assert robot.returncode == 0, f"serve ended with {robot.returncode}"


def program() -> Path:
    """The console script of this environment."""
    return Path(sysconfig.get_path("scripts")) / "sim2real"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train", action="store_true", help="the extra `train` is installed")
    train = parser.parse_args().train
    assert not any(Path.cwd().iterdir()), "run this from an empty folder"
    check_installation()
    check_import_is_light()
    envs = check_content()
    said = ""
    if train:
        check_simulation()
        said = f"; a robot of one's own {check_a_robot_of_ones_own()}"
    else:
        assert importlib.util.find_spec("torch") is None, "torch is here: give --train"
        check_training_names_explain()
    side = "with training" if train else "the robot's side"
    version = ".".join(str(part) for part in sys.version_info[:3])
    print(f"smoke test passed on Python {version}: {side}, {len(envs)} robots{said}")


if __name__ == "__main__":
    main()
