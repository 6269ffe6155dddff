"""Recipe -> policy: the visible loop. Stable-Baselines3 does the standard learning."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize

from sim2real import content, progress, schema
from sim2real.bridges.adapt.gradient.fast import Gradient
from sim2real.bridges.adapt.gradient.meta_student import MetaStudent
from sim2real.bridges.adapt.inference.task_inference import Believing, Informed, TaskInference
from sim2real.bridges.adapt.inference.varibad import Decoding, Varibad
from sim2real.bridges.adapt.memory.network import RecurrentActorCritic
from sim2real.bridges.adapt.memory.recurrent_ppo import Figures
from sim2real.bridges.adapt.memory.remember import OverTrials, Taught
from sim2real.bridges.adapt.memory.student import Student
from sim2real.bridges.adapt.memory.trial_learner import TrialLearner
from sim2real.bridges.align.aligned import Estimated, aligned_estimator
from sim2real.bridges.correct.darc import DarcForSAC, DarcReplayBuffer
from sim2real.bridges.correct.reward import CorrectedReward, DarcForPPO
from sim2real.bridges.randomize.adr import ADR
from sim2real.bridges.randomize.curriculum import Curriculum
from sim2real.bridges.randomize.doraemon import Doraemon
from sim2real.bridges.randomize.epopt import EPOpt, EPOptPPO
from sim2real.bridges.randomize.reidentify import Reidentification, Reidentify
from sim2real.deploy.files import write_atomically
from sim2real.learning.companion import Companion
from sim2real.learning.distill import distill
from sim2real.learning.folder import STEPS, checkpoints, curve, write_checkpoint
from sim2real.learning.learners import ALGORITHMS, build, to_policy, warm_up
from sim2real.learning.vec_env import (
    Context,
    Encode,
    History,
    Parts,
    Scaled,
    WorldsVecEnv,
    corrupted,
    goal_parts,
    scaling,
)
from sim2real.policy.estimator import Estimator
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ActuatorSpec, ParameterInfo, PolicySpec, TermSpec
from sim2real.recipe import Distill, Recipe, read
from sim2real.simulation.make import AnyWorlds, make_worlds
from sim2real.simulation.robot import MjcfRobot, Robot, Safety
from sim2real.simulation.trials import TrialWorlds
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array, InputError

ESTIMATOR = "estimator.pt"
log = logging.getLogger(__name__)

PACKAGES = (
    "torch", "mujoco", "mjbatch", "gymnasium", "gymnasium-robotics", "stable-baselines3",
    "sb3-contrib", "numpy", "cmaes", "onnx", "onnxscript", "onnxruntime",
)  # fmt: skip


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    overrides: Sequence[str] | None = None,
    resume: bool = False,
) -> Policy:
    """Trains what a recipe says and writes everything about the run into `out`.

    `out` (default runs/<recipe>) receives recipe.yaml as resolved, run.json (package versions,
    seeds), log/ (TensorBoard and progress.csv), checkpoints/, and at the end policy.pt and
    policy.json. A run that was killed continues with
    `resume`: parameters, optimizer, normaliser and step count are those of the last checkpoint,
    bit for bit; the episodes that were under way are not, they begin anew from a seed that is a
    function of (seed, step count), so that resuming twice from one checkpoint is reproducible.

    Args:
        recipe: a name from policies/, the path of a recipe file, or the same as plain data.
        seed: instead of the recipe's.
        overrides: `key=value` pairs that replace values of the recipe.

    Raises:
        InputError: the recipe is wrong, `out` already holds a run and `resume` is false, or no
            checkpoint of it can be read.
        KeyboardInterrupt: after Ctrl-C, once a checkpoint is written.
    """
    name, resolved = read(recipe, seed=seed, overrides=overrides)
    out = Path(out) if out is not None else Path("runs") / name
    with progress.bar(f"train {name}", resolved.total_steps) as report:
        return run(name, resolved, out, resume=resume, report=report)


def run(name: str, recipe: Recipe, out: Path, *, resume: bool, report: progress.Report) -> Policy:
    """As `train`, for a recipe that has been read."""
    torch.set_num_threads(1)  # measured: two are several times slower on networks of this size
    _check_folder(out, recipe, resume)
    saved = checkpoints(out) if resume else []
    robot = Robot.load(recipe.env)
    spec = describe(name, robot, recipe)  # before hours of training, not after
    over_trials = recipe.memory or recipe.gradient
    if over_trials is not None and not isinstance(robot, MjcfRobot):
        raise InputError(f"adapt: {robot.name} is a Gymnasium environment, which has no trials")
    if recipe.distill is None and recipe.memory is not None:
        policy = remember(spec, robot, recipe, recipe.memory, out, saved, report)
    elif recipe.distill is None:
        policy = learn(spec, robot, recipe, out, recipe, saved, report)
    else:
        if recipe.distill.trained:
            teacher = Policy.load(recipe.distill.trained)
            _write_folder(out, recipe)
        else:
            taught = describe(f"{name}-teacher", robot, recipe.learned)
            teacher = learn(taught, robot, recipe.learned, out, recipe, saved, report)
            teacher.save(out / "teacher")
        policy = imitate(teacher, spec, robot, recipe, recipe.distill, report)
    policy.save(out)
    return policy


def learn(
    spec: PolicySpec, robot: Robot, recipe: Recipe, out: Path, written: Recipe,
    saved: Sequence[Path], report: progress.Report,
) -> Policy:  # fmt: skip
    """Learning by reward, from the last of the checkpoints `saved` where there are any.

    Raises:
        InputError: none of them can be read.
    """
    estimator, alignment = _estimator(robot, recipe, out)
    done, model, normalized, companions = _begin(spec, robot, recipe, estimator, saved)
    _write_folder(out, written)
    curves = out / "log"
    curves.mkdir(exist_ok=True)
    if estimator is not None:
        estimator.save(out / ESTIMATOR)
    if alignment:
        rows = zip(*(column.tolist() for column in alignment.values()), strict=True)
        lines = [",".join(alignment), *(",".join(map(str, row)) for row in rows)]
        write_atomically(curves / "align.csv", ("\n".join(lines) + "\n").encode())
    model.set_logger(curve(curves, done))
    callback = _Run(recipe, out, report, companions)
    try:
        if done < recipe.steps:  # else `learn` resets the worlds, and the normaliser counts that
            model.learn(
                recipe.steps - done, callback=[*companions, callback], reset_num_timesteps=False,
                log_interval=1,
            )  # fmt: skip
    except (KeyboardInterrupt, InputError):  # a target that gives NaN, say: nothing is lost by it
        callback.checkpoint()
        raise
    finally:
        model.logger.close()
    return to_policy(model, normalized, spec, estimator)


class _Beginning(NamedTuple):
    done: int
    """Control steps so far."""
    model: BaseAlgorithm
    normalized: VecNormalize
    """What it acts in."""
    companions: list[Companion]
    """What the recipe's bridges do meanwhile."""


