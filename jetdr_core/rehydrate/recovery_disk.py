"""RecoveryDisk: one disk of a recovery, from its place in the plan to its final name.

Its life, in this order, each step for all disks of the recovery before the next:

1. It is planned: ``planned`` collects the bytes that make it up.
2. :meth:`examine` finds out how far an earlier run of the same recovery came.
3. :meth:`open` opens the files in the target directory.
4. :meth:`recheck` reads what that run left, and takes for written only what is as it was written.
5. Frames are written to ``target``. :meth:`note` counts them, and :meth:`TargetDisk.save` makes them durable.
6. :meth:`finish` brings it into its final format and announces it.

Invariant: the journal gets a frame only after its bytes were synced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from jetdr_core.catalog import DiskState, RecoveryPoint
from jetdr_core.errors import TargetExists, TargetFailed
from jetdr_core.extent import DamagedExtent
from jetdr_core.rehydrate.device_disk import DeviceDisk
from jetdr_core.rehydrate.disk_files import DiskFiles
from jetdr_core.rehydrate.journal import Applied, RecoveryIdentity
from jetdr_core.rehydrate.plan import Mask, PlannedDisk, SegmentPlan, lost_pieces, without_piece
from jetdr_core.rehydrate.recheck import recheck_finished, recheck_partial
from jetdr_core.rehydrate.report import DiskReport
from jetdr_core.rehydrate.standing import Progress, Standing, examine
from jetdr_core.rehydrate.target import TargetDisk
from jetdr_core.rehydrate.target_folder import TargetFolder

__all__ = ["ProgressCallback", "RecoveryDisk"]

ProgressCallback = Callable[[str, int, int], None]
"""(disk name, bytes done, bytes in all). Called in the event loop's thread."""


class RecoveryDisk:
    """Used from one event loop. Only the descriptor of :attr:`target` and its ``save`` are used from other threads.

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
        self._asked = ""
        self._target: TargetDisk | None = None
        self._unsaved: list[Applied] = []

    @property
    def name(self) -> str:
        return self.state.name

    # -- before anything is written ------------------------------------------------------------------------------------

    def examine(self, target: TargetFolder | None, identity: RecoveryIdentity, asked: str = "") -> None:
        """Find out how far the recovery ``identity`` came. :class:`TargetExists` if the files are not its own.

        ``asked`` are the words that named its point.
        """
        self._identity = identity
        self._asked = asked
        self.standing = examine(target, self.files, identity, self.planned.frames)

    def needed_bytes(self) -> int:
        """Space still to be allocated: the live bytes, and a second time if a stream is encoded from them."""
        if self.standing.is_written or self.files.device:
            return 0
        live_bytes = self.planned.bytes_live
        encoded_bytes = live_bytes if self.files.format == "stream" else 0
        return max(0, live_bytes - self.standing.allocated_bytes) + encoded_bytes

    # -- what an earlier run left --------------------------------------------------------------------------------------

    def open(self, target: TargetFolder) -> TargetDisk:
        """Open the disk's files; the caller closes the result."""
        identity = self._identity
        assert identity is not None, "it was examined"
        kind = DeviceDisk if self.files.device else TargetDisk
        self._target = kind(
            target,
            self.files,
            identity,
            self.standing,
            lambda: examine(target, self.files, identity, self.planned.frames),
            self._asked,
        )
        return self._target

    async def recheck(self, segments: Sequence[SegmentPlan], row: int) -> Mapping[int, Mask]:
        """Read what an earlier run left. Returns by segment which pieces of this disk are as they were written.

        What an unfinished disk holds wrongly is written again. A finished one is never written: if it is not what was
        written, that is :class:`TargetExists`.
        """
        if not self.standing.is_resumed:
            await asyncio.to_thread(self.target.zero, without_piece(segments, row, self.state.size_bytes))
            return {}
        loop = asyncio.get_running_loop()

        def told(bytes_good: int) -> None:
            loop.call_soon_threadsafe(self._tell, bytes_good)

        check = recheck_finished if self.standing.is_written else recheck_partial
        found = await asyncio.to_thread(check, self.target, self.standing.journal, segments, row, told)
        self.bytes_resumed = found.bytes_good
        return found.good

    @property
    def target(self) -> TargetDisk:
        assert self._target is not None, "it was opened"
        return self._target

    def note(self, *, bytes_written: int, bytes_fetched: int, applied: Sequence[Applied]) -> None:
        """Count what was written. ``applied`` are the frames that were good, so that they can be saved."""
        self.bytes_written += bytes_written
        self.bytes_fetched += bytes_fetched
        self._unsaved += applied
        self._tell(self.bytes_resumed + self.bytes_written)

    def take_unsaved(self) -> list[Applied]:
        """What was noted since the last call, to be handed to :meth:`TargetDisk.save`."""
        unsaved, self._unsaved = self._unsaved, []
        return unsaved

    async def verify(self, segments: Sequence[SegmentPlan], row: int) -> None:
        """Read a device back, and compare everything with what the journal says. Damaged pieces become zeros.

        :class:`TargetFailed` if the device does not hold what was written. A file system has checks of its own.
        """
        if isinstance(self.target, DeviceDisk):
            await asyncio.to_thread(self._verify, self.target, segments, row)

    def _verify(self, target: DeviceDisk, segments: Sequence[SegmentPlan], row: int) -> None:
        journal = target.read_back()
        try:
            found = recheck_finished(target, journal, segments, row, lambda _bytes_good: None)
        except TargetExists as error:
            raise TargetFailed(
                f"{target.path} does not hold what was written to it",
                hint="check the device and what else writes to it, then run this again",
                path=target.path,
            ) from error
        target.zero(lost_pieces(segments, row, found.good))

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
            path=self.files.final,
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
