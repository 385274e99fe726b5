"""Opening: the order in which a domain's parts are opened, and the domain is claimed for this process.

A domain that its state folder knows needs its store for one thing only: to upload. If the store is away, or refuses the
claim, the domain is opened from its log and its known file, and joined with the store later (alone.py, joining.py).

Invariants: what can be refused is refused before anything is claimed or begun. Store and log meet: the log holds every
LSN that the store does not. With the store, a new epoch is in the chain before the log begins it. Without the store the
log begins it first, and nothing is uploaded before the chain has it too. In both cases the epoch is noted beforehand in
the known file, and guests can write only after the log has begun it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Generic

from jetdr_core.aio import in_thread, unreported
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain.alone import NotItsLog, open_alone
from jetdr_core.domain.control_log import fold_control
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known import Known, check_break, read_known, read_unborn
from jetdr_core.domain.known_file import KnownKeeper
from jetdr_core.domain.log_section import open_domain_log, open_log_volume
from jetdr_core.domain.meeting import meeting_point
from jetdr_core.domain.mode import D, Resumption
from jetdr_core.domain.parts import (
    CLAIMS_MAX,
    RETRY_WHILE_OPENING,
    RETRY_WHILE_RUNNING,
    Joined,
    Parts,
    begin_log,
    chain_writer,
    claimant,
    look,
    may_come_back,
    oldest_ns,
    primaries_of,
)
from jetdr_core.domain.primary import are_confirmed
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.errors import ChainBroken
from jetdr_core.file_making import told
from jetdr_core.replication_log import ReplicationLog
from jetdr_core.store import RetryingStore, RetryPolicy, connected
from jetdr_core.uploader import ChainWriter, ClaimLost

__all__ = ["open_parts"]

log_ = logging.getLogger(__name__)

BRIEFLY_S = 5.0
RETRY_BRIEFLY = RetryPolicy(attempts_max=6, deadline_s=BRIEFLY_S)
"""For a store that the domain can be opened without: guests wait for their disks meanwhile."""


async def open_parts(request: DomainRequest[D]) -> Parts[D]:
    """Open everything, and claim the domain. After an error all is closed; what was made for a new domain may stay."""
    keeper = await in_thread(KnownKeeper, request.known_file)
    if keeper.record is None or request.way is not Way.REOPEN:
        return await _open_joined(request, keeper, RETRY_WHILE_OPENING)
    try:
        return await _open_joined(request, keeper, RETRY_BRIEFLY)
    except Exception as error:
        if not may_come_back(error) or keeper.record is None:
            raise
        store_error, since_ns = error, time.time_ns()
    log_.warning("domain %s: it cannot use its store: %s", request.name, told(store_error))
    try:
        return await open_alone(request, keeper, since_ns, store_error)
    except NotItsLog as error:
        log_.warning("domain %s: it cannot be opened without its store: %s", request.name, error)
    return await _open_joined(request, keeper, RETRY_WHILE_OPENING)


async def _open_joined(request: DomainRequest[D], keeper: KnownKeeper, retry: RetryPolicy) -> Parts[D]:
    """Open the domain with its store, which is tried as ``retry`` says."""
    async with AsyncExitStack() as opened:
        store, known = await _ask(request, retry, opened)
        store.policy = RETRY_WHILE_OPENING
        volume = await in_thread(open_log_volume, request, known, opened)
        for _ in range(CLAIMS_MAX):
            async with AsyncExitStack() as attempt:
                log = await in_thread(open_domain_log, request, volume, known, attempt)
                known = replace(known, domain_uuid=log.body.domain_uuid)
                try:
                    parts = await _claim(_Ground(request, store, log, known, keeper), attempt)
                except ClaimLost:
                    known = await _read(request, store)
                    continue
                store.policy = RETRY_WHILE_RUNNING
                opened.push_async_exit(attempt.pop_all())
                parts.opened = opened.pop_all()
                return parts
        raise ChainBroken(
            f"domain {request.name!r} could not be claimed: its chain grew {CLAIMS_MAX} times meanwhile",
            hint="its present owner is writing: stop it first",
        )


async def _ask(request: DomainRequest[D], retry: RetryPolicy, opened: AsyncExitStack) -> tuple[RetryingStore, Known]:
    """Open the store, which ``opened`` closes, and read what it says. A store that hangs is away if it may be."""
    if retry is not RETRY_BRIEFLY:
        store = await _open_store(request, retry, opened)
        return store, await _read(request, store)
    asking = unreported(asyncio.ensure_future(_ask_apart(request)))
    try:
        await asyncio.wait({asking}, timeout=2 * BRIEFLY_S)
    finally:
        if not asking.done():  # a thread of the store may hang, and the task ends when that does
            asking.cancel()
    if not asking.done() or asking.cancelled():
        raise TimeoutError(f"store {request.settings.store} has not answered for {2 * BRIEFLY_S:g} s")
    store, known, stack = asking.result()
    opened.push_async_exit(stack)
    return store, known


async def _ask_apart(request: DomainRequest[D]) -> tuple[RetryingStore, Known, AsyncExitStack]:
    async with AsyncExitStack() as stack:
        store = await _open_store(request, RETRY_BRIEFLY, stack)
        return store, await _read(request, store), stack.pop_all()


async def _read(request: DomainRequest[D], store: RetryingStore) -> Known:
    """Return what the store says of the domain, unless its chain has a break that nobody has accepted."""
    domain_key = await in_thread(request.settings.read_key)
    known = await (read_unborn if request.way is Way.CREATE else read_known)(store, request.name, domain_key)
    check_break(
        known,
        request.name,
        puts_max=request.settings.options.puts_max,
        log_is_new=request.way is Way.TAKE_OVER,
        give_up_from=request.give_up_from,
    )
    return known


async def _open_store(request: DomainRequest[D], retry: RetryPolicy, opened: AsyncExitStack) -> RetryingStore:
    return await opened.enter_async_context(
        connected(
            request.settings.store,
            create=request.way is Way.CREATE,
            retry=retry,
            bandwidth_bytes_per_s=request.settings.options.bandwidth_bytes_per_s,
            apart=True,
        )
    )


@dataclass(frozen=True, slots=True)
class _Ground(Generic[D]):
    """What a claim stands on."""

    request: DomainRequest[D]
    store: RetryingStore
    log: ReplicationLog
    known: Known
    keeper: KnownKeeper

    @property
    def own(self) -> Generation:
        """The generation of the log."""
        return Generation.of_log(self.log)

    @property
    def stored(self) -> Generation:
        """The last claim in the chain. It counts as the log's own if the log is known to go on from it."""
        stored, record = Generation.of_owner(self.known.tail.epoch, self.known.owner), self.keeper.record
        is_own = record is not None and record.section_id == self.log.body.section_id
        return self.own if record is not None and is_own and record.vouches(self.own, stored) else stored

    def claimant(self, generation: Generation) -> EpochOwner:
        first_of = self.known.domain_uuid if self.known.tail.number == 0 else None
        return claimant(self.request, self.log.body.section_id, generation, first_of=first_of)

    def announce(self, resumption: Resumption[D], generation: Generation) -> EpochOwner:
        """Note that ``generation`` is about to be claimed; returns who claims."""
        resumption.claiming(generation)
        self.keeper.claiming(self.own, generation, write_back=resumption.write_back)
        return self.claimant(generation)


