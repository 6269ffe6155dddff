"""What a policy remembers: it finds out while it acts, and what it kept of a trial is compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sim2real import progress
from sim2real.adaptation.belief import along
from sim2real.adaptation.session import EXPLORE, Adaptation, Session, check_limited, gathering
from sim2real.deploy.artifact import Artifact
from sim2real.deploy.contract import AdaptedState
from sim2real.deploy.logs.npz import EpisodeLog
from sim2real.deploy.robots.base import RobotDescription
from sim2real.policy.policy import Policy
from sim2real.types import InputError


class Remembered:
    """Drives a trial, and then takes turns with and without what is remembered of it. Where the
    target has no reward, falls per second decide."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def check(self, target: RobotDescription, where: str) -> None:
        check_limited(target, where, "remembered")

    def from_logs(
        self, logs: Path, export: Callable[[], Artifact], report: progress.Report
    ) -> Adaptation:
        raise InputError(
            f"policy '{self.policy.spec.name}' remembers what it met itself, and '{logs}' is a "
            "log; give HOST:PORT or ENV/GAP"
        )

    def on(self, session: Session, episodes: int, report: progress.Report) -> Adaptation:
        contract = session.artifact.contract
        trial, bounds = gathering(episodes), contract.adaptation
        assert bounds is not None
        blank = kept = list(contract.state("memory").initial)
        z: AdaptedState | None = None
        logs = list[EpisodeLog]()
        while session.spent.episodes < trial:  # a fall that tilt tells of ends a run, not the trial
            left = trial - session.spent.episodes
            driven = session.drive("trial", z, episodes=left, share=EXPLORE)
            if driven is None:
                break
            # a GRU's rounding can leave [-1, 1] by the last digit
            kept = np.clip(driven.trial["memory"].ravel(), bounds.low, bounds.high).tolist()
            z = session.state(kept)
            logs += [EpisodeLog.read(e.log) for e in driven.episodes if e.log is not None]
            report(80 * session.spent.episodes // episodes, session.figures)
        accepted, reason = False, "the budget was used up before anything was remembered"
        if z is not None:
            accepted, reason = session.by_turns(None, z, (episodes - trial) // 2, report)
        z = session.state(kept if accepted else blank, accepted=accepted)
        report(100, session.figures)
        return Adaptation(
            accepted, reason, z, session.artifact.folder, None, None, session.spent,
            session.stages, belief=along(self.policy, session.artifact, logs),
        )  # fmt: skip
