"""Policy -> artifact: one ONNX file that describes itself, a recording that proves it, a card for people.

Nothing is trusted that was not measured: the graph is run by onnxruntime over a recording, its state fed back, and
must give torch's commands; then the folder is verified as a robot would before it appears under its name.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .policy.policy import Policy
from .types import Array, InputError

TOLERANCE = 1e-5
OPSET, IR_VERSION = 18, 10
MIN_TICKS = 64
ONNXSCRIPT_FLOOR = "0.7.1"


class Recording(NamedTuple):
    """What the policy saw in real episodes, one tick after another."""

    obs: NDArray[np.float64]
    """(T, O), raw, in the order of the spec's terms."""
    reset: NDArray[np.bool_]
    """(T,), True at the first tick of each episode."""


class _Graph(nn.Module):
    """`Policy.forward_full` with z spread over the arguments, as ONNX wants its inputs; the same for every policy."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor, reset: Tensor, *z: Tensor) -> tuple[Tensor, ...]:
        command, raw, after = self.policy.forward_full(obs, z, reset)
        return command, raw, *after


def build_graph(policy: Policy) -> onnx.ModelProto:
    """The policy as an ONNX graph of batch 1, free of everything that does not compute.

    Raises:
        InputError: onnxscript is too old, or the graph is not one that a robot may run (`check_graph`).
    """
    check_onnxscript(version("onnxscript"))
    z = policy.initial(1)
    inputs = (torch.zeros(1, policy.spec.obs_size), torch.zeros(1, 1), *z)
    with _quiet():
        program = torch.onnx.export(
            _Graph(policy).eval(),
            inputs,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=["obs", "reset", *(f"{name}_in" for name in policy.z_names)],
            output_names=["command", "action_raw", *(f"{name}_out" for name in policy.z_names)],
        )
    assert program is not None  # dynamo=True
    model: onnx.ModelProto = program.model_proto
    _strip(model)
    check_graph(model, recurrent=any(isinstance(part, nn.RNNBase) for part in policy.modules()))
    return model


def check_onnxscript(found: str) -> None:
    """Refuse versions that export GRU without linear_before_reset: wrong numbers, no error (onnxscript#2852)."""

    def number(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)[:3]]

    if number(found) < number(ONNXSCRIPT_FLOOR):
        raise InputError(
            f"onnxscript {found} exports recurrent policies that are silently wrong; "
            f"install onnxscript>={ONNXSCRIPT_FLOOR}"
        )


def check_graph(model: onnx.ModelProto, recurrent: bool = False) -> None:
    """What must hold of a graph before it is run at all."""
