"""What `make_env` and `make_vec` are given: wrong things are refused in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sim2real.make import make_env, make_vec, physics
from sim2real.types import InputError

BOTH = [
    ({"gap": 5}, "gap is 5; it must be the name of a gap, the path of a gap file, or a Gap"),
    ({"observe": 5}, "observe is 5; it must be the name of an observation set, or a list of terms"),
    ({"observe": ["pitch", 5]}, "observe is .*; it must be the name of an observation set"),
    ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
    ({"seed": 0.5}, "seed is 0.5; it must be a whole number of at least 0"),
    ({"env": None}, "env is None; it must be the name of a robot or its folder"),
]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        *BOTH,
        ({"xi": {"torso_mass": "heavy"}}, "xi: torso_mass is 'heavy'; it must be a number"),
        ({"xi": {"torso_mass": None}}, "parameter 'torso_mass': ξ must be a finite number"),
        ({"xi": {"torso_mass": [1, 2]}}, r"xi: torso_mass is \[1, 2\]; it must be a number"),
        ({"xi": {"torso_mas": 1.0}}, "no parameter 'torso_mas'.*did you mean 'torso_mass'"),
        ({"xi": {5: 1.0}}, "no parameter '5'"),
        ({"xi": np.ones((3, 5))}, r"xi has shape \(3, 5\); it must be \(5,\), or \(1, 5\)"),
        ({"xi": np.ones(4)}, r"has shape \(4,\).*the 5 parameters torso_mass"),
        ({"xi": "heavy"}, "ξ must be 5 numbers"),
    ],
)
def test_make_env_refuses(how, sentence):
    arguments: Any = {"env": "hopper", **how}
    with pytest.raises(InputError, match=sentence):
        make_env(**arguments)


@pytest.mark.parametrize(("how", "sentence"), BOTH)
def test_make_vec_refuses(how, sentence):
    arguments: Any = {"env": "hopper", "num_envs": 2, **how}
    with pytest.raises(InputError, match=sentence):
        make_vec(**arguments)


def test_physics_by_name_or_as_rows(hopper):
    nominal = np.array(hopper.space.nominal, float)
    by_name = physics(hopper, {"torso_mass": 1.5})
    np.testing.assert_array_equal(by_name, [1.5, *nominal[1:]])
    np.testing.assert_array_equal(physics(hopper, by_name), by_name)
    rows = np.stack([nominal, by_name])
    np.testing.assert_array_equal(physics(hopper, rows, 2), rows)
