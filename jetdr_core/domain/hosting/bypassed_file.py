"""BypassedFile: the file that says "with write-back, writes went past the log": then the log must not be replayed.

The host component makes it, durably, before the first such write; it is removed once a gap that covers those writes is
durable in the log, and before logging is on again.
"""

from __future__ import annotations

import os
from pathlib import Path

from jetdr_core.identity import check_name

__all__ = ["BypassedFile"]


class BypassedFile:
    """``<state_dir>/<domain>/bypassed``; the folder is made here, durably, so that making the file needs no more."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._folder = state_dir / check_name("domain", domain)
        self.path = self._folder / "bypassed"

    def make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self._folder, self._folder.parent):
            _sync(folder)

    @property
    def stands(self) -> bool:
        return self.path.exists()

    def remove(self) -> None:
        """Durable at return; harmless when there is none."""
        if self.stands:
            self.path.unlink()
            _sync(self._folder)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
