"""The DRVA's state as JSON, for the control socket. docs/formats/control.md lists the keys.

Invariants: keys are added, never renamed. No credential appears.
"""

from __future__ import annotations

from dataclasses import asdict

from jetdr_core.catalog import RecoveryPoint, iso_time
from jetdr_core.drva.session_state import SessionView
from jetdr_core.drva.wire import Json
from jetdr_core.store.redaction import redacted

__all__ = ["point_json", "session_json"]


def session_json(view: SessionView) -> Json:
    """Return the view of a domain's session."""
    return {
        "name": view.name,
        "state": view.state.value,
        "since": iso_time(view.since_ns),
        "since_ns": view.since_ns,
        "condition": {
            "state": view.condition.state.value,
            "since": iso_time(view.condition.since_ns),
            "since_ns": view.condition.since_ns,
            "why": redacted(view.condition.why) or None,
        },
        "restarts": view.restarts,
        "paused": view.paused,
        "failure": view.failure or None,
        "alarms": [{"name": alarm.name, "text": _redacted(alarm.text)} for alarm in view.alarms],
        "status": None if view.status is None else _redacted(asdict(view.status)),
        "status_age_s": None if view.status is None else round(view.status_age_s, 3),
    }


def _redacted(value: object) -> object:
    """Return ``value`` without credentials."""
    match value:
        case str():
            return redacted(value)
        case dict():
            return {key: _redacted(item) for key, item in value.items()}
        case list() | tuple():
            return [_redacted(item) for item in value]
    return value


def point_json(point: RecoveryPoint) -> Json:
    return {
        "lsn": point.lsn,
        "time": iso_time(point.time_ns),
        "time_ns": point.time_ns,
        "name": point.name,
        "timeline": point.timeline,
    }
