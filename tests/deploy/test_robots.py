import socket
import struct
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from sim2real.deploy.robots import connect, protocol
from sim2real.deploy.robots.base import ActuatorDescription, RobotDescription, TermDescription
from sim2real.deploy.robots.protocol import Flag, Kind, Message
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.types import InputError

DESCRIPTION = RobotDescription(
    "ξ robot",
    (TermDescription("a", 2, "rad", ("x", "y")), TermDescription("b", 1, "m", ())),
    ActuatorDescription(("u",), "N m", (-1.0,), (0.1 + 0.2,)),
    0.008,
    True,
    False,
    None,
)
TOO_LONG = {"a": np.zeros(3), "b": np.zeros(1)}


@pytest.fixture
def link():
    """link(server, **options): a client of it that is closed with the test."""
    open_robots = []

    def link(server, timeout=2.0):
        robot = connect(f"127.0.0.1:{server.port}", timeout)
        open_robots.append(robot)
        return robot

    yield link
    for robot in open_robots:
        robot.close()


# The wire


@pytest.mark.parametrize(
    "message",
    [
        Message(Kind.HELLO),
        protocol.reset(2**40, 2**62),
        protocol.reset(1, None),
        protocol.command(3, 2, 1.25, np.array([0.1, -np.inf])),
        protocol.error("the robot is busy: Ångström"),
        Message(Kind.OBSERVATION, 2**63, 5, -1.5, Flag.TERMINATED | Flag.TRUNCATED, b"12345678"),
    ],
)
def test_messages_survive_the_wire(message):
    assert protocol.decode(message.encode()) == message


def test_payloads_survive_the_wire():
    def through(message):
        decoded = protocol.decode(message.encode())
        assert decoded is not None
        return decoded

    assert through(protocol.describe(DESCRIPTION)).description() == DESCRIPTION
    assert through(protocol.reset(1, 12)).seed() == 12
    assert through(protocol.reset(1, None)).seed() is None
    assert through(protocol.error("no")).sentence() == "no"
    obs = {"b": np.array([3.0]), "a": np.array([1.0, 0.1 + 0.2])}
    message = through(protocol.observation(DESCRIPTION, 1, 2, 3.0, obs, -1.5, truncated=True))
    np.testing.assert_array_equal(message.values(), [-1.5, 1.0, 0.1 + 0.2, 3.0])
    assert message.flags == Flag.TRUNCATED


def test_the_header_is_as_written_in_the_module():
    data = protocol.command(7, 6, 0.5, np.array([1.0])).encode()
    assert len(data) == 32 + 8
    assert struct.unpack("<4sBBHQQdd", data) == (b"S2RL", 1, 4, 0, 7, 6, 0.5, 1.0)


@pytest.mark.parametrize("data", [b"", b"S2RL", b"x" * 64, b"S2RK" + bytes(28)])
def test_what_is_not_ours_is_not_a_message(data):
    assert protocol.decode(data) is None


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: protocol.decode(b"S2RL\x09" + bytes(27)), "version 9.*this is version 1"),
        (lambda: protocol.decode(b"S2RL\x01\x63" + bytes(26)), "unknown kind 99"),
        (lambda: protocol.reset(1, -3), "seed must lie"),
        (lambda: Message(Kind.RESET, payload=b"1").seed(), "seed of 8 bytes"),
        (lambda: Message(Kind.COMMAND, payload=b"123").values(), "not a list of float64"),
        (lambda: Message(Kind.DESCRIBE, payload=b"[]").description(), "not a JSON object"),
        (lambda: Message(Kind.DESCRIBE, payload=b'{"name": "x"}').description(), "missing"),
        (lambda: Message(Kind.COMMAND, payload=bytes(70000)).encode(), "does not fit a datagram"),
        (lambda: protocol.observation(DESCRIPTION, 1, 1, 0, TOO_LONG), "does not have the size"),
    ],
)
def test_bad_messages_are_refused_with_a_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()


# Addresses


@pytest.mark.parametrize(
    "address", ["", "127.0.0.1", "127.0.0.1:http", ":0", ":99999", "udp://x", "::²"]
)
def test_a_wrong_address_is_refused(address):
    with pytest.raises(InputError, match="give HOST:PORT with a port from 1 to 65535"):
        connect(address)


def test_an_unknown_transport_and_an_unknown_host_are_refused():
    with pytest.raises(InputError, match="no transport 'dds'; write udp://"):
        connect("dds://127.0.0.1:9870")
    with pytest.raises(InputError, match=r"at nowhere\.invalid:9870"):
        connect("nowhere.invalid:9870")


def test_a_robot_that_does_not_answer():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        sentence = rf"no robot answers at 127.0.0.1:{port}; start one with `sim2real serve`"
        with pytest.raises(InputError, match=sentence):  # bound, but mute
            connect(f"127.0.0.1:{port}", timeout=0.15)
    with pytest.raises(InputError, match=sentence):  # nobody there
        connect(f":{port}", timeout=0.15)


