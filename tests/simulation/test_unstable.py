"""What MuJoCo says of simulations that diverge, and where it is not said."""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
import pytest

from sim2real.simulation.engine import make_engine
from sim2real.simulation.robot import Robot
from sim2real.simulation.unstable import may_diverge

WORLDS = 8


@pytest.fixture
def heard():
    words = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(words.append)
    yield words
    mujoco.set_mju_user_warning(before)


def diverge(threads):
    robot: Any = Robot.load("hopper")
    engine = make_engine("mjbatch", robot.compile(), WORLDS, [], threads)
    task = robot.task
    engine.reset(
        np.arange(WORLDS),
        np.tile(task.init_qpos, (WORLDS, 1)),
        np.tile(task.init_qvel, (WORLDS, 1)),
    )
    engine.data["qvel"][:] = 1e12
    engine.step(np.zeros((WORLDS, robot.model.nu)), 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_candidates_diverge_quietly_and_all_others_are_still_heard(heard, threads):
    with may_diverge():
        diverge(threads)
    assert not heard
    diverge(threads)
    assert len(heard) >= WORLDS
    assert "unstable" in heard[0]


def test_an_error_leaves_the_words_as_they_were(heard):
    with pytest.raises(ZeroDivisionError), may_diverge():
        raise ZeroDivisionError
    diverge(1)
    assert heard
