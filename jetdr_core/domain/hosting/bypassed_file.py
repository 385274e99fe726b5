"""BypassedFile: the file that says "with write-back, writes went past the log": then the log must not be replayed.

The host component makes it, durably, before the first such write; it is removed once a gap that covers those writes is
durable in the log, and before logging is on again.
"""

from __future__ import annotations

from pathlib import Path

from jetdr_core.durable import remove, sync_folder
from jetdr_core.identity import check_name
from jetdr_core.ownership import check_private, make_private

__all__ = ["BypassedFile"]

_WHAT = "the state folder"


class BypassedFile:
    """``<state_dir>/<domain>/bypassed``; the folder is made here, durably, so that making the file needs no more."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._folder = state_dir / check_name("domain", domain)
        self.path = self._folder / "bypassed"

    def check_folder(self) -> None:
        """Refuse a folder that others can change: whether the file stands decides whether the log is replayed."""
        check_private(_WHAT, self._folder)

    def make_folder(self) -> None:
        make_private(_WHAT, self._folder)
        for folder in (self._folder, self._folder.parent):  # whoever made them may have died before syncing them
            sync_folder(folder)

    @property
    def stands(self) -> bool:
        return self.path.exists()

    def remove(self) -> None:
        """Durable at return; harmless when there is none."""
        if self.stands:
            remove(self.path)
