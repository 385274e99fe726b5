"""HostedDomain: a protected domain whose disks a host component serves to guests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Self
from uuid import UUID

from jetdr_core.domain.continuity import OnMismatch
from jetdr_core.domain.domain import Domain
from jetdr_core.domain.hosting.pending_ring import PendingRing
from jetdr_core.domain.hosting.resumption import HostedResumption
from jetdr_core.domain.hosting.served_disks import HostedDisk
from jetdr_core.domain.known_file import KnownFile
from jetdr_core.domain.mode import Look
from jetdr_core.domain.primary import DiskPlace, DiskPlaces
from jetdr_core.domain.request import DomainRequest, DomainSettings, LogPlace, Way
from jetdr_core.host import HostComponent, HostOptions
from jetdr_core.limits import SECTION_BYTES_DEFAULT
from jetdr_core.options import DomainOptions
from jetdr_core.store import ObjectStore

__all__ = ["HostedDomain"]


class HostedDomain(Domain[HostedDisk]):
    """A protected domain: ``async with HostedDomain.create(...)`` or ``.open(...)``. Leaving the block closes it.

    Guests reach its disks, which are :class:`HostedDisk`, over NBD. A host component serves the disks, as ``host``
    says. It is a process of its own, outlives this one, and keeps its own time.
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
        host: HostOptions,
    ) -> Self:
        """Return a new domain, with an empty ``store`` and a section of ``log_bytes`` on the log volume ``log``.

        ``store`` is a URL or an open store. A log file that does not exist is created, and a log volume with sections
        of other domains gets one more. ``owner`` names whose the log volume is, by default this machine's. With
        ``key_file``, a file that 'jetdr key new' made, nobody who lacks it can alter the domain's history unnoticed,
        and every later opening needs it. Nothing happens before ``async with``.
        """
        settings, look = DomainSettings.of(log, store, options, owner, key_file), _look(name, host)
        return cls(
            DomainRequest(Way.CREATE, name, settings, look, log_bytes=log_bytes, known_file=_known_file(name, host))
        )

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
        host: HostOptions,
        on_mismatch: OnMismatch = OnMismatch.REFUSE,
        give_up_disks: Iterable[str] = (),
    ) -> Self:
        """Return a known domain, which goes on where its log ends. Its disks are where ``disks`` says, by name.

        A disk that is not there, or does not fit, is a failed disk of the open domain: ``status().disks`` says why. So
        is one that a given ``disks`` does not name. Without ``disks`` it is where the store says, if the domain's log
        confirms that it was last used there. ``trust_stored_paths`` believes the store, and whoever may write to that
        then chooses which files are opened and served.

        If the ring or the host component did not survive, a gap may be open until all disks have been resynced: see
        :meth:`wait_consistent`.

        While the store is away, the domain is opened from its log and from what its state folder knows of the store.
        Nothing is uploaded then (:attr:`DomainStatus.joined`), until the store is there. :class:`StoreAway` is raised
        where only the store can tell how the domain goes on.

        In write-back :class:`GenerationMismatch` is raised if log, store, state folder and disks were not last used
        together. ``on_mismatch`` then says which of them is the truth. :class:`PrimaryAway` is raised if a disk is not
        there and lacks writes that only the log has, unless ``give_up_disks`` names it.
        """
        settings, look = DomainSettings.of(log, store, options, owner, key_file), _look(name, host, on_mismatch)
        places = DiskPlaces.of(disks, trust_stored=trust_stored_paths, given_up=give_up_disks)
        known_file = _known_file(name, host)
        return cls(DomainRequest(Way.REOPEN, name, settings, look, places=places, known_file=known_file))

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
        host: HostOptions,
    ) -> Self:
        """Return a known domain whose log is lost or left. It goes on after what the store holds, with a new log.

        What the old log held and the store does not is given up. A gap is open until all disks have been resynced. A
        chain that has lost an object is refused with :class:`ChainBroken`, unless ``give_up_from`` is the number of
        that object, which gives up what the store holds after it. The domain's old section on the same volume is
        replaced. That is refused with :class:`InvalidRequest`, which names the log, if the section is sound and alone
        has some of the domain's data, or if in write-back it was not closed and no ring spares it. ``discard_log``, the
        name of the log, accepts the loss.
        """
        settings, look = DomainSettings.of(log, store, options, owner, key_file), _look(name, host)
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
                known_file=_known_file(name, host),
                spares_log=PendingRing(name, host).spares_log,
            )
        )


def _look(name: str, host: HostOptions, on_mismatch: OnMismatch = OnMismatch.REFUSE) -> Look[HostedDisk]:
    HostComponent(name, host)  # refuses paths that are too long
    return partial(HostedResumption, name, host, on_mismatch)


def _known_file(name: str, host: HostOptions) -> KnownFile:
    return KnownFile(Path(host.state), name)
