"""Standing: how far an earlier run of the same recovery came with one disk.

Invariants: looking changes nothing. Files of another recovery, and files that no recovery wrote, are refused, so that
nothing is ever overwritten. docs/formats/recovery-journal.md says what a damaged journal costs.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jetdr_core.errors import InvalidRequest, TargetExists
from jetdr_core.ownership import open_own
from jetdr_core.rehydrate.disk_files import DiskFiles
from jetdr_core.rehydrate.journal import (
    JOURNAL_BYTES_MAX,
    Applied,
    Journal,
    RecoveryIdentity,
    decode_journal,
    is_journal,
)

__all__ = ["Progress", "Standing", "check_free", "examine", "open_left_file"]


class Progress(enum.Enum):
    """How far an earlier run came with a disk."""

    NONE = "nothing is there"
    PARTIAL = "the partial file holds what the journal says"
    RENAMED = "the data has its final name; the descriptor of a flat disk is missing"
    FINISHED = "the disk has its final names"


@dataclass(frozen=True, slots=True)
class Standing:
    """What :func:`examine` found."""

    progress: Progress
    journal: Journal | None

    @property
    def applied(self) -> list[Applied]:
        """The frames whose bytes are durable in the partial file."""
        return self.journal.applied if self.journal and self.progress is Progress.PARTIAL else []

    @property
    def is_written(self) -> bool:
        """Whether all bytes of the disk are durable in the target."""
        return self.progress in (Progress.RENAMED, Progress.FINISHED)


def check_free(files: DiskFiles) -> None:
    """Raise :class:`TargetExists` if a file of the disk exists and no recovery left it. A quick look."""
    there = [path for path in (*files.outputs, files.partial) if os.path.lexists(path)]
    if there and not files.journal.is_file():
        raise TargetExists(f"{there[0]} exists", hint="choose another target or remove it")


def examine(files: DiskFiles, identity: RecoveryIdentity) -> Standing:
    """How far the recovery ``identity`` came. :class:`TargetExists` if the files belong to anything else."""
    journal = _read_journal(files.journal)
    outputs = [path for path in files.outputs if os.path.lexists(path)]
    partial = os.path.lexists(files.partial)
    if not outputs and not partial:
        return Standing(Progress.NONE, None)
    check_free(files)
    if journal is None:
        raise _damaged(files.journal)
    if journal.identity != identity:
        raise TargetExists(
            f"{files.journal} belongs to another recovery ({_differences(journal.identity, identity)})",
            hint=f"finish it, or remove {files.journal.name} and {[*outputs, files.partial][0].name} to give it up",
        )
    return Standing(_progress(files, outputs, partial=partial), journal)


def open_left_file(path: Path, flags: int) -> int:
    """Open a file of an earlier run. :class:`TargetExists` for what no run of this user can have left."""
    try:
        return open_own(path, flags)
    except InvalidRequest as error:
        raise TargetExists(str(error)) from None


def _read_journal(path: Path) -> Journal | None:
    """Return the journal, or None if there is none. A file that is no journal is refused, and not replaced."""
    try:
        fd = open_left_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        data = file.read(JOURNAL_BYTES_MAX)
    if not is_journal(data):
        raise _damaged(path)
    return decode_journal(data, str(path))


def _damaged(path: Path) -> TargetExists:
    return TargetExists(
        f"{path} is damaged, or no journal", hint="remove it and what it belongs to, or choose another target"
    )


def _differences(theirs: RecoveryIdentity, ours: RecoveryIdentity) -> str:
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in RecoveryIdentity.__slots__]
    return ", ".join(f"{name} {found}" for name, found, expected in pairs if found != expected)


def _progress(files: DiskFiles, outputs: Sequence[Path], *, partial: bool) -> Progress:
    if len(outputs) == len(files.outputs):
        return Progress.FINISHED
    if not outputs:
        return Progress.PARTIAL
    if outputs[0] == files.outputs[0] and not partial:
        return Progress.RENAMED
    raise TargetExists(f"{outputs[0]} exists", hint="choose another target or remove it")
