"""DARC: the source's reward is corrected so that what the target would not do does not pay.

Eysenbach et al. 2021 (arXiv 2006.13916), algorithm 1: the learner sees r + Δr in the source, and
the target's steps teach the two classifiers only. `DarcForSAC` with `DarcReplayBuffer` is the form
for SAC and TQC; `reward.py` has that for PPO.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sim2real.bridges.correct.classifiers import (
    AUTHORS,
    CHECK,
    ENOUGH,
    LEAST,
    Classifiers,
    DomainClassifiers,
    EarlyStop,
    Transitions,
    check_finite,
    count,
    warn,
    warn_apart,
    warn_falling,
    warn_outweighs,
)
from sim2real.bridges.correct.memory import TargetSteps, enough, pick, reward_unit
from sim2real.learning.companion import Companion
from sim2real.types import Array, InputError

HELD_OUT_SAMPLES = 512
"""Of each domain, in one look at the held-out loss."""

BATCHES = 500
"""Of corrected rewards, before it is said what they come to."""

STATE = "darc.pt"


class Schedule(NamedTuple):
    """Which target steps are taken when."""

    initial: int
    """Random steps before anything is learned."""
    warm_up: int
    """Source steps before which Δr is not added and the target is left alone."""
    budget: int
    """The most target steps."""
    ratio: int

    def due(self, source_steps: int) -> int:
        """Target steps that should have been taken by now, the random ones included."""
        if source_steps < self.warm_up:
            return self.initial
        return min(self.budget, self.initial + (source_steps - self.warm_up) // self.ratio)


@dataclass(frozen=True)
class Darc:
    """Eysenbach et al. 2021. What is not given is as the preset says."""

    target: str
    """The gap of the target: a name from the robot's gaps/, or a path."""
    method: Literal["darc"] = "darc"
    preset: Literal["default", "authors"] = "default"
    """`authors`: DARC's constants as published, and nothing normalised; the learner's are said in
    the recipe (docs/recipes.md). `default`: standardised inputs, averaged weights, bounded Δr,
    early-stopped classifiers."""
    ratio: int = 10
    """Source steps per target step, after the warm-up."""
    target_steps: int | None = None
    """The most target steps, random ones included; by default the source's over `ratio`."""
    initial: int | None = None
    """Random target steps at the start. Authors: 10,000. Default: what keeps the ratio during the
    warm-up, at least 2,000."""
    warm_up: int | None = None
    """Source steps before Δr is added and more target steps are taken. Authors: 100,000. Default:
    a tenth of the training."""
    scale: float | None = None
    """Multiplies r and Δr alike. Authors: 0.1. Default: 1."""
    weight: float = 1.0
    """Of Δr [nats] against the raw reward. The published 1 supposes rewards of order 1."""
    noise: float | None = None
    """Of the classifiers' inputs. Authors: 1. Default: 0.1 standard deviations."""
    clip: float | None = None
    """Bound of |Δr|. Authors: none. Default: 10."""

    def __post_init__(self) -> None:
        if self.ratio < 1:
            raise InputError(f"ratio is {self.ratio}; it must be at least 1")
        for name in ("target_steps", "initial"):
            value = getattr(self, name)
            if value is not None and value < LEAST:
                raise InputError(
                    f"{name} is {value}; the classifiers need at least {LEAST} target steps"
                )
        for name in ("warm_up", "weight"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise InputError(f"{name} is {value}; it must not be negative")
        if self.scale is not None and self.scale <= 0:
            raise InputError(f"scale is {self.scale}; it must be above 0")
        _ = self.classifiers

    @property
    def classifiers(self) -> Classifiers:
        preset = AUTHORS if self.preset == "authors" else Classifiers()
        noise = preset.noise if self.noise is None else self.noise
        return replace(preset, noise=noise, clip=preset.clip if self.clip is None else self.clip)

    @property
    def reward_scale(self) -> float:
        if self.scale is not None:
            return self.scale
        return 0.1 if self.preset == "authors" else 1.0

    @property
    def normalize(self) -> bool:
        """Whether the learner sees observations and rewards normalised; the authors' sees both as
        they are."""
        return self.preset != "authors"

    def schedule(self, source_steps: int) -> Schedule:
        """For a training of so many source steps.

        Raises:
            InputError: the warm-up lasts longer than that, or target steps are too few.
        """
        authors = self.preset == "authors"
        budget = source_steps // self.ratio if self.target_steps is None else self.target_steps
        warm_up, initial = self.warm_up, self.initial
        if warm_up is None:
            warm_up = 100_000 if authors else source_steps // 10
        if warm_up >= source_steps:
            raise InputError(
                f"correct: warm_up is {warm_up} and the training has {source_steps} steps, so Δr "
                "would never be added; set correct.warm_up, a tenth of the training for instance"
            )
        if initial is None:
            initial = 10_000 if authors else min(budget, max(2000, warm_up // self.ratio))
        if initial > budget:
            raise InputError(
                f"correct: initial is {initial}, more than the {budget} target steps in all; "
                "lower initial or raise target_steps"
            )
        enough(initial)
        return Schedule(initial, warm_up, budget, self.ratio)


class Remembered(Protocol):
    """The steps of one domain."""

    @property
    def filled(self) -> int:
        """Rows, each of one control step in all worlds."""
        ...

    @property
    def worlds(self) -> int: ...

    def raw_sample(
        self, n: int, rng: np.random.Generator, *, held_out: bool | None = None
    ) -> Transitions:
        """See `Memory.raw_sample`."""
        ...


class Correction:
    """Δr while it is being learned: the classifiers, when they rest, and what is logged of them.

    With `patience` they rest when they no longer become better on held-out steps than they were:
    the best are put back, and as many updates are left out as led nowhere. Then they go on, since
    the policy moves on. Best and newest are compared on the same, fresh steps.
    """

    def __init__(self, config: Darc, obs_size: int, action_size: int, seed: int = 0) -> None:
        self.config = config
        self.classifiers = DomainClassifiers(obs_size, action_size, config.classifiers, seed)
        self.active = False
        """Whether Δr is added: false during the warm-up."""
        self.updates = 0
        self._resting = 0
        self._stop = EarlyStop(self.classifiers)
        self.ends = False
        """Whether an episode of the source ended before its time."""
        self._checked = self._warned = self._told = False
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 8]))
        self._losses: list[tuple[float, float]] = []
        self._given: list[tuple[float, float]] = []
        self._earned: list[Array] = []

    def rewards(self, t: Transitions, reward: Array, unit: float = 1.0) -> Array:
        """scale · (r + weight · Δr / unit), (N,); without Δr during the warm-up.

        Args:
            reward: (N,) r, in units of `unit` times the raw reward.
        """
        if self.active:
            delta = self.classifiers.delta_r(*t)
            self._given.append((float(delta.mean()), float(np.abs(delta).mean())))
            self._watch(reward * unit, self.config.weight * delta)
            reward = reward + self.config.weight * delta / unit
        return (self.config.reward_scale * reward).astype(np.float32)

    def learn(self, source: Remembered, target: Remembered, updates: int) -> None:
        """At most so many updates, each on as many transitions of either domain."""
        n, patience = self.classifiers.config.batch, self.classifiers.config.patience
        if not self._checked:
            if source.filled * source.worlds < LEAST:
                return
            self._check(source, target)
        held_out = False if patience else None
        for _ in range(updates):
            if self._resting:
                self._resting -= 1
                continue
            ours = source.raw_sample(n, self._rng, held_out=held_out)
            theirs = target.raw_sample(n, self._rng, held_out=held_out)
            self._losses.append(self.classifiers.update(ours, theirs))
            self.updates += 1
            if patience and self.updates % CHECK == 0:
                self._look(source, target)

    def record(self, logger: Logger, target_steps: int) -> None:
        """Writes means since the last time."""
        if self._losses:
            sa, sas = np.mean(self._losses, axis=0).tolist()
            logger.record("darc/loss_sa", sa)
            logger.record("darc/loss_sas", sas)
        if self._given:
            mean, size = np.mean(self._given, axis=0).tolist()
            logger.record("darc/delta_r", mean)
            logger.record("darc/delta_r_size", size)
        logger.record("darc/target_steps", target_steps)
        self._losses.clear()
        self._given.clear()

    def _watch(self, reward: Array, correction: Array) -> None:
        """Says once what Δr does to the reward, where that is too much; both (N,), raw unit."""
        if self._told:
            return
        both = np.stack([reward, correction])
        self._earned.append(np.concatenate([both.mean(axis=1), np.abs(both).mean(axis=1)]))
        if len(self._earned) == BATCHES:
            earned, taken, size, corrected = np.mean(self._earned, axis=0).tolist()
            weight = self.config.weight
            self._told = self.ends and warn_falling(earned, taken, weight)
            self._told = self._told or warn_outweighs(size, corrected, weight)
            self._earned.clear()

    def _check(self, source: Remembered, target: Remembered) -> None:
        ours, theirs = source.raw_sample(ENOUGH, self._rng), target.raw_sample(ENOUGH, self._rng)
        check_finite(ours, "source")
        check_finite(theirs, "target")
        warn(ours, theirs, target.filled * target.worlds)
        self._checked = True

    def _look(self, source: Remembered, target: Remembered) -> None:
        if not all(count(d.filled, held_out=True) for d in (source, target)):
            return
        n = HELD_OUT_SAMPLES
        ours = source.raw_sample(n, self._rng, held_out=True)
        theirs = target.raw_sample(n, self._rng, held_out=True)
        score = self.classifiers.score(ours, theirs)
        if self.active and not self._warned:
            self._warned = warn_apart(score)
        self._stop.rescore(ours, theirs)
        if not self._stop.go_on(score):
            self._stop.restore()
            self._stop = EarlyStop(self.classifiers)
            self._resting = self.classifiers.config.patience * CHECK


