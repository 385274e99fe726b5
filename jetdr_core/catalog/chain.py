"""Reads a domain's chain from its store.

A long chain has a million objects, and reading a footer of each would take hours. So a complete group of objects has a
*summary*, which stands for its footers. Requests: a listing of each group, object 1, a summary and one trailer for each
summarised group, and one footer for every other object. At most ``READS_AT_ONCE`` requests are in flight.

The owner may put objects meanwhile, several at once, in any order. What was not there at the first listing is left out.
A number that is missing in it may be on its way. A reader that cannot tell that from a loss waits for it a little.

Invariants: a summary that the store contradicts is ignored with a warning, and the footers are read instead. The chain
is trusted up to the first missing or damaged object. :class:`ChainBreak` says what ended it.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from itertools import islice
from typing import NamedTuple, TypeVar
from uuid import UUID

import numpy as np

from jetdr_core.catalog.advisory import read_advisory
from jetdr_core.catalog.features import list_features, refuse_unknown_features
from jetdr_core.catalog.follow import BrokenLink, Follower, Head, describe
from jetdr_core.catalog.footer import Footer, read_footer, read_trailer
from jetdr_core.catalog.keys import chain_key, group_numbers, summary_key
from jetdr_core.catalog.links import LinkTable, chained
from jetdr_core.catalog.listing import IN_FLIGHT_MAX, Listing, list_again, list_chain, number_group
from jetdr_core.catalog.summary import (
    SUMMARY_BYTES_MAX,
    Summary,
    contradiction,
    decode_summary,
    encode_summary,
)
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import ChainBroken, DamagedObject, DomainMissing, UnsupportedVersion, WrongKey
from jetdr_core.record import ControlRecord
from jetdr_core.segment import NO_PREDECESSOR, ObjectKind, Trailer
from jetdr_core.store import ObjectStore

READS_AT_ONCE = 32
SETTLE_S = 5.0
"""How long a reader that calls a missing object damage waits for it first: a segment takes seconds to upload."""
_POLL_S = 0.1

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")


class ChainBreak(NamedTuple):
    """Where the chain cannot be followed: object ``number`` is missing or damaged, and ``objects_after`` come after."""

    number: int
    key: str
    problem: str
    objects_after: int
    is_missing: bool = False
    is_forged: bool = False

    @property
    def may_be_in_flight(self) -> bool:
        """Whether an upload that takes long, and is still running, would look like this."""
        return self.is_missing and self.objects_after <= IN_FLIGHT_MAX

    def __str__(self) -> str:
        return f"{self.problem} ({self.objects_after} objects after it)"


class ChainTail(NamedTuple):
    """What a new owner continues: the last number in use, and what the last chained object says."""

    number: int
    checksum: bytes
    epoch: int
    lsn_last: int
    time_ns_last: int


class Chain(NamedTuple):
    """A chain as it was read.

    ``links`` has a row for each object up to ``tail.number``: segments, epoch objects and orphans. ``summarised`` are
    the groups that were read through their summary. ``owner`` has no field if the last epoch object cannot be read.
    ``after`` are the sizes by number of the objects after the first missing number. ``epoch_newest`` is the newest
    epoch of any object up to there that was read, whether it chains or not.
    ``group_vouched`` is a group that has a summary although it is not complete, or not any more. ``is_tagged``: object
    1 has tags. ``domain_key`` is the key, bound to the domain, with which tags were checked, or None if they were not.
    """

    domain_uuid: UUID
    name: str
    owner: EpochOwner
    timeline: int
    links: LinkTable
    control: list[ControlRecord]
    tail: ChainTail
    chain_break: ChainBreak | None
    summarised: frozenset[int]
    after: dict[int, int]
    epoch_newest: int
    group_vouched: int | None = None
    is_tagged: bool = False
    domain_key: DomainKey | None = None

    def is_final_at(self, number: int) -> bool:
        """Whether it is settled what object ``number`` is. It is not from a break in the chain on."""
        return self.chain_break is None or number < self.chain_break.number


class _Shortcut(NamedTuple):
    """A summary without its control records, the trailer that the object of its last row really has, and its bytes."""

    summary: Summary
    anchor: Footer
    data: bytes


async def read_chain(store: ObjectStore, *, settle_s: float = 0.0, domain_key: DomainKey | None = None) -> Chain:
    """Read the chain of the domain that ``store`` holds. :class:`DomainMissing` if it holds none.

    ``settle_s`` is how long to wait for a missing number that an upload in flight may still bring. With ``domain_key``
    only what an owner of the domain made is believed. :class:`WrongKey` if it is the key of another domain.
    :class:`UnsupportedVersion` if the store has a feature of a newer engine.
    """
    features = await list_features(store)
    listing = await _settled(store, settle_s)
    first, domain_key = await _first(store, listing, domain_key)
    await refuse_unknown_features(store, features, domain_key)
    shortcuts = await _shortcuts(store, listing, domain_key)
    follower = Follower(first.trailer.domain_uuid)
    summarised: set[int] = set()
    for group in listing.groups:
        shortcut = shortcuts.get(group)
        if shortcut and _take_shortcut(shortcut, follower, listing.group(group), domain_key):
            summarised.add(group)
            continue
        async with aclosing(_footers(store, listing.group(group), domain_key)) as footers:
            async for number, size, footer in footers:
                follower.take(number, size, footer)
    chain = await _chain(store, _name(first), listing, follower, frozenset(summarised), domain_key)
    return chain._replace(is_tagged=first.trailer.is_tagged)


async def _settled(store: ObjectStore, settle_s: float) -> Listing:
    """The listing. Missing numbers have ``settle_s`` to appear. Objects that come after the first look do not count."""
    listing = await list_chain(store)
    number_max, loop = listing.number_max, asyncio.get_running_loop()
    deadline = loop.time() + settle_s
    while listing.may_be_in_flight and loop.time() < deadline:
        await asyncio.sleep(_POLL_S)
        listing = await list_again(store, listing, number_max)
    return listing


async def write_summaries(store: ObjectStore, chain: Chain) -> list[int]:
    """Write the summary of every complete group of ``chain`` that was read without one, and return those groups."""
    written = []
    for group in range(number_group(chain.tail.number + 1)):
        final = chain.is_final_at(group_numbers(group)[-1])
        data = _summarise(chain, group) if final and group not in chain.summarised else None
        if data is not None:
            await store.replace(summary_key(group), [data])
            written.append(group)
    return written


async def in_parallel(work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Do ``work`` on every item, at most ``READS_AT_ONCE`` at a time. Results are in the order of the items.

    The first error cancels the rest, and is raised.
    """
    results: dict[int, R] = {}
    rest = iter(enumerate(items))

    async def worker() -> None:
        for nth, item in rest:
            results[nth] = await work(item)

    tasks = [asyncio.ensure_future(worker()) for _ in range(READS_AT_ONCE)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return [results[nth] for nth in range(len(results))]


async def _first(store: ObjectStore, listing: Listing, domain_key: DomainKey | None) -> tuple[Footer, DomainKey | None]:
    """Object 1, the epoch object of epoch 1. It names the domain, to which ``domain_key`` is then bound."""
    if not listing.number_last and not listing.objects_after:
        raise DomainMissing(f"store {store.url} holds no protected domain", hint="check the URL, container and prefix")
    if not listing.number_last:
        raise ChainBroken(
            f"{chain_key(1)} is missing, the first object of the domain in store {store.url}",
            hint="nothing can be recovered without it: restore it from a copy of the container",
            number=1,
            lsn_last=0,
        )
    object_bytes = listing.sizes[0][1]
    if domain_key is not None:
        domain_key = await _bound_to_first(store, object_bytes, domain_key)
    first = await read_footer(store, 1, object_bytes, domain_key)
    if first.damage:
        raise first.damage
    if first.trailer.kind != ObjectKind.EPOCH or first.trailer.predecessor != NO_PREDECESSOR:
        raise DamagedObject(first.key, "trailer", "is not the beginning of a domain")
    return first, domain_key


async def _bound_to_first(store: ObjectStore, object_bytes: int, domain_key: DomainKey) -> DomainKey:
    """The key, bound to the domain of object 1, which is not believed yet."""
    try:
        first = (await read_trailer(store, 1, object_bytes)).trailer
    except UnsupportedVersion:
        if domain_key.domain_uuid is not None:
            await read_trailer(store, 1, object_bytes, domain_key)  # Forged, unless a newer engine made it
        raise
    return _bound(domain_key, first, store.url)


def _bound(domain_key: DomainKey, first: Trailer, url: str) -> DomainKey:
    """The key, bound to the domain of object 1. :class:`WrongKey` if the domain has another key."""
    bound = domain_key.bound_to(first.domain_uuid)
    if first.is_tagged and first.key_id != bound.key_id:
        raise WrongKey(
            f"{domain_key.source} holds key {bound.key_id.hex()}; the domain in {url} has key {first.key_id.hex()}",
            hint="give the key of that domain: 'jetdr key show FILE' tells which key a file holds",
        )
    return bound


def _name(first: Footer) -> str:
    if first.owner is None or first.owner.domain is None:
        raise DamagedObject(first.key, "epoch", "has no domain name")
    return first.owner.domain


async def _shortcuts(store: ObjectStore, listing: Listing, domain_key: DomainKey | None) -> dict[int, _Shortcut]:
    """The readable summaries of complete groups."""
    complete = range(number_group(listing.number_last + 1))

    async def read(group: int) -> tuple[int, _Shortcut | None]:
        return group, await _shortcut(store, group, listing, domain_key)

    found = await in_parallel(read, [group for group in complete if group in listing.summaries])
    return {group: shortcut for group, shortcut in found if shortcut}


async def _shortcut(store: ObjectStore, group: int, listing: Listing, domain_key: DomainKey | None) -> _Shortcut | None:
    def decode(data: bytes) -> tuple[Summary, bytes]:
        return decode_summary(data, group, with_control=False, domain_key=domain_key), data

    found = await read_advisory(
        store, summary_key(group), decode, SUMMARY_BYTES_MAX, size_bytes=listing.summaries[group]
    )
    if found is None:
        return None
    summary, data = found
    number = int(chained(summary.links)[-1]["number"])
    try:
        return _Shortcut(summary, await read_trailer(store, number, listing.sizes[group][number], domain_key), data)
    except (DamagedObject, UnsupportedVersion) as error:
        log.warning("reading footers instead of %s: %s", summary_key(group), error)
        return None


def _take_shortcut(
    shortcut: _Shortcut, follower: Follower, sizes: dict[int, int], domain_key: DomainKey | None
) -> bool:
    """Take the group from its summary. False, with nothing taken, if the summary does not hold."""
    links, group = shortcut.summary.links, shortcut.summary.group
    problem = contradiction(shortcut.summary, follower.head, follower.domain_uuid, sizes, shortcut.anchor)
    controls, index_bytes = (int(links[name].sum(dtype=np.uint64)) for name in ("control_count", "index_stored_bytes"))
    if not problem and not follower.may_hold(controls, index_bytes):
        problem = f"{controls} control records more than its indexes can hold"
    if not problem:
        try:
            summary = decode_summary(shortcut.data, group, domain_key=domain_key)
        except DamagedObject as error:
            problem = str(error)
        else:
            follower.take_summary(links, summary.control, summary.head(follower.head))
    if problem:
        log.warning("reading footers instead of %s: %s", summary_key(group), problem)
    return not problem


async def _footers(
    store: ObjectStore, sizes: dict[int, int], domain_key: DomainKey | None
) -> AsyncGenerator[tuple[int, int, Footer | DamagedObject]]:
    """Number, size and footer of each object, in number order.

    ``READS_AT_ONCE`` are fetched ahead. So no more indexes than that are in memory, however long they are.
    """

    async def read(number: int, size: int) -> Footer | DamagedObject:
        try:
            return await read_footer(store, number, size, domain_key)
        except DamagedObject as error:
            return error

    rest, ahead = iter(sorted(sizes.items())), deque[tuple[int, int, asyncio.Task[Footer | DamagedObject]]]()
    try:
        while True:
            for number, size in islice(rest, READS_AT_ONCE - len(ahead)):
                ahead.append((number, size, asyncio.create_task(read(number, size))))
            if not ahead:
                return
            number, size, task = ahead.popleft()
            yield number, size, await task
    finally:
        for _, _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, _, task in ahead), return_exceptions=True)


