"""Parts: what an opened domain is made of, and the steps that every way of opening it shares."""

from __future__ import annotations

import math
import socket
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic
from uuid import UUID

from jetdr_core._core import Ring
from jetdr_core.aio import in_thread
from jetdr_core.catalog import DomainHistory, HistoryFacts
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain.generation import Generation
from jetdr_core.domain.known import Known
from jetdr_core.domain.known_file import KnownKeeper
from jetdr_core.domain.known_record import KnownRecord
from jetdr_core.domain.meeting import log_id
from jetdr_core.domain.mode import D, Resumption, RingSettings
from jetdr_core.domain.primary import Primaries
from jetdr_core.domain.request import DomainRequest, Way
from jetdr_core.errors import StoreError, StoreMissing, StoreUnmounted
from jetdr_core.replication_log import Cursor, ReplicationLog
from jetdr_core.store import ObjectStore, RetryingStore, RetryPolicy
from jetdr_core.uploader import ChainEnd, ChainWriter

__all__ = [
    "CLAIMS_MAX",
    "RETRY_WHILE_OPENING",
    "RETRY_WHILE_RUNNING",
    "Away",
    "Joined",
    "Parts",
    "begin_log",
    "chain_writer",
    "claimant",
    "is_away",
    "look",
    "may_come_back",
    "oldest_ns",
    "primaries_of",
]

CLAIMS_MAX = 16

RETRY_WHILE_OPENING = RetryPolicy(attempts_max=6, deadline_s=30)
RETRY_WHILE_RUNNING = RetryPolicy(attempts_max=1 << 62, deadline_s=math.inf, delay_cap_s=5)
"""A store that is away is waited for, because the log holds what is not yet uploaded. It is found within seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """The store of a domain, and this process's end of its chain. ``cursor``: the log position after the chain's end.

    ``oldest_ns`` is the time of the oldest record that the log holds after it, or 0.
    """

    store: RetryingStore
    chain: ChainWriter
    cursor: Cursor
    oldest_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """Since when a domain is open without its store, and why: what the store raised.

    It was opened from ``record``, with the history ``facts``.
    ``oldest_ns`` is the time of the oldest record that the store may lack, or 0.
    """

    since_ns: int
    why: Exception
    record: KnownRecord
    facts: HistoryFacts
    oldest_ns: int


@dataclass(slots=True)
class Parts(Generic[D]):
    """An opened domain; ``opened`` closes it. ``cursor``: up to there the store holds the log, as far as is known."""

    joined: Joined | Away
    log: ReplicationLog
    history: DomainHistory
    ring: Ring
    cursor: Cursor
    primaries: Primaries
    resumption: Resumption[D]
    keeper: KnownKeeper
    opened: AsyncExitStack

    @property
    def clean(self) -> bool:
        """Whether log and disks are as the last owner left them by closing the domain, and agree."""
        return self.log.outcome.clean and self.resumption.owes_nothing


def may_come_back(error: BaseException) -> bool:
    """Whether a domain that is known goes on without its store after ``error``, and joins it when that is over."""
    return is_away(error) or (isinstance(error, StoreError) and error.is_refusal)


def is_away(error: BaseException) -> bool:
    """Whether ``error`` says that the store cannot be reached now. A store that refuses us is not away."""
    return isinstance(error, StoreMissing | StoreUnmounted | TimeoutError) or (
        isinstance(error, StoreError) and error.transient
    )


def look(
    request: DomainRequest[D], log: ReplicationLog, time_ns_last: int, chain: Generation | None, opened: AsyncExitStack
) -> Resumption[D]:
    """Return how the domain goes on; ``opened`` closes it. ``chain`` is the last claim in the store, None without."""
    options, payload_bytes = request.settings.options, request.settings.options.ring_bytes
    while payload_bytes < 2 * log.record_bytes_max:
        payload_bytes *= 2
    settings = RingSettings(
        payload_bytes=payload_bytes,
        slots=options.ring_slots,
        lsn_next=log.outcome.head.lsn + 1,
        time_ns_last=max(log.outcome.head.time_ns, time_ns_last),
        record_bytes_max=log.record_bytes_max,
    )
    resumption = request.look(log, settings, chain)
    opened.callback(resumption.close)
    return resumption


def primaries_of(request: DomainRequest[D], resumption: Resumption[D]) -> Primaries:
    """Return the primaries of the domain, none of them open yet.

    A caller who takes a domain over fences another owner. So a path that he mistyped is an error, unless guests wait.
    """
    shared = resumption.shares_primaries
    must_open = request.way is Way.TAKE_OVER and not shared
    return Primaries(request.name, request.places, shared=shared, must_open=must_open)


async def begin_log(log: ReplicationLog, generation: Generation, timeline: int, resumption: Resumption[D]) -> None:
    """Have the log begin ``generation``. Durable at return."""
    await in_thread(resumption.claimed, generation)
    await in_thread(
        log.begin,
        generation.epoch,
        timeline=timeline,
        write_back=resumption.write_back,
        nonce=generation.nonce,
        state_id=resumption.state_id,
    )


def claimant(
    request: DomainRequest[D], section_id: int, generation: Generation, *, first_of: UUID | None = None
) -> EpochOwner:
    """Who claims. ``first_of``: the claim is the chain's first object, which says whose the container is.

    The nonce distinguishes two claims that say the same at the same time.
    """
    return EpochOwner(
        domain=None if first_of is None else request.name,
        domain_uuid=None if first_of is None else str(first_of),
        host=socket.gethostname(),
        log=log_id(section_id),
        nonce=generation.nonce.hex(),
        owner=str(request.settings.owner),
    )


def chain_writer(request: DomainRequest[D], store: ObjectStore, known: Known, end: ChainEnd) -> ChainWriter:
    """Return this process's end of the chain, which goes on at ``end``."""
    return ChainWriter(
        store,
        domain=request.name,
        domain_uuid=known.domain_uuid,
        timeline=known.timeline,
        end=end,
        domain_key=None if known.domain_key is None else known.domain_key.bound_to(known.domain_uuid),
    )


def oldest_ns(log: ReplicationLog, cursor: Cursor) -> int:
    """Return the time of the first record that the log holds after ``cursor``, or 0 if there is none."""
    batches = log.read(cursor, payload_bytes_max=1)
    return int(batches[0].records.headers["time_ns"][0]) if batches else 0
