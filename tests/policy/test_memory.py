"""A policy that remembers: its definition, what outlives an episode, and what is kept of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sim2real.policy.memory import Memory
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, MemorySpec, PolicySpec, TermSpec
from sim2real.types import InputError

torch.set_num_threads(1)

SPEC = PolicySpec(
    name="test", env="hopper", terms=(TermSpec("tilt", 3, "rad", "world", "imu", "measured"),),
    actuators=ActuatorSpec(("knee", "hip"), "N m", (-1.0, -0.5), (1.0, 2.0)), control_period=0.01,
    scale=(1.0, 1.25), offset=(0.0, 0.75), memory=MemorySpec(6),
)  # fmt: skip
GRU, LSTM = SPEC, replace(SPEC, memory=MemorySpec(6, "lstm"))


def build(spec=SPEC, seed=0):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    normalizer = Normalizer(rng.normal(size=3), rng.uniform(0.1, 4, 3), clip=3.0)
    policy = Policy(spec, mlp([spec.network_size, 8, 2]), normalizer)
    with torch.no_grad():
        policy.network[-1].get_parameter("weight").mul_(4)
    return policy.requires_grad_(False)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(policy, obs, reset):
    """The definition, in float64 numpy: normalise, tell, remember, act."""
    w = {name: value.double().numpy() for name, value in policy.state_dict().items()}
    size = policy.spec.memory.hidden
    h, c, last, commands = np.zeros(size), np.zeros(size), np.zeros(2), []
    for frame, begins in zip(obs, reset, strict=True):
        features = np.clip((frame - w["normalizer.mean"]) * w["normalizer.scale"], -3.0, 3.0)
        x = np.concatenate([features, last, [float(begins)]])
        e = np.tanh(w["memory.encoder.weight"] @ x + w["memory.encoder.bias"])
        into = w["memory.recurrent.weight_ih_l0"] @ e + w["memory.recurrent.bias_ih_l0"]
        back = w["memory.recurrent.weight_hh_l0"] @ h + w["memory.recurrent.bias_hh_l0"]
        if policy.spec.memory.cell == "gru":
            reset_, update, new = np.split(into, 3)
            back_reset, back_update, back_new = np.split(back, 3)
            gate = sigmoid(update + back_update)
            h = (1 - gate) * np.tanh(new + sigmoid(reset_ + back_reset) * back_new) + gate * h
        else:
            enter, forget, cell, out = np.split(into + back, 4)
            c = sigmoid(forget) * c + sigmoid(enter) * np.tanh(cell)
            h = sigmoid(out) * np.tanh(c)
        hidden = np.tanh(w["network.0.weight"] @ np.concatenate([x, h]) + w["network.0.bias"])
        raw = w["network.2.weight"] @ hidden + w["network.2.bias"]
        last = np.clip(raw, -1, 1)
        commands.append(np.clip(raw * [1.0, 1.25] + [0.0, 0.75], [-1.0, -0.5], [1.0, 2.0]))
    return np.array(commands)


def played(policy, obs, reset, z=None):
    z, commands = policy.initial(1) if z is None else z, []
    for frame, begins in zip(obs, reset, strict=True):
        x = torch.tensor(frame[None], dtype=torch.float32)
        command, z = policy(x, z, torch.tensor([[float(begins)]]))
        commands.append(command[0].numpy())
    return np.array(commands), z


def seen(ticks=40, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ticks, 3)) * 2, np.arange(ticks) % 17 == 0


@pytest.mark.parametrize("spec", [GRU, LSTM])
def test_equals_the_definition_tick_by_tick_over_episodes(spec):
    policy, (obs, reset) = build(spec), seen()
    commands, _ = played(policy, obs, reset)
    np.testing.assert_allclose(commands, reference(policy, obs, reset), atol=1e-5)
    assert len(np.unique(commands.round(3))) > 20


def test_what_is_remembered_outlives_an_episode_and_its_begin_is_seen():
    policy, (obs, reset) = build(), seen(17)
    _, z = played(policy, obs, reset)
    fresh, _ = played(policy, obs[:1], [True])
    again, _ = played(policy, obs[:1], [True], z)
    inside, _ = played(policy, obs[:1], [False], z)
    assert np.abs(again - fresh).max() > 1e-3
    assert np.abs(again - inside).max() > 1e-4


def test_what_the_policy_did_last_is_what_the_memory_is_told():
    policy = build()
    assert policy.z_names == ("memory", "last_action")
    obs, z = torch.randn(4, 3), policy.initial(4)
    _, raw, z = policy.forward_full(obs, z)
    assert torch.equal(z[1], raw.clamp(-1, 1))
    other = policy.acted(z, torch.full((4, 2), 7.0))  # somebody else acted
    assert torch.equal(other[0], z[0])
    assert torch.equal(other[1], torch.ones(4, 2))
    assert not torch.equal(policy(obs, other)[0], policy(obs, z)[0])


@pytest.mark.parametrize("spec", [GRU, LSTM])
def test_along_a_sequence_it_remembers_as_step_by_step(spec):
    policy = build(spec)
    T, B = 9, 5
    features, last = torch.randn(T, B, 3), torch.rand(T, B, 2)
    resets = (torch.rand(T, B, 1) < 0.3).float()
    memory, x = policy.memory, policy.remembered(features, last, resets)
    assert memory is not None
    begin = torch.zeros(T, B, dtype=torch.bool)
    begin[4, 2] = True
    z = first = torch.randn(B, memory.spec.z_size)
    along = memory.unroll(x, first, begin)
    for t in range(T):
        z = torch.where(begin[t, :, None], torch.zeros_like(z), z)
        h, z = memory.step(x[t], z)
        torch.testing.assert_close(along[t], h, atol=1e-6, rtol=0)


@pytest.mark.parametrize("spec", [GRU, LSTM, replace(SPEC, history=3)])
def test_save_and_load_are_bit_exact(tmp_path, spec):
    torch.manual_seed(0)
    n = spec.feature_size
    policy = Policy(spec, mlp([spec.network_size, 8, 2]), Normalizer.identity(n))
    policy.save(tmp_path)
    again = Policy.load(tmp_path)
    assert again.spec == spec
    obs, z = torch.randn(7, 3), tuple(torch.rand_like(part) for part in policy.initial(7))
    assert torch.equal(again(obs, z)[0], policy(obs, z)[0])


def test_memories_that_do_not_fit_are_refused():
    network, normalizer = mlp([SPEC.network_size, 2]), Normalizer.identity(3)
    with pytest.raises(InputError, match="the network takes 3 values, the spec says 12"):
        Policy(SPEC, mlp([3, 2]), normalizer)
    with pytest.raises(InputError, match="the memory takes 5 values, the spec says 6"):
        Policy(SPEC, network, normalizer, memory=Memory(5, MemorySpec(6)))
    with pytest.raises(InputError, match=r"its memory is .*hidden=4.*the spec says .*hidden=6"):
        Policy(SPEC, network, normalizer, memory=Memory(6, MemorySpec(4)))
    plain = replace(SPEC, memory=None)
    with pytest.raises(InputError, match=r"its memory is MemorySpec.*the spec says None"):
        Policy(plain, mlp([3, 2]), normalizer, memory=Memory(6, MemorySpec(6)))
    with pytest.raises(InputError, match="a memory has 0 inputs; it needs at least 1"):
        Memory(0, MemorySpec(6))
    with pytest.raises(InputError, match=r"cell is 'gruu'; it is gru or lstm \(did you mean"):
        MemorySpec(6, "gruu")
    with pytest.raises(InputError, match="hidden is 0; it must be at least 1"):
        MemorySpec(0)
