"""Every shipped robot and gap: it loads, it steps, and it is what its README says."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from sim2real import content
from sim2real.make import make_env
from sim2real.simulation.gap import Draw, Gap
from sim2real.simulation.robot import MjcfRobot, Robot

ENVS = content.env_names()
GYMNASIUM = {  # shipped name -> the environment that it is
    "ant": "Ant-v5",
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "humanoid": "Humanoid-v5",
    "inverted_double_pendulum": "InvertedDoublePendulum-v5",
    "inverted_pendulum": "InvertedPendulum-v5",
    "pusher": "Pusher-v5",
    "reacher": "Reacher-v5",
    "walker2d": "Walker2d-v5",
}
every_env = pytest.mark.parametrize("name", ENVS)


def ends(value):
    """The lowest and the highest that a number of a gap may be."""
    if not isinstance(value, Draw):
        return value, value
    assert value.distribution != "normal", "a normal distribution has no ends"
    return value.low, value.high


def physics(robot, gap):
    """Parameter -> (lowest, highest) of the gap, the action's latency among them."""
    stated = {name: ends(value) for name, value in gap.xi.items()}
    if gap.latency.action_ms != 0.0:
        stated |= {
            p.name: ends(gap.latency.action_ms)
            for p in robot.space.parameters
            if p.field == "actuator_delay"
        }
    return stated


def outside(robot, gap):
    """The parameters that the gap takes beyond the training ranges."""
    bounds = dict(zip(robot.space.names, zip(robot.space.low, robot.space.high, strict=True),
                      strict=True))  # fmt: skip
    return {
        name for name, (low, high) in physics(robot, gap).items()
        if low < bounds[name][0] or high > bounds[name][1]
    }  # fmt: skip


def effects(robot, gap):
    """What the gap has besides ξ, by kind; the speeds of pushes and stiction belong to them."""
    none = Gap()
    kinds = {
        kind
        for part in ("latency", "actuators", "mounting", "pushes", "network")
        for kind in vars(getattr(gap, part))
        if getattr(getattr(gap, part), kind) != getattr(getattr(none, part), kind)
    }
    kinds |= {
        kind
        for sensor in gap.sensors.values()
        for kind, value in vars(sensor).items()
        if value != 0.0
    }
    if any(p.field == "actuator_delay" for p in robot.space.parameters):
        kinds.discard("action_ms")  # ξ has it
    return kinds - {"stiction_speed", "speed"}


def test_all_nine_are_there():
    assert set(GYMNASIUM) <= set(ENVS)


@every_env
def test_the_robot_is_described(name):
    robot = Robot.load(name)
    assert robot.config.description
    assert robot.config.command_unit
    for p in robot.space.parameters:
        assert p.reason, p.name
        assert p.unit, p.name
        assert p.low < p.high
    assert (
        (robot.space.low <= robot.space.nominal) & (robot.space.nominal <= robot.space.high)
    ).all()
    for term in robot.terms.values():
        assert term.unit, term.name
        assert term.frame, term.name
        assert term.sensor, term.name
        assert len(term.elements) == term.size
        assert all(term.elements), term.name
    assert (robot.folder / "README.md").is_file()


@pytest.mark.parametrize("name", GYMNASIUM)
def test_the_readme_has_the_ranges(name):
    robot = Robot.load(name)
    assert any(p.field == "actuator_delay" for p in robot.space.parameters)
    rows = [r for r in (robot.folder / "README.md").read_text().splitlines() if r.startswith("| `")]
    assert len(rows) == robot.space.K
    for row, p in zip(rows, robot.space.parameters, strict=True):
        assert row.startswith(f"| `{p.name}` |")
        assert f"| {p.low:g} to {p.high:g} " in row


@pytest.mark.parametrize("name", GYMNASIUM)
def test_the_model_and_the_timing_are_gymnasiums(name):
    robot = Robot.load(name)
    assert isinstance(robot, MjcfRobot)
    env: Any = gymnasium.make(GYMNASIUM[name], disable_env_checker=True).unwrapped
    assert str(robot.model_path) == env.fullpath
    assert robot.config.frame_skip == env.frame_skip
    assert robot.control_period == pytest.approx(env.dt, rel=1e-12)


@every_env
def test_observation_sets_hold_nothing_privileged(name):
    robot = Robot.load(name)
    for observe in robot.config.observations:
        for term in robot.observation(observe):
            assert term.access in ("measured", "estimated"), (observe, term.name)


@pytest.mark.parametrize("name", GYMNASIUM)
def test_the_measured_set_does_not_know_where_a_floating_base_is(name):
    robot = Robot.load(name)
    terms = robot.observation("measured")
    assert "last_action" in [t.name for t in terms]
    names = [robot.model.joint(i).name for i in range(robot.model.njnt)]
    base = {i for i, n in enumerate(names) if n in ("rootx", "rootz", "root")}
    forbidden_qpos, forbidden_qvel = set(), set()
    for i in base:
        width = 3 if names[i] == "root" else 1
        forbidden_qpos |= set(range(robot.model.jnt_qposadr[i], robot.model.jnt_qposadr[i] + width))
        forbidden_qvel |= set(range(robot.model.jnt_dofadr[i], robot.model.jnt_dofadr[i] + width))
    for term in terms:
        assert not forbidden_qpos.intersection(term.qpos), term.name
        assert not forbidden_qvel.intersection(term.qvel), term.name


@every_env
def test_the_tilt_is_something_that_can_be_measured(name):
    robot = Robot.load(name)
    safety = robot.config.safety
    assert (safety.max_tilt is None) == (safety.tilt_term is None)
    if safety.tilt_term is not None and safety.max_tilt is not None:
        assert 0 < safety.max_tilt <= np.pi
        term = robot.terms[safety.tilt_term]
        assert term.size in (1, 3)
        assert term.access != "privileged"
        assert safety.tilt_term in robot.config.observations["measured"]


@every_env
def test_mild_worn_and_unseen_are_there(name):
    robot = Robot.load(name)
    assert {"mild", "unseen", "worn"} <= set(content.gap_names(name))
    mild, worn, unseen = (robot.gap(gap) for gap in ("mild", "worn", "unseen"))
    for gap in (mild, worn, unseen):
        assert gap.description
        assert physics(robot, gap)
    assert not outside(robot, mild)
    assert not outside(robot, worn)
    assert len(outside(robot, unseen)) == 1


@every_env
def test_worn_has_one_effect_that_the_model_does_not_have(name):
    robot = Robot.load(name)
    assert len(effects(robot, robot.gap("worn"))) == 1
    assert effects(robot, robot.gap("mild")) == effects(robot, robot.gap("worn"))


@every_env
def test_it_steps_with_every_gap(name):
    robot = Robot.load(name)
    for gap in (None, *(g for g in content.gap_names(name) if not g.startswith("odrl_"))):
        steps(robot, name, gap)


def steps(robot, name, gap):
    for observe in (None, *robot.config.observations):
        env = make_env(name, gap=gap, observe=observe)
        env.action_space.seed(0)
        obs, _ = env.reset(seed=0)
        for _ in range(3):
            told = list(obs.values()) if isinstance(obs, dict) else [obs]
            assert all(np.isfinite(x).all() for x in told)
            obs, reward, *_ = env.step(env.action_space.sample())
            assert np.isfinite(float(reward))
        env.close()
