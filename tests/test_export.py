import hashlib
import io
import json
import shutil
import sys
from copy import deepcopy
from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from sim2real.deploy.artifact import (
    Artifact,
    NonFiniteError,
    Runner,
    contract_text,
    graph_digest,
    with_contract,
)
from sim2real.deploy.files import canonical
from sim2real.deploy.verify import verify
from sim2real.export import build_graph, check_graph, check_onnxscript, export, trace
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import (
    ActuatorSpec,
    FastSpec,
    MemorySpec,
    ParameterInfo,
    PolicySpec,
    TermSpec,
)
from sim2real.record import Recording
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

torch.set_num_threads(1)

JOINTS = ("knee", "hip")
SPEC = PolicySpec(
    name="walker",
    env="walker2d",
    terms=(
        TermSpec("position", 2, "rad", "joint", "encoder", "measured", JOINTS),
        TermSpec("velocity", 2, "rad/s", "joint", "encoder", "estimated", JOINTS),
        TermSpec("tilt", 1, "rad", "world", "imu", "measured", (), (-0.5,), (1 / 3,)),
    ),
    actuators=ActuatorSpec(JOINTS, "N m", (-0.3, -0.4), (0.3, 0.2)),
    control_period=0.008,
    history=3,
    context=(ParameterInfo("mass", "1", 0.5, 2.0, 1.0), ParameterInfo("lag", "ms", 0.0, 9.0, 4.0)),
    latency_ms=(0.0, 12.0),
    max_tilt=0.7,
    tilt_term="tilt",
    episodes=10,
    provenance={"recipe": "walker2d.yaml"},
)
PLAIN = replace(SPEC, history=1, context=())


def build(spec, seed=0):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    F = spec.feature_size
    normalizer = Normalizer(rng.normal(size=F), rng.uniform(0.1, 4, F), clip=3.0)
    return Policy(spec, mlp([spec.network_size, 16, spec.action_size], "relu"), normalizer)


def record(ticks=200, seed=0):
    rng = np.random.default_rng(seed)
    return Recording(rng.normal(size=(ticks, 5)) * 2, np.arange(ticks) % 60 == 0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "artifact"
    export(build(SPEC), folder, record())
    return folder


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "artifact")


# What is written


GRU, LSTM, FAST = MemorySpec(12, "gru"), MemorySpec(12, "lstm"), FastSpec(3, 2)


@pytest.mark.parametrize(
    ("head", "history", "context", "memory"),
    [
        *product(["clip", "tanh"], [1, 4], [(), SPEC.context], [None]),
        ("clip", 1, (), GRU),
        ("clip", 1, (), LSTM),
        ("tanh", 4, SPEC.context, GRU),
        ("clip", 1, (), FAST),
        ("tanh", 4, (), FAST),
    ],
)
def test_artifact_gives_the_commands_of_torch(tmp_path, head, history, context, memory):
    """On observations, and a context, that were not in the recording, over several episodes."""
    kept = {"fast" if isinstance(memory, FastSpec) else "memory": memory}
    spec = replace(SPEC, head=head, history=history, context=context, name="a b", **kept)
    policy = build(spec, seed=1)
    artifact = export(policy, tmp_path / "a", record(seed=1))
    assert verify(tmp_path / "a").ok
    assert artifact.contract.evidence.parity <= 1e-5

    runner, z = Runner(artifact), policy.initial(1)
    if context:
        runner.set_state("context", [1.9, 7.0])
        at = policy.z_names.index("context")
        z = (*z[:at], torch.tensor([[1.9, 7.0]]), *z[at + 1 :])
    if spec.fast is not None:
        runner.set_state("fast", [1.5, -0.7, 0.3])
        z = policy.given(z, "fast", np.array([1.5, -0.7, 0.3]))
    obs, reset = record(300, seed=2)
    saturated = 0
    for row, begins in zip(obs, reset, strict=True):
        command, raw = runner.step(row, bool(begins))
        with torch.no_grad():
            x = torch.tensor(row[None], dtype=torch.float32)
            wanted, wanted_raw, z = policy.forward_full(x, z, torch.tensor([[float(begins)]]))
        np.testing.assert_allclose(command, wanted[0], atol=1e-5, rtol=0)
        np.testing.assert_allclose(raw, wanted_raw[0], atol=1e-5, rtol=0)
        saturated += (command != raw).any()
    for name, value in zip(policy.z_names, z, strict=True):
        if name in ("history", "context", "fast"):
            np.testing.assert_array_equal(runner.state(name), value)
        else:
            np.testing.assert_allclose(runner.state(name), value, atol=1e-5, rtol=0)
    assert saturated  # the limits were met, so they are in the graph


