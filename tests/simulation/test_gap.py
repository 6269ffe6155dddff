"""Every effect of a gap obeys its law, which a scalar loop, a queue or plain MuJoCo says."""

import logging
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from sim2real import schema
from sim2real.simulation.gap import (
    Actuators,
    Draw,
    Gap,
    Latency,
    Mounting,
    Network,
    Pushes,
    Sensor,
    sample,
)
from sim2real.simulation.reality import CommandPath, Disturbance, ObservationPath
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.simulation.terms import Term
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

PERIOD = 0.02


def rngs(n, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(n)]


def term(name="x", size=1, sensor="encoder", **kw):
    elements = tuple(f"{name}[{i}]" for i in range(size))
    return Term(name, size, "rad", "joint", sensor, "measured", elements, lambda d: d["qpos"], **kw)


def observation_path(gap, terms, worlds=1, seed=0):
    drawn = rngs(worlds, seed)
    return ObservationPath(gap, drawn, terms, PERIOD, sample(gap.mounting.encoder, drawn))


def observe(path, truth, seed=0):
    """Run truth (T, B, O) through the path -> what was told (T, B, O), and the uniforms."""
    rng = np.random.default_rng(seed)
    T, B, O = truth.shape
    told, uniforms = [], []
    for t in range(T):
        normal, uniform = rng.standard_normal((B, 2 * O)), rng.random((B, 2))
        if t == 0:
            told.append(path.reset(np.arange(B), truth[0], normal[:, :O]).copy())
        else:
            told.append(path(truth[t], normal, uniform).copy())
        uniforms.append(uniform)
    return np.array(told), np.array(uniforms)


def command_path(gap, worlds=1, names=("a", "b"), high=(1.0, 2.0)):
    high = np.array(high)
    dof = np.arange(len(names))
    return CommandPath(gap, rngs(worlds), names, -high, high, dof)


def command(path, action, qvel=None, seed=0):
    """Run action (T, B, A) through the path -> what the physics gets (T, B, A)."""
    rng = np.random.default_rng(seed)
    T, B, A = action.shape
    qvel = np.full((T, B, A), 9.0) if qvel is None else qvel
    path.reset(np.arange(B))
    return np.array([path(action[t], qvel[t], rng.random(B)) for t in range(T)])


def wave(T, B, O, period=40.0):
    t = np.arange(T)[:, None, None]
    return np.sin(2 * np.pi * t / period + np.arange(B * O).reshape(B, O)) * np.ones((T, B, O))


# Latency


@pytest.mark.parametrize("engine", ["mjbatch", "reference"])
@pytest.mark.parametrize("ms", [0.0, 4.0, 10.0, 26.0, 50.0, 130.0])
def test_action_latency_is_a_queue_at_the_physics_steps(engine, ms):
    """A hand-made queue before a model without delays; 10 ms steps, rounded to the nearest."""
    robot = Robot.load("halfcheetah")
    worlds = Worlds(robot, 1, gap=Gap(latency=Latency(action_ms=ms)), engine=engine)
    worlds.reset()
    start = worlds.starts[0]
    assert start is not None
    assert isinstance(robot, MjcfRobot)

    model = mujoco.MjModel.from_xml_path(str(robot.model_path))
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = start.qpos, start.qvel
    mujoco.mj_forward(model, data)
    queue = [np.zeros(model.nu)] * round(ms / 10)
    action = np.random.default_rng(0).uniform(-1, 1, (40, 1, model.nu))
    for a in action:
        worlds.advance(a)
        for _ in range(5):
            queue.append(a[0])
            data.ctrl[:] = queue.pop(0)
            mujoco.mj_step(model, data)
        np.testing.assert_array_equal(worlds.data["qpos"][0], data.qpos)
        np.testing.assert_array_equal(worlds.data["qvel"][0], data.qvel)


def test_the_action_latency_of_a_gap_is_the_parameter():
    robot = Robot.load("hopper")

    def run(gap):
        worlds = Worlds(robot, 2, gap=gap, draw=robot.space.prior(), seed=3)
        worlds.reset()
        assert (worlds.xi[:, -1] == 12.0).all()
        return [worlds.step(np.full((2, 3), 0.3)).obs for _ in range(30)]

    one = run(Gap(latency=Latency(action_ms=12.0)))
    two = run(Gap(xi={"action_latency": 12.0}))
    np.testing.assert_array_equal(one, two)


