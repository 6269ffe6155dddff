import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from sim2real.deploy.adapt import apply
from sim2real.deploy.artifact import (
    Artifact,
    NonFiniteError,
    Runner,
    contract_text,
    graph_digest,
    with_contract,
)
from sim2real.deploy.contract import AdaptedState
from sim2real.types import InputError


def test_graph_digest_is_that_of_onnx_without_metadata(write):
    path = write() / "policy.onnx"
    proto = onnx.load(path)
    assert [p.key for p in proto.metadata_props] == ["sim2real"]
    del proto.metadata_props[:]
    bare = proto.SerializeToString(deterministic=True)
    assert graph_digest(path) == graph_digest(bare) == hashlib.sha256(bare).hexdigest()


def test_metadata_written_here_is_what_onnx_reads_and_back(make_model):
    text = "ξ " * 5000
    proto = onnx.load_from_string(with_contract(make_model(), text))
    assert {p.key: p.value for p in proto.metadata_props} == {"sim2real": text}
    proto.metadata_props[0].value = "other"
    assert contract_text(proto.SerializeToString()) == "other"
    proto.metadata_props.add(key="more", value="1")
    with pytest.raises(InputError, match="one entry"):
        contract_text(proto.SerializeToString())
    assert contract_text(with_contract(proto.SerializeToString(), text)) == text


def test_a_policy_without_a_contract_is_refused(make_model, tmp_path):
    (tmp_path / "policy.onnx").write_bytes(make_model())
    with pytest.raises(InputError, match="carries no contract"):
        Artifact.load(tmp_path)


@pytest.mark.parametrize("missing", ["policy.onnx", "golden.npz", "card.md"])
def test_a_missing_file_is_named(write, missing):
    folder = write()
    (folder / missing).unlink()
    with pytest.raises(InputError, match=missing):
        Artifact.load(folder)


def test_writing_twice_gives_the_same_bytes(write):
    first = {p.name: p.read_bytes() for p in write().iterdir()}
    assert {p.name: p.read_bytes() for p in write().iterdir()} == first
    assert sorted(first) == ["card.md", "golden.npz", "policy.onnx"]


def test_runner_is_the_policy_with_its_state_fed_back(artifact, numpy_policy):
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(300, 5)).astype(np.float32)
    reset = rng.random(300) < 0.1
    reset[0] = True
    context = np.array([0.5, 1.75])
    runner = Runner(artifact)
    runner.set_state("context", context)
    ours = [runner.step(row, bool(r)) for row, r in zip(obs, reset, strict=True)]
    command, raw = numpy_policy(obs.astype(np.float64), reset, context)
    np.testing.assert_allclose([c for c, _ in ours], command, atol=1e-5)
    np.testing.assert_allclose([r for _, r in ours], raw, atol=1e-5)
    np.testing.assert_array_equal(runner.state("history")[0], obs[-3:])
    np.testing.assert_array_equal(runner.state("context")[0], context)


def test_results_are_not_overwritten_by_the_next_tick(artifact):
    runner = Runner(artifact)
    first, _ = runner.step(np.ones(5), True)
    kept = first.copy()
    for _ in range(3):
        runner.step(-np.ones(5))
    np.testing.assert_array_equal(first, kept)


def test_a_tick_that_is_not_finite_leaves_the_state_as_it_was(artifact):
    runner = Runner(artifact)
    for x in (0.1, 0.2, 0.3):
        runner.step(np.full(5, x), x == 0.1)
    before = runner.state("history")
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFiniteError):
            runner.step(np.full(5, bad))
        np.testing.assert_array_equal(runner.state("history"), before)
    runner.step(np.full(5, 0.4))
    np.testing.assert_allclose(runner.state("history")[0, :, 0], [0.2, 0.3, 0.4], rtol=1e-6)


def test_begin_trial_restores_initial_values_and_warm_up_changes_nothing(artifact):
    runner = Runner(artifact)
    runner.set_state("context", [2.0, 0.5])
    runner.step(np.ones(5), True)
    runner.warm_up()
    np.testing.assert_array_equal(runner.state("context"), [[2.0, 0.5]])
    runner.begin_trial()
    np.testing.assert_array_equal(runner.state("context"), [[1.0, 1.0]])


def test_denormal_arithmetic_of_the_process_stays_as_it_was(artifact):
    runner = Runner(artifact)
    runner.step(np.ones(5), True)
    assert np.float32(1e-40) * np.float32(0.5) > 0


@pytest.mark.parametrize("obs", [np.zeros(4), np.zeros(6), np.zeros((1, 5)), 0.0])
def test_an_observation_of_another_length_is_refused(artifact, obs):
    with pytest.raises(InputError, match=r"takes \(5,\)"):
        Runner(artifact).step(obs)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("contxt", [1.0, 1.0], "did you mean 'context'"),
        ("context", [1.0], "1 numbers"),
        ("context", [np.nan, 1.0], "not finite"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(artifact, name, value, sentence):
    with pytest.raises(InputError, match=sentence):
        Runner(artifact).set_state(name, value)


def test_flatten_names_the_term_that_does_not_fit(contract):
    obs = {"position": np.zeros(2), "velocity": np.zeros(2), "pitch": np.zeros(1)}
    assert contract.flatten(obs).shape == (5,)
    with pytest.raises(InputError, match="'velocity' has 3 numbers; pd takes 2"):
        contract.flatten(obs | {"velocity": np.zeros(3)})
    with pytest.raises(InputError, match="lacks the term 'pitch'"):
        contract.flatten({k: v for k, v in obs.items() if k != "pitch"} | {"pich": np.zeros(1)})


def test_adapted_state_is_applied_from_memory_and_from_its_file(artifact, tmp_path):
    runner = Runner(artifact)
    graph, names = artifact.contract.graph, ("mass", "drag")
    z = AdaptedState(2, graph, "context", names, (1.5, 0.75), (0.1, 0.1), True, 4, 2.0, 0)
    apply(runner, z)
    np.testing.assert_array_equal(runner.state("context"), [[1.5, 0.75]])
    z = replace(z, value=(0.5, 2.0), accepted=False)
    z.write(tmp_path / "z.json")
    with pytest.raises(InputError, match="not accepted"):
        apply(runner, tmp_path / "z.json")
    np.testing.assert_array_equal(runner.state("context"), [[1.5, 0.75]])
    assert apply(runner, z) == z  # a candidate, tried before there is a verdict
    np.testing.assert_array_equal(runner.state("context"), [[0.5, 2.0]])
    with pytest.raises(InputError, match="lies outside"):
        apply(runner, replace(z, value=(9.0, 1.0)))
    np.testing.assert_array_equal(runner.state("context"), [[0.5, 2.0]])


def test_the_robots_side_imports_no_training_library():
    program = """
import sys
import sim2real.deploy.controller, sim2real.deploy.robots, sim2real.deploy.logs.npz
bad = {"torch", "mujoco", "gymnasium", "stable_baselines3", "onnx", "scipy", "mjbatch"}
print(sorted(bad & set(sys.modules)), sorted(m for m in sys.modules if m.startswith("sim2real.")))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    found, ours = done.stdout.split("] ", 1)
    assert found == "["
    assert all(
        m.startswith(("'sim2real.deploy", "'sim2real.types", "'sim2real.schema"))
        for m in ours.strip("[]\n").split(", ")
    )