def test_without_a_recording_the_policy_is_recorded_in_its_own_robot(tmp_path):
    robot = Robot.load("hopper")
    low, high = robot.command_range
    spec = replace(
        PLAIN,
        env="hopper",
        terms=tuple(
            TermSpec(t.name, t.size, t.unit, t.frame, t.sensor, t.access, t.elements)
            for t in robot.observation("measured")
        ),
        actuators=ActuatorSpec(robot.actuators, "1", tuple(low.tolist()), tuple(high.tolist())),
        control_period=robot.control_period,
        history=2,
        max_tilt=None,
        tilt_term=None,
    )
    artifact = export(build(spec), tmp_path / "a")
    assert verify(tmp_path / "a").ok
    assert artifact.contract.evidence.ticks >= 200


def test_the_folder_holds_three_files_and_no_path_of_the_machine(exported):
    assert sorted(f.name for f in exported.iterdir()) == ["card.md", "golden.npz", "policy.onnx"]
    model = onnx.load(exported / "policy.onnx")
    assert [p.key for p in model.metadata_props] == ["sim2real"]
    assert (model.ir_version, model.opset_import[0].version) == (10, 18)
    data = (exported / "policy.onnx").read_bytes()
    assert b"stack_trace" not in data
    assert b".py" not in data


def test_contract_says_what_the_spec_says(exported):
    contract = Artifact.load(exported).contract
    position, velocity, tilt = contract.observations
    assert (tilt.low, tilt.high) == ((-0.5,), (1 / 3,))  # the spec's
    low, high = np.percentile(record().obs[:, 2:4], (0.1, 99.9), axis=0)
    assert (velocity.low, velocity.high) == (tuple(low), tuple(high))  # the recording's
    assert (position.unit, position.elements, velocity.access) == ("rad", JOINTS, "estimated")
    assert contract.control_period == 0.008
    assert contract.max_observation_age == pytest.approx(5 * 0.008 + 0.012)
    assert contract.latency_ms == (0.0, 12.0)
    assert [p.name for p in contract.parameters] == ["mass", "lag"]
    assert contract.state("context").initial == (1.0, 4.0)
    assert contract.adaptation is not None
    assert (contract.adaptation.low, contract.adaptation.high) == ((0.5, 0.0), (2.0, 9.0))
    assert contract.adaptation.episodes == 10
    assert (contract.safety.max_tilt, contract.safety.tilt_term) == (0.7, "tilt")


def test_card_names_everything_that_a_person_looks_for(exported):
    card = (exported / "card.md").read_text()
    for word in ("walker2d", "position", "knee", "rad/s", "N m", "mass", "tilt", "walker2d.yaml"):
        assert word in card


def test_the_same_policy_gives_the_same_graph_and_golden(exported, tmp_path):
    again = export(build(SPEC), tmp_path / "again", record())
    assert again.contract.graph == Artifact.load(exported).contract.graph
    with (
        np.load(tmp_path / "again" / "golden.npz") as ours,
        np.load(exported / "golden.npz") as theirs,
    ):
        for name in {*ours, *theirs} - {"semantics"}:  # which holds the time of export
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_export_says_nothing_and_leaves_the_policy_as_it_was(tmp_path, capfd):
    policy = build(PLAIN).train()
    before = deepcopy(policy.state_dict())
    export(policy, tmp_path / "a", record())
    assert capfd.readouterr() == ("", "")
    assert policy.training
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())


def test_nan_is_seen_and_a_reset_recovers(exported):
    runner = Runner(Artifact.load(exported))
    obs = np.zeros(5)
    first, _ = runner.step(obs, reset=True)
    with pytest.raises(NonFiniteError):
        runner.step(np.array([0, np.nan, 0, 0, 0]))
    poisoned = np.full((1, 3, 5), np.nan, np.float32)
    (command,) = Artifact.load(exported).session.run(
        ["command"],
        {
            "obs": obs[None].astype(np.float32),
            "reset": np.ones((1, 1), np.float32),
            "history_in": poisoned,
            "context_in": np.array([[1.0, 4.0]], np.float32),
        },
    )
    np.testing.assert_array_equal(command[0], first)


# What is refused


