"""ConfiguredDisks: the disks that an operator names for a domain, and which of them are not protected yet.

The configuration names disks, and so do ``jetdr protect`` and ``jetdr move-disk``, whose disks are kept as
:class:`AddedDisks`. Where both name one, the configuration is right, unless it still has the path that the disk was
moved from.

Invariants: a disk that cannot be protected stops no other one. It stays unprotected, with the reason, and is tried
again. Dictionaries are replaced and never changed, so that other threads can iterate over them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from contextlib import closing

from jetdr_core.domain import Disk, HostedDisk
from jetdr_core.domain.primary import close_late, open_primary
from jetdr_core.drva.added_disks import AddedDisk, AddedDisks, named_disks
from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.errors import InvalidRequest, JetdrError
from jetdr_core.file_making import told
from jetdr_core.patience import PLACE_LIMIT_S, each_within
from jetdr_core.store.redaction import redacted

__all__ = ["ConfiguredDisks"]

log = logging.getLogger(__name__)

PROTECT_EVERY_S = 15.0
"""How often an unprotected disk is tried again."""


class ConfiguredDisks:
    """Belongs to the session's loop. :attr:`unprotected` may be read from any thread."""

    def __init__(self, disks: Sequence[DiskConfig], added: AddedDisks) -> None:
        self._configured = {disk.name: disk for disk in disks}
        self._added = added
        self._wanted = dict(self._configured)
        self._changing = asyncio.Lock()
        self._unprotected: dict[str, str] = {}
        self._tried_s = 0.0

    @property
    def unprotected(self) -> tuple[str, ...]:
        """A text for each disk that is not protected, with the reason."""
        return tuple(f"disk {name!r}: {why}" for name, why in self._unprotected.items())

    @property
    def are_due(self) -> bool:
        """Whether it is time to try the unprotected disks again."""
        return bool(self._unprotected) and time.monotonic() - self._tried_s >= PROTECT_EVERY_S

    # -- all of them -------------------------------------------------------------------------------------------------

    def reconfigure(self, disks: Sequence[DiskConfig]) -> None:
        """Take other disks. Unprotected and new ones are due at once. Disks no longer named stay protected."""
        before = self._configured
        self._configured = {disk.name: disk for disk in disks}
        others = {name: disk for name, disk in self._wanted.items() if name not in before}
        self._wanted = others | self._configured
        waiting = {name: why for name, why in self._unprotected.items() if name in self._wanted}
        new = {disk.name: "not yet tried" for disk in disks if disk != before.get(disk.name)}
        self._unprotected = waiting | new
        self._tried_s = float("-inf")

    async def begin(self, domain: AnyDomain, given_up: Collection[str] = ()) -> None:
        """Protect every named disk of a domain that was just opened, but for those that were given up meanwhile."""
        for name in set(given_up) & domain.disks.keys():
            await self.give_up(domain, name)
        async with self._changing:
            added = await asyncio.to_thread(self._added.known)
            self._wanted = named_disks(self._configured.values(), added)
            self._unprotected = dict.fromkeys(self._wanted.keys() - set(given_up), "not yet tried")
        await self.protect(domain)

    async def protect(self, domain: AnyDomain) -> None:
        """Protect the unprotected disks. Their copies run in the background."""
        self._tried_s = time.monotonic()
        async with self._changing:
            for name in self._unprotected:
                disk = self._wanted[name]
                known = domain.disks.get(name)
                try:
                    if known is None:
                        await domain.protect(name, disk.path, size_bytes=disk.size_bytes, wait=False)
                    elif known.path != disk.path:
                        await domain.move_disk(name, disk.path)
                except (JetdrError, OSError) as error:
                    self._unprotected = self._unprotected | {name: redacted(told(error))}
                else:
                    self._leave_out(name)

    def _leave_out(self, name: str) -> None:
        self._unprotected = {other: why for other, why in self._unprotected.items() if other != name}

    # -- one of them -------------------------------------------------------------------------------------------------

    async def add(self, domain: AnyDomain, disk: DiskConfig) -> Disk | HostedDisk:
        """Protect a disk that an operator names, from now on and after every restart."""
        configured = self._configured.get(disk.name)
        if configured is not None and configured.path != disk.path and disk.name not in domain.disks:
            raise InvalidRequest(
                f"disk {disk.name!r} is configured at {configured.path}",
                hint="correct the configuration, and reload it",
            )
        async with self._changing:
            if configured is not None or disk.name in domain.disks:
                return await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
            added = AddedDisk(name=disk.name, path=disk.path, size_bytes=disk.size_bytes)
            earlier = await asyncio.to_thread(self._added.note, added)
            try:
                protected = await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
            except BaseException:
                if disk.name not in domain.disks:
                    await asyncio.to_thread(self._put_back, disk.name, earlier)
                raise
            self._leave_out(disk.name)
            return protected

    async def give_up(self, domain: AnyDomain, name: str) -> None:
        """Stop protecting a disk, until the next start if it is configured, and otherwise for good."""
        async with self._changing:
            earlier = await asyncio.to_thread(self._added.forget, name)
            try:
                await domain.unprotect(name)
            except BaseException:
                if name in domain.disks:
                    await asyncio.to_thread(self._put_back, name, earlier)
                raise
            self._leave_out(name)

    async def move(self, domain: AnyDomain, name: str, path: str) -> str:
        """Go on with a disk at ``path``, from now on and after every restart; returns why all of it is resynced."""
        domain.disk(name)  # raises if there is none
        async with self._changing:
            earlier = await asyncio.to_thread(self._added.note, self._moved(name, path))
            try:
                why = await domain.move_disk(name, path)
            except BaseException:
                await asyncio.to_thread(self._put_back, name, earlier)
                raise
            self._wanted = self._wanted | {name: self._moved(name, path)}
            self._leave_out(name)
            return why

    async def move_closed(self, name: str, path: str) -> None:
        """The same of a disk of a domain that is closed: from its next opening on.

        Its guest may go on with the disk. So a disk that is well where it was is refused here, too.
        """
        await self.check_named(name)
        async with self._changing:
            named = named_disks(self._configured.values(), await asyncio.to_thread(self._added.known))
            await asyncio.to_thread(_check_not_both, name, named[name].path, path)
            await asyncio.to_thread(self._added.note, self._moved(name, path))

    async def check_named(self, name: str) -> None:
        """Refuse a disk that no operator has named."""
        if name not in named_disks(self._configured.values(), await asyncio.to_thread(self._added.known)):
            raise InvalidRequest(f"nobody has named disk {name!r} here", hint="'jetdr status' shows the disks")

    def _moved(self, name: str, path: str) -> AddedDisk:
        configured = self._configured.get(name)
        return AddedDisk(name=name, path=path, instead_of="" if configured is None else configured.path)

    def is_configured_elsewhere(self, name: str, path: str) -> bool:
        """Whether the configuration names another place of the disk."""
        configured = self._configured.get(name)
        return configured is not None and configured.path != path

    def _put_back(self, name: str, earlier: AddedDisk | None) -> None:
        if earlier is None:
            self._added.forget(name)
        else:
            self._added.note(earlier)


def _check_not_both(name: str, earlier: str, path: str) -> None:
    """Refuse a disk that is at two places: what is written at the ``earlier`` one would not be at ``path``."""
    with closing(open_primary(name, path, size_bytes=None, shared=True)) as moved:
        if moved.leads_to(earlier):
            return
        (look,) = each_within(PLACE_LIMIT_S, lambda at: open_primary(name, at, size_bytes=None, shared=True), [earlier])
        look.add_done_callback(close_late)
        is_there = look.done() and look.exception() is None
        if is_there and look.result().device.size_bytes == moved.device.size_bytes:
            raise InvalidRequest(
                f"disk {name!r} is well at {earlier}, so what is written there now would not be at {path}",
                hint=f"stop its guest, move the file to {path}, and give the command again",
            )
