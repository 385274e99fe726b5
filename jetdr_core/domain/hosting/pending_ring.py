"""PendingRing: whether a ring still has everything that the disks of a domain in write-back lack of its log.

In write-back a guest is told that a write is safe before its disk has it. Log and ring have it until then. So a log may
be given up only if a ring has it too and a host component lives, or once that host component has written it to the
disks and has ended in order.

Invariant: nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from jetdr_core.domain.generation import Generation
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.host import HostComponent, HostOptions

__all__ = ["PendingRing"]


class PendingRing:
    """The ring that domain ``name`` left with the host component of ``host``."""

    def __init__(self, name: str, host: HostOptions) -> None:
        self._folder = HostComponent(name, host).folder

    def spares_log(self, domain_uuid: UUID, generations: Iterable[Generation]) -> bool:
        """Return whether the disks need nothing that only a log of one of the ``generations`` has.

        :class:`RingForeign` for another domain's ring.
        """
        place = RingPlace(self._folder, domain_uuid)
        ring = place.open()
        if ring is None:
            return False
        try:
            goes_on = any(place.goes_on_with(generation) for generation in generations)
            has_all = ring.host_alive or (ring.host_ended and not ring.primaries_lag)
            return ring.write_back and goes_on and has_all
        finally:
            ring.leave()
