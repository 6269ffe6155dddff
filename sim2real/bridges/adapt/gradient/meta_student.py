"""A student of a teacher that is told ξ, whose fast numbers find ξ by gradient steps.

The outer loss is imitation, the inner one prediction. For robots of a batch, some steps of a trial
are the support, from which the fast numbers follow; on others of the same trial

    |μ(f, φ) - a_teacher|² + v |W φ + b - l|² + w L(φ)

is lowered through the inner steps (MAML, Finn, Abbeel and Levine 2017), over the weights of policy
and prediction and over the rates; l is what the teacher is told of ξ, in units of its spread, and W
and b are needed in training alone. The student acts with what its support so far gives and is
corrected where it gets to (DAgger, Ross, Gordon and Bagnell 2011), from no support at all, as on a
robot's first episode, to a few hundred steps.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sim2real import progress
from sim2real.bridges.adapt.gradient.fast import Foretold, found
from sim2real.bridges.adapt.lesson import Lesson
from sim2real.learning.distill import Moments, leaning, settling
from sim2real.learning.vec_env import Encode
from sim2real.policy.policy import Policy
from sim2real.simulation.trials import TrialWorlds
from sim2real.types import InputError

SEQUENCE = 64
"""Control steps between updates of the policy, and of the fast numbers that act."""
KEPT, SUPPORT = 12, 6
"""Sequences that updates draw from; and those of them, at most, that are a support."""
UPDATES, WORLDS = 32, 64
"""Between two sequences, for every so many worlds; and of how many an update takes them."""
LATENT, FORETELLING = 1.0, 0.3
"""v, w"""


class _Sequence(NamedTuple):
    """T steps of B worlds."""

    features: Tensor
    """(T, B, F) raw"""
    action: Tensor
    """(T, B, A) raw, what was done."""
    said: Tensor
    """(T, B, A) raw, of the teacher."""
    latent: Tensor
    """(T, B, K) of ξ, what the teacher is told."""
    trial: Tensor
    """(T, B) its number."""
    goes_on: Tensor
    """(T, B) bool, the next step of the sequence is of the same episode."""


class MetaStudent:
    """Teaches a policy that has fast numbers.

    Args:
        teacher: sees the last values of an observation; the student the first ones.
        student: is trained in place.
        trials: of worlds that observe the student's terms, then the teacher's.
        encode: what the teacher is told of ξ; None where nothing.
        steps: control steps over all worlds.

    Raises:
        InputError: the student has no fast numbers, or the teacher carries more than a context.
    """

    def __init__(
        self, teacher: Policy, student: Policy, trials: TrialWorlds, encode: Encode | None, *,
        steps: int, learning_rate: float = 1e-3, seed: int = 0,
    ) -> None:  # fmt: skip
        if student.prediction is None:
            raise InputError(
                f"policy '{student.spec.name}' has no fast numbers; adapt: gradient gives some"
            )
        self.student, self._prediction, self._batch = student, student.prediction, trials.batch
        self.rounds = max(1, steps // (trials.batch * SEQUENCE))
        self.updates = UPDATES * max(1, trials.batch // WORLDS)
        self._lesson = Lesson(teacher, student, trials, encode, seed=seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._z = student.initial(trials.batch)
        self._trial = torch.arange(trials.batch)
        self._taught = [*student.network.parameters(), *self._prediction.parameters()]
        torch.manual_seed(seed)
        K = self._lesson.context.shape[1]
        self._head = nn.Linear(self._prediction.spec.size, K) if K else nn.Sequential()
        self._parameters = [*self._taught, *self._head.parameters()]
        self._features, self._latents = Moments(student.spec.feature_size), Moments(K)
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate)
        self._schedule = torch.optim.lr_scheduler.LinearLR(self._optimizer, 1.0, 0.05, self.rounds)
        self._kept: deque[_Sequence] = deque(maxlen=KEPT)

    def teach(self, report: progress.Report = progress.silent) -> None:
        """All of it."""
        for p in self._taught:
            p.requires_grad_(True)
        for number in range(self.rounds):
            self._kept.append(self._gathered(leaning(number, self.rounds)))
            if settling(number, self.rounds):
                self._standardise(self._kept[-1])
            imitation, latent, foretold = self._fitted()
            self._schedule.step()
            report(
                (number + 1) * self._batch * SEQUENCE,
                {
                    "imitation error": imitation,
                    "latent error": latent,
                    "foretold [nats]": foretold,
                },
            )
        for p in self._taught:
            p.requires_grad_(False)

    @torch.no_grad()
    def _gathered(self, follow: float) -> _Sequence:
        """The next steps; `follow`: chance that the teacher acts."""
        student, lesson = self.student, self._lesson
        fast = self._acting()
        rows: list[tuple[Tensor, ...]] = []
        for _ in range(SEQUENCE):
            said, told = lesson.said(), lesson.context
            z = student.given(self._z, "fast", fast)
            features, _ = student.features(lesson.mine, z, lesson.reset)
            _, own, self._z = student.forward_full(lesson.mine, z, lesson.reset)
            chance = torch.rand(self._batch, 1, generator=self._generator)
            raw = torch.where(chance < follow, said, own)
            goes_on = ~torch.as_tensor(lesson.step(raw).done)
            rows.append((features, raw.clamp(-1, 1), said, told, self._trial, goes_on))
            self._trial = torch.where(lesson.begin, self._trial + self._batch, self._trial)
            fast = torch.where(lesson.begin[:, None], 0.0, fast)
        return _Sequence(*map(torch.stack, zip(*rows, strict=True)))

    def _acting(self) -> Tensor:
        """(B, L) fast numbers from what the robots that act now did last."""
        some = list(self._kept)[-SUPPORT:]
        if not some:
            return torch.zeros(self._batch, self._prediction.spec.size)
        return found(self._prediction, self._support(some, self._trial, slice(None))).detach()

    def _support(self, some: list[_Sequence], trial: Tensor, worlds: Tensor | slice) -> Foretold:
        """The steps of sequences that are of trials (N,) in worlds."""
        parts = [
            (
                self.student.normalizer(s.features[:, worlds]), s.action[:-1, worlds],
                s.goes_on[:-1, worlds] & (s.trial[:-1, worlds] == trial),
            )
            for s in some
        ]  # fmt: skip
        features, after = (
            torch.cat([p[0][part] for p in parts]) for part in (slice(-1), slice(1, None))
        )
        action, there = (torch.cat([p[i] for p in parts]) for i in (1, 2))
        return Foretold(*(x.swapaxes(0, 1) for x in (features, action, after, there)))

    def _fitted(self) -> tuple[float, float, float]:
        """Root mean square errors of imitation and latent, and what was foretold, over the
        updates."""
        student, total, kept = self.student, np.zeros(3), list(self._kept)
        middle, spread = self._latents.mean, self._latents.deviation
        for _ in range(self.updates):
            order = torch.randperm(len(kept), generator=self._generator).tolist()
            query, rest = kept[order[0]], [kept[i] for i in order[1 : 1 + SUPPORT]]
            some = torch.randperm(self._batch, generator=self._generator)[:WORLDS]
            at = int(torch.randint(SEQUENCE - 1, (1,), generator=self._generator))
            trial = query.trial[at, some]
            support = self._support(rest or [query], trial, some)
            most = torch.randint(
                support.there.shape[1] + 1, (len(some), 1), generator=self._generator
            )
            support = support._replace(there=support.there & (support.there.cumsum(1) <= most))
            fast = found(self._prediction, support)
            mine = self._support([query], trial, some)
            said = query.said[:-1, some].swapaxes(0, 1)
            of_trial = (query.trial[:-1, some] == trial).swapaxes(0, 1)
            told = fast[:, None].expand(-1, mine.features.shape[1], -1)
            out = student.network(torch.cat([mine.features, told], dim=-1))
            missed = (out - said).square().mean(dim=-1)
            imitation = (missed * of_trial).sum() / of_trial.sum()
            error = self._prediction.error(mine.features, mine.action, mine.after, told)
            foretold = (error * mine.there).sum() / mine.there.sum().clamp(min=1)
            wanted = (query.latent[at, some] - middle) / spread
            apart = imitation * 0
            if wanted.shape[1]:
                apart = nn.functional.mse_loss(self._head(fast), wanted)
            loss = imitation + LATENT * apart + FORETELLING * foretold
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            total += [float(x.detach()) for x in (imitation, apart, foretold)]
        total /= self.updates
        return float(total[0] ** 0.5), float(total[1] ** 0.5), float(total[2])

    def _standardise(self, new: _Sequence) -> None:
        """By all sequences so far."""
        self._features.add(new.features)
        self._latents.add(new.latent)
        self.student.normalizer = self._features.normalizer
