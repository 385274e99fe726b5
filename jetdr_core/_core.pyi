"""The native core: ring, IO filter, log writer. No call holds the GIL while it waits or does I/O.

native/python/core.pyx over native/jetdr.h, which has the whole contract.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple, NoReturn, Self, final

from typing_extensions import Buffer

from jetdr_core.device.protocol import BlockDevice

NATIVE_LIMITS: dict[str, int]
NATIVE_KINDS: dict[str, int]
NATIVE_FLAGS: dict[str, int]
"""The limits in ``jetdr.h``, by the names that they have in Python."""

@final
class ManualClock:
    """A clock that moves only when it is told to, in nanoseconds UTC. For tests and simulation.

    :meth:`advance` lets time pass, as the monotonic clock shows it too. :meth:`set` steps the wall clock alone.
    """

    def __init__(self, time_ns: int = ...) -> None: ...
    @property
    def time_ns(self) -> int: ...
    def advance(self, nanoseconds: int) -> None: ...
    def set(self, time_ns: int) -> None: ...

def simulate(clock: ManualClock, pause: Callable[[int, int, int], object]) -> None:
    """Have every thread of the core that would wait call ``pause``, and measure its limits on ``clock``.

    For a simulation in which one thread of the process runs at a time. Before anything else of the core, and for good.
    ``pause(address, seen, limit_ns)`` lets other threads run. It returns when :func:`word_at` the address is not
    ``seen`` any more, or the limit is over. At address 0 any thread may have changed what is waited for.
    """

def word_at(address: int) -> int:
    """Return the 32-bit word at an address that ``pause`` was given."""

class WriterState(NamedTuple):
    lsn_written: int
    lsn_durable: int
    batch_written: int
    batch_durable: int
    head_position: int
    durable_position: int
    previous_checksum: int
    bytes_written: int
    commits: int
    flushes: int
    failed_errno: int

class FilterStats(NamedTuple):
    """What an IO filter counts, in the order of ``JDR_FILTER_STATS`` in native/jetdr.h."""

    writes: int = ...
    write_bytes: int = ...
    zeros: int = ...
    zero_bytes: int = ...
    reads: int = ...
    read_bytes: int = ...
    flushes: int = ...
    background_bytes: int = ...
    overlaps_waited: int = ...
    stalls: int = ...
    """Writes that waited for room in ring or log."""
    stall_ns: int = ...
    stall_ns_max: int = ...
    """Of one write."""
    throttled: int = ...
    """Writes that backpressure delayed."""
    throttled_ns: int = ...
    throttled_ns_max: int = ...
    """Of one write."""
    failed_writes: int = ...
    unlogged_writes: int = ...
    unlogged_bytes: int = ...
    suspect: int = ...
    """1: primary and log may differ. Stays until :meth:`IoFilter.trust`."""
    sync_failed: int = ...
    """errno of the primary's first failed flush, 0 for none. Stays until the disk is opened again."""
    trouble: int = ...
    """What the disk answers with errors at present: 1 flushes, 2 changes, 3 reads, 0 nothing."""
    trouble_errno: int = ...
    trouble_since_ns: int = ...

class OffReason(IntEnum):
    """Why logging was switched off."""

    FULL = 1
    """The ring stayed full for the stall limit."""
    FLUSH = 2
    """A flush was not durable in the log within the stall limit."""
    DISK = 3
    """A disk's primary and the log may differ."""
    DRVA = 4
    """The DRVA said so."""
    OVERLOAD = 5
    """The log was full, and a disk had waited for as long as :meth:`Ring.set_pressure` allows."""

class RingClock(NamedTuple):
    """The wall clock, against the times that a ring gives to records. All in nanoseconds.

    Record times are ahead of the wall clock by ``lead_ns``, and ``time_ns_last``, the last one, has it in it.
    ``away_ns`` is by how much the wall clock has left the monotonic clock without being followed, 0 if it is followed,
    and ``away_since_ns`` the last time given out before. The instants from ``doubted_since_ns`` on may not be those at
    which records were captured; 0 if none is in doubt.
    """

    wall_ns: int
    monotonic_ns: int
    lead_ns: int
    time_ns_last: int
    away_ns: int
    away_since_ns: int
    doubted_since_ns: int

