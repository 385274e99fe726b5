"""How the status of a DRVA looks to a person: in full, or one line per domain.

Invariant: what is not known at present is left out, or says as of when it was known.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jetdr_core.catalog import iso_time
from jetdr_core.cli.terminal import Terminal
from jetdr_core.cli.words import human_bytes, human_seconds, plural
from jetdr_core.drva.as_of import is_present

__all__ = ["COLUMNS", "domain_row", "show_drva", "summary_line"]

COLUMNS = ("domain", "state", ">RPO", ">LSN", ">uploaded", ">log", ">writes", ">written", "consistent", "alarms")
"""The columns of :func:`domain_row`."""


def show_drva(terminal: Terminal, answer: Any) -> None:
    """Print everything, domain by domain."""
    drva = answer["drva"]
    stopping = ", stopping" if drva["stopping"] else ""
    terminal.say(f"DRVA {drva['version']}, process {drva['pid']}, since {drva['started']}{stopping}", style="bold")
    for alarm in drva["alarms"]:
        terminal.say(f"  {'ALARM':<14}{alarm['name']}: {alarm['text']}", style="red")
    for domain in answer["domains"]:
        terminal.say(f"domain {domain['name']}: {domain['state']}, since {domain['since']}", style="bold")
        for name, value in _facts(domain):
            terminal.say(f"  {name:<14}{value}")
        for alarm in domain["alarms"]:
            terminal.say(f"  {'ALARM':<14}{alarm['name']}: {alarm['text']}", style="red")
        for alarm in domain.get("alarms_ended", []):
            terminal.say(f"  {'ended alarm':<14}{alarm['name']}, {alarm['since']} to {alarm['ended']}: {alarm['text']}")


def domain_row(domain: Any) -> tuple[str, ...]:
    """Return a domain as the row of a table."""
    status, alarms = domain["status"], ", ".join(alarm["name"] for alarm in domain["alarms"])
    if status is None:
        rpo = "" if domain["rpo_s"] is None else human_seconds(domain["rpo_s"])
        return (domain["name"], f"{domain['state']}, {_as_of(domain)}", rpo, *[""] * 6, alarms)
    return (
        domain["name"],
        domain["state"],
        human_seconds(domain["rpo_s"]),
        f"{status['lsn_reserved']:,}",
        f"{status['lsn_uploaded']:,}",
        _percent(status["log_used_bytes"], status["log_bytes"]),
        f"{sum(disk['writes'] for disk in status['disks']):,}",
        human_bytes(sum(disk["write_bytes"] for disk in status["disks"])),
        "yes" if status["consistent"] else "no",
        alarms,
    )


def summary_line(domain: Any) -> str:
    """Return a domain as one line for a log."""
    cells = zip((name.lstrip(">") for name in COLUMNS), domain_row(domain), strict=True)
    (_, name), *rest = cells
    return f"{name}: " + ", ".join(f"{what} {value}" for what, value in rest if value)


def _as_of(domain: Any) -> str:
    """Return when the last status was taken, in words."""
    age_s = domain["status_age_s"]
    return "nothing known yet" if age_s is None else f"as of {human_seconds(age_s)} ago"


def _facts(domain: Any) -> Iterator[tuple[str, str]]:
    if condition := domain.get("condition"):
        why = f": {condition['why']}" if condition["why"] else ""
        yield "state", f"{condition['state']} since {condition['since']}{why}"
    if domain["restarts"]:
        yield "restarts", f"{domain['restarts']}"
    if domain["rpo_s"] is not None:
        yield "store lags", human_seconds(domain["rpo_s"])
    yield "verified", _verified(domain.get("verified"))
    if pause := domain.get("pause"):
        yield "paused", f"since {pause['since']}{': ' if pause['reason'] else ''}{pause['reason']}"
    for disk in domain.get("given_up", []):
        yield "given up", f"disk {disk['disk']} since {disk['since']}: {disk['why']}"
    if domain["status"] is not None:
        yield from _facts_of(domain["status"])
    elif domain["last_known"] is None:
        yield "status", "nothing is known yet"
    else:
        yield "status", f"not known; the last one is of {domain['as_of']}"
        yield from ((name, f"{value}, {_as_of(domain)}") for name, value in _facts_of(domain["last_known"]))


def _verified(found: Any) -> str:
    if found is None:
        return "nothing yet: no digests were compared since the start"
    point = f"LSN {found['lsn']} at {found['time']}" if found["lsn"] else "no point"
    return f"{point}; {plural(found['compared'], 'extent')} compared at {found['ended']}"


def _facts_of(status: Any) -> Iterator[tuple[str, str]]:
    yield "store", f"{status['store']}, epoch {status['epoch']}, timeline {status['timeline']}"
    if not status.get("joined", True):
        yield "NOT joined", f"nothing is uploaded since {iso_time(status['unjoined_since_ns'])}: {status['store_away']}"
    elif status.get("store_refused"):
        since = iso_time(status["store_refused_since_ns"])
        yield "REFUSED", f"nothing is uploaded since {since}, and it is tried again: {status['store_refused']}"
    yield "consistent", "yes" if status["consistent"] else f"no: {status['why_inconsistent']}"
    yield "history", f"LSN {status['lsn_reserved']}, durable {status['lsn_durable']}, {_to_upload(status)}"
    yield "log", f"{human_bytes(status['log_used_bytes'])} of {human_bytes(status['log_bytes'])} used"
    yield "uploaded", _uploaded(status)
    if (host := status.get("host")) is not None:
        yield "host", _host(host)
    for disk in status["disks"]:
        yield "disk", _disk(disk, status.get("host"))


def _to_upload(status: Any) -> str:
    lag = status["lsn_reserved"] - status["lsn_uploaded"]
    return "what the store holds is not known" if status["store_lost"] else f"{plural(lag, 'LSN')} to upload"


def _uploaded(status: Any) -> str:
    payload, stored = status["payload_bytes_uploaded"], status["stored_bytes_uploaded"]
    ratio = f" (ratio {payload / stored:.1f})" if stored else ""
    said = f"{plural(status['segments_uploaded'], 'segment')}, {human_bytes(stored)}{ratio}"
    if status["store_unseen_s"] is not None:
        said += f"; the store was seen whole {human_seconds(status['store_unseen_s'])} ago"
    return f"{said}; proven up to {iso_time(status['proven_ns'])}" if status["proven_ns"] else said


def _host(host: Any) -> str:
    logging = "logging" if host["logging"] else f"NOT logging: {host['off_reason']}"
    return ("runs, " if host["alive"] else "does not run, ") + logging


def _disk(disk: Any, host: Any) -> str:
    said = f"{disk['name']} ({human_bytes(disk['size_bytes'])}) {disk['path']}: {plural(disk['writes'], 'write')}"
    if host is not None and not is_present(host["counted_age_s"]):
        age_s = host["counted_age_s"]
        said += " (not reported yet)" if age_s is None else f" (as of {human_seconds(age_s)} ago)"
    if disk.get("nbd_uri"):
        said += f", {disk['nbd_uri']}"
    if disk["copy_bytes"] > disk["copied_bytes"]:
        said += f", copied {_percent(disk['copied_bytes'], disk['copy_bytes'])}"
    if disk["fault"]:
        return f"{said}, failed: {disk['fault']['reason']}"
    return said if disk["ready"] else f"{said}, not ready"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part // whole} %" if whole else "0 %"
