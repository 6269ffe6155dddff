"""An inner loss without reward: what will be seen next, told from what the policy makes of what it
sees.

    h = the policy's last hidden layer at o        d(h, a) = V tanh(W h + U a + b) + c
    L = mean |o' - o - d(h, a)|²

A robot often cannot measure reward, and always sees what comes next (Hansen and others 2021 adapt
by such a loss). An inner step on L moves what policy and prediction share, up to h, and the
prediction itself; the policy's last layer stays. Where it should move is what the outer objective,
which has rewards, teaches: it differentiates through the step, and so learns W, U and V for what
their gradient does to h.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sim2real.bridges.adapt.gradient.inner_loop import Params
from sim2real.bridges.adapt.gradient.policy_gradient import Episodes, hidden
from sim2real.types import InputError

HEAD = ("next_hidden", "next_action", "next_bias", "next_out", "next_offset")
"""W, U, b, V, c: names beside those of the policy."""


def predicting(policy: Params, obs_size: int, width: int, generator: torch.Generator) -> Params:
    """A policy's parameters, and those of a prediction with `width` units beside them.

    Raises:
        InputError: a width below 1, or a policy without a hidden layer, which would share nothing.
    """
    last = max(int(name[len("weight") :]) for name in policy if name.startswith("weight"))
    if width < 1 or last < 1:
        raise InputError(
            f"width {width}, {last} hidden layers of the policy: each must be at least 1"
        )
    H, A = policy[f"weight{last}"].shape
    sizes = {"next_hidden": (H, width), "next_action": (A, width), "next_out": (width, obs_size)}
    made = dict(policy)
    for name, (n, m) in sizes.items():
        bound = (6 / (n + m)) ** 0.5
        made[name] = bound * (2 * torch.rand(n, m, generator=generator) - 1)
    made["next_bias"], made["next_offset"] = torch.zeros(width), torch.zeros(obs_size)
    return made


def change(params: Params, obs: Tensor, action: Tensor) -> Tensor:
    """(..., O) d: by how much obs (..., O) is foretold to change after actions (..., A)."""
    u = hidden(params, obs) @ params["next_hidden"] + action @ params["next_action"]
    u = (u + params["next_bias"]).tanh()
    return u @ params["next_out"] + params["next_offset"]


def prediction_loss(params: Params, stage: Any) -> Tensor:
    """() L of one task. Of a stage only the episodes count, and nothing of their rewards."""
    episodes = Episodes(*stage[0])
    obs, there = episodes.obs, episodes.alive[:, 1:] & episodes.alive[:, :-1]
    told = change(params, obs[:, :-1], episodes.action[:, :-1])
    missed = (obs[:, 1:] - obs[:, :-1] - told).square().sum(dim=-1)
    return (missed * there).sum() / there.sum().clamp(min=1)
