"""Task inference (Humplik and others 2019): a belief about ξ, learned where ξ is known.

In simulation every robot's ξ is known, so the belief is regressed on it: the loss is -log q(ξ | τ)
at every step of a trial. What is worth knowing is so known early, before it pays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sim2real.bridges.adapt.inference.belief import BeliefActorCritic
from sim2real.bridges.adapt.memory.network import Steps
from sim2real.bridges.adapt.memory.remember import OverTrials


@dataclass(frozen=True)
class TaskInference(OverTrials):
    """`adapt: {method: task_inference}`"""

    method: Literal["task_inference"] = "task_inference"


class Informed(BeliefActorCritic):
    """Believes the last L values of s: ξ, standardised."""

    def extra(self, h: Tensor, steps: Steps) -> Tensor:
        """-log q(ξ | τ), mean over steps and ξ, without the constant."""
        mean, log_var = self.belief(h)
        error = steps.s[..., -self.latent :] - mean
        return (0.5 * (log_var + error.square() / log_var.exp())).mean()
