"""Opening: the order in which a domain's parts are opened, and the domain is claimed for this process.

Invariants: what can be refused is refused before the domain is claimed. Store and log meet: the log holds every LSN
that the store does not. A new epoch is in the chain before the log begins it, and in both before any write.
"""

from __future__ import annotations

import math
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Generic

from jetdr_core._core import Ring
from jetdr_core.aio import in_thread
from jetdr_core.catalog import DomainHistory
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain.control_log import fold_control
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known import Known, check_break, read_known, read_unborn
from jetdr_core.domain.log_section import open_domain_log, open_log_volume
from jetdr_core.domain.meeting import log_id, meeting_point
from jetdr_core.domain.mode import D, Resumption, RingSettings
from jetdr_core.domain.primary import Primaries
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.errors import ChainBroken
from jetdr_core.replication_log import Cursor, ReplicationLog
from jetdr_core.store import RetryingStore, RetryPolicy, connected
from jetdr_core.uploader import ChainWriter, ClaimLost

__all__ = ["RETRY_WHILE_OPENING", "Parts", "open_parts"]

CLAIMS_MAX = 16

RETRY_WHILE_OPENING = RetryPolicy(attempts_max=6, deadline_s=30)
RETRY_WHILE_RUNNING = RetryPolicy(attempts_max=1 << 62, deadline_s=math.inf, delay_cap_s=5)
"""A store that is away is waited for, because the log holds what is not yet uploaded. It is found within seconds."""


@dataclass(slots=True)
class Parts(Generic[D]):
    """An opened and claimed domain; ``opened`` closes it. ``cursor``: the log position after the chain's last LSN."""

    store: RetryingStore
    log: ReplicationLog
    chain: ChainWriter
    history: DomainHistory
    ring: Ring
    cursor: Cursor
    primaries: Primaries
    resumption: Resumption[D]
    opened: AsyncExitStack

    @property
    def clean(self) -> bool:
        """Whether log and disks are as the last owner left them by closing the domain, and agree."""
        return self.log.outcome.clean and self.resumption.owes_nothing


async def open_parts(request: DomainRequest[D]) -> Parts[D]:
    """Open everything, and claim the domain. After an error all is closed; what was made for a new domain may stay."""
    async with AsyncExitStack() as opened:
        store = await _open_store(request, opened)
        known = await _read(request, store)
        volume = await in_thread(open_log_volume, request, known, opened)
        for _ in range(CLAIMS_MAX):
            async with AsyncExitStack() as attempt:
                log = await in_thread(open_domain_log, request, volume, known, attempt)
                known = replace(known, domain_uuid=log.body.domain_uuid)
                try:
                    parts = await _claim(request, store, log, known, attempt)
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


async def _open_store(request: DomainRequest[D], opened: AsyncExitStack) -> RetryingStore:
    return await opened.enter_async_context(
        connected(
            request.settings.store,
            create=request.way is Way.CREATE,
            retry=RETRY_WHILE_OPENING,
            bandwidth_bytes_per_s=request.settings.options.bandwidth_bytes_per_s,
            apart=True,
        )
    )


async def _claim(
    request: DomainRequest[D], store: RetryingStore, log: ReplicationLog, known: Known, opened: AsyncExitStack
) -> Parts[D]:
    """See that log and store meet and the disks are there; put the next epoch into the chain, then into the log."""
    cursor = await in_thread(meeting_point, log, known.tail.lsn_last, request.name)
    await in_thread(fold_control, log, cursor, known.history)
    stored, own = Generation.of_owner(known.tail.epoch, known.owner), Generation.of_log(log)
    resumption = await in_thread(_look, request, log, known, stored, opened)
    primaries = Primaries(request.name, request.places, shared=resumption.shares_primaries)
    opened.callback(primaries.close)
    await in_thread(primaries.open_all, known.history.disks)
    await in_thread(resumption.check, known.history, primaries)
    generation = Generation.next_after(stored, own, Generation(known.epoch_newest))
    await in_thread(resumption.claiming, generation)
    end = known.chain_end._replace(epoch=generation.epoch - 1)  # a store that was rolled back has seen fewer epochs
    chain = ChainWriter(
        store,
        domain=request.name,
        domain_uuid=known.domain_uuid,
        timeline=known.timeline,
        end=end,
        domain_key=None if known.domain_key is None else known.domain_key.bound_to(known.domain_uuid),
    )
    time_ns = resumption.claim_time_ns(known.time_ns_last)
    await chain.claim(cursor.lsn + 1, time_ns, _claimant(request, known, log.body.section_id, generation))
    await in_thread(request.settings.bind_key, known.domain_uuid)
    if known.after:
        generation = await _close_break(request, chain, known, log, resumption, (cursor.lsn + 1, time_ns))
    await in_thread(resumption.claimed, generation)
    await in_thread(
        log.begin,
        generation.epoch,
        timeline=known.timeline,
        write_back=resumption.write_back,
        nonce=generation.nonce,
        state_id=resumption.state_id,
    )
    ring = await in_thread(resumption.begin_ring, known.history, primaries)
    log.start(ring)
    return Parts(store, log, chain, known.history, ring, cursor, primaries, resumption, opened)


async def _close_break(
    request: DomainRequest[D],
    chain: ChainWriter,
    known: Known,
    log: ReplicationLog,
    resumption: Resumption[D],
    lsn_and_time_ns: tuple[int, int],
) -> Generation:
    """Claim the missing numbers, so that an older owner meets one. Returns the generation of the last claim."""
    generation = Generation(chain.epoch)

    async def announce(epoch: int) -> EpochOwner:
        nonlocal generation
        generation = Generation.next_after(Generation(epoch - 1))
        await in_thread(resumption.claiming, generation)
        return _claimant(request, known, log.body.section_id, generation)

    await chain.close_break(known.after, *lsn_and_time_ns, announce)
    return generation


def _look(
    request: DomainRequest[D], log: ReplicationLog, known: Known, stored: Generation, opened: AsyncExitStack
) -> Resumption[D]:
    options, payload_bytes = request.settings.options, request.settings.options.ring_bytes
    while payload_bytes < 2 * log.record_bytes_max:
        payload_bytes *= 2
    settings = RingSettings(
        payload_bytes=payload_bytes,
        slots=options.ring_slots,
        lsn_next=log.outcome.head.lsn + 1,
        time_ns_last=max(log.outcome.head.time_ns, known.time_ns_last),
        record_bytes_max=log.record_bytes_max,
    )
    resumption = request.look(log, settings, stored)
    opened.callback(resumption.close)
    return resumption


def _claimant(request: DomainRequest[D], known: Known, section_id: int, generation: Generation) -> EpochOwner:
    """Who claims. The nonce distinguishes two claims that say the same at the same time."""
    is_first = known.tail.number == 0
    return EpochOwner(
        domain=request.name if is_first else None,
        domain_uuid=str(known.domain_uuid) if is_first else None,
        host=socket.gethostname(),
        log=log_id(section_id),
        nonce=generation.nonce.hex(),
        owner=str(request.settings.owner),
    )