def _begin(
    spec: PolicySpec, robot: Robot, recipe: Recipe, estimator: Estimator | None,
    saved: Sequence[Path],
) -> _Beginning:  # fmt: skip
    """A new model, or that of the newest checkpoint that can be read."""
    reasons: list[str] = []
    for folder in reversed(saved):
        try:
            beginning = _load(spec, robot, recipe, estimator, folder)
        except InputError:
            raise
        except Exception as error:  # of zipfile, pickle, torch or Stable-Baselines3
            reasons.append(f"{folder} cannot be read ({' '.join(str(error).split())})")
        else:
            if reasons:
                log.warning("%s; going on from %s", "; ".join(reasons), folder)
            return beginning
    if reasons:
        raise InputError(f"{'; '.join(reasons)}; begin anew with another --out")
    inner, worlds = make_training_env(robot, recipe, recipe.seed, estimator)
    env = _normalized(recipe, inner)
    kind, more = _algorithm(recipe)
    model = build(recipe.learner, _corrected(recipe, env), recipe.seed, kind, more)
    return _Beginning(0, model, env, _companions(spec, robot, recipe, estimator, worlds))


def _normalized(recipe: Recipe, env: VecEnv) -> VecNormalize:
    """Observations and rewards as the learner sees them."""
    gamma, correction = recipe.learner.gamma, recipe.correction
    if correction is None or correction.normalize:
        return VecNormalize(env, gamma=gamma)
    # Made as usual, so that its statistics are there and say nothing (mean 0, variance 1).
    plain = VecNormalize(env, gamma=gamma, norm_reward=False, clip_obs=float("inf"))
    plain.norm_obs = False
    return plain


