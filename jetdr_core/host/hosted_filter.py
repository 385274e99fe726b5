"""HostedFilter: the IO filter of a disk that the host component serves. Copies of the disk's existing data use it."""

from __future__ import annotations

from jetdr_core._core import FilterStats
from jetdr_core.errors import InvalidRequest
from jetdr_core.host.host_client import HostControl

__all__ = ["HostedFilter"]


class HostedFilter:
    """The filter of disk ``number`` in the process that ``control`` commands. Thread-safe.

    Guests keep the disk after :meth:`close`. :meth:`remove` takes it away from them.
    """

    def __init__(self, control: HostControl, number: int, size_bytes: int, record_bytes_max: int) -> None:
        self._control = control
        self._number = number
        self.size_bytes = size_bytes
        self.record_bytes_max = record_bytes_max
        self._closed = False

    def copy_background(self, offset: int, length: int) -> int:
        """Log what the primary holds in the range as background data, while the range is held. Returns the LSN.

        0, and nothing is logged, if the range is longer than ``record_bytes_max`` and is no hole of the primary's file.
        :class:`LoggingOff` while logging is off.
        """
        self._check_open()
        return self._control.copy(self._number, offset, length)

    def digest(self, offset: int, length: int) -> tuple[int, bytes]:
        """Return an LSN, and the digest of what the disk holds in the range exactly at that LSN.

        :class:`LoggingOff` while logging is off. :class:`InvalidRequest` if the host component is of a release that
        gives no digests.
        """
        self._check_open()
        return self._control.digest(self._number, offset, length)

    def stats(self) -> FilterStats:
        disk = self._control.stats().get(self._number)
        if disk is None:
            raise InvalidRequest(f"the host component serves no disk {self._number}", hint="add it first")
        return disk.filter

    def trust(self) -> None:
        """Declare the disk no longer suspect: a resync of all of it is about to begin."""
        self._check_open()
        self._control.trust(self._number)

    def remove(self) -> None:
        """Refuse the guests' new I/O, wait for the I/O in flight, close the primary."""
        self._closed = True
        self._control.remove(self._number)

    def close(self) -> None:
        """Stop using this object. The host component goes on serving the disk. Idempotent."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequest(f"disk {self._number} is closed", hint="open the domain again")
