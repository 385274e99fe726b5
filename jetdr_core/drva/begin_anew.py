"""Begins a configured domain anew: what is left of the lost domain of its name is given up, and a new one is created.

The container of a domain may be lost, or the key without which nobody can extend its history. The store then has no
history to go on with, but log, state folder and key file are those of the lost domain. They are given up by its UUID.

An owner whose container was emptied may have put an object or two before it noticed. Without the first object nobody
can reach them, but they hold numbers that the new chain will need. They are set aside under another key, not deleted.

Invariants: a store that has a chain is not touched. What is set aside is of the domain that was named, and is copied
before its old key is freed. No key is lost: the old key file is renamed. Whatever is refused is refused before anything
is removed, but for a store that refuses the first object of the new domain.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from jetdr_core.aio import in_thread
from jetdr_core.catalog import chain_key, chain_number
from jetdr_core.catalog.footer import read_trailer
from jetdr_core.catalog.keys import LEFT_PREFIX, heartbeat_epoch, left_key, summary_group
from jetdr_core.domain import OnMismatch
from jetdr_core.domain.hosting.former_domain import FormerDomain
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.places import log_of, own_key_file, store_of
from jetdr_core.durable import sync_folder
from jetdr_core.errors import DamagedObject, InvalidRequest, ObjectExists, UnsupportedVersion
from jetdr_core.store import ObjectStore, RetryPolicy, connected

__all__ = ["begin_anew"]

log = logging.getLogger(__name__)

UNREACHABLE_MAX = 256
"""More objects than these were not in flight: it is the first object that is lost, and may come back from a copy."""


async def begin_anew(config: DomainConfig, lost: UUID) -> None:
    """Give up what there is of domain ``lost``, so that a new one can be created. Idempotent.

    :class:`InvalidRequest` if the store has a chain, if the configuration names the key of the lost domain, or as
    :meth:`FormerDomain.give_up` says.
    """
    await in_thread(_check_key, config)
    retry = RetryPolicy(attempts_max=1)
    async with connected(store_of(config), create=config.create, retry=retry, apart=True) as store:
        leftovers = await _leftovers(store, config.name, lost)
        former = FormerDomain(config.name, lost, log_of(config.volume), config.host)
        keep_disks = config.on_mismatch is OnMismatch.COPY
        await in_thread(lambda: former.give_up(keep_disks=keep_disks))
        await in_thread(_set_key_aside, config, lost)
        for key in leftovers.unreachable:
            await _set_aside(store, key, left_key(lost, key))
            log.warning("domain %s: %s, which nobody can reach, is kept as %s", config.name, key, left_key(lost, key))
        for key in leftovers.advisory:
            await store.delete(key)
            log.warning("domain %s: %s is removed, which a lost domain left in %s", config.name, key, store.url)


class _Leftovers(NamedTuple):
    """Keys of what is left of a chain: ``advisory`` heartbeats and summaries, and ``unreachable`` chain objects."""

    advisory: list[str]
    unreachable: list[str]


async def _leftovers(store: ObjectStore, name: str, lost: UUID) -> _Leftovers:
    """Return what domain ``lost`` left in the store. :class:`InvalidRequest` if there is a chain, or anything else."""
    found, numbers = _Leftovers([], []), dict[int, int]()
    async for info in store.list_prefix(""):
        if heartbeat_epoch(info.key) is not None or summary_group(info.key) is not None:
            found.advisory.append(info.key)
        elif (number := chain_number(info.key)) is not None and number > 1 and len(numbers) < UNREACHABLE_MAX:
            numbers[number] = info.size_bytes
            found.unreachable.append(info.key)
        elif not info.key.startswith(LEFT_PREFIX):
            raise _refusal(name, store, info.key)
    for number, size_bytes in numbers.items():
        try:
            owner = (await read_trailer(store, number, size_bytes)).trailer.domain_uuid
        except (DamagedObject, UnsupportedVersion):
            owner = None
        if owner != lost:
            raise _refusal(name, store, chain_key(number))
    return found


def _refusal(name: str, store: ObjectStore, key: str) -> InvalidRequest:
    return InvalidRequest(
        f"domain {name!r} does not begin anew in {store.url}, which is not empty (it holds {key!r})",
        hint="open the domain that is there, without --begin-anew, or name an empty container in the "
        "configuration, and keep this one as long as its recovery points are wanted",
    )


async def _set_aside(store: ObjectStore, key: str, aside: str) -> None:
    """Copy the object to the key ``aside``, and free its own. Idempotent."""
    data = await store.get(key)
    try:
        await store.put_if_absent(aside, [data])
    except ObjectExists:
        if await store.get(aside) != data:
            raise
    await store.delete(key)


def _check_key(config: DomainConfig) -> None:
    """Refuse a key that was another domain's. Each domain has a key of its own."""
    key = KeyFile(Path(config.key_file)).read() if config.key_file else None
    if key is not None and key.domain_uuid is not None:
        raise InvalidRequest(
            f"domain {config.name!r} does not begin anew with {config.key_file}, the key of domain {key.domain_uuid}",
            hint="make a new key ('jetdr key new FILE'), and name it as key_file in the configuration",
        )


def _set_key_aside(config: DomainConfig, lost: UUID) -> None:
    """Rename the key file that the DRVA made for the lost domain: whoever recovers from its store needs it.

    Once that is done, the file that stands there is one that a failed attempt made for the new domain, which keeps it.
    """
    own = own_key_file(config)
    aside = own.with_name(f"{own.name}.{lost}")
    if not own.exists() or os.path.lexists(aside):
        return
    own.rename(aside)
    sync_folder(own.parent)
    log.warning("domain %s: the key of the lost domain is kept as %s", config.name, aside)
