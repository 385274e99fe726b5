"""Opens the domain that a configuration describes.

Invariant: nothing else turns a configuration into a domain.
"""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path
from typing import Any

from jetdr_core.aio import in_thread
from jetdr_core.device import IscsiLun
from jetdr_core.domain import HostedDomain, ProtectedDomain
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import DomainConfig, VolumeConfig
from jetdr_core.drva.places import check_volume
from jetdr_core.ownership import make_private
from jetdr_core.store import RetryPolicy, connected
from jetdr_core.store.credential_file import UrlWithCredential

__all__ = ["AnyDomain", "open_domain", "store_is_empty", "store_of"]

log = logging.getLogger(__name__)

KEY_FILE = "domain.key"
"""The file in a domain's state folder with the key that was made for it."""

AnyDomain = HostedDomain | ProtectedDomain


async def open_domain(config: DomainConfig, *, hosted: bool = True) -> AnyDomain:
    """Return the domain, which the caller must enter.

    The domain is taken over if the configuration asks for it, and created if its store is empty and creating is
    allowed. ``hosted``: a host component serves its disks to guests. Otherwise this process does their I/O.
    """
    await in_thread(check_volume, config.volume)
    face: type[HostedDomain | ProtectedDomain] = HostedDomain if hosted else ProtectedDomain
    settings: dict[str, Any] = {"log": _log(config.volume), "store": store_of(config), "options": config.options}
    settings |= {"host": config.host} if hosted else {}
    is_new = not config.take_over and config.create and await store_is_empty(store_of(config), create=True)
    settings["key_file"] = await in_thread(_key_file, config, is_new=is_new)
    if config.take_over:
        settings |= {"give_up_from": config.give_up_from, "discard_log": config.discard_log}
        return face.take_over(config.name, log_bytes=config.section_bytes, **settings)
    if is_new:
        return face.create(config.name, log_bytes=config.section_bytes, **settings)
    settings |= {"on_mismatch": config.on_mismatch} if hosted else {}
    return face.open(config.name, **settings)


def store_of(config: DomainConfig) -> str:
    """The URL of the domain's store, with its credential file if it has one."""
    return UrlWithCredential(config.store, Path(config.credential_file)) if config.credential_file else config.store


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
