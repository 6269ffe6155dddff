import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from sim2real.policy.estimator import Estimator
from sim2real.policy.networks import layout, mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, ParameterInfo, PolicySpec, TermSpec
from sim2real.types import InputError

torch.set_num_threads(1)

SPEC = PolicySpec(
    name="test",
    env="hopper",
    terms=(
        TermSpec("position", 2, "rad", "joint", "encoder", "measured", ("knee", "hip")),
        TermSpec("tilt", 1, "rad", "world", "imu", "measured"),
    ),
    actuators=ActuatorSpec(("knee", "hip"), "N m", (-1.0, -0.5), (1.0, 2.0)),
    control_period=0.01,
    history=3,
    context=(
        ParameterInfo("mass", "1", 0.5, 2.0, 1.0),
        ParameterInfo("delay", "ms", 0.0, 9.0, 4.0),
    ),
)


def build(spec, log_std=None, seed=0):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n = spec.feature_size
    normalizer = Normalizer(rng.normal(size=n), rng.uniform(0.1, 4, n), clip=3.0)
    return Policy(spec, mlp([n, 16, spec.action_size]), normalizer, log_std).eval()


def reference(policy, obs, reset, context):
    """The definition, in float64 numpy, one world and one tick at a time."""
    spec, commands = policy.spec, []
    norm, frames = policy.normalizer, []
    linear = [
        (m.weight.detach().double().numpy(), m.bias.detach().double().numpy())
        for m in policy.network[::2]
    ]
    for frame, begins in zip(obs, reset, strict=True):
        frames = [frame] * spec.history if begins else [*frames[1:], frame]
        x = np.concatenate([*frames, context])
        x = np.clip(
            (x - norm.mean.numpy()) * norm.scale.numpy().astype(float),
            -float(norm.clip),
            float(norm.clip),
        )
        for i, (weight, bias) in enumerate(linear):
            x = weight @ (np.tanh(x) if i else x) + bias
        raw = np.tanh(x) if spec.head == "tanh" else x
        low, high = map(np.array, (spec.actuators.low, spec.actuators.high))
        command = (
            low + (raw + 1) / 2 * (high - low) if spec.head == "tanh" else np.clip(raw, low, high)
        )
        commands.append(command)
    return np.array(commands)


@pytest.mark.parametrize("head", ["clip", "tanh"])
@torch.no_grad()
def test_equals_the_definition_tick_by_tick(head):
    policy = build(replace(SPEC, head=head))
    rng = np.random.default_rng(1)
    obs = rng.normal(size=(40, 3)) * 3
    reset = np.arange(40) % 17 == 0
    context = np.array([1.7, 0.3])
    history, _ = policy.initial(1)
    z = (history, torch.tensor(context[None], dtype=torch.float32))
    commands = []
    for frame, begins in zip(obs, reset, strict=True):
        command, z = policy(torch.tensor(frame[None]).float(), z, torch.tensor([[float(begins)]]))
        commands.append(command.numpy()[0])
    np.testing.assert_allclose(commands, reference(policy, obs, reset, context), atol=2e-6)


@torch.no_grad()
def test_history_holds_raw_frames_newest_last_and_resets_by_world():
    policy = build(replace(SPEC, context=()))
    z = policy.initial(2)
    frames = torch.arange(12.0).reshape(2, 2, 3)  # (T, B, O)
    _, z = policy(frames[0], z, torch.ones(2, 1))
    _, z = policy(frames[1], z, torch.tensor([[0.0], [1.0]]))
    expected = torch.stack(
        [torch.stack([frames[0, 0], frames[0, 0], frames[1, 0]]), frames[1, 1].repeat(3, 1)]
    )
    assert torch.equal(z[0], expected)


@torch.no_grad()
def test_reset_recovers_from_a_history_that_is_nan():
    policy = build(replace(SPEC, context=()))
    broken = (torch.full((1, 3, 3), torch.nan),)
    command, _ = policy(torch.ones(1, 3), broken, torch.ones(1, 1))
    assert torch.equal(command, policy(torch.ones(1, 3), policy.initial(1), torch.ones(1, 1))[0])
    assert torch.isnan(
        policy(torch.ones(1, 3), broken)[0]
    ).all()  # and without a reset NaN stays visible


@torch.no_grad()
def test_context_starts_at_nominal_and_outlives_an_episode():
    policy = build(SPEC)
    z = policy.initial(2)
    assert z[1].tolist() == [[1.0, 4.0]] * 2
    assert torch.equal(policy(torch.ones(2, 3), z, torch.ones(2, 1))[1][1], z[1])