def test_a_delay_does_not_outlive_its_episode():
    robot = Robot.load("halfcheetah")
    worlds = Worlds(robot, 1, gap=Gap(latency=Latency(action_ms=50.0)))
    worlds.reset()
    starts = [s for s in worlds.starts if s is not None]
    quiet = [worlds.advance(np.zeros((1, 6))).obs for _ in range(3)]
    worlds.reset()
    worlds.advance(np.ones((1, 6)))
    worlds.reset(starts=starts)
    np.testing.assert_array_equal([worlds.advance(np.zeros((1, 6))).obs for _ in range(3)], quiet)


def test_observation_latency_is_a_shift():
    truth = wave(60, 1, 3)
    for periods in (0, 1, 2, 5):
        gap = Gap(latency=Latency(observation_ms=periods * PERIOD * 1000))
        told, _ = observe(observation_path(gap, [term(size=3)]), truth)
        late = np.concatenate([truth[:1]] * periods + [truth])[: len(truth)]
        np.testing.assert_allclose(told, late, rtol=0, atol=1e-12)


def test_observation_latency_between_periods_is_linear():
    truth = wave(60, 1, 2)
    gap = Gap(latency=Latency(observation_ms=1.25 * PERIOD * 1000))
    told, _ = observe(observation_path(gap, [term(size=2)]), truth)
    np.testing.assert_allclose(told[2:], 0.75 * truth[1:-1] + 0.25 * truth[:-2], atol=1e-12)


