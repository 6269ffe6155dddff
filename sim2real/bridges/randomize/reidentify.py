"""Training and identification in turn: p(ξ) of the simulator follows what the target's logs say.

The loop of EPOpt's source adaptation (Rajeswaran et al. 2017, algorithm 1 with section 3.4) and of
SimOpt (Chebotar et al. 2019): a policy learns on the ranges, drives the target for a few episodes,
ξ is identified from its logs, and learning goes on where ξ is drawn from the posterior. All logs so
far count in every identification.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sim2real.bridges.randomize.posterior import around
from sim2real.bridges.randomize.uniform import Uniform
from sim2real.dynamics.distribution import Distribution
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.identification.excitation import excite
from sim2real.identification.identify import explain
from sim2real.identification.posterior import Posterior
from sim2real.identification.windows import LENGTH, Trajectory
from sim2real.learning.companion import Companion
from sim2real.learning.learners import to_policy
from sim2real.policy.actor import Actor
from sim2real.policy.estimator import Estimator
from sim2real.policy.spec import PolicySpec
from sim2real.simulation.make import AnyWorlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reidentify:
    """Uniform at first; then, some times over, what the logs of the target say."""

    target: str
    """The gap of the target, by name or path: a simulated robot, of which only logs are seen."""
    method: Literal["reidentify"] = "reidentify"
    rounds: int = 2
    """Identifications, evenly spread over the training."""
    episodes: int = 5
    """Target episodes before each of them."""
    target_steps: int = 10_000
    """Control steps on the target, all rounds together, that are not exceeded."""
    excitation: float = 0.1
    """Noise on the commands while logs are made, as a share of half of their range."""
    widen: float = 0.05
    """Standard deviation added to the posterior's samples, as a share of each range."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Parameter -> (low, high), instead of env.yaml's range. Equal ends hold it fixed."""

    def __post_init__(self) -> None:
        for name in ("rounds", "episodes", "target_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("excitation", "widen"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it is a share, 0 to 1")

    def bounds(self, space: ParameterSpace) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high) that no draw leaves."""
        return Uniform(ranges=self.ranges).bounds(space)

    def distribution(self, space: ParameterSpace) -> Distribution:
        """What training starts from, over ξ (n, K)."""
        return Uniform(ranges=self.ranges).distribution(space)


class Reidentification(Companion):
    """Makes logs on the target when a round is due, and has the worlds draw from what they say.

    Args:
        worlds: those that the learner acts in.
        target: one world that is the target; its physics is never read.
        spec, estimator: of the policy that is being trained.
        steps: control steps of the whole training.
    """

    def __init__(
        self, config: Reidentify, robot: Robot, worlds: AnyWorlds, target: AnyWorlds, *,
        spec: PolicySpec, estimator: Estimator | None = None, steps: int, seed: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self._spec, self._estimator = spec, estimator
        self._config, self._robot, self._worlds, self._target = config, robot, worlds, target
        self._due = [round(steps * (i + 1) / (config.rounds + 1)) for i in range(config.rounds)]
        self._seed = seed
        self.logs: list[Trajectory] = []
        self.target_steps = 0
        """Used so far."""
        self.posterior: Posterior | None = None
        self._done = 0

    def _on_training_start(self) -> None:
        self._draw()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._done < len(self._due) and self.num_timesteps >= self._due[self._done]:
            self._done += 1
            self._identify()

    def _identify(self) -> None:
        config = self._config
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, 8, self._done]))
        left = config.target_steps - self.target_steps
        if left > 0:
            model = self.model
            policy = to_policy(model, model.get_vec_normalize_env(), self._spec, self._estimator)
            made = excite(
                self._target, Actor(policy), episodes=config.episodes, steps=left, rng=rng,
                excitation=config.excitation,
            )  # fmt: skip
            self.logs += made.episodes
            self.target_steps += made.steps
        longest = max((len(e.command) for e in self.logs), default=0)
        if longest <= LENGTH:
            log.warning(
                "randomize: reidentify: the longest of the target's episodes has %d control steps, "
                "and identification needs more than %d: round %d is left out and ξ is drawn as "
                "before; raise target_steps, or train longer before (fewer rounds)",
                longest, LENGTH, self._done,
            )  # fmt: skip
            return
        self.posterior = explain(self._robot, self.logs, seed=self._seed + self._done)
        self._draw()
        for name, mean, std in zip(
            self.posterior.names, self.posterior.mean, self.posterior.std, strict=True
        ):
            self.logger.record(f"randomize/{name}_mean", float(mean))
            self.logger.record(f"randomize/{name}_std", float(std))
        self.logger.record("randomize/target_steps", self.target_steps)

    def _draw(self) -> None:
        if self.posterior is not None:
            space, config = self._robot.space, self._config
            self._worlds.draws.distribution = around(
                self.posterior, space, config.bounds(space), config.widen, "reidentify"
            )

    def save(self, folder: Path) -> None:
        if self.posterior is not None:
            self.posterior.save(folder / "posterior.json")
        arrays: dict[str, Any] = {
            f"{i}/{name}": value
            for i, log in enumerate(self.logs)
            for name, value in {**log.obs, "command": log.command}.items()
        }
        np.savez(folder / "target_logs.npz", counts=[self._done, self.target_steps], **arrays)

    def load(self, folder: Path) -> None:
        path = folder / "target_logs.npz"
        try:
            with np.load(path, allow_pickle=False) as file:
                self._done, self.target_steps = (int(n) for n in file["counts"])
                entries: dict[int, dict[str, Array]] = {}
                for key in file.files:
                    number, _, name = key.partition("/")
                    if name:
                        entries.setdefault(int(number), {})[name] = file[key]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: not the logs of a training ({error})") from None
        self.logs = [
            Trajectory({k: v for k, v in e.items() if k != "command"}, e["command"])
            for _, e in sorted(entries.items())
        ]
        saved = folder / "posterior.json"
        self.posterior = Posterior.load(saved) if saved.is_file() else None
