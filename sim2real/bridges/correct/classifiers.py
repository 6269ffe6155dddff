"""Two classifiers of source and target, and the correction of the reward that follows from them.

Eysenbach et al. 2021 (DARC, arXiv 2006.13916), eq. 3. With q the probability that a classifier
gives to a domain, and log-odds = log q(target | ·) - log q(source | ·),

    Δr(s, a, s') = log p_t(s'|s, a) - log p_s(s'|s, a) = log-odds(s, a, s') - log-odds(s, a)

The second term takes out that the two domains *visit* different (s, a); without it the learner is
paid for going where the target data are.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sim2real.types import Array, InputError

LEAST = 200
"""Transitions of each domain without which classifiers are not learned at all."""
ENOUGH = 2000
"""Target transitions below which Δr scatters: the README of this folder has the figures."""
PERIOD, HELD_OUT = 200, 20
"""The last HELD_OUT of every PERIOD rows are held out: blocks, since neighbours in time are so
alike that single rows held out would still be known."""
CHECK = 100
"""Updates between two looks at the held-out loss."""
APART = 0.99
"""AUC of the (s, a) classifier on held-out steps above which the domains hardly overlap."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifiers:
    """How the two classifiers learn. The defaults are ours; AUTHORS are the published ones."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers (ReLU), for each of the two networks."""
    standardize: bool = True
    """Inputs (s, a, s' - s), each over its running standard deviation; else (s, a, s') as is."""
    noise: float = 0.1
    """Standard deviation of the noise on the inputs while learning; none when Δr is computed."""
    clip: float = 10.0
    """Bound of |Δr|; infinity for none."""
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch: int = 128
    """Transitions of each domain in an update."""
    averaging: float = 0.99
    """Share of the old in the running average of the weights that Δr is computed with; 0 for the
    newest weights."""
    patience: int = 10
    """Looks at the held-out loss, every 100 updates, without improvement before learning stops
    and goes back to the best; 0 holds nothing out and never stops."""

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise InputError(f"hidden is {list(self.hidden)}; it lists widths of at least 1")
        for name in ("noise", "weight_decay", "patience"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.averaging < 1:
            raise InputError(f"averaging is {self.averaging}; it must lie in [0, 1)")
        for name in ("clip", "learning_rate", "batch"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")


AUTHORS = Classifiers(
    hidden=(32,), standardize=False, noise=1.0, clip=math.inf, learning_rate=3e-4,
    weight_decay=0.0, batch=256, averaging=0.0, patience=0,
)  # fmt: skip
"""As in the authors' code (google-research/darc, classifiers.py and train_eval.py)."""


class Transitions(NamedTuple):
    """N steps of one domain, in the order of time."""

    obs: Array
    """(N, O) s, raw."""
    action: Array
    """(N, A) a, in [-1, 1]."""
    next_obs: Array
    """(N, O) s', raw; the true last observation where an episode ended."""


class LogOdds(NamedTuple):
    """log q(target | ·) - log q(source | ·) of N transitions, in nats."""

    sas: Array
    """(N,) given (s, a, s')."""
    sa: Array
    """(N,) given (s, a)."""


class Score(NamedTuple):
    """How well transitions that were not learned from are told apart, domains weighted equally.

    Losses are mean cross-entropies [nats]: log 2 = 0.69 says nothing is known, more says that
    something wrong is. AUC: 0.5 nothing, 1 everything. That `sas` beats `sa` is the gap in the
    dynamics; that `sa` is above 0.5 only says that the domains visit different states.
    """

    loss_sa: float
    loss_sas: float
    auc_sa: float
    auc_sas: float


class Fitted(NamedTuple):
    updates: int
    """After which the classifiers were best."""
    held_out: Score | None
    """None where nothing was held out."""


def correction(sas: Array, sa: Array, clip: float = math.inf) -> Array:
    """Δr (N,) in nats from log-odds(s, a, s') and log-odds(s, a), within ±clip."""
    return np.clip(sas - sa, -clip, clip)


def rows(k: Array, *, held_out: bool) -> Array:
    """The rows (n,) that come as k-th, counting from 0, among the held out ones or the others."""
    size, first = (HELD_OUT, PERIOD - HELD_OUT) if held_out else (PERIOD - HELD_OUT, 0)
    return k // size * PERIOD + first + k % size


def count(n: int, *, held_out: bool) -> int:
    """How many of n rows are held out, or are not."""
    whole, rest = divmod(n, PERIOD)
    kept = whole * (PERIOD - HELD_OUT) + min(rest, PERIOD - HELD_OUT)
    return n - kept if held_out else kept


class DomainClassifiers(nn.Module):
    """f_sa(s, a) and f_sas = f_sa(s, a) + f(s, a, s'), two logits each: source, target.

    The residual form is the authors': what tells the domains apart by (s, a) alone is learned
    once, and Δr is what f adds. Both losses train f_sa.

    Args:
        obs_size: O.
        action_size: A.
        seed: of the initial weights, the noise, and the batches of `fit`; the global streams of
            torch and numpy are left alone.
    """

    mean: Tensor
    """(O+A+O,) of the inputs; zero where they are not standardised."""
    var: Tensor
    """(O+A+O,)"""
    scale: Tensor
    """(O+A+O,) what inputs are multiplied with; zero for a channel that never changes."""
    seen: Tensor
    """() transitions that mean and variance are of."""

    def __init__(
        self, obs_size: int, action_size: int, config: Classifiers | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.config = config = Classifiers() if config is None else config
        self.obs_size, self.action_size = O, A = obs_size, action_size
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.newest = Pair(O, A, config.hidden)
        self.averaged = copy.deepcopy(self.newest).requires_grad_(False)
        zeros = torch.zeros(O + A + O, dtype=torch.float64)
        self.register_buffer("mean", zeros)
        self.register_buffer("var", zeros.clone())
        self.register_buffer("scale", torch.ones_like(zeros))
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self._noise = torch.Generator().manual_seed(seed)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))
        self.optimizer = torch.optim.AdamW(
            self.newest.parameters(), config.learning_rate,
            weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip
        self._weights = list(self.newest.parameters()), list(self.averaged.parameters())

    def logits(self, networks: Pair, x_sa: Tensor, x_sas: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2) given (s, a) and (N, 2) given (s, a, s'), from standardised inputs."""
        sa = networks.f_sa(x_sa)
        return sa, sa + networks.f_sas(x_sas)

    def log_odds(self, obs: Array, action: Array, next_obs: Array) -> LogOdds:
        """Without noise. obs, next_obs (N, O) raw; action (N, A) in [-1, 1]."""
        with torch.no_grad():
            x = self._standardized(self._inputs(Transitions(obs, action, next_obs)))
            sa, sas = self.logits(self.averaged, x[:, : self.obs_size + self.action_size], x)
        # The log-softmax of two logits: its normaliser cancels in their difference.
        return LogOdds((sas[:, 1] - sas[:, 0]).numpy(), (sa[:, 1] - sa[:, 0]).numpy())

    def delta_r(self, obs: Array, action: Array, next_obs: Array) -> Array:
        """Δr (N,) in nats, within ±`clip`. See `log_odds` for the arguments."""
        odds = self.log_odds(obs, action, next_obs)
        return correction(odds.sas, odds.sa, self.config.clip)

    def update(self, source: Transitions, target: Transitions) -> tuple[float, float]:
        """One step of Adam on the cross-entropies of both classifiers: (SA loss, SAS loss).

        Raises:
            InputError: the batches are not of one size, or hold a NaN or an infinity.
        """
        n, m = len(source.obs), len(target.obs)
        if n != m:
            raise InputError(f"correct: {n} source and {m} target transitions; give as many each")
        raw = np.concatenate([self._inputs(source), self._inputs(target)])
        if not np.isfinite(raw).all():
            check_finite(source, "source")
            check_finite(target, "target")
        if self.config.standardize:
            self._follow(raw)
        x = self._standardized(raw)
        x_sa, sigma = x[:, : self.obs_size + self.action_size], self.config.noise
        if sigma > 0:
            x_sa = x_sa + sigma * torch.randn(x_sa.shape, generator=self._noise)
            x = x + sigma * torch.randn(x.shape, generator=self._noise)
        logits = torch.cat(self.logits(self.newest, x_sa, x))
        label = torch.zeros(2, 2, n, dtype=torch.long)  # (SA or SAS, source or target, n)
        label[:, 1] = 1
        each = F.cross_entropy(logits, label.flatten(), reduction="none")
        loss = each.view(2, -1).mean(1)
        loss_sa, loss_sas = loss.tolist()
        if not math.isfinite(loss_sa + loss_sas):
            raise InputError(
                "correct: the classifiers diverged; use a smaller learning_rate, or standardize"
            )
        self.optimizer.zero_grad()
        loss.sum().backward()
        self.optimizer.step()
        newest, averaged = self._weights
        with torch.no_grad():
            for old, new in zip(averaged, newest, strict=True):
                old.lerp_(new, 1 - self.config.averaging)
        return loss_sa, loss_sas

    def fit(self, source: Transitions, target: Transitions, updates: int = 3000) -> Fitted:
        """Learns from two given sets of transitions; stops early where `patience` says so.

        Args:
            updates: the most steps of Adam.

        Raises:
            InputError: fewer than 200 transitions of a domain, sizes that do not fit, a NaN.
        """
        check(source, target, self.obs_size, self.action_size)
        if self.config.standardize:
            halves = [self._inputs(t) for t in (source, target)]
            mean = np.mean([h.mean(0) for h in halves], axis=0)
            var = np.mean([h.var(0) + (h.mean(0) - mean) ** 2 for h in halves], axis=0)
            self._standardize(1e12, mean, var)  # so many that no batch moves them
        stop = EarlyStop(self) if self.config.patience else None
        for done in range(1, updates + 1):
            self.update(self._batch(source), self._batch(target))
            if stop is None or done % CHECK:
                continue
            if not stop.go_on(self.score(_held_out(source), _held_out(target))):
                break
        if stop is None or stop.score is None:
            return Fitted(updates, None)
        stop.restore()
        return Fitted(stop.best_look * CHECK, stop.score)

    def score(self, source: Transitions, target: Transitions) -> Score:
        """How well the two are told apart; for transitions that were not learned from."""
        s, t = self.log_odds(*source), self.log_odds(*target)
        loss_sa = (_softplus(s.sa) + _softplus(-t.sa)) / 2
        loss_sas = (_softplus(s.sas) + _softplus(-t.sas)) / 2
        return Score(loss_sa, loss_sas, _auc(s.sa, t.sa), _auc(s.sas, t.sas))

    def _inputs(self, t: Transitions) -> Array:
        """(N, O+A+O) (s, a, s' - s), or (s, a, s') where nothing is standardised."""
        last = t.next_obs - t.obs if self.config.standardize else t.next_obs
        return np.concatenate([t.obs, t.action, last], axis=1, dtype=float)

    def _standardized(self, raw: Array) -> Tensor:
        return torch.from_numpy((raw - self.mean.numpy()) * self.scale.numpy()).float()

    def _follow(self, raw: Array) -> None:
        """Takes a batch (N, O+A+O) into the running mean and variance (Chan et al. 1983)."""
        n, seen = len(raw), float(self.seen)
        mean, var, total = self.mean.numpy(), self.var.numpy(), seen + n
        batch_mean = raw.mean(0)
        batch_var = ((raw - batch_mean) ** 2).mean(0)
        delta = batch_mean - mean
        var = (seen * var + n * batch_var + delta**2 * (seen * n / total)) / total
        self._standardize(total, mean + delta * (n / total), var)

    def _standardize(self, seen: float, mean: Array, var: Array) -> None:
        """Writes into the buffers, whose memory numpy shares."""
        self.seen.fill_(seen)
        self.mean.numpy()[:] = mean
        self.var.numpy()[:] = var
        varies = var > 1e-12 * (1 + mean**2)
        self.scale.numpy()[:] = np.where(varies, 1 / np.sqrt(var + 1e-300), 0.0)

    def _batch(self, t: Transitions) -> Transitions:
        n, size = len(t.obs), self.config.batch
        if not self.config.patience:
            index = self._rng.integers(n, size=size)
        else:
            index = rows(self._rng.integers(count(n, held_out=False), size=size), held_out=False)
        return Transitions(*(x[index] for x in t))


class EarlyStop:
    """Remembers the classifiers as they were when their held-out loss was lowest."""

    def __init__(self, classifiers: DomainClassifiers) -> None:
        self._classifiers = classifiers
        self._best: dict[str, Any] = {}
        self._look = 0
        self.best_look = 0
        self.score: Score | None = None

    def go_on(self, score: Score) -> bool:
        """Takes one look; False when `patience` looks in a row were no better than the best."""
        self._look += 1
        if self.score is None or _loss(score) < _loss(self.score):
            self._best = copy.deepcopy(self._classifiers.state_dict())
            self.score, self.best_look = score, self._look
        return self._look - self.best_look < self._classifiers.config.patience

    def rescore(self, source: Transitions, target: Transitions) -> None:
        """Scores the remembered classifiers on other held-out rows, for the next look.

        Where the data move, losses compare on the same rows only: a policy that makes the domains
        more alike raises the loss of the best classifiers too.
        """
        if self.score is None:
            return
        now = copy.deepcopy(self._classifiers.state_dict())
        self.restore()
        self.score = self._classifiers.score(source, target)
        self._classifiers.load_state_dict(now)

    def restore(self) -> None:
        self._classifiers.load_state_dict(self._best)


def check(source: Transitions, target: Transitions, obs_size: int, action_size: int) -> None:
    """Whether classifiers can learn from these; whether to trust them, `warn` says.

    Raises:
        InputError: fewer than 200 transitions of a domain, sizes that do not fit, a NaN.
    """
    for name, t in (("source", source), ("target", target)):
        sizes = tuple(np.shape(x) for x in t)
        n = len(t.obs)
        if sizes != ((n, obs_size), (n, action_size), (n, obs_size)):
            raise InputError(
                f"correct: {name} transitions of shapes {sizes}; (s, a, s') must be "
                f"(N, {obs_size}), (N, {action_size}), (N, {obs_size})"
            )
        check_finite(t, name)
        if n < LEAST:
            raise InputError(
                f"correct: {n} {name} transitions; the classifiers need at least {LEAST}, and "
                f"{ENOUGH} of the target for a Δr to rely on"
            )


def check_finite(t: Transitions, name: str) -> None:
    """Raises InputError where a transition holds a NaN or an infinity: which, and where."""
    for what, x in zip(("observation", "action", "next observation"), t, strict=True):
        wrong = np.argwhere(~np.isfinite(x))
        if len(wrong):
            row, channel = wrong[0]
            raise InputError(
                f"correct: {name} transition {row}: {what} channel {channel} is "
                f"{x[row, channel]}; every value must be finite, so leave such steps out"
            )


def warn(source: Transitions, target: Transitions, target_steps: int) -> None:
    """Warns where Δr is not to be relied on: few target steps, and channels that never change,
    which are useless to the classifiers, or too useful.

    Args:
        source: transitions of it, or a sample of them.
        target: the same.
        target_steps: all that there are.
    """
    if target_steps < ENOUGH:
        log.warning(
            "correct: %d target steps: Δr will scatter; %d are needed for a Δr to rely on",
            target_steps, ENOUGH,
        )  # fmt: skip
    for what, x, y in zip(("observation", "action"), source[:2], target[:2], strict=True):
        still = (np.ptp(x, axis=0) == 0) & (np.ptp(y, axis=0) == 0)
        same = still & (x[0] == y[0])
        if same.any():
            log.warning(
                "correct: %s channels %s never change: the classifiers learn nothing from them",
                what, np.flatnonzero(same).tolist(),
            )  # fmt: skip
        if (still & ~same).any():
            log.warning(
                "correct: %s channels %s never change but differ between source and target: the "
                "classifiers tell the domains apart by them alone; leave them out of observe",
                what, np.flatnonzero(still & ~same).tolist(),
            )  # fmt: skip


def warn_apart(score: Score) -> bool:
    """Warns, and says so, where the domains share hardly any (s, a): f(s, a, s') has then not
    learned where the source goes, and Δr is arbitrary there."""
    if score.auc_sa < APART:
        return False
    log.warning(
        "correct: source and target share hardly any (s, a), held-out AUC %.3f: Δr is arbitrary "
        "where the target never was; take more target steps (lower ratio, raise target_steps), "
        "and look whether both see the same terms in the same units",
        score.auc_sa,
    )
    return True


def warn_falling(reward: float, correction: float, weight: float) -> bool:
    """Warns, and says so, where a step costs more than it earns while episodes can end: the
    learner is then paid for ending them.

    Args:
        reward: mean raw reward of a step.
        correction: mean of `weight` · Δr, in the same unit. Under the source it is never above 0 in
            expectation: it is minus a Kullback-Leibler divergence.
    """
    if not reward > 0 > reward + correction:
        return False
    log.warning(
        "correct: a step earns %.2f and its correction takes %.2f, so that ending an episode pays; "
        "lower correct.weight (below %.2g here), or randomize so that less of the gap is left to "
        "correct",
        reward, -correction, weight * reward / -correction,
    )  # fmt: skip
    return True


def warn_outweighs(size: float, correction: float, weight: float) -> bool:
    """Warns, and says so, where Δr is larger than the reward itself: the learner then looks for
    what both domains do alike, standing still for instance, before what is rewarded.

    Args:
        size: mean |raw reward| of a step.
        correction: mean |`weight` · Δr| of a step, in the same unit.
    """
    if not correction > size > 0:
        return False
    log.warning(
        "correct: a step's correction is %.2f on average and its reward %.2f: what the policy "
        "learns is mostly where both domains move alike; lower correct.weight (%.2g makes them "
        "equal here), or randomize so that less of the gap is left to correct",
        correction, size, weight * size / correction,
    )  # fmt: skip
    return True


class Pair(nn.Module):
    """The networks f_sa(s, a) and f(s, a, s'), two logits each."""

    def __init__(self, obs_size: int, action_size: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.f_sa = _network(obs_size + action_size, hidden)
        self.f_sas = _network(2 * obs_size + action_size, hidden)


def _network(inputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """Glorot's initial weights, as the authors' Keras layers have them."""
    layers: list[nn.Module] = []
    sizes = (inputs, *hidden, 2)
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(n, m)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer] if i == len(hidden) else [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def _held_out(t: Transitions) -> Transitions:
    index = rows(np.arange(count(len(t.obs), held_out=True)), held_out=True)
    return Transitions(*(x[index] for x in t))


def _loss(score: Score) -> float:
    return score.loss_sa + score.loss_sas


def _softplus(x: Array) -> float:
    """Mean of log(1 + exp(x)): the cross-entropy of log-odds x where the label is source."""
    return float(np.logaddexp(0.0, x.astype(float)).mean())


def _auc(source: Array, target: Array) -> float:
    """Probability that a target transition has the higher log-odds; ties count half."""
    ordered = np.sort(source)
    below = np.searchsorted(ordered, target, "left") + np.searchsorted(ordered, target, "right")
    return float(below.mean() / (2 * len(source)))