def _algorithm(recipe: Recipe) -> tuple[type[BaseAlgorithm], dict[str, Any]]:
    """The class that learns, and what the bridges add to its settings."""
    drawn = recipe.randomization
    if isinstance(drawn, EPOpt):
        return EPOptPPO, drawn.settings()
    buffer = recipe.correction is not None and recipe.learner.algorithm != "ppo"
    more = {"replay_buffer_class": DarcReplayBuffer} if buffer else {}
    return ALGORITHMS[recipe.learner.algorithm], more


def _corrected(recipe: Recipe, env: VecEnv) -> VecEnv:
    """PPO gets the corrected reward from its environment, SAC and TQC from their buffer."""
    by_env = recipe.correction is not None and recipe.learner.algorithm == "ppo"
    return CorrectedReward(env) if by_env else env


def _companions(
    spec: PolicySpec, robot: Robot, recipe: Recipe, estimator: Estimator | None, worlds: AnyWorlds
) -> list[Companion]:
    made: list[Companion] = []
    drawn, correction = recipe.randomization, recipe.correction
    if isinstance(drawn, Doraemon | ADR):
        made.append(Curriculum(worlds, drawn.rule(robot.space)))
    if isinstance(drawn, Reidentify):
        target = _target_worlds(robot, recipe, drawn.target)
        made.append(
            Reidentification(
                drawn, robot, worlds, target, spec=spec, estimator=estimator, steps=recipe.steps,
                seed=recipe.seed,
            )
        )  # fmt: skip
    if correction is not None:
        target = _target_worlds(robot, recipe, correction.target)
        env = _seen(target, recipe, _told_nothing(robot, recipe), estimator, recipe.seed)
        kind = DarcForPPO if recipe.learner.algorithm == "ppo" else DarcForSAC
        made.append(kind(correction, env, recipe.seed))
    return made


def _target_worlds(robot: Robot, recipe: Recipe, gap: str) -> AnyWorlds:
    """One world with the gap that a bridge bridges. What the bridge sees of it is what its target
    steps give; its physics stays unread."""
    seed = _seed_after(recipe.seed, 0)
    return make_worlds(robot, 1, gap=gap, observe=recipe.observe, seed=seed, threads=1)


def _told_nothing(robot: Robot, recipe: Recipe) -> Encode | None:
    """What the policy is told of ξ on a target that nobody knows: a draw as in training, so that
    the context does not tell the two domains apart."""
    encode, drawn = context_encoder(robot, recipe), recipe.randomization
    if encode is None or drawn is None:
        return encode
    distribution = drawn.distribution(robot.space)
    return lambda xi, rng: encode(distribution.sample(rng, len(xi)), rng)


def _estimator(
    robot: Robot, recipe: Recipe, out: Path
) -> tuple[Estimator | None, dict[str, Array]]:
    """What an aligned policy sees through, made once in a run, before learning by reward; and, when
    it was made now, the history of its training."""
    config, path = recipe.alignment, out / ESTIMATOR
    if config is None:
        return None, {}
    if path.is_file():
        return Estimator.load(path), {}
    source = make_training_worlds(robot, replace(recipe, worlds=16), recipe.seed)
    target = _target_worlds(robot, recipe, config.gap)
    if not (isinstance(source, Worlds) and isinstance(target, Worlds)):
        raise InputError(f"align: {robot.name} is a Gymnasium environment, whose terms are opaque")
    return aligned_estimator(config, source, target, seed=recipe.seed)


def _load(
    spec: PolicySpec, robot: Robot, recipe: Recipe, estimator: Estimator | None, folder: Path
) -> _Beginning:
    """From one checkpoint, in worlds of their own."""
    done = int(folder.name)
    seed = _seed_after(recipe.seed, done) if done else recipe.seed
    inner, worlds = make_training_env(robot, recipe, seed, estimator)
    env = VecNormalize.load(str(folder / "normalize.pkl"), inner)
    kind, _ = _algorithm(recipe)
    model = kind.load(folder / "model.zip", env=_corrected(recipe, env), device="cpu")
    companions = _companions(spec, robot, recipe, estimator, worlds)
    for companion in companions:
        companion.load(folder)
    model.set_random_seed(seed)  # loading has put back the seed of the beginning
    if isinstance(model, OffPolicyAlgorithm):  # checkpoints hold no replay buffer: fill it
        model.learning_starts = done + warm_up(recipe.learner, env)
    return _Beginning(done, model, env, companions)


