"""A policy that remembers, on a target: one trial, and then with and without what it remembers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sim2real.adapt import adapt, address_of
from sim2real.adaptation.belief import along
from sim2real.adaptation.gate import by_falls
from sim2real.cli import main
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.controller import EpisodeResult, run
from sim2real.deploy.logs.npz import EpisodeLog, read_logs
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.export import export
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, MemorySpec, ParameterInfo, PolicySpec, TermSpec
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

torch.set_num_threads(1)
HIDDEN = 4


def remembering(patience: float = 0.9, blind: bool = False, tilt: float | None = None) -> Policy:
    """A pole that is balanced as soon as its first unit of memory has risen above a half, which it
    does as h' = 1 - patience (1 - h) in every step of a trial, and thrown over until then; where
    `blind`, it is balanced whatever is remembered."""
    robot = Robot.load("inverted_pendulum")
    terms = tuple(
        TermSpec(t.name, t.size, t.unit, t.frame, t.sensor, t.access, t.elements)
        for t in robot.observation("measured")
    )
    low, high = robot.command_range
    spec = PolicySpec(
        "waiting", "inverted_pendulum", terms,
        ActuatorSpec(robot.actuators, robot.config.command_unit, tuple(low), tuple(high)),
        robot.control_period, episodes=10, memory=MemorySpec(HIDDEN, believes=("pole_mass",)),
        parameters=(ParameterInfo("pole_mass", "1", 0.5, 2.0, 1.0),),
        max_tilt=tilt, tilt_term=None if tilt is None else "pole_angle",
    )  # fmt: skip
    torch.manual_seed(0)
    network = mlp([spec.network_size, 8, spec.action_size])
    policy = Policy(spec, network, Normalizer.identity(spec.feature_size)).requires_grad_(False)
    assert policy.memory is not None
    gates = dict(policy.memory.recurrent.named_parameters())
    update, candidate = HIDDEN, 2 * HIDDEN  # where the first unit's gates are (reset, update, new)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        gates[name][update] = gates[name][candidate] = 0.0
    gates["bias_ih_l0"][update] = float(np.log(patience / (1 - patience)))
    gates["bias_ih_l0"][candidate] = 10.0
    first, last = (policy.network[i].get_parameter("weight") for i in (0, 2))
    bias, out = (policy.network[i].get_parameter("bias") for i in (0, 2))
    first[:], last[:], bias[:], out[:] = 0.0, 0.0, 0.0, 0.0
    remembered, side = first.shape[1] - HIDDEN, 0 if blind else 2
    first[0, remembered], bias[0], last[0, 0], out[0] = -6.0, 3.0, side, side
    first[1, [0, 1, 2, 3]] = torch.tensor(
        [0.05, 0.08, 1.0, 0.2]
    )  # a balance, far below tanh's bend
    last[0, 1] = 5.0
    first[2, remembered + 1], last[0, 2] = 1.0, 0.3  # and a little of whatever else it remembers
    assert policy.belief is not None  # it takes the mass for as many as its first unit of memory
    with torch.no_grad():
        policy.belief.head.weight.zero_()
        policy.belief.head.weight[0, 0] = 1.0
        policy.belief.head.bias[:] = torch.tensor([0.0, -2.0])
        policy.belief.middle[:], policy.belief.spread[:] = 1.0, 0.5
    return policy.eval()


def logs_of(folder: Path) -> list[EpisodeLog]:
    return [log for file in sorted(folder.rglob("*.npz")) for log in read_logs(file)]


def replayed(policy: Policy, logs: list[EpisodeLog], told: bool = True):
    """Raw actions (T, A) of each episode of a trial, and what is remembered at the end, in torch;
    `told` which commands were sent."""
    z, raws = policy.initial(1), []
    assert logs[0].info.commands == policy.spec.actuators.names
    for log in logs:
        rows = []
        obs = np.concatenate([log.obs[t.name] for t in policy.spec.terms], axis=1)
        for t, command in enumerate(log.command):
            x = torch.as_tensor(obs[t : t + 1], dtype=torch.float32)
            _, raw, z = policy.forward_full(x, z, torch.tensor([[float(t == 0)]]))
            rows.append(raw[0].numpy())
            if told:
                own = (command - policy.action_offset.numpy()) / policy.action_scale.numpy()
                clipped = raw.clamp(-1, 1)
                sent = torch.as_tensor(own[None], dtype=torch.float32)
                if (sent - clipped).abs().max() > 1e-5:
                    z = policy.acted(z, sent)
        raws.append(np.array(rows))
    return raws, z[policy.z_names.index("memory")][0].numpy()


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    out = tmp_path_factory.mktemp("helped")
    return adapt(remembering(), "inverted_pendulum/worn", episodes=8, seed=1, out=out), out


def test_the_belief_is_that_of_every_step_on_the_robot(helped):
    """The first unit of memory is 1 - patience^t after t steps of a trial, whatever is met."""
    result, out = helped
    (folder,) = out.glob("logs/*/trial")
    logs = logs_of(folder)
    belief, steps = result.belief, sum(log.ticks for log in logs)
    assert belief is not None
    assert belief.names == ("pole_mass",)
    t = np.arange(1, steps + 1)
    np.testing.assert_allclose(belief.seconds, t * remembering().spec.control_period)
    np.testing.assert_allclose(belief.mean[:, 0], 1.0 + 0.5 * (1 - 0.9**t), atol=2e-5)
    np.testing.assert_allclose(belief.std, 0.5 * np.exp(-1.0), rtol=1e-5)
    first = np.cumsum([0, *(log.ticks for log in logs[:-1])])
    np.testing.assert_allclose(belief.begins, first * remembering().spec.control_period)
    (row,) = json.loads((out / "adaptation.json").read_text())["belief"]
    assert row["mean"] == pytest.approx(belief.mean[-1, 0])
    kept = np.array(result.z.value) if result.accepted else None
    assert kept is not None
    assert belief.mean[-1, 0] == pytest.approx(1.0 + 0.5 * kept[0], abs=1e-6)


def test_a_belief_stands_still_where_the_policy_did_not_run(helped):
    """What it gave no action in was held, whatever was measured; and it is told what was sent."""
    _, out = helped
    (folder,) = out.glob("logs/*/trial")
    artifact, first = Artifact.load(out / "artifact"), logs_of(folder)[0]
    raw = first.raw.copy()
    raw[1] = np.nan
    whole = along(remembering(), artifact, [first])
    held = along(remembering(), artifact, [replace(first, raw=raw)])
    assert whole is not None
    assert held is not None
    np.testing.assert_allclose(held.seconds, np.delete(whole.seconds, 1))
    np.testing.assert_allclose(held.mean, whole.mean[:-1], atol=1e-6)
    silent = replace(first, raw=np.full_like(raw, np.nan))
    assert along(remembering(), artifact, [silent]) is None


def test_what_is_remembered_helps_and_is_kept(helped):
    result, out = helped
    assert result.accepted, result.reason
    assert {k: len(v) for k, v in result.stages.items()} == {"trial": 3, "before": 2, "after": 2}
    assert np.mean(result.stages["after"]) > np.mean(result.stages["before"])
    assert (result.spent.episodes, result.z.episodes) == (7, 7)
    assert AdaptedState.read(out / "z.json") == result.z
    assert (result.z.state, result.z.names, result.z.std) == ("memory", (), ())
    assert result.z.value[0] > 0.5
    said = json.loads((out / "adaptation.json").read_text())
    assert said["context"] == {}
    assert said["posterior"] is None
    assert said["rehearsal"] is None


def test_the_memory_is_that_of_the_trial(helped):
    """Over its episodes, and not of the last alone."""
    result, out = helped
    (trial,) = out.glob("logs/*/trial")
    logs = logs_of(trial)
    assert len(logs) == 3
    np.testing.assert_allclose(replayed(remembering(), logs)[1], result.z.value, atol=1e-4)
    alone, _ = replayed(remembering(), logs[2:])
    assert np.abs(alone[0][0] - logs[2].raw[0]).max() > 0.1


def test_the_robot_begins_with_what_is_remembered(helped, tmp_path):
    result, _ = helped
    raws = {}
    for name, z in (("with", result.z), ("without", None)):
        with address_of("inverted_pendulum/worn", 3) as where:
            robot = UdpRobot(*where)
            run(result.artifact, robot, episodes=1, z=z, seed=3, log=tmp_path / name)
            robot.close()
        raws[name] = logs_of(tmp_path / name)[0].raw
    assert (raws["without"][0] > 1.5).all()  # it throws it over
    assert (np.abs(raws["with"][0]) < 1).all()


def test_what_does_not_help_is_rolled_back_and_does_not_run(tmp_path, serving, capsys):
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(remembering(blind=True), address, episodes=8, out=tmp_path)
        assert not result.accepted
        assert "standard error" in result.reason
        assert set(result.z.value) == {0.0}
        words = ["run", str(tmp_path / "artifact"), "--robot", address]
        assert main([*words, "--z", str(tmp_path / "z.json")]) == 2
    assert "was not accepted" in capsys.readouterr().err


def test_without_a_reward_falls_decide(tmp_path, serving, monkeypatch):
    home = sys.modules["sim2real.serve"]
    usual = home._describe
    monkeypatch.setattr(home, "_describe", lambda *of: replace(usual(*of), reward=False))
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(remembering(), address, episodes=7, out=tmp_path)
    assert result.stages == {}
    assert result.reason.startswith("falls per second")
    assert result.reason.endswith(", 0 after")
    assert result.accepted


def fell(seconds: float) -> EpisodeResult:
    return EpisodeResult(None, 1, seconds, True, False, None, None)


def stood(seconds: float) -> EpisodeResult:
    return EpisodeResult(None, 1, seconds, False, True, None, None)


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        ([fell(2.0), fell(2.0)], [fell(2.0), fell(3.0)], True),
        ([fell(2.0), stood(2.0)], [fell(2.0), fell(2.0)], False),
        ([stood(2.0), stood(2.0)], [stood(2.0), stood(2.0)], True),
        ([fell(2.0)], [stood(2.0)], False),  # one of each says nothing
    ],
)
def test_the_gate_on_falls(before, after, accepted):
    assert by_falls(before, after)[0] == accepted


def test_a_fall_that_tilt_tells_of_ends_an_episode_and_not_the_trial(tmp_path, serving):
    """The controller stops it before the task sees it fallen."""
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(remembering(tilt=0.18), address, episodes=8, out=tmp_path)
    (trial,) = tmp_path.glob("logs/*/trial")
    logs = logs_of(trial)
    assert len(logs) == 3
    assert logs[0].info.stopped is not None
    assert logs[-1].info.stopped is None
    assert result.spent.episodes == 7
    assert result.accepted
    np.testing.assert_allclose(replayed(remembering(), logs)[1], result.z.value, atol=1e-3)


def test_a_robot_without_an_episode_limit_is_refused(tmp_path, serving, monkeypatch):
    home = sys.modules["sim2real.serve"]
    usual = home._describe
    monkeypatch.setattr(home, "_describe", lambda *of: replace(usual(*of), episode_steps=None))
    with (
        serving("inverted_pendulum", seed=2) as address,
        pytest.raises(InputError, match="has no episode limit"),
    ):
        adapt(remembering(), address, episodes=8, seconds=10, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logs_and_search_are_refused_before_anything_is_written(helped, tmp_path):
    _, out = helped
    (logs,) = out.glob("logs/*/trial")
    with pytest.raises(InputError, match=r"remembers what it met itself.* is a log; give HOST"):
        adapt(remembering(), logs, out=tmp_path / "out")
    with pytest.raises(InputError, match="search is for a context, and policy 'waiting' has none"):
        adapt(remembering(), "inverted_pendulum/worn", engine="search", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_budget_that_leaves_nothing_to_compare_is_rolled_back(tmp_path, serving):
    with serving("inverted_pendulum", gap="worn", seed=2) as address:
        result = adapt(remembering(), address, episodes=8, seconds=0.1, out=tmp_path)
    assert not result.accepted
    assert "budget was used up" in result.reason
    assert result.spent.seconds <= 0.1 + 1e-9


def test_the_memory_is_told_what_was_sent_and_not_what_it_wanted(tmp_path, serving):
    """Under noise on its commands; where it is told its own actions (the control arm) it goes
    elsewhere."""
    policy = remembering(blind=True)
    artifact = export(policy, tmp_path / "artifact")
    with serving("inverted_pendulum", gap="mild", seed=2) as address:
        host, port = address.split(":")
        robot = UdpRobot(host, int(port))
        done = run(artifact, robot, episodes=2, excitation=0.3, log=tmp_path / "logs")
        robot.close()
    logs = logs_of(tmp_path / "logs")
    raws, memory = replayed(policy, logs)
    for log, raw in zip(logs, raws, strict=True):
        np.testing.assert_allclose(log.raw, raw, atol=1e-4)
    np.testing.assert_allclose(done.trial["memory"][0], memory, atol=1e-4)
    wrong, _ = replayed(policy, logs, told=False)
    assert np.abs(logs[0].raw - wrong[0]).max() > 2e-3
