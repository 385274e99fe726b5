"""LastStatus: the newest status of a domain, kept with its age.

Invariant: a domain that hangs holds up no caller. A caller waits at most :data:`ANSWER_S` for a new status, callers at
the same time share one question, and :meth:`LastStatus.value` never waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from jetdr_core.aio import unreported
from jetdr_core.domain import DomainStatus
from jetdr_core.drva.configured_domain import AnyDomain

__all__ = ["ANSWER_S", "LastStatus"]

ANSWER_S = 2.0
"""If a new status takes longer, the last one is reported."""


class LastStatus:
    """Belongs to the session's loop, except :meth:`value`. ``taken`` is called with the domain and its new status."""

    def __init__(self, taken: Callable[[AnyDomain, DomainStatus], None]) -> None:
        self._taken = taken
        self._domain: AnyDomain | None = None
        self._last: tuple[DomainStatus | None, float] = (None, time.monotonic())
        self._asking: asyncio.Future[None] | None = None

    def value(self) -> tuple[DomainStatus | None, float]:
        """Return the last status and its age in seconds. Thread-safe."""
        status, taken_s = self._last
        return status, time.monotonic() - taken_s

    def follow(self, domain: AnyDomain | None) -> None:
        """Ask ``domain`` from now on, or nobody. An answer of the domain before no longer counts."""
        self._domain, self._asking = domain, None

    async def refresh(self) -> None:
        """Take a new status unless that takes long. Raises what the domain raised."""
        domain = self._domain
        if domain is None:
            return
        if self._asking is None or self._asking.done():
            self._asking = unreported(asyncio.ensure_future(self._take(domain)))  # the domain may be closed meanwhile
        asking = self._asking
        await asyncio.wait({asking}, timeout=ANSWER_S)
        if asking.done() and domain is self._domain:
            asking.result()

    async def _take(self, domain: AnyDomain) -> None:
        status = await asyncio.to_thread(domain.status)
        if domain is self._domain:
            self._last = status, time.monotonic()
            self._taken(domain, status)