def remember(
    spec: PolicySpec, robot: Robot, recipe: Recipe, config: OverTrials, out: Path,
    saved: Sequence[Path], report: progress.Report,
) -> Policy:  # fmt: skip
    """Learning by reward over trials, from the last of the checkpoints `saved` where there are any.

    Raises:
        InputError: none of them can be read, or the robot is a Gymnasium environment.
    """
    done, learner = _resumed(spec, robot, recipe, config, saved)
    _write_folder(out, recipe)
    logger, begun, kept = curve(out / "log", done), time.monotonic(), done

    def after(taken: int, figures: Figures) -> None:
        nonlocal kept
        told = {"steps/s": (taken - done) / (time.monotonic() - begun)}
        logger.record(STEPS, taken)
        if learner.robots.returns:
            told["return"] = float(np.mean(learner.robots.returns))
            logger.record("rollout/ep_rew_mean", told["return"])
        logger.record("train/entropy", figures.entropy)
        logger.record("train/value_error", figures.value_error)
        logger.record("train/clip_fraction", figures.clipped)
        if isinstance(config, TaskInference | Varibad):
            told["belief"] = figures.extra
            logger.record("train/belief_loss", figures.extra)
        logger.dump(taken)
        report(min(taken, recipe.steps), told)
        if taken - kept >= recipe.checkpoint or taken >= recipe.steps:
            kept = taken
            write_checkpoint(out, taken, learner.save)

    try:
        learner.learn(after)
    except (KeyboardInterrupt, InputError):  # worlds that give NaN, say: nothing is lost by it
        write_checkpoint(out, learner.ppo.taken, learner.save)
        raise
    finally:
        logger.close()
    return learner.policy()


def _resumed(
    spec: PolicySpec, robot: Robot, recipe: Recipe, config: OverTrials, saved: Sequence[Path]
) -> tuple[int, TrialLearner]:
    """How many steps were taken, and the learner: new, or of the newest checkpoint that can be
    read. Raises InputError where none can."""
    reasons: list[str] = []
    for folder in reversed(saved):
        done = int(folder.name)
        learner = _trial_learner(spec, robot, recipe, config, done)
        try:
            learner.load(folder)
        except Exception as error:  # of zipfile, pickle or torch
            reasons.append(f"{folder} cannot be read ({' '.join(str(error).split())})")
        else:
            if reasons:
                log.warning("%s; going on from %s", "; ".join(reasons), folder)
            return done, learner
    if reasons:
        raise InputError(f"{'; '.join(reasons)}; begin anew with another --out")
    return 0, _trial_learner(spec, robot, recipe, config, 0)


def _trial_learner(
    spec: PolicySpec, robot: Robot, recipe: Recipe, config: OverTrials, done: int
) -> TrialLearner:
    mine = [t.name for t in spec.terms]
    told = [t.name for t in robot.observation(config.critic)]
    both = [*mine, *(name for name in told if name not in mine)]
    seed = _seed_after(recipe.seed, done) if done else recipe.seed
    worlds = make_training_worlds(robot, replace(recipe, observe=both), seed)
    assert isinstance(worlds, Worlds)
    trials = TrialWorlds(worlds, episodes=config.trial, seed=seed)
    make = RecurrentActorCritic
    if isinstance(config, TaskInference):
        make = partial(Informed, latent=robot.space.K)
    if isinstance(config, Varibad):
        make = partial(Decoding, latent=config.latent, kl=config.kl, observed=spec.obs_size)
    return TrialLearner(
        spec, trials, recipe.learner, steps=recipe.steps, seed=recipe.seed, make=make
    )


def imitate(
    teacher: Policy, spec: PolicySpec, robot: Robot, recipe: Recipe, distill_: Distill,
    report: progress.Report,
) -> Policy:  # fmt: skip
    """A policy of this spec that has learned from `teacher`. Killed on the way, it begins anew."""
    before = recipe.total_steps - distill_.steps
    torch.manual_seed(recipe.seed)
    network = mlp(
        [spec.network_size, *recipe.learner.network, spec.action_size], recipe.learner.activation
    )
    student = Policy(spec, network, Normalizer.identity(spec.feature_size), None)
    seen = (*spec.terms, *teacher.spec.terms)
    both = replace(recipe, observe=[t.name for t in seen], distill=None, adapt="none")
    worlds = make_training_worlds(robot, both, seed=_seed_after(recipe.seed, recipe.steps))
    encode = context_encoder(robot, recipe.learned)

    def told(done: int, figures: dict[str, float]) -> None:
        report(before + done, figures)

    config = recipe.gradient or recipe.memory
    if not isinstance(config, Taught | Gradient):
        distill(
            teacher, student, worlds, encode, steps=distill_.steps, seed=recipe.seed,
            learning_rate=distill_.learning_rate, report=told,
        )  # fmt: skip
        return student
    assert isinstance(worlds, Worlds)
    ticks = max(1, round(config.seconds / robot.control_period))
    trials = TrialWorlds(worlds, episodes=config.trial, steps=ticks, seed=recipe.seed)
    kind = MetaStudent if isinstance(config, Gradient) else Student
    if isinstance(config, TaskInference):
        kind = partial(Student, reading=Believing, state=False)
    kind(
        teacher, student, trials, encode, steps=distill_.steps, seed=recipe.seed,
        learning_rate=distill_.learning_rate,
    ).teach(told)  # fmt: skip
    return student


