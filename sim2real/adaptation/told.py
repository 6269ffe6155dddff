"""What a policy is told: its context, explained by logs or searched for on the robot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.adaptation.gate import by_likelihood
from sim2real.adaptation.rehearsal import Rehearsal, around, rehearsal_worlds, rehearse
from sim2real.adaptation.session import (
    EXPLORE,
    Adaptation,
    Session,
    Spent,
    gathering,
    state_of,
)
from sim2real.bridges.adapt.context import ContextAdapter, ContextState
from sim2real.bridges.adapt.search import search
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.logs.npz import read_logs
from sim2real.deploy.robots.base import RobotDescription
from sim2real.identification.trajectories import read_trajectories
from sim2real.policy.policy import Policy
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError


class _Told:
    """What both have in common. The context stays inside the ranges that the policy was trained
    on."""

    def __init__(self, policy: Policy, robot: Robot, seed: int) -> None:
        self.policy, self.robot, self.seed = policy, robot, seed
        self.before = ContextAdapter(robot, seed=seed).prior(np.random.default_rng(seed))

    def state(self, session: Session, z: ContextState, *, accepted: bool = False) -> AdaptedState:
        value, std = self._known(z)
        return session.state(value, names=self.robot.space.names, std=std, accepted=accepted)

    def _known(self, z: ContextState) -> tuple[list[float], list[float]]:
        spread = self.robot.space.prior().std() if z.posterior is None else z.posterior.std
        return z.value.tolist(), list(spread)

    def gate(
        self, session: Session, z: ContextState, pairs: int, report: progress.Report
    ) -> tuple[bool, str]:
        """Returns of alternating episodes; held-out windows where there is no reward."""
        if not session.rewarded:
            assert z.posterior is not None  # a search there is refused
            return by_likelihood(z.posterior)
        before = self.state(session, self.before)
        return session.by_turns(before, self.state(session, z), pairs, report)

    def verdict(
        self, session: Session, accepted: bool, reason: str, z: ContextState,
        rehearsal: Rehearsal | None, refused: int = 0,
    ) -> Adaptation:  # fmt: skip
        state = self.state(session, z if accepted else self.before, accepted=accepted)
        return Adaptation(
            accepted, reason, state, session.artifact.folder, z.posterior, rehearsal,
            session.spent, session.stages, refused,
        )  # fmt: skip


class Identify(_Told):
    """Gathers logs with bounded noise on the commands, explains them by simulation, rehearses in
    worlds drawn from the posterior, and lets the gate decide."""

    def __init__(self, policy: Policy, robot: Robot, seed: int, excitation: float) -> None:
        super().__init__(policy, robot, seed)
        self.excitation = excitation

    def check(self, target: RobotDescription, where: str) -> None:
        pass

    def on(self, session: Session, episodes: int, report: progress.Report) -> Adaptation:
        gather, logs = gathering(episodes), list[Path]()
        for k in range(gather):
            before = self.state(session, self.before)
            driven = session.drive("gather", before, excitation=self.excitation, share=EXPLORE)
            logs += [e.log for e in driven.episodes if e.log] if driven else []
            report(round(20 * (k + 1) / gather), session.figures)
        adapter = ContextAdapter(
            self.robot, seed=self.seed, report=lambda n, figures: report(20 + 4 * n, figures)
        )
        z = within(self.policy, adapter.adapt(self.before, read_trajectories(logs, self.robot)))
        rehearsal = self._rehearsed(z)
        report(80, session.figures)
        if not rehearsal.passed:
            reason = (
                f"rehearsed in worlds that explain the logs, it falls {rehearsal.adapted:.2f} "
                f"times a second instead of {rehearsal.unadapted:.2f}"
            )
            return self.verdict(session, False, reason, z, rehearsal)
        accepted, reason = self.gate(session, z, (episodes - gather) // 2, report)
        return self.verdict(session, accepted, reason, z, rehearsal)

    def from_logs(
        self, logs: Path, export: Callable[[], Artifact], report: progress.Report
    ) -> Adaptation:
        episodes = read_trajectories(logs, self.robot)
        ends = [log.info for log in read_logs(logs)]
        falls = sum(end.terminated or end.stopped is not None for end in ends)
        artifact = export()
        adapter = ContextAdapter(
            self.robot, seed=self.seed, report=lambda n, figures: report(6 * n, figures)
        )
        z = within(self.policy, adapter.adapt(self.before, episodes))
        assert z.posterior is not None
        rehearsal = self._rehearsed(z)
        accepted, reason = by_likelihood(z.posterior)
        if not rehearsal.passed:
            accepted = False
            reason = "rehearsed in worlds that explain the logs, it falls more often"
        report(100, {})
        seconds = sum(len(e.command) for e in episodes) * self.robot.control_period
        spent = Spent(len(episodes), seconds, falls)
        value, std = self._known(z if accepted else self.before)
        names = self.robot.space.names
        state = state_of(artifact, value, spent, names=names, std=std, accepted=accepted)
        return Adaptation(accepted, reason, state, artifact.folder, z.posterior, rehearsal, spent)

    def _rehearsed(self, z: ContextState) -> Rehearsal:
        assert z.posterior is not None
        worlds, draw = rehearsal_worlds(self.policy, self.robot), z.posterior.distribution()
        return rehearse(self.policy, worlds, draw, z.value, self.before.value, seed=self.seed)


class Search(_Told):
    """Optimises the return of an episode by black box. Every context is rehearsed before the robot
    is driven with it, in worlds around what it claims; one with which falls become more likely is
    never driven."""

    def check(self, target: RobotDescription, where: str) -> None:
        if not target.reward:
            raise InputError(
                f"search needs a reward, and {target.name} at {where} declares none; use identify"
            )

    def from_logs(
        self, logs: Path, export: Callable[[], Artifact], report: progress.Report
    ) -> Adaptation:
        raise InputError(
            f"search drives the robot, and '{logs}' is a log of it; use identify, or give "
            "HOST:PORT or ENV/GAP"
        )

    def on(self, session: Session, episodes: int, report: progress.Report) -> Adaptation:
        pairs = max(min(2, (episodes - 1) // 2), episodes // 5)
        budget = episodes - 2 * pairs
        policy, before = self.policy, self.before.value
        worlds = rehearsal_worlds(policy, self.robot)
        rehearsals: list[tuple[Array, Rehearsal]] = []

        def allowed(context: Array) -> bool:
            told = within(policy, ContextState(context, None)).value
            draw = around(policy, told, seed=self.seed)
            rehearsal = rehearse(policy, worlds, draw, told, before, seed=self.seed)
            rehearsals.append((told, rehearsal))
            return rehearsal.passed

        def try_context(context: Array) -> float:
            told = within(policy, ContextState(context, None))
            share = budget / episodes
            episode = session.episode("search", self.state(session, told), share=share)
            value = float("nan")
            if episode is not None:
                assert episode.return_ is not None  # a target without reward is refused
                value = episode.return_
            report(round(80 * session.spent.episodes / episodes), {"return": value})
            return value

        context, _ = search(
            try_context, self.robot.space, episodes=budget, seed=self.seed, allowed=allowed
        )
        refused = sum(not rehearsal.passed for _, rehearsal in rehearsals)
        if refused == len(rehearsals):  # the robot was not driven: there is nothing to compare
            reason = f"rehearsal refused all {refused} contexts that the search proposed"
            return self.verdict(session, False, reason, self.before, rehearsals[-1][1], refused)
        z = within(policy, ContextState(context, None))
        rehearsal = next((r for told, r in rehearsals if (told == z.value).all()), None)
        accepted, reason = self.gate(session, z, pairs, report)
        return self.verdict(session, accepted, reason, z, rehearsal, refused)


def within(policy: Policy, z: ContextState) -> ContextState:
    """z inside the ranges that the policy was trained on, which may be narrower than the robot's:
    beyond them nobody knows what it does, and its artifact refuses them."""
    low = [p.low for p in policy.spec.context]
    high = [p.high for p in policy.spec.context]
    return z._replace(value=np.clip(z.value, low, high))
