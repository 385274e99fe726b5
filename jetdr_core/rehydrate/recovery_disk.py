"""RecoveryDisk: one disk of a recovery, from its place in the plan to its final name.

Its life, in this order, each step for all disks of the recovery before the next:

1. It is planned: ``planned`` collects the bytes that make it up.
2. :meth:`examine` finds out how far an earlier run of the same recovery came.
3. :meth:`open` opens the files in the target directory.
4. Frames are written to ``target``. :meth:`note` counts them, and :meth:`save` makes them durable.
5. :meth:`finish` brings it into its final format and announces it.

Invariant: the journal gets a frame only after its bytes were synced.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence

from jetdr_core.catalog import DiskState, RecoveryPoint
from jetdr_core.extent import DamagedExtent
from jetdr_core.rehydrate.disk_files import DiskFiles
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.plan import PlannedDisk
from jetdr_core.rehydrate.report import DiskReport
from jetdr_core.rehydrate.standing import Progress, Standing, examine
from jetdr_core.rehydrate.target import TargetDisk

__all__ = ["ProgressCallback", "RecoveryDisk"]

_EVERY_FRAME = (0, 0xFFFF_FFFF)

ProgressCallback = Callable[[str, int, int], None]
"""(disk name, bytes done, bytes in all). Called in the event loop's thread."""


class RecoveryDisk:
    """Used from one event loop. Only the descriptor of :attr:`target` and :meth:`save` are used from other threads.

    ``bytes_*`` count live data, which is what the plan has. ``damaged`` are the extents that could not be recovered.
    """

    def __init__(self, state: DiskState, files: DiskFiles, progress: ProgressCallback | None) -> None:
        self.state = state
        self.files = files
        self.planned = PlannedDisk(state.disk, state.name, state.size_bytes)
        self.standing = Standing(Progress.NONE, None)
        self.bytes_resumed = self.bytes_written = self.bytes_fetched = 0
        self.damaged: list[DamagedExtent] = []
        self._progress = progress
        self._identity: RecoveryIdentity | None = None
        self._target: TargetDisk | None = None
        self._applied: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._unsaved: list[Applied] = []

    @property
    def name(self) -> str:
        return self.state.name

    # -- before anything is written ------------------------------------------------------------------------------------

    def examine(self, identity: RecoveryIdentity) -> None:
        """Find out how far the recovery ``identity`` came. :class:`TargetExists` if the files are not its own."""
        self._identity = identity
        self.standing = examine(self.files, identity)

        for done in self.standing.applied:
            self._applied[done.segment].append((done.frame_first, done.frame_last))

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run wrote anything that need not be written again."""
        return self.standing.is_written or bool(self._applied)

    def applied_in(self, segment: int) -> Sequence[tuple[int, int]]:
        """What an earlier run wrote of a segment: ranges of frame numbers (first, last)."""
        return [_EVERY_FRAME] if self.standing.is_written else self._applied.get(segment, ())

    def needed_bytes(self) -> int:
        """Space still to be allocated: the live bytes, and a second time if a stream is encoded from them."""
        if self.standing.is_written:
            return 0
        live_bytes = self.planned.bytes_live
        encoded_bytes = live_bytes if self.files.format == "stream" else 0
        return max(0, live_bytes - self.files.allocated_bytes()) + encoded_bytes

    # -- while it is written -------------------------------------------------------------------------------------------

    def open(self) -> TargetDisk:
        """Open the disk's files; the caller closes the result."""
        assert self._identity is not None, "it was examined"
        self._target = TargetDisk(self.files, self._identity, self.standing)
        return self._target

    @property
    def target(self) -> TargetDisk:
        assert self._target is not None, "it was opened"
        return self._target

    def note(self, *, bytes_written: int, bytes_fetched: int, applied: Applied | None) -> None:
        """Count what was written. ``applied`` are its frames if all of them were good, so that they can be saved."""
        self.bytes_written += bytes_written
        self.bytes_fetched += bytes_fetched
        if applied is not None:
            self._unsaved.append(applied)
        self._tell(self.bytes_resumed + self.bytes_written)

    def take_unsaved(self) -> list[Applied]:
        """What was noted since the last call, to be handed to :meth:`TargetDisk.save`."""
        unsaved, self._unsaved = self._unsaved, []
        return unsaved

    # -- the end -------------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Bring the disk into its final format and announce it."""
        loop = asyncio.get_running_loop()
        live_bytes, size_bytes = self.planned.bytes_live, self.state.size_bytes

        def encoded(place: int) -> None:
            loop.call_soon_threadsafe(self._tell, live_bytes + live_bytes * place // size_bytes)

        await asyncio.to_thread(self.target.finish, encoded)
        self._tell(self._bytes_total)

    def report(self, point: RecoveryPoint) -> DiskReport:
        return DiskReport(
            name=self.name,
            path=self.files.outputs[-1],
            size_bytes=self.state.size_bytes,
            bytes_written=self.bytes_written,
            bytes_resumed=self.bytes_resumed,
            bytes_fetched=self.bytes_fetched,
            lsn=point.lsn,
            time_ns=point.time_ns,
            damaged=tuple(self.damaged),
        )

    @property
    def _bytes_total(self) -> int:
        """What the progress ends at: the live bytes, and a second time if a stream is encoded from them."""
        return self.planned.bytes_live * (2 if self.files.format == "stream" else 1)

    def _tell(self, bytes_done: int) -> None:
        if self._progress is not None:
            self._progress(self.name, bytes_done, self._bytes_total)
