"""Joining: a domain that was opened without its store is joined with it, once the store is there.

Invariants: nothing is put into the store before its chain was found to be the one that this log continues. What the
chain says of the domain is what the known file said. A chain that another owner has continued is never written to. The
claim names the generation that the log has begun already.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack, suppress
from typing import Generic

from jetdr_core.aio import in_thread
from jetdr_core.domain.control_log import fold_control
from jetdr_core.domain.generation import Generation, Word
from jetdr_core.domain.known import Known, read_known
from jetdr_core.domain.meeting import log_id, meeting_point
from jetdr_core.domain.mode import D
from jetdr_core.domain.parts import (
    CLAIMS_MAX,
    RETRY_WHILE_RUNNING,
    Away,
    Joined,
    Parts,
    chain_writer,
    claimant,
    may_come_back,
    oldest_ns,
)
from jetdr_core.domain.request import DomainRequest
from jetdr_core.errors import (
    ChainBroken,
    DamagedObject,
    Fenced,
    GenerationMismatch,
    StoreError,
    StoreLost,
    StoreMissing,
)
from jetdr_core.file_making import told
from jetdr_core.replication_log import Cursor
from jetdr_core.store import RetryingStore, connected
from jetdr_core.uploader import ClaimLost, StoreRefusal

__all__ = ["Joining"]

log_ = logging.getLogger(__name__)

DELAY_FIRST_S = 0.1
DELAY_MAX_S = 5.0
DELAY_REFUSED_S = 15.0
"""A store that refuses has the chain read to it each time."""

_OPEN_AGAIN = "the domain is closed and opened again with its store"


class Joining(Generic[D]):
    """For the domain of ``parts``. Runs in its loop, but for :attr:`store_away`."""

    def __init__(self, request: DomainRequest[D], parts: Parts[D], away: Away) -> None:
        self._request = request
        self._parts = parts
        self._away = away
        self._own = Generation.of_log(parts.log)
        self._refused_since_ns = away.since_ns
        self._why = away.why
        self._since_s = time.monotonic()
        self._store: RetryingStore | None = None
        self._hurry = asyncio.Event()

    @property
    def store_away(self) -> tuple[float, str]:
        """For how many seconds the domain has been without its store, and why. From any thread."""
        store = self._store
        _, why = (0.0, "") if store is None else store.away
        return time.monotonic() - self._since_s, why or told(self._why)

    @property
    def refusal(self) -> StoreRefusal | None:
        """What the store refuses, so that the domain is not joined. From any thread."""
        why = self._why
        return StoreRefusal(self._refused_since_ns, why) if isinstance(why, StoreError) and why.is_refusal else None

    @property
    def retries(self) -> int:
        """How often the store was tried again since the last attempt to join began. From any thread."""
        store = self._store
        return 0 if store is None else sum(store.retries.values())

    async def join(self) -> Joined:
        """Return when the domain is joined with its store. Waits for the store as long as that takes.

        :class:`Fenced` if another owner has taken the domain over. Any other error says why the domain has to be opened
        again, which decides with full knowledge of the store.
        """
        delay_s = DELAY_FIRST_S
        while True:
            try:
                return await self._try()
            except Exception as error:
                if not may_come_back(error) and not isinstance(error, StoreLost):  # as of a directory that has moved
                    raise
                self._note(error)
            self._hurry.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), delay_s)
            delay_s = min(2 * delay_s, DELAY_MAX_S if self.refusal is None else DELAY_REFUSED_S)

    def hurry(self) -> None:
        """Try again at once."""
        self._hurry.set()

    def _note(self, error: Exception) -> None:
        was_refused, self._why = self.refusal is not None, error
        if not was_refused:
            self._refused_since_ns = time.time_ns()

    async def _try(self) -> Joined:
        settings = self._request.settings
        async with AsyncExitStack() as opened:
            store = self._store = await opened.enter_async_context(
                connected(
                    settings.store,
                    retry=RETRY_WHILE_RUNNING,
                    bandwidth_bytes_per_s=settings.options.bandwidth_bytes_per_s,
                    apart=True,
                )
            )
            for _ in range(CLAIMS_MAX):
                try:
                    joined = await self._claim(store)
                except ClaimLost:
                    continue
                self._parts.opened.push_async_exit(opened.pop_all())
                return joined
        raise ChainBroken(f"domain {self._request.name!r} could not be claimed: its chain grows", hint=_OPEN_AGAIN)

    async def _claim(self, store: RetryingStore) -> Joined:
        """Read the chain, see that it is the one that the log continues, and claim it."""
        parts, log = self._parts, self._parts.log
        known = await self._read(store)
        self._check_owner(known)
        cursor = await in_thread(meeting_point, log, known.tail.lsn_last, self._request.name)
        await in_thread(self._check_history, known, cursor)
        oldest = await in_thread(oldest_ns, log, cursor)
        end = known.chain_end._replace(epoch=self._own.epoch - 1)
        chain = chain_writer(self._request, store, known, end)
        owner = claimant(self._request, log.body.section_id, self._own)
        await in_thread(parts.keeper.joining)
        await chain.claim(cursor.lsn + 1, known.tail.time_ns_last or known.time_ns_last, owner)
        await in_thread(parts.keeper.joined)
        log_.warning("domain %s: joined with its store, which ends at LSN %d", self._request.name, cursor.lsn)
        return Joined(store=store, chain=chain, cursor=cursor, oldest_ns=oldest)

    async def _read(self, store: RetryingStore) -> Known:
        """Return what the store says. An empty one is taken for one whose file system is not mounted."""
        async for _ in store.list_prefix(""):
            break
        else:
            raise StoreMissing(f"store {store.url} is empty", hint="mount its file system, or correct the URL")
        domain_key = await in_thread(self._request.settings.read_key)
        known = await read_known(store, self._request.name, domain_key)
        if known.domain_uuid != self._parts.log.body.domain_uuid:
            raise GenerationMismatch(f"store {store.url} holds another domain of this name", hint="correct the URL")
        return known

    def _check_owner(self, known: Known) -> None:
        """Refuse a chain that this log does not continue, or not without a closer look."""
        own, record, name = self._own, self._away.record, self._request.name
        stored = Generation.of_owner(known.tail.epoch, known.owner)
        is_ours = known.owner.log == log_id(self._parts.log.body.section_id)
        if is_ours and stored.is_same(own):
            raise GenerationMismatch(f"domain {name!r} is claimed for this log already", hint=_OPEN_AGAIN)
        is_known = is_ours and record.vouches(own, stored)
        newest = max(record.chain.epoch, *(claim.epoch for claim in record.claims), 0)
        is_newer = not is_known and record.chain.word_of(stored) in {Word.NEWER, Word.APART}
        if is_newer or known.epoch_newest > newest:
            raise Fenced(name, own.epoch, max(stored.epoch, known.epoch_newest))
        if not is_known:
            raise GenerationMismatch(
                f"domain {name!r}: its store was last used under generation {stored}, which its log does not continue",
                hint=_OPEN_AGAIN,
            )
        if known.chain_break is not None or known.after:
            raise ChainBroken(f"domain {name!r}: its chain has a break", hint=_OPEN_AGAIN)

    def _check_history(self, known: Known, cursor: Cursor) -> None:
        """See that the chain says of the domain what the known file said, which the domain was opened with."""
        facts, name = self._away.facts, self._request.name
        try:
            fold_control(self._parts.log, cursor, known.history, lsn_last=facts.lsn)
        except DamagedObject as error:
            raise GenerationMismatch(f"domain {name!r}: {error}", hint=_OPEN_AGAIN) from error
        if known.history.facts(facts.lsn) != facts:
            raise GenerationMismatch(
                f"domain {name!r}: its store has another history than was known of it", hint=_OPEN_AGAIN
            )
