"""OwedCopies: waits for the copies that an open domain owes, and reports when one has failed.

Invariant: a copy that failed stays owed until the domain is opened again, so its error must end the session's domain.
"""

from __future__ import annotations

import asyncio

from jetdr_core.domain import DomainStatus
from jetdr_core.drva.configured_domain import AnyDomain
from jetdr_core.errors import NotConsistent

__all__ = ["OwedCopies"]


class OwedCopies:
    """Belongs to the session's loop."""

    def __init__(self) -> None:
        self._waiting: asyncio.Task[None] | None = None

    def watch(self, domain: AnyDomain, status: DomainStatus) -> None:
        """Wait for the copies that ``status`` shows as owed, if any."""
        owed = not status.consistent or not all(disk.ready for disk in status.disks)
        if owed and self._waiting is None:
            self._waiting = asyncio.ensure_future(domain.wait_consistent())

    def raise_failure(self) -> None:
        """Raise the error of a copy that has failed since the last call."""
        if self._waiting is None or not self._waiting.done():
            return
        waiting, self._waiting = self._waiting, None
        error = waiting.exception()
        if error is not None and not isinstance(error, NotConsistent):
            raise error

    async def end(self) -> None:
        """Stop waiting once the domain is closed. That the close ended the wait is no error."""
        if self._waiting is not None:
            await asyncio.wait({self._waiting})
            self._waiting.exception()
            self._waiting = None
