"""Uploader: ships the log's durable records to the store as a chain of segments.

Five tasks of one event loop share the work::

    cutter -> encoders (threads) -> sealer -> puts in flight -> completer

Encoders finish in any order, but the sealer gives each body its number and its predecessor in LSN order. The completer
takes the segments in LSN order, moves ``lsn_uploaded``, and has the log trimmed. Three more tasks watch the age of the
oldest record that is not stored, write heartbeats, and watch the store. Memory is bounded: at most ``upload_workers``
bodies are being encoded, ``puts_max`` segments are in flight, and two more wait between the tasks.

Invariants: nothing is uploaded twice, because an uploader begins after the chain's last LSN. The first error stops all
tasks for good, is kept in ``failure``, and is raised by :meth:`Uploader.wait_uploaded`. Transient errors of the store
do not get here, because RetryingStore below goes on trying. What the store refuses is tried again as well
(patience.py), and whoever waits for an upload is told so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from jetdr_core.errors import Fenced, InvalidRequest, JetdrError, StoreLost
from jetdr_core.options import DomainOptions
from jetdr_core.replication_log import Cursor
from jetdr_core.segment import SegmentBody
from jetdr_core.uploader.chain import ChainWriter
from jetdr_core.uploader.cutter import Cutter
from jetdr_core.uploader.heartbeats import HeartbeatRefusal, HeartbeatWriter
from jetdr_core.uploader.in_flight import PutsInFlight
from jetdr_core.uploader.lag import UploadLag
from jetdr_core.uploader.latency import UploadLatency
from jetdr_core.uploader.patience import Patience, StoreRefusal
from jetdr_core.uploader.source import LogSource
from jetdr_core.uploader.store_watch import StoreWatch
from jetdr_core.uploader.trimmer import CHECKPOINT_S, LogTrimmer
from jetdr_core.uploader.workers import Workers

__all__ = ["UploadStats", "Uploader"]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class UploadStats:
    """Counters since the uploader started."""

    segments: int = 0
    payload_bytes: int = 0
    stored_bytes: int = 0
    latency: UploadLatency = field(default_factory=UploadLatency)


class Uploader:
    """Runs in one event loop; every method is called there, but for :meth:`pause` and ``lag_s``.

    ``cursor`` is the log position after the chain's last LSN. What the log holds there already is ``backlog_age_s``
    old, as it may have waited for the store before this process began. ``on_segment`` is called with the number of each
    segment once it is stored, in LSN order.
    """

    def __init__(
        self,
        source: LogSource,
        chain: ChainWriter,
        options: DomainOptions,
        cursor: Cursor,
        *,
        on_segment: Callable[[int], None],
        backlog_age_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = UploadStats()
        self.failure: BaseException | None = None
        self._source = source
        self._chain = chain
        self._on_segment = on_segment
        self._stored = cursor
        self._clock = clock
        self._segment_time_ns = chain.time_ns
        self._workers = Workers(options.upload_workers, verify=options.verify_frames, domain_key=chain.domain_key)
        self._lag = UploadLag(source, cursor.lsn, clock, backlog_age_s=backlog_age_s)
        self._cutter = Cutter(source, self._workers, self._lag, options, cursor)
        self._encoding: asyncio.Queue[tuple[asyncio.Future[SegmentBody], Cursor]] = asyncio.Queue(
            options.upload_workers
        )
        self._progress = asyncio.Condition()
        self._puts = Patience(f"domain {chain.domain}: uploads", self._progress)
        self._reads = Patience(f"domain {chain.domain}: looks at the store", self._progress)
        self._in_flight = PutsInFlight(chain, options.puts_max, self.stats.latency, self._puts, clock)
        self._trimmer = LogTrimmer(source, self._workers, cursor, clock)
        self._heartbeats = HeartbeatWriter(
            source, chain, options.heartbeat_s, is_idle=lambda lsn: lsn == self.lsn_uploaded and not self.paused
        )
        self.watch = StoreWatch(chain, options.store_check_s, clock)
        self._tasks: list[asyncio.Task[None]] = []

    # -- face --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to ship."""
        for work in (
            self._cut_forever,
            self._seal_forever,
            self._complete_forever,
            self._trim_forever,
            self._heartbeats.beat_forever,
            self._watch_forever,
            self._lag.look_forever,
        ):
            self._tasks.append(asyncio.create_task(self._guard(work()), name=f"jetdr-{work.__name__}"))

    @property
    def lsn_uploaded(self) -> int:
        """The store holds everything up to this LSN."""
        return self._stored.lsn

    @property
    def lag_s(self) -> float:
        """Age of the oldest record that is not stored; 0 if all are. From any thread.

        After a loss that record is not known. It is at least as old as the last check that found the chain whole.
        """
        age_s = self._lag.age_s(self.lsn_uploaded)
        return max(age_s, self.unseen_s) if self.is_lost else age_s

    @property
    def is_lost(self) -> bool:
        """Whether the store has lost something. Then nothing is known to be stored."""
        return isinstance(self.failure, StoreLost)

    @property
    def unseen_s(self) -> float:
        """For how long nobody has seen that the store holds the whole chain. From any thread."""
        return self._clock() - self.watch.seen_s

    @property
    def proven_ns(self) -> int:
        """The newest instant that the store proves. 0: there is none, or the store has lost something."""
        return 0 if self.is_lost else max(self._segment_time_ns, self._heartbeats.time_ns)

    @property
    def heartbeat_refusal(self) -> HeartbeatRefusal | None:
        return self._heartbeats.refusal

    @property
    def refusal(self) -> StoreRefusal | None:
        """What the store refuses at present. It is tried again. From any thread."""
        return self._puts.refusal or self._reads.refusal

    @property
    def paused(self) -> bool:
        return self._cutter.paused

    def pause(self) -> None:
        """Send nothing new to the store. What is in flight arrives, and the log goes on filling. From any thread."""
        self._cutter.pause()

    def resume(self) -> None:
        """Go on where :meth:`pause` left off. What the store refuses is tried again at once."""
        self._cutter.resume()
        self._puts.hurry()
        self._reads.hurry()

    async def wait_uploaded(self, lsn: int) -> None:
        """Seal what is pending at once, and return when the store holds everything up to ``lsn``.

        Raises what the store refuses. The upload goes on nevertheless.
        """
        self._cutter.want(lsn)
        await self._until(lambda: self.lsn_uploaded >= lsn)
        if isinstance(self.failure, StoreLost):
            raise self.failure

    async def wait_held(self, lsn: int) -> None:
        """Return when the store holds everything up to ``lsn``, and was seen to hold the chain after that."""
        await self.wait_uploaded(lsn)
        stored_s = self._clock()
        self.watch.hurry()
        await self._until(lambda: self.watch.seen_s >= stored_s)
        if self.failure is not None:
            raise self.failure

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Wait for ``reached``. Raises what stopped the upload, or what holds it up because the store refuses it."""

        def problem() -> BaseException | None:
            return self.failure or (None if self.refusal is None else self.refusal.error)

        async with self._progress:
            await self._progress.wait_for(lambda: reached() or problem() is not None)
            why = None if reached() else problem()
        if why is not None:
            raise why

    async def stop(self) -> None:
        """Stop at once, and trim the log. The next uploader goes on after the last chained segment.

        Callers that still wait for an upload are told so.
        """
        has_failed = self.failure is not None
        await self._end(
            InvalidRequest(
                f"domain {self._chain.domain!r} was closed with LSN {self.lsn_uploaded} as the last uploaded",
                hint="what follows is in its log: open the domain again",
            )
        )
        self._workers.give_up_encoding()
        try:
            if not has_failed:
                await self._trimmer.trim(self._stored)
        finally:
            await self._workers.close()

    # -- failure -----------------------------------------------------------------------------------------------------

    async def _guard(self, work: Awaitable[None]) -> None:
        """Run one of the tasks. The first error of any of them ends all."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self.failure is not None:
                return
            domain = self._chain.domain
            log.error("domain %s: upload stopped: %s", domain, error, exc_info=not isinstance(error, JetdrError))
            if isinstance(error, Fenced):
                self._source.fence(error.epoch_newer)
            if isinstance(error, StoreLost):
                self._source.keep()
            await self._end(error)

    async def _end(self, failure: BaseException) -> None:
        """Upload nothing more, because of ``failure`` or of an earlier one. A task may call this, too."""
        self.failure = self.failure or failure
        ending = [task for task in (*self._tasks, *self._in_flight.tasks) if task is not asyncio.current_task()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        async with self._progress:
            self._progress.notify_all()

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def _cut_forever(self) -> None:
        while True:
            run = await self._cutter.next_run()
            await self._encoding.put((self._workers.encode(run.records), run.end))

    async def _seal_forever(self) -> None:
        while True:
            body, end = await self._encoding.get()
            ready = await body
            await self._reads.until_granted(self.watch.before_put)
            await self._in_flight.add(ready, end)

    async def _complete_forever(self) -> None:
        while True:
            segment = await self._in_flight.next_stored()
            await self._reads.until_granted(partial(self.watch.stored, segment.number, segment.sealed))
            self.stats.segments += 1
            self.stats.payload_bytes += segment.sealed.trailer.payload_bytes
            self.stats.stored_bytes += segment.sealed.size_bytes
            self._lag.stored(segment.sealed.last_lsn)
            self._segment_time_ns = segment.sealed.trailer.last_time_ns
            self._stored = segment.end
            async with self._progress:
                self._progress.notify_all()
            self._on_segment(segment.number)
            await self._trimmer.trim_if_due(self._stored)

    async def _trim_forever(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await self._trimmer.trim_rest(self._stored)

    async def _watch_forever(self) -> None:
        while True:
            await self.watch.until_due()
            await self._reads.until_granted(self.watch.look)
            async with self._progress:
                self._progress.notify_all()
