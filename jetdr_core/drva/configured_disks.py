"""ConfiguredDisks: the disks that an operator names for a domain, and which of them are not protected yet.

The configuration names disks, and so do ``jetdr protect`` and ``jetdr move-disk``, whose disks are kept as
:class:`AddedDisks`. Where both name one, the configuration is right, unless it still has the path that the disk was
moved from. ``jetdr unprotect`` gives a disk up, which is kept as :class:`GivenUpDisks`.

Invariants: a disk that cannot be protected, or cannot be given up, stops no other one. It stays as it is, with the
reason, and is tried again. No disk that was given up is protected before an operator asks for it. What an operator says
is durable before anything is done about it. Dictionaries are replaced and never changed, so that other threads can
iterate over them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeVar

from jetdr_core.domain import Disk, HostedDisk
from jetdr_core.domain.primary import close_late, open_primary
from jetdr_core.drva.added_disks import AddedDisk, AddedDisks, named_disks
from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.drva.given_up_disks import GivenUpDisk, GivenUpDisks
from jetdr_core.errors import InvalidRequest, JetdrError
from jetdr_core.file_making import told
from jetdr_core.patience import PLACE_LIMIT_S, each_within
from jetdr_core.store.redaction import redacted

__all__ = ["ConfiguredDisks", "GivenUp", "still_configured"]

log = logging.getLogger(__name__)
T = TypeVar("T")

PROTECT_EVERY_S = 15.0
"""How often an unprotected disk is tried again."""
NOT_TRIED = "it has not been tried yet"
REMOVE_LIMIT_S = 2.0
"""So long an opening waits for the log to take that a disk is given up."""


def still_configured(domain: str, disk: DiskConfig) -> str:
    """Say what is to be done about a disk that was given up, and that the configuration still names."""
    return (
        f"the configuration still names it: remove its [[domain.disk]], or 'jetdr protect {domain} {disk.name} "
        f"{disk.path}' protects it again"
    )


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A disk that was given up, since when, and what is left to do. ``is_done``: the domain protects it no longer."""

    name: str
    since_ns: int
    is_done: bool
    why: str


