import json
import math
from dataclasses import replace

import pytest

from sim2real.policy.spec import ActuatorSpec, MemorySpec, ParameterInfo, PolicySpec, TermSpec
from sim2real.types import InputError

SPEC = PolicySpec(
    name="a policy",
    env="hopper",
    terms=(
        TermSpec(
            "joint position",
            2,
            "rad",
            "joint",
            "encoder",
            "measured",
            ("knee", "hip"),
            (-0.1, -1 / 3),
            (0.1, 2 / 3),
        ),
        TermSpec("tilt", 1, "rad", "world", "imu", "estimated"),
    ),
    actuators=ActuatorSpec(("knee", "hip"), "N m", (-1.0, -0.1 - 0.2), (1.0, 1e-300)),
    control_period=0.1 + 0.2,
    history=3,
    context=(ParameterInfo("mass", "1", 0.5, math.nextafter(2, 3), 1.0),),
    latency_ms=(0.0, 10 / 3),
    max_tilt=0.7,
    tilt_term="tilt",
    episodes=10,
    provenance={"recipe": "ξ"},
)


def test_json_round_trip_is_bit_exact():
    again = PolicySpec.from_dict(json.loads(json.dumps(SPEC.to_dict())))
    assert again == SPEC
    assert again.control_period.hex() == SPEC.control_period.hex()
    assert json.dumps(again.to_dict()) == json.dumps(SPEC.to_dict())


def test_sizes_follow_from_the_parts():
    assert (SPEC.obs_size, SPEC.action_size, SPEC.feature_size) == (3, 2, 10)
    assert SPEC.z_names == ("history", "context")
    assert replace(SPEC, history=1).z_names == ("context",)
    assert replace(SPEC, context=()).z_names == ("history",)
    assert replace(SPEC, history=1, context=()).z_names == ()


def test_scale_and_offset_follow_from_the_head():
    scaled = replace(SPEC, scale=(2.0, 3.0), offset=(0.0, 1.0))
    assert (scaled.action_scale, scaled.action_offset) == ((2.0, 3.0), (0.0, 1.0))
    assert (SPEC.action_scale, SPEC.action_offset) == ((1.0, 1.0), (0.0, 0.0))
    squashed = replace(SPEC, head="tanh", actuators=ActuatorSpec(("a",), "V", (-2.0,), (6.0,)))
    assert (squashed.action_scale, squashed.action_offset) == ((4.0,), (2.0,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"head": "tahn"}, "did you mean 'tanh'"),
        ({"history": 0}, "history is 0"),
        ({"control_period": 0.0}, "above 0 s"),
        ({"control_period": math.nan}, "above 0 s"),
        ({"latency_ms": (5.0, 1.0)}, r"\[low, high\]"),
        ({"memory": MemorySpec(4, believes=("mas",))}, "believes 'mas'.*did you mean 'mass'"),
        ({"max_tilt": 45.0}, r"\(0, π\] rad"),
        ({"max_tilt": None}, "together or not at all"),
        ({"tilt_term": "tilit"}, "did you mean 'tilt'"),
        ({"tilt_term": "joint position"}, "angle"),
        ({"parameters": SPEC.context}, "leave parameters empty"),
        ({"terms": ()}, "at least one observation term"),
        ({"terms": SPEC.terms * 2}, "must be different names"),
        ({"scale": (1.0,)}, "2 finite numbers"),
        ({"offset": (1.0, math.inf)}, "2 finite numbers"),
        ({"head": "tanh", "scale": (1.0, 1.0)}, "leave it empty"),
        ({"episodes": -1}, "0 or more"),
    ],
)
def test_impossible_values_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        replace(SPEC, **change)


def test_impossible_parts_are_refused():
    with pytest.raises(InputError, match="did you mean 'privileged'"):
        replace(SPEC.terms[0], access="priviledged")
    with pytest.raises(InputError, match="both must have 2"):
        replace(SPEC.terms[0], low=(0.0,))
    with pytest.raises(InputError, match="2 elements"):
        replace(SPEC.terms[0], size=3, low=(), high=())
    with pytest.raises(InputError, match=r"nominal 3\.0 lies outside"):
        ParameterInfo("mass", "1", 1.0, 2.0, 3.0)
    with pytest.raises(InputError, match="low must not be above high"):
        ParameterInfo("mass", "1", 2.0, 1.0, 1.0)
    with pytest.raises(InputError, match="different names"):
        ActuatorSpec(("a", "a"), "V", (0.0, 0.0), (1.0, 1.0))


def test_unknown_and_missing_keys_name_the_place():
    data = SPEC.to_dict()
    with pytest.raises(
        InputError, match=r"contrl_period: unknown key.*did you mean 'control_period'"
    ):
        PolicySpec.from_dict({**data, "contrl_period": 1.0})
    data["terms"][1].pop("unit")
    with pytest.raises(InputError, match=r"terms\[1\]\.unit"):
        PolicySpec.from_dict(data)
