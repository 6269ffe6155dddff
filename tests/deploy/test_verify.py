import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

from sim2real.deploy import contract as c
from sim2real.deploy.artifact import contract_text, read_files, split_model, with_contract
from sim2real.deploy.golden import Golden
from sim2real.deploy.verify import verify
from sim2real.types import InputError


def refused(folder, *words):
    verification = verify(folder)
    assert not verification.ok
    assert not all(check.ok for check in verification.checks)
    for word in words:
        assert word in verification.sentence, verification.sentence
    assert "\n" not in verification.sentence
    return verification


def test_an_exported_artifact_verifies(write):
    verification = verify(write())
    assert verification.ok, verification.sentence
    assert [check.name for check in verification.checks] == [
        "contract", "hashes", "graph", "golden", "semantics", "actions", "resets", "replay",
    ]  # fmt: skip
    assert json.loads(json.dumps(verification.to_dict()))["ok"]


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "card.md"])
def test_any_single_byte_changed_is_refused(write, name):
    folder = write()
    path = folder / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = range(len(whole))
    if name == "policy.onnx":  # every byte of the metadata, framing included, every 29th elsewhere
        entry = split_model(whole)[1][0]
        start = whole.index(entry)
        places = sorted({*range(start, start + len(entry)), *range(0, len(whole), 29)})
    elif name == "golden.npz":
        places = range(0, len(whole), 101)
    for at in places:
        changed = bytearray(whole)
        changed[at] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        assert not verify(folder).ok, f"byte {at}"
    path.write_bytes(whole)
    assert verify(folder).ok


@pytest.mark.parametrize("name", ["policy.onnx", "golden.npz", "card.md"])
@pytest.mark.parametrize("edit", [lambda x: x[:-1], lambda x: x + b"\0", lambda x: b""])
def test_a_shorter_or_longer_file_is_refused(write, name, edit):
    path = write() / name
    path.write_bytes(edit(path.read_bytes()))
    refused(path.parent)


# From here on every hash is right: `write` computes them anew, as a forger would.


def reseal(folder, edit):
    """Edit the contract as JSON, then make its own hash right again."""
    path = folder / "policy.onnx"
    data = json.loads(contract_text(path.read_bytes()))
    del data["contract"]
    edit(data)
    data["contract"] = hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()
    path.write_bytes(with_contract(path.read_bytes(), json.dumps(data, ensure_ascii=False)))


def test_a_removed_contract_key_is_refused(write, contract):
    for key in json.loads(c.golden_semantics(contract)):
        folder = write()
        reseal(folder, lambda data, key=key: data.pop(key))
        refused(folder, key if key != "schema" else "schema")


def test_an_added_contract_key_is_refused(write):
    folder = write()
    reseal(folder, lambda data: data.update(extra=1))
    refused(folder, "unknown key", "extra")


def test_swapped_observation_terms_are_refused(write, contract):
    first, second, *rest = contract.observations
    swapped = replace(contract, observations=(second, first, *rest))
    before = c.golden_semantics(contract)
    refused(write(swapped, semantics=before), "another order", "velocity, position, pitch")
    # Even with the recording's text forged too: the commands are others.
    refused(write(swapped), "does not reproduce its recording", "order of its inputs")


def edits(contract):
    """One contract per semantic value that is changed, with the place that must be named."""
    data = json.loads(c.golden_semantics(contract))

    def walk(value, path):
        if isinstance(value, dict):
            for key in value:
                yield from walk(value[key], (*path, key))
        elif isinstance(value, list) and value:
            for i in range(len(value)):
                yield from walk(value[i], (*path, i))
        else:
            yield path, value

    return list(walk(data, ()))


def test_every_semantic_value_that_is_changed_is_refused(write, contract):
    folder = write()
    whole = (folder / "policy.onnx").read_bytes()
    places = edits(contract)
    assert len(places) > 100
    for path, value in places:

        def change(data, path=path, value=value):
            for key in path[:-1]:
                data = data[key]
            if isinstance(value, str):
                data[path[-1]] = {"measured": "estimated", "clip": "tanh", "episode": "trial"}.get(
                    value, value + "x"
                )
            elif value is None or value == []:
                data[path[-1]] = [1.0, 1.0] if value is None else ["j"]
            else:
                assert isinstance(value, (int, float))
                data[path[-1]] = value * 1.001 + 1e-9 if isinstance(value, float) else value + 1

        (folder / "policy.onnx").write_bytes(whole)
        reseal(folder, change)
        assert not verify(folder).ok, path
    (folder / "policy.onnx").write_bytes(whole)
    assert verify(folder).ok