async def _claim(ground: _Ground[D], opened: AsyncExitStack) -> Parts[D]:
    """See that log and store meet and the disks are there; put the next epoch into the chain, then into the log."""
    request, log, known = ground.request, ground.log, ground.known
    cursor = await in_thread(meeting_point, log, known.tail.lsn_last, request.name)
    await in_thread(fold_control, log, cursor, known.history)
    resumption = await in_thread(look, request, log, known.time_ns_last, ground.stored, opened)
    primaries = primaries_of(request, resumption)
    opened.callback(primaries.close)
    confirmed = are_confirmed(log, known.history.disks)
    await in_thread(primaries.open_all, known.history.disks, confirmed=confirmed)
    await in_thread(resumption.check, known.history, primaries)
    chain, generation = await _put_claims(ground, resumption, cursor.lsn + 1)
    await in_thread(request.settings.bind_key, known.domain_uuid)
    await begin_log(log, generation, known.timeline, resumption)
    facts = known.history.facts(log.outcome.head.lsn)
    await in_thread(ground.keeper.begun_claimed, generation, log.body, log.record_bytes_max, facts)
    oldest = await in_thread(oldest_ns, log, cursor)
    ring = await in_thread(resumption.begin_ring, known.history, primaries)
    log.start(ring)
    joined = Joined(store=ground.store, chain=chain, cursor=cursor, oldest_ns=oldest)
    return Parts(joined, log, known.history, ring, cursor, primaries, resumption, ground.keeper, opened)


async def _put_claims(ground: _Ground[D], resumption: Resumption[D], lsn_next: int) -> tuple[ChainWriter, Generation]:
    """Put the next epoch into the chain. Where that has a break, claim the missing numbers too.

    Returns this process's end of the chain, and the generation of the last claim. So an older owner meets a claim.
    """
    known = ground.known
    generation = Generation.next_after(ground.stored, ground.own, Generation(known.epoch_newest))
    end = known.chain_end._replace(epoch=generation.epoch - 1)  # a store that was rolled back has seen fewer epochs
    chain = chain_writer(ground.request, ground.store, known, end)
    owner = await in_thread(ground.announce, resumption, generation)
    time_ns = resumption.claim_time_ns(known.time_ns_last)
    await chain.claim(lsn_next, time_ns, owner)

    async def announce(epoch: int) -> EpochOwner:
        nonlocal generation
        generation = Generation.next_after(Generation(epoch - 1))
        return await in_thread(ground.announce, resumption, generation)

    if known.after:
        await chain.close_break(known.after, lsn_next, time_ns, announce)
    return chain, generation
