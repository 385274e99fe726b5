"""DeviceDisk: writes one disk of a recovery straight to a block device.

Only the journal is a file, in a directory that the caller names. Nothing announces the disk. It is whole when the
recovery returns, and then the journal is gone.

Invariant: the journal is durable before the first byte of the device is changed. So a device that was changed always
has a journal with which the same call continues.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from jetdr_core.errors import TargetFailed
from jetdr_core.rehydrate.disk_files import JOURNAL
from jetdr_core.rehydrate.journal import Journal, decode_journal
from jetdr_core.rehydrate.standing import Progress, Standing
from jetdr_core.rehydrate.target import TargetDisk
from jetdr_core.rehydrate.target_device import read_anew, zero

__all__ = ["DeviceDisk"]


class DeviceDisk(TargetDisk):
    """A :class:`TargetDisk` whose data is the block device ``files.device``."""

    @property
    def path(self) -> Path:
        assert self.files.device is not None
        return self.files.device.path

    def zero(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Make the ranges (start, end) read as zeros."""
        with self.writing():
            zero(self.fd, ranges)

    def read_back(self) -> Journal:
        """Have the reads that follow come from the device, and return the journal of what must be there."""
        with self.writing():
            os.fsync(self.fd)
            read_anew(self.fd)
        data = self.work.read_file(JOURNAL, self._journal.bytes_written)
        journal = decode_journal(data or b"", str(self.files.journal))
        if journal is None or journal.bytes_valid != self._journal.bytes_written:
            raise TargetFailed(f"{self.files.journal} cannot be read any more", hint="run this again")
        return journal

    def finish(self, encoded: Callable[[int], None]) -> None:  # noqa: ARG002 - only streams are encoded
        with self.writing():
            os.fsync(self.fd)
        self.progress = Progress.FINISHED

    def is_as_announced(self, journal: Journal | None) -> bool:  # noqa: ARG002 - nothing is announced
        """Always true: no file announces the disk."""
        return True

    def _open(self, standing: Standing) -> None:
        assert self.files.device is not None
        try:
            self.fd = self.files.device.open()
        except BaseException:
            if not standing.is_resumed:
                self.withdraw()
            raise
        if standing.journal is not None:
            self._journal.resume(standing.journal)
        else:
            self._journal.begin(self.identity, self._asked)
            self.work.sync()
        self.progress = Progress.PARTIAL