def test_observation_latency_in_worlds_is_a_shift():
    robot = Robot.load("hopper")
    gap = Gap(latency=Latency(observation_ms=3 * 8.0))

    def run(gap):
        worlds = Worlds(robot, 2, gap=gap, observe="measured", seed=1)
        action = np.random.default_rng(0).uniform(-1, 1, (12, 2, 3))
        return np.array([worlds.reset(), *(worlds.advance(a).obs for a in action)])

    now, late = run(None), run(gap)
    np.testing.assert_allclose(late[3:], now[:-3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(late[:3], now[[0, 0, 0]], rtol=0, atol=1e-12)


def test_jitter_lies_between_nothing_and_its_bound():
    """The truth is the time, so that what is told is the age: uniform on [0, jitter]."""
    T, jitter = 400, 2.5 * PERIOD
    truth = (np.arange(T) * PERIOD)[:, None, None] * np.ones((T, 50, 1))
    gap = Gap(network=Network(jitter_ms=1000 * jitter))
    told, uniform = observe(observation_path(gap, [term()], 50), truth)
    age = (truth - told)[5:, :, 0]
    assert age.min() >= -1e-12
    assert age.max() <= jitter + 1e-12
    np.testing.assert_allclose(age, jitter * uniform[5:, :, 0], atol=1e-12)
    assert age.mean() == pytest.approx(jitter / 2, rel=0.02)


# Actuators


@pytest.mark.parametrize("engine", ["mjbatch", "reference"])
@pytest.mark.parametrize("ms", [5.0, 40.0])
def test_lag_is_a_first_order_time_constant(cart, engine, ms):
    """1 - exp(-t / τ) of the force after a step of the command, seen in the cart's velocity."""
    worlds = Worlds(cart, 1, gap=Gap(actuators=Actuators(lag_ms=ms)), engine=engine)
    worlds.reset()
    velocity = [0.0]
    for _ in range(10):
        worlds.advance(np.ones((1, 1)))
        velocity.append(worlds.data["qvel"][0, 0])
    time = 0.01 * np.arange(20)
    force = 3.0 * (1 - np.exp(-time / (ms / 1000)))
    expected = np.cumsum(force / 2.0 * 0.01)[1::2]  # 2 kg, two physics steps per period
    np.testing.assert_allclose(velocity[1:], expected, rtol=1e-12)


def test_lag_comes_after_latency(cart):
    gap = Gap(actuators=Actuators(lag_ms=20.0), latency=Latency(action_ms=20.0))
    late, lagged = Worlds(cart, 1, gap=gap), Worlds(cart, 1, gap=replace(gap, latency=Latency()))
    for worlds in (late, lagged):
        worlds.reset()
    late.advance(np.ones((1, 1)))
    assert late.data["qvel"][0, 0] == 0.0
    for _ in range(10):
        late.advance(np.ones((1, 1)))
        lagged.advance(np.ones((1, 1)))
        np.testing.assert_allclose(late.data["qvel"], lagged.data["qvel"], rtol=1e-12)


def test_strength_is_a_share_of_every_command():
    action = wave(50, 3, 2)
    told = command(command_path(Gap(actuators=Actuators(strength=0.7)), 3), action)
    np.testing.assert_array_equal(told, action * 0.7)
    weak = Gap(actuators=Actuators(strength=0.5, weak={"b": 0.2}))
    told = command(command_path(weak, 3), action)
    np.testing.assert_allclose(told, action * [0.5, 0.1], rtol=1e-15)


def test_strength_in_worlds_scales_the_motion_and_not_the_reward_of_the_command(cart):
    worlds = Worlds(cart, 1, gap="weak", observe="measured")
    worlds.reset()
    step = worlds.advance(np.ones((1, 1)))
    np.testing.assert_allclose(step.obs[0, 1:], [0.02 * 0.5 * 3 / 2, 1.0])


def test_backlash_is_play():
    """Against a scalar loop: the output moves only where the input leaves a band around it."""
    half = 0.3
    action = np.cumsum(np.random.default_rng(1).normal(0, 0.2, (300, 2, 2)), axis=0)
    told = command(command_path(Gap(actuators=Actuators(backlash=half)), 2), action)
    for b in range(2):
        for a in range(2):
            out = 0.0
            for t in range(300):
                u = action[t, b, a]
                if u - out > half:
                    out = u - half
                elif out - u > half:
                    out = u + half
                assert told[t, b, a] == pytest.approx(out, abs=1e-15)
    assert (np.abs(told - action) <= half + 1e-12).all()


def test_stiction_holds_what_is_at_rest():
    """Below the share of the full command, and only there; the limits are 1 and 2."""
    gap = Gap(actuators=Actuators(stiction=0.1, stiction_speed=0.05))
    action = np.tile(
        [[[0.09, 0.19]], [[-0.09, -0.19]], [[0.11, 0.21]], [[-0.11, -0.21]]], (2, 1, 1)
    )
    rest, moving = np.full((4, 1, 2), 0.049), np.full((4, 1, 2), -0.051)
    told = command(command_path(gap), action, np.concatenate((rest, moving)))
    np.testing.assert_array_equal(told[:2], 0.0)
    np.testing.assert_array_equal(told[2:], action[2:])


def test_stiction_in_worlds_keeps_the_cart_where_it_is(cart):
    worlds = Worlds(cart, 1, gap=Gap(actuators=Actuators(stiction=0.2, stiction_speed=0.01)))
    first = worlds.reset()
    np.testing.assert_array_equal(worlds.advance(np.full((1, 1), 0.19)).obs, first)
    assert worlds.advance(np.full((1, 1), 0.5)).obs[0, 1] == pytest.approx(0.02 * 0.5 * 3 / 2)
    moving = worlds.advance(np.full((1, 1), 0.19)).obs[0, 1]  # faster than 0.01 m/s by now
    assert moving == pytest.approx(0.02 * (0.5 + 0.19) * 3 / 2)


# Sensors


def test_noise_has_its_standard_deviation_and_is_white():
    gap = Gap(sensors={"x": Sensor(noise=0.2)})
    told, _ = observe(
        observation_path(gap, [term(size=2), term("y")], 100), np.zeros((200, 100, 3))
    )
    assert not told[:, :, 2].any()
    noise = told[:, :, :2]
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert noise[0].std() == pytest.approx(0.2, rel=0.2)  # the first observation is no better
    assert abs(noise.mean()) < 0.01
    for other in (noise[1:, :, :1] * noise[:-1, :, :1], noise[..., 0] * noise[..., 1]):
        assert abs(other.mean()) < 0.01 * 0.2


def test_bias_is_constant():
    truth = wave(30, 2, 2)
    gap = Gap(sensors={"y": Sensor(bias=-0.4)})
    told, _ = observe(observation_path(gap, [term(), term("y")], 2), truth)
    np.testing.assert_allclose(told - truth, np.tile([0.0, -0.4], (30, 2, 1)), atol=1e-15)


def test_drift_grows_with_the_root_of_time_and_begins_anew():
    """A random walk: standard deviation `drift` after one second, drift·√t after t."""
    gap = Gap(sensors={"x": Sensor(drift=0.3)})
    path = observation_path(gap, [term()], 3000)
    T = 200
    told, _ = observe(path, np.zeros((T + 1, 3000, 1)))
    for t in (1, 50, T):
        assert told[t].std() == pytest.approx(0.3 * np.sqrt(t * PERIOD), rel=0.05)
    steps = np.diff(told[:, :, 0], axis=0)
    assert abs((steps[1:] * steps[:-1]).mean()) < 0.02 * steps.var()
    again, _ = observe(path, np.zeros((2, 3000, 1)), seed=1)
    assert not again[0].any()


def test_quantisation_is_a_grid():
    truth = wave(200, 1, 2)
    gap = Gap(sensors={"x": Sensor(quantization=0.05)})
    told, _ = observe(observation_path(gap, [term(), term("y")]), truth)
    np.testing.assert_array_equal(told[..., 1], truth[..., 1])
    counts = told[..., 0] / 0.05
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    assert np.abs(told[..., 0] - truth[..., 0]).max() <= 0.025 + 1e-12


def test_encoders_are_mounted_with_an_offset_and_the_imu_askew():
    terms = [
        term("angle", qpos=(1,)),
        term("rate", qvel=(1,)),
        term("pitch", sensor="imu", qpos=(0,)),
        term("gravity", 3, sensor="imu", vector=True),
        term("seen", sensor="camera", qpos=(2,)),
    ]
    angle = 0.3
    gap = Gap(mounting=Mounting(encoder=0.1, imu=angle))
    down = [0.0, 0.0, -1.0]
    truth = np.tile([[0.5, 0.5, 0.5, *down, 0.5]], (4, 1, 1))
    told, _ = observe(observation_path(gap, terms), truth)
    leaning = [np.sin(angle), 0.0, -np.cos(angle)]  # pitched by the angle, about y
    np.testing.assert_allclose(told[-1, 0], [0.6, 0.5, 0.5 + angle, *leaning, 0.5], rtol=1e-12)


# Network


def test_lost_observations_leave_the_last_one():
    """Under every loss the value stays, and the fraction of losses is the probability."""
    T, B = 500, 40
    truth = np.arange(1.0, T + 1)[:, None, None] * np.ones((T, B, 1))
    told, uniform = observe(observation_path(Gap(network=Network(loss=0.3)), [term()], B), truth)
    for b in range(3):
        last = 1.0
        for t in range(1, T):
            last = last if uniform[t, b, 1] < 0.3 else truth[t, b, 0]
            assert told[t, b, 0] == last
    held = told[1:] == told[:-1]
    assert held.mean() == pytest.approx(0.3, abs=0.01)


def test_lost_commands_leave_the_last_one():
    T, B = 500, 40
    action = np.arange(1.0, T + 1)[:, None, None] * np.ones((T, B, 2))
    told = command(command_path(Gap(network=Network(loss=0.2)), B), action)
    held = told[1:] == told[:-1]
    assert held.mean() == pytest.approx(0.2, abs=0.01)
    assert (held[..., 0] == held[..., 1]).all()  # a packet carries the whole command
    np.testing.assert_array_equal(told[1:][~held], action[1:][~held])
    assert set(np.unique(told[0])) == {0.0, 1.0}  # nothing has ever arrived


def test_a_new_episode_remembers_neither_command_nor_play():
    path = command_path(Gap(actuators=Actuators(backlash=0.5), network=Network(loss=1.0)))
    action = np.full((3, 1, 2), 0.7)
    assert not command(path, action).any()
    path = command_path(Gap(actuators=Actuators(backlash=0.5)))
    assert command(path, action)[-1].max() == pytest.approx(0.2)
    path.reset(np.array([0]))
    assert not path(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1)).any()


# Pushes


def test_pushes_come_at_their_rate_from_both_sides():
    gap = Gap(pushes=Pushes(interval=0.5, speed=0.8))
    push = Disturbance(gap, rngs(100), PERIOD)
    rng = np.random.default_rng(0)
    kicks = np.array([push(rng.random((100, 2))) for _ in range(1000)])
    assert set(np.unique(kicks)) == {-0.8, 0.0, 0.8}
    assert (kicks != 0).mean() == pytest.approx(PERIOD / 0.5, rel=0.05)
    assert (kicks > 0).sum() == pytest.approx((kicks < 0).sum(), rel=0.1)
    assert not Disturbance(Gap(), rngs(2), PERIOD)(np.zeros((2, 2))).any()


@pytest.mark.parametrize("engine", ["mjbatch", "reference"])
def test_a_push_changes_the_velocity_of_the_root(cart, engine):
    worlds = Worlds(cart, 3, gap=Gap(pushes=Pushes(interval=0.1, speed=0.25)), engine=engine)
    worlds.reset()
    velocity = np.array([worlds.advance(np.zeros((3, 1))).obs[:, 1] for _ in range(30)])
    kicks = np.diff(velocity, axis=0, prepend=0.0)
    assert set(np.unique(kicks.round(12))) == {-0.25, 0.0, 0.25}


# Families


FAMILY = Gap(
    xi={"torso_mass": Draw("uniform", 1.2, 1.8), "joint_damping": 1.5},
    latency=Latency(action_ms=Draw("uniform", 2.0, 6.0)),
    sensors={"pitch": Sensor(bias=Draw("normal", 0.0, 0.1))},
)


def test_each_world_draws_its_robot_once_and_keeps_it():
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 6, gap=FAMILY, observe=["pitch"], seed=5)

    def told_minus_true():
        return worlds.reset()[:, 0] - worlds.data["qpos"][:, 2]

    bias, xi = told_minus_true(), worlds.xi.copy()
    assert len(set(xi[:, 0])) == len(set(xi[:, -1])) == len(set(bias)) == 6
    assert ((xi[:, 0] >= 1.2) & (xi[:, 0] <= 1.8)).all()
    assert ((xi[:, -1] >= 2.0) & (xi[:, -1] <= 6.0)).all()
    assert (xi[:, 1] == 1.5).all()
    for _ in range(3):
        np.testing.assert_allclose(told_minus_true(), bias, rtol=0, atol=1e-15)
        np.testing.assert_array_equal(worlds.xi, xi)
    worlds.seed_world(2, 77)  # another start, the same robot
    np.testing.assert_allclose(told_minus_true(), bias, rtol=0, atol=1e-15)


