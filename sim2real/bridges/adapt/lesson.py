"""A teacher that is told ξ, beside a student that must find out, in trials of robots.

Both see the same robot at the same time: the student what it measures, the teacher that and more.
The student acts, the teacher says at every step what it would have done (DAgger, Ross, Gordon and
Bagnell 2011).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sim2real.learning.vec_env import Encode
from sim2real.policy.policy import Policy
from sim2real.simulation.trials import TrialStep, TrialWorlds
from sim2real.types import Array, InputError


class Lesson:
    """Trials under way.

    Args:
        teacher: sees the last values of an observation; the student the first ones.
        trials: of worlds that observe the student's terms, then the teacher's.
        encode: what the teacher is told of ξ; None where nothing.

    Raises:
        InputError: the teacher carries more than a context.
    """

    def __init__(
        self, teacher: Policy, student: Policy, trials: TrialWorlds, encode: Encode | None, *,
        seed: int,
    ) -> None:  # fmt: skip
        if not set(teacher.z_names) <= {"context"}:
            raise InputError(
                f"policy '{teacher.spec.name}' carries {', '.join(teacher.z_names)} from step to "
                "step; a teacher sees what it needs at once (history: 1, no memory)"
            )
        self._teacher, self._trials, self._encode = teacher, trials, encode
        self._low, self._high = student.command_low, student.command_high
        self._scale = torch.tensor(student.spec.action_scale)
        self._offset = torch.tensor(student.spec.action_offset)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
        self._size = student.spec.obs_size
        self.obs = _tensor(trials.begin())
        """(B, O + P) what both see."""
        told = (
            np.zeros((trials.batch, 0)) if encode is None else encode(trials.worlds.xi, self._rng)
        )
        self.context = _tensor(told)
        """(B, K) what the teacher is told."""
        self.begin = torch.ones(trials.batch, dtype=torch.bool)
        """(B,) where a trial begins."""
        self.reset = torch.ones(trials.batch, 1)
        """(B, 1) 1 where an episode begins."""

    @property
    def mine(self) -> Tensor:
        """(B, O) what the student sees."""
        return self.obs[:, : self._size]

    def said(self) -> Tensor:
        """(B, A) raw: what the teacher would do."""
        z = self._teacher.initial(len(self.obs))
        if self._encode is not None:
            z = self._teacher.given(z, "context", self.context)
        command, _ = self._teacher(self.obs[:, self._size :], z)
        return (command - self._offset) / self._scale

    def step(self, raw: Tensor) -> TrialStep:
        """Does raw actions (B, A), within the limits of the commands."""
        command = (raw * self._scale + self._offset).clamp(self._low, self._high)
        step = self._trials.step(command.numpy())
        self.obs, self.reset = _tensor(step.obs), _tensor(step.done[:, None])
        self.begin = torch.as_tensor(step.over)
        if self._encode is not None and step.over.any():
            told = self._encode(self._trials.worlds.xi[step.over], self._rng)
            self.context = self.context.clone()
            self.context[self.begin] = _tensor(told)
        return step


def _tensor(x: Array) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32)
