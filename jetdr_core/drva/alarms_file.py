"""AlarmsFile: a domain's alarms, in ``<state_dir>/<domain>/alarms``, for the next run of the DRVA.

An operator who looks in the morning has to learn what came and went in the night, also if the DRVA was restarted since.

Invariants: the file is advisory. One that is missing or damaged says nothing, and one that cannot be written stops
nothing and is tried again. Nobody waits for it, except the end of a session for a moment. It holds no credential.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jetdr_core.drva.alarm_log import AlarmKey, AlarmMemory, AlarmState
from jetdr_core.drva.state_file import StateFile
from jetdr_core.errors import InvalidRequest
from jetdr_core.file_making import told
from jetdr_core.store.redaction import redacted

__all__ = ["AlarmsFile"]

log = logging.getLogger(__name__)

ROWS_MAX = 200
TEXT_LENGTH_MAX = 1000
RETRY_S = 10.0
CLOSE_LIMIT_S = 2.0


class AlarmsFile:
    """For domain ``domain``. Thread-safe."""

    def __init__(self, state_dir: Path, domain: str) -> None:
        self._domain = domain
        self._file = StateFile(
            state_dir, domain, "alarms", says="which alarms there were", remedy="only that is not known"
        )
        self._changed = threading.Condition()
        self._memory: AlarmMemory | None = None  # what is to be written
        self._writing = self._closed = False
        self._failure = ""
        self._thread: threading.Thread | None = None

    def read(self) -> AlarmMemory:
        """Return what the run before remembered. May block."""
        try:
            return self._file.read(_decoded) or AlarmMemory()
        except (InvalidRequest, OSError) as error:
            log.warning("domain %s: earlier alarms are not known: %s", self._domain, told(error))
            return AlarmMemory()

    def keep(self, memory: AlarmMemory) -> None:
        """Have ``memory`` written soon. Does not wait."""
        with self._changed:
            self._memory = memory
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"jetdr-alarms-{self._domain}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Wait a moment until the newest is written. From then on nothing is. Idempotent."""
        with self._changed:
            self._changed.wait_for(lambda: self._failure or (self._memory is None and not self._writing), CLOSE_LIMIT_S)
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (memory := self._take()) is not None:
            failure = self._write(memory)
            with self._changed:
                self._writing = False
                self._failure = failure
                if failure and self._memory is None:
                    self._memory = memory
                self._changed.notify_all()
                if failure:
                    self._changed.wait_for(lambda: self._closed, RETRY_S)

    def _take(self) -> AlarmMemory | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._memory is not None)
            if self._closed:
                return None
            memory, self._memory, self._writing = self._memory, None, True
            return memory

    def _write(self, memory: AlarmMemory) -> str:
        try:
            self._file.write(_encoded(memory))
        except (InvalidRequest, OSError) as error:
            if not self._failure:
                log.warning("domain %s: its alarms are not kept over a restart: %s", self._domain, told(error))
            return told(error)
        return ""


def _encoded(memory: AlarmMemory) -> dict[str, Any]:
    newest = sorted(memory.ended.items(), key=lambda item: -item[1].ended_ns)
    seen = [[*key, event] for key, event in memory.seen_events.items()]
    return {"present": _rows(memory.present.items()), "ended": _rows(newest), "seen": seen[-ROWS_MAX:]}


def _rows(states: Iterable[tuple[AlarmKey, AlarmState]]) -> list[dict[str, Any]]:
    rows = [{"subject": key[1], **asdict(state)} for key, state in states][:ROWS_MAX]
    return [{**row, **{name: redacted(row[name])[:TEXT_LENGTH_MAX] for name in ("text", "subject")}} for row in rows]


def _decoded(content: Any) -> AlarmMemory:
    seen = {(str(name), str(subject)): _number(event) for name, subject, event in content["seen"][:ROWS_MAX]}
    return AlarmMemory(_states(content["present"]), _states(content["ended"]), seen)


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is no time, and no number of an event")
    return value


def _states(rows: Any) -> Mapping[AlarmKey, AlarmState]:
    if not isinstance(rows, list):
        raise ValueError(f"{rows!r} is no list")
    return dict(_state(**row) for row in rows[:ROWS_MAX])


def _state(
    *, subject: str, name: str, text: str, since_ns: int, ended_ns: int, acknowledged: bool, event: int
) -> tuple[AlarmKey, AlarmState]:
    since_ns, ended_ns, event = _number(since_ns), _number(ended_ns), _number(event)
    return (str(name), str(subject)), AlarmState(str(name), str(text), since_ns, ended_ns, bool(acknowledged), event)
