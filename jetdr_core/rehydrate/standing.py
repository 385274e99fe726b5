"""Standing: how far an earlier run of the same recovery came with one disk, as its journal and its files say.

Invariants: looking changes nothing, and reads no more than the journal. Files of another recovery, and files that no
recovery wrote, are refused, so that nothing is ever overwritten. What the files hold is not believed here:
:mod:`~jetdr_core.rehydrate.recheck` reads it. docs/formats/recovery-journal.md says what a damaged journal costs.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetdr_core.errors import TargetExists
from jetdr_core.rehydrate.disk_files import DATA, JOURNAL, WORK, DiskFiles
from jetdr_core.rehydrate.journal import (
    APPLIED,
    AppliedTable,
    Journal,
    RecoveryIdentity,
    decode_journal,
    is_journal,
    journal_bytes_max,
)
from jetdr_core.rehydrate.target_folder import TargetFolder

__all__ = ["Progress", "Standing", "check_free", "examine"]

_BLOCK_BYTES = 512
"""The unit of ``st_blocks``."""


class Progress(enum.Enum):
    """How far an earlier run came with a disk."""

    NONE = "nothing is there"
    PARTIAL = "the data file holds what the journal says"
    RENAMED = "the data has its final name; the descriptor of a flat disk is missing"
    FINISHED = "the disk has its final names"


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What :func:`examine` found. ``allocated_bytes`` is the space that the data file takes."""

    progress: Progress
    journal: Journal | None
    allocated_bytes: int = 0

    @property
    def applied(self) -> AppliedTable:
        """The frames that the journal names."""
        return self.journal.applied if self.journal else np.empty(0, APPLIED)

    @property
    def is_written(self) -> bool:
        """Whether the disk has its final name, so that nothing of it may be written any more."""
        return self.progress in (Progress.RENAMED, Progress.FINISHED)

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run left anything of the disk."""
        return self.progress is not Progress.NONE

    def agrees_with(self, other: Standing) -> bool:
        """Whether nobody changed anything between the two looks."""
        journals = [standing.journal.bytes_valid if standing.journal else None for standing in (self, other)]
        return self.progress is other.progress and journals[0] == journals[1]


def check_free(target: TargetFolder | None, files: DiskFiles) -> None:
    """Raise :class:`TargetExists` if a file of the disk exists and no recovery left it. A quick look."""
    if target is None:
        return
    _refuse_earlier_release(target, files)
    there = _outputs(target, files)
    with ExitStack() as opened:
        work = _work(target, files, opened)
        if work is not None and work.file_status(JOURNAL) is not None:
            return
        if work is not None and work.file_status(DATA) is not None:
            raise TargetExists(f"{files.data} has no journal", hint=f"remove {files.work}, or choose another target")
    if there:
        raise TargetExists(f"{there[0]} exists", hint="choose another target or remove it")


def examine(target: TargetFolder | None, files: DiskFiles, identity: RecoveryIdentity, frames: int) -> Standing:
    """How far the recovery ``identity`` came. :class:`TargetExists` if the files belong to anything else.

    ``frames`` is the number of frames that the disk needs, which bounds what is read of a journal.
    """
    check_free(target, files)
    if target is None:
        return Standing(Progress.NONE, None)
    outputs = _outputs(target, files)
    with ExitStack() as opened:
        work = _work(target, files, opened)
        data = work.file_status(DATA) if work else None
        found = work.read_file(JOURNAL, journal_bytes_max(frames)) if work else None
    if found is not None and not is_journal(found):
        raise _damaged(files)
    journal = None if found is None else decode_journal(found, str(files.journal))
    is_begun = journal is not None if files.device else bool(outputs) or data is not None
    if not is_begun:
        return Standing(Progress.NONE, None)
    _check_identity(journal, files, identity, outputs)
    allocated_bytes = data.st_blocks * _BLOCK_BYTES if data else 0
    return Standing(_progress(files, outputs, journal, has_data=data is not None), journal, allocated_bytes)


def _outputs(target: TargetFolder, files: DiskFiles) -> list[Path]:
    return [path for path in files.outputs if target.status(path.name) is not None]


def _work(target: TargetFolder, files: DiskFiles, opened: ExitStack) -> TargetFolder | None:
    """The folder of the working files, if it is there. ``opened`` closes it."""
    top = target.find_folder(WORK)
    if top is None:
        return None
    work = opened.enter_context(top).find_folder(files.work.name)
    return work if work is None else opened.enter_context(work)


def _refuse_earlier_release(target: TargetFolder, files: DiskFiles) -> None:
    """An earlier release kept its files beside the disks, under names that could be those of another disk."""
    journal = files.journal_of_earlier_release
    try:
        begins = target.read_file(journal.name, 8)
    except TargetExists:  # a pipe or the like, which no release left there
        return
    if begins and any(begins) and is_journal(begins):
        partial = journal.with_suffix(".partial").name
        raise TargetExists(
            f"{journal} belongs to a recovery that an earlier release began, which this one cannot continue",
            hint=f"finish it with that release, or remove {journal.name} and {partial} to begin again",
        )


def _check_identity(
    journal: Journal | None, files: DiskFiles, identity: RecoveryIdentity, outputs: Sequence[Path]
) -> None:
    if journal is None:
        raise _damaged(files)
    if journal.identity != identity:
        removed = " and ".join(map(str, [files.work, *outputs]))
        raise TargetExists(
            f"{files.journal} belongs to another recovery ({_differences(journal.identity, identity)})",
            hint=f"finish it (its point is lsn:{journal.identity.lsn}), or remove {removed} to give it up",
        )


def _damaged(files: DiskFiles) -> TargetExists:
    return TargetExists(
        f"{files.journal} is damaged, or no journal", hint="remove it and what it belongs to, or choose another target"
    )


def _differences(theirs: RecoveryIdentity, ours: RecoveryIdentity) -> str:
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in RecoveryIdentity.__slots__]
    return ", ".join(f"{name} {found!s:.80}" for name, found, expected in pairs if found != expected)


def _progress(files: DiskFiles, outputs: Sequence[Path], journal: Journal | None, *, has_data: bool) -> Progress:
    """What the files that are there say. Only a stream has its data file beside its output for a moment."""
    if not outputs:
        return Progress.PARTIAL
    is_own = journal is not None and journal.encoded is not None if files.format == "stream" else not has_data
    if is_own and outputs[0] == files.outputs[0]:
        return Progress.FINISHED if len(outputs) == len(files.outputs) else Progress.RENAMED
    raise TargetExists(f"{outputs[0]} exists", hint="choose another target or remove it")
