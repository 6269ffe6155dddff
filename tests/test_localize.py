"""Where simulation and robot differ: simulated robots whose gap is known are told apart."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from scipy import stats

from sim2real import localize as module
from sim2real.identification.identify import read_trajectories
from sim2real.identification.windows import Trajectory
from sim2real.localize import (
    COLUMNS,
    STAGES,
    Plan,
    Replay,
    _permutation,
    examine,
    explain_gap,
    explained_alone,
    holm,
    localize,
    taken_back,
)
from sim2real.simulation.edits import Edit
from sim2real.simulation.gap import Actuators, Gap, Latency, Sensor
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

HOPPER, CHEETAH, PENDULUM = (
    cast(MjcfRobot, Robot.load(name)) for name in ("hopper", "halfcheetah", "inverted_pendulum")
)
NOISE = {"joint_positions": 0.01, "joint_velocities": 0.1, "pitch": 0.01, "pitch_rate": 0.1}
NOISY = Gap(sensors={name: Sensor(noise=size) for name, size in NOISE.items()})


def damped(joint, factor=3.0):
    return Gap(edits=[Edit("dof_damping", factor, select=joint)])


def logged(robot, gap=None, *, seed=0, episodes=6, ticks=50, terms=None, gain=0.8):
    """Logs of a robot with a gap under smooth random commands, each until it falls."""
    terms = terms or [n for n, t in robot.terms.items() if t.access != "privileged" and n != "v5"]
    worlds = Worlds(robot, episodes, gap=gap, observe=terms, seed=seed, threads=1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 77]))
    half = (worlds.action_high - worlds.action_low) / 2
    told, sent = [worlds.reset()], []
    command = np.zeros((episodes, len(half)))
    ends = np.full(episodes, ticks)
    for t in range(ticks):
        command = 0.7 * command + 0.7 * gain * rng.standard_normal(command.shape)
        sent.append((half * np.clip(command, -1, 1)).astype(np.float32))
        step = worlds.advance(sent[-1])
        told.append(step.obs)
        ends[step.terminated & (ends == ticks)] = t + 1
    parts = np.split(np.stack(told, axis=1), np.cumsum([t.size for t in worlds.terms])[:-1], axis=2)
    commands = np.stack(sent, axis=1).astype(float)
    return [
        Trajectory(
            {n: x[e, : ends[e] + 1] for n, x in zip(terms, parts, strict=True)},
            commands[e, : ends[e]],
        )
        for e in range(episodes)
    ]


def found(robot, gap=None, **how):
    return examine(robot, logged(robot, gap, **how), seed=how.get("seed", 0))[0]


# Oracles


def test_no_gap_is_a_finding_in_at_most_a_twentieth_of_trials():
    """The base of the cheetah is not measured, so nothing that is simulated equals the log."""
    answers = [found(CHEETAH, seed=s) for s in range(40)]
    findings = sum(a.kind != "none" for a in answers)
    assert findings <= 2
    assert min(a.terms[0].share for a in answers) > 0.05  # a threshold on size would find a gap
    assert stats.kstest([a.p for a in answers], "uniform", alternative="greater").pvalue > 0.01


def test_no_gap_in_exact_logs_is_none():
    answer = found(HOPPER, terms=["v5"], episodes=16, ticks=30)
    assert answer.kind == "none"
    assert answer.terms[0].share < 1e-6


def test_one_damped_joint_is_ranked_first():
    first = [found(CHEETAH, damped("fthigh"), seed=s).joints[:1] for s in range(20)]
    assert sum(bool(j) and j[0].name == "fthigh" for j in first) >= 18


@pytest.mark.parametrize("joint", ["bthigh", "bshin", "ffoot"])
def test_another_damped_joint_is_another_answer(joint):
    assert found(CHEETAH, damped(joint), seed=3).joints[0].name == joint


def test_where_all_is_logged_the_damped_joint_explains_all_and_its_neighbour_less():
    answer = found(HOPPER, damped("thigh_joint"), terms=["v5"], episodes=16, ticks=30)
    assert answer.kind == "dynamics"
    assert answer.joints[0].name == "thigh_joint"
    assert answer.joints[0].share > 0.99
    assert answer.joints[1].share < 0.8
    assert "thigh_joint alone" in answer.sentence


def test_a_weak_motor_is_found_at_its_joint():
    gap = Gap(actuators=Actuators(weak={"bshin": 0.6}))
    assert found(CHEETAH, gap).joints[0].name == "bshin"


def test_a_heavier_torso_is_no_joint_of_a_leg():
    answer = found(CHEETAH, Gap(xi={"torso_mass": 1.5}))
    assert answer.kind == "dynamics"
    assert answer.joints[0].name in ("rootx", "rootz", "rooty")
    assert "no joint explains it alone" in answer.sentence


@pytest.mark.parametrize("robot", [CHEETAH, HOPPER], ids=lambda r: r.name)
def test_noise_alone_is_an_observation_gap(robot):
    how = {"episodes": 6, "ticks": 50} if robot is CHEETAH else {"episodes": 16, "ticks": 30}
    answers = [found(robot, NOISY, seed=s, **how) for s in range(5)]
    assert sum(a.kind == "observation" and "noise" in a.sentence for a in answers) >= 4
    assert all(a.latency_ms == 0 for a in answers)


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("where", ["actuators", "sensors"])
def test_delay_alone_is_an_observation_gap_and_its_size_is_said(where, share):
    ms = 1000 * share * CHEETAH.control_period
    gap = Gap(latency=Latency(**{"sensors": {"observation_ms": ms}}.get(where, {"action_ms": ms})))
    for seed in range(3):
        answer = found(CHEETAH, gap, seed=seed)
        assert answer.kind == "observation"
        assert "late" in answer.sentence
        assert answer.latency_ms == pytest.approx(ms, abs=15)  # in steps of a physics step
        assert answer.joints == ()


def test_latency_of_a_period_is_the_same_for_commands_and_for_sensors():
    """They cannot be told apart, and the sentence says so."""
    ms = 1000 * HOPPER.control_period
    for latency in (Latency(action_ms=ms), Latency(observation_ms=ms)):
        gap = Gap(latency=latency)
        answer = found(HOPPER, gap, terms=["v5"], episodes=16, ticks=30)
        assert answer.latency_ms == ms
        assert answer.latency_share > 0.95
        assert "logs do not tell" in answer.sentence


# No support


def test_too_few_transitions_are_unknown():
    answer = found(CHEETAH, episodes=2)
    assert answer.kind == "unknown"
    assert answer.sentence == (
        "unknown: 100 transitions; log at least 200, in several episodes"
    )  # fmt: skip
    assert np.isnan(answer.p)


def test_constant_commands_are_unknown():
    answer = found(CHEETAH, gain=0.0)
    assert answer.kind == "unknown"
    assert "no command ever changes; log with" in answer.sentence


def test_commands_in_another_unit_are_unknown():
    episodes = [e._replace(command=e.command * 100) for e in logged(CHEETAH)]
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind == "unknown"
    assert "outside the range of the actuators, from -1 to 1" in answer.sentence


def test_joints_beyond_the_simulators_limits_are_unknown():
    episodes = [
        e._replace(obs=e.obs | {"joint_positions": np.rad2deg(e.obs["joint_positions"])})
        for e in logged(CHEETAH)
    ]
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind == "unknown"
    assert "beyond the simulator's limits" in answer.sentence
    assert "unit" in answer.sentence


def test_logs_that_begin_in_the_middle_leave_the_base_unknown():
    """With what a policy measures, the speed of the base at that moment is not known."""
    episodes = [
        Trajectory({n: x[20:] for n, x in e.obs.items()}, e.command[20:])
        for e in logged(CHEETAH, ticks=70)
    ]
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind in ("unknown", "none")
    assert any("begin where no episode of the simulator does" in n for n in answer.notes)


def test_a_channel_that_never_changes_is_a_dead_sensor():
    episodes = []
    for e in logged(CHEETAH):
        dead = e.obs["joint_positions"].copy()
        dead[:, 2] = 0.0
        episodes.append(e._replace(obs=e.obs | {"joint_positions": dead}))
    answer = examine(CHEETAH, episodes)[0]
    assert answer.kind == "observation"
    assert "joint_positions bfoot never changes" in answer.sentence


def test_a_motor_that_was_never_used_is_noted():
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
def test_logs_that_do_not_match_are_refused_in_one_sentence(spoil, sentence):
    with np.errstate(invalid="ignore"):
        episodes = [spoil(e) for e in logged(CHEETAH)]
    with pytest.raises(InputError, match=sentence) as refused:
        explain_gap(CHEETAH, episodes)
    assert "\n" not in str(refused.value)


def test_logs_that_differ_in_their_terms_are_refused():
    first, *rest = logged(CHEETAH)
    short = first._replace(obs={n: x for n, x in first.obs.items() if n != "pitch"})
    with pytest.raises(InputError, match="differ in their terms"):
        examine(CHEETAH, [*rest, short])


def test_no_transition_and_opaque_robots_are_refused():
    with pytest.raises(InputError, match="hold no transition"):
        examine(CHEETAH, [])
    with pytest.raises(InputError, match="whose steps are opaque"):
        examine(Robot.load("fetch_reach"), logged(CHEETAH))


def test_logs_of_another_robot_are_refused(logs):
    with pytest.raises(InputError, match="'halfcheetah' has"):
        localize(logs, "halfcheetah")


# From files to a picture


def test_logs_of_a_run_are_localized(logs):
    """The hopper of the fixture has the gap `worn`; two short episodes may be too few to say so."""
    told = []
    answer = localize(logs, "hopper", report=lambda done, figures: told.append(done))
    assert answer.kind in ("dynamics", "observation", "unknown")
    assert told[-1] == STAGES
    assert answer.episodes == len(read_trajectories(logs, HOPPER))
    assert json.loads(json.dumps(answer.to_dict(), allow_nan=False))["env"] == "hopper"


@pytest.fixture(scope="module")
def mapped():
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


def test_few_transitions_give_no_regions_and_say_so():
    answer = explain_gap(CHEETAH, logged(CHEETAH, damped("fthigh")))
    assert answer.regions == ()
    assert answer.notes == ("too few transitions or episodes for the classifiers: no regions",)


# Its parts


def test_a_nominal_replay_of_exact_logs_is_exact():
    replay = Replay(HOPPER, logged(HOPPER, terms=["v5"], ticks=20))
    told = replay(Plan.of(replay.model.nv, 2), 0)
    there = np.isfinite(replay.obs[:, 1:])
    for world in told:
        np.testing.assert_allclose(world[there], replay.obs[:, 1:][there], atol=1e-7)


def test_late_commands_are_those_of_the_gap():
    """A control arm: the replay with the robot's own latency is close, the nominal one is not.
    Under RK4 the last stage of a step reads the next command, so it is not exact."""
    ms = 1000 * HOPPER.control_period / 2
    episodes = logged(HOPPER, Gap(latency=Latency(action_ms=ms)), terms=["v5"], ticks=20)
    replay = Replay(HOPPER, episodes)
    plan = Plan.of(replay.model.nv, 2)
    plan.delay[1] = HOPPER.config.frame_skip // 2
    error = np.abs(replay(plan, 0) - replay.obs[:, 1:])
    steady = error[:, :, 2:]  # a delayed actuator reads its first command before it came
    assert np.nanmax(steady[0]) > 0.01
    assert np.nanmedian(steady[1]) < 0.1 * np.nanmedian(steady[0])


def test_the_permutation_test_is_exact_and_sees_what_is_further_away():
    rng = np.random.default_rng(0)
    there = np.ones((6, 10), bool)
    p = [_permutation(rng.chisquare(1, (4, 6, 10)), there, s)[0] for s in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    square = rng.chisquare(1, (4, 6, 10))
    square[0] *= 30
    small, factor = _permutation(square, there, 0)
    assert small < 0.002
    assert 10 < factor < 90


def test_transitions_of_an_episode_are_not_independent():
    """A control arm: shuffled one by one, the same noise would be a finding far too often."""
    rng = np.random.default_rng(0)
    wrong = right = 0
    for s in range(100):
        square = rng.chisquare(1, (4, 6, 1)) * rng.chisquare(5, (4, 6, 30))
        right += _permutation(square, np.ones((6, 30), bool), s)[0] <= 0.05
        apart = square.reshape(4, 180, 1)
        wrong += _permutation(apart, np.ones((180, 1), bool), s)[0] <= 0.05
    assert right <= 11
    assert wrong > 25


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])


def test_noise_is_taken_back_and_a_constant_force_is_not():
    """A random walk that is measured with noise n: error n' - n, and starting from where it was
    believed takes back k of the surprise."""
    rng = np.random.default_rng(0)
    n, there = rng.standard_normal((8, 101, 1)), np.ones((8, 99), bool)
    surprise = n[:, 1:] - n[:, :-1]
    slope, t = taken_back(surprise[:, 1:], 0.3 * surprise[:, :-1], there)
    assert slope < -1  # -0.5 / 0.3, were it not for asinh
    assert t < -10
    force = 1 + 0.1 * rng.standard_normal((8, 100, 1))
    slope, t = taken_back(force[:, 1:], 0.3 * force[:, :-1], there)
    assert slope > 2
    assert t > 3
    white = rng.standard_normal((8, 100, 1))
    assert abs(taken_back(white[:, 1:], 0.3 * white[:, :-1], there)[1]) < 3


def test_what_one_direction_explains_by_hand():
    error = np.array([[3.0, 4.0], [6.0, 8.0]])
    reach = np.array([[[1.0, 0.0]] * 2, [[0.0, 2.0]] * 2, [[-6.0, -8.0]] * 2, [[0.0, 0.0]] * 2])
    np.testing.assert_allclose(explained_alone(error, reach), [0.36, 0.64, 1.0, 0.0])


def test_the_figures_of_the_tests_are_those_of_the_module():
    assert module.LEVEL <= 0.05
    assert module._twins_for(1) + 1 >= 1 / module.LEVEL
    assert all((module._twins_for(n) + 1) ** n >= 1 / module.LEVEL for n in range(1, 20))
