"""A student that remembers, of a teacher that is told: rapid motor adaptation.

The teacher sees what only a simulator knows, of the state and of ξ. The student sees what a robot
measures and what it did itself, and its memory must tell it the rest. As in Kumar and others 2021
(RMA, phase 2) it acts itself and is corrected where it gets to; two things are regressed at once,

    |μ - a_teacher|² + w |W h + b - l|²

what the teacher would have done (Lee and others 2020), and the latent l: all that the teacher is
told beyond the student, in units of its spread. h is what the memory gives; W and b are needed in
training alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sim2real import progress
from sim2real.bridges.adapt.lesson import Lesson
from sim2real.learning.distill import Moments, leaning, settling
from sim2real.learning.vec_env import Encode
from sim2real.policy.policy import Policy, renewed
from sim2real.simulation.trials import TrialWorlds
from sim2real.types import InputError

SEQUENCE = 64
"""Control steps between updates, and through which gradients flow."""
KEPT = 4
"""Sequences that an update draws from: older ones begin with what an older memory remembered."""
UPDATES, WORLDS = 12, 16
"""Between two sequences, for every so many worlds; and of how many an update takes them."""
LATENT = 1.0
"""w"""


class _Sequence(NamedTuple):
    """T steps of B worlds."""

    features: Tensor
    """(T, B, F) raw"""
    last: Tensor
    """(T, B, A)"""
    reset: Tensor
    """(T, B, 1) where an episode begins."""
    begin: Tensor
    """(T, B) bool, where a trial begins."""
    z: Tensor
    """(B, Z) of the memory, before the first."""
    action: Tensor
    """(T, B, A) of the teacher, raw."""
    latent: Tensor
    """(T, B, L)"""


class Reading(Protocol):
    """How a policy's network reads what it remembers, and what that tells of the latent."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def losses(self, x: Tensor, h: Tensor, action: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Of imitation and of the latent (..., L), standardised, at x and what is remembered."""
        ...

    def settle(self, middle: Tensor, spread: Tensor) -> None:
        """Puts what was learned into the policy; (L,) what the latent was standardised by."""
        ...