def _seed_after(seed: int, done: int) -> int:
    """The seed of a run that is resumed after `done` control steps."""
    return int(np.random.SeedSequence([seed, done]).generate_state(1)[0])


class TrainingEnv(NamedTuple):
    env: VecEnv
    worlds: AnyWorlds


def make_training_env(
    robot: Robot, recipe: Recipe, seed: int, estimator: Estimator | None = None
) -> TrainingEnv:
    """What the learner of a recipe acts in, before normalisation."""
    worlds = make_training_worlds(robot, recipe, seed)
    env = _seen(worlds, recipe, context_encoder(robot, recipe), estimator, seed)
    if recipe.learner.her:
        if recipe.history > 1:
            raise InputError("history: her relabels the goal of one observation; use history: 1")
        env = Parts(env, goal_parts(worlds, env))
    return TrainingEnv(env, worlds)


def _seen(
    worlds: AnyWorlds, recipe: Recipe, encode: Encode | None, estimator: Estimator | None, seed: int
) -> VecEnv:
    """Worlds as the policy of a recipe sees them: estimated, with history and context."""
    env: VecEnv = WorldsVecEnv(worlds)
    if recipe.learner.algorithm == "ppo" and _rescaled(worlds.action_low, worlds.action_high):
        env = Scaled(env)
    env = VecMonitor(env)
    if estimator is not None:
        env = Estimated(env, estimator)
    if recipe.history > 1:
        env = History(env, recipe.history)
    return env if encode is None else Context(env, worlds, encode, seed)


def _rescaled(low: Array, high: Array) -> bool:
    """Whether commands have another range than [-1, 1]."""
    return bool((low != -1).any() or (high != 1).any())


def make_training_worlds(robot: Robot, recipe: Recipe, seed: int) -> AnyWorlds:
    """Worlds with the physics and the observations of a recipe."""
    drawn = recipe.randomization
    return make_worlds(
        robot, recipe.worlds, gap=recipe.gap, observe=recipe.observe, seed=seed,
        threads=recipe.threads,
        draw=None if drawn is None else drawn.distribution(robot.space),
    )  # fmt: skip


def context_encoder(robot: Robot, recipe: Recipe) -> Encode | None:
    """What the policy of a recipe is told of ξ in training; None where it is told nothing."""
    if recipe.adaptation is None:
        return None
    drawn = recipe.randomization
    nominal = np.array(robot.space.nominal, float)
    if drawn is None:
        return corrupted(nominal, nominal, 0.0)
    low, high = np.array([drawn.bounds(robot.space)[name] for name in robot.space.names]).T
    return corrupted(low, high, recipe.adaptation.error)


