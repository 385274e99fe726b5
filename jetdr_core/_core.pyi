"""The native core: ring, IO filter, log writer (native/core.pyx over native/jetdr.h). No call here holds the GIL while it waits or does I/O."""

from typing import NamedTuple, NoReturn, Self, final

from typing_extensions import Buffer

from jetdr_core.device.protocol import BlockDevice

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
    writes: int
    write_bytes: int
    zeros: int
    zero_bytes: int
    reads: int
    read_bytes: int
    flushes: int
    background_bytes: int
    overlaps_waited: int
    stalls: int
    stall_ns: int
    failed_writes: int
    suspect: bool

@final
class Ring:
    """Bounded many-producer one-consumer ring in memory; assigns LSN and time."""

    def __new__(
        cls, *, payload_bytes: int, slots: int, lsn_next: int, time_ns_last: int = 0, clock: ManualClock | None = None
    ) -> Self: ...
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
        """Append a control record; returns (LSN, time_ns)."""
    def request_durable(self, lsn: int) -> None: ...
    def wait_durable(self, lsn: int, timeout_s: float) -> bool:
        """Ask for durability up to ``lsn`` and wait; False when the time ran out. Raises LogFailed / Fenced when poisoned."""
    @property
    def poisoned(self) -> int: ...
    def poison(self, error: int, fence: tuple[str, int, int] | None = None) -> None:
        """Stop every writer: with the errno ``error``, or with ``fence``, the arguments of a Fenced error."""
    def fail(self, result: int, what: str) -> NoReturn: ...

@final
class LogWriter:
    """The commit loop: ring to log section, group commit. One thread, or :meth:`commit` called by hand."""

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
    def start(self) -> None: ...
    def stop(self) -> None:
        """Commit what is published, flush, end the thread."""
    def commit(self) -> int:
        """One commit in the calling thread; returns the records written."""
    def set_tail(self, position: int) -> None: ...
    def state(self) -> WriterState: ...

@final
class IoFilter:
    """The shim on one disk's write path. Thread-safe."""

    def __new__(
        cls,
        ring: Ring | None,
        device: BlockDevice,
        *,
        disk: int,
        size_bytes: int,
        write_bytes_max: int,
        stall_limit_s: float,
    ) -> Self: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def write_bytes_max(self) -> int: ...
    def write(self, offset: int, data: Buffer) -> int: ...
    def zero(self, offset: int, length: int, *, discard: bool = ...) -> int: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def read_into(self, offset: int, target: Buffer) -> None: ...
    def flush(self) -> int: ...
    def copy_background(self, offset: int, length: int) -> int:
        """Log what the primary holds in the range as background data, its range held meanwhile; returns the LSN.

        A range longer than ``write_bytes_max`` is logged only if it is a hole of the primary's file; else 0, and nothing is.
        """
    def stats(self) -> FilterStats: ...
    def trust(self) -> None:
        """No longer suspect: all of the disk is about to be copied again."""
    def close(self) -> None:
        """Refuse new calls and wait for those inside; twice is harmless."""
