"""Gates: whether what was adapted helps, by what the robot did with it and without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim2real.deploy.controller import EpisodeResult
from sim2real.identification.posterior import Posterior
from sim2real.types import Array


def by_return(before: Array, after: Array) -> tuple[bool, str]:
    """Where the target has a reward: (n,) and (m,) returns of alternating episodes. What was
    adapted must win by more than twice the standard error of the difference, which two episodes of
    each are the least to tell."""
    if min(len(before), len(after)) < 2:
        pair = f"return {before.mean():.4g} before, {after.mean():.4g} after"
        return False, f"{pair}: one episode of each says nothing of chance; allow more episodes"
    gain = float(after.mean() - before.mean())
    error = float(np.sqrt(sum(x.var(ddof=1) / len(x) for x in (before, after))))
    said = (
        f"return {before.mean():.4g} before, {after.mean():.4g} after, standard error {error:.2g}"
    )
    return gain > 2 * error, said


def by_falls(before: Sequence[EpisodeResult], after: Sequence[EpisodeResult]) -> tuple[bool, str]:
    """Without a reward, on whole episodes: with what was adapted it must not fall more often than
    without, in two of each at least."""
    old, new = (
        sum(e.terminated or e.stopped is not None for e in some) / sum(e.seconds for e in some)
        for some in (before, after)
    )
    said = f"falls per second {old:.3g} before, {new:.3g} after"
    if len(before) < 2:
        return False, f"{said}: one episode of each says nothing of chance; allow more episodes"
    return new <= old, said


def by_likelihood(posterior: Posterior) -> tuple[bool, str]:
    """Of a context without a reward: held-out windows must be explained better than by the nominal
    ξ, by more than twice the standard error of the difference."""
    new, old = posterior.log_likelihood, posterior.log_likelihood_nominal
    said = f"held-out log-likelihood per window {old:.2f} nominal, {new:.2f} identified"
    return bool(new - old > 2 * posterior.gain_error), said