def test_a_robot_that_refuses_says_why():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(2)
        port = server.getsockname()[1]

        def answer():
            _, peer = server.recvfrom(100)
            server.sendto(protocol.error("the robot already has a commander").encode(), peer)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(InputError, match="refuses: the robot already has a commander"):
            UdpRobot("127.0.0.1", port)
        thread.join()


# Lockstep


def drive(robot, ticks=30, seed=5):
    samples = [robot.reset(seed)]
    for t in range(ticks):
        robot.send(np.array([np.sin(t), np.cos(t)]), samples[-1].seq)
        samples.append(robot.receive(2.0))
    return samples


def test_lockstep_integrates_the_commands(point_mass, link):
    server = point_mass(episode_steps=30)
    robot = link(server)
    assert robot.describe() == server.description
    samples = drive(robot)
    velocity, position = np.zeros(2), samples[0].obs["position"]
    for t, sample in enumerate(samples[1:]):
        velocity = velocity + 0.01 * (np.array([np.cos(t), np.sin(t)]) - 0.1 * velocity)
        position = position + 0.01 * velocity
        np.testing.assert_allclose(sample.obs["position"], position, rtol=1e-12)
        assert sample.reward == pytest.approx(-position @ position)
        assert sample.truncated == (t == 29)
    assert server.seeds == [5]


def network(kind):
    past = [b""]

    def spoil(tick, data):
        past.append(data)
        return {
            "loss": [] if tick % 4 == 3 else [data],
            "duplicates": [data, data],
            "garbage": [b"garbage", data],
            "echo of the past": [past[-2], data],
        }[kind]

    return spoil


@pytest.mark.parametrize("kind", ["loss", "duplicates", "garbage", "echo of the past"])
def test_lockstep_over_a_bad_network_is_the_same_bit_for_bit(point_mass, link, kind, monkeypatch):
    monkeypatch.setattr("sim2real.deploy.robots.udp.RETRY", 0.02)
    good = drive(link(point_mass()))
    server = point_mass(spoil=network(kind))
    robot = link(server)
    bad = drive(robot)
    for a, b in zip(good, bad, strict=True):
        np.testing.assert_array_equal(a.obs["position"], b.obs["position"])
        assert a.reward == b.reward
    assert len(server.commands) == 30  # none was taken twice
    assert (robot.retries if kind == "loss" else robot.dropped) > 5


def test_lockstep_gives_up_after_the_timeout(point_mass, link):
    robot = link(point_mass(spoil=lambda tick, data: [data] if tick < 3 else []))
    robot.reset(0)
    robot.send(np.zeros(2), 1)
    robot.receive(0.5)
    robot.send(np.zeros(2), 2)
    with pytest.raises(TimeoutError, match=r"has not answered for 0.3 s"):
        robot.receive(0.3)


def test_a_robot_that_sends_other_lengths_than_it_said(point_mass, link):
    server = point_mass()
    robot = link(server)
    robot.reset(0)
    server.description = replace(server.description, terms=server.description.terms[:2])
    robot.send(np.zeros(2), 1)
    with pytest.raises(InputError, match="observation of 4 numbers; its description says 5"):
        robot.receive(1.0)


# Real time


def test_real_time_gives_the_newest_and_sums_what_was_skipped(point_mass, link):
    robot = link(point_mass(realtime=True, episode_steps=10_000))
    first = robot.reset(3)
    robot.send(np.ones(2), first.seq)
    time.sleep(0.1)
    sample = robot.receive(0.0)
    assert sample.seq >= first.seq + 5  # some 10 periods at once
    assert 0 <= time.monotonic() - sample.stamp < 0.09
    assert sample.reward is not None
    per_tick = -float(sample.obs["position"] @ sample.obs["position"])
    skipped = sample.seq - first.seq
    assert sample.reward == pytest.approx(per_tick * skipped, rel=0.6)
    robot.receive(1.0)  # one may just have come, but not two
    with pytest.raises(TimeoutError, match="nothing new"):
        robot.receive(0.0)
    assert robot.receive(1.0).seq > sample.seq
    assert robot.lost == 0


def test_real_time_drops_duplicates_and_what_comes_late(point_mass, link):
    held = []

    def swap(tick, data):  # 2 before 1, 4 before 3, ... and each twice
        if tick % 2:
            held.append(data)
            return []
        return [data, data, held.pop()]

    robot = link(point_mass(realtime=True, spoil=swap, episode_steps=10_000))
    seqs = [robot.reset(0).seq]
    for _ in range(10):
        robot.send(np.zeros(2), seqs[-1])
        seqs.append(robot.receive(1.0).seq)
    assert seqs == sorted(set(seqs))
    assert robot.dropped >= 10


def test_a_new_episode_never_shows_the_old_one(point_mass, link):
    robot = link(point_mass(realtime=True, episode_steps=3))
    for seed in range(5):
        sample = robot.reset(seed)
        expected = np.random.default_rng(seed).uniform(-1, 1, 2)
        np.testing.assert_array_equal(sample.obs["position"], expected)
        assert not sample.truncated
        while not sample.truncated:
            robot.send(np.ones(2), sample.seq)
            sample = robot.receive(1.0)
