"""Mode: how a domain runs: which process writes to its primaries, and where its ring lives.

There are two modes. Embedded: this process writes to the primaries, and the ring is memory of its own. Hosted: a host
component does, and the ring is a file that outlives both processes. The caller that asks for a domain chooses its mode,
by the :class:`Look` of the request. The domain asks its mode, and never which one it is.

A mode is reached in two steps. Before the domain is claimed there is a :class:`Resumption`: what the last run left, and
the ring to continue with. From then on there is a :class:`Mode`.

Invariant: a disk is served only once its DISK_ADD is in the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from typing_extensions import TypeVar

from jetdr_core._core import Ring
from jetdr_core.catalog import DiskState, DomainHistory
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.domain.files_in_use import FileInUse
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.ladder import LadderStatus
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.domain.primary import DiskPlace, Primaries, Primary
from jetdr_core.domain.status import HostStatus
from jetdr_core.domain.trouble import Trouble
from jetdr_core.options import DomainOptions
from jetdr_core.replication_log import Cursor, ReplicationLog

__all__ = ["D", "Look", "Mode", "ModeParts", "Resumption", "RingSettings"]

D = TypeVar("D", bound=ProtectedDisk)


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSettings:
    """How a ring that is made or begun anew is to be. ``time_ns_last``: up to then log and store know everything."""

    payload_bytes: int
    slots: int
    lsn_next: int
    time_ns_last: int
    record_bytes_max: int


@dataclass(frozen=True, slots=True)
class ModeParts:
    """What of an open domain its mode works with. ``failure`` tells what stopped the upload for good, if anything.

    ``may_trim`` tells whether the log may be trimmed up to an LSN. ``is_joined`` tells whether the log is uploaded.
    """

    options: DomainOptions
    control_log: ControlLog
    copies: Copies
    failure: Callable[[], BaseException | None]
    may_trim: Callable[[int], bool]
    is_joined: Callable[[], bool]


class Resumption(Protocol[D]):
    """How a domain goes on from what its last run left. The methods are called once each, in this order."""

    @property
    def shares_primaries(self) -> bool:
        """Whether another process writes to the primaries."""

    @property
    def write_back(self) -> bool:
        """Whether the primaries may lag the log."""

    @property
    def state_id(self) -> bytes:
        """The state folder that the log is to rely on; zeros for none."""

    @property
    def changed(self) -> tuple[DiskState, ...]:
        """The disks that somebody else has changed since the log was closed clean. Known after :meth:`check`."""

    @property
    def owes_nothing(self) -> bool:
        """Whether the domain goes on as if nothing had happened. Known after :meth:`begin_ring`."""

    def check(self, history: DomainHistory, primaries: Primaries) -> None:
        """Compare log, store, state and disks, and refuse what cannot go on. Changes nothing."""

    def claim_time_ns(self, stored_ns: int) -> int:
        """Return the claim's timestamp; no later record is earlier. ``stored_ns`` is the last time in the store."""

    def claiming(self, generation: Generation) -> None:
        """The domain is about to be claimed under ``generation``, or without a store the log to begin it."""

    def claimed(self, generation: Generation) -> None:
        """The log is about to begin ``generation``, which the chain names unless the store is away."""

    def begin_ring(self, history: DomainHistory, primaries: Primaries) -> Ring:
        """Return the ring that the log, begun and not yet started, is to drain. The primaries are at rest."""

    def make_mode(self, parts: ModeParts) -> Mode[D]:
        """Return the mode of the domain, which is open now."""

    def close(self) -> None:
        """Leave the ring to others. Idempotent, and possible after any of the steps."""


class Look(Protocol[D]):
    """The choice of a mode."""

    def __call__(self, log: ReplicationLog, settings: RingSettings, chain: Generation | None) -> Resumption[D]:
        """Find what the last run left, and refuse what cannot go on in this mode. Changes nothing.

        ``chain`` is the last claim in the store, or None while the store is away. The caller closes the result.
        """


class Mode(Protocol[D]):
    """The mode of an open domain. Thread-safe."""

    @property
    def source(self) -> DurableLog:
        """The log as the uploader reads it."""

    async def begin(self, cursor: Cursor, start_upload: Callable[[], None], attach: Callable[[], list[D]]) -> None:
        """Serve the disks the domain has, owe the copies they need, and start the upload: the order is the mode's.

        ``cursor`` is the log position after the last LSN of the store. ``attach`` attaches the disks that the history
        has by then, and may block.
        """

    # -- disks: each of these may block --------------------------------------------------------------------------------

    def open_new(self, name: str, place: DiskPlace, size_bytes: int | None) -> Primary:
        """Open and check the primary of a new disk; create a file that is missing."""

    def attach(self, number: int, name: str, primary: Primary, size_bytes: int) -> D:
        """Return the disk, of ``size_bytes``, on its primary, which nobody writes to yet and which may have more."""

    def serve(self, disk: D) -> None:
        """From now on guests may write to the disk."""

    def withdraw(self, disk: D) -> None:
        """Take the disk from its guests; returns when what is in flight has ended."""

    def move(self, disk: D, path: str, reason: str) -> str:
        """Go on with the disk at ``path``; returns why a copy of it is owed. Raises, with nothing changed.

        That is empty if ``path`` is a name of the file that is in use, and ``reason`` otherwise.
        """

    def grow(self, disk: D, size_bytes: int) -> None:
        """From now on guests may use more of the disk, once they connect anew."""

    @property
    def looks_for_disks(self) -> bool:
        """Whether a failed disk is looked for, and returns by itself."""

    # -- questions: none waits -----------------------------------------------------------------------------------------

    @property
    def why_inconsistent(self) -> str:
        """Why the log is about to say that the domain is not consistent, though it does not yet. Empty otherwise."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that has happened so far will make another copy owed."""

    @property
    def is_crowded(self) -> bool:
        """Whether copies are to wait, because the rest of the log is for what guests write."""

    @property
    def bypassed_s(self) -> float:
        """For how long writes have bypassed the log; 0 while logging is on."""

    @property
    def state_trouble(self) -> Trouble | None:
        """Why the state folder cannot be written at present."""

    def status(self) -> HostStatus | None:
        """The host component; None where there is none."""

    def ladder(self) -> LadderStatus:
        """Where the domain stands when guests write more than is shipped."""

    # -- questions that may wait for a file system ---------------------------------------------------------------------

    def files_in_use(self, disks: Iterable[D]) -> list[FileInUse]:
        """Return the files that ``disks`` and the ring rely on, each with the process that has it open."""

    # -- end: in this order --------------------------------------------------------------------------------------------

    async def stop_watching(self) -> None:
        """From now on nothing is owed, switched or restarted. The log is still trimmed."""

    def end(self, *, stop_host: bool) -> bool:
        """Let a host component go on, or end it; True if log and primaries then hold everything. May block."""

    async def stop_trimming(self) -> None:
        """From now on the log's tail stays."""

    def log_closed(self) -> None:
        """The log was closed, clean if it holds everything. Raises :class:`LogFailed` where that is a loss."""
