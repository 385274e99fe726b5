"""BypassedFile: the file that says that writes bypassed the log in write-back.

After a power loss in write-back the log is replayed to the primaries. That would undo writes that bypassed the log. So
the host component creates this file before the first such write, and a log is not replayed while the file exists.

Invariants: the file is durable before the first write that bypasses the log. It is removed once a GAP_OPEN that covers
those writes is durable, and before logging is on again.
"""

from __future__ import annotations

from pathlib import Path

from jetdr_core.durable import remove, sync_folder
from jetdr_core.identity import check_name
from jetdr_core.ownership import check_private, make_private

__all__ = ["BypassedFile"]

_WHAT = "the state folder"


class BypassedFile:
    """The file ``<state_dir>/<domain>/bypassed``. The host component creates it, in a folder that is made here."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._folder = state_dir / check_name("domain", domain)
        self.path = self._folder / "bypassed"

    @property
    def folder(self) -> Path:
        return self._folder

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
        """Remove the file, durably. Idempotent."""
        if self.stands:
            remove(self.path)
