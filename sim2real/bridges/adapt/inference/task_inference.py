"""Task inference (Humplik and others 2019): a belief about ξ, learned where ξ is known.

In simulation every robot's ξ is known, so the belief is regressed on it: the loss is -log q(ξ | τ)
at every step of a trial. What is worth knowing is so known early, before it pays. What to do with a
belief reward teaches (`Informed`), or a teacher that is told ξ (`Believing`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sim2real.bridges.adapt.inference.belief import (
    BeliefActorCritic,
    folded,
    unknowing,
)
from sim2real.bridges.adapt.memory.network import Steps
from sim2real.bridges.adapt.memory.remember import Taught
from sim2real.policy.memory import believed
from sim2real.policy.networks import layout, mlp
from sim2real.policy.policy import Policy
from sim2real.policy.spec import MemorySpec
from sim2real.types import InputError


@dataclass(frozen=True)
class TaskInference(Taught):
    """`adapt: {method: task_inference}`"""

    method: Literal["task_inference"] = "task_inference"

    def spec(self, xi: Sequence[str]) -> MemorySpec:
        return MemorySpec(self.hidden, self.cell, tuple(xi))


class Informed(BeliefActorCritic):
    """Believes the last L values of s: ξ, standardised."""

    def reveal(self, policy: Policy, middle: Tensor, spread: Tensor) -> None:
        assert policy.belief is not None
        policy.belief.says(self.head, middle[-self.latent :], spread[-self.latent :])

    def extra(self, h: Tensor, steps: Steps) -> Tensor:
        """-log q(ξ | τ), mean over steps and ξ, without the constant."""
        return surprise(*self.belief(h), steps.s[..., -self.latent :])


class Believing(nn.Module):
    """How a student's network reads what it remembers (`student.py`): as a belief about the latent,
    which imitation never reaches. Both are linear in what is remembered, so what is exported is an
    ordinary network: W and b go into its first layer.

    Raises:
        InputError: there is no latent to believe anything of.
    """

    def __init__(self, student: Policy, latent: int) -> None:
        super().__init__()
        if not latent:
            raise InputError(
                f"policy '{student.spec.name}': its teacher is told nothing that it is not, so "
                "there is nothing to infer; distill with told: true"
            )
        assert student.memory is not None
        sizes, activation = layout(student.network)
        hidden = student.memory.hidden
        self._policy = [student]  # in a list: no submodule
        self.network = mlp([sizes[0] - hidden + 2 * latent, *sizes[1:]], activation)
        self.head = unknowing(hidden, latent)
        self.settle(torch.zeros(latent), torch.ones(latent))

    def losses(self, x: Tensor, h: Tensor, action: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        said = self.head(h)
        out = self.network(torch.cat([x, said.detach()], dim=-1))
        return nn.functional.mse_loss(out, action), surprise(*believed(said), latent)

    @torch.no_grad()
    def settle(self, middle: Tensor, spread: Tensor) -> None:
        (policy,) = self._policy
        policy.network.load_state_dict(folded(self.network, self.head).state_dict())
        assert policy.belief is not None
        policy.belief.says(self.head, middle, spread)


def surprise(mean: Tensor, log_var: Tensor, latent: Tensor) -> Tensor:
    """() -log q of a latent (..., L), mean over all, without the constant."""
    return (0.5 * (log_var + (latent - mean).square() / log_var.exp())).mean()
