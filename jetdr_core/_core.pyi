"""The native core: ring, IO filter, log writer (native/python/core.pyx over native/jetdr.h). No call here holds the GIL while it waits or does I/O."""

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
    """A clock that moves only when told; nanoseconds UTC. For tests and simulation."""

    def __init__(self, time_ns: int = ...) -> None: ...
    @property
    def time_ns(self) -> int: ...
    def advance(self, nanoseconds: int) -> None: ...
    def set(self, time_ns: int) -> None: ...

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
    failed_writes: int = ...
    unlogged_writes: int = ...
    unlogged_bytes: int = ...
    suspect: int = ...
    """1: primary and log may differ. Stays until :meth:`IoFilter.trust`."""
    sync_failed: int = ...
    """errno of the primary's first failed flush, 0 for none. Stays until the disk is opened again."""

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

class RingOff(NamedTuple):
    """Whether logging is on, and when and why it was last switched off (``times`` so far): ``since_ns`` UTC, up to which the log is complete.

    ``reason`` is an :class:`OffReason`, or 0 if logging was never off; ``disk`` is for ``OffReason.DISK``.
    """

    logging: bool
    reason: int
    disk: int
    since_ns: int
    times: int

@final
class Ring:
    """Bounded many-producer one-consumer ring; assigns LSN and time. A forked child does not have it.

    In memory of this process, or (:meth:`create_file`, :meth:`open_file`) in a file on tmpfs that a host component shares
    and that outlives both; this process is then the DRVA's side, and a failed log writer or :meth:`poison` stays its own.

    ``record_bytes_max``: longest payload of one record, at most half of ``payload_bytes`` and 32 MiB. By default that,
    or a quarter of the log writer's data area, if less; a log writer refuses a ring that was given more than its quarter.
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
        """Lay a ring out in the empty file of descriptor ``file`` (which stays the caller's) and open it.

        ``domain``: the 16 bytes of its UUID. ``write_back``: room is held until the primaries have the data, too.
        """
    @classmethod
    def open_file(cls, file: int, *, domain: bytes | None = None) -> Ring:
        """Open the ring in ``file``. RingForeign, RingBusy, DamagedObject, UnsupportedVersion change nothing.

        Before its log writer: :meth:`adopt` or :meth:`reset`.
        """
    @property
    def logging(self) -> bool: ...
    @property
    def write_back(self) -> bool: ...
    @property
    def lsn_in_primaries(self) -> int:
        """With write-back: durable in the primaries up to here."""
    @property
    def primaries_lag(self) -> bool:
        """With write-back: the primaries that work still lack, durably, something that the ring was given."""
    def primaries_flushed(self) -> bool:
        """With write-back and no host component: the primaries were flushed, :attr:`lsn_in_primaries` follows.

        False, and nothing changes: a host component lives, or a primary had failed, and the log must keep what it lacks.
        """
    def note_primary_failure(self, disk: int) -> None:
        """The primary of ``disk`` lacks what was acknowledged: the log must keep it, and no host component serves it."""
    @property
    def host_alive(self) -> bool: ...
    @property
    def host_ended(self) -> bool:
        """The last host component ended in order (or there was none yet): its disks and the ring agree."""
    def off(self) -> RingOff: ...
    def stop_logging(self) -> None:
        """Switch logging off, as the host component does when it must: until :meth:`resume_logging` only GAP_OPEN is taken."""
    def resume_logging(self) -> None:
        """Switch logging on, after a GAP_OPEN. All disks are then owed a resync."""
    def leave(self) -> None:
        """Give the DRVA's side up, for another to take it: the log writer has ended, nothing is called here any more."""
    def adopt(self, lsn: int) -> None:
        """The log ends at ``lsn``: the ring goes on after it. RingApart if the two do not meet."""
    def reset(self, *, lsn_next: int, time_ns_last: int, record_bytes_max: int | None) -> bool:
        """With logging off: forget what the ring holds. False while the host component still holds room: try again."""
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
        """(LSN, time_ns): the last LSN given out and an instant at which it was; no later record gets an earlier time."""
    @property
    def used_bytes(self) -> int: ...
    def now_ns(self) -> int: ...
    def control(self, kind: int, disk: int, payload: Buffer, *, stall_limit_s: float) -> tuple[int, int]:
        """Append a control record; returns (LSN, time_ns).

        InvalidRequest beyond ``record_bytes_max``; StallTimeout; LoggingOff, but for GAP_OPEN.
        """
    def request_durable(self, lsn: int) -> None:
        """Ask for durability up to ``lsn``, or up to the last LSN given out, if that is less."""
    def wait_durable(self, lsn: int, timeout_s: float) -> bool:
        """Ask for durability up to ``lsn`` and wait; False when the time ran out. Raises LogFailed / Fenced when poisoned."""
    @property
    def poisoned(self) -> int: ...
    def poison(self, error: int, fence: tuple[str, int, int] | None = None) -> None:
        """Stop every writer: with the errno ``error``, or with ``fence``, the arguments of a Fenced error."""
    def fail(self, result: int, what: str) -> NoReturn:
        """Raise what the negative ``result`` of a call on this ring means, e.g. ``-ring.poisoned``."""

@final
class LogWriter:
    """The commit loop: ring to log section, group commit. One thread, or :meth:`commit` called by hand.

    One per ring, made before anything is appended. The first error of the device poisons the ring.
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
        """Commit what is published now, as far as the log has room, flush, end the thread; also while others append.

        The ring still takes records, until it is full, but nothing drains it any more: close the filters first.
        """
    def commit(self) -> int:
        """One commit in the calling thread; returns the records written."""
    def set_tail(self, position: int) -> None:
        """The log before ``position`` may be overwritten. InvalidRequest before the tail or beyond what is durable."""
    def state(self) -> WriterState: ...

@final
class IoFilter:
    """The shim on one disk's write path. Thread-safe.

    Refuses a primary that takes no single sectors (``block_bytes`` above 512, unless its file is not opened directly).

    An error of the primary is a PrimaryFailed, with what a device in Python raised as its cause; nothing else is. A
    failed write was read back and logged unless ``suspect`` is True: then, and after a failed zero or flush, primary and
    log may differ; the caller opens a gap and copies the disk again. After a failed flush every flush fails so. What a
    device raises that is no Exception (KeyboardInterrupt) is raised as it is, from the PrimaryFailed it stands for.

    StallTimeout: nothing was started; the log had no room, or half the ring was held by writes to this disk that its
    primary has not answered.
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
    ) -> Self: ...
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
        """Log what the primary holds in the range as background data, its range held meanwhile; returns the LSN.

        A range longer than ``record_bytes_max`` is logged only if it is a hole of the primary's file; else 0, and nothing is.
        """
    def stats(self) -> FilterStats: ...
    def trust(self) -> None:
        """The disk is no longer suspect: a resync of all of it is about to begin."""
    def close(self) -> None:
        """Refuse new calls and wait for those inside. Idempotent."""
