"""DORAEMON: the widest randomization under which the policy still succeeds.

Tiboni et al., "Domain Randomization via Entropy Maximization" (ICLR 2024), eq. 5 and 6. Each free
parameter is a Beta on its range. After a batch of episodes the distribution takes the step of
largest entropy that a trust region KL(current || proposed) <= ε allows and that keeps the share of
successes, estimated by importance sampling, at α or above. Where the share has fallen below α, the
step restores it first; before it has reached α for the first time, nothing moves.

All in float64: between Beta(100, 100) and Beta(99.994, 99.994) lies a KL of 9e-10, which float32
gives as a negative number of 1e-5, and a solver that is told so declares success and never moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaincinv, betaln, digamma, polygamma

from sim2real.bridges.randomize.uniform import Uniform
from sim2real.dynamics.distribution import Beta, Distribution, Product, Uniform as UniformXi
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.types import Array, InputError

SLACK = 1e-4
"""How far below α the estimate may lie after a step, as in the authors' code."""


@dataclass(frozen=True)
class Doraemon:
    """Widens by itself: Tiboni et al. 2024. ξ starts close to the nominal and may spread over the
    ranges as long as a share `alpha` of the episodes succeeds."""

    success: float
    """Undiscounted return from which an episode counts as a success."""
    method: Literal["doraemon"] = "doraemon"
    alpha: float = 0.5
    """Share of successes to keep."""
    epsilon: float = 0.05
    """Trust region of one step [nats]. The authors took 0.001 (CartPole) to 0.1 (PandaPush)."""
    start: float = 100.0
    """Concentration at the start: Beta(start, start) where the nominal is the centre of the range;
    elsewhere a + b is the same and the mode is the nominal."""
    every: int = 256
    """Episodes between steps."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Parameter -> (low, high), instead of env.yaml's range. Equal ends hold it fixed."""

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise InputError(f"alpha is {self.alpha}; it is a share of successes between 0 and 1")
        if not 0 < self.epsilon <= 1:
            raise InputError(f"epsilon is {self.epsilon}; it must be above 0 and at most 1")
        if not 1 < self.start <= 10_000:
            raise InputError(f"start is {self.start}; it must be above 1 and at most 10000")
        if self.every < 16:
            raise InputError(f"every is {self.every}; fewer than 16 episodes say too little")

    def bounds(self, space: ParameterSpace) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high): how far the distribution may spread."""
        return Uniform(ranges=self.ranges).bounds(space)

    def distribution(self, space: ParameterSpace) -> Distribution:
        """What training starts from, over ξ (n, K): see `rule`."""
        return self.rule(space).distribution

    def rule(self, space: ParameterSpace) -> DoraemonRule:
        """What moves the distribution during training, at its start.

        Raises:
            InputError: a range is wrong, or all of them are points.
        """
        return DoraemonRule(self, space)


class Step(NamedTuple):
    """What one update did."""

    outcome: Literal["wait", "widen", "retreat"]
    """`wait`: α has never been reached, nothing moved. `retreat`: it was lost, and no point of the
    trust region restores it; the one with the most successes was taken."""
    kl: float
    """KL(current || proposed) [nats]."""
    entropy: float
    """Of the proposed distribution, with every range scaled to [0, 1]: at most 0, the uniform."""
    success: float
    """Share of the episodes that succeeded."""
    expected: float
    """Importance-sampled share under the proposed distribution."""


def kl(p: Beta, q: Beta) -> float:
    """KL(p || q) [nats] of independent Betas on the same ranges, in closed form."""
    a, b, c, d = p.a, p.b, q.a, q.b
    terms = (
        betaln(c, d) - betaln(a, b)
        + (a - c) * digamma(a) + (b - d) * digamma(b) + (c - a + d - b) * digamma(a + b)
    )  # fmt: skip
    return float(terms.sum())


def entropy(p: Beta) -> float:
    """Differential entropy [nats] of independent Betas, every range scaled to [0, 1]."""
    a, b = p.a, p.b
    terms = (
        betaln(a, b) - (a - 1) * digamma(a) - (b - 1) * digamma(b)
        + (a + b - 2) * digamma(a + b)
    )  # fmt: skip
    return float(terms.sum())


def update(
    current: Beta,
    x: Array,
    success: Array,
    *,
    alpha: float = 0.5,
    epsilon: float = 0.05,
    most: float = 210.0,
    reached: bool = True,
) -> tuple[Beta, Step]:
    """One step of the distribution, from episodes whose ξ were drawn from `current`.

    max H(φ)  s.t.  KL(φ_k || φ) <= ε  and  1/n Σ_j φ(x_j)/φ_k(x_j) f_j >= α   (eq. 6; the mean is
    not self-normalised). Solved by SLSQP over log a and log b with analytic derivatives; of its
    iterates, the best that keeps both constraints is taken.

    Args:
        x: (n, K) draws of `current`.
        success: (n,) bool, f.
        alpha: share of successes to keep.
        epsilon: trust region [nats].
        most: upper end of a and b; their lower end is 1, where the distribution is uniform.
        reached: whether the share has been at α before; if not, and it is not now, nothing moves.

    Raises:
        InputError: shapes that do not fit each other, or no episodes.
    """
    x, f = np.asarray(x, np.float64), np.asarray(success, bool)
    if x.ndim != 2 or x.shape[1] != current.dim or f.shape != x.shape[:1] or not len(f):
        raise InputError(
            f"doraemon takes ξ (n, {current.dim}) and successes (n,), not {x.shape} and {f.shape}"
        )
    rate = float(f.mean())
    if rate < alpha and not reached:
        return current, Step("wait", 0.0, entropy(current), rate, rate)
    search = _Search(current, x[f], len(f), most, epsilon)
    here = begin = search.point(current)
    trust = search.within(epsilon)
    if rate < alpha:
        here = search.maximise(search.success, [search.within(0.99 * epsilon)], here)
    outcome = "retreat"
    if search.success(here)[0] >= alpha - SLACK:
        outcome = "widen"
        here = search.maximise(search.entropy, [trust, search.succeeds(alpha - SLACK)], here)
    proposed = current if here is begin else search.beta(here)  # log and exp round
    expected = search.success(here)[0]
    return proposed, Step(outcome, kl(current, proposed), entropy(proposed), rate, expected)


Curve = Callable[[Array], tuple[float, Array]]
"""θ (2K,) -> value and gradient (2K,)."""


class _Search:
    """The functions of the problem over θ = log (a, b), (2K,): each gives value and gradient.

    Args:
        wins: (m, K) draws of `current` that succeeded, of n in all.
        epsilon: the trust region, which says how far to look.
    """

    def __init__(self, current: Beta, wins: Array, n: int, most: float, epsilon: float) -> None:
        self._current, self._n = current, n
        self._ends = np.log([1.0, max(most, float(current.a.max()), float(current.b.max()))])
        u = (wins - current.low) / (current.high - current.low)
        u = np.clip(u, 1e-300, 1.0 - 1e-16)  # a draw may round onto an end
        self._log_u, self._log_v = np.log(u), np.log1p(-u)
        # thrice the length that KL = ε has to second order; steps that widen are a little longer
        self._reach = 3 * np.sqrt(2 * epsilon)
        self._W = _whitening(current)

    def point(self, p: Beta) -> Array:
        return np.log(np.concatenate([p.a, p.b]))

    def beta(self, theta: Array) -> Beta:
        c, d = np.split(np.exp(theta), 2)
        return Beta(c, d, self._current.low, self._current.high)

    def entropy(self, theta: Array) -> tuple[float, Array]:
        a, b = np.split(np.exp(theta), 2)
        both = (a + b - 2) * polygamma(1, a + b)
        da = both - (a - 1) * polygamma(1, a)
        db = both - (b - 1) * polygamma(1, b)
        return entropy(self.beta(theta)), np.concatenate([a * da, b * db])

    def success(self, theta: Array) -> tuple[float, Array]:
        """The importance-sampled share of successes."""
        p, (c, d) = self._current, np.split(np.exp(theta), 2)
        log_ratio = (
            self._log_u @ (c - p.a) + self._log_v @ (d - p.b)
            + float((betaln(p.a, p.b) - betaln(c, d)).sum())
        )  # fmt: skip
        ratio = np.exp(np.minimum(log_ratio, 300.0)) / self._n  # (m,)
        total, mean = float(ratio.sum()), digamma(c + d)
        dc = ratio @ self._log_u + total * (mean - digamma(c))
        dd = ratio @ self._log_v + total * (mean - digamma(d))
        return total, np.concatenate([c * dc, d * dd])

    def within(self, epsilon: float) -> Curve:
        """ε - KL(current || θ), to be kept from 0 on."""
        a, b = self._current.a, self._current.b
        at_a, at_b = digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)

        def curve(theta: Array) -> tuple[float, Array]:
            c, d = np.split(np.exp(theta), 2)
            dc = digamma(c) - digamma(c + d) - at_a
            dd = digamma(d) - digamma(c + d) - at_b
            value = epsilon - kl(self._current, self.beta(theta))
            return value, -np.concatenate([c * dc, d * dd])

        return curve

    def succeeds(self, alpha: float) -> Curve:
        def curve(theta: Array) -> tuple[float, Array]:
            value, gradient = self.success(theta)
            return value - alpha, gradient

        return curve

    def maximise(self, goal: Curve, kept: list[Curve], start: Array) -> Array:
        """The best of the solver's iterates that keeps every constraint; `start` keeps them.

        The solver moves in y, θ = θ_k + W y, where KL is |y|²/2 to second order: at θ_k its
        gradient is zero, and a solver that has no other measure of length leaps from there to
        where the ratios of importance sampling mean nothing.
        """
        best, most = start, goal(start)[0]
        here, W = self.point(self._current), self._W
        least, highest = self._ends

        def consider(y: Array) -> None:
            nonlocal best, most
            theta = np.clip(here + W @ y, least, highest)  # exactly on a bound, not beside it
            if goal(theta)[0] > most and all(c(theta)[0] >= -1e-6 for c in kept):
                best, most = theta, goal(theta)[0]

        def descend(y: Array) -> tuple[float, Array]:
            value, gradient = goal(here + W @ y)
            return -value, -W.T @ gradient

        def keep(value: Callable[[Array], Any], jacobian: Callable[[Array], Array]) -> Any:
            return {
                "type": "ineq",
                "fun": lambda y: value(here + W @ y),
                "jac": lambda y: jacobian(here + W @ y) @ W,
            }

        one = np.eye(len(here))
        constraints = [
            *(keep(lambda t, c=c: c(t)[0], lambda t, c=c: c(t)[1]) for c in kept),
            keep(lambda theta: theta - least, lambda theta: one),
            keep(lambda theta: highest - theta, lambda theta: -one),
        ]
        found: Any = minimize(
            descend, np.linalg.solve(W, start - here), jac=True, method="SLSQP",
            bounds=[(-self._reach, self._reach)] * len(here), constraints=constraints,
            callback=consider, options={"ftol": 1e-10, "maxiter": 300},
        )  # fmt: skip
        consider(np.asarray(found.x))
        return best


def _whitening(p: Beta) -> Array:
    """(2K, 2K) W with Wᵀ F W = 1, F the Fisher information of log (a, b)."""
    a, b, K = p.a, p.b, p.dim
    both = polygamma(1, a + b)
    F = np.zeros((2 * K, 2 * K))
    i, j = np.arange(K), np.arange(K, 2 * K)
    F[i, i] = a * a * (polygamma(1, a) - both)
    F[j, j] = b * b * (polygamma(1, b) - both)
    F[i, j] = F[j, i] = -a * b * both
    return np.linalg.inv(np.linalg.cholesky(F)).T


class DoraemonRule:
    """What `Doraemon` says, at work on one robot.

    The Betas lie on the ranges themselves, also where env.yaml draws uniformly in the logarithm.
    At the start their mode is the nominal value (or the end of the range next to it) and a + b is
    2 `start`: centred on the nominal, that is the start of the paper, whose ranges are symmetric;
    ours need not be, and a latency that is nominally zero starts at the end of its range.

    `names` (K,) the robot's parameters; `batch` the episodes that `observe` takes; the ratios of
    importance sampling hold for episodes of the distribution as it stands, so no others count.
    """

    counts_older = False

    def __init__(self, config: Doraemon, space: ParameterSpace) -> None:
        self.config = config
        self.names = space.names
        self.batch = config.every
        bounds = config.bounds(space)
        self._low, self._high = np.array([bounds[n] for n in self.names]).reshape(-1, 2).T
        self._free = np.flatnonzero(self._high > self._low)
        if not len(self._free):
            raise InputError(
                "randomize: doraemon has nothing to widen: every range is a point, or the robot "
                "has no parameters"
            )
        low, high = self._low[self._free], self._high[self._free]
        u = np.clip((space.nominal[self._free] - low) / (high - low), 0.0, 1.0)
        spread = 2.0 * config.start - 2.0
        self._beta = Beta(1.0 + spread * u, 1.0 + spread * (1.0 - u), low, high)
        self._reached = False
        self._success = float("nan")

    @property
    def distribution(self) -> Distribution:
        """Over ξ (n, K), as it stands."""
        if len(self._free) == len(self.names):
            return self._beta
        parts: list[Distribution] = [
            UniformXi(low, high) for low, high in zip(self._low, self._high, strict=True)
        ]
        p = self._beta
        for k, a, b, low, high in zip(self._free, p.a, p.b, p.low, p.high, strict=True):
            parts[k] = Beta(a, b, low, high)
        return Product(parts)

    def observe(self, xi: Array, returns: Array) -> Distribution | None:
        """The distribution to draw from after these episodes; None where it stays.

        The returns are those of training, of a policy that still changes and explores: the success
        they show is that of an older, worse policy.

        Args:
            xi: (n, K), drawn from `distribution`.
            returns: (n,) undiscounted.
        """
        config = self.config
        before = self._beta
        self._beta, step = update(
            before, xi[:, self._free], returns >= config.success,
            alpha=config.alpha, epsilon=config.epsilon, most=2.0 * config.start + 10.0,
            reached=self._reached,
        )  # fmt: skip
        self._success = step.success
        self._reached |= step.success >= config.alpha
        return None if self._beta == before else self.distribution

    def figures(self) -> dict[str, float]:
        """What a learning curve shows: entropy [nats] of ranges scaled to [0, 1], where 0 is
        uniform; the share of successes of the last batch; and the width of each parameter's 90 %
        as a share of its range."""
        low, high = self._ninety()
        width = (high - low) / (self._beta.high - self._beta.low)
        shares = {
            f"width/{self.names[k]}": float(w) for k, w in zip(self._free, width, strict=True)
        }
        return {"entropy": entropy(self._beta), "success": self._success, **shares}

    def summary(self) -> dict[str, Any]:
        """For reports: the bounds that contain 90 % of each parameter, 5 % on either side."""
        low, high = self._low.copy(), self._high.copy()
        low[self._free], high[self._free] = self._ninety()
        return {
            "method": self.config.method,
            "entropy": entropy(self._beta),
            "success": None if np.isnan(self._success) else self._success,
            "parameters": {
                name: {"low": float(low[k]), "high": float(high[k])}
                for k, name in enumerate(self.names)
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which `restore` goes on."""
        return {
            "method": self.config.method,
            "names": list(self.names),
            "a": self._beta.a.tolist(),
            "b": self._beta.b.tolist(),
            "reached": self._reached,
            "success": None if np.isnan(self._success) else self._success,
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Puts the rule to what `to_dict` gave. Raises InputError for another rule's or robot's."""
        try:
            if data["method"] != self.config.method or list(data["names"]) != list(self.names):
                raise InputError(
                    f"this is the state of {data['method']} over {', '.join(data['names'])}, not "
                    f"of {self.config.method} over {', '.join(self.names)}"
                )
            low, high = self._beta.low, self._beta.high
            a, b = (np.asarray(data[key], np.float64) for key in ("a", "b"))
            if a.shape != low.shape or b.shape != low.shape:
                raise InputError(f"the state of doraemon needs a and b of {len(low)} parameters")
            success = data["success"]
            reached = bool(data["reached"])
        except (KeyError, TypeError) as error:
            raise InputError(f"not the state of doraemon ({error})") from None
        self._beta = Beta(a, b, low, high)
        self._reached, self._success = reached, float("nan" if success is None else success)

    def _ninety(self) -> tuple[Array, Array]:
        p = self._beta
        width = p.high - p.low
        return (
            p.low + width * betaincinv(p.a, p.b, 0.05),
            p.low + width * betaincinv(p.a, p.b, 0.95),
        )