async def _chain(
    store: ObjectStore,
    name: str,
    listing: Listing,
    follower: Follower,
    summarised: frozenset[int],
    domain_key: DomainKey | None,
) -> Chain:
    head, links = follower.head, follower.links()
    if follower.broken_link and head.epoch == 0:
        raise DamagedObject(chain_key(1), "object", follower.broken_link.problem)
    end = _chain_break(listing, follower.broken_link)
    if end:
        log.warning("the chain of domain %s ends at LSN %d: %s", name, head.lsn_last, end)
    tail = ChainTail(listing.number_last, head.checksum, head.epoch, head.lsn_last, head.time_ns_last)
    owner = follower.owner or await _owner(store, links, domain_key)
    beyond = number_group(listing.number_last + 1)
    return Chain(
        domain_uuid=follower.domain_uuid,
        name=name,
        owner=owner,
        timeline=head.timeline,
        links=links,
        control=follower.control,
        tail=tail,
        chain_break=end,
        summarised=summarised,
        after=listing.after,
        epoch_newest=max(head.epoch, follower.epoch_newest),
        group_vouched=beyond if beyond in listing.summaries else None,
        domain_key=domain_key,
    )


def _chain_break(listing: Listing, broken: BrokenLink | None) -> ChainBreak | None:
    there = listing.number_last + listing.objects_after
    if broken:
        key, after = chain_key(broken.number), there - broken.number
        return ChainBreak(broken.number, key, describe(broken), after, is_forged=broken.is_forged)
    if listing.objects_after:
        key = chain_key(listing.number_last + 1)
        return ChainBreak(listing.number_last + 1, key, f"{key} is missing", listing.objects_after, is_missing=True)
    return None


