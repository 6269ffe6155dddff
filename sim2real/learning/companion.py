"""What a bridge does while a learner of Stable-Baselines3 learns, and keeps in its checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from stable_baselines3.common.callbacks import BaseCallback


class Companion(BaseCallback, ABC):
    """A callback with a state of its own, without which learning could not go on where it was."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Writes its state into a folder that exists, in files named after itself."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Puts its state to what `save` wrote. Called before learning.

        Raises:
            InputError: the files are missing, or not its own.
        """