def test_a_seed_chooses_the_robots_of_a_family():
    robot = Robot.load("hopper")

    def family(worlds, seed):
        drawn = Worlds(robot, worlds, gap=FAMILY, seed=seed)
        drawn.reset()
        return drawn.xi

    np.testing.assert_array_equal(family(4, 1), family(4, 1))
    np.testing.assert_array_equal(family(4, 1)[:2], family(2, 1))
    assert (family(4, 1)[:, 0] != family(4, 2)[:, 0]).all()


def test_what_a_gap_says_of_physics_goes_before_the_randomization():
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 3, gap=Gap(xi={"torso_mass": 1.7}), draw=robot.space.prior())
    worlds.reset()
    assert (worlds.xi[:, 0] == 1.7).all()
    assert len(set(worlds.xi[:, 1])) == 3


@pytest.mark.parametrize(
    ("draw", "mean", "std"),
    [
        (Draw("uniform", 1.0, 3.0), 2.0, 2 / np.sqrt(12)),
        (Draw("normal", 1.0, 0.5), 1.0, 0.5),
        (Draw("loguniform", 1.0, np.e), np.e - 1, np.sqrt((np.e**2 - 1) / 2 - (np.e - 1) ** 2)),
    ],
)
def test_draws_have_their_moments(draw, mean, std):
    rng = np.random.default_rng(0)
    x = [draw.sample(rng) for _ in range(20000)]
    assert np.mean(x) == pytest.approx(mean, rel=0.01)
    assert np.std(x) == pytest.approx(std, rel=0.02)


