"""Multilayer perceptrons: the one kind of feed-forward network that policies are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from sim2real.types import InputError, nearest

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}


def mlp(sizes: Sequence[int], activation: str = "tanh") -> nn.Sequential:
    """Linear layers sizes[0] -> ... -> sizes[-1], the activation between them and none at the end.

    Raises:
        InputError: fewer than two sizes, one below 1, or an activation that is not in ACTIVATIONS.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise InputError(f"network sizes {list(sizes)}: expected two or more, each at least 1")
    if activation not in ACTIVATIONS:
        raise InputError(
            f"activation '{activation}' is not one of {', '.join(ACTIVATIONS)}"
            + nearest(activation, ACTIVATIONS)
        )
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def layout(network: nn.Sequential) -> tuple[tuple[int, ...], str]:
    """The (sizes, activation) with which `mlp` builds a network of this shape.

    Raises:
        InputError: the network is not one that `mlp` builds.
    """
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    between = [type(layer) for layer in list(network)[1::2]]
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    activation = names.get(between[0], "") if between else next(iter(ACTIVATIONS))
    if linear:
        sizes = (linear[0].in_features, *(layer.out_features for layer in linear))
        if activation and str(mlp(sizes, activation)) == str(network):
            return sizes, activation
    raise InputError(
        "the policy's network must be what networks.mlp builds: linear layers with one of "
        f"{', '.join(ACTIVATIONS)} between them; found {network}"
    )
