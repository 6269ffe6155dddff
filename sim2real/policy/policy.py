"""The policy: action, z' = policy(obs, z). What is exported is exactly this."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from sim2real.policy.estimator import Estimator
from sim2real.policy.memory import Belief, Memory
from sim2real.policy.networks import layout, mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.prediction import Prediction
from sim2real.policy.spec import PolicySpec
from sim2real.types import Array, InputError

SCHEMA = 1
WEIGHTS, DESCRIPTION = "policy.pt", "policy.json"

State = tuple[Tensor, ...]


class Policy(nn.Module):
    """Maps an observation and the state z to a command and the next z.

        obs      = estimator(obs)                 where there is one     (B, O)
        features = normalizer([history oldest ... newest, context])      (B, H·O + K)
        features = [features, fast]               where there are such   (B, H·O + L)
        x        = [features, last action, whether an episode begins]    where there is a memory
        features = [x, memory(x)]                                        (B, H·O + K + A + 1 + M)
        raw      = network(features)              head clip              (B, A)
                   tanh(network(features))        head tanh
        command  = clip(raw · scale + offset, low, high)                 (B, A), physical units

    z is a tuple with the tensors that `spec.z_names` names. "history" (B, H, O) holds the last H
    observations as the robot gave them, or as they were estimated, newest last; a reset, at the
    start of every episode, fills it with the current one. "context" (B, K) holds ξ in physical
    units, "fast" (B, L) what gradient steps found; they last for the trial, and only adaptation
    changes them. "memory" (B, Z) is what a
    recurrent network remembers of the trial, "last_action" (B, A) the raw action before this one,
    clipped to [-1, 1]; both last over the episodes of a trial.
    """

    command_low: Tensor
    command_high: Tensor
    action_scale: Tensor
    action_offset: Tensor
    nominal: Tensor
    log_std: Tensor | None

    def __init__(
        self,
        spec: PolicySpec,
        network: nn.Sequential,
        normalizer: Normalizer,
        log_std: Tensor | None = None,
        estimator: Estimator | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            network: (B, H·O + K) -> (B, A), as `networks.mlp` builds it; with fast numbers
                (B, H·O + L) -> (B, A), with a memory (B, H·O + K + A + 1 + M) -> (B, A).
            log_std: (A,), or None where it is unknown.
            estimator: (B, O) -> (B, O), of a policy that was aligned with a robot's sensors.
            memory: as `spec.memory` says; None makes a new one where that is not None.

        Raises:
            InputError: a network, normalizer, memory or log_std whose size is not the spec's.
        """
        super().__init__()
        sizes, _ = layout(network)
        if memory is None and spec.memory is not None:
            memory = Memory(spec.remembered_size, spec.memory)
        mine = None if memory is None else memory.spec
        if mine != spec.memory:
            raise InputError(
                f"policy '{spec.name}': its memory is {mine}, the spec says {spec.memory}"
            )
        for what, size, right in (
            ("the network takes", sizes[0], spec.network_size),
            ("the network gives", sizes[-1], spec.action_size),
            ("the normalizer takes", normalizer.size, spec.feature_size),
            (
                "the memory takes",
                spec.remembered_size if memory is None else memory.inputs,
                spec.remembered_size,
            ),
            (
                "the estimator takes",
                spec.obs_size if estimator is None else estimator.sizes[0],
                spec.obs_size,
            ),
            (
                "log_std has",
                spec.action_size if log_std is None else log_std.numel(),
                spec.action_size,
            ),
        ):
            if size != right:
                raise InputError(
                    f"policy '{spec.name}': {what} {size} values, the spec says {right}"
                )
        if spec.fast is not None and estimator is not None:
            raise InputError(
                f"policy '{spec.name}': fast numbers follow from what a robot measures itself; "
                "leave the estimator out"
            )
        self.spec = spec
        self.network = network
        self.normalizer = normalizer
        self.estimator = estimator
        self.memory = memory
        self.belief: Belief | None = None
        if spec.memory is not None and spec.memory.believes:
            self.belief = Belief(spec.memory.hidden, len(spec.memory.believes))
        self.prediction: Prediction | None = None
        if spec.fast is not None:
            newest = (spec.history - 1) * spec.obs_size
            self.prediction = Prediction(
                spec.fast, spec.feature_size, newest, spec.obs_size, spec.action_size
            )
        self.log_std = None if log_std is None else nn.Parameter(log_std.detach().clone().float())
        for name, value in (
            ("command_low", spec.actuators.low),
            ("command_high", spec.actuators.high),
            ("action_scale", spec.action_scale),
            ("action_offset", spec.action_offset),
            ("nominal", [parameter.nominal for parameter in spec.context]),
        ):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)

    @property
    def z_names(self) -> tuple[str, ...]:
        return self.spec.z_names

    def initial(self, batch: int) -> State:
        """z before the first observation; that observation comes with reset = 1."""
        parts = {
            "history": lambda: self.nominal.new_zeros(batch, self.spec.history, self.spec.obs_size),
            "context": lambda: self.nominal.repeat(batch, 1),
            "fast": lambda: self.nominal.new_zeros(batch, self.spec.fast_size),
            "memory": lambda: self._memory.initial(batch),
            "last_action": lambda: self.nominal.new_zeros(batch, self.spec.action_size),
        }
        return tuple(parts[name]() for name in self.z_names)

    def forward(self, obs: Tensor, z: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """The command (B, A) and z' for obs (B, O).

        reset (B, 1) is above 0.5 where an episode begins; None: it begins nowhere.
        """
        command, _, z = self.forward_full(obs, z, reset)
        return command, z

    def forward_full(
        self, obs: Tensor, z: State, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor, State]:
        """As `forward`, with the raw action, before scale, offset and clip, in the middle."""
        mean, z = self._mean(obs, z, reset)
        raw = mean.tanh() if self.spec.head == "tanh" else mean
        command = torch.clamp(
            raw * self.action_scale + self.action_offset, self.command_low, self.command_high
        )
        return command, raw, self.acted(z, raw)

    def acted(self, z: State, raw: Tensor) -> State:
        """z after a raw action (B, A): what the memory is told of it next."""
        return self._with(z, "last_action", raw.clamp(-1.0, 1.0))

    def told(self, z: State, context: Array | None) -> State:
        """z of a policy that is told ξ, (K,) or (B, K); as it is where there is nothing to tell or
        the policy has no context."""
        return self.given(z, "context", context)

    def given(self, z: State, name: str, value: Array | Tensor | None) -> State:
        """z with another value of a part, the same for all or one each; as it is where there is
        none, or the policy has no such part."""
        if value is None or name not in self.z_names:
            return z
        old = z[self.z_names.index(name)]
        new = torch.tensor(np.array(value)) if not isinstance(value, Tensor) else value.clone()
        return self._with(z, name, new.to(torch.float32).expand_as(old))

    def _with(self, z: State, name: str, value: Tensor) -> State:
        """z with another value of a part, where the policy has that."""
        names = self.z_names
        return tuple(value if n == name else old for n, old in zip(names, z, strict=True))

    def distribution(
        self, obs: Tensor, z: State, reset: Tensor | None = None
    ) -> tuple[Independent[Normal], State]:
        """The distribution of the network's output, before tanh, scale and clip; and z', which with
        a memory must be told what was drawn of it (`acted`).

        Raises:
            InputError: the policy has no log_std.
        """
        if self.log_std is None:
            raise InputError(
                f"policy '{self.spec.name}' has no log_std, so it has no distribution; "
                "a policy trained with PPO has one"
            )
        mean, z = self._mean(obs, z, reset)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1), z

    def _mean(self, obs: Tensor, z: State, reset: Tensor | None) -> tuple[Tensor, State]:
        features, z = self.features(obs, z, reset)
        features = self.normalizer(features)
        if self.prediction is not None:
            fast = z[self.z_names.index("fast")]
            return self.network(torch.cat([features, fast], dim=1)), z
        if self.memory is not None:
            features, z = self._recalled(features, z, reset)
        return self.network(features), z

    def _recalled(self, features: Tensor, z: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """Features (B, F) with what is remembered beside them; and z'."""
        parts = dict(zip(self.z_names, z, strict=True))
        x = self.remembered(features, parts["last_action"], reset)
        h, parts["memory"] = self._memory.step(x, parts["memory"])
        return torch.cat([x, h], dim=1), tuple(parts.values())

    def remembered(self, features: Tensor, last: Tensor, reset: Tensor | None) -> Tensor:
        """x (..., X): what the memory is told in a step, of normalised features (..., F)."""
        begins = torch.zeros_like(last[..., :1]) if reset is None else reset
        return torch.cat([features, last, begins], dim=-1)

    @torch.no_grad()
    def believed(self, z: State) -> tuple[Tensor, Tensor]:
        """Mean and deviation (B, K), in physical units, of what is believed of the ξ that
        `spec.memory.believes` names.

        Raises:
            InputError: the policy believes nothing of ξ.
        """
        if self.belief is None:
            raise InputError(
                f"policy '{self.spec.name}' holds no belief about ξ; adapt: task_inference does"
            )
        mean, deviation = self.belief(z[self.z_names.index("memory")][:, : self._memory.hidden])
        return mean, deviation

    @property
    def _memory(self) -> Memory:
        assert self.memory is not None
        return self.memory

    def features(self, obs: Tensor, z: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """What the network sees before normalisation, (B, H·O + K); and z'."""
        parts = dict(zip(self.z_names, z, strict=True))
        features = obs = obs if self.estimator is None else self.estimator(obs)
        if "history" in parts:
            old = parts["history"]  # (B, H, O)
            history = torch.cat([old[:, 1:], obs.unsqueeze(1)], dim=1)
            if reset is not None:
                # by selection: a state that went NaN recovers, which (1 - reset) · state does not
                history = torch.where(
                    reset.unsqueeze(-1) > 0.5, obs.unsqueeze(1).expand_as(old), history
                )
            parts["history"] = history
            features = history.flatten(1)  # (B, H·O)
        if "context" in parts:
            features = torch.cat([features, parts["context"]], dim=1)
        return features, tuple(parts.values())

    def save(self, folder: str | Path) -> None:
        """Write policy.pt (everything) and policy.json (its description, for people) to `folder`.

        Each file appears whole or not at all. Killed at any moment, the folder holds a complete
        policy.pt, the old one or the new one.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        sizes, activation = layout(self.network)
        description = {
            "schema": SCHEMA,
            "spec": self.spec.to_dict(),
            "network": {"sizes": sizes, "activation": activation},
            "log_std": self.log_std is not None,
            "estimator": None if self.estimator is None else self.estimator.sizes,
        }
        text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        weights, readable = folder / WEIGHTS, folder / DESCRIPTION
        torch.save({"description": text, "state": self.state_dict()}, _new(weights))
        _new(readable).write_text(text, encoding="utf-8")
        readable.unlink(missing_ok=True)  # first, so that it never describes other weights
        os.replace(_new(weights), weights)
        os.replace(_new(readable), readable)

    @classmethod
    def load(cls, path: str | Path) -> Policy:
        """The policy that `save` wrote into the folder `path`, in evaluation mode.

        Raises:
            InputError: the file is missing, damaged, of another schema, or not what policy.json
                describes.
        """
        path = Path(path) / WEIGHTS
        if not path.is_file():
            raise InputError(
                f"{path}: no such file; a policy folder holds {WEIGHTS} and {DESCRIPTION}"
            )
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
            text, state = content["description"], content["state"]
            description = json.loads(text)
        except Exception as error:  # torch.load raises whatever its unpickler and zip reader raise
            raise InputError(f"{path}: not a policy, or damaged; train or save it again") from error
        readable = path.with_name(DESCRIPTION)
        if readable.is_file() and readable.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{readable}: differs from the description inside {WEIGHTS}, which is what counts; "
                f"undo the edit, or delete {DESCRIPTION}"
            )
        if description.get("schema") != SCHEMA:
            raise InputError(
                f"{path}: schema {description.get('schema')}; this version reads {SCHEMA}"
            )
        spec = PolicySpec.from_dict(description["spec"], str(readable))
        log_std = torch.zeros(spec.action_size) if description["log_std"] else None
        sizes = description.get("estimator")
        policy = cls(
            spec, mlp(**description["network"]), Normalizer.identity(spec.feature_size), log_std,
            None if sizes is None else Estimator.blank(sizes),
        )  # fmt: skip
        try:
            policy.load_state_dict(state)
        except RuntimeError as error:
            raise InputError(
                f"{path}: the weights do not fit the description; save the policy again"
            ) from error
        return policy.eval()


def renewed(some: Tensor, new: State, old: State) -> State:
    """z (B, ...), new where `some` (B,) bool."""
    return tuple(
        torch.where(some.view(-1, *[1] * (o.ndim - 1)), n, o) for n, o in zip(new, old, strict=True)
    )


load = Policy.load
"""`sim2real.load`."""


def _new(path: Path) -> Path:
    """Where a file is written before it replaces the one in place."""
    return path.with_name(path.name + ".new")
