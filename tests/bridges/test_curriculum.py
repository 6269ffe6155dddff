"""What the worlds did reaches the rule whole, in order and with the right ξ; what the rule answers
reaches the worlds."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor, VecNormalize

from sim2real.bridges.randomize.adr import ADR, BoundaryBox
from sim2real.bridges.randomize.curriculum import Curriculum
from sim2real.bridges.randomize.doraemon import Doraemon, DoraemonRule
from sim2real.dynamics.distribution import Distribution
from sim2real.learning.vec_env import WorldsVecEnv
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import InputError

PENDULUM = Robot.load("inverted_pendulum")
SPACE = PENDULUM.space
B = 16
EASY = Doraemon(success=1.0, epsilon=0.5, every=32)  # an episode of a single step succeeds


class Diary(VecEnvWrapper):
    """ξ and return of every episode as it ends, gathered without the callback."""

    def __init__(self, venv, worlds):
        super().__init__(venv)
        self._worlds = worlds
        self.xi: list[np.ndarray] = []
        self.returns: list[float] = []
        self.first = np.zeros((0, SPACE.K))
        self.drawn_from: dict[tuple[float, ...], Distribution] = {}
        self._sum = np.zeros(worlds.num_worlds)

    def reset(self):
        obs = self.venv.reset()
        self.first = self._worlds.xi.copy()
        self._note(range(self.num_envs))
        return obs

    def step_wait(self):
        before = self._worlds.xi.copy()
        obs, reward, done, infos = self.venv.step_wait()
        self._sum += reward
        for i in np.flatnonzero(done):
            self.xi.append(before[i])
            self.returns.append(float(self._sum[i]))
            self._sum[i] = 0
        self._note(np.flatnonzero(done))
        return obs, reward, done, infos

    def _note(self, worlds):
        for i in worlds:
            self.drawn_from[tuple(self._worlds.xi[i])] = self._worlds.draws.distribution


class Census:
    """A rule that keeps what it is given, and never moves."""

    counts_older = False

    def __init__(self, batch):
        self.names, self.batch = SPACE.names, batch
        self.distribution = SPACE.prior()
        self.xi: list[np.ndarray] = []
        self.returns: list[float] = []

    def observe(self, xi, returns):
        self.xi += list(xi)
        self.returns += returns.tolist()
        return None

    def figures(self):
        return {}

    def summary(self):
        return {"parameters": {}, "seen": len(self.xi)}

    def to_dict(self):
        return {}

    def restore(self, data):
        pass


def learner(worlds, seed=0, monitor=True):
    torch.set_num_threads(1)
    env = Diary(WorldsVecEnv(worlds), worlds)
    env = VecNormalize(VecMonitor(env) if monitor else env)
    return PPO("MlpPolicy", env, n_steps=32, batch_size=128, n_epochs=1, seed=seed, device="cpu")


def diary(model) -> Diary:
    return model.get_env().venv.venv


def worlds_of(distribution, seed=0):
    return Worlds(PENDULUM, B, draw=distribution, seed=seed, threads=1)


def test_every_episode_is_handed_over_with_its_own_xi_and_raw_return():
    rule = Census(8)
    worlds = worlds_of(rule.distribution)
    model, curriculum = learner(worlds), Curriculum(worlds, rule)
    model.learn(3200, callback=curriculum)
    seen = diary(model)
    waiting = sum(e.length > 0 for e in curriculum._begun)
    assert len(seen.xi) == len(rule.xi) + waiting
    assert len(rule.xi) == curriculum.episodes > 100
    truth = {tuple(x): r for x, r in zip(seen.xi, seen.returns, strict=True)}
    for x, r in zip(rule.xi, rule.returns, strict=True):
        assert r == pytest.approx(truth[tuple(x)], rel=1e-6)


def test_episodes_come_in_the_order_they_began():
    """Control arm: in the order they end, the first B are not the B that began first, and short."""
    rule = Census(B)
    worlds = worlds_of(rule.distribution)
    model = learner(worlds)
    model.learn(3200, callback=Curriculum(worlds, rule))
    seen = diary(model)
    np.testing.assert_array_equal(rule.xi[:B], seen.first)
    assert {tuple(x) for x in seen.xi[:B]} != {tuple(x) for x in seen.first}
    assert np.mean(seen.returns[:B]) < np.mean(rule.returns[:B])


def test_the_distribution_widens_and_the_worlds_follow():
    worlds = worlds_of(EASY.distribution(SPACE))
    start = EASY.rule(SPACE)
    curriculum = Curriculum(worlds, EASY.rule(SPACE))
    learner(worlds).learn(3200, callback=curriculum)
    moves = len(curriculum.history)
    assert moves >= 3
    assert worlds.draws.distribution == curriculum.rule.distribution != start.distribution
    assert curriculum.rule.figures()["entropy"] > start.figures()["entropy"] + 1
    narrow = worlds.xi
    narrow_std = start.distribution.std()
    worlds.reset()
    assert ((worlds.xi >= SPACE.low) & (worlds.xi <= SPACE.high)).all()
    drawn = np.concatenate([worlds.xi, narrow])
    assert np.mean(drawn.std(axis=0) / narrow_std) > 1.5
    for before, after in zip(curriculum.history, curriculum.history[1:], strict=False):
        assert after["steps"] > before["steps"]
        assert after["episodes"] == before["episodes"] + EASY.every
        assert after["entropy"] > before["entropy"]


class Noted(DoraemonRule):
    """A rule that notes what it held when it was given which ξ."""

    def __init__(self):
        super().__init__(EASY, SPACE)
        self.given: list[tuple[Distribution, np.ndarray]] = []

    def observe(self, xi, returns):
        self.given.append((self.distribution, xi.copy()))
        return super().observe(xi, returns)


def test_no_episode_of_an_older_distribution_counts_for_doraemon():
    """Control arm: such episodes ended in the meantime, one for each world and move."""
    rule = Noted()
    worlds = worlds_of(rule.distribution)
    model, curriculum = learner(worlds), Curriculum(worlds, rule)
    model.learn(3200, callback=curriculum)
    drawn_from = diary(model).drawn_from
    assert len(rule.given) >= 3
    for held, xi in rule.given:
        assert all(drawn_from[tuple(x)] == held for x in xi)
    handed = {tuple(x) for _, xi in rule.given for x in xi}
    older = [x for x in diary(model).xi if tuple(x) not in handed]
    assert len(older) >= B * (len(rule.given) - 1)


def test_adr_moves_its_box_and_every_draw_lies_in_it():
    config = ADR(high=3.0, low=1.0, step=0.2, buffer=2)
    rule = config.rule(SPACE)
    worlds = worlds_of(rule.distribution)
    curriculum = Curriculum(worlds, rule)
    learner(worlds).learn(6400, callback=curriculum)
    box = worlds.draws.distribution
    assert isinstance(box, BoundaryBox)
    assert box == rule.distribution
    assert rule.figures()["width"] > 0.1
    worlds.reset()
    assert ((worlds.xi >= box.low) & (worlds.xi <= box.high)).all()
    assert (worlds.xi.std(axis=0) > 0).any()
    assert curriculum.history[-1]["boundary_return"] == rule.figures()["boundary_return"]
    assert curriculum.history[-1]["parameters"] == rule.summary()["parameters"]


def test_a_curriculum_is_resumed_where_it_was():
    rule = EASY.rule(SPACE)
    worlds = worlds_of(rule.distribution)
    curriculum = Curriculum(worlds, rule)
    learner(worlds).learn(1600, callback=curriculum)
    data = json.loads(json.dumps(curriculum.to_dict()))
    assert data["history"]
    again = Curriculum(worlds_of(EASY.distribution(SPACE)), EASY.rule(SPACE))
    again.restore(data)
    assert again.to_dict() == curriculum.to_dict()
    # worlds that were made with the start draw from the restored distribution, from there on
    resumed = again._worlds
    learner(resumed, seed=1).learn(32 * B, callback=again)
    assert resumed.draws.distribution == again.rule.distribution
    x = curriculum.rule.distribution.sample(np.random.default_rng(0), EASY.every)
    assert again.history[: len(data["history"])] == data["history"]
    once, twice = EASY.rule(SPACE), EASY.rule(SPACE)
    for fresh in (once, twice):
        fresh.restore(data["rule"])
    returns = np.ones(EASY.every)
    assert once.observe(x, returns) == twice.observe(x, returns) == rule.observe(x, returns)


def test_two_runs_from_one_state_are_the_same():
    states = []
    for _ in range(2):
        rule = EASY.rule(SPACE)
        worlds = worlds_of(rule.distribution, seed=4)
        curriculum = Curriculum(worlds, rule)
        learner(worlds, seed=4).learn(1600, callback=curriculum)
        states.append(curriculum.to_dict())
    assert states[0] == states[1]


def test_learning_in_two_parts_loses_no_episode():
    """The episodes under way at the end of the first `learn` go on in the second."""
    rule = Census(1)
    worlds = worlds_of(rule.distribution)
    model, curriculum = learner(worlds), Curriculum(worlds, rule)
    model.learn(1600, callback=curriculum)
    model.learn(1600, callback=curriculum, reset_num_timesteps=False)
    seen = diary(model)
    truth = {tuple(x): r for x, r in zip(seen.xi, seen.returns, strict=True)}
    assert len(seen.xi) == len(rule.xi) + sum(e.length > 0 for e in curriculum._begun)
    for x, r in zip(rule.xi, rule.returns, strict=True):
        assert r == pytest.approx(truth[tuple(x)], rel=1e-6)


def test_the_state_is_in_the_log(tmp_path):
    worlds = worlds_of(EASY.distribution(SPACE))
    model = learner(worlds)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(1600, callback=Curriculum(worlds, EASY.rule(SPACE)), log_interval=1)
    model.logger.close()
    rows = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    entropy = [float(row["randomize/entropy"]) for row in rows]
    assert entropy[-1] > entropy[0]
    assert float(rows[-1]["randomize/success"]) == 1.0
    assert float(rows[-1]["randomize/width/cart_mass"]) > 0.1


def test_an_off_policy_learner_takes_it_too():
    worlds = worlds_of(EASY.distribution(SPACE))
    env = VecMonitor(WorldsVecEnv(worlds))
    model = SAC("MlpPolicy", env, learning_starts=10**6, seed=0, device="cpu")
    curriculum = Curriculum(worlds, EASY.rule(SPACE))
    model.learn(1600, callback=curriculum)
    assert curriculum.history


def test_a_threshold_that_is_never_reached_is_said(caplog):
    for success, said in ((1e6, True), (1.0, False)):
        caplog.clear()
        config = Doraemon(success=success, every=32)
        worlds = worlds_of(config.distribution(SPACE))
        curriculum = Curriculum(worlds, config.rule(SPACE))
        learner(worlds).learn(1600, callback=curriculum)
        assert curriculum.history[-1]["moved"] != said
        assert ("lower its threshold, or train for more steps" in caplog.text) == said


def test_what_does_not_fit_is_refused():
    worlds = worlds_of(EASY.distribution(SPACE))
    with pytest.raises(InputError, match="the rule is for torso_mass"):
        Curriculum(worlds, EASY.rule(Robot.load("hopper").space))
    with pytest.raises(InputError, match="behind a VecMonitor"):
        learner(worlds, monitor=False).learn(3200, callback=Curriculum(worlds, EASY.rule(SPACE)))
    assert worlds.draws.distribution == EASY.distribution(SPACE)
    with pytest.raises(InputError, match="'episodes'"):
        Curriculum(worlds, EASY.rule(SPACE)).restore({"rule": {}})