class ConfiguredDisks:
    """Belongs to the session's loop. :attr:`unprotected` and :attr:`given_up` may be read from any thread.

    ``known`` returns the names of the disks that the domain is known to have while it is closed. It may block.
    """

    def __init__(
        self,
        disks: Sequence[DiskConfig],
        added: AddedDisks,
        given_up: GivenUpDisks,
        known: Callable[[], Set[str]] = frozenset,
    ) -> None:
        self._configured = {disk.name: disk for disk in disks}
        self._added = added
        self._given_up = given_up
        self._known = known
        self._wanted = dict(self._configured)
        self._changing = asyncio.Lock()
        self._unprotected: dict[str, str] = {}
        self._leaving = dict.fromkeys(given_up.names(), "the domain is not open")
        self._removing: asyncio.Task[None] | None = None
        self._tried_s = 0.0

    @property
    def unprotected(self) -> tuple[str, ...]:
        """A text for each disk that could not be protected, with the reason."""
        return tuple(f"disk {name!r}: {why}" for name, why in self._unprotected.items() if why != NOT_TRIED)

    @property
    def given_up(self) -> tuple[GivenUp, ...]:
        """The disks that were given up, and are still protected or still configured."""
        return tuple(self._told(disk) for disk in self._given_up.last.values())

    def _told(self, disk: GivenUpDisk) -> GivenUp:
        left, configured = self._leaving.get(disk.name), self._configured.get(disk.name)
        if left is not None or configured is None:
            return GivenUp(disk.name, disk.since_ns, is_done=False, why=f"not done yet: {left or 'it is being done'}")
        return GivenUp(disk.name, disk.since_ns, is_done=True, why=still_configured(self._given_up.domain, configured))

    @property
    def are_due(self) -> bool:
        """Whether it is time to try again what could not be done. Not while something is being done."""
        is_left = bool(self._unprotected or self._leaving) and not self._changing.locked()
        return is_left and time.monotonic() - self._tried_s >= PROTECT_EVERY_S

    # -- all of them -------------------------------------------------------------------------------------------------

    def reconfigure(self, disks: Sequence[DiskConfig]) -> None:
        """Take other disks. Unprotected and new ones are due at once. Disks no longer named stay protected."""
        before, given_up = self._configured, self._given_up.last
        self._configured = {disk.name: disk for disk in disks}
        others = {name: disk for name, disk in self._wanted.items() if name not in before}
        self._wanted = others | self._configured
        waiting = {name: why for name, why in self._unprotected.items() if name in self._wanted}
        new = {disk.name: NOT_TRIED for disk in disks if disk != before.get(disk.name)}
        self._unprotected = {name: why for name, why in (waiting | new).items() if name not in given_up}
        self._leaving = dict.fromkeys(given_up.keys() - self._configured.keys(), NOT_TRIED) | self._leaving
        self._tried_s = float("-inf")

    async def begin(self, domain: AnyDomain) -> None:
        """Give up the disks of a domain that was just opened that were given up, and protect every other named one."""
        async with self._changing:
            self._wanted = named_disks(self._configured.values(), await asyncio.to_thread(self._added.known))
            try:
                given_up = await asyncio.to_thread(self._given_up.known)
            except (JetdrError, OSError):  # whoever is to be protected is told why that is not done
                given_up = self._given_up.last
            self._leaving = dict.fromkeys(given_up, NOT_TRIED)
            self._unprotected = dict.fromkeys(self._wanted.keys() - given_up.keys(), NOT_TRIED)
        await self.settle(domain)

    async def settle(self, domain: AnyDomain) -> None:
        """Give up and protect what is left. A log without room holds up the former, which then goes on by itself."""
        self._tried_s = time.monotonic()
        if self._leaving:
            self._removing = asyncio.create_task(self._remove(domain), name="jetdr-giving-up")
            await asyncio.wait({self._removing}, timeout=REMOVE_LIMIT_S)
            if self._removing.done():
                self._removing.result()
        if self._changing.locked():
            self._tried_s = float("-inf")
        else:
            await self.protect(domain)

    async def end(self) -> None:
        """Return when nothing is done any more about the domain, which is closed."""
        if self._removing is not None:
            await asyncio.wait({self._removing})
            self._removing = None

    async def protect(self, domain: AnyDomain) -> None:
        """Protect the unprotected disks. Their copies run in the background."""
        async with self._changing:
            for name in self._unprotected:
                try:
                    await self._protect(domain, self._wanted[name])
                except (JetdrError, OSError) as error:
                    self._unprotected = self._unprotected | {name: redacted(told(error))}
                else:
                    self._unprotected = _without(name, self._unprotected)

    async def _protect(self, domain: AnyDomain, disk: DiskConfig) -> None:
        known = domain.disks.get(disk.name)
        if known is None:
            await asyncio.to_thread(self._given_up.known)  # raises if it is not known whether the disk was given up
            await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
        elif known.path != disk.path:
            await domain.move_disk(disk.name, disk.path)

    async def _remove(self, domain: AnyDomain) -> None:
        """Give up every disk that was given up, as far as the domain and its log let it."""
        async with self._changing:
            for name in self._leaving:
                try:
                    await self._give_up(domain, name)
                except (JetdrError, OSError) as error:
                    self._leaving = self._leaving | {name: redacted(told(error))}

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
            if disk.name in domain.disks:
                self._check_not_given_up(disk.name)
            noted = self._given_up.last.get(disk.name)
            if noted is None or disk.name in domain.disks:
                return await self._add(domain, disk)
            await asyncio.to_thread(self._given_up.note, replace(noted, is_wanted=True))
            try:
                protected = await self._add(domain, disk)
            except (JetdrError, OSError):
                if _lacks(domain, disk.name):
                    await asyncio.to_thread(self._given_up.note, noted)
                raise
            await asyncio.to_thread(self._given_up.forget, disk.name)
            self._leaving = _without(disk.name, self._leaving)
            return protected

    async def _add(self, domain: AnyDomain, disk: DiskConfig) -> Disk | HostedDisk:
        if disk.name in self._configured or disk.name in domain.disks:
            return await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
        added = AddedDisk(name=disk.name, path=disk.path, size_bytes=disk.size_bytes)
        earlier = await asyncio.to_thread(self._added.note, added)
        try:
            protected = await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
        except (JetdrError, OSError):
            if _lacks(domain, disk.name):
                await asyncio.to_thread(self._put_back, disk.name, earlier)
            raise
        self._unprotected = _without(disk.name, self._unprotected)
        return protected

    async def give_up(self, domain: AnyDomain, name: str) -> GivenUpDisk:
        """Stop protecting a disk, for good. Idempotent. Refused, with nothing changed, if the log has no room.

        If the domain is closed meanwhile, its next opening does what is left.
        """
        async with self._changing:
            noted = self._given_up.last.get(name)
            if noted is not None and name not in domain.disks and name not in self._leaving:
                return noted
            if noted is None and name not in self._configured:
                domain.disk(name)  # raises if there is none
            is_new = noted is None or noted.is_wanted
            given_up = GivenUpDisk(name=name, since_ns=time.time_ns()) if noted is None or is_new else noted
            await asyncio.to_thread(self._given_up.note, given_up)
            self._leaving = self._leaving | {name: "it is being done"}
            try:
                await self._give_up(domain, name)
            except (JetdrError, OSError) as error:
                if _is_closed(domain):  # so the next opening does it
                    self._leaving = self._leaving | {name: redacted(told(error))}
                    return given_up
                if is_new and name in domain.disks:
                    await asyncio.to_thread(self._given_up.forget, name)
                    self._leaving = _without(name, self._leaving)
                raise
            return given_up

    def is_leaving(self, name: str) -> bool:
        """Whether a disk was given up, and the domain may still protect it."""
        return name in self._leaving

    async def _give_up(self, domain: AnyDomain, name: str) -> None:
        """Do what is left to do about a disk whose giving up is noted. Each step is durable before the next begins."""
        noted = self._given_up.last.get(name)
        if noted is None:  # a person removed the file, and the disk stays as it is
            self._leaving = _without(name, self._leaving)
            return
        if noted.is_wanted and name in domain.disks:
            await asyncio.to_thread(self._given_up.forget, name)
        elif name in domain.disks:
            await domain.unprotect(name)
        elif name not in self._configured:
            await domain.make_durable()  # an earlier attempt may have been cut off there
        if name not in domain.disks:
            await asyncio.to_thread(self._added.forget, name)
        if name not in self._configured:
            await asyncio.to_thread(self._given_up.forget, name)
        self._wanted = _without(name, self._wanted) | self._configured
        self._leaving = _without(name, self._leaving)
        self._unprotected = _without(name, self._unprotected)

    async def give_up_closed(self, name: str) -> GivenUpDisk:
        """The same of a disk of a domain that is closed: as soon as it is open, which does not wait for the disk."""
        if name not in self._given_up.last:
            await self._check_known(name)
        async with self._changing:
            given_up = self._given_up.last.get(name) or GivenUpDisk(name=name, since_ns=time.time_ns())
            await asyncio.to_thread(self._given_up.note, replace(given_up, is_wanted=False))
            self._leaving = self._leaving | {name: "the domain is not open"}
            self._unprotected = _without(name, self._unprotected)
            return given_up

    def _check_not_given_up(self, name: str) -> None:
        """Refuse a disk that is being given up, and one that was."""
        given_up = self._given_up.last.get(name)
        if given_up is None or given_up.is_wanted:
            return
        is_left = name in self._leaving
        raise InvalidRequest(
            f"disk {name!r} {'is being given up since' if is_left else 'was given up at'} {given_up.since}",
            hint=("once that is done ('jetdr status' tells), " if is_left else "")
            + f"'jetdr protect {self._given_up.domain} {name} PATH' protects it again",
        )

    async def move(self, domain: AnyDomain, name: str, path: str) -> str:
        """Go on with a disk at ``path``, from now on and after every restart; returns why all of it is resynced."""
        async with self._changing:
            self._check_not_given_up(name)
            domain.disk(name)  # raises if there is none
            earlier = await asyncio.to_thread(self._added.note, self._moved(name, path))
            try:
                why = await domain.move_disk(name, path)
            except BaseException:
                await asyncio.to_thread(self._put_back, name, earlier)
                raise
            self._wanted = self._wanted | {name: self._moved(name, path)}
            self._unprotected = _without(name, self._unprotected)
            return why

    async def move_closed(self, name: str, path: str) -> None:
        """The same of a disk of a domain that is closed: from its next opening on.

        Its guest may go on with the disk. So a disk that is well where it was is refused here, too.
        """
        await self._check_known(name)
        async with self._changing:
            self._check_not_given_up(name)
            named = named_disks(self._configured.values(), await asyncio.to_thread(self._added.known))
            if name in named:
                await asyncio.to_thread(_check_not_both, name, named[name].path, path)
            await asyncio.to_thread(self._added.note, self._moved(name, path))

    async def _check_known(self, name: str) -> None:
        """Refuse a disk of the closed domain that no operator has named, and that the domain is not known to have."""
        named = named_disks(self._configured.values(), await asyncio.to_thread(self._added.known)).keys()
        if name not in named and name not in (known := await asyncio.to_thread(self._known)):
            told = ", ".join(sorted(named | known)) or "none"
            raise InvalidRequest(f"nobody has named disk {name!r} here", hint=f"the disks are: {told}")

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


def _is_closed(domain: AnyDomain) -> bool:
    try:
        domain.disks.keys()
    except InvalidRequest:
        return True
    return False


def _lacks(domain: AnyDomain, name: str) -> bool:
    """Whether the domain is open without the disk. Of one that was closed meanwhile, nobody knows what its log has."""
    return not _is_closed(domain) and name not in domain.disks


def _without(name: str, texts: Mapping[str, T]) -> dict[str, T]:
    return {other: value for other, value in texts.items() if other != name}


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
