import copy
import json
from dataclasses import replace

import numpy as np
import pytest

from sim2real.deploy.contract import (
    Adaptation,
    AdaptedState,
    Contract,
    State,
    check,
    golden_semantics,
)
from sim2real.types import InputError


@pytest.fixture
def sealed(contract):
    return replace(contract, files={"golden.npz": "a" * 64, "card.md": "b" * 64}, graph="c" * 64)


def objects(data, path=()):
    """Every JSON object in the contract whose keys mean something, with the path to it."""
    if isinstance(data, dict):
        if path not in {("versions",), ("files",)}:
            yield path
        for key, value in data.items():
            yield from objects(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from objects(value, (*path, i))


def at(data, path):
    for key in path:
        data = data[key]
    return data


def test_round_trip_is_exact_to_the_last_bit(sealed):
    rng = np.random.default_rng(0)
    low = tuple(float(x) for x in -np.exp(rng.normal(size=2) * 20))
    high = (0.1 + 0.2, 5e-324)
    contract = replace(sealed, commands=replace(sealed.commands, low=low, high=high))
    assert Contract.from_json(contract.to_json()) == contract


def test_numpy_numbers_and_lists_are_written_like_plain_ones(sealed):
    numpy = replace(sealed.commands, low=np.asarray(sealed.commands.low))
    numpy = replace(numpy, low=[np.float64(x) for x in numpy.low])
    assert replace(sealed, commands=numpy).to_json() == sealed.to_json()


def test_every_missing_and_every_unknown_key_is_refused_by_name(sealed):
    data = json.loads(sealed.to_json())
    places = list(objects(data))
    assert len(places) == 13
    for path in places:
        for key in at(data, path):
            edited = copy.deepcopy(data)
            del at(edited, path)[key]
            with pytest.raises(InputError, match=key):
                Contract.from_json(json.dumps(edited))
        edited = copy.deepcopy(data)
        at(edited, path)["surprise"] = 1
        with pytest.raises(InputError, match="surprise"):
            Contract.from_json(json.dumps(edited))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("schema",), 3, r"reads schema 2"),
        (("control_period",), 0.0, "control_period must be above 0"),
        (("control_period",), float("nan"), "finite|not JSON|Out of range"),
        (("observations", 0, "size"), 3, r"low has 2 numbers; 3"),
        (("observations", 0, "access"), "privileged", "measured"),
        (("observations", 1, "name"), "position", "nothing twice"),
        (("observations", 0, "low"), [1.0, 1.0], "lies above"),
        (("commands", "scale"), [1.0], r"scale has 1 numbers; 2"),
        (("commands", "head"), "squash", "tanh"),
        (("commands", "rate_limit"), [0.0, 1.0], "rate_limit must be above 0"),
        (("states", 0, "initial"), [0.0], r"initial has 1 numbers; 15"),
        (("states", 0, "shape"), [3, 5], "batch of 1"),
        (("gains", "kp"), [1.0], r"kp has 1 numbers; 2"),
        (("latency_ms",), [5.0, 1.0], "lies above"),
        (("parameters", 0, "nominal"), 3.0, "lies outside"),
        (("adaptation", "state"), "contxt", "did you mean 'context'"),
        (("adaptation", "state"), "history", "last a trial"),
        (("safety", "tilt_term"), "pich", "did you mean 'pitch'"),
        (("safety", "tilt_term"), None, "together"),
        (("safety", "tilt_term"), "position", "quaternion"),
        (("safety", "nan_ticks"), 0, "at least 1"),
        (("evidence", "tolerance"), 0.1, "tolerance"),
        (("graph",), "beef", "hexadecimal"),
        (("files",), {"golden.npz": "a" * 64}, "card.md"),
        (("name",), 3, "name"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(sealed, path, value, sentence):
    data = json.loads(sealed.to_json())
    at(data, path[:-1])[path[-1]] = value
    with pytest.raises(InputError, match=sentence):
        Contract.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "text", ["", "[]", '{"schema": 1', '{"schema": 1, "schema": 1}', "[" * 99999]
)
def test_what_is_no_contract_is_refused(text):
    with pytest.raises(InputError, match=r"JSON|schema"):
        Contract.from_json(text)


