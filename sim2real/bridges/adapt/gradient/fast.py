"""Fast numbers of a policy, found on a robot by gradient steps on what it foretold wrongly.

    φ_0 = 0,   φ_{j+1} = φ_j - α_j ∘ ∇_φ L(φ_j),   L = -log p(what is seen next | f, a, φ)

Fast context adaptation (CAVIA, Zintgraf and others 2019): the inner loop of MAML moves a few
numbers that the policy sees beside its features, and leaves its weights alone. So an adapted policy
is the same artifact with another z, a step is cheap, and what the robot may become is bounded. The
rates are learned with the start (Meta-SGD, Li and others 2017). L needs no reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sim2real.bridges.adapt.adapter import Transition
from sim2real.bridges.adapt.gradient.inner_loop import Params, Rate, inner_loop
from sim2real.identification.windows import Trajectory
from sim2real.policy.policy import Policy
from sim2real.policy.prediction import Prediction
from sim2real.policy.spec import FastSpec
from sim2real.types import Array, InputError

FARTHEST = 5.0
"""Where fast numbers end: what training never saw."""


@dataclass(frozen=True)
class Gradient:
    """`adapt: {method: gradient}`: learned from a teacher that is told ξ, with `distill`."""

    method: Literal["gradient"] = "gradient"
    size: int = 16
    """L, how many fast numbers."""
    steps: int = 3
    """J, gradient steps that it is trained for."""
    prediction: tuple[int, ...] = (64,)
    """Widths of the hidden layers of what foretells."""
    trial: int = 3
    """Episodes of a robot in training, before another takes its place."""
    seconds: float = 10.0
    """After which another takes its place at the latest, in the middle of an episode."""
    episodes: int = 10
    """Target episodes that adaptation may use, comparison included: the artifact says so."""

    def __post_init__(self) -> None:
        if self.trial < 1:
            raise InputError(f"trial is {self.trial}; a trial has at least 1 episode")
        if not self.seconds > 0:
            raise InputError(f"seconds is {self.seconds}; it must be above 0")
        if self.episodes < 3:
            raise InputError(
                f"episodes is {self.episodes}; adaptation needs at least 3: one to find out, two "
                "to compare"
            )
        _ = self.spec

    @property
    def spec(self) -> FastSpec:
        return FastSpec(self.size, self.steps, self.prediction)


class Foretold(NamedTuple):
    """S steps of N robots, as a prediction is held against them."""

    features: Tensor
    """(N, S, F) normalised"""
    action: Tensor
    """(N, S, A) raw, in [-1, 1]"""
    after: Tensor
    """(N, S, F) the next features"""
    there: Tensor
    """(N, S) bool, which steps count."""


def found(prediction: Prediction, logged: Foretold, steps: int | None = None) -> Tensor:
    """(N, L) fast numbers after so many gradient steps on all that is logged, those of the training
    where None; zero where nothing is. Differentiable in the prediction's parameters, its rates
    among them.

    Beyond the steps of the training the last of their rates is halved, as the authors of MAML do
    (`inner_loop.halved_after`): a start that is trained to be left with a few long steps overshoots
    with more.
    """
    features, action, after, there = logged
    count = there.sum(dim=1).clamp(min=1)

    def loss(params: Params, _: object) -> Tensor:
        fast = params["fast"][:, None].expand(-1, features.shape[1], -1)
        missed = prediction.error(features, action, after, fast)
        return ((missed * there).sum(dim=1) / count).sum()  # robots do not share their numbers

    trained, J = prediction.rates, len(prediction.rates)
    n = J if steps is None else steps
    if n < 0:
        raise InputError(f"steps is {n}; it must be 0 or more")
    rates: list[Rate] = [{"fast": trained[j] if j < J else trained[-1] / 2} for j in range(n)]
    begin = {"fast": features.new_zeros(len(features), prediction.spec.size)}
    return inner_loop(begin, loss, [None] * n, rates)["fast"].clamp(-FARTHEST, FARTHEST)


class FastAdapter:
    """Adapter that goes down the gradient after every episode, from where the robot began, on all
    that was logged since; it needs no reward.

    Args:
        steps: gradient steps; those of the training where None.

    Raises:
        InputError: the policy has no fast numbers.
    """

    def __init__(self, policy: Policy, *, steps: int | None = None) -> None:
        if policy.prediction is None:
            raise InputError(
                f"policy '{policy.spec.name}' has no fast numbers; train one with adapt: gradient"
            )
        self._policy, self._prediction, self._steps = policy, policy.prediction, steps

    def prior(self, rng: np.random.Generator) -> Array:
        return np.zeros(self._prediction.spec.size)

    def begin_episode(self, z: Array, rng: np.random.Generator) -> Array:
        return z

    def observe(self, z: Array, transition: Transition) -> Array:
        return z

    def adapt(self, z: Array, episodes: Sequence[Trajectory]) -> Array:
        """(L,) after the episodes gathered so far; z where they have no steps, or nothing finite
        comes of them."""
        if not episodes:
            return z
        fast = found(self._prediction, logged(self._policy, episodes), self._steps)
        value = fast[0].detach().numpy().astype(float)
        return value if np.isfinite(value).all() else z


def logged(policy: Policy, episodes: Sequence[Trajectory]) -> Foretold:
    """The steps of one robot's episodes."""
    rows = [_rows(policy, e) for e in episodes]
    features, action, after = (torch.cat(part)[None] for part in zip(*rows, strict=True))
    return Foretold(features, action, after, torch.ones(features.shape[:2], dtype=torch.bool))


@torch.no_grad()
def _rows(policy: Policy, episode: Trajectory) -> tuple[Tensor, Tensor, Tensor]:
    spec = policy.spec
    seen = np.concatenate([episode.obs[t.name] for t in spec.terms], axis=1)
    features = policy.normalizer(windows(torch.as_tensor(seen, dtype=torch.float32), spec.history))
    command = torch.as_tensor(episode.command, dtype=torch.float32)
    raw = (command - policy.action_offset) / policy.action_scale
    return features[:-1], raw.clamp(-1.0, 1.0), features[1:]


def windows(obs: Tensor, history: int) -> Tensor:
    """(T, H·O) the last H of observations (T, O), the first in the place of those before it."""
    before = torch.arange(len(obs))[:, None] + torch.arange(1 - history, 1)
    return obs[before.clamp(min=0)].flatten(1)
