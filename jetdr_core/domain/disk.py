"""ProtectedDisk: one disk of a domain. Disk: one whose IO filter is in this process.

Invariant: what copies, status and the end of a domain need of a disk does not depend on where its IO filter runs.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from typing_extensions import Buffer

from jetdr_core._core import FilterStats, IoFilter, MapState
from jetdr_core.domain.disk_map import DiskMap
from jetdr_core.domain.primary import Primary
from jetdr_core.errors import InvalidRequest, PrimaryAway, PrimaryFailed
from jetdr_core.resync import BackgroundFilter, Region

__all__ = ["CopyFilter", "CopyProgress", "Disk", "OwedMap", "ProtectedDisk"]

T = TypeVar("T")


@dataclass(slots=True)
class CopyProgress:
    """How much of the disk's pre-existing data has been logged."""

    total_bytes: int = 0
    copied_bytes: int = 0
    running: bool = False

    def advance(self, copied_bytes: int) -> None:
        self.copied_bytes += copied_bytes


class CopyFilter(BackgroundFilter, Protocol):
    """What a copy of a whole disk needs of the filter on its write path, in whichever process that runs."""

    def trust(self) -> None:
        """Take the disk for suspect no longer: all of it is about to be copied."""

    def digest(self, offset: int, length: int) -> tuple[int, bytes]:
        """Return an LSN, and the digest of what the disk holds in the range exactly at that LSN."""


class OwedMap(Protocol):
    """What a copy needs of a disk's dirty map, in whichever process that is kept."""

    @property
    def owed_bytes(self) -> int:
        """Of how much a copy is owed, as last known. Waits for nothing."""

    def look(self) -> MapState | None:
        """Return how the map is, as last known. Waits for nothing."""

    def owes_any(self) -> bool:
        """Return whether a copy of anything is owed now."""

    @property
    def surely_owes(self) -> bool:
        """Whether a copy is owed, if that can be told without waiting for anybody. False if it cannot."""

    def settle(self) -> None:
        """Return when the map knows of every write that bypassed the log. :class:`StallTimeout` if one is in flight."""

    def owed_regions(self, primary: Primary) -> Iterator[Region]:
        """Return what is owed a copy, data and holes in order. What comes to be owed meanwhile may be left out."""


