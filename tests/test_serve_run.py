"""A simulated robot in a process of its own, driven over UDP by the exported artifact."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from sim2real.deploy.controller import run
from sim2real.deploy.logs.npz import EpisodeLog, read_logs
from sim2real.deploy.robots import connect, protocol
from sim2real.deploy.robots.protocol import Kind, Message
from sim2real.schema import to_dict
from sim2real.serve import served
from sim2real.simulation.make import make_worlds
from sim2real.types import InputError

SERVER_SEED, SEED = 9, 30


@pytest.fixture(scope="module")
def episodes(trained, tmp_path_factory) -> list[EpisodeLog]:
    """Two episodes in lockstep on a robot with the gap `worn`."""
    folder = tmp_path_factory.mktemp("lockstep")
    with served("hopper", gap="worn", seed=SERVER_SEED) as address:
        robot = connect(address)
        result = run(trained / "artifact", robot, episodes=2, seed=SEED, log=folder)
        robot.close()
    assert result.stopped is None
    return read_logs(folder)


def test_the_artifact_gives_the_torch_policys_commands_its_state_fed_back(policy, episodes):
    z, largest = policy.initial(1), 0.0
    with torch.no_grad():
        for log in episodes:
            seen = np.concatenate([log.obs[t.name] for t in policy.spec.terms], axis=1)
            for t, (row, sent) in enumerate(zip(seen, log.command, strict=False)):
                obs = torch.tensor(row[None], dtype=torch.float32)
                command, z = policy(obs, z, torch.tensor([[float(t == 0)]]))
                difference = np.abs(command[0].numpy() - sent)
                largest = max(largest, float((difference / (1 + np.abs(sent))).max()))
    assert sum(len(log.command) for log in episodes) > 40
    assert largest < 1e-5


def test_the_robot_is_the_worlds_with_the_same_seeds_bit_for_bit(hopper, episodes):
    names = [n for n, t in hopper.terms.items() if t.access != "privileged"]
    worlds = make_worlds(hopper, 1, gap="worn", observe=names, seed=SERVER_SEED, threads=1)
    worlds.reset()  # the robot stands before anybody has come
    ends = np.cumsum([hopper.terms[n].size for n in names])[:-1]
    for k, log in enumerate(episodes):
        worlds.seed_world(0, SEED + k)
        seen, rewards, fell = [worlds.reset()[0]], [], False
        for command in log.command:
            step = worlds.advance(command[None].astype(np.float32))
            seen.append(step.obs[0])
            rewards.append(step.reward[0])
            fell = bool(step.terminated[0])
        for name, part in zip(names, np.split(np.array(seen), ends, axis=1), strict=True):
            np.testing.assert_array_equal(log.obs[name], part)
        np.testing.assert_array_equal(log.reward, rewards)
        assert log.info.terminated == fell


def test_the_same_seeds_give_the_same_run(trained, serving, episodes, tmp_path):
    with serving(gap="worn", seed=SERVER_SEED) as address:
        robot = connect(address)
        run(trained / "artifact", robot, episodes=2, seed=SEED, log=tmp_path)
        robot.close()
    for a, b in zip(episodes, read_logs(tmp_path), strict=True):
        np.testing.assert_array_equal(a.command, b.command)
        np.testing.assert_array_equal(a.reward, b.reward)


def test_an_episode_ends_where_the_robot_says_so(episodes):
    for log in episodes:
        assert log.info.terminated
        assert not log.info.truncated
        assert len(log.command) < 1000


def test_the_description_says_nothing_of_the_physics(trained, hopper, serving):
    with serving(gap="worn") as a, serving() as b:
        worn, plain = connect(a), connect(b)
        assert worn.describe() == plain.describe()
        text = json.dumps(to_dict(worn.describe()))
        worn.close()
        plain.close()
    assert not [name for name in hopper.space.names if name in text]
    assert "base_position" not in text  # what only a simulator knows is not sent either
    assert "worn" not in text


def test_in_real_time_a_run_ends_with_a_latency_table(trained, tmp_path):
    with served("hopper", gap="mild", realtime=True) as address:
        robot = connect(address)
        result = run(trained / "artifact", robot, seconds=2, log=tmp_path)
        robot.close()
    latency = result.latency
    assert latency.ticks + latency.missed >= 200
    for row in (latency.inference, latency.reaction, latency.lateness):
        assert row is not None
        assert 0 < row.p50 <= row.p99 <= row.p999
    assert result.seconds == pytest.approx(2, abs=0.05) or result.stopped is not None
    for log in read_logs(tmp_path):
        assert (np.diff(log.stamp) >= 0).all()


def test_run_needs_neither_torch_nor_mujoco(trained, serving, tmp_path):
    program = """