class DarcReplayBuffer(ReplayBuffer):
    """The source's steps. What is sampled from it has the reward scale · (r + weight · Δr), Δr by
    the classifiers as they are then; what is stored stays raw.

    Where rewards are normalised, Δr is added after that and in the same unit: r and Δr keep their
    proportion, and the running statistics see the raw rewards only. The classifiers see raw
    observations, so that a moving normaliser does not shift their inputs.
    """

    correction: Correction | None = None
    """Set by `DarcForSAC`; without it this is a plain replay buffer."""

    @property
    def filled(self) -> int:
        """Rows, each of one control step in all worlds."""
        return self.size()

    @property
    def worlds(self) -> int:
        return self.n_envs

    def raw_sample(
        self, n: int, rng: np.random.Generator, *, held_out: bool | None = None
    ) -> Transitions:
        """n transitions as they are stored; see `Memory.raw_sample`."""
        arrays = self.observations, self.actions, self.next_observations
        return pick(arrays, self.size(), n, rng, held_out)

    def _get_samples(
        self, batch_inds: Array, env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        if self.correction is None:
            return super()._get_samples(batch_inds, env)
        raw = super()._get_samples(batch_inds, None)
        t = Transitions(
            raw.observations.cpu().numpy(), raw.actions.cpu().numpy(),
            raw.next_observations.cpu().numpy(),
        )  # fmt: skip
        reward = self._normalize_reward(raw.rewards.cpu().numpy(), env)[:, 0]
        corrected = self.correction.rewards(t, reward, reward_unit(env))
        obs, next_obs = (self._normalize_obs(x, env) for x in (t.obs, t.next_obs))
        assert isinstance(obs, np.ndarray)
        assert isinstance(next_obs, np.ndarray)
        return raw._replace(
            observations=self.to_torch(obs, copy=False),
            next_observations=self.to_torch(next_obs, copy=False),
            rewards=self.to_torch(corrected[:, None], copy=False),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "correction"}


class DarcCallback(Companion):
    """What SAC and PPO have in common: target steps in their ratio, and the classifiers' updates,
    both between a rollout and the gradient steps that follow it.

    Args:
        config: what the recipe says.
        target: the target, wrapped as the source is, but for VecNormalize.
        seed: of the classifiers and of the random target steps.

    Raises:
        InputError: what the target gives does not suit the classifiers.
    """

    def __init__(self, config: Darc, target: VecEnv, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._target_env, self._seed = target, seed
        self.target = TargetSteps(target, seed)
        self.correction = Correction(config, self.target.obs_size, self.target.action_size, seed)
        self._schedule = Schedule(0, 0, 0, config.ratio)
        self._before = 0

    @abstractmethod
    def source(self) -> Remembered:
        """The source's steps."""

    @abstractmethod
    def updates(self, steps: int) -> int:
        """Gradient steps of the learner after a rollout of so many steps in all worlds."""

    def save(self, folder: Path) -> None:
        """Classifiers, their optimizer, and the target's steps with their count."""
        torch.save(
            {
                "classifiers": self.correction.classifiers.state_dict(),
                "optimizer": self.correction.classifiers.optimizer.state_dict(),
                "updates": self.correction.updates,
                "target": [torch.from_numpy(x) for x in self.target.memory.all()],
                "count": self.target.count,
            },
            folder / STATE,
        )

    def load(self, folder: Path) -> None:
        """What `save` wrote, before the training goes on. The episodes that were under way in the
        target begin anew, and so do the streams of random numbers."""
        path = folder / STATE
        try:
            state = torch.load(path, weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler and zip reader raise
            raise InputError(f"{path}: not the state of a darc training; begin anew") from error
        self.correction.classifiers.load_state_dict(state["classifiers"])
        self.correction.classifiers.optimizer.load_state_dict(state["optimizer"])
        self.correction.updates = state["updates"]
        self.target.memory.restore(Transitions(*(x.numpy() for x in state["target"])))
        self.target.count = state["count"]

    def _init_callback(self) -> None:
        self.target.suits(self.training_env)

    def _on_training_start(self) -> None:
        self._schedule = self.config.schedule(self.model._total_timesteps)  # pyright: ignore[reportPrivateUsage]
        self.target.explore(self._schedule.initial)
        enough(self.target.count)

    def _on_rollout_start(self) -> None:
        self._before = self.model.num_timesteps

    def _on_step(self) -> bool:
        if not self.correction.ends:
            dones, infos = self.locals["dones"], self.locals["infos"]
            self.correction.ends = any(
                done and not info.get("TimeLimit.truncated", False)
                for done, info in zip(dones, infos, strict=True)
            )
        return True

    def _on_rollout_end(self) -> None:
        steps = self.model.num_timesteps
        self.target.follow(self.model, self._schedule.due(steps))
        updates = self.updates(steps - self._before)
        self.correction.learn(self.source(), self.target.memory, updates)
        self.correction.active = steps >= self._schedule.warm_up and self.correction.updates > 0
        self.correction.record(self.logger, self.target.count)


def taken(checkpoint: Path) -> int:
    """Target steps that a training had taken when this checkpoint was written."""
    return int(torch.load(checkpoint / STATE, weights_only=True)["count"])


class DarcForSAC(DarcCallback):
    """DARC for SAC and TQC, whose `replay_buffer_class` must be `DarcReplayBuffer`. One update of
    the classifiers per gradient step, also during the warm-up, as the authors have it."""

    def _init_callback(self) -> None:
        super()._init_callback()
        model = self.model
        buffer = model.replay_buffer if isinstance(model, OffPolicyAlgorithm) else None
        if not isinstance(buffer, DarcReplayBuffer) or buffer.optimize_memory_usage:
            raise InputError(
                "correct: darc needs SAC or TQC with replay_buffer_class=DarcReplayBuffer and "
                "without optimize_memory_usage; PPO goes with DarcForPPO"
            )
        buffer.correction = self.correction
        self._buffer = buffer

    def source(self) -> Remembered:
        return self._buffer

    def updates(self, steps: int) -> int:
        model = self.model
        assert isinstance(model, OffPolicyAlgorithm)
        if model.num_timesteps <= model.learning_starts:
            return 0
        return model.gradient_steps if model.gradient_steps >= 0 else steps
