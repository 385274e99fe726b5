"""``jetdr drva``: runs the appliance process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetdr_core.cli.exits import ExitCode
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
Check = Annotated[bool, typer.Option("--check", help="Only check the configuration, and the places that it names.")]


def drva(
    ctx: typer.Context,
    config: Config,
    create: Create = False,
    take_over: TakeOver = None,
    on_mismatch: Mismatch = None,
    check: Check = False,
) -> Work:
    """Keep the configured domains protected until SIGTERM or Ctrl-C, and answer status, mark, protect and so on.

    At the end it uploads what is left. A second signal ends the uploads. Guests go on either way. Logs go to stderr.
    """
    terminal = ctx.ensure_object(Terminal)
    choices = _choices(on_mismatch or [])
    return Work(lambda: _drva(terminal, config, create=create, take_over=take_over or [], choices=choices, check=check))


def _drva(
    terminal: Terminal, path: Path, *, create: bool, take_over: list[str], choices: dict[str, str], check: bool
) -> int:
    """Run the DRVA. It is imported here, so that no other command waits for its imports."""
    from jetdr_core.domain import OnMismatch  # noqa: PLC0415
    from jetdr_core.drva.config import load_config  # noqa: PLC0415
    from jetdr_core.drva.daemon import is_running, run_drva  # noqa: PLC0415
    from jetdr_core.drva.metrics_listener import why_not_served  # noqa: PLC0415
    from jetdr_core.drva.places import check_places  # noqa: PLC0415

    check_guarded("the configuration", path)
    config = load_config(path)
    if check:
        check_places(config)
        if config.metrics and not is_running(config.runtime_dir) and (why := why_not_served(config.metrics)):
            terminal.warn(f"{why}; without that, everything but the metrics runs")
        terminal.say(
            f"{path} is good: {plural(len(config.domains), 'domain')}, {plural(len(config.volumes), 'volume')}"
        )
    else:
        chosen = {domain: OnMismatch(choice) for domain, choice in choices.items()}
        run_drva(config, create=create, take_over=take_over, on_mismatch=chosen)
    return ExitCode.OK


def _choices(texts: list[str]) -> dict[str, str]:
    """What was chosen for a domain, by its name."""
    choices = {}
    for text in texts:
        domain, _, choice = text.partition("=")
        if choice not in {"copy", "replay"}:
            raise InvalidRequest(f"--on-mismatch {text!r} is not valid", hint="use DOMAIN=copy or DOMAIN=replay")
        choices[domain] = choice
    return choices