import sys
from sim2real.cli import main
status = main(sys.argv[1:])
print(status, *sys.modules, file=sys.stderr)
"""
    with serving() as address:
        words = ["run", str(trained / "artifact"), "--robot", address, "--json"]
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *words, "--log", str(tmp_path)],
            capture_output=True, text=True,
        )  # fmt: skip
    status, *modules = done.stderr.split()
    assert status == "0", done.stderr
    assert json.loads(done.stdout)["latency"]["ticks"] > 0
    heavy = {"torch", "mujoco", "mjbatch", "gymnasium", "stable_baselines3", "onnx", "scipy"}
    assert not heavy & set(modules)
    assert "onnxruntime" in modules


# The other end of the wire


def talk(address: str) -> socket.socket:
    host, port = address.split(":")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((host, int(port)))
    sock.settimeout(5)
    return sock


def ask(sock: socket.socket, message: Message) -> Message:
    sock.send(message.encode())
    answer = protocol.decode(sock.recv(protocol.MAX_DATAGRAM))
    assert answer is not None
    return answer


def test_a_robot_has_one_commander(serving):
    with serving() as address, talk(address) as first, talk(address) as second:
        assert ask(first, Message(Kind.HELLO)).kind is Kind.DESCRIBE
        refusal = ask(second, Message(Kind.HELLO))
        assert refusal.kind is Kind.ERROR
        assert "already has a commander" in refusal.sentence()
        first.send(Message(Kind.BYE).encode())
        first.send(b"no message at all")
        assert ask(second, Message(Kind.HELLO)).kind is Kind.DESCRIBE


def test_a_repeated_command_is_answered_again_and_not_acted_on_again(serving):
    with serving() as address, talk(address) as sock:
        ask(sock, Message(Kind.HELLO))
        first = ask(sock, protocol.reset(1, 3))
        command = protocol.command(2, first.seq, 0.0, np.array([0.5, -0.5, 0.1]))
        once = ask(sock, command)
        assert ask(sock, command) == once
        later = ask(sock, protocol.command(3, once.seq, 0.0, np.zeros(3)))
        assert later.stamp == pytest.approx(2 * 0.008)


def test_wrong_commands_are_answered_with_a_sentence_and_move_nothing(serving):
    with serving() as address, talk(address) as sock:
        ask(sock, Message(Kind.HELLO))
        first = ask(sock, protocol.reset(1, 3))
        for wrong, sentence in (
            ([0.0, 0.0], "the command has 2 numbers; hopper takes 3"),
            ([0.0, np.nan, 0.0], "the command is not finite"),
        ):
            answer = ask(sock, protocol.command(2, first.seq, 0.0, np.array(wrong)))
            assert answer.kind is Kind.ERROR
            assert sentence in answer.sentence()
        answer = ask(sock, protocol.command(2, first.seq, 0.0, np.zeros(3)))
        assert answer.stamp == pytest.approx(0.008)


def test_a_damped_robot_moves_without_force_until_it_is_reset(serving, hopper):
    worlds = make_worlds(hopper, 1, observe="measured", seed=0)
    with serving() as address, talk(address) as sock:
        ask(sock, Message(Kind.HELLO))
        first = ask(sock, protocol.reset(1, 3))
        sock.send(Message(Kind.DAMP).encode())
        answer = ask(sock, protocol.command(2, first.seq, 0.0, np.ones(3)))
        worlds.seed_world(0, 3)
        worlds.reset()
        step = worlds.advance(np.zeros((1, 3), np.float32))
        assert answer.values()[0] == step.reward[0]
        ask(sock, protocol.reset(3, 3))
        moved = ask(sock, protocol.command(4, 0, 0.0, np.ones(3)))
        assert moved.values()[0] != step.reward[0]


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"env": "hoper"}, "did you mean 'hopper'"),
        ({"env": "hopper", "gap": "wron"}, "did you mean 'worn'"),
    ],
)
def test_a_process_that_does_not_start_says_why(how, sentence):
    with pytest.raises(InputError, match=sentence) as refused, served(**how):
        pass
    assert not str(refused.value).startswith("sim2real")  # the command line says that, once


def test_what_the_process_notes_is_passed_on(tmp_path, caplog):
    gap = tmp_path / "late.yaml"
    gap.write_text("latency: {action_ms: 25}\n")
    with served("fetch_reach", gap=gap):
        pass
    notes = [record for record in caplog.records if record.name == "sim2real.serve"]
    assert [note.levelname for note in notes] == ["WARNING"]
    assert "an action latency of 25 ms acts as 40 ms" in notes[0].getMessage()
