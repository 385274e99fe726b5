"""The DRVA's state as JSON, for the control socket. docs/formats/control.md lists the keys.

Invariants: keys are added, never renamed. No credential appears. What was true once is not under ``status``.
"""

from __future__ import annotations

from dataclasses import asdict

from jetdr_core.catalog import RecoveryPoint, iso_time
from jetdr_core.drva.alarm_log import AlarmState
from jetdr_core.drva.configured_disks import GivenUp
from jetdr_core.drva.pause import Pause
from jetdr_core.drva.scrubbed import Scrubbed
from jetdr_core.drva.session_state import SessionView
from jetdr_core.drva.wire import Json
from jetdr_core.store.redaction import redacted

__all__ = ["alarm_json", "pause_json", "point_json", "session_json"]


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
        "paused": view.pause is not None,
        "pause": None if view.pause is None else pause_json(view.pause),
        "failure": view.failure or None,
        "alarms": [alarm_json(alarm) for alarm in view.alarms],
        "alarms_ended": [alarm_json(alarm) for alarm in view.alarms_ended],
        "status": None if view.status is None else _redacted(asdict(view.status)),
        "rpo_s": view.rpo_s,
        "given_up": [_given_up_json(disk) for disk in view.given_up],
        "verified": _verified_json(view.scrubbed),
        **_last_json(view),
    }


def _last_json(view: SessionView) -> Json:
    """Return what was known last, with its moment."""
    last = view.last
    if last is None:
        return {"status_age_s": None, "as_of": None, "as_of_ns": None, "last_known": None}
    return {
        "status_age_s": round(last.age_s, 3),
        "as_of": iso_time(last.at_ns),
        "as_of_ns": last.at_ns,
        "last_known": None if last.is_present else _redacted(asdict(last.value)),
    }


def pause_json(pause: Pause) -> Json:
    return {"since": pause.since, "since_ns": pause.since_ns, "reason": redacted(pause.reason)}


def _verified_json(found: Scrubbed) -> Json | None:
    """Return the last verified point, and when it was last looked for. None before the first scrub has ended."""
    if not found.ended_ns:
        return None
    return {
        "lsn": found.verified_lsn or None,
        "time": iso_time(found.verified_ns) if found.verified_ns else None,
        "time_ns": found.verified_ns or None,
        "compared": found.compared,
        "ended": iso_time(found.ended_ns),
        "ended_ns": found.ended_ns,
    }


def _given_up_json(disk: GivenUp) -> Json:
    since = {"since": iso_time(disk.since_ns), "since_ns": disk.since_ns}
    return {"disk": disk.name, **since, "done": disk.is_done, "why": redacted(disk.why)}


def alarm_json(alarm: AlarmState) -> Json:
    """Return an alarm. Only one that has ended has an end."""
    told: Json = {
        "name": alarm.name,
        "text": redacted(alarm.text),
        "since": iso_time(alarm.since_ns),
        "since_ns": alarm.since_ns,
    }
    if alarm.ended_ns:
        return told | {"ended": iso_time(alarm.ended_ns), "ended_ns": alarm.ended_ns}
    return told | {"acknowledged": alarm.acknowledged}


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
