"""What a policy gradient of few episodes needs: a normal policy as a function of its parameters,
and advantages over a baseline that is fitted to the same episodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from sim2real.bridges.adapt.gradient.inner_loop import Params
from sim2real.types import InputError

LEAST_LOG_STD = math.log(1e-6)
"""Adaptation moves the noise too, and must not end it."""
RIDGE = 1e-5


class Episodes(NamedTuple):
    """E episodes of T steps each, of one task, or (N, ...) of N tasks."""

    obs: Tensor
    """(E, T, O)"""
    action: Tensor
    """(E, T, A)"""
    reward: Tensor
    """(E, T)"""
    alive: Tensor
    """(E, T) bool, the step was taken: false after an episode's end."""


def normal_policy(
    sizes: Sequence[int], generator: torch.Generator, *, log_std: float = 0.0
) -> dict[str, Tensor]:
    """Parameters of a policy with tanh layers of these widths, O first and A last.

    Raises:
        InputError: fewer than two widths, or one below 1.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InputError(f"sizes {list(sizes)}: expected two or more, each at least 1")
    params: dict[str, Tensor] = {}
    for i, (n, m) in enumerate(pairwise(sizes)):
        bound = (6 / (n + m)) ** 0.5  # Glorot and Bengio 2010
        params[f"weight{i}"] = bound * (2 * torch.rand(n, m, generator=generator) - 1)
        params[f"bias{i}"] = torch.zeros(m)
    params["log_std"] = torch.full((sizes[-1],), log_std)
    return params


def mean(params: Params, obs: Tensor) -> Tensor:
    """(..., A) of obs (..., O); of parameters (N, ...) and obs (N, E, O) task by task."""
    return _layer(params, _layers(params) - 1, hidden(params, obs))


def hidden(params: Params, obs: Tensor) -> Tensor:
    """(..., H) the last hidden layer at obs, obs themselves where there is none; see `mean`."""
    h = obs
    for i in range(_layers(params) - 1):
        h = _layer(params, i, h).tanh()
    return h


def _layers(params: Params) -> int:
    return sum(name.startswith("weight") for name in params)


def _layer(params: Params, i: int, h: Tensor) -> Tensor:
    bias = params[f"bias{i}"]
    return h @ params[f"weight{i}"] + (bias[:, None] if params[f"weight{i}"].ndim == 3 else bias)


def log_std(params: Params) -> Tensor:
    """(A,), or (N, 1, A) of parameters (N, ...)."""
    log = params["log_std"].clamp(min=LEAST_LOG_STD)
    return log[:, None] if log.ndim == 2 else log


def log_prob(params: Params, obs: Tensor, action: Tensor) -> Tensor:
    """(...) log π(a | o), summed over the action's axes."""
    log = log_std(params)
    error = (action - mean(params, obs)) / log.exp()
    return -(0.5 * error.square() + log + 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def returns(reward: Tensor, gamma: float) -> Tensor:
    """(..., T) discounted sums of what follows."""
    out, later = torch.empty_like(reward), torch.zeros_like(reward[..., 0])
    for t in reversed(range(reward.shape[-1])):
        later = reward[..., t] + gamma * later
        out[..., t] = later
    return out


def baseline(episodes: Episodes, gamma: float) -> Tensor:
    """(..., E, T) returns as the observation and the time tell them, linearly in
    (o, o², t, t², t³, 1) (Duan and others 2016), fitted to the same episodes of each task."""
    obs = episodes.obs.clamp(-10, 10)
    T = obs.shape[-2]
    t = (torch.arange(T, dtype=obs.dtype) / 100).expand(obs.shape[:-1])[..., None]
    parts = [obs, obs**2, t, t**2, t**3, torch.ones_like(t)]
    features = torch.cat(parts, dim=-1)
    there = episodes.alive[..., None].to(obs.dtype)
    rows = (features * there).flatten(-3, -2)  # (..., E·T, F)
    wanted = (returns(episodes.reward * episodes.alive, gamma)[..., None] * there).flatten(-3, -2)
    gram = rows.mT @ rows + RIDGE * torch.eye(rows.shape[-1], dtype=obs.dtype)
    weights = torch.linalg.solve(gram, rows.mT @ wanted)  # (..., F, 1)
    return (features @ weights[..., None, :, :])[..., 0]


def advantages(episodes: Episodes, gamma: float, gae_lambda: float) -> Tensor:
    """(..., E, T) generalised advantage estimates (Schulman and others 2016), of mean 0 and
    deviation 1 over the steps of each task; 0 after an episode's end."""
    alive = episodes.alive.to(episodes.obs.dtype)
    value = baseline(episodes, gamma) * alive
    after = torch.cat([value[..., 1:], torch.zeros_like(value[..., :1])], dim=-1)
    delta = (episodes.reward + gamma * after - value) * alive
    raw = returns(delta, gamma * gae_lambda) * alive
    number = alive.sum(dim=(-2, -1), keepdim=True)
    centered = (raw - raw.sum(dim=(-2, -1), keepdim=True) / number) * alive
    spread = (centered.square().sum(dim=(-2, -1), keepdim=True) / number).sqrt()
    return centered / (spread + 1e-8)
