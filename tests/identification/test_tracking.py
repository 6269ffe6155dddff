"""A simulator that follows a log: under the true physics nothing but noise surprises it."""

from __future__ import annotations

import numpy as np
import pytest

from sim2real.identification.tracking import Supposed, Tracker
from sim2real.identification.windows import Trajectory
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds

HOPPER = Robot.load("hopper")
TRUE = np.array([1.4, 1.0, 0.8, 0.75, 6.0])  # mass, damping, friction, strength, latency [ms]
OTHER = np.array([0.8, 1.6, 1.1, 1.0, 2.0])
SEEN = ("joint_positions", "pitch")
NOISE = 0.004


def logged(xi=TRUE, *, robot=HOPPER, terms=SEEN, noise=NOISE, size=0.5, episodes=2, ticks=150,
           seed=0):  # fmt: skip
    """Episodes under smooth random commands, and the true noise of what they saw."""
    worlds = Worlds(robot, episodes, observe=list(terms), seed=seed, threads=1)
    rng = np.random.default_rng(seed)
    low, high = (np.asarray(x, float) for x in robot.command_range)
    rest = np.array(worlds.task.rest, float)
    told, sent = [worlds.reset(xi=np.tile(xi, (episodes, 1)))], []
    swing = np.zeros((episodes, len(low)))
    for _ in range(ticks):
        swing = 0.8 * swing + 0.3 * rng.standard_normal(swing.shape)
        sent.append(np.clip(rest + size * swing * (high - low) / 2, low, high))
        told.append(worlds.advance(sent[-1]).obs)
    seen = np.stack(told, axis=1)
    seen = seen + noise * rng.standard_normal(seen.shape)
    ends = np.cumsum([robot.terms[n].size for n in terms])[:-1]
    parts = np.split(seen, ends, axis=2)
    return [
        Trajectory(
            {name: part[e] for name, part in zip(terms, parts, strict=True)},
            np.stack(sent, axis=1)[e],
        )
        for e in range(episodes)
    ]


def follow(tracker, xi, *drifts):
    return tracker.follow(xi, [Supposed(d, tracker.noise) for d in drifts])


@pytest.fixture(scope="module")
def tracker():
    return Tracker(HOPPER, logged(), threads=1)


@pytest.fixture(scope="module")
def tracks(tracker):
    return {
        "true": follow(tracker, TRUE, 0.05, 0.5),
        "other": follow(tracker, OTHER, 0.05, 0.5),
    }  # fmt: skip


def test_the_sensors_noise_is_found(tracker):
    np.testing.assert_allclose(tracker.noise, NOISE, rtol=0.15)


def test_under_the_true_physics_surprises_are_white_and_of_the_size_that_is_stated(tracker, tracks):
    white = tracker.surprise(TRUE[None], tracks["true"][0])[0]
    assert 0.85 < np.nanmean(white**2) < 1.1
    after = np.nanmean(white[:, 1:] * white[:, :-1], axis=(0, 1))
    np.testing.assert_allclose(after, 0, atol=0.12)


def test_the_true_physics_is_likelier_by_far_and_needs_less_drift(tracks):
    true, other = tracks["true"], tracks["other"]
    assert true[0].log_likelihood > other[0].log_likelihood + 100
    assert true[0].log_likelihood > true[1].log_likelihood
    assert other[1].log_likelihood > other[0].log_likelihood


def test_with_the_gains_of_a_track_its_own_physics_repeats_it(tracker, tracks):
    for name, xi in (("true", TRUE), ("other", OTHER)):
        for track in tracks[name]:
            white = tracker.surprise(np.stack([xi, xi]), track)
            np.testing.assert_array_equal(white[0], white[1])
            told = np.einsum("etab,etb->eta", track.root, white[0])
            calm = np.abs(white[0]) < 10  # what went astray is cut
            np.testing.assert_allclose(told[calm], track.innovation[calm], atol=1e-9)


def test_each_drift_is_followed_as_if_alone(tracker, tracks):
    alone = follow(tracker, TRUE, 0.5)[0]
    np.testing.assert_allclose(alone.gain, tracks["true"][1].gain, atol=1e-9)
    assert alone.log_likelihood == pytest.approx(tracks["true"][1].log_likelihood)