# Reading


def test_a_gap_survives_yaml(tmp_path):
    path = tmp_path / "gap.yaml"
    schema.write(FAMILY, path)
    assert schema.read(Gap, path) == FAMILY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xi: {torso_mas: 1.0}", "xi: no parameter 'torso_mas' .did you mean 'torso_mass'"),
        ("sensors: {pich: {noise: 1}}", "sensors: no term 'pich' .did you mean 'pitch'"),
        ("actuators: {weak: {actuator9: 1}}", "weak: no actuator 'actuator9'"),
        ("actuators: {strenght: 1}", "actuators.strenght: unknown key .did you mean 'strength'"),
        ("sensors: {pitch: {noize: 1}}", "sensors.pitch.noize: unknown key .did you mean 'noise'"),
        ("latency: {action: 1}", "latency.action: unknown key .did you mean 'action_ms'"),
        ("xi: {torso_mass: heavy}", "xi.torso_mass"),
        ("xi: {torso_mass: {distribution: gauss, low: 0, high: 1}}", "xi.torso_mass"),
        ("pushes: 3", "pushes"),
        ("xi: {torso_mass: {distribution: uniform, low: 2, high: 1}}", "low 2 is above high 1"),
        ("xi: {torso_mass: {distribution: loguniform, high: 1}}", "needs low above 0, not 0"),
        ("xi: {torso_mass: {distribution: normal, low: 1, high: -1}}", "must not be negative"),
        ("network: {loss: 1.5}", "network.*loss must lie in .0, 1."),
        ("latency: {observation_ms: -5}", "observation_ms must not be negative"),
        (
            "sensors: {pitch: {noise: {distribution: uniform, low: -1, high: 1}}}",
            "sensors.pitch.*noise must not be negative",
        ),
    ],
)
def test_unknown_names_and_wrong_values_are_refused(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=message) as error:
        Robot.load("hopper").gap(path)
    assert "own.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("xi: {latency: 2000}", "'latency': a delay of .* 2000 ms does not fit .* 0 to 640 ms"),
        ("latency: {action_ms: 2000}", "'latency': a delay of .* 2000 ms does not fit"),
        ("xi: {latency: -5}", "'latency': a delay of -5 .* does not fit"),
        ("xi: {mass: -1}", "'mass': scale -1 makes body_mass -2, which must be positive"),
        ("xi: {mass: 0}", "'mass': scale 0 makes body_mass 0, which must be positive"),
        ("xi: {slope: .inf}", "xi.slope: expected a finite number"),
        ("xi: {mass: {distribution: uniform, low: -1, high: 2}}", "'mass': scale -1 makes"),
        ("xi: {latency: {distribution: uniform, low: 10, high: 900}}", "900 ms does not fit"),
        ("xi: {mass: {distribution: normal, low: -1, high: 0.1}}", "'mass': scale -1 makes"),
        ("latency: {action_ms: {distribution: loguniform, low: 1, high: 900}}", "900 ms does not"),
        (
            "edits: [{field: body_mass, value: 2}]\nxi: {mass: -1}",
            "'mass': scale -1 makes body_mass -4, which must be positive",
        ),
    ],
)
def test_physics_that_cannot_be_is_refused_when_the_gap_is_read(cart_folder, text, message):
    path = cart_folder / "gaps" / "own.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=message) as error:
        Robot.load(cart_folder).gap("own")
    assert str(error.value).startswith(f"{path}: ")


