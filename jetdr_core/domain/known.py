"""Known: what the store says of a domain before this process claims it.

Invariant: nothing here writes to the store. Its answer may be out of date a moment later, which the claim then shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from jetdr_core.catalog import Catalog, ChainTail, DomainHistory
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.errors import ChainBroken, InvalidRequest
from jetdr_core.segment import NO_PREDECESSOR
from jetdr_core.store import ObjectStore
from jetdr_core.uploader import ChainEnd

__all__ = ["Known", "read_known", "read_unborn"]

TIMELINE_FIRST = 1


@dataclass(frozen=True, slots=True)
class Known:
    """A domain as its chain tells it. ``owner`` is what its last owner said of itself when it claimed the domain."""

    domain_uuid: UUID
    timeline: int
    tail: ChainTail
    history: DomainHistory
    owner: EpochOwner
    time_ns_last: int

    @property
    def chain_end(self) -> ChainEnd:
        """Where the chain is to be continued."""
        return ChainEnd(self.tail.number, self.tail.checksum, self.tail.epoch)


async def read_unborn(store: ObjectStore, name: str) -> Known:
    """Return a domain without history. :class:`InvalidRequest` unless the store is empty."""
    async for info in store.list_prefix(""):
        raise InvalidRequest(
            f"store {store.url} is not empty (it holds {info.key!r})",
            hint=f"open the domain that is there, or give domain {name!r} a container of its own",
        )
    return Known(uuid4(), TIMELINE_FIRST, ChainTail(0, NO_PREDECESSOR, 0, 0, 0), DomainHistory(), EpochOwner(), 0)


async def read_known(store: ObjectStore, name: str) -> Known:
    """Return domain ``name`` as the store holds it.

    :class:`InvalidRequest` if the store holds another domain, :class:`ChainBroken` if its chain cannot be continued.
    """
    catalog = await Catalog.open(store)
    if catalog.name != name:
        raise InvalidRequest(
            f"store {store.url} holds domain {catalog.name!r}, not {name!r}", hint="check the name and the store's URL"
        )
    if catalog.chain_break is not None and catalog.chain_break.number <= catalog.chain.tail.number:
        raise ChainBroken(
            f"domain {name!r}: its chain cannot be continued: {catalog.chain_break}",
            hint="try again; if the object is damaged for good, remove it, and open again: the log holds what follows",
            number=catalog.chain_break.number,
        )
    return Known(
        domain_uuid=catalog.chain.domain_uuid,
        timeline=catalog.chain.timeline,
        tail=catalog.chain.tail,
        history=catalog.history,
        owner=catalog.chain.owner,
        time_ns_last=catalog.time_last_ns,
    )
