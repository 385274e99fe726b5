"""Bypass: logging is off, and guests write to their primaries alone. Switches logging on again when that can last,
as the ladder says.

Invariants: from the moment logging is off the domain is not consistent. Logging is switched on after a GAP_OPEN, in one
step with owing a copy of every disk, so the gap cannot close before all disks are copied. In write-back the host
component has made its bypassed file first, the GAP_OPEN is durable, and the file is removed before logging is on. So
none is made later. If logging goes off meanwhile, all of this is done again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from jetdr_core._core import OffReason, Ring, RingOff
from jetdr_core.control_bodies import GapOpen
from jetdr_core.domain.control_log import ControlLog
from jetdr_core.domain.copies import Copies
from jetdr_core.domain.hosting.bypassed_file import BypassedFile
from jetdr_core.domain.overload import Overload
from jetdr_core.replication_log import ReplicationLog

__all__ = ["Bypass", "log_bypass_gap"]

log_ = logging.getLogger(__name__)

SETTLE_S = 10.0
"""A bypassed file that is missing for so long was removed by an appliance that died before it switched logging on."""

REASONS: dict[int, str] = {
    OffReason.FULL: "ring or log stayed full for the stall limit",
    OffReason.FLUSH: "a flush was not durable in the log within the stall limit",
    OffReason.DISK: "disk {disk} and the log may differ",
    OffReason.DRVA: "the appliance switched logging off",
    OffReason.OVERLOAD: "the log was full, and guests had waited for it as long as they are to (throttle_wait_s)",
}


class Bypass:
    """For the watch's thread; :attr:`why` is for any thread.

    ``because`` says why this process has switched logging off, and is empty if it has not. ``can_upload`` tells whether
    the log will be drained.
    """

    def __init__(
        self,
        name: str,
        ring: Ring,
        log: ReplicationLog,
        control_log: ControlLog,
        copies: Copies,
        bypassed_file: BypassedFile | None,
        *,
        overload: Overload,
        because: str,
        can_upload: Callable[[], bool],
        served_file: BypassedFile | None = None,
    ) -> None:
        self._name = name
        self._ring = ring
        self._log = log
        self._control_log = control_log
        self._copies = copies
        self._bypassed_file = bypassed_file
        self._served_file = served_file
        self._can_upload = can_upload
        self._because = because
        self._overload = overload
        self._times = 0
        self._noticed_s = time.monotonic()

    @property
    def why(self) -> str:
        """Why logging is off, in words. Empty while logging is on."""
        off = self._ring.off()
        return "" if off.logging else self._reason(off)

    def begin(self, reason: str) -> None:
        """Switch logging off, because the ring may lack what reached a primary."""
        self._because = reason
        self._ring.stop_logging()

    def look(self) -> None:
        """Notice that logging is off, and switch it on again when that can last."""
        off = self._ring.off()
        if not off.logging and off.times != self._times:
            self._notice(off)
        is_free = off.logging or self._is_free()
        step = self._overload.look(why_off="" if off.logging else self._reason(off), is_free=is_free)
        if step.may_return:
            self._resume(off)

    def _notice(self, off: RingOff) -> None:
        self._times, self._noticed_s = off.times, time.monotonic()
        log_.warning(
            "domain %s: logging is off, and writes bypass the log: %s",
            self._name,
            self._reason(off),
        )

    def _is_free(self) -> bool:
        ring = self._ring
        if ring.poisoned or self._log.state().failed or not self._can_upload():
            return False
        if not self._is_settled():
            return False
        ring.request_durable(ring.lsn_reserved)
        return ring.lsn_durable >= ring.lsn_reserved and ring.used_bytes < ring.payload_bytes // 2

    def _is_settled(self) -> bool:
        """In write-back, whether the primaries have everything that was logged, and the bypassed file is there.

        What is before the gap is not replayed, and no file may be made once this process has looked.
        """
        if self._bypassed_file is None or not self._ring.host_alive:
            return True
        if self._ring.primaries_lag:
            return False
        return self._bypassed_file.stands or time.monotonic() - self._noticed_s > SETTLE_S

    def _resume(self, off: RingOff) -> None:
        reason = self._reason(off)
        log_bypass_gap(self._control_log, self._bypassed_file, self._served_file, reason, off.since_ns)
        with self._control_log.lock:
            self._ring.resume_logging()
            self._copies.owe_all(reason)
        self._because = ""
        self._overload.resumed()
        log_.warning("domain %s: logging is on again, and what bypassed the log is resynced", self._name)

    def _reason(self, off: RingOff) -> str:
        words = REASONS.get(off.reason, "logging was switched off").format(disk=off.disk)
        return self._because if self._because and off.reason == OffReason.DRVA else words


def log_bypass_gap(
    control_log: ControlLog,
    bypassed_file: BypassedFile | None,
    served_file: BypassedFile | None,
    reason: str,
    since_ns: int,
) -> None:
    """Append a GAP_OPEN: from ``since_ns`` on writes may have bypassed the log. Also in a gap that is open already.

    With a bypassed file, or a served file that stands, the record is durable at return, and the files removed: what is
    before this GAP_OPEN is not replayed over what bypassed the log, and the gap is not owed a second time.
    """
    control_log.append(GapOpen(reason, since_ns if since_ns > 0 else None))
    files = [bypassed_file] if bypassed_file is not None else []
    files += [served_file] if served_file is not None and served_file.stands else []
    if files:
        control_log.make_durable()
    for file in files:
        file.remove()