def test_physics_that_can_be_is_not_refused_for_what_it_passes_on_the_way(cart_folder):
    """A body's moment of 2.5 needs 2.5 of the other two together: 1.9 and 1, and not 1 and 1."""
    with (cart_folder / "env.yaml").open("a") as file:
        for axis, name in enumerate("xyz"):
            file.write(
                f"  - {{name: i{name}, field: body_inertia, select: cart, axis: {axis}, low: 1, "
                "high: 1}\n"
            )
    cart = Robot.load(cart_folder)
    around = Draw("uniform", 2.4, 2.6)
    Worlds(cart, 3, gap=Gap(xi={"ix": 1.9, "iy": around})).reset()
    for ix in (1.0, Draw("uniform", 1.0, 1.9)):
        with pytest.raises(InputError, match=r"'iy'.*largest moment exceeds the other"):
            cart.gap(Gap(xi={"ix": ix, "iy": around}))


def test_action_latency_needs_the_parameter(cart_folder):
    text = (cart_folder / "env.yaml").read_text()
    (cart_folder / "env.yaml").write_text(text.replace("  - {name: latency", "  # {name: latency"))
    with pytest.raises(InputError, match="action_ms needs a parameter with field actuator_delay"):
        Worlds(Robot.load(cart_folder), 1, gap=Gap(latency=Latency(action_ms=5.0)))


def test_effects_without_meaning_are_refused(cart_folder):
    xml = (cart_folder / "cart.xml").read_text()
    slow = xml.replace("<motor name", '<general dyntype="filter" dynprm="0.1" name')
    (cart_folder / "cart.xml").write_text(slow)
    with pytest.raises(InputError, match="lag_ms has no meaning for actuator 'push'"):
        Worlds(Robot.load(cart_folder), 1, gap=Gap(actuators=Actuators(lag_ms=5.0)))
    tendon = xml.replace('joint="slide" gear', 'tendon="rope" gear').replace(
        "<actuator>",
        '<tendon><fixed name="rope"><joint joint="slide" coef="1"/></fixed></tendon><actuator>',
    )
    (cart_folder / "cart.xml").write_text(tendon)
    with pytest.raises(InputError, match="stiction has no meaning"):
        Worlds(Robot.load(cart_folder), 1, gap=Gap(actuators=Actuators(stiction=0.1)))


