"""EPOpt: learn from the episodes that went worst, so that the policy serves unlucky physics too.

Every iteration rolls out N whole episodes, one per draw of ξ, and gives the policy the worst
fraction ε of them by undiscounted return: ascent on the conditional value at risk,
CVaR_ε = E[R | R ≤ Q_ε] (Rajeswaran et al. 2017, algorithm 1). The value function fits all of them.

`EPOptPPO` is Stable-Baselines3's PPO with that selection and needs nothing else of this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecMonitor, VecNormalize
from torch import Tensor
from torch.nn import functional as F

from sim2real.bridges.randomize.uniform import Uniform
from sim2real.dynamics.distribution import Distribution
from sim2real.dynamics.parameter import ParameterSpace
from sim2real.types import Array, InputError

LEAST = 64
"""Kept samples of a minibatch at least (or its size, where that is smaller): Stable-Baselines3's
own default size. An advantage normalised over a handful of samples is mostly noise."""
LONGEST = 50_000
"""Steps [1] after which an episode is taken to have no end."""


def worst(returns: Array, epsilon: float, minimum: int = 1) -> Array:
    """Indices (n,), ascending, of the n = max(minimum, round(εN)) lowest of returns (N,).

    Of equal returns the first ones are taken: `R ≤ Q_ε` would keep every tied episode, and with
    returns that are capped ε would silently become 1.

    Raises:
        InputError: no return, one that is not finite, or an ε outside (0, 1].
    """
    R = np.asarray(returns, float)
    if not 0 < epsilon <= 1:
        raise InputError(f"epsilon is {epsilon}; it must lie in (0, 1]")
    if R.ndim != 1 or len(R) == 0:
        raise InputError(f"returns have shape {R.shape}; give one number per episode, (N,)")
    if not np.isfinite(R).all():
        first = int(np.flatnonzero(~np.isfinite(R))[0])
        raise InputError(f"the return of episode {first} is {R[first]}; it must be finite")
    n = min(len(R), max(minimum, round(epsilon * len(R))))
    return np.sort(np.argsort(R, kind="stable")[:n])


def cvar(returns: Array, epsilon: float) -> float:
    """Mean of the worst fraction ε of returns (N,), of at least one. Raises as `worst` does."""
    return float(np.asarray(returns, float)[worst(returns, epsilon)].mean())


@dataclass(frozen=True)
class EPOpt:
    """Rajeswaran et al. 2017: uniform randomization, learning from the worst episodes. For PPO."""

    method: Literal["epopt"] = "epopt"
    epsilon: float = 0.1
    """Fraction of the episodes, the worst ones, that the policy learns from."""
    warm_up: float = 0.5
    """Share of the training that learns from all episodes first: the worst of a policy that can do
    nothing yet teach little."""
    episodes: int = 128
    """Whole episodes of an iteration, one per draw of ξ. Worlds wait for the last of them to end,
    and their waiting counts as simulated: a quarter as many worlds or fewer wait little."""
    min_kept: int = 8
    """Episodes that the policy learns from at least, whatever epsilon says."""
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Parameter -> (low, high), instead of env.yaml's range. Equal ends hold it fixed."""

    def __post_init__(self) -> None:
        _check("randomize", self.epsilon, self.warm_up, self.episodes, self.min_kept)

    def distribution(self, space: ParameterSpace) -> Distribution:
        """Over ξ (n, K). Raises InputError for a parameter that the robot does not have."""
        return Uniform(ranges=self.ranges).distribution(space)

    def bounds(self, space: ParameterSpace) -> dict[str, tuple[float, float]]:
        """Parameter -> (low, high) of the training. Raises as `distribution` does."""
        return Uniform(ranges=self.ranges).bounds(space)

    def settings(self) -> dict[str, Any]:
        """What `EPOptPPO` is told of it, beside the settings of PPO."""
        return {
            "epsilon": self.epsilon, "warm_up": self.warm_up,
            "episodes": self.episodes, "min_kept": self.min_kept,
        }  # fmt: skip


def _check(place: str, epsilon: float, warm_up: float, episodes: int, min_kept: int) -> None:
    if not 0 < epsilon <= 1:
        raise InputError(f"{place}: epsilon is {epsilon}; it must lie in (0, 1]")
    if not 0 <= warm_up <= 1:
        raise InputError(f"{place}: warm_up is {warm_up}; it must lie in [0, 1]")
    if episodes < 1:
        raise InputError(f"{place}: episodes is {episodes}; it must be at least 1")
    if not 1 <= min_kept <= episodes:
        raise InputError(
            f"{place}: min_kept is {min_kept}; it must lie between 1 and episodes, {episodes}"
        )


