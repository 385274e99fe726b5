"""ConfiguredDisks: the disks that the configuration names for a domain, and which of them are not protected yet.

Invariants: a disk that cannot be protected stops no other one. It stays unprotected, with the reason, and is tried
again. Dictionaries are replaced and never changed, so that other threads can iterate over them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.errors import JetdrError
from jetdr_core.store.redaction import redacted

__all__ = ["ConfiguredDisks"]

PROTECT_EVERY_S = 15.0
"""How often an unprotected disk is tried again."""


class ConfiguredDisks:
    """Belongs to the session's loop. :attr:`moved` and :attr:`unprotected` may be read from any thread."""

    def __init__(self, disks: Sequence[DiskConfig]) -> None:
        self._disks = tuple(disks)
        self._moved: dict[str, str] = {}
        self._unprotected: dict[str, str] = {}
        self._tried_s = 0.0

    @property
    def moved(self) -> tuple[str, ...]:
        """A text for each disk that the domain's history knows under another path than the configuration."""
        return tuple(self._moved.values())

    @property
    def unprotected(self) -> tuple[str, ...]:
        """A text for each disk that is not protected, with the reason."""
        return tuple(f"disk {name!r}: {why}" for name, why in self._unprotected.items())

    @property
    def are_due(self) -> bool:
        """Whether it is time to try the unprotected disks again."""
        return bool(self._unprotected) and time.monotonic() - self._tried_s >= PROTECT_EVERY_S

    def reconfigure(self, disks: Sequence[DiskConfig]) -> None:
        """Take other disks. New ones are due at once. Those that are no longer named stay protected."""
        known = set(self._disks)
        self._disks = tuple(disks)
        self._moved = {}
        self._unprotected = {disk.name: "not yet tried" for disk in disks if disk not in known}
        self._tried_s = float("-inf")

    async def begin(self, domain: AnyDomain) -> None:
        """Protect every configured disk of a domain that was just opened."""
        self._unprotected = {disk.name: "not yet tried" for disk in self._disks}
        await self.protect(domain)

    async def protect(self, domain: AnyDomain) -> None:
        """Protect the unprotected disks. Their copies run in the background."""
        self._tried_s = time.monotonic()
        for disk in self._disks:
            if disk.name not in self._unprotected:
                continue
            known = domain.disks.get(disk.name)
            try:
                known = known or await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
            except (JetdrError, OSError) as error:
                self._unprotected = self._unprotected | {disk.name: redacted(str(error))}
                continue
            self._unprotected = {name: why for name, why in self._unprotected.items() if name != disk.name}
            if known.path != disk.path:
                text = f"disk {disk.name!r} is at {known.path}, configured is {disk.path}"
                self._moved = self._moved | {disk.name: text}
