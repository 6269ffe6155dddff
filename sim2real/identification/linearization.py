"""From surprises to a posterior over ξ: linear regression over candidates, not derivatives.

What a candidate ξ does not foresee, r(ξ), is rough: a contact that comes a step earlier turns a
derivative round. So r is not differentiated but regressed over candidates, wide over what is
believed of ξ where r is rough and near it where r is smooth, and what the line leaves over counts
as noise (statistical linearisation; the posterior linearisation of García-Fernández, Svensson,
Morelande and Särkkä 2015):

    r(ξ) ≈ r̄ + J (ξ - ξ̄) + e,   e ~ N(0, Ω),   and under the true ξ  r ~ N(0, 1)
    p(ξ | log) ∝ p(ξ) Π N(0; r̄ + J (ξ - ξ̄), 1 + Ω)

Candidates come in pairs, near and far, on both sides of ξ̄: what is curved is then neither in J nor
in r̄. The next ones are drawn around the posterior, and it is begun anew with the prior, so that the
log counts once. Where 1 + Ω is less than the size of what is left, or neighbours in time are not
independent, the spread follows the scores instead, summed over windows (sandwich, White 1982).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import lsq_linear
from scipy.special import log_ndtr, ndtri_exp

from sim2real.types import Array


class Line(NamedTuple):
    """r(ξ) as a straight line."""

    center: Array
    """(K,) ξ̄"""
    value: Array
    """(M,) r̄"""
    slope: Array
    """(K, M) J"""
    left: Array
    """(M,) Ω, the variance around the line."""
    bent: Array = np.zeros((0, 0))
    """(P, M) by how much pairs of candidates, taken together, are off the line: its curvature."""
    away: Array = np.zeros((0, 0))
    """(P, K) of each of those, from the center to the one and to the other."""

    def at(self, xi: Array) -> Array:
        """(M,)"""
        return self.value + (xi - self.center) @ self.slope

    @property
    def weight(self) -> Array:
        """(M,)"""
        return 1.0 / (1.0 + self.left)


class Normal(NamedTuple):
    """Mean (K,) and covariance (K, K)."""

    mean: Array
    covariance: Array


class Design(NamedTuple):
    """Candidates in pairs, one on each side of a center; every pair once far and once near."""

    center: Array
    """(K,)"""
    away: Array
    """(P, K) from the center, to the one and, with the other sign, to the other."""
    near: Array
    """(P,) share of that at which the near pair is."""

    @property
    def offset(self) -> Array:
        """(2·P, K) one of each pair, less the center; the far pairs first."""
        return np.concatenate([self.away, self.near[:, None] * self.away])

    @property
    def xi(self) -> Array:
        """(4·P, K), one of each pair first."""
        return np.concatenate([self.center + self.offset, self.center - self.offset])


def design(belief: Normal, low: Array, high: Array, n: int, rng: np.random.Generator) -> Design:
    """About n candidates inside the ranges, with the spread of a belief as far as these permit.

    In pairs, for what is curved then stays out of the slopes; along orthogonal directions, randomly
    turned, so that their spread is exact (Genz and Monahan 1998); and near as well as far along
    each, from which the value at the center follows without what curvature adds.

    What would leave the ranges is drawn in along what is believed: the center, and pairs on both
    its sides alike.
    """
    free = np.flatnonzero(high > low)
    F = len(free)
    spread = np.sqrt(np.diag(belief.covariance)[free])
    inner = belief.covariance[np.ix_(free, free)] / np.outer(spread, spread)
    values, vectors = np.linalg.eigh(inner)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T * spread  # (F, F), a row a direction
    blocks = max(LEAST_BLOCKS, round(n / (4 * F)))
    square = rng.uniform(*NEAR, blocks)
    turns = [np.linalg.qr(rng.standard_normal((F, F))).Q for _ in range(blocks)]
    far = np.sqrt((2 - square) * F)
    out = np.concatenate([size * turn for size, turn in zip(far, turns, strict=True)])
    away = np.zeros((blocks * F, len(low)))
    away[:, free] = out @ root
    margin = np.zeros(len(low))
    margin[free] = np.minimum(MARGIN * spread, (high - low)[free] / 4)
    center = densest(belief, low + margin, high - margin)
    room = np.minimum(center - low, high - center)
    for p in np.flatnonzero((np.abs(away) > room).any(axis=1)):
        away[p] = densest(Normal(away[p], belief.covariance), -room, room)
    return Design(center, away, np.repeat(np.sqrt(square / (2 - square)), F))


def densest(belief: Normal, low: Array, high: Array) -> Array:
    """(K,) where a belief is densest between low and high, each (K,): not each parameter by itself,
    for what one cannot be the others make up for as they are correlated."""
    inside = np.clip(belief.mean, low, high)
    free = np.flatnonzero(high > low)
    if np.array_equal(inside, belief.mean) or not len(free):
        return inside
    spread = np.sqrt(np.diag(belief.covariance)[free])
    correlation = belief.covariance[np.ix_(free, free)] / np.outer(spread, spread)
    root = np.linalg.inv(np.linalg.cholesky(correlation + RIDGE * np.eye(len(free))))
    ends = (np.stack([low, high])[:, free] - belief.mean[free]) / spread
    ends[1] = np.maximum(ends[1], ends[0] + RIDGE)
    found = lsq_linear(root, np.zeros(len(free)), bounds=(ends[0], ends[1]))
    inside[free] = np.clip(belief.mean[free] + spread * found.x, low[free], high[free])
    return inside


MARGIN = 1 / 3
"""Deviations of a belief that its center keeps away from the ends of the ranges: one of the
posterior at most, about which the belief is drawn up to three times as wide. Farther away it is no
longer near what explains the log, and the pairs, which may be wide only to one side, have nothing
to be even about."""
RIDGE = 1e-9
"""Variance, in that of each parameter, that rounding may take from a direction."""
LEAST_BLOCKS = 1
NEAR = (0.05, 0.45)
"""Squares of the near radii; those of the far ones are 2 less that, and 1 in the mean."""
FAR = 3.0
"""Times the median by which a pair may be missed."""
HARDLY = 0.01
"""Deviations of the noise, root mean square, by which any pair may be missed."""
SHUFFLES = 12
"""Of the pairs, to see what chance makes of the information in a direction."""


def regressed(tried: Design, r: Array, rng: np.random.Generator) -> Line:
    """The line through candidates and their surprises (4·P, M).

    Half the difference of a pair has no part that is even in ξ: it gives the slopes. Half their sum
    has none that is odd: what is curved grows with the square of the distance, and from near and
    far along one direction the value at the center follows (Richardson 1911).

    Pairs that the line misses by far more than the others, since a contact came that came to
    no other, are left out, a quarter at most; where there are no more directions than
    parameters, far ones alone.

    A slope that P pairs give is off by chance, and thousands of surprises add that up to
    information which is none. How much, what is left of the line says, shuffled among the
    pairs (Freedman and Lane 1983), for surprises of one world are not independent. In
    directions where the slopes together are not larger than that, they are taken for zero;
    elsewhere they are shrunk accordingly.
    """
    P, x = len(tried.away), tried.offset
    odd, even = (r[: 2 * P] - r[2 * P :]) / 2, (r[: 2 * P] + r[2 * P :]) / 2
    missed = _missed(x, odd)
    usual = missed <= max(
        FAR * np.median(missed), np.quantile(missed, 0.75), HARDLY * odd[0].size ** 0.5
    )
    both = usual[:P] & usual[P:]
    if not both.any():
        both[:] = True
    free = int((np.abs(x).max(axis=0) > 0).sum())
    if 2 * free > P:  # without its near pair nothing would be known of a direction
        usual[P:] = True
    share = np.square(tried.near)[both, None]
    sharp = np.square(1 - share) / (1 + np.square(share))  # over the variance of what follows
    at_center = (even[P:][both] - share * even[:P][both]) / (1 - share)
    value = (sharp * at_center).sum(axis=0) / sharp.sum()
    x, odd = x[usual], odd[usual]
    used, F = len(x), free
    unit = np.abs(x).max(axis=0)  # parameters have units of their own
    unit[unit == 0] = 1.0
    left_, size, right = np.linalg.svd(x / unit, full_matrices=False)
    there = size > 1e-9 * size.max(initial=1e-300)
    slope = left_.T @ odd  # (K, M) in directions in which chance is alike
    slope[~there] = 0.0
    rest = odd - left_ @ slope
    degrees = used - F
    left = 2 * np.square(rest).sum(axis=0) / degrees  # half a difference has half the variance
    left *= degrees / (degrees - 2) if degrees > 2 else 1.0  # its inverse is what is used
    weight = 1.0 / (1.0 + left)
    values, vectors = np.linalg.eigh((slope * weight) @ slope.T)
    signs = rng.choice([-1.0, 1.0], (SHUFFLES, used, 1))
    shuffled = [left_.T @ (sign * rest)[rng.permutation(used)] for sign in signs]
    largest = [np.linalg.eigvalsh((none * weight) @ none.T)[-1] for none in shuffled]
    chance = float(np.mean(largest)) * used / degrees
    kept = np.sqrt(np.clip(1 - chance / np.maximum(values, 1e-300), 0.0, 1.0))
    slope = (vectors * kept) @ vectors.T @ slope
    back = np.where(there, 1 / np.where(there, size, 1.0), 0.0)
    slope = (right.T * back) @ slope / unit[:, None]
    far = usual[:P]
    return Line(tried.center, value, slope, left, even[:P][far] - value, tried.away[far])


def _missed(x: Array, odd: Array) -> Array:
    """(P,) by how much the line misses each pair, its leverage accounted for."""
    x = x[:, np.abs(x).max(axis=0) > 0]
    q = np.linalg.qr(x / np.abs(x).max(axis=0, initial=1e-300)).Q
    lever = np.maximum(1 - np.square(q).sum(axis=1), 0.1)
    return np.sqrt(np.square(odd - q @ (q.T @ odd)).sum(axis=1) / lever)


class Information(NamedTuple):
    """What a log says of ξ, without a prior: the log-likelihood -½ dᵀ H d + gᵀ d of d = ξ - center.
    It may say nothing in some directions."""

    center: Array
    """(K,)"""
    precision: Array
    """(K, K) H"""
    pull: Array
    """(K,) g"""

    def part(self, some: Array) -> Information:
        """Of some parameters (F,), the others where `center` is."""
        square = np.ix_(some, some)
        return Information(self.center[some], self.precision[square], self.pull[some])

    def plus(self, other: Information) -> Information:
        """What two logs say together."""
        pull = other.pull + other.precision @ (other.center - self.center)
        return Information(self.center, self.precision + other.precision, self.pull + pull)

    def with_prior(self, prior: Normal) -> Normal:
        """The posterior."""
        known = np.linalg.inv(prior.covariance)
        covariance = np.linalg.inv(self.precision + known)
        pull = self.pull + known @ (prior.mean - self.center)
        return Normal(self.center + covariance @ pull, (covariance + covariance.T) / 2)


def told(posterior: Normal, prior: Normal) -> Information:
    """What a log said that turned a prior into a posterior; nothing in directions in which this is
    not narrower."""
    known = np.linalg.inv(prior.covariance)
    unit = np.sqrt(np.diag(prior.covariance))
    more = (np.linalg.inv(posterior.covariance) - known) * np.outer(unit, unit)
    values, vectors = np.linalg.eigh((more + more.T) / 2)
    kept = values > 0
    back = (vectors / unit[:, None])[:, kept]
    pull = vectors[:, kept].T @ (unit * (known @ (posterior.mean - prior.mean)))
    return Information(posterior.mean, (back * values[kept]) @ back.T, back @ pull)


def information(line: Line, use: Array | None = None, together: Array | None = None) -> Information:
    """From the surprises `use` (M,) bool alone where given. `together` (R, M): deviations that
    surprises have in common, besides those of their own."""
    weight = line.weight if use is None else line.weight * use
    scaled = line.slope * weight
    precision, pull = scaled @ line.slope.T, -scaled @ line.value
    if together is not None and len(together):
        inner = np.eye(len(together)) + (together * weight) @ together.T  # Woodbury 1950
        across = scaled @ together.T
        precision = precision - across @ np.linalg.solve(inner, across.T)
        pull = pull + across @ np.linalg.solve(inner, (together * weight) @ line.value)
    return Information(line.center, precision, pull)


def conditioned(line: Line, prior: Normal, use: Array | None = None) -> Normal:
    """The posterior, from the surprises `use` (M,) bool alone where given."""
    return information(line, use).with_prior(prior)


def robust(line: Line, prior: Normal, window: Array, known: Normal | None = None) -> Information:
    """What a log says where windows count as often as their scores show; `window` (M,) numbers
    them.

    Under a right model the scores' covariance over windows is H. In principal directions of H, with
    ξ in deviations of the prior, in which the scores spread more, H is less by so much. Where the
    log-likelihood is highest stays, but for what curvature moves. Of a single window the scores
    cannot spread; then there is Student's t alone.

    What is left of a window is less than its noise, for the window pulled ξ towards itself: it is
    divided by the root of the share that remained (CR2, Bell and McCaffrey 2002), not all by
    W / (W - K) alike, which of few windows and many parameters would make far too much. Of few
    windows such a spread is itself uncertain: quantiles are those of Student's t with as many
    degrees of freedom as windows say something in a direction, (Σ p)² / Σ p² of what each says,
    less one; theirs also count what the mean took.

    Along a curve, surprises are off the line together. Over ξ as it is then known, with the prior
    `known` where that is another, ½ dᵀ A d of a normal d counts as noise that they share:
    E (dᵀ A d)² = n (n + 2) / ρ⁴ times its mean square over directions at a distance of ρ
    deviations (García-Fernández and others 2015). That takes the directions of the candidates for
    uniform among the posterior's deviations: they were drawn in the shape of the one before.
    """
    said = information(line)
    at = said.with_prior(prior)
    root = np.sqrt(line.weight)
    slope, left = line.slope * root, line.at(at.mean) * root
    mine = [window == number for number in np.unique(window)]
    score = np.array([_score(slope[:, w], left[w], at.covariance) for w in mine])  # (W, K)
    unit = np.sqrt(np.diag(prior.covariance))
    values, vectors = np.linalg.eigh(said.precision * np.outer(unit, unit))
    spread = np.square(score @ (unit[:, None] * vectors)).sum(axis=0)
    share = np.array([np.square(vectors.T @ (unit[:, None] * slope[:, w])).sum(1) for w in mine])
    freedom = np.square(share.sum(axis=0)) / np.maximum(np.square(share).sum(axis=0), 1e-300) - 1
    student = stats.t.ppf(0.95, np.maximum(freedom, LEAST_FREEDOM)) / stats.norm.ppf(0.95)
    more = np.maximum(spread / np.maximum(values, 1e-9), 1.0) * student**2
    narrow = (vectors / more**0.5) @ vectors.T
    wider = _narrowed(said, narrow, unit)
    for _ in range(2):  # the noise by what is known, and that by the noise
        posterior = wider.with_prior(prior if known is None else known)
        bent = information(line, together=_curvature(line, posterior))
        wider = _narrowed(bent, narrow, unit)
    return wider


def _narrowed(said: Information, by: Array, unit: Array) -> Information:
    """Less by a symmetric matrix (K, K) on both sides, in units (K,); highest where it was."""
    precision = said.precision * np.outer(unit, unit)
    summit = np.linalg.pinv(precision, rcond=1e-12, hermitian=True) @ (unit * said.pull)
    precision = by @ precision @ by
    pull = precision @ summit / unit
    return Information(said.center, precision / np.outer(unit, unit), pull)


def _curvature(line: Line, posterior: Normal) -> Array:
    """(P, M) what surprises have in common as ξ is not at the center."""
    free = np.flatnonzero((line.away != 0).any(axis=0))
    n, P = len(free), len(line.away)
    if not n:
        return line.bent
    away = line.away[:, free]
    square = posterior.covariance[np.ix_(free, free)]
    distance = np.einsum("pi,ij,pj->p", away, np.linalg.inv(square), away)
    return line.bent * ((n * (n + 2) / P) ** 0.5 / distance)[:, None]


def _score(slope: Array, left: Array, covariance: Array) -> Array:
    """(K,) of a window with slopes (K, M) and what is left (M,), whose covariance under a right
    model is 1 less what the window had in ξ."""
    basis, inner = np.linalg.qr(slope.T)
    values, vectors = np.linalg.eigh(inner @ covariance @ inner.T)
    more = 1 / np.sqrt(np.clip(1 - values, LEAST_LEFT, 1.0)) - 1
    along = basis @ vectors
    return slope @ (left + along @ (more * (along.T @ left)))


LEAST_FREEDOM = 2.5
"""Windows, below which even Student's t says little."""
LEAST_LEFT = 0.05
"""Share of a window's noise that is left, at least: one that alone says what a parameter is leaves
none."""


