"""Opens the domain that a configuration describes.

Invariants: nothing else turns a configuration into a domain. No disk is opened at a place that only the store names.
"""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import Any

from jetdr_core.aio import in_thread
from jetdr_core.device import IscsiLun
from jetdr_core.domain import HostedDomain, ProtectedDomain
from jetdr_core.domain.known_file import KnownFile
from jetdr_core.domain.log_section import log_knows
from jetdr_core.domain.parts import is_away
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.added_disks import AddedDisks
from jetdr_core.drva.config import DomainConfig, VolumeConfig
from jetdr_core.drva.places import check_volume
from jetdr_core.errors import InvalidRequest, StoreMissing
from jetdr_core.ownership import make_private
from jetdr_core.store import RetryPolicy, connected
from jetdr_core.store.credential_file import UrlWithCredential

__all__ = ["AnyDomain", "disk_places", "domain_settings", "open_domain", "store_is_empty", "store_of"]

log = logging.getLogger(__name__)

KEY_FILE = "domain.key"
"""The file in a domain's state folder with the key that was made for it."""

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
    return HostedDomain.open(config.name, on_mismatch=config.on_mismatch, **settings)


async def domain_settings(config: DomainConfig) -> tuple[bool, dict[str, Any]]:
    """Return whether the domain is to be created, and what its opening needs in either mode."""
    await in_thread(check_volume, config.volume)
    settings: dict[str, Any] = {"log": _log(config.volume), "store": store_of(config), "options": config.options}
    is_new = not config.take_over and config.create and await _is_unborn(config)
    settings["key_file"] = await in_thread(_key_file, config, is_new=is_new)
    if config.take_over:
        settings |= {"give_up_from": config.give_up_from, "discard_log": config.discard_log}
    if config.take_over or is_new:
        settings["log_bytes"] = config.section_bytes
    return is_new, settings


def disk_places(config: DomainConfig) -> dict[str, str]:
    """Return where the disks are, by name, as the operator says: in the configuration, or else with ``protect``."""
    return {disk.name: disk.path for disk in (*AddedDisks(Path(config.host.state), config.name).known(), *config.disk)}


def store_of(config: DomainConfig) -> str:
    """The URL of the domain's store, with its credential file if it has one."""
    return UrlWithCredential(config.store, Path(config.credential_file)) if config.credential_file else config.store


async def _is_unborn(config: DomainConfig) -> bool:
    """Whether neither store nor log nor state folder knows of the domain, which then may be created.

    A store or log whose file system is not mounted looks like one that was never used. The others know better.
    """
    known = KnownFile(Path(config.host.state), config.name).path
    away: Exception | None = None
    try:
        if not await store_is_empty(store_of(config)):
            return False
    except Exception as error:
        if not is_away(error):
            raise
        away = error
    if await in_thread(log_knows, _log(config.volume), config.name):
        if away is None:
            raise InvalidRequest(
                f"domain {config.name!r}: its log has a history, and store {config.store} is empty",
                hint="mount the store's file system, or correct the URL. If its objects are lost, name another volume, "
                f"and remove {known} if it exists",
            )
        return False
    if away is not None and not isinstance(away, StoreMissing):
        raise away
    if await in_thread(known.exists):
        raise InvalidRequest(
            f"domain {config.name!r}: its state folder has a history, and neither volume {config.volume.path} nor "
            f"store {config.store} has one",
            hint=f"mount their file systems, or correct their places. If the domain is to begin anew, remove {known}",
        )
    return True


async def store_is_empty(url: str, *, create: bool = False) -> bool:
    """Return whether the store is empty. Raises what the store raises. ``create``: make a missing container."""
    async with connected(url, create=create, retry=RetryPolicy(attempts_max=1), apart=True) as store:
        async for _ in store.list_prefix(""):
            return False
        return True


def _key_file(config: DomainConfig, *, is_new: bool) -> Path | None:
    """Return the file with the domain's key. None: the domain has none. For a new domain it is made if need be."""
    if config.key_file:
        return Path(config.key_file)
    folder = Path(config.host.state) / config.name
    path = folder / KEY_FILE
    if not path.exists() and not is_new:
        return None
    if not path.exists():
        make_private(f"domain {config.name!r}: the state folder", folder)
        KeyFile(path).make()
        log.warning(
            "domain %s: its key is in %s; keep a copy where this machine's loss does not reach: without it nobody can "
            "tell after a disaster whether the store was tampered with",
            config.name,
            path,
            extra={"domain": config.name},
        )
    return path


def _log(volume: VolumeConfig) -> str | PathLike[str]:
    """Return the volume's path or URL, with its password file if it has one."""
    return IscsiLun(volume.path, Path(volume.password_file)) if volume.password_file else volume.path
