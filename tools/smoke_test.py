"""Does the installed package work, without its checkout? Run from an empty folder.

    python smoke_test.py            after `pip install sim2real`: the robot's side
    python smoke_test.py --train    after `pip install "sim2real[train]"`: simulation too

`make build` runs it on the wheel and on the source distribution, each in a clean environment.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

# What the robot's computer must never be made to load.
HEAVY = ("torch", "mujoco", "gymnasium", "stable_baselines3", "scipy", "matplotlib")


def python(code: str) -> str:
    """The standard output of `code` in a fresh interpreter that does not look in this folder."""
    return command(sys.executable, "-I", "-c", code)


def command(*words: str) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
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
    if train:
        check_simulation()
    else:
        assert importlib.util.find_spec("torch") is None, "torch is here: give --train"
        check_training_names_explain()
    side = "with training" if train else "the robot's side"
    version = ".".join(str(part) for part in sys.version_info[:3])
    print(f"smoke test passed on Python {version}: {side}, {len(envs)} robots")


if __name__ == "__main__":
    main()
