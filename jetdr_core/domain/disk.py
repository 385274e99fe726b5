"""A protected disk (:class:`ProtectedDisk`), and the one that is open for I/O in this process (:class:`Disk`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import Buffer

from jetdr_core._core import FilterStats, IoFilter
from jetdr_core.domain.primary import Primary
from jetdr_core.errors import PrimaryFailed
from jetdr_core.resync import BackgroundFilter, Region

__all__ = ["CopyFilter", "CopyProgress", "Disk", "ProtectedDisk"]


@dataclass(slots=True)
class CopyProgress:
    """How much of the disk's pre-existing data has been logged."""

    total_bytes: int = 0
    copied_bytes: int = 0
    running: bool = False

    def advance(self, copied_bytes: int) -> None:
        self.copied_bytes += copied_bytes


class CopyFilter(BackgroundFilter, Protocol):
    """What a copy of a whole disk needs of the filter on its write path, wherever that runs."""

    def trust(self) -> None:
        """No longer suspect: all of the disk is about to be copied again."""


class ProtectedDisk(ABC):
    """A protected disk, wherever its IO filter runs. ``primary`` is the handle that this process has on it."""

    def __init__(self, number: int, name: str, primary: Primary) -> None:
        self.number = number
        """Its number within the domain, as records carry it."""
        self.name = name
        self.path = primary.path
        self.size_bytes = primary.device.size_bytes
        self.nbd_uri = ""
        self.copy = CopyProgress()
        self.primary = primary
        self.device = primary.device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.size_bytes} bytes, {self.path!r})"

    def regions(self) -> Iterator[Region]:
        """What a copy of the disk consists of, in order."""
        return self.primary.regions()

    @property
    @abstractmethod
    def copy_filter(self) -> CopyFilter:
        """What copies of the disk go through."""

    @property
    @abstractmethod
    def suspect(self) -> bool:
        """Whether primary and log may differ, as far as this process is the one to know."""

    @abstractmethod
    def stats(self) -> FilterStats:
        """Counters since the filter was put on the disk."""

    @abstractmethod
    def close(self) -> bool:
        """Let the disk go when the domain closes; False if primary and log may differ."""


class Disk(ProtectedDisk):
    """A disk whose filter is here. Thread-safe: any number of threads may be in any method; none holds the GIL.

    Offsets and lengths are bytes, multiples of 512. Writes that overlap in flight take turns; in what order is open.
    """

    def __init__(
        self, number: int, name: str, primary: Primary, io_filter: IoFilter, on_suspect: Callable[[Disk], None]
    ) -> None:
        super().__init__(number, name, primary)
        self.io_filter = io_filter
        self._on_suspect = on_suspect

    @property
    def copy_filter(self) -> CopyFilter:
        return self.io_filter

    @property
    def suspect(self) -> bool:
        return bool(self.io_filter.stats().suspect)

    def write(self, offset: int, data: Buffer) -> int:
        """Write ``data``; returns its LSN once the primary has it and the log has accepted it in order.

        Not durable before :meth:`flush`. ``data`` must not change during the call. Raises :class:`InvalidRequest` and
        :class:`StallTimeout` with nothing changed; :class:`PrimaryFailed` with the replica equal to what the disk now
        holds; :class:`LogFailed` or :class:`Fenced` when the domain accepts no more writes.
        """
        try:
            return self.io_filter.write(offset, data)
        except (PrimaryFailed, KeyboardInterrupt) as error:
            self._after(error)
            raise

    def zero(self, offset: int, length: int, *, discard: bool = False) -> int:
        """Make a range zeros (``discard``: the guest's TRIM): one record, however long. Else like :meth:`write`."""
        try:
            return self.io_filter.zero(offset, length, discard=discard)
        except (PrimaryFailed, KeyboardInterrupt) as error:
            self._after(error)
            raise

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes of the primary."""
        return self.io_filter.read(offset, length)

    def read_into(self, offset: int, target: Buffer) -> None:
        """Fill the writable ``target`` from the primary."""
        self.io_filter.read_into(offset, target)

    def flush(self) -> int:
        """Make durable, on the primary and in the log, everything acknowledged before; returns the LSN that is durable.

        Covers this disk's primary and the log of the whole domain. :class:`StallTimeout` after the stall limit: nothing
        is lost, but durability is not known.
        """
        try:
            return self.io_filter.flush()
        except (PrimaryFailed, KeyboardInterrupt) as error:
            self._after(error)
            raise

    def stats(self) -> FilterStats:
        """Counters since the disk was opened."""
        return self.io_filter.stats()

    def close(self) -> bool:
        """Close the disk and flush its primary; False if primary and log may differ. Raises what the flush raised."""
        self.io_filter.close()
        try:
            self.device.sync()
        finally:
            self.primary.close()
        stats = self.io_filter.stats()
        return not stats.suspect and not stats.sync_failed

    def _after(self, error: BaseException) -> None:
        suspect = error.suspect if isinstance(error, PrimaryFailed) else self.suspect
        if suspect:
            self._on_suspect(self)
