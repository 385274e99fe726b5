"""The priority of threads that prepare uploads: lower than that of everything that a guest waits for."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

__all__ = ["yield_to_guests"]

NICE_MORE = 10
"""The thread gets about a tenth of the share of a thread with usual priority."""
NICE_MAX = 19


def yield_to_guests() -> None:
    """Lower the calling thread's priority for good. A system that refuses that gets its uploads all the same."""
    thread = threading.get_native_id()
    with suppress(OSError):
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(NICE_MAX, nice + NICE_MORE))
