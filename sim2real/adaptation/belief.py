"""What a policy believed of a robot while it drove it: how a belief closes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim2real.deploy.artifact import Artifact, Runner
from sim2real.deploy.logs.npz import EpisodeLog
from sim2real.deploy.replay import retold
from sim2real.policy.policy import Policy
from sim2real.types import Array


@dataclass(frozen=True)
class Believed:
    """Of a trial, in every control step in which the policy ran."""

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


def along(policy: Policy, artifact: Artifact, logs: Sequence[EpisodeLog]) -> Believed | None:
    """What a policy believed in the episodes of a trial, which its artifact drove; None where it
    believes nothing of ξ, or never ran."""
    spec = policy.spec
    if spec.memory is None or not spec.memory.believes:
        return None
    runner, period = Runner(artifact), spec.control_period
    begins = np.cumsum([0, *(log.ticks for log in logs)])
    number, ended, kept = -1, list[int](), list[Array]()
    for tick in retold(runner, logs):
        while number < 0 or logs[number] is not tick.log:
            number += 1
        runner.step(artifact.contract.flatten(tick.seen), tick.reset)
        ended.append(int(begins[number]) + tick.t + 1)
        kept.append(runner.state("memory")[0])
    if not kept:
        return None
    mean, std = policy.believed(policy.given(policy.initial(len(kept)), "memory", np.array(kept)))
    known = {p.name: p for p in spec.parameters}
    return Believed(
        spec.memory.believes, tuple(known[n].unit for n in spec.memory.believes),
        period * np.array(ended), mean.numpy().astype(float), std.numpy().astype(float),
        tuple(period * begins[:-1]),
    )  # fmt: skip
