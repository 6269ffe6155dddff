"""Steps between joint coordinates are MuJoCo's."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from sim2real.identification.tangent import Coordinates
from sim2real.simulation.robot import Robot

BALL = """<mujoco><worldbody><body><freejoint/><geom size="0.1"/>
<body pos="0 0 -0.3"><joint type="ball"/><geom size="0.1"/>
<body pos="0 0 -0.3"><joint axis="0 1 0"/><geom size="0.1"/></body></body></body>
</worldbody></mujoco>"""


def models():
    yield "ball", mujoco.MjModel.from_xml_string(BALL)
    for name in ("hopper", "go1"):
        yield name, Robot.load(name).compile()


@pytest.mark.parametrize(
    ("name", "model"), list(models()), ids=lambda x: x if isinstance(x, str) else ""
)
def test_steps_are_those_of_mujoco_and_undo_each_other(name, model):
    rng, coordinates = np.random.default_rng(0), Coordinates(model)
    here = np.tile(model.qpos0, (20, 1)) + 0.3 * rng.standard_normal((20, model.nq))
    for q in here:
        mujoco.mj_normalizeQuat(model, q)
    step = rng.uniform(-1.5, 1.5, (20, model.nv))
    step[0] = 0.0
    step[1] *= 1e-9
    there = coordinates.moved(here, step)
    for a, s, b in zip(here, step, there, strict=True):
        expected, back = a.copy(), np.zeros(model.nv)
        mujoco.mj_integratePos(model, expected, s, 1.0)
        np.testing.assert_allclose(b, expected, atol=1e-12)
        mujoco.mj_differentiatePos(model, back, 1.0, a, b)
        np.testing.assert_allclose(coordinates.between(a, b), back, atol=1e-9)
    np.testing.assert_allclose(coordinates.between(here, there), step, atol=1e-7)
