"""Policies that learn by reward over trials of simulated robots, several episodes with one each.

RL² (Duan and others 2016, Wang and others 2016) where the policy sees all that it remembers. Here
without the reward in what it is told, for few robots can measure it; the critic, which stays in
the simulator, is told the rest of the state and ξ.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim2real.bridges.adapt.memory.network import RecurrentActorCritic
from sim2real.bridges.adapt.memory.recurrent_ppo import Figures, PPOSettings, RecurrentPPO
from sim2real.bridges.adapt.memory.robots import FARTHEST, RobotTrials
from sim2real.bridges.adapt.memory.trials import Told
from sim2real.learning.learners import Learner
from sim2real.policy.memory import Memory
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import PolicySpec
from sim2real.simulation.trials import TrialWorlds
from sim2real.types import InputError, nearest

NAMES = {
    "n_steps": "sequence", "n_epochs": "epochs", "gae_lambda": "gae_lambda", "clip_range": "clip",
    "ent_coef": "entropy", "vf_coef": "value", "max_grad_norm": "max_grad_norm",
    "batch_size": "minibatches",
}  # fmt: skip
"""Stable-Baselines3's names of what is set -> those of `PPOSettings`."""
CHECKPOINT = "learner.pt"


LEAST = {
    "n_steps": 1, "batch_size": 1, "n_epochs": 1, "gae_lambda": 0.0, "clip_range": 0.0,
    "ent_coef": 0.0, "vf_coef": 0.0, "max_grad_norm": 0.0,
}  # fmt: skip


def settings_of(learner: Learner, worlds: int, method: str) -> PPOSettings:
    """What a recipe says of PPO, for whole sequences of B worlds, by its `adapt.method`.

    Raises:
        InputError: an algorithm that is not PPO, a setting that whole sequences do not have, or a
            batch that is not of whole sequences.
    """
    if learner.algorithm != "ppo":
        raise InputError(f"adapt: {method} learns by ppo; learner.algorithm is {learner.algorithm}")
    made: dict[str, Any] = {}
    for name, value in learner.settings.items():
        if name not in NAMES:
            raise InputError(
                f"learner.settings.{name}: adapt: {method} learns from whole sequences, whose "
                f"settings are {', '.join(NAMES)}{nearest(name, NAMES)}"
            )
        if value < LEAST[name] or (name == "gae_lambda" and value > 1):
            most = " and at most 1" if name == "gae_lambda" else ""
            raise InputError(
                f"learner.settings.{name} is {value}; it must be at least {LEAST[name]:g}{most}"
            )
        made[NAMES[name]] = value
    if "minibatches" not in made:
        made["minibatches"] = min(PPOSettings.minibatches, worlds)
    else:
        sequence, batch = made.get("sequence", PPOSettings.sequence), made["minibatches"]
        if batch % sequence or (sequence * worlds) % batch:
            raise InputError(
                f"learner.settings.batch_size is {batch}; a batch is of whole sequences, "
                f"{sequence} steps each (n_steps), so many that {worlds} worlds are a multiple"
            )
        made["minibatches"] = sequence * worlds // batch
    return PPOSettings(
        learning_rate=learner.learning_rate, gamma=learner.gamma,
        final_learning_rate=(
            learner.learning_rate
            if learner.final_learning_rate is None
            else learner.final_learning_rate
        ),
        **made,
    )  # fmt: skip


class TrialLearner:
    """Learns a policy of `spec`, which has a memory and sees one observation at a time.

    Args:
        make: the network, of what `RecurrentActorCritic` takes.
        trials: of worlds that observe the policy's terms, then what the critic alone is told.
        steps: of the whole training.
    """

    def __init__(
        self, spec: PolicySpec, trials: TrialWorlds, learner: Learner, *, steps: int, seed: int = 0,
        make: Callable[..., RecurrentActorCritic] = RecurrentActorCritic,
    ) -> None:  # fmt: skip
        assert spec.memory is not None
        assert spec.history == 1
        self.spec = spec
        self.robots = RobotTrials(trials, seen=spec.obs_size)
        told = Told(spec.obs_size, self.robots.actions, reward=False)
        torch.manual_seed(seed)
        self._memory = Memory(told.size, spec.memory)
        self.network = make(
            self._memory, self.robots.actions, critic=self.robots.critic_size,
            network=learner.network, activation=learner.activation, log_std=learner.log_std_init,
        )  # fmt: skip
        settings = settings_of(learner, trials.batch, "memory")
        self.ppo = RecurrentPPO(self.network, self.robots, told, settings, steps=steps, seed=seed)

    def learn(self, after: Callable[[int, Figures], None]) -> None:
        """Until all steps are taken; `after` is told their number after every iteration."""
        while self.ppo.taken < self.ppo.steps:
            figures = self.ppo.iterate()
            after(self.ppo.taken, figures)

    def policy(self) -> Policy:
        """What was learned: the mean of its actions, without critic and noise."""
        seen = self.robots.obs_statistics
        O = self.spec.obs_size
        normalizer = Normalizer(seen.mean[:O], seen.deviation[:O] ** 2, eps=0.0, clip=FARTHEST)
        log_std = self.network.log_std
        assert log_std is not None
        policy = Policy(
            self.spec, self.network.on_memory(), normalizer, log_std,
            memory=copy.deepcopy(self._memory),
        )  # fmt: skip
        of_critic = (torch.as_tensor(x[O:]).float() for x in (seen.mean, seen.deviation))
        self.network.reveal(policy, *of_critic)
        return policy.requires_grad_(False)

    def save(self, folder: Path) -> None:
        """All that a run needs to go on, but for the episodes that are under way."""
        torch.save(
            {
                "network": self.network.state_dict(), "taken": self.ppo.taken,
                "optimizer": self.ppo.optimizer.state_dict(),
                "generator": self.ppo.generator.get_state(), "torch": torch.get_rng_state(),
                "obs": _numbers(self.robots.obs_statistics.state()),
                "returns": _numbers(self.robots.return_statistics.state()),
            },
            folder / CHECKPOINT,
        )  # fmt: skip

    def load(self, folder: Path) -> None:
        """What `save` wrote. Raises what torch raises where it cannot be read."""
        kept = torch.load(folder / CHECKPOINT, weights_only=True)
        self.network.load_state_dict(kept["network"])
        self.ppo.optimizer.load_state_dict(kept["optimizer"])
        self.ppo.generator.set_state(kept["generator"])
        self.ppo.taken = kept["taken"]
        self.robots.obs_statistics.restore(_arrays(kept["obs"]))
        self.robots.return_statistics.restore(_arrays(kept["returns"]))
        self.ppo.begin()
        torch.set_rng_state(kept["torch"])


def _numbers(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: torch.as_tensor(value) for name, value in state.items()}


def _arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) for name, value in state.items()}
