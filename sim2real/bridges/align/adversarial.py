"""Adversarial alignment: features that a discriminator cannot tell apart by domain.

Encoder f, task head h, domain discriminator D. f and h learn from labelled source observations; D
learns from which domain features came; f learns to mislead D. Of the target, observations are
enough: nobody labels them.

    DANN       min over f, h, D of  L_task(h(f(o_s))) + L_domain(D(reverse(f(o))))
               (Ganin and Lempitsky 2015)
    confusion  D on the true domains with f frozen; f on the uniform label, 1/2, with D frozen
               (Tzeng et al. 2015)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from sim2real import progress
from sim2real.bridges.align.estimator import (
    StateEstimator,
    encoder_of,
    scaling_of,
    spread,
    tensor,
)
from sim2real.bridges.align.reversal import reverse, scheduled
from sim2real.policy.networks import mlp
from sim2real.types import Array, InputError

EVERY = 50
"""Steps between two rows of the history."""
FEATURES = 16
"""Features at the end of an encoder at least, where a recipe does not say."""
HELD_OUT = 0.3
"""Share of the observations on which a fresh discriminator is judged."""


@dataclass(frozen=True)
class Dann:
    """What a recipe says about it."""

    method: Literal["dann", "confusion"] = "dann"
    gap: str = ""
    """The target whose observations are used, by the name of its gap. They are not labelled."""
    observations: int = 5000
    """Control steps gathered in each domain."""
    schedule: Literal["scheduled", "constant"] = "scheduled"
    """λ rises from 0 to `lam` as 2/(1 + exp(-10·p)) - 1 over the training, or is `lam` always."""
    lam: float = 0.3
    """Strength of the alignment; 1, as published, loses more of what it is to tell. 0 learns from
    the source alone. Below 0 the encoder helps the discriminator: a control arm, which must not
    help."""
    encoder: tuple[int, ...] | None = None
    """Widths of the encoder's layers; few features at its end, or the discriminator always wins.
    None is what `widths` says."""
    discriminator: tuple[int, ...] = (64,)
    """Widths of the discriminator's hidden layers."""
    steps: int = 3000
    """Gradient steps."""
    batch: int = 128
    """Observations of each domain in one gradient step."""
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("observations", "steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"align: {name} is {getattr(self, name)}; it must be at least 1")
        if not np.isfinite(self.lam):
            raise InputError(f"align: lam is {self.lam}; it must be finite")
        if not self.learning_rate > 0:
            raise InputError(f"align: learning_rate is {self.learning_rate}; it must be above 0")
        for name in ("encoder", "discriminator"):
            widths: Sequence[int] | None = getattr(self, name)
            if widths is not None and (not widths or min(widths) < 1):
                raise InputError(
                    f"align: {name} is {list(widths)}; it must have a layer, each at least 1 wide"
                )

    def widths(self, values: int) -> tuple[int, ...]:
        """Of the encoder where this many values S are told: its own, or (4·F, F) with
        F = max(16, 2·S) features, for a ReLU passes one sign, and a value has two."""
        features = max(FEATURES, 2 * values)
        return self.encoder or (4 * features, features)

    def strength(self, p: float) -> float:
        """λ at the progress p in [0, 1]."""
        return self.lam * (scheduled(p) if self.schedule == "scheduled" else 1.0)


class Aligned(NamedTuple):
    """What alignment gives."""

    estimator: StateEstimator
    history: dict[str, Array]
    """Every 50 steps: `step`; `task`, the mean squared error on the source in units of the labels'
    variance; `domain`, the discriminator's cross-entropy [nat], ln 2 where it guesses; `lam`."""

    @property
    def encoder(self) -> nn.Module:
        return self.estimator.encoder

    @property
    def head(self) -> nn.Module:
        return self.estimator.head

    def predict(self, obs: Array) -> Array:
        """(N, O), or (N, H, W, 3) -> (N, S) in the units of the labels."""
        return self.estimator.predict(obs)


def align(
    source: Array,
    labels: Array,
    target: Array,
    config: Dann | None = None,
    *,
    seed: int = 0,
    report: progress.Report = progress.silent,
) -> Aligned:
    """Learns to tell `labels` from source observations, by features alike in both domains.

    Args:
        source: (N, O) observations, or (N, H, W, 3) uint8 pictures.
        labels: (N, S) what is to be told from them, in any units.
        target: (M, ...) observations of the same kind, whose labels nobody knows.
        config: None is Dann().
        seed: of the networks and of the batches; torch's global stream is left as it was.

    Raises:
        InputError: shapes that do not fit, fewer observations than one batch, or a value that is
            not finite.

    Warns:
        UserWarning: a channel never changes in the source but differs in the target.
    """
    config = Dann() if config is None else config
    _check(source, labels, target, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = spread(labels)
        widths = config.widths(labels.shape[1])
        encoder = encoder_of(source, widths)
        head = nn.Linear(widths[-1], labels.shape[1])
        estimator = StateEstimator(scaling_of(source), encoder, head, mean, std)
        judge = discriminator(widths[-1], config.discriminator)
    state = torch.as_tensor((labels - mean) / std, dtype=torch.float32)
    learn = _Dann if config.method == "dann" else _Confusion
    learner = learn(estimator, judge, config.learning_rate)
    batches = torch.Generator().manual_seed(seed)
    own, other = tensor(source), tensor(target)
    rows: list[tuple[float, ...]] = []
    for step in range(config.steps):
        i = torch.randint(len(own), (config.batch,), generator=batches)
        j = torch.randint(len(other), (config.batch,), generator=batches)
        lam = config.strength(step / config.steps)
        task, domain = learner.step(own[i], state[i], other[j], lam)
        if step % EVERY == 0 or step == config.steps - 1:
            rows.append((step, float(task), float(domain), lam))
            report(step + 1, {"task": rows[-1][1], "domain": rows[-1][2]})
    estimator.requires_grad_(False)
    columns = np.array(rows).T
    return Aligned(estimator, dict(zip(("step", "task", "domain", "lam"), columns, strict=True)))


def discriminator(features: int, widths: Sequence[int]) -> nn.Module:
    """(N, features) -> (N, 1) log-odds that an observation is the target's."""
    return mlp([features, *widths, 1], "relu")


class _Dann:
    """One descent for all three networks; the reversal layer turns it round for the encoder."""

    def __init__(self, estimator: StateEstimator, judge: nn.Module, learning_rate: float) -> None:
        self._estimator, self._judge = estimator, judge
        parameters = [*estimator.parameters(), *judge.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=learning_rate)

    def step(self, own: Tensor, state: Tensor, other: Tensor, lam: float) -> tuple[Tensor, Tensor]:
        features = self._estimator.features(torch.cat((own, other)))
        task = mse_loss(self._estimator.head(features[: len(own)]), state)
        domain = domain_loss(self._judge(reverse(features, lam)), len(own))
        _descend(self._optimizer, task + domain)
        return task.detach(), domain.detach()


class _Confusion:
    """Two descents: the discriminator's, and that of encoder and head."""

    def __init__(self, estimator: StateEstimator, judge: nn.Module, learning_rate: float) -> None:
        self._estimator, self._judge = estimator, judge
        self._judging = torch.optim.Adam(judge.parameters(), lr=learning_rate)
        self._optimizer = torch.optim.Adam(estimator.parameters(), lr=learning_rate)

    def step(self, own: Tensor, state: Tensor, other: Tensor, lam: float) -> tuple[Tensor, Tensor]:
        features = self._estimator.features(torch.cat((own, other)))
        domain = domain_loss(self._judge(features.detach()), len(own))
        _descend(self._judging, domain)
        task = mse_loss(self._estimator.head(features[: len(own)]), state)
        said = self._judge(features)  # what this gives the discriminator's weights, it never takes
        uniform = binary_cross_entropy_with_logits(said, torch.full_like(said, 0.5))
        _descend(self._optimizer, task + lam * uniform)
        return task.detach(), domain.detach()


def domain_loss(said: Tensor, own: int) -> Tensor:
    """Cross-entropy [nat] of log-odds (n, 1) whose first `own` rows are the source's."""
    truth = torch.ones_like(said)
    truth[:own] = 0.0
    return binary_cross_entropy_with_logits(said, truth)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def fresh_discriminator(
    estimator: StateEstimator,
    source: Array,
    target: Array,
    *,
    seed: int = 0,
    steps: int = 1000,
) -> float:
    """Accuracy with which a new discriminator tells the domains from the frozen features, on
    observations that it did not learn from: 0.5 where they are alike, 1 where they are not.

    The discriminator that the encoder was trained against may be at 0.5 because it is weak; this
    one was never misled. The mean over the two domains, so unequal counts do not matter.

    Raises:
        InputError: fewer than 20 observations of a domain.
    """
    for name, obs in (("source", source), ("target", target)):
        if len(obs) < 20:
            raise InputError(
                f"align: {len(obs)} {name} observations; a fresh discriminator needs at least 20"
            )
    rng = np.random.default_rng(seed)
    learned: list[Tensor] = []
    held: list[Tensor] = []
    for obs in (source, target):
        order = rng.permutation(len(obs))
        cut = int(len(obs) * HELD_OUT)
        features = estimator.encode(obs[order])
        held.append(features[:cut])
        learned.append(features[cut:])
    mean, std = spread(torch.cat(learned).numpy())
    shift, scale = (torch.as_tensor(x, dtype=torch.float32) for x in (mean, std))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = discriminator(learned[0].shape[1], (64, 64))
    optimizer = torch.optim.Adam(judge.parameters(), lr=1e-3)
    batches = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        picked = [x[torch.randint(len(x), (256,), generator=batches)] for x in learned]
        _descend(optimizer, domain_loss(judge((torch.cat(picked) - shift) / scale), 256))
    with torch.no_grad():
        said = [judge((x - shift) / scale) > 0 for x in held]
    return float((~said[0]).float().mean() + said[1].float().mean()) / 2


def _check(source: Array, labels: Array, target: Array, config: Dann) -> None:
    if source.ndim < 2 or source.shape[1:] != target.shape[1:] or source.dtype != target.dtype:
        raise InputError(
            f"align: the source's observations have shape {source.shape} and type {source.dtype}, "
            f"the target's {target.shape} and {target.dtype}; all but the count must be the same"
        )
    if labels.ndim != 2 or len(labels) != len(source):
        raise InputError(
            f"align: labels have shape {labels.shape}; they must be ({len(source)}, values), a row "
            "for every source observation"
        )
    for name, x in (("source observations", source), ("target observations", target)):
        if len(x) < config.batch:
            raise InputError(
                f"align: {len(x)} {name} for batches of {config.batch}; gather more, or make the "
                "batch smaller"
            )
    for name, x in (("source", source), ("labels", labels), ("target", target)):
        if not np.isfinite(x).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(x))[0][:2])
            raise InputError(
                f"align: {name}: row {row}, value {column} is {x[row, column]}; all must be finite"
            )
    if source.ndim == 2:
        never = np.ptp(source, axis=0) == 0
        differs = never & (np.abs(target - source[:1]).max(axis=0) > 0)
        if differs.any():
            warnings.warn(
                f"align: channels {np.flatnonzero(differs).tolist()} never change in the source "
                "but do in the target: nothing can be learned from them; leave them out",
                stacklevel=3,
            )
