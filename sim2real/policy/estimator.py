"""What a robot tells, made into what the simulator would have told: the first stage of a policy
that was aligned with the robot's sensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sim2real.policy.networks import layout, mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.types import Array, InputError


class Estimator(nn.Module):
    """observation (B, O) -> estimate of the same terms (B, O), both in the terms' units.

    Args:
        normalizer: of the raw observation.
        network: of `networks.mlp`, O to O, in units of `std` around `mean`.
        mean, std: (O,) of the estimates.

    Raises:
        InputError: sizes that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, normalizer: Normalizer, network: nn.Sequential, mean: Array | Tensor,
        std: Array | Tensor,
    ) -> None:  # fmt: skip
        super().__init__()
        self.normalizer, self.network = normalizer, network
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32).clone())
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32).clone())
        sizes = self.sizes
        if not sizes[0] == sizes[-1] == normalizer.size == self.mean.numel() == self.std.numel():
            raise InputError(
                f"estimator: it takes and gives the same terms, not {sizes[0]} and {sizes[-1]} "
                f"values with a normalizer of {normalizer.size}"
            )

    @classmethod
    def blank(cls, sizes: Sequence[int]) -> Estimator:
        """Of these widths, to be filled by `load_state_dict`."""
        size = sizes[0]
        network = mlp(sizes, "relu")
        return cls(Normalizer.identity(size), network, torch.zeros(size), torch.ones(size))

    @property
    def sizes(self) -> tuple[int, ...]:
        return layout(self.network)[0]

    def save(self, path: str | Path) -> None:
        """Into one file, whole or not at all."""
        path = Path(path)
        new = path.with_name(path.name + ".new")
        torch.save({"sizes": self.sizes, "state": self.state_dict()}, new)
        os.replace(new, path)

    @classmethod
    def load(cls, path: str | Path) -> Estimator:
        """Raises InputError where the file is missing, damaged, or no estimator."""
        try:
            content = torch.load(Path(path), weights_only=True, map_location="cpu")
            made = cls.blank(content["sizes"])
            made.load_state_dict(content["state"])
        except Exception as error:  # torch.load raises whatever its unpickler and zip reader raise
            raise InputError(f"{path}: not an estimator, or damaged; train again") from error
        return made.requires_grad_(False)

    def forward(self, obs: Tensor) -> Tensor:
        return self.network(self.normalizer(obs)) * self.std + self.mean