def test_a_plain_policy_has_no_state():
    policy = build(replace(SPEC, history=1, context=()))
    command, z = policy(torch.ones(4, 3), policy.initial(4))
    assert command.shape == (4, 2)
    assert z == ()


def test_commands_stay_within_the_limits():
    for head in ("clip", "tanh"):
        policy = build(replace(SPEC, head=head))
        with torch.no_grad():
            policy.network[-1].get_parameter("weight").mul_(100)
            command, raw, _ = policy.forward_full(torch.randn(500, 3), policy.initial(500))
        assert (command >= policy.command_low).all()
        assert (command <= policy.command_high).all()
        assert raw.abs().max() > 0.99


def test_distribution_is_normal_around_the_raw_action():
    log_std = torch.tensor([-0.5, 0.3])
    policy = build(SPEC, log_std)
    obs, z = torch.randn(5, 3), policy.initial(5)
    distribution, _ = policy.distribution(obs, z)
    raw = policy.forward_full(obs, z)[1]
    x = torch.randn(5, 2)
    by_hand = (-0.5 * ((x - raw) / log_std.exp()) ** 2 - log_std - 0.5 * np.log(2 * np.pi)).sum(1)
    torch.testing.assert_close(distribution.log_prob(x), by_hand)
    with pytest.raises(InputError, match="has no log_std"):
        build(SPEC).distribution(obs, z)


