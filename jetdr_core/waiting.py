"""``told_if_long``: whoever waits for something that does not answer hears what it is, before the wait ends.

A wait has a limit, but a limit of half a minute is half a minute of silence. So a blocking call that a person or an
appliance waits for says after a few seconds what it waits for. Waits for a store are told by its retries, which know
the reason (:mod:`jetdr_core.store.retry`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["TOLD_AFTER_S", "told_if_long"]

TOLD_AFTER_S = 3.0

log = logging.getLogger(__name__)


@contextmanager
def told_if_long(what: str, *, after_s: float | None = None) -> Iterator[None]:
    """Log that ``what`` has not answered yet, if the body takes longer than that, and log its end then."""
    begun_s, limit_s = time.monotonic(), TOLD_AFTER_S if after_s is None else after_s
    told = threading.Event()

    def tell() -> None:
        told.set()
        log.warning("%s has not answered for %.0f s, and is waited for", what, limit_s)

    timer = threading.Timer(limit_s, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if told.is_set():
            log.info("%s is waited for no longer, after %.0f s", what, time.monotonic() - begun_s)
