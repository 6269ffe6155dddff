"""The public surface: names, signatures, and what importing the package does not import."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import sim2real

# What is promised; keyword-only arguments with a default may be added, and are listed below.
PROMISED = {
    "adapt": "(policy, target, *, episodes=10, seconds=None, seed=0)",
    "evaluate": "(policy, env, *, gap=None, xi=None, episodes=20, seed=0)",
    "export": "(policy, out)",
    "identify": "(logs, env)",
    "load": "(path)",
    "make_env": "(env, *, gap=None, xi=None, observe=None, seed=0)",
    "make_vec": "(env, num_envs, *, randomize='uniform', gap=None, observe=None, seed=0)",
    "train": "(recipe, *, out=None, seed=None, overrides=None)",
    "verify": "(artifact)",
}
ADDED = {
    "adapt": {"engine": "identify", "excitation": 0.1, "out": None},
    "evaluate": {"context": "nominal"},
    "export": {"recorded": None},
    "identify": {
        "method": "fit",
        "only": (),
        "suspended": False,
        "prior": None,
        "seed": 0,
        "report": ...,
    },
    "make_env": {"render_mode": None},
    "train": {"resume": False},
}
HEAVY = ("torch", "mujoco", "mjbatch", "gymnasium", "stable_baselines3", "onnx", "onnxruntime")


def interpreter(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *words], capture_output=True, text=True
    )


def test_the_public_names_are_these_in_alphabetical_order():
    assert sim2real.__all__ == sorted([*PROMISED, "gym"])
    assert set(sim2real.__all__) <= set(dir(sim2real))


@pytest.mark.parametrize("name", PROMISED)
def test_signatures(name):
    given = inspect.signature(getattr(sim2real, name)).parameters
    promised = eval(f"inspect.signature(lambda {PROMISED[name][1:-1]}: 0)").parameters
    added = ADDED.get(name, {})
    assert list(given) == [*promised, *added]
    for key, parameter in promised.items():
        assert given[key].kind == parameter.kind
        if (name, key) != ("evaluate", "env"):  # may be left out: the policy's own robot
            assert given[key].default == parameter.default
    for key, default in added.items():
        assert given[key].default is not inspect.Parameter.empty
        assert default is ... or given[key].default == default


def test_the_module_for_gymnasium_registers_every_robot():
    import gymnasium

    gymnasium.register_envs(sim2real.gym)
    assert "sim2real/hopper" in gymnasium.registry


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, sim2real, sim2real.cli; print(*sys.modules)"
    done = interpreter(program)
    assert not done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


def test_a_function_keeps_its_name_when_its_module_is_imported():
    program = """
import importlib, sim2real
import sim2real.train
from sim2real.train import train
assert sim2real.train is train
for name in ("adapt", "evaluate", "export", "identify", "verify"):
    home = importlib.import_module(sim2real._HOME[name])
    assert callable(getattr(sim2real, name)), name
    assert getattr(sim2real, name) is getattr(home, name), name
"""
    done = interpreter(program)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sim2real' has no attribute 'trian'"):
        _ = sim2real.trian


def test_a_training_name_without_the_training_packages_says_what_to_install():
    """On a robot's computer, with the base install: torch is not there."""
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "mujoco"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import sim2real
sim2real.verify
try:
    sim2real.train
except ImportError as error:
    print(error)
from sim2real.cli import main
print(main(["train", "hopper-context"]))
"""
    done = interpreter(program)
    assert done.returncode == 0, done.stderr
    library, status = done.stdout.splitlines()
    advice = 'needs the extra train: pip install "sim2real[train]"'
    assert library.startswith(f"sim2real.train {advice}")
    assert status == "2"
    assert f"this command {advice}" in done.stderr
    assert "Traceback" not in done.stderr