@pytest.mark.parametrize("log_std", [None, torch.tensor([-0.5, 0.3])])
def test_save_and_load_are_bit_exact(tmp_path, log_std):
    policy = build(SPEC, log_std)
    policy.save(tmp_path / "p")
    policy.save(tmp_path / "p")  # over an older one
    again = Policy.load(tmp_path / "p")
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["policy.json", "policy.pt"]
    assert again.spec == policy.spec
    assert not again.training
    assert (again.log_std is None) == (log_std is None)
    obs, z = torch.randn(7, 3), policy.initial(7)
    assert torch.equal(again(obs, z)[0], policy(obs, z)[0])


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        Policy.load(tmp_path / "nowhere")
    build(SPEC).save(tmp_path)
    whole = (tmp_path / "policy.pt").read_bytes()
    for damaged in (b"", b"not a policy", whole[: len(whole) // 2]):
        (tmp_path / "policy.pt").write_bytes(damaged)
        with pytest.raises(InputError, match="not a policy, or damaged"):
            Policy.load(tmp_path)
    (tmp_path / "policy.pt").write_bytes(whole)
    text = (tmp_path / "policy.json").read_text()
    (tmp_path / "policy.json").write_text(text.replace("0.01", "0.02"))
    with pytest.raises(InputError, match="differs from the description inside"):
        Policy.load(tmp_path)
    (tmp_path / "policy.json").unlink()
    Policy.load(tmp_path)
    content = torch.load(tmp_path / "policy.pt", weights_only=True)
    other = json.dumps({**json.loads(text), "schema": 99})
    torch.save({**content, "description": other}, tmp_path / "policy.pt")
    with pytest.raises(InputError, match="schema 99; this version reads 1"):
        Policy.load(tmp_path)


def test_a_save_that_fails_leaves_the_old_policy(tmp_path, monkeypatch):
    old = build(SPEC)
    old.save(tmp_path)
    monkeypatch.setattr(
        "sim2real.policy.policy.os.replace", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        build(SPEC, seed=1).save(tmp_path)
    assert torch.equal(
        Policy.load(tmp_path).network[0].get_parameter("weight"),
        old.network[0].get_parameter("weight"),
    )


def test_parts_that_do_not_fit_are_refused():
    n = SPEC.feature_size
    normalizer = Normalizer.identity(n)
    with pytest.raises(InputError, match="the network takes 5"):
        Policy(SPEC, mlp([5, 2]), normalizer)
    with pytest.raises(InputError, match="the network gives 3"):
        Policy(SPEC, mlp([n, 3]), normalizer)
    with pytest.raises(InputError, match="the normalizer takes 4"):
        Policy(SPEC, mlp([n, 2]), Normalizer.identity(4))
    with pytest.raises(InputError, match="log_std has 1"):
        Policy(SPEC, mlp([n, 2]), normalizer, torch.zeros(1))


def test_normalizer_equals_vecnormalize_in_float64():
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=6), np.array([1e-12, 1e-6, 1, 4, 100, 0])
    x = (mean + rng.normal(size=(50, 6)) * np.sqrt(var + 1e-8) * 20).astype(np.float32)
    expected = np.clip((x - np.float32(mean)) / np.sqrt(var + 1e-8), -5, 5)
    got = Normalizer(mean, var, clip=5.0)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(got, expected, rtol=3e-7, atol=1e-7)
    assert torch.equal(Normalizer.identity(6)(torch.tensor(x)), torch.tensor(x))
    assert torch.isnan(Normalizer(mean, var)(torch.full((1, 6), torch.nan))).all()


@pytest.mark.parametrize(
    ("mean", "var", "clip"),
    [([0.0], [1.0, 1.0], 1.0), ([np.nan], [1.0], 1.0), ([0.0], [-1.0], 1.0), ([0.0], [1.0], 0.0)],
)
def test_impossible_statistics_are_refused(mean, var, clip):
    with pytest.raises(InputError, match="normalizer"):
        Normalizer(mean, var, clip=clip)


def test_layout_inverts_mlp():
    for sizes, activation in (((3, 2), "tanh"), ((3, 8, 2), "relu"), ((4, 8, 8, 1), "elu")):
        assert layout(mlp(sizes, activation)) == (sizes, activation)
    with pytest.raises(InputError, match="did you mean 'relu'"):
        mlp([3, 2], "rellu")
    with pytest.raises(InputError, match=r"must be what networks\.mlp builds"):
        layout(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.GELU(), torch.nn.Linear(2, 2)))
    with pytest.raises(InputError, match="two or more"):
        mlp([3])


# The estimator of an aligned policy


def test_an_estimator_stands_before_everything_and_is_saved(tmp_path):
    spec = SPEC
    torch.manual_seed(0)
    plain = build(spec)
    O = spec.obs_size
    estimator = Estimator(
        Normalizer(np.full(O, 0.5), np.full(O, 4.0)), mlp([O, 5, O], "relu"),
        np.arange(O), np.full(O, 2.0),
    )  # fmt: skip
    policy = Policy(spec, plain.network, plain.normalizer, None, estimator)
    obs, reset = torch.randn(3, O), torch.ones(3, 1)
    with torch.no_grad():
        by_hand, _ = plain(estimator(obs), plain.initial(3), reset)
        command, z = policy(obs, policy.initial(3), reset)
        torch.testing.assert_close(command, by_hand, rtol=0, atol=0)
        policy.save(tmp_path)
        again, _ = Policy.load(tmp_path)(obs, policy.initial(3), reset)
        torch.testing.assert_close(command, again, rtol=0, atol=0)
    assert policy.z_names == plain.z_names
    torch.testing.assert_close(z[0][:, -1], estimator(obs))


def test_an_estimator_of_another_size_is_refused():
    spec = SPEC
    with pytest.raises(InputError, match=r"the estimator takes 4 values, the spec says 3"):
        Policy(spec, build(spec).network, build(spec).normalizer, None, Estimator.blank([4, 4]))
    with pytest.raises(InputError, match=r"takes and gives the same terms, not 3 and 2"):
        Estimator(Normalizer.identity(3), mlp([3, 2], "relu"), np.zeros(2), np.ones(2))


def test_a_policy_is_told_a_context_and_one_without_keeps_its_state():
    policy, plain = build(SPEC), build(replace(SPEC, context=()))
    z = policy.told(policy.initial(2), np.array([1.5, 3.0]))
    assert z[1].tolist() == [[1.5, 3.0]] * 2
    z = policy.told(z, np.array([[0.5, 1.0], [2.0, 9.0]]))
    assert z[1].tolist() == [[0.5, 1.0], [2.0, 9.0]]
    assert policy.told(z, None) is z
    bare = plain.initial(2)
    assert plain.told(bare, np.array([1.5, 3.0])) is bare


def test_what_is_given_is_copied_and_may_be_read_only():
    """What the caller then does with an array is not the policy's affair."""
    policy = build(replace(SPEC, memory=None))
    names = policy.z_names
    assert "context" in names
    at, K = names.index("context"), len(policy.spec.context)
    given = np.full((3, K), 0.5, np.float32)
    for value in (given, torch.as_tensor(given), np.broadcast_to(given[0], (3, K))):
        z = policy.given(policy.initial(3), "context", value)
        before = z[at].clone()
        given += 1.0
        assert torch.equal(z[at], before)
    assert policy.given(policy.initial(3), "memory", given)[at].shape == (3, K)
    assert policy.given(z, "context", None) is z