def describe(name: str, robot: Robot, recipe: Recipe) -> PolicySpec:
    """What the policy of a recipe must be told and cannot learn."""
    terms = tuple(
        TermSpec(t.name, t.size, t.unit, t.frame, t.sensor, t.access, t.elements)
        for t in robot.observation(recipe.observe)
    )
    space, drawn = robot.space, recipe.randomization
    bounds = {} if drawn is None else drawn.bounds(space)
    parameters = tuple(
        ParameterInfo(p.name, p.unit, *bounds.get(p.name, (float(n), float(n))), float(n))
        for p, n in zip(space.parameters, space.nominal, strict=True)
    )
    latency = [
        (p.low, p.high)
        for p, d in zip(parameters, space.parameters, strict=True)
        if d.field == "actuator_delay"
    ]
    low, high = robot.command_range
    head = "clip" if recipe.learner.algorithm == "ppo" or recipe.distill else "tanh"
    scale, offset = (), ()
    if head == "clip" and _rescaled(low, high):
        scale, offset = (tuple(map(float, x)) for x in scaling(low, high))
    adapt = recipe.adaptation
    adapts = adapt or recipe.memory or recipe.gradient
    safety = robot.config.safety
    if safety.tilt_term is not None and safety.tilt_term not in [t.name for t in terms]:
        log.warning(
            "policy '%s' does not see '%s': its controller cannot stop the robot when it tilts",
            name, safety.tilt_term,
        )  # fmt: skip
        safety = Safety()
    return PolicySpec(
        name=name, env=_lasting(robot), terms=terms,
        actuators=ActuatorSpec(robot.actuators, robot.config.command_unit,
                               tuple(map(float, low)), tuple(map(float, high))),
        control_period=robot.control_period, history=recipe.history,
        context=parameters if adapt is not None else (),
        parameters=() if adapt is not None else parameters,
        latency_ms=latency[0] if latency else (0.0, 0.0),
        head=head, scale=scale, offset=offset,
        max_tilt=safety.max_tilt, tilt_term=safety.tilt_term,
        episodes=0 if adapts is None else adapts.episodes,
        memory=None if recipe.memory is None else recipe.memory.spec([p.name for p in parameters]),
        fast=None if recipe.gradient is None else recipe.gradient.spec,
        provenance={"seed": str(recipe.seed), "steps": str(recipe.steps), **versions()},
    )  # fmt: skip


def _lasting(robot: Robot) -> str:
    """A name that finds the robot again from any folder."""
    shipped = robot.name in content.env_names() and content.env_folder(robot.name) == robot.folder
    return robot.name if shipped else str(robot.folder.resolve())


class _Run(BaseCallback):
    """Progress, learning curve and checkpoints of one run."""

    def __init__(
        self, recipe: Recipe, out: Path, report: progress.Report, companions: Sequence[Companion]
    ) -> None:
        super().__init__()
        self._recipe, self._out, self._report = recipe, out, report
        self._companions = companions
        self._next = 0
        self._start = (time.monotonic(), 0)

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self._recipe.checkpoint
        self._start = (time.monotonic(), self.num_timesteps)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        seconds = time.monotonic() - self._start[0]
        rate = (self.num_timesteps - self._start[1]) / max(seconds, 1e-9)
        figures = {"steps/s": rate}
        episodes = self.model.ep_info_buffer
        if episodes:
            figures = {"return": float(np.mean([e["r"] for e in episodes])), **figures}
        inner = self.training_env.unwrapped
        if isinstance(inner, WorldsVecEnv):
            for name, value in inner.figures().items():
                self.logger.record(f"task/{name}", value)
        self._report(min(self.num_timesteps, self._recipe.steps), figures)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:  # the parameters have learned from all these steps
            self._next += self._recipe.checkpoint
            self.checkpoint()

    def _on_training_end(self) -> None:
        self.checkpoint()

    def checkpoint(self) -> None:
        normalize = self.model.get_vec_normalize_env()
        assert normalize is not None

        def save(folder: Path) -> None:
            self.model.save(folder / "model.zip")
            normalize.save(str(folder / "normalize.pkl"))
            for companion in self._companions:
                companion.save(folder)

        write_checkpoint(self._out, self.num_timesteps, save)


def _check_folder(out: Path, recipe: Recipe, resume: bool) -> None:
    path = out / "recipe.yaml"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give the folder of a run as --out")
    if path.is_file():
        if not resume:
            raise InputError(
                f"{out} already holds a run; choose another --out, or continue it with --resume"
            )
        before = schema.read(Recipe, path)
        free = replace(
            before, steps=recipe.steps, checkpoint=recipe.checkpoint, threads=recipe.threads
        )
        other = [f.name for f in fields(recipe) if getattr(free, f.name) != getattr(recipe, f.name)]
        if other:
            raise InputError(
                f"{path} differs from the recipe given in {', '.join(other)}; resume with the "
                "recipe of the run"
            )
    elif resume:
        raise InputError(f"{out} holds no run to resume; leave --resume out")


def _write_folder(out: Path, recipe: Recipe) -> None:
    out.mkdir(parents=True, exist_ok=True)
    schema.write(recipe, out / "recipe.yaml")
    facts = {"versions": versions(), "seed": recipe.seed, "machine": platform.platform()}
    new = out / "run.json.new"
    new.write_text(json.dumps(facts, indent=2) + "\n")
    os.replace(new, out / "run.json")


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"sim2real": version("sim2real"), "python": platform.python_version()} | {
        name: version(name) for name in PACKAGES
    }