class RingOff(NamedTuple):
    """Whether logging is on, and when and why it was last switched off, which it was ``times`` times.

    The log is complete up to ``since_ns``, UTC.

    ``reason`` is an :class:`OffReason`, or 0 if logging was never off; ``disk`` is for ``OffReason.DISK``.
    """

    logging: bool
    reason: int
    disk: int
    since_ns: int
    times: int

@final
class Ring:
    """A bounded ring with many producers and one consumer, which gives records their LSN and time.

    It lies in memory of this process, which a forked child does not have, or in a file on tmpfs (:meth:`create_file`,
    :meth:`open_file`). A host component shares the file, which outlives both processes. This process is then the DRVA's
    side. That its log writer failed, or that it was poisoned, concerns this process only.

    ``record_bytes_max``: the most payload that one record holds, at most half of ``payload_bytes`` and 32 MiB. The
    default is that, or a quarter of the log writer's data area if that is less. A log writer refuses a ring that was
    given more than its quarter.
    """

    def __new__(
        cls,
        *,
        payload_bytes: int,
        slots: int,
        lsn_next: int,
        time_ns_last: int = 0,
        clock: ManualClock | None = None,
        record_bytes_max: int | None = None,
    ) -> Self: ...
    @classmethod
    def create_file(
        cls,
        file: int,
        *,
        domain: bytes,
        payload_bytes: int,
        slots: int,
        lsn_next: int,
        time_ns_last: int = 0,
        record_bytes_max: int | None = None,
        write_back: bool = False,
    ) -> Ring:
        """Lay out a ring in the empty file of descriptor ``file``, which stays the caller's, and open it.

        ``domain``: the 16 bytes of its UUID. ``write_back``: hold room until the primaries have the data, too.
        """
    @classmethod
    def open_file(cls, file: int, *, domain: bytes | None = None) -> Ring:
        """Open the ring in ``file``. Before a log writer is made for it: :meth:`adopt` or :meth:`reset`.

        :class:`RingForeign`, :class:`RingBusy`, :class:`DamagedObject` and :class:`UnsupportedVersion` change nothing.
        """
    @property
    def logging(self) -> bool: ...
    @property
    def write_back(self) -> bool: ...
    @property
    def lsn_in_primaries(self) -> int:
        """With write-back, the primaries have everything up to here, durably."""
    @property
    def primaries_lag(self) -> bool:
        """With write-back, primaries that work still lack, durably, something that the ring was given."""
    def primaries_flushed(self) -> bool:
        """Say that the primaries were flushed, with write-back and no host component. ``lsn_in_primaries`` follows.

        False, and nothing changes, if a host component lives, or if a primary has failed: the log keeps what it lacks.
        """
    def note_primary_failure(self, disk: int) -> None:
        """Say that the primary of ``disk`` lacks what was acknowledged.

        The log must keep it, and no host component serves the disk.
        """
    @property
    def host_alive(self) -> bool: ...
    @property
    def host_ended(self) -> bool:
        """No host component lives, and the last one ended in order if there was one: its disks and the ring agree."""
    def off(self) -> RingOff: ...
    def stop_logging(self) -> None:
        """Switch logging off, as a host component does when it must. Only a GAP_OPEN is taken then."""
    def resume_logging(self) -> None:
        """Switch logging on again, after a GAP_OPEN. Then all disks are to be resynced."""
    def set_pressure(self, bytes_per_s: int | None, *, delay_max_s: float, budget_s: float, valid_s: float) -> None:
        """Delay each disk's writes so that it logs no more than ``bytes_per_s``. None: delay none.

        One write is delayed by at most ``delay_max_s``. The calls of one disk wait at most ``budget_s`` of each 10
        seconds, for that and for a full log. All of this holds for ``valid_s``, unless it is said again.
        """
    def leave(self) -> None:
        """Give up the DRVA's side, for another to take it. Before: end the log writer. After: call nothing."""
    def adopt(self, lsn: int) -> None:
        """Say that the log ends at ``lsn``: the ring goes on after it. :class:`RingApart` if the two do not meet."""
    def reset(self, *, lsn_next: int, time_ns_last: int, record_bytes_max: int | None) -> bool:
        """With logging off, forget what the ring holds. False if the host component still holds room: try again."""
    @property
    def payload_bytes(self) -> int: ...
    @property
    def record_bytes_max(self) -> int: ...
    @property
    def lsn_reserved(self) -> int: ...
    @property
    def lsn_durable(self) -> int: ...
    @property
    def time_ns_last(self) -> int: ...
    def observe(self) -> tuple[int, int]:
        """(LSN, time_ns): the last LSN given out, and an instant at which it was the last.

        No later record gets an earlier time.
        """
    def look_at_clock(self) -> RingClock: ...
    def settle_doubt(self, doubted_since_ns: int) -> None:
        """The history says since when instants are in doubt, so nothing is in doubt any more."""
    def set_lead(self, lead_ns: int) -> None:
        """Have record times be ahead of the wall clock by ``lead_ns`` from now on."""
    @property
    def used_bytes(self) -> int: ...
    def now_ns(self) -> int: ...
    def control(self, kind: int, disk: int, payload: Buffer, *, stall_limit_s: float) -> tuple[int, int]:
        """Append a control record. Returns (LSN, time_ns).

        :class:`InvalidRequest` beyond ``record_bytes_max``; :class:`StallTimeout`; :class:`LoggingOff` (no GAP_OPEN).
        """
    def request_durable(self, lsn: int) -> None:
        """Ask for durability up to ``lsn``, or up to the last LSN given out if that is less."""
    def wait_durable(self, lsn: int, timeout_s: float) -> bool:
        """Ask for durability up to ``lsn``, and wait for it. False if the time ran out.

        :class:`LogFailed` or :class:`Fenced` if the ring is poisoned.
        """
    @property
    def poisoned(self) -> int: ...
    def poison(self, error: int, fence: tuple[str, int, int] | None = None) -> None:
        """Stop every writer: with the errno ``error``, or with ``fence``, the arguments of a Fenced error."""
    def fail(self, result: int, what: str) -> NoReturn:
        """Raise what the negative ``result`` of a call on this ring means, e.g. ``-ring.poisoned``."""

