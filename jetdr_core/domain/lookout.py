"""Lookout: a thread that looks once a second for what makes no call fail: lost files, a log that hangs, a state folder.

Invariants: nobody waits for it, because what it looks at may hang. A look that fails stops no other look.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

__all__ = ["Lookout"]

log_ = logging.getLogger(__name__)

LOOK_S = 1.0
CLOSE_LIMIT_S = 2.0


class Lookout:
    """Takes the ``looks`` in turn, for domain ``name``."""

    def __init__(self, name: str, looks: Sequence[Callable[[], object]]) -> None:
        self._name = name
        self._looks = looks
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"jetdr-lookout-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no further look, and wait a moment for the one in progress. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_LIMIT_S)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            for look in self._looks:
                try:
                    look()
                except Exception:
                    log_.exception("domain %s: a look failed", self._name)