class ProtectedDisk(ABC):
    """A protected disk. ``primary`` is this process's handle on it. ``nbd_uri`` is where guests find it, or empty."""

    def __init__(self, number: int, name: str, primary: Primary, size_bytes: int) -> None:
        self.number = number
        """Its number within the domain, as records carry it."""
        self.name = name
        self.path = primary.path
        self.size_bytes = size_bytes
        """As much of it as is protected. Its primary may have more."""
        self.primary_bytes = size_bytes
        """What its primary had when a mode last looked."""
        self.nbd_uri = ""
        self.copy = CopyProgress()
        self.primary = primary
        self.device = primary.device
        self.fault = primary.fault
        """Why it is not served, if it is not."""
        self.map: OwedMap | None = None
        """Which regions are owed a copy. None: all of them, whenever one is owed."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.size_bytes} bytes, {self.path!r})"

    def regions(self) -> Iterator[Region]:
        """Return what a copy of the disk consists of, in order: what is owed, or all of a disk that has no map."""
        return self.primary.regions(self.size_bytes) if self.map is None else self.map.owed_regions(self.primary)

    @property
    def owed_bytes(self) -> int:
        """Return how much of the disk is to be copied, once a copy is owed."""
        return self.size_bytes if self.map is None else self.map.owed_bytes

    @property
    @abstractmethod
    def copy_filter(self) -> CopyFilter:
        """The filter that copies of the disk go through."""

    @property
    @abstractmethod
    def suspect(self) -> bool:
        """Whether primary and log may differ, and this process is the one that knows."""

    @abstractmethod
    def stats(self) -> FilterStats:
        """Return what the filter has counted since it was put on the disk."""

    @abstractmethod
    def close(self) -> bool:
        """Let the disk go, because the domain closes. Returns False if primary and log may differ."""


class Disk(ProtectedDisk):
    """A disk whose filter is in this process. Thread-safe: no method holds the GIL, and any number of threads may call.

    Offsets and lengths are bytes, multiples of 512. Overlapping writes in flight take turns, in any order. While the
    disk has a :attr:`fault`, every call but :meth:`stats` raises :class:`PrimaryAway` and changes nothing. While the
    disk is moved or grows, calls wait for its next filter.
    """

    map: DiskMap | None

    def __init__(
        self,
        number: int,
        name: str,
        primary: Primary,
        io_filter: IoFilter,
        on_suspect: Callable[[Disk], None],
        disk_map: DiskMap | None = None,
    ) -> None:
        super().__init__(number, name, primary, io_filter.size_bytes)
        self.io_filter = io_filter
        self.map = disk_map
        self._on_suspect = on_suspect
        self._changing = threading.RLock()  # held while another filter takes the place of the present one

    @property
    def copy_filter(self) -> CopyFilter:
        return self.io_filter

    @property
    def suspect(self) -> bool:
        return bool(self.io_filter.stats().suspect)

    def write(self, offset: int, data: Buffer) -> int:
        """Write ``data``; returns its LSN once the primary has it and the ring has accepted it in order.

        The write is durable after :meth:`flush`. ``data`` must not change during the call. :class:`InvalidRequest` and
        :class:`StallTimeout` change nothing. After :class:`PrimaryFailed` the replica equals what the disk now holds.
        After :class:`LogFailed` or :class:`Fenced` the domain accepts no more writes.
        """
        try:
            return self._through(lambda io_filter: io_filter.write(offset, data))
        except (PrimaryFailed, KeyboardInterrupt) as error:
            self._after(error)
            raise

    def zero(self, offset: int, length: int, *, discard: bool = False) -> int:
        """Make a range zeros, as one record of any length; else like :meth:`write`. ``discard``: the guest's TRIM."""
        try:
            return self._through(lambda io_filter: io_filter.zero(offset, length, discard=discard))
        except (PrimaryFailed, KeyboardInterrupt) as error:
            self._after(error)
            raise

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes of the primary."""
        return self._through(lambda io_filter: io_filter.read(offset, length))

    def read_into(self, offset: int, target: Buffer) -> None:
        """Fill the writable ``target`` from the primary."""
        self._through(lambda io_filter: io_filter.read_into(offset, target))

    def flush(self) -> int:
        """Make everything acknowledged before durable, on this primary and in the log; returns the last durable LSN.

        The log is that of the whole domain. :class:`StallTimeout` after the stall limit: nothing is lost, but it is not
        known what is durable.
        """
        try:
            return self._through(lambda io_filter: io_filter.flush())
        except (PrimaryFailed, KeyboardInterrupt) as error:
            self._after(error)
            raise

    def stats(self) -> FilterStats:
        """Return what was counted since the disk was opened."""
        return self.io_filter.stats()

    def tend_map(self) -> None:
        """Take one step of the lazy clearing of the dirty map. It may flush the primary."""
        if self.map is not None:
            self.map.report_failure()
        try:
            self.io_filter.tend_map()
        except PrimaryFailed as error:
            self._after(error)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Close the filter, so that the calls in flight end, and let new ones wait for the next filter."""
        with self._changing:
            self.io_filter.close()
            yield

    def adopt(self, primary: Primary, io_filter: IoFilter, disk_map: DiskMap | None = None) -> None:
        """Go on with another primary, which the disk has no fault with. The earlier one is closed."""
        with self.changing():
            if self.map is not None:
                self.map.give_up()
            self.map = disk_map
            self.primary.close()
            self.primary, self.device, self.path = primary, primary.device, primary.path
            self.io_filter = io_filter
            self.fault = None

    def resize(self, io_filter: IoFilter, disk_map: DiskMap) -> None:
        """Go on with the filter of another size, and its map, while the disk is :meth:`changing`."""
        if self.map is not None:
            self.map.give_up()
        self.io_filter, self.map, self.size_bytes = io_filter, disk_map, io_filter.size_bytes

    def close(self) -> bool:
        """Close the disk and flush its primary. Returns False if primary and log may differ.

        Raises what the flush raised.
        """
        self.io_filter.close()
        if self.fault is not None:
            self.primary.close()
            return True
        try:
            self.device.sync()
        finally:
            if self.map is not None:
                self.map.end()
            self.primary.close()
        stats = self.io_filter.stats()
        return not stats.suspect and not stats.sync_failed

    def _through(self, call: Callable[[IoFilter], T]) -> T:
        """Return what ``call`` does with the filter. A filter that was closed for another one has done nothing."""
        while True:
            self._check_present()
            io_filter = self.io_filter
            try:
                return call(io_filter)
            except InvalidRequest:
                with self._changing:
                    if io_filter is self.io_filter:
                        raise

    def _check_present(self) -> None:
        if self.fault is not None:
            raise PrimaryAway(f"disk {self.name!r}: {self.fault.reason}", hint=self.fault.remedy)

    def _after(self, error: BaseException) -> None:
        suspect = error.suspect if isinstance(error, PrimaryFailed) else self.suspect
        if suspect:
            self._on_suspect(self)
