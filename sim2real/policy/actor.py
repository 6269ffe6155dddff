"""A policy with the state it carries: what drives worlds from arrays, tick by tick."""

from __future__ import annotations

import torch

from sim2real.policy.policy import Policy
from sim2real.types import Array


class Actor:
    """Commands of a policy for B robots at once, its z kept between calls."""

    def __init__(self, policy: Policy, robots: int = 1) -> None:
        self._policy, self._robots = policy, robots
        self._z = policy.initial(robots)

    @torch.no_grad()
    def __call__(self, obs: Array, first: bool) -> Array:
        """(B, O) -> (B, A). `first`: episodes begin with this observation."""
        reset = torch.full((self._robots, 1), float(first))
        command, self._z = self._policy(torch.as_tensor(obs, dtype=torch.float32), self._z, reset)
        return command.numpy()
