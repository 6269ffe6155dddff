import time
from dataclasses import replace

import numpy as np
import pytest

from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.controller import Percentiles, _Pacer, run
from sim2real.deploy.logs.npz import TickFlag, read_logs
from sim2real.deploy.robots import connect
from sim2real.types import InputError


@pytest.fixture
def robot(point_mass):
    """robot(**options): a client of a point mass; `robot.server` is the other end."""
    clients = []

    def start(**options):
        server = point_mass(**options)
        client = connect(f":{server.port}")
        client.server = server  # pyright: ignore[reportAttributeAccessIssue]  (the other end)
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.close()


def context(artifact, value, **edit):
    z = AdaptedState(
        2, artifact.contract.graph, "context", ("mass", "drag"), value, (0.1, 0.1), True, 4, 2.0, 0
    )
    return replace(z, **edit)


def settled(condition):
    """DAMP is not answered: give the server's thread the time to read it."""
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.01)
    return False


# Lockstep


def test_a_lockstep_run_is_the_policy_and_the_physics_and_nothing_else(
    robot, write, numpy_policy, tmp_path
):
    client = robot(episode_steps=40)
    result = run(write(), client, episodes=3, seed=11, log=tmp_path / "log")
    logs = read_logs(tmp_path / "log")
    assert client.server.seeds == [11, 12, 13] == [log.info.seed for log in logs]
    sent = iter(client.server.commands)
    for episode, log in zip(result.episodes, logs, strict=True):
        flat = np.concatenate([log.obs[n][:-1] for n in ("position", "velocity", "pitch")], axis=1)
        command, raw = numpy_policy(flat, [True] + [False] * 39, np.ones(2))
        command = np.clip(command, [-1.0, -2.0], None)  # the robot's limit on fx
        np.testing.assert_allclose(log.command, command, atol=1e-5)
        np.testing.assert_allclose(log.raw, raw, atol=1e-5)
        for row in log.command:
            np.testing.assert_array_equal(next(sent), row)  # fx, fy on the robot, by name
        assert log.reward is not None
        np.testing.assert_allclose(log.reward, -(log.obs["position"][1:] ** 2).sum(axis=1))
        assert episode.return_ == pytest.approx(log.reward.sum())
        assert (episode.ticks, episode.seconds) == (40, pytest.approx(0.4))
        assert (episode.terminated, episode.truncated, episode.stopped) == (False, True, None)
        assert log.info.truncated
    assert result.stopped is None
    assert result.latency.ticks == 120
    assert result.latency.lateness is None
    assert result.latency.inference is not None
    assert (
        0
        < result.latency.inference.p50
        <= result.latency.inference.p99
        <= result.latency.inference.p999
    )
    assert settled(lambda: client.server.damped > 0)  # a run leaves the robot limp


def test_the_same_seed_gives_the_same_run_bit_for_bit(robot, artifact, tmp_path):
    for name in "ab":
        run(artifact, robot(), episodes=2, seed=4, excitation=0.3, log=tmp_path / name)
    for a, b in zip(read_logs(tmp_path / "a"), read_logs(tmp_path / "b"), strict=True):
        np.testing.assert_array_equal(a.command, b.command)
        np.testing.assert_array_equal(a.obs["position"], b.obs["position"])


def test_the_context_reaches_the_policy_and_the_log(robot, artifact, numpy_policy, tmp_path):
    z = context(artifact, (2.0, 0.5))
    z.write(tmp_path / "z.json")
    run(artifact, robot(), z=tmp_path / "z.json", log=tmp_path / "log")
    log = read_logs(tmp_path / "log")[0]
    flat = np.concatenate([log.obs[n][:-1] for n in ("position", "velocity", "pitch")], axis=1)
    _, raw = numpy_policy(flat, [True] + [False] * 39, np.array([2.0, 0.5]))
    np.testing.assert_allclose(log.raw, raw, atol=1e-5)
    assert log.info.z == z


def test_seconds_count_over_episodes(robot, artifact):
    client = robot(episode_steps=40)
    result = run(artifact, client, seconds=1.0)
    assert [e.ticks for e in result.episodes] == [40, 40, 20]
    assert [e.truncated for e in result.episodes] == [True, True, False]
    assert result.seconds == pytest.approx(1.0)
    assert [e.ticks for e in run(artifact, client, episodes=2, seconds=1.0).episodes] == [40, 40]


