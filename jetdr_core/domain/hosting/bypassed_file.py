"""BypassedFile: the file that says that writes bypassed the log in write-back.

After a power loss in write-back the log is replayed to the primaries. That would undo writes that bypassed the log. So
the host component creates this file before the first such write, and a log is not replayed while the file exists.

Nothing else durable says that an opening owes a gap, once all witnesses are of the new generation. If that opening
fails before its GAP_OPEN is durable, the next one would replay the log. So an opening that owes a gap creates the file
too.

Invariants: the file is durable before the first write that bypasses the log, and before an opening that owes a gap
claims the domain. It is removed once a GAP_OPEN that covers
those writes is durable, and before logging is on again.
"""

from __future__ import annotations

from pathlib import Path

from jetdr_core.durable import new_file, remove, sync_folder
from jetdr_core.file_making import Asked, making, trying
from jetdr_core.identity import check_name
from jetdr_core.ownership import check_private, make_private

__all__ = ["BypassedFile", "served_file"]

_WHAT = "the state folder"


def served_file(state_dir: Path, domain: str) -> BypassedFile:
    """Return the file that says, in either write mode, that guests were served while the domain was closed."""
    return BypassedFile(state_dir, domain, file_name="served")


class BypassedFile:
    """The file ``<state_dir>/<domain>/bypassed``. The folder is made here."""

    def __init__(self, state_dir: Path, domain: str, *, file_name: str = "bypassed") -> None:
        self._folder = state_dir / check_name("domain", domain)
        self.path = self._folder / file_name

    @property
    def folder(self) -> Path:
        return self._folder

    def check_folder(self) -> None:
        """Refuse a folder that others can change: whether the file stands decides whether the log is replayed."""
        check_private(_WHAT, self._folder)

    def make_folder(self) -> None:
        with trying(self._folder, "looking at it"):
            asked = Asked.NOTHING if self._folder.exists() else Asked.PLACE
        with making(self._folder, "making the state folder", asked):
            make_private(_WHAT, self._folder)
        for folder in (self._folder, self._folder.parent):  # whoever made them may have died before syncing them
            sync_folder(folder)

    def create(self) -> None:
        """Create the file, durably. Idempotent."""
        with making(self.path, "making the file that says that a gap is owed"):
            if not self.stands:
                with new_file(self.path):
                    pass
            sync_folder(self._folder)

    @property
    def stands(self) -> bool:
        with trying(self.path, "looking at it"):
            return self.path.exists()

    def remove(self) -> None:
        """Remove the file, durably. Idempotent."""
        if self.stands:
            remove(self.path)
