"""ProtectedDomain: a protected domain whose disks this process reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import Self
from uuid import UUID

from jetdr_core._core import ManualClock
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.domain import Domain
from jetdr_core.domain.embedded_mode import EmbeddedResumption
from jetdr_core.domain.primary import DiskPlace, DiskPlaces
from jetdr_core.domain.request import DomainRequest, DomainSettings, LogPlace, Way
from jetdr_core.limits import SECTION_BYTES_DEFAULT
from jetdr_core.options import DomainOptions
from jetdr_core.store import ObjectStore

__all__ = ["ProtectedDomain"]


class ProtectedDomain(Domain[Disk]):
    """A protected domain: ``async with ProtectedDomain.create(...)`` or ``.open(...)``. Leaving the block closes it.

    This process reads and writes its disks, which are :class:`Disk`. ``clock`` is the time that records get, for tests.

    A known domain is opened with its store only. While the store is away, opening fails: there is no guest that would
    wait, because the caller is the one who reads and writes.
    """

    @classmethod
    def create(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        log_bytes: int = SECTION_BYTES_DEFAULT,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        key_file: str | PathLike[str] | None = None,
        clock: ManualClock | None = None,
    ) -> Self:
        """Return a new domain, with an empty ``store`` and a section of ``log_bytes`` on the log volume ``log``.

        ``store`` is a URL or an open store. A log file that does not exist is created, and a log volume with sections
        of other domains gets one more. ``owner`` names whose the log volume is, by default this machine's. With
        ``key_file``, a file that 'jetdr key new' made, nobody who lacks it can alter the domain's history unnoticed,
        and every later opening needs it. Nothing happens before ``async with``.
        """
        settings = DomainSettings.of(log, store, options, owner, key_file)
        look = partial(EmbeddedResumption, name, clock)
        return cls(DomainRequest(Way.CREATE, name, settings, look, log_bytes=log_bytes))

    @classmethod
    def open(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        disks: Mapping[str, DiskPlace] | None = None,
        trust_stored_paths: bool = False,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        key_file: str | PathLike[str] | None = None,
        clock: ManualClock | None = None,
    ) -> Self:
        """Return a known domain, which goes on where its log ends. Its disks are where ``disks`` says, by name.

        The store says where each disk was when it was protected. Without ``disks`` that is believed if the domain's log
        confirms it: they were last used there. A disk that a given ``disks`` does not name, or that the log does not
        confirm, is refused, and the error says what the store says. ``trust_stored_paths`` believes it, and whoever may
        write to the store then chooses which files are opened and written to.

        After an unclean stop a gap is open until all disks have been resynced: see :meth:`wait_consistent`.
        """
        settings = DomainSettings.of(log, store, options, owner, key_file)
        look, places = partial(EmbeddedResumption, name, clock), DiskPlaces.of(disks, trust_stored=trust_stored_paths)
        return cls(DomainRequest(Way.REOPEN, name, settings, look, places=places))

    @classmethod
    def take_over(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        log_bytes: int = SECTION_BYTES_DEFAULT,
        disks: Mapping[str, DiskPlace] | None = None,
        trust_stored_paths: bool = False,
        give_up_from: int | None = None,
        discard_log: str | None = None,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        key_file: str | PathLike[str] | None = None,
        clock: ManualClock | None = None,
    ) -> Self:
        """Return a known domain whose log is lost or left. It goes on after what the store holds, with a new log.

        What the old log held and the store does not is given up. A gap is open until all disks have been resynced.

        A chain that has lost an object is refused with :class:`ChainBroken`, which says where its history ends.
        ``give_up_from``, the number of that object, accepts that what the store holds after it is given up.

        The domain's old section on the same volume is replaced. If it is sound and alone has some of the domain's data,
        that is refused with :class:`InvalidRequest`, which names the log. ``discard_log``, that name, accepts the loss.
        """
        settings = DomainSettings.of(log, store, options, owner, key_file)
        look = partial(EmbeddedResumption, name, clock)
        return cls(
            DomainRequest(
                Way.TAKE_OVER,
                name,
                settings,
                look,
                log_bytes=log_bytes,
                give_up_from=give_up_from,
                discard_log=discard_log,
                places=DiskPlaces.of(disks, trust_stored=trust_stored_paths),
            )
        )
