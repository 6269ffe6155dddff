"""ξ from logs: what simulation with known physics wrote is explained by that physics."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim2real.deploy.logs.npz import EpisodeLog
from sim2real.identification import identify as identification
from sim2real.identification.identify import (
    AGAIN,
    METHODS,
    Method,
    explain,
    identify,
    restricted,
)
from sim2real.identification.posterior import ALARM, Posterior, at_the_edge
from sim2real.identification.trajectories import read_beginnings, read_trajectories
from sim2real.identification.windows import Observers, Trajectory
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

HOPPER = Robot.load("hopper")
TRUE = np.array([1.5, 1.6, 0.8, 0.75, 8.0])  # mass, damping, friction, strength, latency [ms]
MASS, DAMPING, FRICTION, STRENGTH, LATENCY = range(5)
MEASURED = [n for n, t in HOPPER.terms.items() if t.access != "privileged"]
EVERYTHING = [n for n in HOPPER.terms if n != "v5"]
QUICK: dict[str, Any] = {"candidates": 32}


def excited(xi=TRUE, *, terms=MEASURED, episodes=2, ticks=110, gain=0.8, seed=0):
    """Logs of a hopper with physics ξ under smooth random commands, falls included."""
    worlds = Worlds(HOPPER, episodes, observe=terms, seed=seed, threads=1)
    rng = np.random.default_rng(seed)
    told, sent = [worlds.reset(xi=np.tile(xi, (episodes, 1)))], []
    command = np.zeros((episodes, 3))
    for _ in range(ticks):
        command = 0.8 * command + 0.6 * gain * rng.standard_normal((episodes, 3))
        sent.append(np.clip(command, -1, 1).astype(np.float32))
        told.append(worlds.advance(sent[-1]).obs)
    ends = np.cumsum([HOPPER.terms[n].size for n in terms])[:-1]
    parts = np.split(np.stack(told, axis=1), ends, axis=2)
    return [
        Trajectory(
            {name: part[e] for name, part in zip(terms, parts, strict=True)},
            np.stack(sent, axis=1)[e].astype(float),
        )
        for e in range(episodes)
    ]


def with_noise(episodes, seed=1):
    sizes = {"joint_positions": 0.003, "joint_velocities": 0.1, "pitch": 0.003, "pitch_rate": 0.05}
    rng = np.random.default_rng(seed)
    return [
        e._replace(
            obs={n: x + sizes.get(n, 0.0) * rng.standard_normal(x.shape) for n, x in e.obs.items()}
        )
        for e in episodes
    ]


@pytest.fixture(scope="module")
def exact() -> Posterior:
    return explain(HOPPER, excited(), candidates=64)  # sharp sensors make surprises rough


@pytest.fixture(scope="module")
def noisy() -> Posterior:
    return explain(HOPPER, with_noise(excited()), **QUICK)


# What is found


def test_exact_data_reveal_the_physics(exact):
    error = np.abs(exact.mean - TRUE)
    assert error[MASS] < 0.25
    assert error[STRENGTH] < 0.08
    assert error[LATENCY] < 2.5
    assert error[DAMPING] < 0.4
    assert exact.informed[[MASS, STRENGTH, LATENCY]].all()


def test_noisy_data_reveal_what_counts_and_claim_less(noisy):
    error = np.abs(noisy.mean - TRUE)
    assert error[MASS] < 0.3
    assert error[STRENGTH] < 0.15


@pytest.mark.parametrize("data", ["exact", "noisy"])
def test_windows_that_the_fit_did_not_see_are_explained_better_than_by_nominal_physics(
    data, request
):
    posterior = request.getfixturevalue(data)
    assert posterior.log_likelihood > posterior.log_likelihood_nominal


def test_the_wrong_commands_explain_nothing(noisy):
    """A control arm: the same sensors, but every episode gets its commands in another order."""
    rng = np.random.default_rng(3)
    shuffled = [e._replace(command=rng.permutation(e.command)) for e in with_noise(excited())]
    wrong = explain(HOPPER, shuffled, candidates=32, rounds=6)
    assert wrong.log_likelihood < noisy.log_likelihood
    assert wrong.residual["joint_velocities"] > 2 * noisy.residual["joint_velocities"]


def test_what_the_data_cannot_tell_is_said():
    """No commands: neither the strength of the motors nor their latency leaves a trace."""
    posterior = explain(HOPPER, excited(gain=0.0), **QUICK)
    assert not posterior.informed[[STRENGTH, LATENCY]].any()
    rows = {row["name"]: row for row in posterior.summary()}
    assert not rows["motor_strength"]["revealed"]
    assert rows["motor_strength"]["std"] > 0.5 * posterior.prior_std[STRENGTH]


def test_the_noise_of_the_sensors_is_told_and_that_physics_explains_the_rest(noisy, exact):
    for term, size in {"joint_positions": 0.003, "pitch_rate": 0.05}.items():
        assert noisy.noise[term] == pytest.approx(size, rel=0.35)
        assert exact.noise[term] < 0.2 * size
    assert noisy.drift < 0.1


def test_intervals_hold_the_truth(noisy):
    """Of one robot; `tools/study_identification.py` counts on many. The latency is told to the
    physics step, 2 ms, to which worlds round it."""
    off = np.abs(noisy.mean - TRUE) / noisy.std
    assert (off < 3).all()
    assert (off < 1.645).sum() >= 3


def test_the_residual_is_that_of_the_sensors(noisy):
    assert 0.5 * 0.1 < noisy.residual["joint_velocities"] < 10 * 0.1
    assert set(noisy.residual) == {"joint_positions", "joint_velocities", "pitch", "pitch_rate"}


def test_the_same_logs_and_seed_give_the_same_posterior():
    logs = excited(ticks=30)
    a, b, c = (explain(HOPPER, logs, candidates=16, rounds=3, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(a.samples, b.samples)
    assert not np.array_equal(a.samples, c.samples)


def test_candidates_stay_within_the_ranges_that_are_searched(exact):
    assert (exact.samples >= exact.low).all()
    assert (exact.samples <= exact.high).all()
    assert exact.weights.sum() == pytest.approx(1)


# Simulated observers


def test_the_true_physics_predicts_noise_free_logs_to_the_last_digits():
    """Everything is logged, so what is put back at each window is what is there already."""
    logs = excited(terms=EVERYTHING, ticks=40)
    observers = Observers(HOPPER, logs, candidates=2, length=8)
    error = observers(np.stack([TRUE, np.array(HOPPER.space.nominal)]))
    assert error.shape == (2, 2, 41, 12)
    assert np.isnan(error[:, :, 0]).all()
    assert np.abs(error[0, :, 1:]).max() < 1e-9
    assert np.abs(error[1, :, 1:]).max() > 0.1


def test_what_is_not_measured_is_the_observers_own_estimate():
    """Without the base, the true physics still predicts better than another one, not exactly."""
    observers = Observers(HOPPER, excited(ticks=60), candidates=2)
    error = observers(np.stack([TRUE, np.array(HOPPER.space.nominal)]))
    true, nominal = (np.sqrt(np.nanmean(e**2)) for e in error)
    assert 1e-6 < true < nominal


def test_a_short_log_beside_a_long_one_is_not_compared_beyond_its_end():
    long, short = excited(terms=EVERYTHING, ticks=40)
    short = Trajectory({n: x[:21] for n, x in short.obs.items()}, short.command[:20])
    error = Observers(HOPPER, [long, short], candidates=1, length=8)(TRUE[None])
    assert np.isfinite(error[0, 0, 1:]).all()
    assert np.isfinite(error[0, 1, 1:21]).all()
    assert np.isnan(error[0, 1, 21:]).all()


def test_columns_name_the_terms_that_are_compared():
    observers = Observers(HOPPER, excited(ticks=20), candidates=1)
    assert observers.columns == ["joint_positions"] * 3 + ["joint_velocities"] * 3 + [
        "pitch", "pitch_rate"
    ]  # fmt: skip  # the last action is no measurement


# The posterior


def test_a_posterior_keeps_correlations_and_reads_back_as_it_was(exact, tmp_path):
    exact.save(tmp_path / "folder" / "posterior.json")
    again = Posterior.load(tmp_path / "folder" / "posterior.json")
    for name in exact.__dataclass_fields__:
        np.testing.assert_equal(getattr(again, name), getattr(exact, name))
    drawn = exact.distribution().sample(np.random.default_rng(0), 20_000)
    scale = np.outer(exact.std, exact.std)
    np.testing.assert_allclose(np.cov(drawn.T) / scale, exact.covariance / scale, atol=0.06)


def test_informed_by_hand(exact):
    wide = np.array([[0.0, 0.0], [1.0, 0.1]])
    posterior = replace(
        exact, names=("a", "b"), units=("1", "1"), samples=wide, weights=np.array([0.5, 0.5]),
        low=np.zeros(2), high=np.ones(2), prior_std=np.array([0.29, 0.29]),
    )  # fmt: skip
    np.testing.assert_allclose(posterior.mean, [0.5, 0.05])
    np.testing.assert_allclose(posterior.std, [0.5, 0.05])
    np.testing.assert_allclose(posterior.covariance, [[0.25, 0.025], [0.025, 0.0025]])
    assert posterior.informed.tolist() == [False, True]


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '{"env": "hopper", "other": 1}'])
def test_what_is_no_posterior_is_refused(tmp_path, text):
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=r"p\.json: not a posterior"):
        Posterior.load(tmp_path / "p.json")
    with pytest.raises(InputError, match="no such file"):
        Posterior.load(tmp_path / "q.json")


# Which method, which parameters


def test_what_is_not_named_stays_nominal():
    robot = restricted(HOPPER, ["torso_mass", "motor_strength"])
    space = robot.space
    fixed = [DAMPING, FRICTION, LATENCY]
    np.testing.assert_array_equal(space.low[fixed], np.array(HOPPER.space.nominal)[fixed])
    np.testing.assert_array_equal(space.high[fixed], np.array(HOPPER.space.nominal)[fixed])
    true = np.array(HOPPER.space.nominal)
    true[MASS], true[STRENGTH] = 1.4, 0.8
    posterior = explain(robot, with_noise(excited(true)), **QUICK)
    assert posterior.mean[MASS] == pytest.approx(1.4, abs=0.15)
    assert posterior.mean[STRENGTH] == pytest.approx(0.8, abs=0.06)
    np.testing.assert_array_equal(posterior.std[fixed], 0)
    assert restricted(HOPPER, []) is HOPPER


def test_names_that_are_none_are_refused():
    with pytest.raises(InputError, match=r"no parameter 'torso_mas' \(did you mean 'torso_mass'"):
        restricted(HOPPER, ["torso_mas"])
    with pytest.raises(InputError, match=r"method 'grit' \(did you mean 'grid'\?\); it is fit or"):
        explain(HOPPER, excited(ticks=20), method="grit")


# Logs


def test_logs_of_a_run_are_read_with_commands_in_the_robots_order(logs):
    episodes = read_trajectories(logs, HOPPER)
    assert len(episodes) == 2
    for obs, command in episodes:
        assert command.shape[1] == 3
        assert {n: x.shape for n, x in obs.items()} == {
            n: (len(command) + 1, HOPPER.terms[n].size) for n in MEASURED
        }


def test_identify_takes_files_and_folders_and_rings_where_no_physics_explains_them(logs, caplog):
    with caplog.at_level(logging.WARNING):
        one = identify(sorted(logs.glob("*.npz"))[0], "hopper")
    assert one.env == "hopper"
    assert one.windows > 0
    assert np.isfinite(one.misfit)
    assert one.outside == any("no ξ within the ranges" in r.getMessage() for r in caplog.records)
    assert replace(one, misfit=ALARM + 1).outside
    assert not replace(one, misfit=float("nan")).outside


@pytest.mark.parametrize("lost", [True, False])
def test_a_search_that_was_lost_is_done_again_and_no_other(lost, noisy, monkeypatch):
    """The first search is sure of other physics, and explains what it did not see less well."""
    own = with_noise(excited())
    searched: list[int] = []

    def search(robot, episodes, *, seed, report):
        searched.append(seed)
        report(1, {"drift": 1.0})
        if len(searched) > lost:
            return noisy
        astray = noisy.low + 0.9 * (noisy.high - noisy.low) + 0.1 * (noisy.samples - noisy.mean)
        worse = noisy.log_likelihood - 10
        return replace(noisy, samples=astray, said=None, log_likelihood=worse)

    told: list[dict[str, float]] = []
    monkeypatch.setitem(METHODS, "fit", Method(search, 1))
    monkeypatch.setattr(identification, "read_trajectories", lambda logs, robot: own)
    found = identify("own", "hopper", report=lambda _, x: told.append(x))
    assert searched == ([0, AGAIN] if lost else [0])
    assert [x.get("search") for x in told] == ([None, 2] if lost else [None])
    assert not found.outside
    assert np.abs(found.mean - TRUE)[MASS] < 0.3


@pytest.mark.parametrize(
    ("cut", "sentence"),
    [
        (lambda e: Trajectory({n: x[:9] for n, x in e.obs.items()}, e.command[:8]),
         "no episode of more than 12 control steps"),
        (lambda e: Trajectory({"last_action": e.obs["last_action"]}, e.command),
         "determine nothing of its state"),
    ],
)  # fmt: skip
def test_logs_that_say_nothing_are_refused(cut, sentence):
    with pytest.raises(InputError, match=sentence):
        explain(HOPPER, [cut(e) for e in excited(ticks=20)])


def test_a_robot_whose_steps_are_opaque_is_refused():
    robot = Robot.load("fetch_reach")
    with pytest.raises(InputError, match="whose steps are opaque"):
        explain(robot, excited(ticks=20))


# A log that is not what it seems


def spoiled(episode, name, tick, column, value) -> Trajectory:
    if name == "command":
        command = episode.command.copy()
        command[tick, column] = value
        return episode._replace(command=command)
    x = episode.obs[name].copy()
    x[tick, column] = value
    return episode._replace(obs=episode.obs | {name: x})


@pytest.mark.parametrize(
    ("name", "tick", "column", "value", "said"),
    [
        ("joint_positions", 7, 2, np.nan, "tick 7: 'joint_positions', column 2, is nan"),
        ("pitch", 0, 0, np.inf, "tick 0: 'pitch', column 0, is inf"),
        ("command", 3, 1, np.nan, "tick 3: 'command', column 1, is nan"),
        ("last_action", 20, 0, -np.inf, "tick 20: 'last_action', column 0, is -inf"),
    ],
)
def test_a_value_that_is_not_finite_is_named(name, tick, column, value, said, capfd):
    first, second = excited(ticks=20)
    logs = [first, spoiled(second, name, tick, column, value)]
    for refused in (
        lambda: Observers(HOPPER, logs, candidates=2),
        lambda: explain(HOPPER, logs, candidates=8, rounds=2),
    ):
        with pytest.raises(InputError, match=f"^episode 1 of the logs, {said}; every") as error:
            refused()
        assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")  # MuJoCo had nothing to say


@pytest.mark.parametrize(
    ("name", "column", "value", "said"),
    [
        ("joint_positions", 1, 0.0, "'joint_positions', column 1 "),
        ("joint_velocities", 0, 0.3, "'joint_velocities', column 0 "),
        ("pitch", 0, 0.0, "'pitch', column 0 "),
    ],
)
def test_a_sensor_that_never_changes_is_warned_of(name, column, value, said, caplog):
    logs = [spoiled(e, name, slice(None), column, value) for e in excited(ticks=30)]
    with caplog.at_level(logging.WARNING):
        explain(HOPPER, logs, candidates=8, rounds=2)
    (dead,) = [r.getMessage() for r in caplog.records if "never changes" in r.getMessage()]
    assert dead.startswith(f"hopper: {said}")
    assert "log without that term" in dead


def test_logs_in_which_no_sensor_changes_are_refused():
    logs = excited(ticks=30)
    for name in ("joint_positions", "joint_velocities", "pitch", "pitch_rate"):
        for column in range(HOPPER.terms[name].size):
            logs = [spoiled(e, name, slice(None), column, 0.1) for e in logs]
    with pytest.raises(InputError, match=r"no sensor in the logs ever changes.*log again"):
        explain(HOPPER, logs, candidates=8, rounds=2)


def test_what_rightly_stands_still_is_no_dead_sensor(caplog):
    """A sensor that moves; no command at all; a target that rests, and the height of an arm that
    has none."""
    reacher = Robot.load("reacher")
    terms = ["joint_positions", "joint_velocities", "target_position", "target_to_fingertip"]
    worlds = Worlds(reacher, 1, observe=terms, threads=1)
    told, rng = [worlds.reset()[0]], np.random.default_rng(0)
    sent = rng.uniform(-1, 1, (30, 2))
    told += [worlds.advance(u[None]).obs[0].copy() for u in sent]
    parts = np.split(np.array(told), np.cumsum([2, 2, 2]), axis=1)
    still = [spoiled(e, "pitch", slice(None), 0, 0.0) for e in excited(ticks=30, gain=0.0)]
    with caplog.at_level(logging.WARNING):
        explain(HOPPER, excited(ticks=30), candidates=8, rounds=2)
        explain(HOPPER, still, candidates=8, rounds=2)
        explain(reacher, [Trajectory(dict(zip(terms, parts, strict=True)), sent)], candidates=8,
                rounds=2)  # fmt: skip
    assert not [r for r in caplog.records if "never changes" in r.getMessage()]


@pytest.mark.parametrize(
    ("true", "name", "end"),
    [
        ([1.2, 1.2, 0.95, 0.5, 4.0], "motor_strength", "lower"),  # beyond it
        ([1.2, 1.2, 0.95, 0.9, 8.0], "action_latency", "upper"),  # at it
        ([1.2, 1.2, 0.95, 0.9, 4.0], "", ""),
    ],
)
def test_physics_beyond_the_ranges_is_warned_of_and_physics_inside_is_not(true, name, end, caplog):
    with caplog.at_level(logging.WARNING):
        posterior = explain(HOPPER, excited(np.array(true), ticks=80), **QUICK)
    said = [r.getMessage() for r in caplog.records]
    assert said == [f"hopper: {x}" for x in at_the_edge(posterior, HOPPER.space)]
    if not name:
        assert not said
        return
    (sentence,) = [x for x in said if f"of '{name}' lies at the {end} edge" in x]
    assert sentence.startswith("hopper: ")
    assert sentence.endswith("widen the range in env.yaml and identify again")


def test_missing_samples_are_said_and_nothing_is_interpolated(logs, tmp_path, caplog):
    source = sorted(logs.glob("*.npz"))[0]
    whole = read_trajectories(source, HOPPER)
    with np.load(source) as file:
        arrays = dict(file)
    seq = arrays["seq"].copy()
    seq[10:] += 3
    np.savez(tmp_path / "cut.npz", **(arrays | {"seq": seq}))
    pieces = read_trajectories(tmp_path / "cut.npz", HOPPER)
    assert [len(p.command) for p in pieces] == [9, len(whole[0].command) - 10]
    (said,) = [r.getMessage() for r in caplog.records]
    assert "missing or repeated in 1 places, first after tick 9; it is read in 2 pieces" in said


@pytest.mark.parametrize(
    ("name", "ticks", "lengths", "said"),
    [
        ("obs/pitch", [0], [-1], "1 of {} samples, first 'pitch' in tick 0"),
        (
            "obs/joint_velocities",
            [7, 8],
            [6, -9],
            "2 of {} samples, first 'joint_velo",
        ),
        ("command", [10], [10, -11], "1 of {} samples, first 'command' in tick 10"),
    ],
)
def test_samples_that_are_not_finite_are_said_and_left_out(
    name, ticks, lengths, said, logs, tmp_path, caplog
):
    source = sorted(logs.glob("*.npz"))[0]
    with np.load(source) as file:
        arrays = dict(file)
    length = len(arrays["command"])
    arrays[name] = arrays[name].copy()
    arrays[name][ticks, 0] = np.nan
    np.savez(tmp_path / "spoiled.npz", **arrays)
    pieces = read_trajectories(tmp_path / "spoiled.npz", HOPPER)
    begins = read_beginnings(tmp_path / "spoiled.npz", HOPPER)
    assert [len(p.command) for p in begins] == ([] if ticks == [0] else lengths[:1])
    caplog.clear()
    read_trajectories(tmp_path / "spoiled.npz", HOPPER)
    assert [len(p.command) for p in pieces] == [n if n > 0 else length + n for n in lengths]
    for piece in pieces:
        assert all(np.isfinite(x).all() for x in (piece.command, *piece.obs.values()))
    (warned,) = [r.getMessage() for r in caplog.records]
    assert f"values are not finite in {said.format(length + 1)}" in warned
    assert f"it is read in {len(lengths)} pieces, and nothing is interpolated" in warned


def test_a_file_in_which_nothing_is_finite_is_refused(logs, tmp_path):
    whole = EpisodeLog.read(sorted(Path(logs).glob("*.npz"))[1])
    obs = whole.obs | {"pitch": np.full_like(whole.obs["pitch"], np.nan)}
    replace(whole, obs=obs).write(tmp_path)
    said = (
        f"the log of {whole.info.started}, episode {whole.info.episode}, tick 0: "
        "'pitch', column 0, is nan; every value must be finite"
    )
    with pytest.raises(InputError, match=said):
        identify(tmp_path, "hopper")


def test_a_robot_without_parameters_has_nothing_to_identify(tmp_path):
    shutil.copytree(HOPPER.folder, tmp_path / "hopper")
    path = tmp_path / "hopper" / "env.yaml"
    text = path.read_text()
    path.write_text(text[: text.index("parameters:")])
    shutil.rmtree(tmp_path / "hopper" / "gaps", ignore_errors=True)
    robot = Robot.load(tmp_path / "hopper")
    with pytest.raises(InputError, match="no parameters, so there is nothing to identify"):
        explain(robot, excited(ticks=20))
