"""What gradient steps find: one after every episode, and what they led to is compared."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.adaptation.session import EXPLORE, Adaptation, Session, check_limited, gathering
from sim2real.bridges.adapt.gradient.fast import FastAdapter
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.robots.base import RobotDescription
from sim2real.identification.trajectories import read_beginnings
from sim2real.identification.windows import Trajectory
from sim2real.policy.policy import Policy
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

log = logging.getLogger(__name__)


class Stepped:
    """Drives episodes, after each of which gradient steps are made on all that was logged, and then
    takes turns with and without what they found. Where the target has no reward, falls per second
    decide."""

    def __init__(self, policy: Policy, robot: Robot, seed: int, excitation: float) -> None:
        self.policy, self.robot, self.excitation = policy, robot, excitation
        self.adapter = FastAdapter(policy)
        self.before = self.adapter.prior(np.random.default_rng(seed))

    def check(self, target: RobotDescription, where: str) -> None:
        check_limited(target, where, "found")

    def from_logs(
        self, logs: Path, export: Callable[[], Artifact], report: progress.Report
    ) -> Adaptation:
        raise InputError(
            f"policy '{self.policy.spec.name}' is adapted to what it met itself, episode by "
            f"episode, and '{logs}' is a log; give HOST:PORT or ENV/GAP"
        )

    def on(self, session: Session, episodes: int, report: progress.Report) -> Adaptation:
        gather, z = gathering(episodes), self.before
        gathered = list[Trajectory]()
        for k in range(gather):
            driven = session.drive(
                "steps", session.state(z), excitation=self.excitation, share=EXPLORE
            )
            if driven is None:
                break
            gathered += self._beginnings([e.log for e in driven.episodes if e.log is not None])
            z = self.adapter.adapt(z, gathered)
            report(round(80 * (k + 1) / gather), session.figures)
        accepted, reason = False, "the budget was used up before anything was found"
        if gathered:
            before, after = session.state(self.before), session.state(z)
            accepted, reason = session.by_turns(before, after, (episodes - gather) // 2, report)
        state = session.state(z if accepted else self.before, accepted=accepted)
        report(100, session.figures)
        return Adaptation(
            accepted, reason, state, session.artifact.folder, None, None, session.spent,
            session.stages,
        )  # fmt: skip

    def _beginnings(self, files: list[Path]) -> list[Trajectory]:
        """Each log from its begin to where a sample is missing or not finite, for later the policy
        saw what the log does not say."""
        found = list[Trajectory]()
        for file in files:
            try:
                found += read_beginnings(file, self.robot)
            except InputError as error:
                log.warning("%s: nothing is learned of it", error)
        return found