def test_what_is_estimated_is_nearer_to_the_truth_than_what_was_seen(tracker, tracks):
    """Prediction errors against the noise-free log: the filter has averaged the noise away."""
    clean = np.stack([np.concatenate([e.obs[n] for n in SEEN], axis=1) for e in logged(noise=0.0)])
    told = tracker.logged[:, 1:] - tracks["true"][0].innovation
    error = told - clean[:, 1 : told.shape[1] + 1]
    assert np.sqrt(np.nanmean(error[:, 20:] ** 2)) < 0.6 * NOISE


def test_a_rate_that_is_a_difference_says_nothing_new():
    logs = logged(ticks=60)
    period = HOPPER.control_period
    rates = [
        e._replace(
            obs=e.obs
            | {"joint_velocities": np.diff(e.obs["joint_positions"], axis=0,
                                           prepend=e.obs["joint_positions"][:1]) / period}
        )
        for e in logs
    ]  # fmt: skip
    plain, with_rates = Tracker(HOPPER, logs, threads=1), Tracker(HOPPER, rates, threads=1)
    assert with_rates.derived == ["joint_velocities"]
    assert with_rates.columns == plain.columns
    a, b = (follow(t, TRUE, 0.1)[0].log_likelihood for t in (plain, with_rates))
    assert a == pytest.approx(b)


def test_a_latency_between_two_physics_steps_lies_between_them(tracker, tracks):
    """In worlds that round it to 2 ms, candidates would not tell 6.0 from 6.9."""
    late = np.tile(TRUE, (5, 1))
    late[:, 4] = [6.0, 6.5, 7.0, 7.5, 8.0]
    white = tracker.surprise(late, tracks["true"][1])
    size = np.nanmean(white**2, axis=(1, 2, 3))
    assert (np.diff(size) > 0).all()
    middle = (white[0] + white[4]) / 2
    off = np.sqrt(np.nanmean((white[2] - middle) ** 2))
    assert off < 0.3 * np.sqrt(np.nanmean((white[4] - white[0]) ** 2))


def test_a_robot_with_quaternions_is_followed():
    robot = Robot.load("go1")
    xi = np.array(robot.space.nominal, float)
    terms = ("joint_positions", "gravity", "gyro")
    logs = logged(xi, robot=robot, terms=terms, noise=0.005, size=0.08, episodes=1, ticks=60)
    tracker = Tracker(robot, logs, threads=1)
    track = follow(tracker, xi, 0.1)[0]
    joints = [c == "joint_positions" for c in tracker.columns]
    np.testing.assert_allclose(np.median(tracker.noise[joints]), 0.005, rtol=0.2)
    white = tracker.surprise(xi[None], track)[0]
    assert 0.5 < np.nanmean(white[:, 10:, joints] ** 2) < 1.6
    for name, value in (("winding_resistance", 1.5), ("payload", 4.0), ("calf_offset", 0.05)):
        wrong = xi.copy()
        wrong[robot.space.names.index(name)] = value
        other = tracker.follow(wrong, [track.supposed])[0]
        assert track.log_likelihood > other.log_likelihood


def test_what_is_shown_of_the_noise_corrects_a_wrong_supposition(tracker):
    loud = Supposed(0.05, 1.6 * tracker.noise)
    quiet = tracker.follow(TRUE, [loud])[0]
    again = tracker.follow(TRUE, [loud._replace(noise=quiet.noise)])[0]
    assert again.log_likelihood > quiet.log_likelihood
    assert (np.abs(again.noise - NOISE) < np.abs(loud.noise - NOISE)).all()


def test_episodes_of_other_lengths_end_where_they_end():
    long, short = logged(ticks=60)
    short = Trajectory({n: x[:31] for n, x in short.obs.items()}, short.command[:30])
    tracker = Tracker(HOPPER, [long, short], threads=1)
    track = follow(tracker, TRUE, 0.1)[0]
    white = tracker.surprise(TRUE[None], track)[0]
    assert np.isfinite(white[0]).all()
    assert np.isfinite(white[1, :30]).all()
    assert np.isnan(white[1, 30:]).all()
    assert np.isfinite(track.log_likelihood)
