"""``jetdr alarms`` and ``jetdr acknowledge``: what is and was wrong, and that a person has seen it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jetdr_core.cli.drva_socket import Socket, ask
from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.shared_options import Json
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import plural
from jetdr_core.drva.client import SOCKET_DEFAULT

__all__ = ["acknowledge", "alarms"]

AnyDomain = Annotated[
    str, typer.Argument(metavar="[DOMAIN]", help="A domain of the DRVA.", show_default="all, and the DRVA itself")
]
AnyAlarm = Annotated[str, typer.Argument(metavar="[ALARM]", help="Its name.", show_default="all of them")]


def alarms(ctx: typer.Context, domain: AnyDomain = "", socket: Socket = SOCKET_DEFAULT, as_json: Json = False) -> Work:
    """List alarms, and those that have ended and were not acknowledged."""
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _alarms(terminal, ask(socket, "status", domain=domain or None), domain, as_json=as_json))


def _alarms(terminal: Terminal, answer: Any, domain: str, *, as_json: bool) -> int:
    places = [(one["name"], one) for one in answer["domains"]]
    if not domain:
        places.insert(0, ("(DRVA)", answer["drva"]))
    listed = [{"domain": name, **alarm} for name, of in places for alarm in [*of["alarms"], *of["alarms_ended"]]]
    if as_json:
        terminal.say_json(listed)
    elif listed:
        rows = [(one["domain"], one["name"], one["since"], _how(one), one["text"]) for one in listed]
        terminal.say_table(("domain", "alarm", "since", "state", "text"), rows)
    else:
        terminal.say("no alarm")
    return ExitCode.OK


def _how(alarm: Any) -> str:
    if alarm.get("ended"):
        return f"ended {alarm['ended']}"
    return "present, acknowledged" if alarm["acknowledged"] else "present"


def acknowledge(
    ctx: typer.Context,
    domain: AnyDomain = "",
    alarm: AnyAlarm = "",
    socket: Socket = SOCKET_DEFAULT,
    as_json: Json = False,
) -> Work:
    """Say that alarms were seen.

    Those that have ended are shown no longer, nor is what happened once and is over. The others stay until their cause
    ends, and are told.
    """
    terminal = ctx.ensure_object(Terminal)

    def work() -> int:
        answer = ask(socket, "acknowledge", domain=domain or None, alarm=alarm or None)
        if as_json:
            terminal.say_json(answer)
        else:
            over = f"; over: {', '.join(answer['over'])}" if answer["over"] else ""
            lasts = f"; stays until its cause ends: {', '.join(answer['present'])}" if answer["present"] else ""
            terminal.say(f"{plural(answer['acknowledged'], 'alarm')} acknowledged{over}{lasts}")
        return ExitCode.OK

    return Work(work)
