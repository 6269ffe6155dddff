"""The classifiers confirm a gap and draw where it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim2real.localization.findings import COLUMNS
from sim2real.localization.localize import explain_gap
from sim2real.simulation.edits import Edit
from sim2real.simulation.gap import Gap
from sim2real.simulation.robot import Robot

CHEETAH, PENDULUM = Robot.load("halfcheetah"), Robot.load("inverted_pendulum")


@pytest.fixture(scope="module")
def mapped(logged):
    """A pendulum with a damped pole, whose classifiers learn in seconds."""
    gap = Gap(edits=[Edit("dof_damping", 1.0, select="hinge", op="add")])
    return explain_gap(PENDULUM, logged(PENDULUM, gap, episodes=100, ticks=40, gain=0.3))


def test_classifiers_see_the_gap_in_transitions_they_did_not_learn_from(mapped):
    assert mapped.kind == "dynamics"
    assert mapped.joints[0].name == "hinge"
    assert mapped.auc > 0.8


def test_a_damped_joint_differs_where_it_moves_fast(mapped):
    """Damping is a force of its velocity, so the two outer quarters of the velocity stand out."""
    assert mapped.regions[0].name == "pole_rate hinge"
    assert mapped.regions[0].delta_r > mapped.regions[0].elsewhere
    assert mapped.map.names[0] == "pole_rate hinge"


def test_the_table_and_the_picture_say_what_was_found(mapped):
    from sim2real.pictures import THEMES, draw_localization, png

    rows = mapped.rows()
    assert {len(r) for r in rows} == {len(COLUMNS)}
    assert {r[0] for r in rows} == {"term", "joint", "region"}
    for theme in THEMES:
        assert png(draw_localization(mapped, theme)).startswith(b"\x89PNG")
    empty = replace(mapped, kind="unknown", terms=(), joints=(), regions=(), map=None)
    assert png(draw_localization(empty, THEMES[0])).startswith(b"\x89PNG")


def test_few_transitions_give_no_regions_and_say_so(logged):
    gap = Gap(edits=[Edit("dof_damping", 3.0, select="fthigh")])
    answer = explain_gap(CHEETAH, logged(CHEETAH, gap))
    assert answer.regions == ()
    assert answer.notes == ("too few transitions or episodes for the classifiers: no regions",)
