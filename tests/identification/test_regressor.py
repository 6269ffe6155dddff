"""Torques linear in inertial parameters, against MuJoCo's inverse dynamics."""

import mujoco
import numpy as np
import pytest

from sim2real.identification.regressor import (
    links,
    parameters,
    pseudo_inertia,
    regressor,
)
from sim2real.types import InputError


def arm(rng, joints=5, extra=True):
    """A random chain with one branch, tilted gravity, and a load fixed to the last link."""

    def body(k, inside):
        p, quat, axis = rng.normal(size=3), rng.normal(size=4), rng.normal(size=3)
        c, m = 0.2 * rng.normal(size=3), rng.uniform(0.5, 3)
        spread = np.sort(rng.uniform(0.5, 1, 3)) * 0.02
        text = lambda x: " ".join(f"{v:.17g}" for v in x)  # noqa: E731
        return (
            f'<body name="b{k}" pos="{text(p)}" quat="{text(quat)}">'
            f'<joint type="hinge" axis="{text(axis)}"/><inertial mass="{m}" pos="{text(c)}" '
            f'quat="{text(rng.normal(size=4))}" diaginertia="{text(spread)}"/>{inside}</body>'
        )

    load = (
        '<body pos="0.1 0.2 0.3" quat="0.5 0.5 -0.5 0.5"><inertial mass="0.7" pos="0 0.1 0" '
        'diaginertia="0.01 0.02 0.02"/></body>'
    )
    inside = load if extra else ""
    for k in range(joints):
        inside = body(k, inside + (body("side", "") if k == 2 else ""))
    xml = (
        f'<mujoco><option gravity="1 -2 -9"/><worldbody><body pos="0 0 1" quat="0.9 0.1 0 0.3">'
        f"{inside}</body></worldbody></mujoco>"
    )
    return mujoco.MjModel.from_xml_string(xml)


def inverse(model, q, v, a):
    data = mujoco.MjData(model)
    out = np.zeros_like(q)
    for k in range(len(q)):
        data.qpos[:], data.qvel[:], data.qacc[:] = q[k], v[k], a[k]
        mujoco.mj_inverse(model, data)
        out[k] = data.qfrc_inverse
    return out


@pytest.mark.parametrize("seed", range(5))
def test_the_torques_are_those_of_inverse_dynamics(seed):
    rng = np.random.default_rng(seed)
    model = arm(rng)
    q, v, a = rng.normal(size=(3, 30, model.nv))
    told = regressor(model, q, v, a) @ parameters(model)
    true = inverse(model, q, v, a)
    np.testing.assert_allclose(told, true, atol=1e-11 * np.abs(true).max())
    assert len(links(model)) == model.nv == 6


def test_a_link_without_the_load_has_other_parameters():
    """Control arm: what is fixed to a link is counted."""
    rng = np.random.default_rng(0)
    model = arm(rng)
    q, v, a = rng.normal(size=(3, 5, model.nv))
    without = parameters(arm(np.random.default_rng(0), extra=False))
    told = regressor(model, q, v, a) @ without
    assert np.abs(told - inverse(model, q, v, a)).max() > 0.1


def test_the_pseudo_inertia_is_positive_definite_for_a_body():
    model = arm(np.random.default_rng(1))
    thetas = parameters(model).reshape(-1, 10)
    for theta in thetas:
        P = pseudo_inertia(theta)
        assert np.linalg.eigvalsh(P).min() > 0
        assert P[3, 3] == theta[0]
    wrong = thetas[0].copy()
    wrong[4] *= 10  # one moment above the sum of the others
    assert np.linalg.eigvalsh(pseudo_inertia(wrong)).min() < 0


@pytest.mark.parametrize(
    ("joint", "says"),
    [
        ("<freejoint/>", "does not turn on one hinge"),
        ('<joint type="slide"/>', "does not turn on one hinge"),
        ('<joint pos="0 0 1"/>', "not at the origin of its body"),
    ],
)
def test_what_is_no_arm_of_hinges_is_refused(joint, says):
    xml = f'<mujoco><worldbody><body>{joint}<geom size="1"/></body></worldbody></mujoco>'
    with pytest.raises(InputError, match=says):
        links(mujoco.MjModel.from_xml_string(xml))
