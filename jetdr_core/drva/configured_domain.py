"""Opens the domain that a configuration describes.

Invariants: nothing else turns a configuration into a domain. No disk is opened at a place that only the store names.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from jetdr_core.aio import in_thread
from jetdr_core.catalog.keys import LEFT_PREFIX
from jetdr_core.domain import HostedDomain, ProtectedDomain
from jetdr_core.domain.known_file import KnownFile
from jetdr_core.domain.log_section import domain_in_log
from jetdr_core.domain.parts import may_come_back
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.added_disks import AddedDisks, named_disks
from jetdr_core.drva.begin_anew import begin_anew
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.given_up_disks import GivenUpDisks
from jetdr_core.drva.places import check_volume, log_of, own_key_file, store_of
from jetdr_core.errors import InvalidRequest, StoreMissing
from jetdr_core.ownership import make_private
from jetdr_core.store import RetryPolicy, connected

__all__ = [
    "AnyDomain",
    "disk_places",
    "domain_settings",
    "given_up_names",
    "known_disks",
    "open_domain",
    "store_is_empty",
]

log = logging.getLogger(__name__)

AnyDomain = HostedDomain | ProtectedDomain


async def open_domain(config: DomainConfig) -> HostedDomain:
    """Return the domain, which the caller must enter. A host component serves its disks to guests.

    The domain is taken over if the configuration asks for it, and created if its store is empty and creating is
    allowed.
    """
    is_new, settings = await domain_settings(config)
    settings |= {"host": config.host}
    if is_new:
        return HostedDomain.create(config.name, **settings)
    settings |= {"disks": await in_thread(disk_places, config)}
    if config.take_over:
        return HostedDomain.take_over(config.name, **settings)
    return HostedDomain.open(
        config.name, on_mismatch=config.on_mismatch, give_up_disks=await in_thread(given_up_names, config), **settings
    )


async def domain_settings(config: DomainConfig) -> tuple[bool, dict[str, Any]]:
    """Return whether the domain is to be created, and what its opening needs in either mode."""
    await in_thread(check_volume, config.volume)
    settings: dict[str, Any] = {"log": log_of(config.volume), "store": store_of(config), "options": config.options}
    is_new = await _is_to_be_created(config)
    settings["key_file"] = await in_thread(_key_file, config, is_new=is_new)
    if config.take_over:
        settings |= {"give_up_from": config.give_up_from, "discard_log": config.discard_log}
    if config.take_over or is_new:
        settings["log_bytes"] = config.section_bytes
    return is_new, settings


def disk_places(config: DomainConfig) -> dict[str, str]:
    """Return where the disks are, by name, as the operator says: in the configuration, or with a command."""
    added = AddedDisks(Path(config.host.state), config.name).known()
    return {disk.name: disk.path for disk in named_disks(config.disk, added).values()}


def given_up_names(config: DomainConfig) -> frozenset[str]:
    """Return the disks that an operator protects no longer, for which no opening waits."""
    return GivenUpDisks(Path(config.host.state), config.name).names()


def known_disks(config: DomainConfig) -> frozenset[str]:
    """Return the disks that the domain had when it was last open, as its state folder knows. None if it does not."""
    record = KnownFile(Path(config.host.state), config.name).read()
    return frozenset() if record is None else frozenset(disk.name for disk in record.folded_history().disks)


async def _is_to_be_created(config: DomainConfig) -> bool:
    """Whether the domain is a new one. What is left of a lost one is given up first, if that was asked for."""
    if config.begin_anew is not None:
        await begin_anew(config, config.begin_anew)
        return True
    return not config.take_over and config.create and await _is_unborn(config)


async def _is_unborn(config: DomainConfig) -> bool:
    """Whether neither store nor log nor state folder knows of the domain, which then may be created.

    A store or log whose file system is not mounted looks like one that was never used. The others know better.
    """
    away: Exception | None = None
    try:
        if not await store_is_empty(store_of(config)):
            return False
    except Exception as error:
        if not may_come_back(error):
            raise
        away = error
    in_log = await in_thread(domain_in_log, log_of(config.volume), config.name)
    if in_log is not None:
        if away is None:
            raise InvalidRequest(
                f"domain {config.name!r}: its log has a history, and store {config.store} is empty",
                hint=f"mount the store's file system, or correct the URL. If its objects are lost for good, "
                f"{_anew(config, in_log)}",
            )
        return False
    if away is not None and not isinstance(away, StoreMissing):
        raise away
    await in_thread(_check_not_known, config)
    return True


def _check_not_known(config: DomainConfig) -> None:
    """Refuse to create a domain that the state folder knows. Its log and its store are both away, or lost."""
    file = KnownFile(Path(config.host.state), config.name)
    if not file.path.exists():
        return
    record = file.read()
    anew = f"remove {file.path}, and start again" if record is None else _anew(config, record.domain_uuid)
    raise InvalidRequest(
        f"domain {config.name!r}: its state folder has a history, and neither volume {config.volume.path} nor "
        f"store {config.store} has one",
        hint=f"mount their file systems, or correct their places. If both are lost for good, {anew}",
    )


def _anew(config: DomainConfig, lost: UUID) -> str:
    return f"give the domain up and create it anew: 'jetdr drva CONFIG --begin-anew {config.name}={lost}'"


async def store_is_empty(url: str, *, create: bool = False) -> bool:
    """Return whether the store is empty, but for what a lost domain left there and was set aside.

    Raises what the store raises. ``create``: make a missing container.
    """
    async with connected(url, create=create, retry=RetryPolicy(attempts_max=1), apart=True) as store:
        async for info in store.list_prefix(""):
            if not info.key.startswith(LEFT_PREFIX):
                return False
        return True


def _key_file(config: DomainConfig, *, is_new: bool) -> Path | None:
    """Return the file with the domain's key. None: the domain has none. For a new domain it is made if need be."""
    if config.key_file:
        return Path(config.key_file)
    path = own_key_file(config)
    if not path.exists() and not is_new:
        return None
    if not path.exists():
        make_private(f"domain {config.name!r}: the state folder", path.parent)
        KeyFile(path).make()
        log.warning(
            "domain %s: its key is in %s; keep a copy where this machine's loss does not reach: without it nobody can "
            "tell after a disaster whether the store was tampered with",
            config.name,
            path,
            extra={"domain": config.name},
        )
    return path
