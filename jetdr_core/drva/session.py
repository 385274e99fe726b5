"""DomainSession: keeps one domain open. After a failure it closes the domain and opens it again, unless it is fenced.

Threads: each session has an event loop in a thread of its own, and that loop's worker threads, so that a domain that
hangs holds up no other one. Everything here runs in that loop unless it says otherwise.

Invariants: the session opens one domain at a time. After ``Fenced`` it opens none. It ends only when it is told to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from jetdr_core.aio import in_thread
from jetdr_core.domain import DomainStatus, OnMismatch
from jetdr_core.domain.hosting.standby import ClosedGuests, Standby
from jetdr_core.domain.loop_thread import LoopThread
from jetdr_core.drva.added_disks import AddedDisks
from jetdr_core.drva.alarm_log import Acknowledged, AlarmLog
from jetdr_core.drva.alarms import Situation, alarms_of
from jetdr_core.drva.alarms_file import AlarmsFile
from jetdr_core.drva.config import DomainConfig
from jetdr_core.drva.configured_disks import ConfiguredDisks
from jetdr_core.drva.configured_domain import AnyDomain, disk_places, known_disks, store_is_empty
from jetdr_core.drva.domain_state import Condition, DomainState, condition_of
from jetdr_core.drva.errors import DomainClosed
from jetdr_core.drva.given_up_disks import GivenUpDisks
from jetdr_core.drva.kept_files import KeptFiles
from jetdr_core.drva.last_status import LastStatus
from jetdr_core.drva.owed_copies import OwedCopies
from jetdr_core.drva.own_scrub import OwnScrub
from jetdr_core.drva.pause import Pause, PausedFile
from jetdr_core.drva.places import store_of
from jetdr_core.drva.rpo_file import RpoFile
from jetdr_core.drva.session_state import Phase, SessionView, State
from jetdr_core.errors import (
    DeviceAccessDenied,
    DeviceBusy,
    DeviceFull,
    DeviceGone,
    DeviceReadOnly,
    Fenced,
    Forged,
    JetdrError,
    LogBusy,
    LogFailed,
    LogMissing,
    StoreAway,
    StoreError,
    StoreLost,
    StoreUnmounted,
)
from jetdr_core.file_making import told
from jetdr_core.store.redaction import redacted

__all__ = ["Backoff", "DomainSession", "Opener"]

log = logging.getLogger(__name__)
T = TypeVar("T")

STATUS_EVERY_S = 1.0
STAND_BY_EVERY_S = 1.0

_CLOSED = {
    State.OPENING: DomainState.OPENING,
    State.OPEN: DomainState.OPENING,  # until its first status
    State.FENCED: DomainState.FENCED,
    State.WAITING: DomainState.CLOSED,
    State.CLOSING: DomainState.CLOSED,
    State.CLOSED: DomainState.CLOSED,
}

_LOG_AWAY = (LogFailed, LogMissing, LogBusy, DeviceGone, DeviceReadOnly, DeviceAccessDenied, DeviceBusy, DeviceFull)
"""What fails an opening because of the log's device. A disk that fails is one disk's fault, and fails no opening."""

Opener = Callable[[DomainConfig], Awaitable[AnyDomain]]


@dataclass(frozen=True, slots=True)
class Backoff:
    """The waits between attempts: doubled from the first to the cap. A domain that was open for the cap starts anew."""

    first_s: float = 1.0
    cap_s: float = 60.0

    def wait_s(self, failures: int) -> float:
        return min(self.cap_s, self.first_s * 2.0 ** min(failures - 1, 30))


class DomainSession:
    """One configured domain. ``stop_host``: its host component ends with the session.

    Any thread may call :meth:`start`, :meth:`run`, :meth:`view` and :meth:`stop`.
    """

    def __init__(
        self, config: DomainConfig, opener: Opener, *, stop_host: bool = False, backoff: Backoff | None = None
    ) -> None:
        self.config = config
        self.settled: Future[None] = Future()
        """Done once the first opening has succeeded or failed."""
        self._opener = opener
        self._stop_host = stop_host
        self._backoff = backoff or Backoff()
        self._failures = 0
        self._loop = LoopThread(f"jetdr-session-{config.name}")
        self._domain: AnyDomain | None = None
        self._credential_file = ""  # of the open domain
        self._phase = Phase.begin()
        self._condition = Condition(DomainState.OPENING, self._phase.since_ns, "")
        state = Path(config.host.state)
        self._paused_file = PausedFile(state, config.name)
        self._pause = self._paused_file.read()
        self.disks = ConfiguredDisks(
            config.disk,
            AddedDisks(state, config.name),
            GivenUpDisks(state, config.name),
            known=lambda: known_disks(self.config),
        )
        self._files = KeptFiles(config.config_files)
        self._standby = Standby(config.name, config.host, config.options, lambda: disk_places(self.config))
        self._standing = ClosedGuests()
        self._status = LastStatus(self._on_status)
        self._rpo_file = RpoFile(state / config.name)
        self._copies = OwedCopies()
        self._alarms_file = AlarmsFile(state, config.name)
        self._alarms = AlarmLog(config.name, before=self._alarms_file.read(), keep=self._alarms_file.keep)
        self._scrub = OwnScrub(config.scrub_s)
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._nudged = asyncio.Event()

    # -- from any thread ---------------------------------------------------------------------------------------------

    def start(self) -> Future[None]:
        """Begin. The result is done when the session has ended."""
        return self._loop.submit_last(self._live())

    def run(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run ``work`` in the session's loop."""
        return self._loop.submit(work)

    def stop(self, *, hurry: bool = False) -> None:
        """End the session. Flush, and upload within the domain's ``close_limit_s``; with ``hurry``, do not upload."""
        self._loop.call(self._stopping.set)
        if hurry:
            self._loop.call(self._hurry.set)

    def reconfigure(self, config: DomainConfig) -> None:
        """Take over what may change while the domain is open, and try at once whatever waits to be tried again."""
        self._loop.call(lambda: self._reconfigure(config))

    def note_alarms(self) -> None:
        """Note, and log, which alarms have begun and which are over."""
        self._view(noting=True)

    def acknowledge(self, alarm: str | None) -> Acknowledged:
        """Acknowledge the alarms of that name, or all."""
        return self._alarms.acknowledge(alarm)

    def view(self) -> SessionView:
        """Return the session as it is now, without waiting for anything."""
        return self._view(noting=False)

    def _view(self, *, noting: bool) -> SessionView:
        phase, last = self._phase, self._status.value()
        rpo_s = self._rpo_file.rpo_s if last is None else last.seconds_since(last.value.rpo_s)
        situation = Situation(
            fenced=phase.state is State.FENCED,
            closed=phase.state is not State.OPEN,
            failure=phase.failure,
            forged=phase.forged,
            pause=self._pause,
            log_away=phase.log_away,
            opening_s=phase.opening_s,
            last=last,
            rpo_s=rpo_s,
            rpo_alarm_s=self.config.rpo_alarm_s,
            unprotected=self.disks.unprotected,
            unkept=self._files.problems,
            scrubbed=self._scrub.found,
            standing=self._standing,
            condition=self._condition,
            now_ns=time.time_ns(),
        )
        closing = phase.state in {State.CLOSING, State.CLOSED}  # the end of the session does not end what was wrong
        found, all_known = alarms_of(situation), phase.state is State.OPEN and last is not None and last.is_present
        is_noted = noting and not closing
        alarms = self._alarms.note(found, all_known=all_known) if is_noted else self._alarms.dated(found)
        return SessionView(
            name=self.config.name,
            condition=self._condition if phase.state is not State.OPEN or last is None else self._condition.as_of(last),
            state=phase.state,
            since_ns=phase.since_ns,
            restarts=phase.restarts,
            pause=self._pause,
            failure=phase.failure,
            alarms=alarms,
            alarms_ended=self._alarms.ended,
            last=last,
            rpo_s=rpo_s,
            given_up=self.disks.given_up,
            scrubbed=self._scrub.found,
        )

    # -- commands ----------------------------------------------------------------------------------------------------

    @property
    def domain(self) -> AnyDomain:
        """The open domain. Raises :class:`DomainClosed` if it is not open."""
        if self._domain is None:
            state, failure = self._phase.state.value, self._phase.failure
            raise DomainClosed(
                f"domain {self.config.name!r} is not open ({state}): {failure or 'try again soon'}",
                hint="'jetdr status' shows how it stands" if failure else "",
            )
        return self._domain

    @property
    def is_open(self) -> bool:
        return self._domain is not None

    def hurry_opening(self) -> None:
        """Try at once what waits to be tried again."""
        self._nudged.set()

    async def refresh(self) -> None:
        """Take a new status unless that takes long. Raises what the domain raised."""
        await self._status.refresh()

    async def pause(self, reason: str) -> Pause:
        """Upload nothing until :meth:`resume`, over every restart. Idempotent: a pause goes on, with the new reason."""
        before = self._pause
        pause = Pause(time.time_ns(), reason) if before is None else Pause(before.since_ns, reason or before.reason)
        await asyncio.to_thread(self._paused_file.write, pause)
        self._pause = pause
        if self._domain is not None:
            self._domain.pause()
        return pause

    async def resume(self) -> None:
        """Upload again. Idempotent."""
        await asyncio.to_thread(self._paused_file.remove)
        self._pause = None
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
            await in_thread(self._alarms_file.close)

    async def _open_and_serve(self) -> None:
        domain = await self._unless_stopped(self._open())
        if domain is None:
            return
        opened_s = time.monotonic()
        self._adopt(domain)
        self._phase = self._phase.opened()
        self._standby.end()
        self._standing = ClosedGuests()
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
        self._credential_file = self.config.credential_file
        domain = await self._opener(self.config)
        await domain.__aenter__()
        # only the first opening takes over, or goes on in spite of a mismatch
        self.config = replace(
            self.config,
            take_over=False,
            give_up_from=None,
            discard_log=None,
            on_mismatch=OnMismatch.REFUSE,
            begin_anew=None,
        )
        return domain

    async def _serve(self, domain: AnyDomain) -> None:
        """Serve until the session is to stop. Raises what ended the domain."""
        if self._pause is not None:
            domain.pause()
        await self.disks.begin(domain)
        await self.refresh()
        self._enter(State.OPEN)
        self._settle()
        log.info("domain %s: open", self.config.name, extra=self._fields)
        probes, probe_s, look_s = 0, 0.0, STATUS_EVERY_S
        while not await self._stopped_within(look_s):
            if self.disks.are_due:
                await self.disks.settle(domain)
            if self._files.are_due:
                await self._files.keep(domain)
            await self.refresh()
            self._copies.raise_failure()
            failure = domain.failure or self._why_other_credential()
            if failure is None or (isinstance(failure, StoreError) and time.monotonic() < probe_s):
                continue
            if not isinstance(failure, StoreError) or await self._can_go_on(domain, failure):
                raise failure
            probes += 1
            look_s = min(STATUS_EVERY_S, self._backoff.wait_s(probes))
            probe_s = time.monotonic() + self._backoff.wait_s(probes)

    async def _close(self, domain: AnyDomain, *, upload: bool) -> None:
        """Close the domain, whatever happens. What is not uploaded stays in its log."""
        self._enter(State.CLOSING)
        self._adopt(None)
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
        await self._copies.end()
        await self._scrub.end()
        await self.disks.end()

    async def _stay_fenced(self, error: Fenced) -> None:
        self._phase = self._phase.failed(redacted(told(error)), restarts=False)
        self._enter(State.FENCED)
        self._settle()
        await self._stopping.wait()

    async def _wait_after(self, error: Exception) -> None:
        self._failures += 1
        self._phase = self._phase.failed(
            redacted(told(error)) or type(error).__name__,
            restarts=True,
            forged=isinstance(error, Forged),
            log_away=isinstance(error, _LOG_AWAY),
        )
        self._enter(State.WAITING)
        self._settle()
        wait_s = self._backoff.wait_s(self._failures)
        log.error("domain %s: %s; opened again in %.1f s", self.config.name, error, wait_s, extra=self._fields)
        await self._stand_by(wait_s)

    async def _stand_by(self, limit_s: float) -> None:
        """Wait, and meanwhile see that guests have their disks: they need neither log nor store."""
        deadline_s = time.monotonic() + limit_s
        while (rest_s := deadline_s - time.monotonic()) > 0:
            standing = await in_thread(self._standby.look)
            if standing.why_waiting != self._standing.why_waiting:
                log.error("domain %s: guests wait: %s", self.config.name, standing.why_waiting, extra=self._fields)
            self._standing = standing
            self.note_alarms()
            if await self._stopped_within(min(rest_s, STAND_BY_EVERY_S)):
                return

    # -- small things ------------------------------------------------------------------------------------------------

    @property
    def _fields(self) -> dict[str, str]:
        return {"domain": self.config.name}

    def _adopt(self, domain: AnyDomain | None) -> None:
        self._domain = domain
        self._status.follow(domain)

    def _enter(self, state: State) -> None:
        if state is not self._phase.state:
            self._phase = self._phase.enter(state)
            last = self._status.value()
            self._note_condition(None if last is None else last.value)
            self.note_alarms()

    def _settle(self) -> None:
        if not self.settled.done():
            self.settled.set_result(None)

    def _on_status(self, domain: AnyDomain, status: DomainStatus) -> None:
        self._copies.watch(domain, status)
        self._scrub.look(self.config, status)
        self._note_condition(status)
        self._rpo_file.note(status.rpo_s)
        self.note_alarms()

    def _note_condition(self, status: DomainStatus | None) -> None:
        phase = self._phase
        if status is None or phase.state is not State.OPEN:
            state, why = _CLOSED[phase.state], phase.failure
        else:
            state, why = condition_of(status, self._pause)
        pause = self._pause if state is DomainState.PAUSED else None
        began_ns = time.time_ns() if pause is None else pause.since_ns
        before, self._condition = self._condition, self._condition.then(state, why, began_ns)
        if before.state is not state:
            log.info("domain %s: %s %s", self.config.name, state.value, why, extra=self._fields)

    async def _can_go_on(self, domain: AnyDomain, failure: StoreError) -> bool:
        """Whether the store answers, and holds again what it had lost. Until then the domain's log takes writes."""
        try:
            if isinstance(failure, StoreLost | StoreUnmounted):
                return await domain.is_store_whole()
            return not await store_is_empty(store_of(self.config)) and await domain.is_store_whole()
        except Fenced:
            raise
        except (JetdrError, OSError) as error:
            log.warning("domain %s: its store: %s", self.config.name, error, extra=self._fields)
            return False

    def _reconfigure(self, config: DomainConfig) -> None:
        if config.disk != self.config.disk:
            self.disks.reconfigure(config.disk)
        self._files = KeptFiles(config.config_files)
        self.config = replace(
            self.config,
            rpo_alarm_s=config.rpo_alarm_s,
            create=config.create,
            disk=config.disk,
            config_files=config.config_files,
            credential_file=config.credential_file,
        )
        if self._domain is not None and self._pause is None:
            self._domain.resume()
        self._nudged.set()

    def _why_other_credential(self) -> StoreAway | None:
        """Why the domain is to be opened again: its store refuses, and another credential file has been named."""
        last, file = self._status.value(), self.config.credential_file
        if file == self._credential_file or last is None or not last.value.store_refused:
            return None
        return StoreAway(f"its store refuses: {last.value.store_refused}", hint=f"it is opened again with {file}")

    async def _stopped_within(self, limit_s: float) -> bool:
        """Wait that long, or until the session is to stop or was reconfigured. Whether it is to stop."""
        waiting = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._nudged)]
        await asyncio.wait(waiting, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        self._nudged.clear()
        return self._stopping.is_set()

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the result of ``work``, or None if the session was to stop first."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
        return None if working.cancelled() else working.result()