def within(
    said: Information, prior: Normal, low: Array, high: Array, n: int, rng: np.random.Generator
) -> Array:
    """(n, K) draws of ξ in the box, where the prior is flat: a normal density cut at the box's
    sides, drawn along one line after another (hit and run; Bélisle, Romeijn and Smith 1993), from
    where a normal prior would put it on.

    Lines go along parameters, along the principal directions of what is known, and along random
    ones. Parameters alone are not enough (Gibbs): where the log tells only what several are to each
    other, they lie on a narrow ridge across the box, and a step along one of them is as short
    as the ridge is narrow.
    """
    free = np.flatnonzero(high > low)
    x = np.tile((low + high) / 2, (n, 1))
    if not len(free):
        return x
    width = (high - low)[free]  # all in units of the ranges
    precision = said.precision[np.ix_(free, free)] * np.outer(width, width)
    pull = (said.pull + said.precision @ (said.center - low))[free] * width
    begin = said.with_prior(prior)
    drawn = rng.multivariate_normal(begin.mean, begin.covariance, n, method="eigh")
    u = np.clip((drawn[:, free] - low[free]) / width, 0.0, 1.0)
    values, principal = np.linalg.eigh(precision)
    spread = 1 / np.sqrt(np.maximum(values, 0.0) + 12.0)  # 12: of a box that is one wide
    for _ in range(SWEEPS):
        chance = rng.standard_normal((len(free), len(free))) * spread @ principal.T
        for line in (*np.eye(len(free)), *principal.T, *chance):
            u = _along(u, line, precision, pull, rng)
    x[:, free] = low[free] + width * u
    return np.clip(x, low, high)


