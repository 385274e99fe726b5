"""Known: what the store says of a domain before this process claims it.

Invariant: nothing here writes to the store. Its answer may be out of date a moment later, which the claim then shows.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from jetdr_core.catalog import Authenticity, Catalog, Chain, ChainBreak, ChainTail, DomainHistory, decode_heartbeat
from jetdr_core.catalog.footer import read_trailer
from jetdr_core.catalog.heartbeat import HEARTBEAT_BYTES
from jetdr_core.catalog.keys import HEARTBEAT_PREFIX, LEFT_PREFIX, heartbeat_epoch, heartbeat_key
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import (
    ChainBroken,
    DamagedObject,
    DomainMissing,
    Forged,
    InvalidRequest,
    ObjectNotFound,
    ObjectUnavailable,
    UnsupportedVersion,
    WrongKey,
)
from jetdr_core.options import DomainOptions
from jetdr_core.remedies import NEW_LOG
from jetdr_core.segment import NO_PREDECESSOR
from jetdr_core.store import ObjectInfo, ObjectStore
from jetdr_core.uploader import ChainEnd

__all__ = ["Known", "check_break", "read_known", "read_unborn"]

TIMELINE_FIRST = 1

PUTS_MAX_DEFAULT = DomainOptions().puts_max
OBJECTS_READ = 128
"""More than older owners can have had in flight."""

GIVEN_UP_MAX = 1 << 16
"""A break before more objects than that is not given up, because each missing one costs a put. Use an empty store."""


@dataclass(frozen=True, slots=True)
class Known:
    """A domain as its chain tells it. ``owner`` is what its last owner said of itself when it claimed the domain.

    ``epoch_newest`` is the newest epoch that the store names, chained or not. ``after`` are the numbers of the objects
    after the first missing one. ``domain_key`` is the domain's key, if it has one.
    """

    domain_uuid: UUID
    timeline: int
    tail: ChainTail
    history: DomainHistory
    owner: EpochOwner
    time_ns_last: int
    epoch_newest: int = 0
    chain_break: ChainBreak | None = None
    after: frozenset[int] = frozenset()
    domain_key: DomainKey | None = None

    @property
    def chain_end(self) -> ChainEnd:
        """Where the chain is to be continued."""
        return ChainEnd(self.tail.number, self.tail.checksum, self.epoch_newest)


async def read_unborn(store: ObjectStore, name: str, domain_key: DomainKey | None = None) -> Known:
    """Return a domain without history. :class:`InvalidRequest` unless the store is empty.

    What a lost domain left there, and was set aside, does not count.
    """
    async for info in store.list_prefix(""):
        if info.key.startswith(LEFT_PREFIX):
            continue
        raise InvalidRequest(
            f"store {store.url} is not empty (it holds {info.key!r})",
            hint=f"open the domain that is there, or give domain {name!r} a container of its own; if that is what a "
            "lost domain left, empty the container",
        )
    tail = ChainTail(0, NO_PREDECESSOR, 0, 0, 0)
    return Known(uuid4(), TIMELINE_FIRST, tail, DomainHistory(), EpochOwner(), 0, domain_key=domain_key)


async def read_known(store: ObjectStore, name: str, domain_key: DomainKey | None = None) -> Known:
    """Return domain ``name`` as the store holds it.

    :class:`InvalidRequest` if the store holds another domain, :class:`WrongKey` if its key is not ``domain_key``.
    """
    try:
        catalog = await Catalog.open(store, domain_key=domain_key)
    except DomainMissing as error:
        raise DomainMissing(error.message, hint=await _remedy_of_missing(store, name)) from None
    except ChainBroken as error:
        if error.facts.get("number") != 1:
            raise
        raise ChainBroken(error.message, hint=_remedy_of_lost_first(name), **error.facts) from None
    if catalog.authenticity is Authenticity.NOT_CHECKED:
        raise WrongKey(
            f"domain {catalog.name!r} in {store.url} has a key, and none was given",
            hint="name its key file (key_file): without it nobody can extend the domain's history; if the key is lost "
            "for good, name an empty container, keep this one as long as its points are wanted, and begin anew: 'jetdr "
            f"drva CONFIG --begin-anew {name}=UUID', with the UUID that 'jetdr inspect LOG' shows",
        )
    if catalog.name != name:
        raise InvalidRequest(
            f"store {store.url} holds domain {catalog.name!r}, not {name!r}", hint="check the name and the store's URL"
        )
    chain = catalog.chain
    return Known(
        domain_uuid=chain.domain_uuid,
        timeline=chain.timeline,
        tail=chain.tail,
        history=catalog.history,
        owner=chain.owner,
        time_ns_last=catalog.time_last_ns,
        epoch_newest=await _epoch_newest(store, chain),
        chain_break=chain.chain_break,
        after=frozenset(chain.after),
        domain_key=chain.domain_key,
    )


def _remedy_of_lost_first(name: str) -> str:
    return (
        "bring it back from a version or a copy of the container; if what the container held is lost for good, "
        f"begin anew ('jetdr drva CONFIG --begin-anew {name}=UUID', with the UUID that 'jetdr inspect LOG' shows), "
        "best with an empty container in the configuration"
    )


async def _remedy_of_missing(store: ObjectStore, name: str) -> str:
    """What to do if the store of domain ``name`` holds no chain."""
    hint = (
        "mount the store's file system, or correct the URL; if the domain's objects are lost for good, give it up and "
        f"create it anew: 'jetdr drva CONFIG --begin-anew {name}=UUID', with the UUID that 'jetdr inspect LOG' shows "
        "(embedded: 'jetdr give-up-section', and ProtectedDomain.create)"
    )
    async for info in store.list_prefix(""):
        if info.key.startswith(LEFT_PREFIX):
            continue
        return f"{hint}; to create a first domain there, remove {info.key!r} and all else that a lost domain left"
    return hint


def check_break(known: Known, name: str, *, puts_max: int, log_is_new: bool, give_up_from: int | None) -> None:
    """:class:`ChainBroken` if the chain has a break that is damage, unless ``give_up_from`` names it.

    A missing number is no damage if uploads in flight explain it: fewer than ``puts_max`` objects come after it. Nor is
    it if a log that is not new has what follows, which is seen where log and store are to meet.
    """
    end = known.chain_break
    if end is None:
        return
    if end.is_forged:
        raise Forged(
            end.key,
            "chain",
            f"domain {name!r} cannot be continued: {end}",
            hint="bring back the genuine object from a version or a copy of the container; if there never was one, "
            "keep a copy of this one, and remove it",
        )
    if end.number <= known.tail.number:
        raise ChainBroken(
            f"domain {name!r}: its chain cannot be continued: {end}",
            hint="try again; if the object is damaged for good, remove it, and open again: the log may hold what "
            f"follows; if it does not, {NEW_LOG}",
            number=end.number,
        )
    beyond = max(known.after) - end.number
    if end.number == give_up_from and beyond <= GIVEN_UP_MAX:
        return
    if log_is_new and beyond >= max(puts_max, PUTS_MAX_DEFAULT):
        raise ChainBroken(
            f"domain {name!r}: {end.key} is lost, and uploads in flight do not explain that: {end}",
            hint=f"bring the object back, or take the domain over with give_up_from={end.number} ('jetdr drva CONFIG "
            f"--take-over {name} --give-up-from {name}={end.number}'): what the store holds after LSN "
            f"{known.tail.lsn_last} is then no longer history",
            number=end.number,
            lsn_last=known.tail.lsn_last,
            objects_after=end.objects_after,
        )


async def _epoch_newest(store: ObjectStore, chain: Chain) -> int:
    """Return the newest epoch that the store names, so that a claim is above each owner that may be alive.

    What an owner puts comes last, save what older owners had in flight. An object that cannot be read, though it is
    there, may name a newer epoch: :class:`ObjectUnavailable`.
    """
    epochs = [chain.epoch_newest]
    for number in sorted(chain.after)[-OBJECTS_READ:]:
        with suppress(UnsupportedVersion):
            epochs.append(await _epoch_of(store, number, chain))
    newest = max(epochs)
    async for info in store.list_prefix(HEARTBEAT_PREFIX):
        epoch = heartbeat_epoch(info.key) or 0
        if epoch > newest and (chain.domain_key is None or await _is_ours(store, info, chain.domain_key)):
            newest = epoch
    return newest


async def _epoch_of(store: ObjectStore, number: int, chain: Chain) -> int:
    """Return the epoch of an object after the break of the chain, and 0 for one that is damaged or has vanished."""
    try:
        return (await read_trailer(store, number, chain.after[number], chain.domain_key)).trailer.epoch
    except DamagedObject as error:
        why = error.__cause__
        if isinstance(why, ObjectUnavailable) and not isinstance(why, ObjectNotFound):
            raise why from None
        return 0


async def _is_ours(store: ObjectStore, info: ObjectInfo, domain_key: DomainKey) -> bool:
    """Return whether an owner of the domain put that heartbeat. Raises what the store raises: it may be a newer one."""
    if not 0 < info.size_bytes <= HEARTBEAT_BYTES:
        return False
    try:
        beat = decode_heartbeat(await store.get_range(info.key, 0, info.size_bytes), info.key, domain_key)
    except (DamagedObject, UnsupportedVersion, ObjectNotFound):
        return False
    return heartbeat_key(beat.epoch) == info.key