@final
class LogWriter:
    """The commit loop: from the ring to a log section. It has a thread, or :meth:`commit` is called by hand.

    There is one for each ring, made before anything is appended. The first error of the device poisons the ring.
    """

    def __new__(
        cls,
        ring: Ring,
        device: BlockDevice,
        *,
        data_offset: int,
        data_bytes: int,
        section_id: int,
        epoch: int,
        head_position: int,
        tail_position: int,
        batch_number: int,
        previous_checksum: int,
        batch_bytes_max: int = ...,
    ) -> Self: ...
    @property
    def ring(self) -> Ring: ...
    def start(self) -> None:
        """Once; refused after :meth:`stop`."""
    def stop(self) -> None:
        """Commit what is published now, as far as the log has room, flush, and end the thread. Others may append.

        The ring still takes records until it is full, but nothing drains it any more. So close the filters first.
        """
    def commit(self) -> int:
        """One commit, in the calling thread. Returns the records written."""
    def set_tail(self, position: int) -> None:
        """Let the log before ``position`` be overwritten.

        :class:`InvalidRequest` before the tail, or beyond what is durable.
        """
    def state(self) -> WriterState: ...

class MapStart(IntEnum):
    """What primary and log are known to have in common when a map begins."""

    AGREES = ...
    MARKED = ...
    """They agree but for what the map of the earlier generation has marked."""
    UNCERTAIN = ...

class MapFound(IntEnum):
    """Why the map in the sidecar was not believed."""

    BELIEVED = ...
    NONE = ...
    DAMAGED = ...
    NEWER = ...
    FOREIGN = ...
    RESIZED = ...
    OTHER_LOG = ...
    STALE = ...
    REPLACED = ...
    CHANGED = ...
    OLDER = ...
    LOG_OLDER = ...

class MapState(NamedTuple):
    region_bytes: int
    marked_bytes: int
    owed_bytes: int
    intents: int
    """Batches of bits that were made durable."""
    failed_errno: int
    """Not 0: the map is not kept on disk any more."""
    failed_since_ns: int