SWEEPS = 40
"""Of all lines."""
FLAT = 1e-3
"""Precision, in units of the range, below which the log-density has no curvature: that of a range
is 12."""


def _along(u: Array, line: Array, precision: Array, pull: Array, rng: np.random.Generator) -> Array:
    """(n, F) draws in the unit cube, each moved along a line (F,) to anywhere on it."""
    there = np.abs(line) > 1e-12
    ends = (np.array([[[0.0]], [[1.0]]]) - u[:, there]) / line[there]  # (2, n, F')
    first, last = ends.min(axis=0).max(axis=1), ends.max(axis=0).min(axis=1)
    last = np.maximum(last, first)
    own = line @ precision @ line
    slope = (pull - u @ precision) @ line
    if own * np.square(last - first).max() < FLAT:
        t = first + (last - first) * _sloped(slope * (last - first), rng)
    else:
        mean, std = slope / own, own**-0.5
        t = mean + std * _cut((first - mean) / std, (last - mean) / std, rng)
    return np.clip(u + t[:, None] * line, 0.0, 1.0)


def _sloped(slope: Array, rng: np.random.Generator) -> Array:
    """(n,) draws between 0 and 1 of densities whose logarithm rises by so much."""
    p, fall = rng.random(len(slope)), -np.maximum(np.abs(slope), 1e-9)
    share = np.log1p(p * np.expm1(fall)) / fall
    return np.where(slope > 0, 1 - share, share)


def _cut(low: Array, high: Array, rng: np.random.Generator) -> Array:
    """(n,) draws of a standard normal number between low and high, each (n,)."""
    flip = low > 0  # far out on the right the distribution function is 1 to all digits
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    share = rng.random(len(a))
    with np.errstate(divide="ignore"):  # a share of 0 is the end itself
        p = np.logaddexp(log_ndtr(a) + np.log1p(-share), log_ndtr(b) + np.log(share))
    x = np.clip(ndtri_exp(np.minimum(p, 0.0)), a, b)  # in logarithms: 38 deviations out p is 0
    return np.where(flip, -x, x)