class EPOptPPO(PPO):
    """PPO that learns from the worst fraction ε of the episodes (Rajeswaran et al. 2017).

    An iteration resets the environments and collects exactly `episodes` whole episodes: each
    environment takes the next of that many starts when its episode ends, and every episode that
    was started is completed and counted. (The first N to *finish* would be short ones too often,
    and with them the physics that ends episodes early.) An environment without a start left steps
    on idly; its steps teach nothing and count in `num_timesteps`, as do those of the episodes that
    are not kept: the budget is of simulated steps. The environment must draw its physics anew for
    every episode, and every episode must end.

    The policy and the entropy learn from the kept episodes, the value function from all. Returns
    are undiscounted sums of the environment's own reward: `infos[i]["episode"]["r"]` where a
    Monitor writes it, else the rewards below a VecNormalize, else the rewards as they come.

    The advantage has PPO's baseline, as in the paper, and not Q_ε, with which alone the gradient of
    CVaR_ε is unbiased: a stochastic policy that cannot see ξ ends near the optimum, not at it.
    A VecNormalize around the environment learns its statistics from the idle steps too.

    Args:
        policy, env: as PPO; any VecEnv.
        epsilon: fraction of the episodes that are kept, in (0, 1].
        warm_up: share of the total steps in which all episodes are kept.
        episodes: N, the whole episodes of an iteration.
        min_kept: episodes that are kept at least.
        ppo: every other argument of PPO. `n_steps` only sizes the arrays at first, since the
            length of an iteration follows from its episodes. `batch_size` holds for all samples
            together; each minibatch gets its share of the kept ones, and there are fewer and
            larger minibatches where that share would fall below 64.

    Logs `rollout/cvar` (at the declared epsilon, in the warm-up too), `rollout/return_mean`,
    `rollout/kept` (episodes), `rollout/epsilon` and `rollout/idle` (share of the steps).

    Raises:
        InputError: an argument out of range; while learning, a return that is not finite, or
            environments whose episodes do not end.
    """

    def __init__(
        self,
        policy: Any,
        env: Any,
        *,
        epsilon: float = 0.1,
        warm_up: float = 0.5,
        episodes: int = 128,
        min_kept: int = 8,
        **ppo: Any,
    ) -> None:
        _check("EPOptPPO", epsilon, warm_up, episodes, min_kept)
        for name in ("rollout_buffer_class", "rollout_buffer_kwargs"):
            if ppo.get(name) is not None:
                raise InputError(f"EPOptPPO: {name} cannot be given; whole episodes need their own")
        self.epsilon, self.warm_up = epsilon, warm_up
        self.episodes, self.min_kept = episodes, min_kept
        ppo.setdefault("n_steps", ppo.get("batch_size", 64))
        ppo["rollout_buffer_class"] = EpisodeBuffer
        super().__init__(policy, env, **ppo)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:  # fmt: skip
        """Fills the buffer with N whole episodes; False where the callback stopped it."""
        buffer = cast(EpisodeBuffer, rollout_buffer)
        B, N = env.num_envs, self.episodes
        warming = self.num_timesteps < self.warm_up * self._total_timesteps
        epsilon = 1.0 if warming else self.epsilon
        self.policy.set_training_mode(False)
        buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(B)
        callback.on_rollout_start()
        obs = self._last_obs = cast(Any, env.reset())  # after what the callback may have changed
        self._last_episode_starts = np.ones(B, bool)
        # Which of the N episodes each environment is in; -1: idle.
        episode = np.where(np.arange(B) < N, np.arange(B), -1)  # (B,)
        started, age = min(B, N), np.zeros(B, int)
        returns = _Returns(env, N)
        endings: list[dict[str, Any]] = [{} for _ in range(N)]
        while (episode >= 0).any():
            if self.use_sde and self.sde_sample_freq > 0 and not len(buffer) % self.sde_sample_freq:
                self.policy.reset_noise(B)
            with torch.no_grad():
                actions, values, log_probs = self.policy(obs_as_tensor(obs, self.device))
            actions = actions.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(self._within_bounds(actions))
            self.num_timesteps += B
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            ended = np.flatnonzero(dones & (episode >= 0))
            buffer.add(
                obs, action=actions, reward=rewards + self._beyond(ended, infos), done=dones,
                value=values.flatten().cpu().numpy(), log_prob=log_probs.cpu().numpy(),
                episode=episode,
            )  # fmt: skip
            returns.add(rewards)
            for i in ended.tolist():
                endings[episode[i]] = infos[i]
            returns.end(ended, dones, episode[ended], infos)
            following = np.arange(started, started + len(ended))
            episode = episode.copy()
            episode[ended] = np.where(following < N, following, -1)
            started = min(started + len(ended), N)
            age = np.where(dones, 0, age + 1)
            if (age[episode >= 0] == LONGEST).any():
                raise InputError(
                    f"EPOptPPO learns from whole episodes, and one has not ended in {LONGEST} "
                    "steps; give the environment a time limit"
                )
            obs = self._last_obs = cast(Any, new_obs)
            self._last_episode_starts = dones
        J = returns.undiscounted()
        buffer.finish(J, worst(J, epsilon, self.min_kept))
        self._update_info_buffer(endings, np.ones(N, bool))
        self.logger.record("rollout/cvar", cvar(J, self.epsilon))
        self.logger.record("rollout/return_mean", J.mean())
        self.logger.record("rollout/kept", len(buffer.kept))
        self.logger.record("rollout/epsilon", epsilon)
        self.logger.record("rollout/idle", 1 - len(buffer.samples) / (len(buffer) * B))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _within_bounds(self, actions: Array) -> Array:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _beyond(self, ended: Array, infos: list[dict[str, Any]]) -> Array:
        """(B,) γ V(last observation) where time ran out, else 0: what an episode would still have
        earned. Pardo et al. 2018."""
        beyond = np.zeros(len(infos), np.float32)
        cut = [
            i for i in ended.tolist()
            if infos[i].get("TimeLimit.truncated", False)
            and infos[i].get("terminal_observation") is not None
        ]  # fmt: skip
        if cut:
            last = [infos[i]["terminal_observation"] for i in cut]
            stacked: Any = (
                {name: np.stack([o[name] for o in last]) for name in last[0]}
                if isinstance(last[0], dict)
                else np.stack(last)
            )
            with torch.no_grad():
                values = self.policy.predict_values(self.policy.obs_to_tensor(stacked)[0])
            beyond[cut] = self.gamma * values.flatten().cpu().numpy()
        return beyond

    def train(self) -> None:
        """PPO's epochs (Schulman et al. 2017): policy and entropy on the kept samples of each
        minibatch, value function on all."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        buffer = cast(EpisodeBuffer, self.rollout_buffer)
        figures: list[_Figures] = []
        last: list[_Figures] = []
        for epoch in range(self.n_epochs):
            last = self._epoch(buffer)
            figures += last
            self._n_updates += 1
            if self._strays(last[-1]):
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch}: max kl: {last[-1].approx_kl:.2f}")
                break
        means = _Figures(*np.mean(figures, axis=0))
        self.logger.record("train/entropy_loss", means.entropy_loss)
        self.logger.record("train/policy_gradient_loss", means.policy_loss)
        self.logger.record("train/value_loss", means.value_loss)
        self.logger.record("train/approx_kl", np.mean([f.approx_kl for f in last]))
        self.logger.record("train/clip_fraction", means.clip_fraction)
        self.logger.record("train/loss", figures[-1].loss)
        explained = explained_variance(*buffer.values_and_targets())
        self.logger.record("train/explained_variance", explained)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", self._now(self.clip_range))
        if self.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", self._now(self.clip_range_vf))

    def _epoch(self, buffer: EpisodeBuffer) -> list[_Figures]:
        """One pass, cut short before a minibatch on which the policy strays."""
        figures: list[_Figures] = []
        for part in buffer.minibatches(self.batch_size):
            loss, said = self._loss(part)
            figures.append(said)
            if self._strays(said):
                break
            self.policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        return figures

    def _strays(self, said: _Figures) -> bool:
        return self.target_kl is not None and said.approx_kl > 1.5 * self.target_kl

    def _loss(self, part: Minibatch) -> tuple[Tensor, _Figures]:
        actions = part.actions
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        kept = len(part.old_log_prob)
        values, log_prob, entropy = self.policy.evaluate_actions(
            _rows(part.obs, slice(kept)), actions
        )
        values = values.flatten()
        if len(part.old_value) > kept:  # the policy never meets those that are not kept
            others = self.policy.predict_values(_rows(part.obs, slice(kept, None)))
            values = torch.cat([values, others.flatten()])
        advantage = part.advantage
        if self.normalize_advantage and kept > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        clip = self._now(self.clip_range)
        log_ratio = log_prob - part.old_log_prob
        policy_loss, clipped = clipped_surrogate(log_ratio, advantage, clip)
        if self.clip_range_vf is not None:
            bound = self._now(self.clip_range_vf)
            values = part.old_value + (values - part.old_value).clamp(-bound, bound)
        value_loss = F.mse_loss(values, part.target)
        entropy_loss = -(-log_prob if entropy is None else entropy).mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            approx_kl = ((log_ratio.exp() - 1) - log_ratio).mean()  # joschu.net/blog/kl-approx.html
            said = torch.stack([policy_loss, value_loss, entropy_loss, clipped, approx_kl, loss])
        return loss, _Figures(*said.tolist())

    def _now(self, schedule: Any) -> float:
        return schedule(self._current_progress_remaining)

    def learn(
        self, total_timesteps: int, callback: MaybeCallback = None, log_interval: int = 1,
        tb_log_name: str = "EPOptPPO", reset_num_timesteps: bool = True, progress_bar: bool = False,
    ) -> EPOptPPO:  # fmt: skip
        """As PPO. The last iteration completes its episodes, so a few steps more are simulated."""
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )


class _Figures(NamedTuple):
    policy_loss: float
    value_loss: float
    entropy_loss: float
    clip_fraction: float
    approx_kl: float
    loss: float


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Loss and share of clipped samples, from two (n,): Schulman et al. 2017, eq. 7."""
    ratio = log_ratio.exp()
    loss = -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()
    return loss, ((ratio - 1).abs() > clip).float().mean()