@final
class DirtyMap:
    """Which regions of a disk may differ between primary and replica, kept in ``sidecar``. Thread-safe.

    A sidecar that is None or cannot be used makes a map that has failed, which is kept in memory alone. ``domain`` and
    ``disk`` are the 16 bytes of their UUIDs. ``earlier`` and ``generation`` are (epoch, nonce) of the log's last use, and
    of the use that begins. ``log_lsn`` and ``log_time_ns`` are those of the last record that the log has. ``primary_fd``:
    the descriptor of the primary's file, or -1.
    """

    def __new__(
        cls,
        sidecar: BlockDevice | None,
        *,
        primary_fd: int,
        domain: bytes,
        disk: bytes,
        size_bytes: int,
        section_id: int,
        timeline: int,
        earlier: tuple[int, bytes],
        generation: tuple[int, bytes],
        start: MapStart,
        log_lsn: int,
        log_time_ns: int,
    ) -> Self: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def found(self) -> MapFound: ...
    @staticmethod
    def file_bytes(size_bytes: int) -> int:
        """Return how long the sidecar of a disk of ``size_bytes`` is."""
    def go_on(self, section_id: int, timeline: int, generation: tuple[int, bytes]) -> None:
        """Say that another log or generation goes on with what the map says. What the two lack was owed before."""
    def owe(self, offset: int, length: int) -> None:
        """Owe a range a copy. Durable at return, unless the map has failed."""
    def next_owed(self, offset: int) -> tuple[int, int] | None:
        """Return (offset, length) of what is owed first from ``offset`` on. None if nothing is."""
    def state(self) -> MapState: ...
    def give_up(self) -> None:
        """Say that the disk goes on without this map. Nobody believes its sidecar later."""
    def end(self) -> None:
        """Note how the primary's file is left. Nobody writes to it any more. Marks stay."""

@final
class IoFilter:
    """The shim on one disk's write path. Thread-safe.

    A primary that takes no single sectors is refused: with ``block_bytes`` above 512, unless its file is not opened
    directly. Without a ring, nothing is logged, and a write may be longer than ``record_bytes_max``.

    Errors of the primary, and only these, are a :class:`PrimaryFailed`. Its cause is what a device in Python raised.
    What a device raises that is no ``Exception`` (``KeyboardInterrupt``) is raised as it is, from that error. A failed
    write was read back and logged unless ``suspect`` is True. Then, and after a failed zero or flush, primary and log
    may differ, and the caller opens a gap and resyncs the disk. After a failed flush every flush fails.

    :class:`StallTimeout`: nothing was started. The log had no room, or writes to this disk that its primary has not
    answered held half of the ring.
    """

    def __new__(
        cls,
        ring: Ring | None,
        device: BlockDevice,
        *,
        disk: int,
        size_bytes: int,
        record_bytes_max: int,
        stall_limit_s: float,
        dirty_map: DirtyMap | None = ...,
    ) -> Self: ...
    @property
    def dirty_map(self) -> DirtyMap | None: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def record_bytes_max(self) -> int: ...
    def write(self, offset: int, data: Buffer) -> int: ...
    def zero(self, offset: int, length: int, *, discard: bool = ...) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def read_into(self, offset: int, target: Buffer) -> None: ...
    def flush(self) -> int: ...
    def copy_background(self, offset: int, length: int) -> int:
        """Log what the primary holds in the range as background data, with the range held. Returns the LSN.

        0, and nothing is logged, if the range is longer than ``record_bytes_max`` and no hole of the primary's file.
        """
    def digest(self, offset: int, length: int) -> tuple[int, bytes]:
        """Return an LSN, and the XXH3-128 of what the disk holds in the range exactly at that LSN.

        At most 1 MiB. The range is held meanwhile, and nothing is logged. :class:`LoggingOff` if logging is off or the
        disk is suspect, because disk and log may then differ.
        """
    def tend_map(self) -> None:
        """Take one step of the lazy clearing of the dirty map, as every few seconds. It flushes the primary if it must."""
    def grow(self, size_bytes: int) -> None:
        """Take calls for a primary that has grown to ``size_bytes``. The log says so already."""
    def stats(self) -> FilterStats: ...
    def trust(self) -> None:
        """Suspect the disk no longer: a resync of all of it is about to begin."""
    def close(self) -> None:
        """Refuse new calls, and wait for those inside. Idempotent."""
