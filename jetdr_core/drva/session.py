"""DomainSession: keeps one domain open. What fails is closed and opened again; what is fenced stays closed.

Which thread runs what: a session has an event loop in a thread of its own, and that loop's worker threads; so a domain
that hangs keeps no other one waiting. Everything here runs in that loop, but for what says otherwise.
Invariants: one opening at a time; after ``Fenced`` there is none; a session ends only when it is told to.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from jetdr_core.aio import unreported
from jetdr_core.domain import DomainStatus
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.drva.alarms import Alarm, Situation, alarms_of
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.errors import DomainClosed
from jetdr_core.drva.opening import AnyDomain, store_is_empty
from jetdr_core.errors import Fenced, JetdrError, NotConsistent, StoreError
from jetdr_core.redaction import redacted

__all__ = ["Backoff", "DomainSession", "Opener", "SessionView", "State"]

log = logging.getLogger(__name__)
T = TypeVar("T")

STATUS_EVERY_S = 1.0
PROTECT_EVERY_S = 15.0
"""A configured disk that could not be protected is tried again this often."""

ANSWER_S = 2.0
"""A status that takes longer is told as it was before."""

Opener = Callable[[DomainConfig], Awaitable[AnyDomain]]


class State(enum.Enum):
    """Where a session stands."""

    OPENING = "opening"
    OPEN = "open"
    WAITING = "waiting"
    FENCED = "fenced"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between attempts: doubled from the first to the cap; a session that was open that long begins anew."""

    first_s: float = 1.0
    cap_s: float = 60.0

    def wait_s(self, failures: int) -> float:
        return min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session at one moment. ``status`` is the last one there was, taken ``status_age_s`` ago."""

    name: str
    state: State
    since_ns: int
    restarts: int
    paused: bool
    failure: str
    alarms: tuple[Alarm, ...]
    status: DomainStatus | None
    status_age_s: float


class DomainSession:
    """Thread-safe: :meth:`start`, :meth:`run`, :meth:`view`, :meth:`stop`. ``stop_host``: the host ends with it."""

    def __init__(
        self, config: DomainConfig, opener: Opener, *, stop_host: bool = False, backoff: Backoff | None = None
    ) -> None:
        self.config = config
        self.settled: Future[None] = Future()  # the first opening has succeeded or failed
        self._opener = opener
        self._stop_host = stop_host
        self._backoff = backoff or Backoff()
        self._loop = LoopThread(f"jetdr-session-{config.name}")
        self._domain: AnyDomain | None = None
        self._state = State.OPENING
        self._since_ns = time.time_ns()
        self._failure = ""
        self._failures = 0
        self._restarts = 0
        self._paused = False
        self._moved: dict[str, str] = {}
        self._unprotected: dict[str, str] = {}
        self._tried_s = 0.0
        self._status: DomainStatus | None = None
        self._status_at = time.monotonic()
        self._asking: asyncio.Future[None] | None = None
        self._copying: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._alarms: frozenset[str] = frozenset()

    # -- from any thread ---------------------------------------------------------------------------------------------

    def start(self) -> Future[None]:
        """Begin; done when the session has ended."""
        return self._loop.submit_last(self._live())

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` in the session's loop."""
        return self._loop.submit(work)

    def stop(self, *, hurry: bool = False) -> None:
        """End: flush and upload within the domain's ``close_limit_s``; with ``hurry`` upload nothing more."""
        self._loop.call(self._stopping.set)
        if hurry:
            self._loop.call(self._hurry.set)

    def view(self) -> SessionView:
        """The session as it is, without waiting for anybody."""
        status, age_s = self._status, time.monotonic() - self._status_at
        return SessionView(
            name=self.config.name,
            state=self._state,
            since_ns=self._since_ns,
            restarts=self._restarts,
            paused=self._paused,
            failure=self._failure,
            alarms=tuple(alarms_of(self._situation(status, age_s))),
            status=status,
            status_age_s=age_s,
        )

    def _situation(self, status: DomainStatus | None, age_s: float) -> Situation:
        return Situation(
            fenced=self._state is State.FENCED,
            closed=self._state is not State.OPEN,
            failure=self._failure,
            paused=self._paused,
            status=status,
            status_age_s=age_s,
            rpo_alarm_s=self.config.rpo_alarm_s,
            moved=tuple(self._moved.values()),
            unprotected=tuple(f"disk {name!r}: {why}" for name, why in self._unprotected.items()),
        )

    # -- commands ----------------------------------------------------------------------------------------------------

    @property
    def domain(self) -> AnyDomain:
        """The open domain, or :class:`DomainClosed`."""
        if self._domain is None:
            raise DomainClosed(
                f"domain {self.config.name!r} is not open ({self._state.value}): {self._failure or 'try again soon'}",
                hint="'jetdr status' tells how it stands" if self._failure else "",
            )
        return self._domain

    async def refresh(self) -> None:
        """Take the status anew, unless that takes long; callers at the same time share one. Raises what that raised."""
        domain = self._domain
        if domain is None:
            return
        if self._asking is None or self._asking.done():
            asking = asyncio.ensure_future(self._take_status(domain))
            self._asking = unreported(asking)  # the domain may be closed meanwhile
        await asyncio.wait({self._asking}, timeout=ANSWER_S)
        if self._asking.done() and domain is self._domain:
            self._asking.result()

    async def pause(self) -> None:
        """Upload nothing until :meth:`resume`, also after the domain was opened again."""
        self._paused = True
        if self._domain is not None:
            self._domain.pause()

    async def resume(self) -> None:
        self._paused = False
        if self._domain is not None:
            self._domain.resume()

    # -- life --------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    await self._open_and_serve()
                except Fenced as error:
                    await self._stay_fenced(error)
                except (JetdrError, OSError) as error:
                    await self._wait_after(error)
                except Exception as error:  # a bug: the other domains go on, and so may this one
                    log.exception("domain %s: its session failed", self.config.name, extra=self._fields)
                    await self._wait_after(error)
        finally:
            self._enter(State.CLOSED)
            self._settle()

    async def _open_and_serve(self) -> None:
        domain = await self._unless_stopped(self._open())
        if domain is None:
            return
        opened_s = time.monotonic()
        self._domain, self._failure = domain, ""
        try:
            await self._serve(domain)
        except BaseException:
            if time.monotonic() - opened_s >= self._backoff.cap_s:
                self._failures = 0
            await self._close(domain, upload=False)
            raise
        await self._close(domain, upload=True)

    async def _open(self) -> AnyDomain:
        self._enter(State.OPENING)
        domain = await self._opener(self.config)
        await domain.__aenter__()
        self.config = replace(self.config, take_over=False)  # once
        return domain

    async def _serve(self, domain: AnyDomain) -> None:
        """Until the session is to stop; raises what ended the domain."""
        if self._paused:
            domain.pause()
        self._unprotected = {disk.name: "not yet tried" for disk in self.config.disk}
        await self._protect(domain)
        await self.refresh()
        self._enter(State.OPEN)
        self._settle()
        log.info("domain %s: open", self.config.name, extra=self._fields)
        probes = 0
        while not await self._stopped_within(self._backoff.wait_s(probes) if probes else STATUS_EVERY_S):
            if self._unprotected and time.monotonic() - self._tried_s >= PROTECT_EVERY_S:
                await self._protect(domain)
            await self.refresh()
            self._raise_failed_copy()
            if (failure := domain.failure) is not None:
                probes += 1
                if not isinstance(failure, StoreError) or await self._store_answers():
                    raise failure

    async def _close(self, domain: AnyDomain, *, upload: bool) -> None:
        """Close it, whatever that meets; what is not uploaded is in its log."""
        self._enter(State.CLOSING)
        self._domain = None
        closing = asyncio.ensure_future(domain.close(upload=upload, stop_host=upload and self._stop_host))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not closing.done():
            await asyncio.wait({asyncio.ensure_future(domain.close(upload=False)), closing})
        if (error := closing.exception()) is not None:
            log.warning("domain %s: closed, but: %s", self.config.name, error, extra=self._fields)
        else:
            log.info("domain %s: closed", self.config.name, extra=self._fields)
        if self._copying is not None:
            await asyncio.wait({self._copying})
            self._copying.exception()  # that the domain was closed is no news
            self._copying = None

    async def _stay_fenced(self, error: Fenced) -> None:
        self._failure = redacted(str(error))
        self._enter(State.FENCED)
        self._settle()
        await self._stopping.wait()

    async def _wait_after(self, error: Exception) -> None:
        self._failures += 1
        self._restarts += 1
        self._failure = redacted(str(error)) or type(error).__name__
        self._enter(State.WAITING)
        self._settle()
        wait_s = self._backoff.wait_s(self._failures)
        log.error("domain %s: %s; opened again in %.1f s", self.config.name, error, wait_s, extra=self._fields)
        await self._stopped_within(wait_s)

    # -- while it is open --------------------------------------------------------------------------------------------

    async def _protect(self, domain: AnyDomain) -> None:
        """Protect the configured disks that are not; one that cannot be is tried again later."""
        self._tried_s = time.monotonic()
        for disk in self.config.disk:
            if disk.name not in self._unprotected:
                continue
            known = domain.disks.get(disk.name)
            try:
                known = known or await domain.protect(disk.name, disk.path, size_bytes=disk.size_bytes, wait=False)
            except (JetdrError, OSError) as error:
                self._unprotected[disk.name] = redacted(str(error))
                continue
            del self._unprotected[disk.name]
            if known.path != disk.path:
                self._moved[disk.name] = f"disk {disk.name!r} is at {known.path}, configured is {disk.path}"

    async def _take_status(self, domain: AnyDomain) -> None:
        status = await asyncio.to_thread(domain.status)
        if domain is self._domain:
            self._status, self._status_at = status, time.monotonic()
            self._watch_copies(domain, status)
            self._log_alarms()

    def _watch_copies(self, domain: AnyDomain, status: DomainStatus) -> None:
        owed = not status.consistent or not all(disk.ready for disk in status.disks)
        if owed and self._copying is None:
            self._copying = asyncio.ensure_future(domain.wait_consistent())

    def _raise_failed_copy(self) -> None:
        """A copy that failed stays owed until the domain is opened again."""
        if self._copying is not None and self._copying.done():
            copying, self._copying = self._copying, None
            error = copying.exception()
            if error is not None and not isinstance(error, NotConsistent):
                raise error

    async def _store_answers(self) -> bool:
        try:
            return not await store_is_empty(self.config.store)
        except (JetdrError, OSError) as error:
            log.warning("domain %s: its store: %s", self.config.name, error, extra=self._fields)
            return False

    def _log_alarms(self) -> None:
        """Log what has begun and what is over. The end of the session is not the end of what was wrong."""
        if self._state in {State.CLOSING, State.CLOSED}:
            return
        alarms = {alarm.name: alarm.text for alarm in self.view().alarms}
        for name in sorted(alarms.keys() - self._alarms):
            log.warning("domain %s: alarm %s: %s", self.config.name, name, alarms[name], extra=self._fields)
        for name in sorted(self._alarms - alarms.keys()):
            log.info("domain %s: alarm %s is over", self.config.name, name, extra=self._fields)
        self._alarms = frozenset(alarms)

    def _settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)

    # -- small things ------------------------------------------------------------------------------------------------

    @property
    def _fields(self) -> dict[str, str]:
        return {"domain": self.config.name}

    def _enter(self, state: State) -> None:
        if state is not self._state:
            self._state, self._since_ns = state, time.time_ns()
            self._log_alarms()

    async def _stopped_within(self, limit_s: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), limit_s)
        return self._stopping.is_set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of ``work``; None when the session was to stop before there was one."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
        return None if working.cancelled() else working.result()