class Minibatch(NamedTuple):
    """n samples of all episodes, those k of kept episodes first."""

    obs: Any
    """(n, ...), or a dictionary of such."""
    actions: Tensor
    """(k, ...)"""
    old_log_prob: Tensor
    """(k,)"""
    advantage: Tensor
    """(k,)"""
    old_value: Tensor
    """(n,)"""
    target: Tensor
    """(n,)"""


class EpisodeBuffer:
    """The steps (T, B) of one iteration, however many; stands where PPO has its RolloutBuffer.

    `returns` (N,) and `kept` (n,) are those of the last `finish`; `samples` are the steps that are
    part of an episode, as indices into T·B.
    """

    def __init__(
        self, buffer_size: int, observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any], device: torch.device | str = "auto",
        gae_lambda: float = 1.0, gamma: float = 0.99, n_envs: int = 1,
    ) -> None:  # fmt: skip
        self.device, self.gae_lambda, self.gamma = device, gae_lambda, gamma
        self._room = max(1, buffer_size)
        self._arrays: dict[str, Array] = {}
        self.returns: Array = np.zeros(0)
        self.kept: Array = np.zeros(0, int)
        self.reset()

    def reset(self) -> None:
        """Forgets the steps, keeps the room."""
        self._steps = 0
        self.samples: Array = np.zeros(0, int)

    def __len__(self) -> int:
        return self._steps

    def add(self, obs: Any, **columns: Array) -> None:
        """One step of B environments: obs (B, ...) or a dictionary of such, and `action`,
        `reward`, `done`, `value`, `log_prob` and `episode` (B,), -1 for an idle environment."""
        for name, value in (_named(obs) | columns).items():
            if name not in self._arrays:
                kind = np.float32 if value.dtype.kind == "f" else value.dtype
                self._arrays[name] = np.empty((self._room, *value.shape), kind)
            elif len(self._arrays[name]) == self._steps:
                full = self._arrays[name]
                self._arrays[name] = np.concatenate([full, np.empty_like(full)])
            self._arrays[name][self._steps] = value
        self._steps += 1

    def __getitem__(self, name: str) -> Array:
        """(T, B, ...) of a column that `add` names, of `advantage`, or `obs` where it is one."""
        return self._arrays[name][: self._steps]

    def finish(self, returns: Array, kept: Array) -> None:
        """Advantages (Schulman et al. 2016, eq. 16), and which samples are of kept episodes.

        Args:
            returns: (N,) of the episodes.
            kept: (n,) indices of those that the policy learns from.
        """
        self.returns, self.kept = returns, kept
        value, going = self["value"], (~self["done"].astype(bool)).astype(np.float32)
        advantage = np.empty_like(value)
        after = following = np.zeros_like(value[0])
        for t in reversed(range(self._steps)):
            # An episode's last step is done: nothing of the idle steps behind it comes through.
            delta = self["reward"][t] + self.gamma * following * going[t] - value[t]
            after = delta + self.gamma * self.gae_lambda * going[t] * after
            advantage[t], following = after, value[t]
        self._arrays["advantage"] = advantage
        episode = self["episode"].reshape(-1)
        self.samples = np.flatnonzero(episode >= 0)
        is_kept = np.zeros(len(returns), bool)
        is_kept[kept] = True
        chosen = is_kept[episode[self.samples]]
        self._chosen, self._others = self.samples[chosen], self.samples[~chosen]

    def values_and_targets(self) -> tuple[Array, Array]:
        """(n,) each, of all samples: what the value function said, and its target TD(λ)."""
        value = self["value"].reshape(-1)[self.samples]
        return value, value + self["advantage"].reshape(-1)[self.samples]

    def minibatches(self, size: int) -> Iterator[Minibatch]:
        """All samples once, in random order; every minibatch has its share of the kept ones."""
        least = min(size, LEAST)
        count = min(-(-len(self.samples) // size), max(1, len(self._chosen) // least))
        parts = zip(
            np.array_split(_shuffled(self._chosen), count),
            np.array_split(_shuffled(self._others), count),
            strict=True,
        )
        for chosen, others in parts:
            both = np.concatenate([chosen, others])
            value = self._tensor("value", both)
            yield Minibatch(
                obs=self._obs(both), actions=self._tensor("action", chosen),
                old_log_prob=self._tensor("log_prob", chosen),
                advantage=self._tensor("advantage", chosen),
                old_value=value, target=value + self._tensor("advantage", both),
            )  # fmt: skip

    def _tensor(self, name: str, rows: Array) -> Tensor:
        column = self[name]
        return torch.as_tensor(column.reshape(-1, *column.shape[2:])[rows], device=self.device)

    def _obs(self, rows: Array) -> Any:
        if "obs" in self._arrays:
            return self._tensor("obs", rows)
        names = [name for name in self._arrays if name.startswith("obs.")]
        return {name.removeprefix("obs."): self._tensor(name, rows) for name in names}


def _named(obs: Any) -> dict[str, Array]:
    if isinstance(obs, dict):
        return {f"obs.{name}": np.asarray(value) for name, value in obs.items()}
    return {"obs": np.asarray(obs)}


def _rows(obs: Any, rows: slice) -> Any:
    return {name: o[rows] for name, o in obs.items()} if isinstance(obs, dict) else obs[rows]


def _shuffled(rows: Array) -> Array:
    return rows[torch.randperm(len(rows)).numpy()]  # torch's stream: a model's seed sets it


class _Returns:
    """Undiscounted returns (N,) of episodes, in the environment's own reward."""

    def __init__(self, env: VecEnv, N: int) -> None:
        self._sum = np.zeros(env.num_envs)
        self._summed, self._monitored = np.full(N, np.nan), np.full(N, np.nan)
        wrappers: list[Any] = []
        while isinstance(env, VecEnvWrapper):
            wrappers.append(env)
            env = env.venv
        scaling = [i for i, w in enumerate(wrappers) if isinstance(w, VecNormalize)]
        self._normalize = wrappers[scaling[-1]] if scaling else None  # the innermost
        monitors = [i for i, w in enumerate(wrappers) if isinstance(w, VecMonitor)]
        # The outermost monitor writes last; above a VecNormalize it has seen scaled rewards.
        self._trusted = not (monitors and scaling and scaling[-1] > monitors[0])

    def add(self, rewards: Array) -> None:
        self._sum += rewards if self._normalize is None else self._normalize.get_original_reward()

    def end(self, ended: Array, dones: Array, episodes: Array, infos: list[dict[str, Any]]) -> None:
        """`ended`: environments in which one of the `episodes`, in this order, has ended."""
        self._summed[episodes] = self._sum[ended]
        for i, k in zip(ended.tolist(), episodes.tolist(), strict=True):
            self._monitored[k] = infos[i].get("episode", {}).get("r", np.nan)
        self._sum[dones] = 0.0

    def undiscounted(self) -> Array:
        """(N,), all of them from one source."""
        monitored = self._trusted and not np.isnan(self._monitored).any()
        return self._monitored if monitored else self._summed
