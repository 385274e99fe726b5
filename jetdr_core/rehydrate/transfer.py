"""Transfer: fetches the frames of a plan and writes them to the disks of a recovery.

Invariants: at most ``workers`` batches of ranges, of 4 MiB each, are in memory. The journal gets a frame only after a
sync that began after the frame was written.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from jetdr_core.aio import shielded
from jetdr_core.errors import ChainBroken, DamagedObject, ObjectNotFound, ObjectUnavailable, StoreError
from jetdr_core.extent import DamagedExtent, describe_extents
from jetdr_core.rehydrate.apply import Fetched, FrameWriter, Outcome, damage_of, raise_damage
from jetdr_core.rehydrate.plan import FrameRange, SegmentPlan, batches, frame_ranges
from jetdr_core.rehydrate.recovery_disk import RecoveryDisk
from jetdr_core.remedies import KEEP_GOING
from jetdr_core.store import ObjectRange, ObjectStore

__all__ = ["SAVE_BYTES", "WORKERS_DEFAULT", "WORKERS_MAX", "Transfer"]

WORKERS_DEFAULT = 8
WORKERS_MAX = 24
SAVE_BYTES = 128 << 20
"""Applied bytes after which they are synced and journaled. An interrupted run may have to fetch so many again."""


class Transfer:
    """One pass over ``segments``. The rows of ``disks`` are those of the plan. Used from one event loop, once.

    ``workers`` coroutines each take the next batch of ranges, get it, and await a pool thread that verifies,
    decompresses and writes it. So at most ``workers`` batches are in flight. Beside them, one thread at a time saves.
    The first error ends the pass. :meth:`run` raises it when all threads have ended, and what was applied until then is
    journaled.
    """

    def __init__(
        self,
        store: ObjectStore,
        segments: Iterable[SegmentPlan],
        disks: Sequence[RecoveryDisk],
        *,
        workers: int,
        keep_going: bool,
    ) -> None:
        self._store = store
        self._batches = batches(_ordered_ranges(segments))
        self._disks = disks
        self._by_name = {disk.name: disk for disk in disks}
        self._workers = workers
        self._keep_going = keep_going
        self._frame_writer = FrameWriter(disks)
        self._pool = ThreadPoolExecutor(min(workers, max(2, os.cpu_count() or 2)), thread_name_prefix="jetdr-apply")
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="jetdr-save")
        self._unsaved_bytes = 0
        self._saving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Apply everything. At return it is durable and journaled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work(group))
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            self._pool.shutdown()
            try:
                await self._save()
            finally:
                self._saver.shutdown()

    async def _work(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        for batch in self._batches:
            fetched, failed = await self._get(batch)
            outcome = await loop.run_in_executor(self._pool, self._frame_writer.apply, fetched)
            del fetched
            self._note(outcome)
            if not self._keep_going:
                raise_damage(outcome.damage, outcome.kind)
            for wanted, error in failed:
                self._note_lost(wanted, error)
            if self._unsaved_bytes >= SAVE_BYTES and (self._saving is None or self._saving.done()):
                self._saving = group.create_task(self._save())

    async def _get(self, batch: Sequence[FrameRange]) -> tuple[list[Fetched], list[tuple[FrameRange, StoreError]]]:
        """The ranges that the store gave, and those that it did not give."""
        found = await self._store.get_ranges(
            [ObjectRange(wanted.segment.place.key, wanted.offset, wanted.length) for wanted in batch]
        )
        fetched: list[Fetched] = []
        failed: list[tuple[FrameRange, StoreError]] = []
        for wanted, result in zip(batch, found, strict=True):
            if isinstance(result, StoreError):
                failed.append((wanted, result))
            else:
                fetched.append(Fetched(wanted, result))
        return fetched, failed

    def _note_lost(self, wanted: FrameRange, error: StoreError) -> None:
        """Continue without a range that the store does not give any more, if the recovery does that."""
        if not isinstance(error, ObjectUnavailable):
            raise error
        damage = damage_of(wanted.pieces, self._disks, wanted.segment.place.key, str(error))
        if not self._keep_going:
            raise _lost(wanted, damage, error) from error
        self._note_damage(damage)

    def _note(self, outcome: Outcome) -> None:
        for row, live_bytes in outcome.bytes_live.items():
            self._disks[row].note(
                bytes_written=live_bytes,
                bytes_fetched=outcome.bytes_fetched[row],
                applied=outcome.applied.get(row, ()),
            )
            self._unsaved_bytes += live_bytes
        for extent in outcome.damage:
            self._by_name[extent.disk].bytes_written -= extent.length
        self._note_damage(outcome.damage)

    def _note_damage(self, damage: Sequence[DamagedExtent]) -> None:
        for extent in damage:
            self._by_name[extent.disk].damaged.append(extent)

    async def _save(self) -> None:
        """Sync and journal what was applied before this call. The one thread of the saver keeps saves in order."""
        unsaved = [(disk.target, disk.take_unsaved()) for disk in self._disks]
        self._unsaved_bytes = 0

        def save() -> None:
            for target, applied in unsaved:
                target.save(applied)

        # shielded: a cancelled job that has not begun would never run, and the journal would never get its rows
        await shielded(asyncio.get_running_loop().run_in_executor(self._saver, save))


def _ordered_ranges(segments: Iterable[SegmentPlan]) -> Iterator[FrameRange]:
    """Ranges in the order of the first bytes that their segments write, so that long runs of writes stay long."""
    for segment in sorted(segments, key=_place_of):
        yield from frame_ranges(segment)


def _place_of(segment: SegmentPlan) -> tuple[int, int]:
    first = segment.pieces[0]
    return int(first["disk"]), int(first["offset"])


def _lost(wanted: FrameRange, damage: Sequence[DamagedExtent], error: ObjectUnavailable) -> ChainBroken | DamagedObject:
    place = wanted.segment.place
    hint = f"recover a point that does not need it, or {KEEP_GOING}"
    if isinstance(error, ObjectNotFound):
        return ChainBroken(
            f"segment {place.number} ({place.key}, LSN {place.lsn_first} to {place.lsn_last}) has vanished from the "
            f"store; it holds {describe_extents(damage)}",
            hint=hint,
            key=place.key,
        )
    return DamagedObject(place.key, describe_extents(damage), error.problem, hint=hint)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