class Direct(nn.Module):
    """All that is remembered; the latent is a linear function of it, needed in training alone."""

    def __init__(self, student: Policy, latent: int) -> None:
        super().__init__()
        assert student.memory is not None
        self.network = student.network
        hidden = student.memory.hidden
        self.head = nn.Linear(hidden, latent) if latent else nn.Sequential()

    def losses(self, x: Tensor, h: Tensor, action: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        missed = nn.functional.mse_loss(self.network(torch.cat([x, h], dim=-1)), action)
        if not latent.shape[-1]:
            return missed, missed * 0
        return missed, nn.functional.mse_loss(self.head(h), latent)

    def settle(self, middle: Tensor, spread: Tensor) -> None:
        pass


class Student:
    """Teaches a policy that has a memory.

    Args:
        teacher: sees the last values of an observation; the student the first ones.
        student: is trained in place.
        trials: of worlds that observe the student's terms, then the teacher's.
        encode: what the teacher is told of ξ, and what of it the latent holds; None where nothing.
        steps: control steps over all worlds.
        reading: how the student's network reads what it remembers, of the student and L.
        state: whether the latent holds, beside ξ, the terms that the teacher alone sees.

    Raises:
        InputError: the student has no memory, or the teacher carries more than a context.
    """

    def __init__(
        self, teacher: Policy, student: Policy, trials: TrialWorlds, encode: Encode | None, *,
        steps: int, learning_rate: float = 1e-3, seed: int = 0,
        reading: Callable[[Policy, int], Reading] = Direct, state: bool = True,
    ) -> None:  # fmt: skip
        if student.memory is None:
            raise InputError(
                f"policy '{student.spec.name}' has no memory to be taught; adapt: memory gives one"
            )
        self.student, self._memory, self._batch = student, student.memory, trials.batch
        self.rounds = max(1, steps // (trials.batch * SEQUENCE))
        self.updates = UPDATES * max(1, trials.batch // WORLDS)
        self._lesson = Lesson(teacher, student, trials, encode, seed=seed)
        self._generator = torch.Generator().manual_seed(seed)
        mine = [t.name for t in student.spec.terms]
        ends = np.cumsum([t.size for t in teacher.spec.terms])
        self._hidden = np.concatenate([
            np.arange(end - t.size, end)
            for t, end in zip(teacher.spec.terms, ends, strict=True)
            if state and t.name not in mine
        ] or [np.zeros(0, int)])  # fmt: skip
        self._z = student.initial(trials.batch)
        size = len(self._hidden) + self._lesson.context.shape[1]
        torch.manual_seed(seed)
        self._reading = reading(student, size)
        self._features, self._latents = Moments(student.spec.feature_size), Moments(size)
        self._parameters = [*student.memory.parameters(), *self._reading.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate)
        self._schedule = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, 0.05, self.rounds)
        self._kept: deque[_Sequence] = deque(maxlen=KEPT)

    def teach(self, report: progress.Report = progress.silent) -> None:
        """All of it."""
        for p in self._parameters:
            p.requires_grad_(True)
        for number in range(self.rounds):
            self._kept.append(self._gathered(leaning(number, self.rounds)))
            if settling(number, self.rounds):
                self._standardise(self._kept[-1])
            unit = self._latents.mean, self._latents.deviation
            action, latent = self._fitted(*unit)
            self._reading.settle(*unit)
            self._schedule.step()
            report(
                (number + 1) * self._batch * SEQUENCE,
                {"imitation error": action, "latent loss": latent},
            )
        self.student.requires_grad_(False)

    @torch.no_grad()
    def _gathered(self, follow: float) -> _Sequence:
        """The next steps; `follow`: chance that the teacher acts."""
        student, lesson, at = self.student, self._lesson, self._at
        first = self._cleared()[at("memory")]
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(SEQUENCE):
            self._z = self._cleared()
            said, begin, reset = lesson.said(), lesson.begin, lesson.reset
            features, _ = student.features(lesson.mine, self._z, reset)
            last = self._z[at("last_action")]
            _, own, z = student.forward_full(lesson.mine, self._z, reset)
            chance = torch.rand(self._batch, 1, generator=self._generator)
            raw = torch.where(chance < follow, said, own)
            rows.append((features, last, reset, begin, said, self._latent()))
            self._z = student.acted(z, raw)
            lesson.step(raw)
        features, last, reset, begin, action, latent = map(torch.stack, zip(*rows, strict=True))
        return _Sequence(features, last, reset, begin, first, action, latent)

    def _fitted(self, mean: Tensor, spread: Tensor) -> tuple[float, float]:
        """The imitation's root mean square error and the latent's loss, over the updates."""
        student, total = self.student, np.zeros(2)
        for _ in range(self.updates):
            at = int(torch.randint(len(self._kept), (1,), generator=self._generator))
            kept = self._kept[at]
            B = kept.begin.shape[1]
            some = torch.randperm(B, generator=self._generator)[:WORLDS]
            x = student.remembered(
                student.normalizer(kept.features[:, some]), kept.last[:, some], kept.reset[:, some]
            )
            h = self._memory.unroll(x, kept.z[some], kept.begin[:, some])
            wanted = (kept.latent[:, some] - mean) / spread
            action, latent = self._reading.losses(x, h, kept.action[:, some], wanted)
            self._optimizer.zero_grad(set_to_none=True)
            (action + LATENT * latent).backward()
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            total += [float(action.detach()), float(latent.detach())]
        action, latent = total / self.updates
        return float(action**0.5), float(latent)

    def _standardise(self, new: _Sequence) -> None:
        """By all sequences so far."""
        self._features.add(new.features)
        self._latents.add(new.latent)
        self.student.normalizer = self._features.normalizer

    def _latent(self) -> Tensor:
        """(B, L) what the teacher is told beyond the student."""
        hidden = self._lesson.obs[:, self.student.spec.obs_size + self._hidden]
        return torch.cat([hidden, self._lesson.context], dim=1)

    def _cleared(self) -> tuple[Tensor, ...]:
        """z of the student, new where a trial begins."""
        return renewed(self._lesson.begin, self.student.initial(self._batch), self._z)

    def _at(self, part: str) -> int:
        return self.student.z_names.index(part)
