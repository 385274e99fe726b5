"""Runs a plan: range-GETs in parallel, each handed to a thread that applies it; saves progress as it goes.

Invariants: at most ``workers`` ranges are in memory; a range is noted as applied only if all of it was good, and the
journal hears of it only after a sync that began later.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from jetdr_core.aio import shielded
from jetdr_core.errors import ChainBroken, DamagedObject, ObjectNotFound, StoreAccessDenied, StoreError
from jetdr_core.extent import DamagedExtent, describe_extents
from jetdr_core.rehydrate.apply import Applier, damage_of, raise_damage
from jetdr_core.rehydrate.journal import Applied
from jetdr_core.rehydrate.plan import FrameRange, SegmentPlan, frame_ranges
from jetdr_core.rehydrate.target import TargetDisk
from jetdr_core.store.protocol import ObjectStore

__all__ = ["CHECKPOINT_BYTES", "WORKERS_DEFAULT", "WORKERS_MAX", "ProgressCallback", "Rebuild", "Tally"]

WORKERS_DEFAULT = 8
WORKERS_MAX = 24
CHECKPOINT_BYTES = 128 << 20
"""Applied bytes after which they are synced and journaled: what an interrupted run may have to fetch again."""

ProgressCallback = Callable[[str, int, int], None]
"""(disk name, bytes done, bytes in all); called in the event loop's thread."""


@dataclass(slots=True)
class Tally:
    """Counts of one disk. ``bytes_total`` is what a progress bar ends at."""

    name: str
    bytes_total: int
    bytes_resumed: int = 0
    bytes_written: int = 0
    bytes_fetched: int = 0
    damaged: list[DamagedExtent] = field(default_factory=list)


class Rebuild:
    """One pass over ``segments``. Row n of ``targets`` and ``tallies`` is disk n of the plan.

    ``workers`` coroutines each take the next range, GET it, and await a pool thread that verifies, decompresses and
    writes it; so in flight are at most ``workers`` ranges. One checkpoint at a time runs in a thread beside them. The
    first error of any of them ends the pass: it surfaces from :meth:`run` after all threads have ended, and what was
    applied until then is journaled. Use from one event loop, once.
    """

    def __init__(
        self,
        store: ObjectStore,
        segments: Iterable[SegmentPlan],
        targets: Sequence[TargetDisk],
        tallies: Sequence[Tally],
        *,
        workers: int,
        keep_going: bool,
        progress: ProgressCallback | None,
    ) -> None:
        self._store = store
        self._ranges = _ordered_ranges(segments)
        self._targets = targets
        self._tallies = tallies
        self._workers = workers
        self._keep_going = keep_going
        self._progress = progress
        self._applier = Applier(targets)
        self._pool = ThreadPoolExecutor(min(workers, max(2, os.cpu_count() or 2)), thread_name_prefix="jetdr-apply")
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="jetdr-checkpoint")
        self._unsaved: defaultdict[int, list[Applied]] = defaultdict(list)
        self._unsaved_bytes = 0
        self._saving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Apply everything; at return it is durable and journaled."""
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
        for wanted in self._ranges:
            data = await self._get(wanted)
            if data is None:
                continue
            damage = await loop.run_in_executor(self._pool, self._applier.apply, wanted, data)
            del data
            if damage and not self._keep_going:
                raise_damage(damage)
            self._note(wanted, damage)
            if self._unsaved_bytes >= CHECKPOINT_BYTES and (self._saving is None or self._saving.done()):
                self._saving = group.create_task(self._save())

    async def _get(self, wanted: FrameRange) -> bytes | None:
        """The range's bytes; None if they are lost and the recovery goes on without them."""
        key = wanted.segment.place.key
        try:
            return await self._store.get_range(key, wanted.offset, wanted.length)
        except StoreError as error:
            if error.transient or isinstance(error, StoreAccessDenied):
                raise
            damage = damage_of(wanted.pieces, [tally.name for tally in self._tallies], key, str(error))
            if not self._keep_going:
                raise _lost(wanted, damage, error) from error
            self._note_damage(damage)
            return None

    def _note(self, applied: FrameRange, damage: Sequence[DamagedExtent]) -> None:
        pieces = applied.pieces
        live_bytes = np.bincount(pieces["disk"], pieces["length"], minlength=len(self._tallies)).astype(np.int64)
        for disk in np.flatnonzero(live_bytes).tolist():
            tally = self._tallies[disk]
            tally.bytes_fetched += int(applied.length * live_bytes[disk] // live_bytes.sum())
            tally.bytes_written += int(live_bytes[disk])
            if not damage:
                self._unsaved[disk].append(Applied(applied.segment.place.number, *applied.frame_span))
            if self._progress is not None:
                self._progress(tally.name, tally.bytes_resumed + tally.bytes_written, tally.bytes_total)
        self._unsaved_bytes += int(live_bytes.sum())
        for extent in damage:
            self._tally_of(extent).bytes_written -= extent.length
        self._note_damage(damage)

    def _note_damage(self, damage: Sequence[DamagedExtent]) -> None:
        for extent in damage:
            self._tally_of(extent).damaged.append(extent)

    def _tally_of(self, extent: DamagedExtent) -> Tally:
        return next(tally for tally in self._tallies if tally.name == extent.disk)

    async def _save(self) -> None:
        """Sync and journal what was applied before this call; the saver's one thread keeps checkpoints in order."""
        unsaved, self._unsaved = self._unsaved, defaultdict(list)
        self._unsaved_bytes = 0

        def checkpoint() -> None:
            for disk, applied in unsaved.items():
                self._targets[disk].checkpoint(applied)

        # shielded: a cancelled job that has not begun would never run, and what it was told of would be forgotten
        await shielded(asyncio.get_running_loop().run_in_executor(self._saver, checkpoint))


def _ordered_ranges(segments: Iterable[SegmentPlan]) -> Iterator[FrameRange]:
    """Ranges in the order in which their segments touch the target first: long runs of writes stay long."""
    for segment in sorted(segments, key=lambda segment: segment.pieces[["disk", "offset"]][0].item()):
        yield from frame_ranges(segment)


def _lost(wanted: FrameRange, damage: Sequence[DamagedExtent], error: StoreError) -> ChainBroken | DamagedObject:
    place = wanted.segment.place
    hint = "recover a point that does not need it, or keep going without what is lost"
    if isinstance(error, ObjectNotFound):
        return ChainBroken(
            f"segment {place.number} ({place.key}, LSN {place.lsn_first} to {place.lsn_last}) has vanished from the "
            f"store; it holds {describe_extents(damage)}",
            hint=hint,
            key=place.key,
        )
    return DamagedObject(place.key, describe_extents(damage), error.cause, hint=hint)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