SERVOS = {
    "position": '<position name="push" joint="slide" kp="20" kv="2" ctrlrange="-1 1"/>',
    "velocity": '<velocity name="push" joint="slide" kv="20" ctrlrange="-1 1"/>',
    "intvelocity": '<intvelocity name="push" joint="slide" kp="20" actrange="-1 1" '
    'ctrlrange="-1 1"/>',
    "general": '<general name="push" joint="slide" gainprm="20" biastype="affine" '
    'biasprm="0 -20 0" ctrlrange="-1 1"/>',
}
TORQUES = {
    "motor": '<motor name="push" joint="slide" gear="3" ctrlrange="-1 1"/>',
    "general": '<general name="push" joint="slide" gainprm="3" ctrlrange="-1 1"/>',
    "constant": '<general name="push" joint="slide" gainprm="3" biastype="affine" '
    'biasprm="1 0 0" ctrlrange="-1 1"/>',
}
SHARES = {
    "strength": Actuators(strength=0.8),
    "weak": Actuators(weak={"push": Draw("uniform", 0.5, 0.9)}),
    "stiction": Actuators(stiction=0.1),
}


def with_actuators(folder, *actuators):
    """The cart with these actuators instead of its motor."""
    xml = (folder / "cart.xml").read_text()
    head, _ = xml.split("  <actuator>")
    (folder / "cart.xml").write_text(f"{head}<actuator>{''.join(actuators)}</actuator></mujoco>")
    return Robot.load(folder)


@pytest.mark.parametrize("effect", SHARES)
@pytest.mark.parametrize("servo", SERVOS)
def test_a_share_of_a_servos_command_is_refused_as_that_of_the_hand_is(cart_folder, servo, effect):
    cart = with_actuators(cart_folder, SERVOS[servo])
    (cart_folder / "gaps" / "own.yaml").write_text(schema.dump(Gap(actuators=SHARES[effect])))
    said = f"own.yaml: actuators: {effect} has no meaning for cart: actuator 'push' is a servo: "
    with pytest.raises(InputError, match=said) as mine:
        cart.gap("own")
    hand = Robot.load("hand_reach")
    name = hand.actuators[0]
    asked = SHARES[effect]
    asked = replace(asked, weak={name: 0.5}) if asked.weak else asked
    with pytest.raises(InputError) as theirs:
        hand.gap(Gap(actuators=asked))
    assert str(mine.value).split("servo: ")[1] == str(theirs.value).split("servo: ")[1]
    cart.gap(Gap(actuators=Actuators(backlash=0.1)))  # play is behind any command


@pytest.mark.parametrize("effect", SHARES)
@pytest.mark.parametrize("torque", TORQUES)
def test_a_share_of_a_force_is_less_of_it(cart_folder, torque, effect):
    cart = with_actuators(cart_folder, TORQUES[torque])
    gap = Gap(actuators=SHARES[effect])
    assert cart.gap(gap) == gap


def test_a_motor_beside_a_servo_may_be_weak(cart_folder):
    motor = TORQUES["motor"].replace("push", "help")
    cart = with_actuators(cart_folder, SERVOS["position"], motor)
    weak = Gap(actuators=Actuators(weak={"help": 0.5}))
    assert cart.gap(weak) == weak
    with pytest.raises(InputError, match=r"weak has no meaning.*'push' is a servo"):
        cart.gap(Gap(actuators=Actuators(weak={"help": 0.5, "push": 0.5})))
    with pytest.raises(InputError, match=r"strength has no meaning.*'push' is a servo"):
        cart.gap(Gap(actuators=Actuators(strength=0.5)))


@pytest.mark.parametrize(
    ("mounting", "sensor", "says"),
    [
        (Mounting(imu=0.1), "encoder", "mounting.imu has no meaning for cart: .*sensor 'imu'"),
        (Mounting(encoder=Draw("uniform", 0.0, 0.1)), "imu", "mounting.encoder has .*'encoder'"),
        (Mounting(imu=0.1), "camera", "mounting.imu has no meaning .*bias under sensors"),
        (Mounting(encoder=0.1), "camera", "mounting.encoder has no meaning .*bias under sensors"),
    ],
)
def test_mounting_is_refused_where_no_term_of_the_robot_feels_it(
    cart_folder, mounting, sensor, says
):
    text = (cart_folder / "env.yaml").read_text()
    (cart_folder / "env.yaml").write_text(text.replace("sensor: encoder", f"sensor: {sensor}"))
    cart = Robot.load(cart_folder)
    with pytest.raises(InputError, match=says):
        cart.gap(Gap(mounting=mounting))
    if sensor != "camera":
        other = Mounting(imu=0.1) if sensor == "imu" else Mounting(encoder=0.1)
        cart.gap(Gap(mounting=other))


