"""A belief q(m | τ) = N(μ, σ²) of what a robot is like, and a policy that acts on it.

    h, z' = memory(x, z)        μ, log σ² = W h + b
    π(a | x, μ, log σ²)         V(x, μ, log σ², s)

What teaches the belief is its own loss (`task_inference.py`, `varibad.py`). Reward teaches the
policy what to do with one, and never reaches the memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sim2real.bridges.adapt.memory.network import RecurrentActorCritic, Remembering
from sim2real.bridges.adapt.memory.trials import Actions
from sim2real.policy.memory import believed


class BeliefActorCritic(RecurrentActorCritic):
    """π and V see what is believed, no more of what is remembered.

    Args:
        latent: L, of m.
    """

    def __init__(
        self, memory: Remembering, actions: Actions, *, latent: int, critic: int = 0,
        network: Sequence[int] = (), activation: str = "tanh", log_std: float = -0.5,
    ) -> None:  # fmt: skip
        super().__init__(
            memory, actions, kept=2 * latent, critic=critic, network=network,
            activation=activation, log_std=log_std,
        )  # fmt: skip
        self.latent = latent
        self.head = unknowing(memory.hidden, latent)

    def belief(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """μ and log σ² (..., L)"""
        return believed(self.head(h))

    def seen(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.cat([x, self.head(h).detach()], dim=-1)

    def on_memory(self) -> nn.Sequential:
        return folded(self.policy, self.head)


def unknowing(hidden: int, latent: int) -> nn.Linear:
    """W and b of a belief about L numbers by which nothing is known: N(0, 1)."""
    head = nn.Linear(hidden, 2 * latent)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def folded(network: nn.Sequential, head: nn.Linear) -> nn.Sequential:
    """A network of (x, W h + b) as one of (x, h): W and b go into the first layer, for both are
    linear."""
    network, size = copy.deepcopy(network), head.out_features
    first = network[0]
    assert isinstance(first, nn.Linear)
    of_x, of_belief = first.weight[:, :-size], first.weight[:, -size:]
    made = nn.Linear(of_x.shape[1] + head.in_features, first.out_features)
    made.weight.copy_(torch.cat([of_x, of_belief @ head.weight], dim=1))
    made.bias.copy_(first.bias + of_belief @ head.bias)
    network[0] = made
    return network


def divergence(mean: Tensor, log_var: Tensor, from_mean: Tensor, from_log_var: Tensor) -> Tensor:
    """(...) KL of N(mean, var) from another normal density, summed over the last axis (..., L)."""
    apart = (mean - from_mean).square() / from_log_var.exp()
    each = from_log_var - log_var + (log_var - from_log_var).exp() + apart - 1
    return 0.5 * each.sum(dim=-1)