@pytest.mark.parametrize("spec", [SPEC, PLAIN])
def test_privileged_terms_are_refused(tmp_path, spec):
    terms = (*spec.terms[:1], replace(spec.terms[1], access="privileged"), spec.terms[2])
    with pytest.raises(InputError, match=r"'velocity' is privileged.*position, tilt.*estimated"):
        export(build(replace(spec, terms=terms)), tmp_path / "a", record())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("recorded", "sentence"),
    [
        (Recording(np.zeros((200, 4)), np.arange(200) % 50 == 0), r"must be \(T, 5\)"),
        (Recording(np.zeros((200, 5)), np.arange(199) % 50 == 0), r"must be \(T, 5\)"),
        (record(199), "199 ticks; at least 200 are needed"),
        (Recording(np.zeros((200, 5)), np.arange(200) == 0), "a later one another"),
        (Recording(np.zeros((200, 5)), np.arange(200) == 50), "first tick must begin"),
        (Recording(np.full((200, 5), np.nan), np.arange(200) % 50 == 0), "not finite"),
    ],
)
def test_recordings_that_prove_nothing_are_refused(tmp_path, recorded, sentence):
    with pytest.raises(InputError, match=sentence):
        export(build(SPEC), tmp_path / "a", recorded)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_may_be_given_by_its_folder(tmp_path):
    policy = build(PLAIN)
    policy.save(tmp_path / "policy")
    ours = export(tmp_path / "policy", tmp_path / "a", record())
    assert ours.contract.graph == export(policy, tmp_path / "b", record()).contract.graph


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [("there/is/none", "no such file; a policy folder holds"), (5, "policy is a int; it must be")],
)
def test_what_is_no_policy_is_refused(tmp_path, policy, sentence):
    with pytest.raises(InputError, match=sentence):
        export(policy, tmp_path / "a", record())
    assert list(tmp_path.iterdir()) == []


def test_only_an_artifact_is_replaced(copied, tmp_path):
    old = Artifact.load(copied).contract.graph
    export(build(SPEC, seed=5), copied, record())
    assert verify(copied).ok
    assert Artifact.load(copied).contract.graph != old
    (copied / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something other than an artifact"):
        export(build(SPEC), copied, record())
    with pytest.raises(InputError, match="something other than an artifact"):
        export(build(SPEC), copied / "notes.txt", record())
    assert (copied / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [copied]


def test_a_failed_export_leaves_the_older_artifact(copied, tmp_path, monkeypatch):
    broken = build(SPEC)
    with torch.no_grad():
        broken.network[0].get_parameter("weight").fill_(torch.inf)
    with pytest.raises(InputError, match="not finite on its own recording"):
        export(broken, copied, record())
    monkeypatch.setattr(sys.modules["sim2real.export"], "TOLERANCE", 0.0)
    with pytest.raises(InputError, match=r"differ by .* nothing was written"):
        export(build(SPEC), copied, record())
    assert verify(copied).ok
    assert list(tmp_path.iterdir()) == [copied]


def test_old_onnxscript_is_refused():
    for version in ("0.5.4", "0.7.0", "0.7.0.dev20260101", "0.6"):
        with pytest.raises(InputError, match=r"onnxscript>=0\.7\.1"):
            check_onnxscript(version)
    for version in ("0.7.1", "0.7.2", "0.10.0", "1.0"):
        check_onnxscript(version)


class Memory(nn.Module):
    """A GRU with its state in and out."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 8, batch_first=True)

    def forward(self, obs, hidden):
        out, after = self.gru(obs.unsqueeze(1), hidden.unsqueeze(0))
        return out[:, 0], after[0]


def test_gru_is_torchs_gru():
    """microsoft/onnxscript#2852: wrong only once the state is not zero, and without any error."""
    torch.manual_seed(0)
    module = Memory().eval()
    inputs = (torch.zeros(1, 5), torch.zeros(1, 8))
    model = trace(module, inputs, ["obs", "hidden_in"], ["out", "hidden_out"])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ours, theirs = np.zeros((1, 8), np.float32), torch.zeros(1, 8)
    for row in record(50).obs.astype(np.float32):
        _, ours = session.run(["out", "hidden_out"], {"obs": row[None], "hidden_in": ours})
        with torch.no_grad():
            _, theirs = module(torch.from_numpy(row[None]), theirs)
    np.testing.assert_allclose(np.asarray(ours), theirs, atol=1e-5)

    (gru,) = (node for node in model.graph.node if node.op_type == "GRU")
    (attribute,) = (a for a in gru.attribute if a.name == "linear_before_reset")
    attribute.i = 0
    with pytest.raises(InputError, match="linear_before_reset = 1"):
        check_graph(model)
    gru.attribute.remove(attribute)
    with pytest.raises(InputError, match="linear_before_reset = 1"):
        check_graph(model)


def test_graphs_that_no_robot_may_run_are_refused():
    def altered():
        return build_graph(build(PLAIN))

    model = altered()
    model.ir_version = 11
    with pytest.raises(InputError, match="IR 11"):
        check_graph(model)
    model = altered()
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(InputError, match="the batch 1"):
        check_graph(model)
    model = altered()
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    with pytest.raises(InputError, match=r"com\.example"):
        check_graph(model)


# Tampering with a real artifact


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "card.md"])
def test_any_changed_byte_is_refused(copied, name):
    path = copied / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in {0, len(whole) - 1, *rng.integers(len(whole), size=100).tolist()}:
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        assert not verify(copied).ok, f"{name}: byte {at}"
    for cut in (whole[:-1], whole + b"\0"):
        path.write_bytes(cut)
        assert not verify(copied).ok
    path.write_bytes(whole)
    assert verify(copied).ok


