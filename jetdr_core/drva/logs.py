"""Structured logs on stderr: one line per event, as JSON or as key=value.

Invariant: no line holds a credential.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jetdr_core.catalog import iso_time
from jetdr_core.store.redaction import redacted

__all__ = ["LineFormatter", "logging_to_stderr"]

FIELDS = ("domain",)
"""What an event may carry beside its message (``extra=``)."""

_QUIET = ("azure", "urllib3", "asyncio", "aiohttp")
"""These report in many lines what our errors say in one."""


class LineFormatter(logging.Formatter):
    """``{"time": …, "level": …, "logger": …, "message": …}`` or the same as ``time=… level=…``."""

    def __init__(self, *, as_json: bool, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._as_json = as_json
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        event = {
            "time": iso_time(int(record.created * 1e9)),
            "level": record.levelname.lower(),
            "logger": record.name,
            **{name: str(record.__dict__[name]) for name in FIELDS if name in record.__dict__},
            "message": redacted(record.getMessage(), self._secrets),
        }
        if record.exc_info:
            event["traceback"] = redacted(self.formatException(record.exc_info), self._secrets)
        if self._as_json:
            return json.dumps(event)
        return " ".join(f"{name}={_quoted(value)}" for name, value in event.items())


@contextmanager
def logging_to_stderr(level: str, *, as_json: bool, secrets: Sequence[str] = ()) -> Iterator[None]:
    """Send all logs of the process to stderr, and nowhere else, inside the context."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(as_json=as_json, secrets=secrets))
    root = logging.getLogger()
    handlers_before = root.handlers[:]
    levels_before = {logger: logger.level for logger in (root, *map(logging.getLogger, _QUIET))}
    root.handlers[:] = [handler]
    for logger in levels_before:
        logger.setLevel(logging.WARNING)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers[:] = handlers_before
        for logger, level_before in levels_before.items():
            logger.setLevel(level_before)


def _quoted(value: str) -> str:
    plain = value.isprintable() and value and not set(value) & set(' "=\\')
    return value if plain else json.dumps(value)