# What nobody sees


def told(robot, gap, observe, ticks=20):
    worlds = Worlds(robot, 2, gap=gap, observe=observe, seed=1, threads=1)
    first = worlds.reset()
    action = np.full((2, len(robot.actuators)), 0.1)
    return np.stack([first, *(worlds.advance(action).obs for _ in range(ticks))])


def test_a_sensor_effect_acts_where_its_terms_are_observed_and_warns_where_not(caplog):
    robot = Robot.load("hopper")
    worn = robot.gap("worn")
    without = replace(worn, sensors={})
    with caplog.at_level(logging.WARNING):
        seen, truth = (told(robot, gap, "measured") for gap in (worn, without))
        assert not caplog.messages
        last = robot.terms["last_action"].size
        assert (seen != truth)[..., :-last].all()
        np.testing.assert_array_equal(seen[..., -last:], truth[..., -last:])
        np.testing.assert_array_equal(told(robot, without, None), told(robot, worn, None))
    (said,) = caplog.messages  # once for the Worlds, in its 21 ticks
    assert said == (
        "hopper: the observation (v5) feels nothing of the gap's sensors (joint_positions, "
        "joint_velocities, pitch, pitch_rate); with observe: measured it would"
    )
    assert [record.name for record in caplog.records] == ["sim2real.simulation.worlds"]


def test_episodes_do_not_repeat_the_warning(cart, caplog):
    gap = Gap(sensors={"position": Sensor(bias=0.1)}, mounting=Mounting(encoder=0.1))
    with caplog.at_level(logging.WARNING):
        worlds = Worlds(cart, 2, gap=gap, observe=["velocity"])
        for seed in (3, 4):
            worlds.seed(seed)
            worlds.reset()
            for _ in range(40):  # episodes have 30
                worlds.step(np.zeros((2, 1)))
    (said,) = caplog.messages
    assert "(velocity) feels nothing of the gap's sensors (position) and mounting.encoder" in said
    assert said.endswith("; with observe: measured it would")


@pytest.mark.parametrize(
    "gap",
    [
        Gap(),
        Gap(sensors={"position": Sensor()}),  # says nothing
        Gap(sensors={"position": Sensor(noise=0.1), "velocity": Sensor(noise=0.1)}),  # one is seen
        Gap(xi={"mass": 1.2}, latency=Latency(observation_ms=5.0), network=Network(loss=0.1)),
    ],
)
def test_a_gap_that_is_felt_says_nothing(cart, gap, caplog):
    with caplog.at_level(logging.WARNING):
        Worlds(cart, 1, gap=gap, observe=["velocity"])
    assert not caplog.messages


def test_where_no_set_feels_an_effect_the_terms_are_named(cart_folder, caplog):
    text = (cart_folder / "env.yaml").read_text()
    (cart_folder / "env.yaml").write_text(text.replace("measured: [position,", "measured: ["))
    gap = Gap(sensors={"position": Sensor(noise=0.1)})
    with caplog.at_level(logging.WARNING):
        Worlds(Robot.load(cart_folder), 1, gap=gap, observe="measured")
    (said,) = caplog.messages
    assert "(velocity, last_action) feels nothing of the gap's sensors (position)" in said
    assert said.endswith("; with the terms position it would")


# One robot of a family


def test_one_robot_of_a_family_has_values_and_no_distributions():
    family = Robot.load("hopper").gap("worn")
    a, b, again = family.robot(0), family.robot(1), family.robot(0)
    assert a == again != b
    for name, value in a.xi.items():
        ends = family.xi[name]
        assert isinstance(value, float)
        assert isinstance(ends, Draw)
        assert ends.low <= value <= ends.high
    assert a.sensors == family.sensors  # plain values stay


def test_worlds_of_one_robot_are_alike():
    robot = Robot.load("hopper")
    worlds = Worlds(robot, 4, gap=robot.gap("worn").robot(3))
    worlds.reset()
    assert (worlds.xi == worlds.xi[0]).all()


def test_edits_stay_as_they_are():
    gap = Robot.load("hopper").gap("odrl_morphology_easy")
    assert gap.robot(5) == gap
