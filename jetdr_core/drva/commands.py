"""Commands: carries out what the control socket asks for. docs/formats/control.md.

Invariants: a command runs in the session of its domain, so a domain that waits holds up no other domain. A command
continues if its client has gone away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jetdr_core.aio import shielded
from jetdr_core.domain import HostedDisk
from jetdr_core.drva.alarm_log import Acknowledged
from jetdr_core.drva.config import DiskConfig
from jetdr_core.drva.kept_files import read_config_file
from jetdr_core.drva.last_status import ANSWER_S
from jetdr_core.drva.session import DomainSession
from jetdr_core.drva.session_json import pause_json, point_json, session_json
from jetdr_core.drva.unconfigured_hosts import UnconfiguredHosts
from jetdr_core.drva.wire import ControlRequest, Json
from jetdr_core.errors import InvalidRequest, JetdrError
from jetdr_core.identity import check_name
from jetdr_core.store.redaction import redacted

__all__ = ["Commands"]

AWAIT_UPLOAD_S_MAX = 30.0


class Commands:
    """Answers requests. ``about`` describes the process itself."""

    def __init__(
        self,
        sessions: Mapping[str, DomainSession],
        about: Callable[[], Json],
        unconfigured: UnconfiguredHosts,
        acknowledge: Callable[[str | None, str | None], Acknowledged],
    ) -> None:
        self._sessions = sessions
        self._about = about
        self._unconfigured = unconfigured
        self._acknowledge = acknowledge

    async def answer(self, request: ControlRequest) -> Json:
        """Carry out the request and return its result. Raises what the domain raises."""
        if request.command == "status":
            _check_arguments(request, ["domain"])
            return await self._status(request.text("domain"))
        if request.command == "stop_host":
            _check_arguments(request, ["domain"])
            return await self._stop_host(request.needed_text("domain"))
        if request.command == "acknowledge":
            _check_arguments(request, ["domain", "alarm"])
            name = request.text("domain")
            domain = None if name is None else self._session(name).config.name
            found = self._acknowledge(domain, request.text("alarm"))
            which = {"over": list(found.over), "present": list(found.present)}
            return {"domain": domain, "acknowledged": found.count, **which}
        if request.command not in _COMMANDS:
            known = ", ".join(sorted(["acknowledge", "status", "stop_host", *_COMMANDS]))
            raise InvalidRequest(f"there is no command {request.command!r}", hint=f"there are: {known}")
        command, arguments = _COMMANDS[request.command]
        _check_arguments(request, ["domain", *arguments])
        session = self._session(request.needed_text("domain"))
        return {"domain": session.config.name, **await _in(session, command(session, request))}

    async def _status(self, name: str | None) -> Json:
        wanted = list(self._sessions.values()) if name is None else [self._session(name)]
        await asyncio.gather(*(_refreshed(session) for session in wanted))
        return {"drva": self._about(), "domains": [session_json(session.view()) for session in wanted]}

    async def _stop_host(self, domain: str) -> Json:
        """End the host component of a domain that is not configured. Done once its process has ended."""
        host = await shielded(asyncio.ensure_future(asyncio.to_thread(self._unconfigured.stop, domain)))
        return {"domain": domain, "pid": host.pid}

    def _session(self, name: str) -> DomainSession:
        if name not in self._sessions:
            raise InvalidRequest(f"this DRVA has no domain {name!r}", hint=f"it has: {', '.join(self._sessions)}")
        return self._sessions[name]


# -- in the session's loop -------------------------------------------------------------------------------------------


async def _mark(session: DomainSession, request: ControlRequest) -> Json:
    """Set a mark. It is durable in the log at return."""
    domain = session.domain
    point = await asyncio.to_thread(domain.mark, request.needed_text("name"))
    await domain.make_durable()
    return {"point": point_json(point)}


async def _await_upload(session: DomainSession, request: ControlRequest) -> Json:
    """Seal pending records, and wait at most ``limit_s`` until the store has them and was seen to hold the chain."""
    domain, lsn = session.domain, request.needed_whole("lsn")
    limit_s = request.number("limit_s", 10.0, AWAIT_UPLOAD_S_MAX)
    uploaded = False
    with suppress(TimeoutError):
        await asyncio.wait_for(domain.held(lsn), limit_s)
        uploaded = True
    status = await asyncio.to_thread(domain.status)
    why = "" if uploaded else status.failure or status.store_refused or status.store_away
    return {"uploaded": uploaded, "lsn_uploaded": status.lsn_uploaded, "paused": status.paused, "why": redacted(why)}


async def _protect(session: DomainSession, request: ControlRequest) -> Json:
    """Protect a disk. That is durable in the log at return. The initial copy runs in the background."""
    path, size_bytes = request.needed_text("path"), request.whole("size_bytes")
    if not Path(path).is_absolute() or "\0" in path:
        raise InvalidRequest(f"the disk's path {path!r} is not absolute", hint="give a path that begins with /")
    wanted = DiskConfig(name=check_name("disk", request.needed_text("disk")), path=path, size_bytes=size_bytes)
    disk = await session.disks.add(session.domain, wanted)
    told: Json = {"name": disk.name, "path": disk.path, "size_bytes": disk.size_bytes}
    return {"disk": told | ({"nbd_uri": disk.nbd_uri} if isinstance(disk, HostedDisk) else {})}


async def _unprotect(session: DomainSession, request: ControlRequest) -> Json:
    """Stop protecting a disk. ``configured``: the configuration names it, and still does not protect it again.

    Of a closed domain that is noted, durably. It is opened at once, and the disk is given up then.
    """
    name, is_open = check_name("disk", request.needed_text("disk")), session.is_open
    if is_open:
        given_up = await session.disks.give_up(session.domain, name)
        is_open = not session.disks.is_leaving(name)
    else:
        given_up = await session.disks.give_up_closed(name)
        session.hurry_opening()
    configured = any(disk.name == name for disk in session.config.disk)
    since = {"since": given_up.since, "since_ns": given_up.since_ns}
    return {"disk": name, "open": is_open, "configured": configured, **since}


async def _move_disk(session: DomainSession, request: ControlRequest) -> Json:
    """Go on with a disk at another place. ``resync`` says why all of it is copied, and is empty if it is not.

    Of a closed domain the place is noted, and the domain is opened again at once.
    """
    name, path = check_name("disk", request.needed_text("disk")), request.needed_text("path")
    if not Path(path).is_absolute() or "\0" in path:
        raise InvalidRequest(f"the disk's path {path!r} is not absolute", hint="give a path that begins with /")
    is_open = session.is_open
    if is_open:
        why = await session.disks.move(session.domain, name, path)
    else:
        why = f"the domain is {session.view().state.value}, and looks at the disk when it opens"
        await session.disks.move_closed(name, path)
        session.hurry_opening()
    elsewhere = session.disks.is_configured_elsewhere(name, path)
    return {"disk": name, "path": path, "open": is_open, "resync": why, "configured_elsewhere": elsewhere}


async def _grow_disk(session: DomainSession, request: ControlRequest) -> Json:
    """Protect and serve what a disk has grown by. That is durable in the log at return."""
    domain, name = session.domain, request.needed_text("disk")
    before = domain.disk(name).size_bytes
    why = await domain.grow_disk(name)
    return {"disk": name, "before_bytes": before, "size_bytes": domain.disk(name).size_bytes, "resync": why}


async def _copy_extents(session: DomainSession, request: ControlRequest) -> Json:
    """Log what a disk holds in some extents once more. That is in the log at return."""
    name, extents = check_name("disk", request.needed_text("disk")), request.extents("extents")
    lsn = await session.domain.copy_extents(name, extents)
    return {"disk": name, "lsn": lsn, "copied_bytes": sum(length for _, length in extents)}


async def _keep_config(session: DomainSession, request: ControlRequest) -> Json:
    """Keep a configuration file. It is durable in the log at return."""
    domain, path = session.domain, request.needed_text("path")
    content = await asyncio.to_thread(read_config_file, path)
    name = request.text("name") or Path(path).name
    lsn = await asyncio.to_thread(domain.store_config, name, content)
    await domain.make_durable()
    return {"name": name, "size_bytes": len(content), "lsn": lsn}


async def _pause(session: DomainSession, request: ControlRequest) -> Json:
    """Upload nothing until :func:`_resume`. That is kept, durably, at return."""
    return {"paused": True, **pause_json(await session.pause(request.text("reason") or ""))}


async def _resume(session: DomainSession, _request: ControlRequest) -> Json:
    await session.resume()
    return {"paused": False}


_COMMANDS: dict[str, tuple[Callable[[DomainSession, ControlRequest], Coroutine[Any, Any, Json]], list[str]]] = {
    "mark": (_mark, ["name"]),
    "await_upload": (_await_upload, ["lsn", "limit_s"]),
    "protect": (_protect, ["disk", "path", "size_bytes"]),
    "unprotect": (_unprotect, ["disk"]),
    "move_disk": (_move_disk, ["disk", "path"]),
    "grow_disk": (_grow_disk, ["disk"]),
    "copy_extents": (_copy_extents, ["disk", "extents"]),
    "keep_config": (_keep_config, ["path", "name"]),
    "pause": (_pause, ["reason"]),
    "resume": (_resume, []),
}
"""The commands for one domain, with the arguments beside the domain's name."""


def _check_arguments(request: ControlRequest, known: Iterable[str]) -> None:
    unknown = request.arguments.keys() - set(known)
    if unknown:
        raise InvalidRequest(
            f"command {request.command!r} has no argument {min(unknown)!r}", hint=f"it has: {', '.join(known)}"
        )


async def _in(session: DomainSession, work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` in the session's loop. It goes on if the caller stops waiting."""
    return await shielded(session.run(work))


async def _refreshed(session: DomainSession) -> None:
    """Take a new status. An error here is ignored: the session meets the same error, and reports it."""
    with suppress(JetdrError, OSError):
        await asyncio.wait_for(_in(session, session.refresh()), 2 * ANSWER_S)
