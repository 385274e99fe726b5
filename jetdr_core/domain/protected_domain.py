"""ProtectedDomain: a protected domain whose disks this process reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Self
from uuid import UUID

from jetdr_core._core import ManualClock
from jetdr_core.domain.disk import Disk
from jetdr_core.domain.domain import Domain
from jetdr_core.domain.embedded_mode import EmbeddedResumption
from jetdr_core.domain.primary import DiskPlace
from jetdr_core.domain.request import DomainRequest, DomainSettings, LogPlace, Way
from jetdr_core.limits import SECTION_BYTES_DEFAULT
from jetdr_core.options import DomainOptions
from jetdr_core.store import ObjectStore

__all__ = ["ProtectedDomain"]


class ProtectedDomain(Domain[Disk]):
    """A protected domain: ``async with ProtectedDomain.create(...)`` or ``.open(...)``; leaving the block closes it.

    This process does the I/O of its disks, which are :class:`Disk`. ``clock`` is for tests: the time that records get.
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
        clock: ManualClock | None = None,
    ) -> Self:
        """A new domain, with an empty ``store`` (a URL, or an open store) and ``log_bytes`` of the log volume ``log``.

        A log file that does not exist is created; one that holds other domains' sections gets one more. ``owner`` names
        whose the log volume is (default: this machine). Nothing happens before ``async with``.
        """
        settings, look = DomainSettings.of(log, store, options, owner), partial(EmbeddedResumption, name, clock)
        return cls(DomainRequest(Way.CREATE, name, settings, look, log_bytes=log_bytes))

    @classmethod
    def open(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        disks: Mapping[str, DiskPlace] | None = None,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        clock: ManualClock | None = None,
    ) -> Self:
        """A known domain: goes on where its log ends, with its disks, at the paths they had or those in ``disks``.

        After an unclean stop a gap is open until all its disks have been copied again (:meth:`wait_consistent`).
        """
        settings, look = DomainSettings.of(log, store, options, owner), partial(EmbeddedResumption, name, clock)
        return cls(DomainRequest(Way.REOPEN, name, settings, look, places=disks or {}))

    @classmethod
    def take_over(
        cls,
        name: str,
        *,
        log: LogPlace,
        store: str | ObjectStore,
        log_bytes: int = SECTION_BYTES_DEFAULT,
        disks: Mapping[str, DiskPlace] | None = None,
        options: DomainOptions | None = None,
        owner: UUID | None = None,
        clock: ManualClock | None = None,
    ) -> Self:
        """A known domain whose log is lost or left: goes on after what the store holds, with a new log.

        What the old log held and the store does not is given up. A gap is open until all disks have been copied again.
        """
        settings, look = DomainSettings.of(log, store, options, owner), partial(EmbeddedResumption, name, clock)
        return cls(DomainRequest(Way.TAKE_OVER, name, settings, look, log_bytes=log_bytes, places=disks or {}))
