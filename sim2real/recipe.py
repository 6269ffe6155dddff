"""A recipe: which robot, which learner, and how each of the four places is bridged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sim2real import content, schema
from sim2real.bridges.adapt.context import Context
from sim2real.bridges.adapt.gradient.fast import Gradient
from sim2real.bridges.adapt.inference.task_inference import TaskInference
from sim2real.bridges.adapt.inference.varibad import Varibad
from sim2real.bridges.adapt.memory.remember import Remember, Taught
from sim2real.bridges.adapt.memory.trial_learner import settings_of
from sim2real.bridges.align.adversarial import Dann
from sim2real.bridges.correct.darc import Darc
from sim2real.bridges.randomize.adr import ADR
from sim2real.bridges.randomize.doraemon import Doraemon
from sim2real.bridges.randomize.epopt import EPOpt
from sim2real.bridges.randomize.posterior import FromPosterior
from sim2real.bridges.randomize.reidentify import Reidentify
from sim2real.bridges.randomize.uniform import Uniform
from sim2real.learning.learners import Learner
from sim2real.types import InputError

Adaptation = Context | Gradient | Remember | TaskInference | Varibad
"""What changes on the robot."""
Randomization = Uniform | EPOpt | Doraemon | ADR | FromPosterior | Reidentify
"""How ξ is drawn in training. Each gives a `distribution` to begin with and its `bounds`."""


TRIALS: dict[str, type[Remember | TaskInference | Varibad]] = {
    "memory": Remember, "task_inference": TaskInference, "varibad": Varibad,
}  # fmt: skip
"""Methods that find out over the episodes of a robot."""


@dataclass(frozen=True)
class Distill:
    """A teacher that sees more learns by reward; then the policy learns from it, by DAgger."""

    teacher: list[str]
    """Observation terms of the teacher, privileged ones too."""
    steps: int
    """Control steps of imitation, besides the recipe's."""
    learning_rate: float = 1e-3
    told: bool = False
    """Whether the teacher is told ξ where the policy is not: then the policy must find it in its
    history (Kumar et al. 2021, without a latent of its own)."""
    trained: str = ""
    """Folder of a teacher that is trained already; then `steps` of the recipe are not run."""


