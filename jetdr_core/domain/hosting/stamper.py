"""Stamper: brings the stamps of the primaries to the generation that they are served under, while they are served.

A stamp is a write to the file system of a primary, and a primary that hangs does not answer it. Guests of the other
disks must not wait for that. So the state folder notes before the log is drained which primaries are not stamped yet,
and believes an older stamp of those alone.

Invariants: nobody waits for a stamp, except the end of the domain for a moment. After :meth:`Stamper.close` no stamp is
begun. A primary that takes no stamp is reported, and served.
"""

from __future__ import annotations

import logging
import threading
import time

from jetdr_core.domain.hosting.witnesses import Witnesses
from jetdr_core.errors import JetdrError
from jetdr_core.file_making import told

__all__ = ["Stamper"]

log_ = logging.getLogger(__name__)

THREADS_MAX = 8
"""So many primaries but one may hang before the others wait for their stamps."""

PATIENCE_S = 10.0
"""A primary that does not answer for so long is reported."""

CLOSE_LIMIT_S = 2.0


class Stamper:
    """For the primaries of one domain."""

    def __init__(self, name: str, witnesses: Witnesses) -> None:
        self._name = name
        self._witnesses = witnesses
        self._waiting = list(reversed(witnesses.unstamped))
        self._begun_s: dict[str, float] = {}
        self._failures: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closing = False
        threads = min(THREADS_MAX, len(self._waiting))
        self._threads = [
            threading.Thread(target=self._run, name=f"jetdr-stamp-{name}", daemon=True) for _ in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Begin no further stamp, and wait a moment for those in flight. Idempotent."""
        with self._lock:
            self._closing = True
        self._witnesses.end_stamps()
        deadline = time.monotonic() + CLOSE_LIMIT_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def failure(self) -> str:
        """Which primaries have not taken their stamps, and why. Empty if there are none."""
        with self._lock:
            late_s = time.monotonic() - PATIENCE_S
            late = [path for path, begun_s in self._begun_s.items() if begun_s < late_s]
            reasons = [*self._failures.values(), *(f"{path} does not answer" for path in late)]
        return "; ".join(reasons)

    def _run(self) -> None:
        while (path := self._take()) is not None:
            failure = self._stamp(path)
            with self._lock:
                del self._begun_s[path]
                if failure:
                    self._failures[path] = failure
                is_last = not self._waiting
            if failure:
                log_.warning("domain %s: a disk is served without its stamp: %s", self._name, failure)
            if is_last:
                self._note()

    def _take(self) -> str | None:
        with self._lock:
            if self._closing or not self._waiting:
                return None
            path = self._waiting.pop()
            self._begun_s[path] = time.monotonic()
            return path

    def _stamp(self, path: str) -> str:
        """Stamp one primary. Returns why it was not; empty if it was."""
        try:
            self._witnesses.stamp(path)
        except (JetdrError, OSError) as error:
            return told(error)
        return ""

    def _note(self) -> None:
        try:
            self._witnesses.note_stamps()
        except (JetdrError, OSError) as error:
            log_.warning("domain %s: which disks are stamped cannot be noted: %s", self._name, error)
