"""HostedMode: all that a domain has more when its disks are served by a host component.

Invariants: control records that the ring held are in the history before anything is decided on it; what is owed because
a ring is lost stands in the new ring before that has its name, and before the host component is started; the ring is
removed only when log and primaries hold everything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from jetdr_core._core import Ring
from jetdr_core.aio import in_thread
from jetdr_core.domain.control_log import ControlLog, fold_control
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.disk import ProtectedDisk
from jetdr_core.domain.hosting.bypass import Bypass, open_gap
from jetdr_core.domain.hosting.resumption import Resumption
from jetdr_core.domain.hosting.served_disks import DiskServer
from jetdr_core.domain.hosting.watch import Watch
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.domain.status import HostStatus
from jetdr_core.errors import JetdrError
from jetdr_core.host import HostComponent
from jetdr_core.replication_log import Cursor, ReplicationLog

__all__ = ["HostedMode"]

log_ = logging.getLogger(__name__)

CATCH_UP_POLL_S = 0.01
COUNT_S = 0.5
ROOM_LIMIT_S = 3.0
"""With write-back a full log has room within this: the primaries are flushed every second, then it is trimmed."""


class HostedMode:
    """Made with its domain's parts; :meth:`catch_up`, :meth:`begin`, then :meth:`end`."""

    def __init__(
        self,
        component: HostComponent,
        resumption: Resumption,
        ring: Ring,
        log: ReplicationLog,
        source: DurableLog,
        control_log: ControlLog,
        copies: Copies,
        *,
        can_upload: Callable[[], bool],
        owe_copies: Callable[[str], None],
    ) -> None:
        self._resumption = resumption
        self._ring = ring
        self._log = log
        self._source = source
        self._control_log = control_log
        self.serving = DiskServer(component, ring, resumption.place, resumption.marker)
        self._bypass = Bypass(
            component.name,
            ring,
            log,
            control_log,
            resumption.marker,
            because=resumption.stopped,
            can_upload=can_upload,
            owe_copies=owe_copies,
        )
        self.watch = Watch(component.name, ring, self.serving, self._bypass, copies, trim=source.trim)
        self._counting: asyncio.Task[None] | None = None

    # -- begin -------------------------------------------------------------------------------------------------------

    def hold_log(self, uploaded: Cursor) -> None:
        """What :meth:`catch_up` is to read stays in the log; what is ``uploaded`` goes. Before more is."""
        self._source.hold(self._log.outcome.head.lsn)
        self._source.checkpoint(uploaded)

    async def catch_up(self, failure: Callable[[], BaseException | None]) -> None:
        """Bring into the history what the ring held when it was found, on its way through the log.

        Returns when the log holds it; raises what will keep it from that. While the log is full it waits for uploads.
        """
        cursor, lsn = self._log.outcome.head, self._resumption.lsn_kept
        while cursor.lsn < lsn:
            self._raise_if_hopeless(failure())
            await in_thread(self._source.hold, cursor.lsn)
            self._ring.request_durable(lsn)
            cursor = await in_thread(fold_control, self._log, cursor, self._control_log.history)
            await asyncio.sleep(CATCH_UP_POLL_S)
        await in_thread(self._source.hold, None)

    def _raise_if_hopeless(self, failure: BaseException | None) -> None:
        if failure is not None:
            raise failure
        if self._ring.poisoned:
            self._ring.fail(-self._ring.poisoned, "taking over what the ring holds")

    def begin(self, disks: Sequence[ProtectedDisk], time_ns_known: int) -> None:
        """Open the gap that is owed, then see that the host component runs and serves ``disks``."""
        resumption, ring = self._resumption, self._ring
        if resumption.gap:
            marker = resumption.marker if ring.logging else None  # with logging off the bypass sees to it
            open_gap(self._control_log, marker, resumption.gap, time_ns_known + 1)
        resumption.place.publish(self._log.body.epoch)
        lived = ring.host_alive
        try:
            self.serving.begin(disks)
        except (JetdrError, OSError) as error:
            if not lived:
                raise
            log_.error("domain: its host component: %s; trying again", error)  # guests go on meanwhile

    def watch_over(self) -> None:
        """From now on; in the event loop."""
        self.watch.start()
        self._counting = asyncio.create_task(self._count_forever())

    async def _count_forever(self) -> None:
        while True:
            await in_thread(self.serving.take_stats)
            await asyncio.sleep(COUNT_S)

    # -- while it runs -----------------------------------------------------------------------------------------------

    @property
    def why_inconsistent(self) -> str:
        return self._bypass.why

    @property
    def bypassed_s(self) -> float:
        """For how long writes have gone past the log; 0 while logging is on."""
        off = self._ring.off()
        return 0.0 if off.logging else max(0.0, (self._ring.now_ns() - off.since_ns) / 1e9)

    def status(self) -> HostStatus:
        """At this moment; asks nobody."""
        watch, off = self.watch, self._ring.off()
        return HostStatus(
            alive=self._ring.host_alive,
            restarts=watch.host_restarts,
            failure=watch.failure,
            logging=off.logging,
            off_reason=self._bypass.why,
            off_times=off.times,
        )

    @property
    def is_quiet(self) -> bool:
        return self.watch.is_quiet

    # -- end ---------------------------------------------------------------------------------------------------------

    async def stop_watching(self) -> None:
        """The log is still trimmed, until :meth:`stop_trimming`."""
        await asyncio.to_thread(self.watch.close)
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)

    async def stop_trimming(self) -> None:
        await asyncio.to_thread(self.watch.stop)

    def end(self, *, stop_host: bool, limit_s: float) -> bool:
        """Let the host component go on, or end it in order; True if log and primaries then hold everything."""
        ring = self._ring
        try:
            if stop_host:
                if not ring.poisoned:  # with write-back only what is durable reaches the primaries
                    ring.wait_durable(ring.lsn_reserved, limit_s + ROOM_LIMIT_S)
                self.serving.stop()
        finally:
            self.serving.close()
        applied = not ring.write_back or ring.lsn_applied >= ring.lsn_reserved
        return self.serving.host_ended and ring.logging and applied

    def forget_ring(self) -> None:
        """The log was closed clean."""
        self._resumption.place.remove()
