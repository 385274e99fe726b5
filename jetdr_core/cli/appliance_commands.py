"""``jetdr mark``, ``protect``, ``pause`` and so on: the commands that a running DRVA carries out.

Invariant: what is printed as done is durable in the domain's log.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from jetdr_core.cli.drva_socket import Domain, Socket, ask
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.shared_options import Json
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import human_bytes
from jetdr_core.drva.client import SOCKET_DEFAULT, ControlClient
from jetdr_core.errors import InvalidRequest

__all__ = [
    "await_upload",
    "grow_disk",
    "keep_config",
    "mark",
    "move_disk",
    "pause",
    "protect",
    "resume",
    "stop_host",
    "unprotect",
]

AWAIT_UPLOAD_S = 2.5
"""So often the DRVA is asked why a mark is not in the store yet. It is less than what a client calls long."""

_SIZE = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,12})?) ?(?P<unit>[KMGT]?)(?P<kind>iB|B)?\Z", re.IGNORECASE)
_UNITS = " KMGT"

Name = Annotated[str, typer.Argument(metavar="NAME", help="The recovery point's name.", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", help="Return once the store holds the mark.")]
DiskName = Annotated[str, typer.Argument(metavar="DISK", help="The disk's name.", show_default=False)]
DiskPath = Annotated[
    Path, typer.Argument(metavar="PATH", help="A raw or flat file, or a block device.", show_default=False)
]
ConfigPath = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file, a .vmx or .nvram for example.", show_default=False)
]
ConfigName = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Its name in a recovery.", show_default="the file's")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why. The status shows it until 'resume'.", show_default=False)
]
Size = Annotated[
    str,
    typer.Option(
        "--size",
        metavar="BYTES",
        help="If the file is missing, make it: 4096, 512M, 1.5G (1024), or 20GB (1000).",
    ),
]


def mark(
    ctx: typer.Context,
    domain: Domain,
    name: Name,
    wait: Wait = False,
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
) -> Work:
    """Name the present moment of a domain as a recovery point."""
    terminal = ctx.ensure_object(Terminal)
    told = "the mark is in the log and will be uploaded"
    return Work(lambda: _mark(terminal, socket, domain, name, wait=wait, as_json=as_json), told if wait else "")


def _mark(terminal: Terminal, socket: Path, domain: str, name: str, *, wait: bool, as_json: bool) -> int:
    with ControlClient(socket) as client:
        answer: Any = client.ask("mark", domain=domain, name=name)
        point = answer["point"]
        if wait:
            await_upload(terminal, client, domain, point["lsn"])
    if as_json:
        terminal.say_json(answer | {"uploaded": wait or None})
    else:
        where = "in the store" if wait else "in the log"
        terminal.say(f"marked {point['name']!r} at LSN {point['lsn']}, {point['time']}, {where}")
    return ExitCode.OK


def await_upload(terminal: Terminal, client: ControlClient, domain: str, lsn: int) -> None:
    """Return once the store holds everything up to ``lsn``. Warn of what stops the upload meanwhile."""
    while not (answer := client.ask("await_upload", domain=domain, lsn=lsn, limit_s=AWAIT_UPLOAD_S))["uploaded"]:
        if answer["paused"]:
            terminal.warn(f"domain {domain!r} is paused: nothing is uploaded until 'jetdr resume {domain}'")
        elif why := answer.get("why"):
            terminal.warn(f"domain {domain!r} waits for its store: {why}")
        else:
            terminal.warn(f"domain {domain!r} is uploading; 'jetdr status {domain}' shows how far")


def protect(
    ctx: typer.Context,
    domain: Domain,
    disk: DiskName,
    path: DiskPath,
    size: Size = "",
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
) -> Work:
    """Protect one more disk. The data it holds is copied in the background; 'jetdr status' shows the progress."""
    terminal = ctx.ensure_object(Terminal)

    def work() -> int:
        size_bytes = _size_bytes(size)
        answer = ask(socket, "protect", domain=domain, disk=disk, path=str(path.absolute()), size_bytes=size_bytes)
        return _say(terminal, answer, _protected, as_json=as_json)

    return Work(work)


def _protected(answer: Any) -> str:
    disk = answer["disk"]
    where = f"; guests reach it at {disk['nbd_uri']}" if "nbd_uri" in disk else ""
    return f"disk {disk['name']} of {human_bytes(disk['size_bytes'])} is protected: {disk['path']}{where}"


def unprotect(
    ctx: typer.Context, domain: Domain, disk: DiskName, socket: Socket = SOCKET_DEFAULT, as_json: Json = False
) -> Work:
    """Stop protecting a disk. Earlier recovery points keep it, and the disk itself is not changed.

    No restart protects it again, even if the configuration names it. 'protect' does.
    """
    terminal = ctx.ensure_object(Terminal)

    def work() -> int:
        answer = ask(socket, "unprotect", domain=domain, disk=disk)
        if answer["configured"]:
            terminal.warn(
                f"the configuration still names disk {disk!r}: remove its [[domain.disk]] there. "
                f"'jetdr protect {domain} {disk} PATH' protects it again"
            )
        told = "is no longer protected" if answer["open"] else "is given up as soon as its domain opens"
        told += f", since {answer['since']}"
        return _say(terminal, answer, lambda _: f"disk {disk} {told}", as_json=as_json)

    return Work(work)


def move_disk(
    ctx: typer.Context,
    domain: Domain,
    disk: DiskName,
    path: DiskPath,
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
) -> Work:
    """Use a disk whose file or device is now at another path, or back at the same one.

    Stop its guest and move the file first: a disk that is well where it was is refused, and so is one that is smaller.
    Neither changes anything. A disk that has failed is served again. All of it is resynced, because nobody knows what
    was done to it on the way, unless PATH is only a new name of the file in use. The new path holds over restarts.
    Correct it in the configuration too: there, any path but the old one is right again.
    """
    terminal = ctx.ensure_object(Terminal)

    def work() -> int:
        answer = ask(socket, "move_disk", domain=domain, disk=disk, path=str(path.absolute()))
        if answer["configured_elsewhere"]:
            terminal.warn(f"the configuration names another path of disk {disk!r}: correct it there too")
        return _say(terminal, answer, _moved, as_json=as_json)

    return Work(work)


def _moved(answer: Any) -> str:
    if not answer["open"]:
        return f"disk {answer['disk']} is expected at {answer['path']}: {answer['resync']}"
    copied = f"; all of it is resynced: {answer['resync']}" if answer["resync"] else "; nothing has to be resynced"
    return f"disk {answer['disk']} is used at {answer['path']}{copied}"


def grow_disk(
    ctx: typer.Context, domain: Domain, disk: DiskName, socket: Socket = SOCKET_DEFAULT, as_json: Json = False
) -> Work:
    """Protect a disk whose file or device was enlarged, in its new size. Guests see that when they connect again.

    Recovery points have the size that was protected at their moment, so a disk never becomes smaller again. An opening
    of the domain takes over the new size by itself.
    """
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _say(terminal, ask(socket, "grow_disk", domain=domain, disk=disk), _grown, as_json=as_json))


def _grown(answer: Any) -> str:
    disk, before, size = answer["disk"], answer["before_bytes"], answer["size_bytes"]
    if size == before:
        return f"disk {disk} has not grown: {human_bytes(size)}"
    copied = "; its new end holds data, which is copied" if answer["resync"] else ""
    grown = f"disk {disk} grew from {human_bytes(before)} to {human_bytes(size)}"
    return f"{grown}{copied}; guests see it when they connect again"


def keep_config(
    ctx: typer.Context,
    domain: Domain,
    path: ConfigPath,
    name: ConfigName = "",
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
) -> Work:
    """Keep a configuration file of the domain's machines. A recovery writes it beside the disks."""
    terminal = ctx.ensure_object(Terminal)

    def work() -> int:
        answer = ask(socket, "keep_config", domain=domain, path=str(path.absolute()), name=name or None)
        return _say(terminal, answer, _kept, as_json=as_json)

    return Work(work)


