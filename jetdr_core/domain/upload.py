"""Upload: what an open domain uploads, once its log is joined with its store.

Invariants: before that nothing is uploaded, and nothing is called stored. The upload begins at the place where log and
store meet. What ends the joining for good ends the upload for good.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from jetdr_core.aio import settle
from jetdr_core.domain.parts import Away, Joined
from jetdr_core.errors import Fenced, Forged, InvalidRequest, JetdrError, StoreLost
from jetdr_core.options import DomainOptions
from jetdr_core.replication_log import Cursor
from jetdr_core.store import ObjectStore
from jetdr_core.uploader import (
    HeartbeatRefusal,
    LogSource,
    StoreRefusal,
    SummaryWriter,
    Uploader,
    UploadLag,
    UploadStats,
)

__all__ = ["Upload"]

log_ = logging.getLogger(__name__)


class Upload:
    """Runs in the domain's loop; its properties may be read from any thread.

    ``cursor`` is where the store ends, as far as is known. ``join`` is awaited if the domain is not joined yet.
    """

    def __init__(
        self,
        domain: str,
        source: LogSource,
        options: DomainOptions,
        cursor: Cursor,
        state: Joined | Away,
        join: Callable[[], Awaitable[Joined]],
    ) -> None:
        self._domain = domain
        self._source = source
        self._options = options
        self._cursor = cursor
        self._join = join
        self._paused = False
        self._failure: BaseException | None = None
        self._joining: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()  # joined, or failed for good
        self._oldest_ns = state.oldest_ns
        self._lag = UploadLag(source, cursor.lsn, time.monotonic)
        self._uploader: Uploader | None = None
        self._summaries: SummaryWriter | None = None
        if isinstance(state, Joined):
            self._take(state)

    # -- what it says ------------------------------------------------------------------------------------------------

    @property
    def is_joined(self) -> bool:
        return self._uploader is not None

    @property
    def failure(self) -> BaseException | None:
        """What stopped the upload for good."""
        return self._failure if self._uploader is None else self._uploader.failure

    @property
    def forged(self) -> str:
        """What was found in the store that no owner of the domain put there. Empty if nothing was."""
        found = "" if self._uploader is None else self._uploader.watch.forged
        return found or (str(self.failure) if isinstance(self.failure, Forged) else "")

    @property
    def lsn_uploaded(self) -> int:
        """The store has taken everything up to this LSN. Before the domain is joined: it had when it was last seen."""
        return self._cursor.lsn if self._uploader is None else self._uploader.lsn_uploaded

    @property
    def is_lost(self) -> bool:
        """Whether the store has lost something, so that nothing is known to be in it."""
        return isinstance(self.failure, StoreLost)

    @property
    def unseen_s(self) -> float | None:
        """For how long nobody has seen that the store holds the whole chain. None before the domain is joined."""
        return None if self._uploader is None else self._uploader.unseen_s

    @property
    def proven_ns(self) -> int:
        """The newest instant that the store proves. 0: not known."""
        return 0 if self._uploader is None else self._uploader.proven_ns

    @property
    def refusal(self) -> StoreRefusal | None:
        """What the store of a joined domain refuses at present. It is tried again."""
        return None if self._uploader is None else self._uploader.refusal

    @property
    def heartbeat_refusal(self) -> HeartbeatRefusal | None:
        return None if self._uploader is None else self._uploader.heartbeat_refusal

    @property
    def lag_s(self) -> float:
        """Age of the oldest record that the store may lack; 0 if it lacks none."""
        if self._uploader is not None:
            return self._uploader.lag_s
        since_opening = self._lag.age_s(self._cursor.lsn)
        return max(since_opening, self._age_s(self._oldest_ns))

    @property
    def stats(self) -> UploadStats:
        return UploadStats() if self._uploader is None else self._uploader.stats

    @property
    def paused(self) -> bool:
        return self._paused

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to upload, or to join the domain with its store."""
        if self._uploader is not None:
            self._uploader.start()
        else:
            self._joining = asyncio.create_task(self._join_and_start(), name="jetdr-joining")

    def pause(self) -> None:
        """Send nothing new to the store until :meth:`resume`. From any thread."""
        self._paused = True
        if self._uploader is not None:
            self._uploader.pause()

    def resume(self) -> None:
        self._paused = False
        if self._uploader is not None:
            self._uploader.resume()

    async def wait_uploaded(self, lsn: int) -> None:
        """Return when the store holds everything up to ``lsn``. Raises what stopped the upload."""
        await (await self._joined_uploader()).wait_uploaded(lsn)

    async def wait_held(self, lsn: int) -> None:
        """As :meth:`wait_uploaded`, and the store was then seen to hold the chain."""
        await (await self._joined_uploader()).wait_held(lsn)

    async def _joined_uploader(self) -> Uploader:
        await self._settled.wait()
        if self._uploader is None:
            assert self._failure is not None, "it has failed"
            raise self._failure
        return self._uploader

    async def is_whole(self, store: ObjectStore) -> bool:
        """Whether ``store`` holds again what was missed. What this process has not uploaded is not asked for."""
        return self._uploader is None or await self._uploader.watch.is_whole(store)

    async def stop(self) -> None:
        """Stop at once. Callers that wait for an upload are told so."""
        if self._joining is not None:
            self._joining.cancel()
            await settle(self._joining)
        if self._uploader is None:
            why = f"domain {self._domain!r} was closed before it was joined with its store"
            self._fail(InvalidRequest(why, hint="what is to be uploaded is in its log: open the domain again"))
        else:
            await self._uploader.stop()

    async def stop_summaries(self) -> None:
        if self._summaries is not None:
            await self._summaries.stop()

    # -- joining -----------------------------------------------------------------------------------------------------

    async def _join_and_start(self) -> None:
        try:
            joined = await self._join()
        except Exception as error:
            is_expected = isinstance(error, JetdrError | OSError)
            log_.error("domain %s: it is not joined with its store: %s", self._domain, error, exc_info=not is_expected)
            if isinstance(error, Fenced):
                self._source.fence(error.epoch_newer)
            self._fail(error)
        else:
            self._take(joined).start()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._settled.set()

    def _take(self, joined: Joined) -> Uploader:
        self._summaries = SummaryWriter(joined.store, joined.chain.domain_key)
        uploader = Uploader(
            self._source,
            joined.chain,
            self._options,
            joined.cursor,
            on_segment=self._summaries.on_segment,
            backlog_age_s=self._age_s(joined.oldest_ns),
        )
        self._uploader = uploader
        if self._paused:  # looked at last, since another thread may set it
            uploader.pause()
        self._settled.set()
        return uploader

    def _age_s(self, time_ns: int) -> float:
        """Return the age of a record by the log's own clock, which may be ahead of the machine's. 0 for no record."""
        return (self._source.observe()[1] - time_ns) / 1e9 if time_ns else 0.0
