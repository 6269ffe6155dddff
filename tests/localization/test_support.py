"""Logs that cannot be compared with the simulator are told apart from those that show a gap."""

from __future__ import annotations

import numpy as np
import pytest

from sim2real.identification.windows import Trajectory
from sim2real.localization.localize import examine, explain_gap, localize
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

CHEETAH = Robot.load("halfcheetah")


def test_too_few_transitions_are_unknown(found):
    answer = found(CHEETAH, episodes=2)
    assert answer.kind == "unknown"
    assert answer.sentence == (
        "unknown: 100 transitions; log at least 200, in several episodes"
    )  # fmt: skip
    assert np.isnan(answer.p)


def test_constant_commands_are_unknown(found):
    answer = found(CHEETAH, gain=0.0)
    assert answer.kind == "unknown"
    assert "no command ever changes; log with" in answer.sentence


def test_commands_in_another_unit_are_unknown(logged):
    episodes = [e._replace(command=e.command * 100) for e in logged(CHEETAH)]
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind == "unknown"
    assert "outside the range of the actuators, from -1 to 1" in answer.sentence


def test_joints_beyond_the_simulators_limits_are_unknown(logged):
    def changed(by):
        name = "joint_positions"
        return [e._replace(obs=e.obs | {name: by(e.obs[name])}) for e in logged(CHEETAH)]

    answer = examine(CHEETAH, changed(lambda x: x + 1.0))[0]  # encoders that were zeroed elsewhere
    assert answer.kind == "unknown"
    assert "beyond the simulator's limits" in answer.sentence
    with pytest.raises(InputError, match="degrees for radians"):
        examine(CHEETAH, changed(np.rad2deg))
    assert "unit" in answer.sentence


def test_logs_that_begin_in_the_middle_leave_the_base_unknown(logged):
    """With what a policy measures, the speed of the base at that moment is not known."""
    episodes = [
        Trajectory({n: x[20:] for n, x in e.obs.items()}, e.command[20:])
        for e in logged(CHEETAH, ticks=70)
    ]
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind in ("unknown", "none")
    assert any("begin where no episode of the simulator does" in n for n in answer.notes)


def test_a_channel_that_never_changes_is_a_dead_sensor(logged):
    episodes = []
    for e in logged(CHEETAH):
        dead = e.obs["joint_positions"].copy()
        dead[:, 2] = 0.0
        episodes.append(e._replace(obs=e.obs | {"joint_positions": dead}))
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind == "observation"
    assert "joint_positions bfoot never changes" in answer.sentence


def test_a_motor_that_was_never_used_is_noted(logged):
    episodes = [e._replace(command=e.command * [1, 1, 1, 1, 1, 0]) for e in logged(CHEETAH)]
    answer = examine(CHEETAH, episodes)[0]
    assert answer.notes == ("ffoot always got the same command: what drives it is not tested",)


# Bad input


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda e: e._replace(command=e.command[:, :3]), "has commands of shape .* takes 6"),
        (lambda e: e._replace(obs=e.obs | {"pitch": e.obs["joint_positions"]}),
         "has 'pitch' of shape"),
        (lambda e: e._replace(obs=e.obs | {"pitch": e.obs["pitch"] * np.nan}),
         "'pitch', column 0, is nan; every value must be finite"),
        (lambda e: e._replace(command=e.command * np.inf), "'command', column 0, is -?inf|nan"),
        (lambda e: e._replace(obs={"last_action": e.obs["last_action"]}),
         "determine nothing of its state"),
    ],
)  # fmt: skip
def test_logs_that_do_not_match_are_refused_in_one_sentence(spoil, sentence, logged):
    with np.errstate(invalid="ignore"):
        episodes = [spoil(e) for e in logged(CHEETAH)]
    with pytest.raises(InputError, match=sentence) as refused:
        explain_gap(CHEETAH, episodes)
    assert "\n" not in str(refused.value)


def test_logs_that_differ_in_their_terms_are_refused(logged):
    first, *rest = logged(CHEETAH)
    short = first._replace(obs={n: x for n, x in first.obs.items() if n != "pitch"})
    with pytest.raises(InputError, match="differ in their terms"):
        examine(CHEETAH, [*rest, short])


def test_no_transition_and_opaque_robots_are_refused(logged):
    with pytest.raises(InputError, match="hold no transition"):
        examine(CHEETAH, [])
    with pytest.raises(InputError, match="whose steps are opaque"):
        examine(Robot.load("fetch_reach"), logged(CHEETAH))


def test_logs_of_another_robot_are_refused(logs):
    with pytest.raises(InputError, match="'halfcheetah' has"):
        localize(logs, "halfcheetah")