def test_excitation_is_bounded_noise_within_the_limits(robot, artifact, tmp_path):
    run(artifact, robot(episode_steps=400), excitation=0.2, log=tmp_path / "little")
    log = read_logs(tmp_path / "little")[0]
    c = artifact.contract.commands
    low, high = np.maximum(c.low, [-1.0, -5.0]), np.array(c.high)
    policy = np.clip(log.raw * c.scale + c.offset, c.low, c.high)
    noise = (log.command - policy) / ((high - low) / 2)
    assert np.abs(noise).max() <= 0.4 + 1e-6
    free = (np.abs(noise) < 0.39) & (log.command > low + 0.6) & (log.command < high - 0.6)
    assert 0.1 < noise[free].std() < 0.25
    run(artifact, robot(episode_steps=400), excitation=1.0, log=tmp_path / "much")
    log = read_logs(tmp_path / "much")[0]
    limited = (log.flags & TickFlag.LIMITED).astype(bool)
    assert limited.any()
    assert not limited.all()
    np.testing.assert_array_equal(log.command.min(axis=0), low)
    np.testing.assert_array_equal(log.command.max(axis=0), high)


def test_the_rate_limit_holds_from_the_neutral_command_on(robot, write, contract, tmp_path):
    limited = replace(contract, commands=replace(contract.commands, rate_limit=(2.0, 5.0)))
    run(write(limited), robot(), log=tmp_path)
    log = read_logs(tmp_path)[0]
    steps = np.abs(np.diff(np.vstack([np.zeros(2), log.command]), axis=0))
    assert (steps <= np.array([0.02, 0.05]) + 1e-12).all()
    assert (steps > 0.019).any()
    assert log.flags[0] & TickFlag.LIMITED


def test_blend_fades_in(robot, artifact, tmp_path):
    run(artifact, robot(), blend=0.2, log=tmp_path)
    log = read_logs(tmp_path)[0]
    c = artifact.contract.commands
    policy = np.clip(log.raw * c.scale + c.offset, c.low, c.high)
    share = np.minimum(1, np.arange(1, 41) * 0.01 / 0.2)
    expected = np.clip(share[:, None] * policy, [-1.0, -2.0], c.high)
    np.testing.assert_allclose(log.command, expected, atol=1e-6)


def test_a_robot_without_a_reward_channel_has_no_return(robot, artifact, tmp_path):
    result = run(artifact, robot(reward=False), log=tmp_path)
    assert result.episodes[0].return_ is None
    assert read_logs(tmp_path)[0].reward is None


def test_progress_is_told_every_tick(robot, artifact):
    told = []
    run(artifact, robot(), episodes=2, progress=lambda *args: told.append(args))
    assert [(k, t) for k, t, _ in told] == [(k, t) for k in range(2) for t in range(1, 41)]
    assert [s for _, _, s in told] == pytest.approx(np.arange(1, 81) * 0.01)


# Refused before anything moves


def test_an_artifact_that_does_not_verify_moves_nothing(robot, write, make_model):
    client = robot()
    with pytest.raises(InputError, match="is not run: the graph does not reproduce its recording"):
        run(write(graph=make_model(normalizer=False)), client)
    assert client.server.seeds == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"episodes": 0}, "episodes must be at least 1"),
        ({"seconds": 0.0}, "at least one period of 0.01 s"),
        ({"seconds": float("nan")}, "at least one period"),
        ({"excitation": 1.5}, "excitation is a share"),
        ({"excitation": float("nan")}, "excitation is a share"),
        ({"blend": -1.0}, "blend is a time"),
        ({"realtime": True}, "point runs in lockstep; serve it with --realtime"),
        ({"z": "nowhere.json"}, r"cannot read nowhere\.json"),
    ],
)
def test_arguments_out_of_range_move_nothing(robot, artifact, arguments, sentence):
    client = robot()
    with pytest.raises(InputError, match=sentence):
        run(artifact, client, **arguments)
    assert client.server.seeds == []


def test_another_robot_moves_nothing(robot, artifact):
    client = robot(control_period=0.02)
    with pytest.raises(InputError, match=r"trained at 0\.01 s"):
        run(artifact, client)
    assert client.server.seeds == []


def test_a_robot_without_an_episode_limit_needs_seconds(robot, artifact):
    client = robot(episode_steps=None)
    with pytest.raises(InputError, match="say after how many seconds to end"):
        run(artifact, client)
    assert run(artifact, client, seconds=0.3).episodes[0].ticks == 30


def test_a_robot_that_does_not_answer_the_first_reset(robot, artifact):
    with pytest.raises(InputError, match="has not answered"):
        run(artifact, robot(spoil=lambda tick, data: []))


# Safe stops: each one is made to fire


def from_tick(tick, **values):
    """A sensor that breaks at a tick (the reset's observation is the first)."""
    return lambda seq, obs: (
        obs | ({k: np.asarray(v) for k, v in values.items()} if seq > tick else {})
    )


