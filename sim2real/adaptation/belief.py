"""What a policy believed of a robot while it drove it: how a belief closes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sim2real.deploy.logs.npz import EpisodeLog
from sim2real.policy.policy import Policy
from sim2real.types import Array


@dataclass(frozen=True)
class Belief:
    """Of a trial, control step by control step."""

    names: tuple[str, ...]
    units: tuple[str, ...]
    seconds: Array
    """(T,) that the robot had moved."""
    mean: Array
    """(T, K)"""
    std: Array
    """(T, K)"""
    begins: tuple[float, ...]
    """Seconds at which an episode began."""

    def summary(self) -> list[dict[str, Any]]:
        """What is believed at the end; one row a parameter."""
        rows = zip(self.names, self.units, self.mean[-1], self.std[-1], strict=True)
        return [{"name": n, "unit": u, "mean": float(m), "std": float(s)} for n, u, m, s in rows]


@torch.no_grad()
def along(policy: Policy, episodes: Sequence[EpisodeLog]) -> Belief | None:
    """What a policy believed in the episodes of a trial, in order; None where it believes nothing
    of ξ, or the logs hold no step.

    The policy is told again what it was told on the robot. Samples that are not finite were held
    there, and are passed over.
    """
    spec = policy.spec
    if spec.memory is None or not spec.memory.believes:
        return None
    z, ticks = policy.initial(1), 0
    seconds, begins = list[float](), list[float]()
    means, stds = list[Array](), list[Array]()
    for episode in episodes:
        obs = np.concatenate([episode.obs[t.name] for t in spec.terms], axis=1)
        order = [episode.info.commands.index(name) for name in spec.actuators.names]
        command = torch.as_tensor(episode.command[:, order], dtype=torch.float32)
        raw = (command - policy.action_offset) / policy.action_scale
        begins.append(ticks * spec.control_period)
        reset = torch.ones(1, 1)
        for seen, done in zip(obs[:-1], raw, strict=True):
            ticks += 1
            if not np.isfinite(seen).all():
                continue
            _, z = policy(torch.as_tensor(seen[None], dtype=torch.float32), z, reset)
            z, reset = policy.acted(z, done[None]), torch.zeros(1, 1)
            mean, std = policy.believed(z)
            seconds.append(ticks * spec.control_period)
            means.append(mean[0].numpy().astype(float))
            stds.append(std[0].numpy().astype(float))
    if not seconds:
        return None
    known = {p.name: p for p in spec.parameters}
    return Belief(
        spec.memory.believes, tuple(known[n].unit for n in spec.memory.believes),
        np.array(seconds), np.array(means), np.array(stds), tuple(begins),
    )  # fmt: skip