def _kept(answer: Any) -> str:
    return f"{answer['name']!r} of {human_bytes(answer['size_bytes'])} is kept from LSN {answer['lsn']} on"


def pause(
    ctx: typer.Context, domain: Domain, reason: Reason = "", socket: Socket = SOCKET_DEFAULT, as_json: Json = False
) -> Work:
    """Stop uploading a domain until 'resume', over every restart. Its log takes writes until it is full."""
    terminal = ctx.ensure_object(Terminal)

    def work() -> int:
        answer = ask(socket, "pause", domain=domain, reason=reason)
        told = f"domain {domain} is paused since {answer['since']}: its log takes writes until it is full"
        return _say(terminal, answer, lambda _: told, as_json=as_json)

    return Work(work)


def resume(ctx: typer.Context, domain: Domain, socket: Socket = SOCKET_DEFAULT, as_json: Json = False) -> Work:
    """Resume uploading a domain after 'pause'."""
    terminal = ctx.ensure_object(Terminal)
    told = f"domain {domain} uploads again"
    return Work(lambda: _say(terminal, ask(socket, "resume", domain=domain), lambda _: told, as_json=as_json))


def stop_host(ctx: typer.Context, domain: Domain, socket: Socket = SOCKET_DEFAULT, as_json: Json = False) -> Work:
    """End the host component of a domain that is not configured any more. Its guests lose their disks."""
    terminal = ctx.ensure_object(Terminal)
    told = f"the host component of domain {domain} has ended"
    return Work(lambda: _say(terminal, ask(socket, "stop_host", domain=domain), lambda _: told, as_json=as_json))


def _say(terminal: Terminal, answer: Any, text: Callable[[Any], str], *, as_json: bool) -> int:
    if as_json:
        terminal.say_json(answer)
    else:
        terminal.say(text(answer))
    return ExitCode.OK


def _size_bytes(size: str) -> int | None:
    if not size:
        return None
    found = _SIZE.match(size)
    if found is None:
        raise InvalidRequest(
            f"--size {size!r} is not a size",
            hint="give bytes, or a number with K, M, G, T (1024) or KB, MB, GB, TB (1000)",
        )
    is_decimal = found["unit"] and (found["kind"] or "").upper() == "B"
    size_bytes = Fraction(found["number"]) * (1000 if is_decimal else 1024) ** _UNITS.index(
        found["unit"].upper() or " "
    )
    if size_bytes.denominator != 1:
        raise InvalidRequest(f"--size {size!r} is no whole number of bytes", hint="give bytes")
    return int(size_bytes)