@pytest.mark.parametrize(
    ("sense", "sentence"),
    [
        (
            from_tick(10, position=[0.0, np.nan]),
            "not finite: observation term 'position' gave nan at place 1",
        ),
        (
            from_tick(10, velocity=[np.inf, 0.0]),
            "not finite: observation term 'velocity' gave inf at place 0",
        ),
        (from_tick(10, pitch=[-1.3]), "tilt: 1.30 rad by 'pitch'; at most 1.00 rad are allowed"),
    ],
)
def test_a_broken_sensor_stops_the_robot_for_good(robot, artifact, tmp_path, sense, sentence):
    client = robot(sense=sense)
    result = run(artifact, client, episodes=3, log=tmp_path)
    assert result.stopped == sentence
    assert len(result.episodes) == 1  # latched: no second episode
    assert settled(lambda: client.server.damped > 0)
    log = read_logs(tmp_path)[0]
    assert log.info.stopped == sentence
    assert np.isfinite(log.command).all()
    held = 1 if "finite" in sentence else 0  # nan_ticks is 2: the first is held, the second stops
    assert log.ticks == 10 + held
    if held:
        assert log.flags[-1] == TickFlag.HELD
        np.testing.assert_array_equal(log.command[-1], log.command[-2])
        assert np.isnan(log.raw[-1]).all()


def test_one_bad_sample_is_held_and_the_policy_goes_on_unharmed(robot, artifact, tmp_path):
    def sense(seq, obs):
        return obs | {"velocity": np.full(2, np.nan)} if seq == 11 else obs

    result = run(artifact, robot(sense=sense), log=tmp_path)
    assert result.stopped is None
    log = read_logs(tmp_path)[0]
    assert log.ticks == 40
    assert np.flatnonzero(log.flags & TickFlag.HELD).tolist() == [10]
    assert np.isfinite(log.command).all()


def test_a_bad_first_sample_does_not_cost_the_reset(robot, artifact, numpy_policy, tmp_path):
    def sense(seq, obs):
        return obs | {"velocity": np.full(2, np.nan)} if seq == 1 else obs

    run(artifact, robot(sense=sense), log=tmp_path)
    log = read_logs(tmp_path)[0]
    np.testing.assert_array_equal(log.command[0], [0, 0])
    flat = np.concatenate([log.obs[n][1:-1] for n in ("position", "velocity", "pitch")], axis=1)
    _, raw = numpy_policy(flat, [True] + [False] * 38, np.ones(2))
    np.testing.assert_allclose(log.raw[1:], raw, atol=1e-5)


def test_a_policy_that_is_not_finite_stops_the_robot(robot, artifact, monkeypatch):
    client = robot(sense=from_tick(5, position=[1e39, 0.0]))  # finite, but not as float32
    with np.errstate(over="ignore"):
        result = run(artifact, client)
    assert result.stopped == "not finite: pd gave a value that is not finite"
    assert np.isfinite(client.server.commands).all()


def test_silence_in_lockstep_stops_the_robot(robot, artifact, monkeypatch, tmp_path):
    monkeypatch.setattr("sim2real.deploy.controller.SILENCE", 0.3)
    client = robot(spoil=lambda tick, data: [data] if tick <= 10 else [])
    result = run(artifact, client, episodes=2, log=tmp_path)
    assert result.stopped is not None
    assert result.stopped.startswith("silence: the robot at 127.0.0.1:")
    log = read_logs(tmp_path)[0]
    assert log.ticks == 10
    assert len(log.obs["position"]) == 11


def test_silence_at_a_later_reset_stops_the_robot(robot, artifact):
    client = robot(spoil=lambda tick, data: [data] if tick <= 41 else [])
    result = run(artifact, client, episodes=2)
    assert [e.stopped is None for e in result.episodes] == [True, False]
    assert "silence" in str(result.stopped)


def test_an_interrupt_damps_the_robot_and_keeps_the_log(robot, artifact, tmp_path):
    def interrupt(k, t, seconds):
        if t == 7:
            raise KeyboardInterrupt

    client = robot()
    with pytest.raises(KeyboardInterrupt):
        run(artifact, client, log=tmp_path, progress=interrupt)
    assert settled(lambda: client.server.damped > 0)
    log = read_logs(tmp_path)[0]
    assert (log.ticks, log.info.stopped) == (7, "interrupted")


def test_a_robot_that_breaks_its_word_is_damped(robot, artifact):
    client = robot()
    description = client.server.description

    def shrink(k, t, seconds):
        if t == 5:
            client.server.description = replace(description, terms=description.terms[:2])

    with pytest.raises(InputError, match="its description says 5"):
        run(artifact, client, progress=shrink)
    assert settled(lambda: client.server.damped > 0)


# Real time


