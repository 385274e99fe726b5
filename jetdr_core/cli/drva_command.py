"""``jetdr drva``: runs the appliance process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.give_up_section_command import uuid_of
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import plural
from jetdr_core.errors import InvalidRequest
from jetdr_core.ownership import check_guarded

__all__ = ["drva"]

Config = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The configuration, a TOML file: see packaging/drva.example.toml.")
]
Create = Annotated[
    bool,
    typer.Option("--create", help="Create the configured domains that do not exist: those whose stores are empty."),
]
TakeOver = Annotated[
    list[str] | None,
    typer.Option(
        "--take-over",
        metavar="DOMAIN",
        help="Give a domain whose log is lost a new log. What the old log had not uploaded is lost, and a DRVA that "
        "still runs the domain elsewhere is fenced. May be repeated.",
    ),
]
Mismatch = Annotated[
    list[str] | None,
    typer.Option(
        "--on-mismatch",
        metavar="DOMAIN=copy|replay",
        help="Open a domain in write-back although its log, store, state and disks do not belong together. 'copy' "
        "keeps the disks as they are and resyncs them. 'replay' writes the log over the disks. May be repeated.",
    ),
]
GiveUp = Annotated[
    list[str] | None,
    typer.Option(
        "--give-up-from",
        metavar="DOMAIN=NUMBER",
        help="With --take-over: accept that the chain has lost the object of that number, which the error names. What "
        "the store holds after it is given up. May be repeated.",
    ),
]
Discard = Annotated[
    list[str] | None,
    typer.Option(
        "--discard-log",
        metavar="DOMAIN=LOG",
        help="With --take-over: give up a log that is sound and alone has some of the domain's data. The error names "
        "the log. May be repeated.",
    ),
]
Anew = Annotated[
    list[str] | None,
    typer.Option(
        "--begin-anew",
        metavar="DOMAIN=UUID",
        help="Create a domain anew whose container or key is lost, in an empty container, and give up what this "
        "machine has of the lost one: its log section, its state and its key file. Its UUID, which the error and "
        "'jetdr inspect LOG' show, confirms that. All disks are copied. May be repeated.",
    ),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Only check the configuration and its places. 'jetdr doctor' checks more."),
]


def drva(
    ctx: typer.Context,
    config: Config,
    create: Create = False,
    take_over: TakeOver = None,
    give_up_from: GiveUp = None,
    discard_log: Discard = None,
    on_mismatch: Mismatch = None,
    begin_anew: Anew = None,
    check: Check = False,
) -> Work:
    """Keep the configured domains protected until SIGTERM or Ctrl-C, and answer status, mark, protect and so on.

    At the end it uploads what is left. A second signal ends the uploads. Guests go on either way. Logs go to stderr.
    """
    terminal = ctx.ensure_object(Terminal)
    choices = _Choices(
        create,
        tuple(take_over or ()),
        {name: _number(text) for name, text in _by_domain("--give-up-from", "NUMBER", give_up_from).items()},
        _by_domain("--discard-log", "LOG", discard_log),
        _mismatches(on_mismatch),
        {name: uuid_of(text) for name, text in _by_domain("--begin-anew", "UUID", begin_anew).items()},
    )
    return Work(lambda: _drva(terminal, config, choices, check=check))


@dataclass(frozen=True, slots=True)
class _Choices:
    """What the command line asks of the first opening of a domain."""

    create: bool
    take_over: tuple[str, ...]
    give_up_from: dict[str, int]
    discard_log: dict[str, str]
    on_mismatch: dict[str, str]
    begin_anew: dict[str, UUID]


def _drva(terminal: Terminal, path: Path, choices: _Choices, *, check: bool) -> int:
    """Run the DRVA. It is imported here, so that no other command waits for its imports."""
    from jetdr_core.domain import OnMismatch  # noqa: PLC0415
    from jetdr_core.drva.config import load_config  # noqa: PLC0415
    from jetdr_core.drva.daemon import run_drva  # noqa: PLC0415
    from jetdr_core.drva.doctor.place_checks import check_all_places  # noqa: PLC0415

    check_guarded("the configuration", path)
    config = load_config(path)
    if check:
        for doubt in check_all_places(config):
            terminal.warn(f"{doubt.text}; {doubt.remedy}")
        terminal.say(
            f"{path} is good: {plural(len(config.domains), 'domain')}, {plural(len(config.volumes), 'volume')}"
        )
    else:
        run_drva(
            config,
            create=choices.create,
            take_over=choices.take_over,
            give_up_from=choices.give_up_from,
            discard_log=choices.discard_log,
            on_mismatch={domain: OnMismatch(choice) for domain, choice in choices.on_mismatch.items()},
            begin_anew=choices.begin_anew,
        )
    return ExitCode.OK


def _mismatches(texts: list[str] | None) -> dict[str, str]:
    """What was chosen for a domain, by its name."""
    choices = _by_domain("--on-mismatch", "copy or DOMAIN=replay", texts)
    for domain, choice in choices.items():
        if choice not in {"copy", "replay"}:
            raise InvalidRequest(
                f"--on-mismatch '{domain}={choice}' is not valid", hint="use DOMAIN=copy or DOMAIN=replay"
            )
    return choices


def _by_domain(option: str, value: str, texts: list[str] | None) -> dict[str, str]:
    """The values of an option that names a domain each time."""
    found = {}
    for text in texts or []:
        domain, equals, chosen = text.partition("=")
        if not domain or not equals or not chosen:
            raise InvalidRequest(f"{option} {text!r} is not valid", hint=f"use DOMAIN={value}")
        found[domain] = chosen
    return found


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise InvalidRequest(
            f"--give-up-from {text!r} is not the number of an object", hint="the error of the take-over has the number"
        )
    return int(text)
