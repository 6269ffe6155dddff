"""An actor that sees what a robot measures, and a critic that sees more.

Pinto et al. 2018, Asymmetric Actor Critic. The observation ends with the values that only the critic
sees; Stable-Baselines3 needs no more than another extractor to keep them from the actor.
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import create_mlp
from torch import Tensor, nn


class AsymmetricExtractor(nn.Module):
    """(B, O + tail) -> the actor's features from the first O values, the critic's from all."""

    def __init__(self, size: int, tail: int, widths: list[int], activation: type[nn.Module]) -> None:
        super().__init__()
        self._actor_size = size - tail
        self.policy_net = nn.Sequential(*create_mlp(size - tail, -1, widths, activation))
        self.value_net = nn.Sequential(*create_mlp(size, -1, widths, activation))
        self.latent_dim_pi = self.latent_dim_vf = widths[-1]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.policy_net(features[:, : self._actor_size])

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.value_net(features)


class AsymmetricPolicy(ActorCriticPolicy):
    """`tail`: how many values at the end of an observation only the critic sees."""

    def __init__(self, *args: Any, tail: int, **kwargs: Any) -> None:
        self._tail = tail
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        assert isinstance(self.net_arch, list)
        self.mlp_extractor: Any = AsymmetricExtractor(
            self.features_dim, self._tail, self.net_arch, self.activation_fn
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "tail": self._tail}