def test_a_changed_unit_is_refused_with_its_place(write, contract):
    first, *rest = contract.observations
    changed = replace(contract, observations=(replace(first, unit="mm"), *rest))
    folder = write(changed, semantics=c.golden_semantics(contract))
    refused(folder, "observations[0].unit", "'mm'", "'m'")


def test_a_removed_normaliser_is_refused(write, make_model):
    refused(write(graph=make_model(normalizer=False)), "does not reproduce", "normaliser")


def test_an_action_scale_changed_in_the_graph_is_refused(write, make_model):
    folder = write(graph=make_model(scale=np.array([2.0, 3.01])))
    refused(folder, "does not reproduce", "command fy", "action scaling")


def test_an_action_scale_changed_in_the_contract_is_refused(write, contract):
    changed = replace(contract, commands=replace(contract.commands, scale=(2.0, 3.01)))
    refused(write(changed, semantics=c.golden_semantics(contract)), "commands.scale[1]", "3.01")
    # With the recording's text forged too.
    refused(write(changed), "the action scaling was changed", "fy")


@pytest.mark.parametrize("edit", [{"low": (-1.0, -2.0)}, {"high": (1.5, 9.0)}, {"head": "tanh"}])
def test_changed_limits_and_heads_do_not_fit_the_recorded_commands(write, contract, edit):
    changed = replace(contract, commands=replace(contract.commands, **edit))
    refused(write(changed))


def test_a_graph_that_keeps_an_episode_state_is_refused(write, make_model):
    refused(write(graph=make_model(keeps_history=True)), "'history'", "keeps it over a reset")


def test_a_graph_that_forgets_a_trial_state_is_refused(write, make_model):
    refused(write(graph=make_model(forgets_context=True)), "'context'", "forgets it at a reset")


def test_another_golden_recording_is_refused(write, make_recording):
    golden = make_recording()
    golden.command[150, 1] += 1e-3
    refused(write(golden=golden), "tick 150", "fy")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda g: g.obs.pop("velocity"), ("obs/velocity", "missing")),
        (lambda g: g.obs.update(more=np.zeros((200, 1))), ("unknown array", "obs/more")),
        (lambda g: g.obs.update(pitch=np.zeros((200, 2))), ("obs/pitch", "shape")),
        (lambda g: g.obs.update(pitch=np.full((200, 1), np.nan)), ("obs/pitch", "finite")),
        (lambda g: g.reset.__setitem__(90, 0), ("reset", "later tick")),
        (lambda g: g.states.pop("context"), ("context_in", "missing")),
    ],
)
def test_an_incomplete_recording_is_refused(write, make_recording, edit, words):
    golden = make_recording()
    edit(golden)
    refused(write(golden=golden), *words)


def test_a_graph_with_other_tensors_is_refused(write, contract):
    states = (replace(contract.states[0], shape=(1, 15)), contract.states[1])
    refused(write(replace(contract, states=states)), "the graph has the inputs", "history_in")


def test_a_graph_that_onnxruntime_does_not_know_is_refused(write, make_model):
    proto = onnx.load_from_string(make_model())
    proto.graph.node[0].op_type = "Teleport"
    refused(write(graph=proto.SerializeToString()), "onnxruntime refuses")


def test_golden_bytes_that_are_no_recording_are_refused(contract):
    for junk in (b"", b"PK\x03\x04", np.zeros(3).tobytes()):
        with pytest.raises(InputError, match=r"golden\.npz"):
            Golden.from_bytes(junk, contract)
    file = io.BytesIO()
    np.savez(file, command=np.array([object()]))
    with pytest.raises(InputError, match=r"golden\.npz"):
        Golden.from_bytes(file.getvalue(), contract)


def test_a_folder_that_is_no_artifact_is_wrong_input(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="is not an artifact"):
            verify(path)


def test_a_deleted_file_is_refused(write):
    folder = write()
    (folder / "card.md").unlink()
    refused(folder, "card.md")


@pytest.mark.parametrize("version", [0, 1, 3, "2", None])
def test_another_schema_version_is_refused_by_its_number(write, version):
    folder = write()
    reseal(folder, lambda data: data.update(schema=version))
    refused(folder, f"schema {version!r}", "reads schema 2")


def test_files_are_read_once_so_what_is_checked_is_what_is_used(write):
    folder = write()
    model = (folder / "policy.onnx").read_bytes()
    contract = c.Contract.from_json(contract_text(model))
    golden, card = read_files(folder, model, contract)
    assert (golden, card) == ((folder / "golden.npz").read_bytes(), b"# pd\n")