def reseal(folder, change=lambda contract: None, graph=None, golden=None):
    """Alter the contract, and replace graph and recording, with every hash made right again."""
    model = (folder / "policy.onnx").read_bytes()
    contract = json.loads(contract_text(model))
    contract.pop("contract")
    if golden is not None:
        file = io.BytesIO()
        np.savez(file, **golden)
        (folder / "golden.npz").write_bytes(file.getvalue())
    if graph is not None:
        model = graph.SerializeToString(deterministic=True)
    change(contract)
    contract["graph"] = graph_digest(model)
    for name in contract.get("files", {}):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        contract["files"][name] = digest
    seal = hashlib.sha256(canonical(contract).encode()).hexdigest()
    text = canonical({**contract, "contract": seal})
    (folder / "policy.onnx").write_bytes(with_contract(model, text))


def swap_terms(contract):
    terms = contract["observations"]
    terms[0], terms[1] = terms[1], terms[0]


def alter_semantics(folder, change):
    with np.load(folder / "golden.npz") as file:
        golden = dict(file)
    semantics = json.loads(str(golden["semantics"]))
    change(semantics)
    return {**golden, "semantics": np.array(canonical(semantics))}


def test_resealing_alone_changes_nothing(copied):
    reseal(copied)
    assert verify(copied).ok


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.pop("latency_ms"), "latency_ms"),
        (lambda c: c["safety"].pop("max_tilt"), "max_tilt"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["commands"].update(scales=[1.0, 1.0]), "scales"),
        (swap_terms, "another order"),
        (lambda c: c["observations"][0].update(unit="deg"), "unit"),
        (lambda c: c["commands"].update(unit="V"), "unit"),
        (lambda c: c["commands"].update(scale=[1.0, 2.0]), "scale"),
        (lambda c: c["commands"].update(high=[1.0, 20.0]), "high"),
        (lambda c: c["commands"].update(names=["hip", "knee"]), "names"),
        (lambda c: c["safety"].update(max_tilt=1.5), "max_tilt"),
        (lambda c: c.update(control_period=0.02), "control_period"),
        (lambda c: c["states"][0].update(reset="trial"), "reset"),
        (lambda c: c["parameters"][0].update(high=9.0), "high"),
        (lambda c: c.update(schema=3), "schema 3"),
    ],
)
def test_a_contract_altered_and_sealed_again_is_refused(copied, change, sentence):
    reseal(copied, change)
    verification = verify(copied)
    assert not verification.ok
    assert sentence in verification.sentence


def test_terms_swapped_in_contract_and_recording_are_refused(copied):
    reseal(copied, swap_terms, golden=alter_semantics(copied, swap_terms))
    verification = verify(copied)
    assert not verification.ok
    assert "does not reproduce its recording" in verification.sentence


def test_action_scale_changed_in_contract_and_recording_is_refused(copied):
    def change(contract):
        contract["commands"]["scale"] = [1.0, 0.5]

    reseal(copied, change, golden=alter_semantics(copied, change))
    assert "action scaling was changed" in verify(copied).sentence


def without_normaliser(policy):
    return Policy(policy.spec, policy.network, Normalizer.identity(policy.spec.feature_size))


def other_scale(policy):
    spec = replace(policy.spec, scale=(1.0, 0.5))
    return Policy(spec, policy.network, policy.normalizer)


def other_clip(policy):
    policy.normalizer.clip.fill_(10.0)
    return policy


def other_weight(policy):
    with torch.no_grad():
        policy.network[2].get_parameter("bias")[1] += 1e-3
    return policy


@pytest.mark.parametrize("change", [without_normaliser, other_scale, other_clip, other_weight])
def test_another_graph_sealed_again_is_refused(copied, change):
    reseal(copied, graph=build_graph(change(build(SPEC).eval())))
    verification = verify(copied)
    assert not verification.ok
    assert "does not reproduce its recording" in verification.sentence
