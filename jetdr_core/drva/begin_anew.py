"""Begins a configured domain anew: what is left of the lost domain of its name is given up, and a new one is created.

The container of a domain may be lost, or the key without which nobody can extend its history. The store then has no
history to go on with, but log, state folder and key file are those of the lost domain. They are given up by its UUID.

Invariants: a store that has a chain is not touched. No key is lost: the old key file is renamed. Whatever is refused is
refused before anything is removed, but for a store that refuses the first object of the new domain.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from uuid import UUID

from jetdr_core.aio import in_thread
from jetdr_core.catalog.keys import heartbeat_epoch, summary_group
from jetdr_core.domain import OnMismatch
from jetdr_core.domain.hosting.former_domain import FormerDomain
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.places import log_of, own_key_file, store_of
from jetdr_core.durable import sync_folder
from jetdr_core.errors import InvalidRequest
from jetdr_core.store import ObjectStore, RetryPolicy, connected

__all__ = ["begin_anew"]

log = logging.getLogger(__name__)


async def begin_anew(config: DomainConfig, lost: UUID) -> None:
    """Give up what there is of domain ``lost``, so that a new one can be created. Idempotent.

    :class:`InvalidRequest` if the store has a chain, if the configuration names the key of the lost domain, or as
    :meth:`FormerDomain.give_up` says.
    """
    await in_thread(_check_key, config)
    retry = RetryPolicy(attempts_max=1)
    async with connected(store_of(config), create=config.create, retry=retry, apart=True) as store:
        leftovers = await _leftovers(store, config.name)
        former = FormerDomain(config.name, lost, log_of(config.volume), config.host)
        keep_disks = config.on_mismatch is OnMismatch.COPY
        await in_thread(lambda: former.give_up(keep_disks=keep_disks))
        await in_thread(_set_key_aside, config, lost)
        for key in leftovers:
            await store.delete(key)
            log.warning("domain %s: %s is removed, which a lost domain left in %s", config.name, key, store.url)


async def _leftovers(store: ObjectStore, name: str) -> list[str]:
    """Return the heartbeats and summaries that are left of a chain. :class:`InvalidRequest` for any other object."""
    found = []
    async for info in store.list_prefix(""):
        if heartbeat_epoch(info.key) is None and summary_group(info.key) is None:
            raise InvalidRequest(
                f"domain {name!r} does not begin anew in {store.url}, which is not empty (it holds {info.key!r})",
                hint="open the domain that is there, without --begin-anew, or name an empty container in the "
                "configuration, and keep this one as long as its recovery points are wanted",
            )
        found.append(info.key)
    return found


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
