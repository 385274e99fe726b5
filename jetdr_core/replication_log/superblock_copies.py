"""SuperblockCopies: reads, writes and repairs the four copies of one superblock on a device.

Invariants: copies 0 and 1 are durable before 2 and 3 are touched, so at every instant the old or the new superblock has
a quorum. After one failed write or sync, nothing more is written through this object.
"""

from __future__ import annotations

from jetdr_core.device.protocol import BlockDevice
from jetdr_core.errors import LogError, LogFailed
from jetdr_core.replication_log import superblock
from jetdr_core.replication_log.superblock import COPIES, QUORUM, Layout, Superblock


class SuperblockCopies:
    """One superblock at ``offset`` of ``device``. Not thread-safe: the owner serialises :meth:`write`."""

    def __init__(self, device: BlockDevice, layout: Layout, offset: int, *, where: str) -> None:
        self._device = device
        self._layout = layout
        self._offset = offset
        self._where = where
        self._newest: Superblock | None = None
        self._failure: OSError | None = None

    @property
    def sequence(self) -> int:
        """Sequence number of the newest superblock that is durable. 0 before the first."""
        return self._newest.sequence if self._newest else 0

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def read_all(self) -> list[bytes]:
        """Return the raw copies. A copy that cannot be read is empty."""
        return [self._read(offset) for offset in self._layout.offsets()]

    def load(self, *, repair: bool) -> bytes:
        """Return the body that a quorum holds. With ``repair``, rewrite the copies that differ from it, durably."""
        copies = self.read_all()
        try:
            election = superblock.elect(self._layout, copies, where=self._where)
        except LogError as error:
            if all(copies):
                raise
            raise LogFailed(
                f"{self._where}: the {self._layout.what} cannot be read", hint="check the device"
            ) from error
        self._newest = election.winner
        if repair and election.losers:
            self._write_copies(election.losers, election.raw)
        return election.winner.body

    def write(self, body: bytes) -> None:
        """Make ``body`` the superblock, durable at return.

        After :class:`LogFailed` a reader may find the old one or this.
        """
        raw = superblock.seal(self._layout, body, parent=self._newest)
        self._write_copies(list(range(QUORUM)), raw)
        self._write_copies(list(range(QUORUM, COPIES)), raw)
        self._newest = superblock.unseal(self._layout, raw)

    def _read(self, offset: int) -> bytes:
        raw = bytearray(self._layout.copy_bytes)
        try:
            self._device.read_into(self._offset + offset, raw)
        except OSError:
            return b""
        return bytes(raw)

    def _write_copies(self, indexes: list[int], raw: bytes) -> None:
        self._check_alive()
        try:
            for index in indexes:
                self._device.write(self._offset + self._layout.offsets()[index], raw)
            self._device.sync()
        except OSError as error:
            self._failure = error
            raise self._failed(error) from error

    def _check_alive(self) -> None:
        if self._failure:
            raise self._failed(self._failure)

    def _failed(self, error: OSError) -> LogFailed:
        return LogFailed(
            f"{self._where}: writing the {self._layout.what} failed: {error}",
            hint="close the log, check the device, and open it again",
            errno=error.errno,
            where=self._where,
        )
