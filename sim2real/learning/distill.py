"""A student that sees what a robot measures imitates a teacher that saw more.

DAgger (Ross, Gordon and Bagnell 2011): the student acts, the teacher says at every step what it
would have done, and the student fits all that was said so far. Learning by reward from measured
terms alone is slow where they hide the velocity of a floating base; a teacher that is told it
learns fast, and its student recovers it from the history.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from stable_baselines3.common.running_mean_std import RunningMeanStd
from torch import Tensor, nn

from sim2real.learning.vec_env import Encode
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.simulation.make import AnyWorlds
from sim2real.types import Array

SHARE = 0.1
"""Share of the steps at whose begin the teacher acts more than the student."""
SETTLING = 0.5
"""Share of the steps in which the size of what is seen is still found out."""
LEAST = 1e-6
"""Variance that is added to that of everything seen."""
ROLLOUT, BATCH, UPDATES = 32, 512, 100
"""Control steps of each world between updates, size and number of the updates."""


def distill(
    teacher: Policy,
    student: Policy,
    worlds: AnyWorlds,
    encode: Encode | None,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    seed: int = 0,
    report: Callable[[int, dict[str, float]], None] = lambda done, figures: None,
) -> None:
    """Trains `student` in place.

    Args:
        teacher: sees the last values of an observation; the student the first ones.
        worlds: observe the student's terms, then the teacher's.
        encode: what is told of ξ to those of the two that have a context; None where none has.
        steps: control steps over all worlds.
    """
    B, O = worlds.num_worlds, student.spec.obs_size
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    generator = torch.Generator().manual_seed(seed)
    parameters = list(student.network.parameters())
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    rounds = max(1, steps // (B * ROLLOUT))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, rounds)
    features = torch.zeros(rounds * ROLLOUT * B, student.spec.feature_size)
    targets = torch.zeros(rounds * ROLLOUT * B, student.spec.action_size)
    scale, offset = (
        torch.tensor(x) for x in (student.spec.action_scale, student.spec.action_offset)
    )
    gathered = 0
    seen_so_far = Moments(student.spec.feature_size)
    obs = worlds.reset()
    context = None if encode is None else encode(worlds.xi, rng)
    state, reset = student.told(student.initial(B), context), torch.ones(B, 1)
    for number in range(rounds):
        follow = leaning(number, rounds)
        for _ in range(ROLLOUT):
            with torch.no_grad():
                said, _ = teacher(_tensor(obs[:, O:]), teacher.told(teacher.initial(B), context))
                seen, _ = student.features(_tensor(obs[:, :O]), state, reset)
                own, state = student(_tensor(obs[:, :O]), state, reset)
                features[gathered : gathered + B] = seen
                targets[gathered : gathered + B] = (said - offset) / scale
                gathered += B
                acts = torch.rand(B, 1, generator=generator) < follow
                command = torch.where(acts, said, own)
            step = worlds.step(command.numpy())
            obs, done = step.obs, step.terminated | step.truncated
            reset = _tensor(done[:, None].astype(np.float32))
            if encode is not None and context is not None and done.any():
                context = context.copy()
                context[done] = encode(worlds.xi[done], rng)
                state = student.told(state, context)
        if settling(number, rounds):
            seen_so_far.add(features[gathered - B * ROLLOUT : gathered])
            student.normalizer = seen_so_far.normalizer
        loss = _fit(student, features[:gathered], targets[:gathered], optimizer, generator)
        schedule.step()
        report((number + 1) * B * ROLLOUT, {"imitation error": loss})
    for p in parameters:
        p.requires_grad_(False)


def leaning(number: int, rounds: int) -> float:
    """Chance that the teacher acts in round `number` of so many."""
    return max(0.0, 1 - number / (SHARE * rounds))


def settling(number: int, rounds: int) -> bool:
    """Whether what is seen in round `number` of so many still counts for the size of what is seen.

    The first round alone would not do: robots that have just been put down hardly move, and what
    they do later would lie many deviations out, where a normaliser cuts it off.
    """
    return number < max(1, SETTLING * rounds)


class Moments:
    """Of all that was added, (size,)."""

    def __init__(self, size: int) -> None:
        self._all = RunningMeanStd(epsilon=0.0, shape=(size,))

    def add(self, values: Tensor) -> None:
        """(..., size)"""
        self._all.update(values.flatten(0, -2).double().numpy())

    @property
    def mean(self) -> Tensor:
        return _tensor(self._all.mean)

    @property
    def deviation(self) -> Tensor:
        return _tensor(np.sqrt(self._all.var + LEAST))

    @property
    def normalizer(self) -> Normalizer:
        return Normalizer(self._all.mean, self._all.var + LEAST)


def _fit(
    student: Policy, features: Tensor, targets: Tensor, optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:  # fmt: skip
    total = 0.0
    for _ in range(UPDATES):
        rows = torch.randint(len(features), (BATCH,), generator=generator)
        mean = student.network(student.normalizer(features[rows]))
        loss = nn.functional.mse_loss(mean, targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return (total / UPDATES) ** 0.5


def _tensor(x: Array) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32)
