"""Commands: what the control socket can ask for, done on the sessions. docs/formats/control.md.

Invariants: a command works in its domain's session, so one domain's wait is no other's; a command whose client went
away is done all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jetdr_core.aio import shielded
from jetdr_core.domain import HostedDisk
from jetdr_core.drva.last_status import ANSWER_S
from jetdr_core.drva.session import DomainSession
from jetdr_core.drva.session_json import point_json, session_json
from jetdr_core.drva.wire import Json, Request
from jetdr_core.errors import InvalidRequest, JetdrError

__all__ = ["Commands"]

AWAIT_UPLOAD_S_MAX = 30.0


class Commands:
    """Answers requests. ``about`` tells of the process itself."""

    def __init__(self, sessions: Mapping[str, DomainSession], about: Callable[[], Json]) -> None:
        self._sessions = sessions
        self._about = about

    async def answer(self, request: Request) -> Json:
        """Do what the request says. Raises what the domain raises."""
        if request.command == "status":
            _check_arguments(request, ["domain"])
            return await self._status(request.text("domain"))
        if request.command not in _COMMANDS:
            known = ", ".join(sorted(["status", *_COMMANDS]))
            raise InvalidRequest(f"the command {request.command!r} is not known", hint=f"known: {known}")
        command, arguments = _COMMANDS[request.command]
        _check_arguments(request, ["domain", *arguments])
        session = self._session(request.needed_text("domain"))
        return {"domain": session.config.name, **await _in(session, command(session, request))}

    async def _status(self, name: str | None) -> Json:
        wanted = list(self._sessions.values()) if name is None else [self._session(name)]
        await asyncio.gather(*(_refreshed(session) for session in wanted))
        return {"drva": self._about(), "domains": [session_json(session.view()) for session in wanted]}

    def _session(self, name: str) -> DomainSession:
        if name not in self._sessions:
            raise InvalidRequest(f"this DRVA has no domain {name!r}", hint=f"it has: {', '.join(self._sessions)}")
        return self._sessions[name]


# -- in the session's loop -------------------------------------------------------------------------------------------


async def _mark(session: DomainSession, request: Request) -> Json:
    """Durable in the log when answered."""
    domain = session.domain
    point = await asyncio.to_thread(domain.mark, request.needed_text("name"))
    await domain.make_durable()
    return {"point": point_json(point)}


async def _await_upload(session: DomainSession, request: Request) -> Json:
    """Seal what is pending, and wait a while for the store to have it."""
    domain, lsn = session.domain, request.needed_whole("lsn")
    limit_s = request.number("limit_s", 10.0, AWAIT_UPLOAD_S_MAX)
    with suppress(TimeoutError):
        await asyncio.wait_for(domain.uploaded(lsn), limit_s)
    status = await asyncio.to_thread(domain.status)
    return {"uploaded": status.lsn_uploaded >= lsn, "lsn_uploaded": status.lsn_uploaded, "paused": status.paused}


async def _protect(session: DomainSession, request: Request) -> Json:
    """Durable in the log when answered; what the disk holds is copied meanwhile."""
    path, size_bytes = request.needed_text("path"), request.whole("size_bytes")
    if not Path(path).is_absolute() or "\0" in path:
        raise InvalidRequest(f"the disk's path {path!r} is not absolute", hint="write it from / on")
    disk = await session.domain.protect(request.needed_text("disk"), path, size_bytes=size_bytes, wait=False)
    told: Json = {"name": disk.name, "path": disk.path, "size_bytes": disk.size_bytes}
    return {"disk": told | ({"nbd_uri": disk.nbd_uri} if isinstance(disk, HostedDisk) else {})}


async def _unprotect(session: DomainSession, request: Request) -> Json:
    """``configured``: the configuration names the disk, so the next start protects it again."""
    name = request.needed_text("disk")
    await session.domain.unprotect(name)
    return {"disk": name, "configured": any(disk.name == name for disk in session.config.disk)}


async def _pause(session: DomainSession, _request: Request) -> Json:
    await session.pause()
    return {"paused": True}


async def _resume(session: DomainSession, _request: Request) -> Json:
    await session.resume()
    return {"paused": False}


_COMMANDS: dict[str, tuple[Callable[[DomainSession, Request], Coroutine[Any, Any, Json]], list[str]]] = {
    "mark": (_mark, ["name"]),
    "await_upload": (_await_upload, ["lsn", "limit_s"]),
    "protect": (_protect, ["disk", "path", "size_bytes"]),
    "unprotect": (_unprotect, ["disk"]),
    "pause": (_pause, []),
    "resume": (_resume, []),
}
"""What is asked of one domain, with the arguments beside its name."""


def _check_arguments(request: Request, known: Iterable[str]) -> None:
    unknown = request.arguments.keys() - set(known)
    if unknown:
        raise InvalidRequest(
            f"command {request.command!r} knows no {min(unknown)!r}", hint=f"known: {', '.join(known)}"
        )


async def _in(session: DomainSession, work: Coroutine[Any, Any, Any]) -> Any:
    """Run ``work`` in the session's loop. When the asker stops waiting it goes on."""
    return await shielded(session.run(work))


async def _refreshed(session: DomainSession) -> None:
    """The newest status there is; what keeps a domain from telling it, the session meets and tells itself."""
    with suppress(JetdrError, OSError):
        await asyncio.wait_for(_in(session, session.refresh()), 2 * ANSWER_S)
