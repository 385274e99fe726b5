"""LastStatus: the newest status of a domain, kept with the moment at which it was taken.

Invariants: a domain that hangs holds up no caller. A caller waits at most :data:`ANSWER_S` for a new status, callers at
the same time share one question, and :meth:`LastStatus.value` never waits. A status is present only while the domain
that gave it is followed and answers. After that it is the last one known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from jetdr_core.aio import unreported
from jetdr_core.domain import DomainStatus
from jetdr_core.drva.as_of import AsOf, is_present
from jetdr_core.drva.configured_domain import AnyDomain

__all__ = ["ANSWER_S", "LastStatus"]

ANSWER_S = 2.0
"""If a new status takes longer, the last one is reported."""


class _Taken(NamedTuple):
    domain: AnyDomain
    status: DomainStatus
    at_ns: int
    monotonic_s: float


class LastStatus:
    """Belongs to the session's loop, except :meth:`value`. ``taken`` is called with the domain and its new status."""

    def __init__(self, taken: Callable[[AnyDomain, DomainStatus], None]) -> None:
        self._taken = taken
        self._domain: AnyDomain | None = None
        self._last: _Taken | None = None
        self._asking: asyncio.Future[None] | None = None

    def value(self) -> AsOf[DomainStatus] | None:
        """Return the last status, or None if no domain has given one yet. Thread-safe."""
        last = self._last
        if last is None:
            return None
        age_s = time.monotonic() - last.monotonic_s
        return AsOf(last.status, last.at_ns, age_s, is_present=last.domain is self._domain and is_present(age_s))

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
        asked_ns, asked_s = time.time_ns(), time.monotonic()
        status = await asyncio.to_thread(domain.status)
        if domain is self._domain:
            self._last = _Taken(domain, status, asked_ns, asked_s)
            self._taken(domain, status)