def test_a_change_without_a_new_seal_is_refused(sealed):
    text = sealed.to_json()
    for edited in (text.replace("12:00", "12:01"), text.replace(": ", ":  ", 1), text + "\n"):
        with pytest.raises(InputError, match="was changed after it was written"):
            Contract.from_json(edited)


def test_golden_semantics_leaves_out_nothing_but_the_hashes(sealed):
    ours, all_of_it = json.loads(golden_semantics(sealed)), json.loads(sealed.to_json())
    assert set(all_of_it) - set(ours) == {"files", "graph", "contract"}
    assert all(ours[key] == all_of_it[key] for key in ours)


def state(contract, **edit):
    z = AdaptedState(
        2, contract.graph, "context", ("mass", "drag"), (1.5, 0.75), (0.1, 0.1), True, 4, 12.5, 1
    )
    return replace(z, **edit)


def test_adapted_state_round_trip(sealed, tmp_path):
    z = state(sealed, value=(0.1 + 0.2 + 0.3, 1.0))
    z.write(tmp_path / "z.json")
    read = AdaptedState.read(tmp_path / "z.json")
    assert read == z
    read.check(sealed)
    assert [p.name for p in tmp_path.iterdir()] == ["z.json"]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"artifact": "d" * 64}, "another artifact"),
        ({"state": "history"}, "adapts 'history'"),
        ({"names": ("drag", "mass")}, "in this order"),
        ({"value": (1.0,)}, "value has 1 numbers; 2"),
        ({"std": ()}, "std has 0 numbers; 2"),
        ({"value": (1.0, 2.5)}, r"drag = 2.5 lies outside \[0.5, 2\]"),
        ({"value": (float("nan"), 1.0)}, "mass = nan lies outside"),
    ],
)
def test_adapted_state_of_another_policy_or_out_of_bounds_is_refused(sealed, edit, sentence):
    with pytest.raises(InputError, match=sentence):
        state(sealed, **edit).check(sealed)


def remembering(contract, size=3, **edit):
    """A contract of a policy with a memory."""
    kept = State("memory", (1, 3), (0.0,) * 3, "trial")
    bound = Adaptation("memory", "memory", False, 10, (-1.0,) * size, (1.0,) * size)
    return replace(
        contract, states=(contract.states[0], kept), adaptation=replace(bound, **edit)
    )  # fmt: skip


def test_a_memory_is_kept_without_names_and_within_its_bounds(sealed, tmp_path):
    contract = remembering(sealed)
    check(contract)
    z = state(contract, state="memory", names=(), value=(0.5, -1.0, 1.0), std=())
    z.write(tmp_path / "z.json")
    read = AdaptedState.read(tmp_path / "z.json")
    read.check(contract)
    assert (read, read.context) == (z, {})
    for edit, sentence in (
        ({"value": (0.5, 1.0)}, "value has 2 numbers; 3"),
        ({"value": (0.5, 1.5, 0.0)}, r"memory\[1\] = 1.5 lies outside \[-1, 1\]"),
        ({"names": ("mass", "drag")}, "takes none in this order"),
        ({"std": (0.1,)}, "std has 1 numbers; 0"),
        ({"state": "context"}, "adapts 'context'; .* adapts 'memory'"),
    ):
        with pytest.raises(InputError, match=sentence):
            replace(z, **edit).check(contract)


def test_a_memory_has_a_bound_for_each_of_its_numbers(sealed):
    with pytest.raises(InputError, match="low has 2 numbers; 3"):
        check(remembering(sealed, size=2))
    with pytest.raises(InputError, match="one per parameter, and last a trial"):
        check(remembering(sealed, kind="context"))


def test_adapted_state_needs_something_to_adapt(sealed):
    with pytest.raises(InputError, match="nothing to adapt"):
        state(sealed).check(replace(sealed, adaptation=None))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "not JSON"),
        (b"\xff", "UTF-8"),
        (b'{"schema": 3}', "schema 3"),
        (b'{"schema": 2}', "missing"),
    ],
)
def test_what_is_no_adapted_state_is_refused(tmp_path, content, sentence):
    (tmp_path / "z.json").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        AdaptedState.read(tmp_path / "z.json")


def test_a_missing_adapted_state_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        AdaptedState.read(tmp_path / "z.json")