@dataclass(frozen=True)
class Recipe:
    """recipe.yaml. The four bridges are always there; `none` says that a place is not bridged."""

    description: str
    env: str
    """The robot: a name from envs/, or the path of a folder, from here or from the recipe's own."""
    randomize: Literal["none", "uniform", "epopt"] | Randomization
    """Which physics the simulated worlds have."""
    correct: Literal["none"] | Darc
    """How the reward is corrected."""
    align: Literal["none"] | Dann
    """How the representation is aligned."""
    adapt: (
        Literal["none", "context", "gradient", "memory", "task_inference", "varibad"] | Adaptation
    )
    """What changes on the robot."""
    steps: int
    """Control steps of training, over all worlds."""
    gap: str | None = None
    """What the simulated worlds do differently, by name or path: the policy is then trained in the
    target, as an oracle is, or in the twin of a robot."""
    observe: str | list[str] = "v5"
    """The observation set that the policy sees, or its terms."""
    history: int = 1
    """How many observations the policy sees, the newest included."""
    distill: Distill | None = None
    """If given, a teacher learns by reward and the policy imitates it."""
    learner: Learner = field(default_factory=Learner)
    worlds: int = 128
    """Worlds that are stepped together."""
    threads: int = 0
    """Threads that step them; 0 is one per core. The result does not depend on it."""
    seed: int = 0
    checkpoint: int = 200_000
    """Control steps between checkpoints."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "history": 1, "worlds": 1, "threads": 0, "seed": 0, "checkpoint": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        self._check_bridges()
        if self.seed >= 2**32:
            raise InputError(
                f"seed is {self.seed}; it must be below 2^32, which is what numpy takes"
            )

    def _check_bridges(self) -> None:
        """Raises InputError for bridges that do not go together, or not with the learner."""
        drawn, aligned = self.randomization, self.alignment
        if isinstance(drawn, EPOpt) and self.learner.algorithm != "ppo":
            raise InputError(
                f"randomize: epopt chooses among whole episodes, which ppo learns from; "
                f"learner.algorithm is {self.learner.algorithm}"
            )
        if aligned is not None and not aligned.gap:
            raise InputError("align: gap is missing; name the gap whose observations are used")
        if self.adaptation is not None and drawn is None:
            raise InputError(
                "adapt: context tells the policy ξ, which never varies with randomize: none; "
                "randomize, uniform for instance"
            )
        if self.memory is not None:
            self._check_trials(self.memory)
        if self.gradient is not None:
            self._check_gradient()
        towards = {
            "randomize: reidentify": isinstance(drawn, Reidentify),
            "correct: darc": self.correction is not None,
            "align": aligned is not None,
        }
        targets = {
            "randomize.target": drawn.target if isinstance(drawn, Reidentify) else None,
            "correct.target": self.correction and self.correction.target,
            "align.gap": aligned and aligned.gap,
        }
        named = [f"{key}: {gap}" for key, gap in targets.items() if gap is not None]
        if len({gap for gap in targets.values() if gap is not None}) > 1:
            raise InputError(
                f"{', '.join(named)}: a policy bridges to one target; name the same everywhere"
            )
        for bridge, there in towards.items():
            if there and self.gap is not None:
                raise InputError(
                    f"{bridge} bridges from the simulator to a target, but gap: {self.gap} already "
                    "trains in one; leave one of the two out"
                )
            if there and self.distill is not None:
                raise InputError(
                    f"{bridge} needs a policy that learns by reward from what the target tells; "
                    "with distill it imitates a teacher, so leave one of the two out"
                )
            if there and self.learner.her:
                raise InputError(
                    f"{bridge} needs flat observations; her has those of a goal environment, so "
                    "leave one of the two out"
                )

    def _check_trials(self, config: Remember | TaskInference | Varibad) -> None:
        """Raises InputError for what does not go with trials."""
        name = config.method
        if self.randomization is None:
            raise InputError(
                f"adapt: {name} finds out what a robot is like, and with randomize: none all are "
                "alike; randomize, uniform for instance"
            )
        if self.distill is not None:
            if not isinstance(config, Taught):
                raise InputError(
                    f"adapt: {name} learns by reward; leave distill out, or use adapt: memory or "
                    "task_inference"
                )
            if name == "task_inference" and not self.distill.told:
                raise InputError(
                    "adapt: task_inference learns what its teacher is told; add told: true to "
                    "distill"
                )
            if isinstance(self.randomization, Doraemon | ADR):
                raise InputError(
                    f"randomize: {self.randomization.method} widens what the teacher meets; its "
                    "student would meet what that began with alone, so use uniform"
                )
            return
        if self.learner.her:
            raise InputError(f"learner: her does not go with adapt: {name}; leave one of them out")
        settings_of(self.learner, self.worlds, name)
        for bridge, there in {
            "randomize: " + getattr(self.randomization, "method", ""): not isinstance(
                self.randomization, Uniform | FromPosterior
            ),
            "correct: darc": self.correction is not None,
            "align": self.alignment is not None,
        }.items():
            if there:
                raise InputError(
                    f"{bridge} does not go with adapt: {name} that is learned by reward; leave one "
                    "of the two out"
                )
        if self.history > 1:
            raise InputError(
                f"history: with adapt: {name} a policy that learns by reward sees one observation "
                "at a time; use history: 1"
            )

    def _check_gradient(self) -> None:
        """Raises InputError for what does not go with gradient steps."""
        if self.randomization is None:
            raise InputError(
                "adapt: gradient finds out what a robot is like, and with randomize: none all are "
                "alike; randomize, uniform for instance"
            )
        if self.distill is None or not self.distill.told:
            raise InputError(
                "adapt: gradient learns from a teacher that is told ξ; add distill, with told: true"
            )
        if isinstance(self.randomization, Doraemon | ADR):
            raise InputError(
                f"randomize: {self.randomization.method} widens what the teacher meets; its "
                "student would meet what that began with alone, so use uniform"
            )

    @property
    def correction(self) -> Darc | None:
        return None if isinstance(self.correct, str) else self.correct

    @property
    def alignment(self) -> Dann | None:
        return None if isinstance(self.align, str) else self.align

    @property
    def learned(self) -> Recipe:
        """What learns by reward: this, or the teacher of it."""
        if self.distill is None:
            return self
        adapt = self.adapt if self.memory is None and self.gradient is None else "none"
        if self.distill.told and adapt == "none":
            adapt = "context"
        return replace(self, observe=self.distill.teacher, history=1, distill=None, adapt=adapt)

    @property
    def total_steps(self) -> int:
        """Control steps of learning by reward and of imitation."""
        if self.distill is None:
            return self.steps
        return self.distill.steps + (0 if self.distill.trained else self.steps)

    @property
    def randomization(self) -> Randomization | None:
        if not isinstance(self.randomize, str):
            return self.randomize
        return {"none": None, "uniform": Uniform(), "epopt": EPOpt()}[self.randomize]

    @property
    def adaptation(self) -> Context | None:
        """What the policy is told of ξ."""
        told = Context() if self.adapt == "context" else self.adapt
        return told if isinstance(told, Context) else None

    @property
    def gradient(self) -> Gradient | None:
        """What gradient steps find on the robot."""
        found = Gradient() if self.adapt == "gradient" else self.adapt
        return found if isinstance(found, Gradient) else None

    @property
    def memory(self) -> Remember | TaskInference | Varibad | None:
        """What the policy remembers."""
        if isinstance(self.adapt, str):
            return TRIALS[self.adapt]() if self.adapt in TRIALS else None
        return self.adapt if isinstance(self.adapt, tuple(TRIALS.values())) else None


def read(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    seed: int | None = None,
    overrides: Sequence[str] | None = None,
) -> tuple[str, Recipe]:
    """(name, Recipe) from a name in policies/, a path, or plain data.

    Args:
        overrides: `key=value` or `key.inner=value`, applied to what the file says.

    Raises:
        InputError: an unknown key or name, a wrong type, a missing file.
    """
    if isinstance(recipe, Recipe):
        name, result = Path(recipe.env).name, recipe
        if overrides:
            raise TypeError("overrides apply to a recipe file; use dataclasses.replace on a Recipe")
    elif isinstance(recipe, Mapping):
        name, where = str(recipe.get("env", "policy")), "recipe"
        result = schema.read(Recipe, schema.apply_overrides(recipe, overrides or []), where)
    else:
        path = content.recipe_file(recipe)
        name = path.parent.name if path.name == "recipe.yaml" else path.stem
        data = schema.load(path)
        result = schema.read(Recipe, schema.apply_overrides(data, overrides or []), str(path))
        result = _beside(result, path.parent)
    return name, result if seed is None else replace(result, seed=seed)


def _beside(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with those of its paths that lead nowhere from here, but from its own folder."""
    here = recipe.env in content.env_names() or Path(recipe.env).is_dir()
    if not here and (folder / recipe.env).is_dir():
        recipe = replace(recipe, env=str(folder / recipe.env))
    drawn = recipe.randomize
    if isinstance(drawn, FromPosterior) and not Path(drawn.file).expanduser().is_file():
        file = folder / drawn.file
        if file.is_file():
            recipe = replace(recipe, randomize=replace(drawn, file=str(file)))
    return recipe