def test_the_pacer_never_gives_two_ticks_to_one_period():
    pacer = _Pacer(0.02)
    start = time.monotonic()
    assert pacer.wait() < 0.02
    time.sleep(0.09)  # 4.5 periods: the command of this tick goes out in period 4
    assert pacer.skip() > 0.08
    missed = pacer.missed
    assert missed >= 4
    pacer.wait()
    now = time.monotonic() - start
    assert now >= 0.02 * (missed + 1) - 1e-3
    time.sleep(0.05)  # overslept: begin in the period that the clock is in
    late = pacer.wait()
    assert late > 0.02
    assert pacer.missed > missed


def test_a_real_time_run_is_paced(robot, artifact, tmp_path):
    client = robot(realtime=True, episode_steps=60)
    before = time.monotonic()
    result = run(artifact, client, seconds=1.0, realtime=True, log=tmp_path)
    wall = time.monotonic() - before
    ticks = sum(e.ticks for e in result.episodes)
    assert result.stopped is None
    assert ticks == 100
    assert wall >= 0.98  # never faster than the clock
    assert len(client.server.commands) <= ticks
    assert result.latency.lateness is not None
    assert result.latency.lateness.p50 >= 0
    logs = read_logs(tmp_path)
    assert sum(log.ticks for log in logs) == ticks
    for log in logs:
        assert (np.diff(log.seq) >= 0).all()
        assert (np.diff(log.stamp) >= 0).all()
        assert (log.lateness_us >= 0).all()


class Stalls:
    """A robot whose driver stalls once: everything else is the robot itself."""

    def __init__(self, robot, tick, seconds):
        self.robot, self.tick, self.seconds = robot, tick, seconds
        self.describe, self.reset, self.damp = robot.describe, robot.reset, robot.damp
        self.sent = []
        self.close = robot.close

    def send(self, command, seq):
        self.sent.append((time.monotonic(), command))
        self.robot.send(command, seq)

    def receive(self, timeout):
        if len(self.sent) == self.tick:
            time.sleep(self.seconds)
        return self.robot.receive(timeout)


def test_a_stall_costs_its_periods_and_is_not_followed_by_a_burst(robot, artifact, tmp_path):
    stalls = Stalls(robot(realtime=True, episode_steps=None), tick=20, seconds=0.045)
    result = run(artifact, stalls, seconds=0.6, log=tmp_path)
    assert result.stopped is None
    log = read_logs(tmp_path)[0]
    assert result.latency.missed >= 4
    late = log.flags[20]
    assert late & TickFlag.LATE
    assert late & TickFlag.HELD
    np.testing.assert_array_equal(log.command[20], log.command[19])
    # 60 commands and the missed periods fill the time: never two commands in one period.
    start, end = stalls.sent[0][0], stalls.sent[-1][0]
    assert end - start >= (len(stalls.sent) - 1 + result.latency.missed) * 0.01 - 0.011


def test_repeated_lateness_stops_the_robot(robot, artifact):
    client = robot(realtime=True, episode_steps=None)
    result = run(artifact, client, seconds=5.0, progress=lambda *_: time.sleep(0.025))
    assert result.stopped is not None
    assert result.stopped.startswith("late: 10 of the last")
    assert settled(lambda: client.server.damped > 0)


def test_stale_observations_are_held_and_then_stop_the_robot(robot, artifact, tmp_path):
    client = robot(realtime=True, episode_steps=None)
    gone = []

    def spoil(tick, data):
        if len(client.server.commands) < 20:
            return [data]
        gone.append(tick)
        return []

    client.server.spoil = spoil
    result = run(artifact, client, seconds=5.0, log=tmp_path)
    assert result.stopped is not None
    assert result.stopped.startswith("stale: the newest observation is ")
    log = read_logs(tmp_path)[0]
    held = (log.flags & TickFlag.HELD).astype(bool)
    assert held[-2:].all()  # stale_ticks is 3: two are held, the third stops
    np.testing.assert_array_equal(log.command[-1], log.command[-3])
    assert settled(lambda: client.server.damped > 0)


def test_a_lockstep_robot_is_not_stale_however_long_we_think(robot, artifact):
    client = robot(episode_steps=3)
    result = run(artifact, client, progress=lambda *_: time.sleep(0.06))
    assert result.stopped is None
    assert result.episodes[0].ticks == 3


def test_percentiles():
    table = Percentiles.of([*range(1001), float("nan")])
    assert table is not None
    assert (table.p50, table.p99, table.p999) == pytest.approx((500, 990, 999))
    assert Percentiles.of([]) is None
    assert Percentiles.of([float("nan")]) is None


def test_a_loaded_artifact_can_be_run_again(robot, write):
    artifact = Artifact.load(write())
    client = robot()
    first = run(artifact, client, z=context(artifact, (2.0, 0.5)), seed=1)
    second = run(artifact, client, seed=1)
    third = run(artifact, client, seed=1)
    assert second.episodes[0].return_ == third.episodes[0].return_ != first.episodes[0].return_