async def _owner(store: ObjectStore, links: LinkTable, domain_key: DomainKey | None) -> EpochOwner:
    """Who began the chain's last epoch. No field is set if that object cannot be read any more."""
    epochs = links[links["kind"] == ObjectKind.EPOCH]
    if not len(epochs):
        return EpochOwner()
    try:
        last = epochs[-1]
        footer = await read_footer(store, int(last["number"]), int(last["object_bytes"]), domain_key)
    except (DamagedObject, UnsupportedVersion) as error:
        log.warning("the owner is not known: %s", error)
        return EpochOwner()
    return footer.owner or EpochOwner()


def _summarise(chain: Chain, group: int) -> bytes | None:
    """The bytes of the summary of a complete group, or None if it goes without one."""
    numbers = group_numbers(group)
    begin, end = np.searchsorted(chain.links["number"], [numbers[0], numbers[-1] + 1])
    links, before = chain.links[begin:end], chained(chain.links[:begin])
    rows = chained(links)
    if not len(rows):
        return None
    predecessor = before[-1]["checksum"].tobytes() if len(before) else Head().checksum
    low, high = int(rows["first_lsn"][0]), int(rows["last_lsn"][-1])
    first, end = (bisect_left(chain.control, lsn, key=lambda record: record.lsn) for lsn in (low, high + 1))
    summary = Summary(group, chain.domain_uuid, predecessor, links, chain.control[first:end])
    return encode_summary(summary, chain.domain_key)
