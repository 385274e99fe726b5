"""The command line: reads the options, runs the command, and turns the outcome into an exit code.

Invariants: a command function only reads its options and returns its work. The work runs outside typer, so that Ctrl-C,
a closed pipe and every error end here, in one line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from jetdr_core import __version__
from jetdr_core.cli.alarms_command import acknowledge, alarms
from jetdr_core.cli.appliance_commands import (
    grow_disk,
    keep_config,
    mark,
    move_disk,
    pause,
    protect,
    resume,
    stop_host,
    unprotect,
)
from jetdr_core.cli.demo_command import demo
from jetdr_core.cli.doctor_command import doctor
from jetdr_core.cli.drva_command import drva
from jetdr_core.cli.exits import MEANINGS, ExitCode, exit_code_of
from jetdr_core.cli.give_up_section_command import give_up_section
from jetdr_core.cli.inspect_command import inspect
from jetdr_core.cli.key_command import key_app
from jetdr_core.cli.points_command import points
from jetdr_core.cli.rehydrate_command import rehydrate
from jetdr_core.cli.repair_command import repair
from jetdr_core.cli.scrub_command import scrub
from jetdr_core.cli.status_command import status
from jetdr_core.cli.take_over_volume_command import take_over_volume
from jetdr_core.cli.terminal import Terminal, Work, begin_terminal, warnings_to
from jetdr_core.cli.verify_command import verify
from jetdr_core.cli.watch_command import watch
from jetdr_core.drva.errors import ControlError
from jetdr_core.errors import JetdrError
from jetdr_core.file_making import remedy_of

__all__ = ["app", "main"]

_CODES = "\n".join(["\b", "Exit codes:", *(f"{code:>5}  {meaning}" for code, meaning in MEANINGS.items())])
_AZURE = """Azure credentials come from the environment: AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with
AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN. Without these variables, azure-identity signs in."""
_S3 = """S3 takes AWS_REGION or AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Without a key, the
role of the machine signs in."""
_ISCSI = """A log volume may be a LUN: iscsi://[USER@]HOST[:PORT]/IQN/LUN. The user's password is read from
JETDR_ISCSI_PASSWORD, or from the file that JETDR_ISCSI_PASSWORD_FILE names."""
_LOOKS = "Output is coloured on a terminal unless NO_COLOR is set. JETDR_DEBUG=1 means --debug."
_EPILOG = "\n\n".join([_CODES, _AZURE, _S3, _ISCSI, _LOOKS])

app = typer.Typer(
    name="jetdr", epilog=_EPILOG, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"jetdr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and all warnings.")] = False,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            callback=lambda wanted: _version(wanted=wanted),
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Disaster recovery for virtual disks: protect them, and list, rehydrate and check what a domain's store holds."""
    ctx.ensure_object(Terminal).debug |= debug


app.command(short_help="Protect a real file system, and recover it.")(demo)
app.command(short_help="List what can be recovered.")(points)
app.command(short_help="Rehydrate disks at a recovery point.")(rehydrate)
app.command(short_help="Check every byte of a store.")(verify)
app.command(short_help="Compare a store with what the disks held.")(scrub)
app.command(short_help="Copy from the disks what the store lacks.")(repair)
app.command(short_help="Describe log volumes and segments.")(inspect)
app.command(short_help="Show the state of a domain, or of the DRVA.")(status)
app.command(short_help="Check everything, and change nothing.")(doctor)
app.command(short_help="Run the appliance: keep domains protected.")(drva)
app.command(short_help="List what is and was wrong.")(alarms)
app.command(short_help="Say that alarms were seen.")(acknowledge)
app.command(short_help="Name the present moment of a domain.")(mark)
app.command(short_help="Protect one more disk.")(protect)
app.command(short_help="Stop protecting a disk.")(unprotect)
app.command(short_help="Use a disk that is at another path now.")(move_disk)
app.command(short_help="Protect what a disk has grown by.")(grow_disk)
app.command(short_help="Keep a configuration file.")(keep_config)
app.command(short_help="Stop uploading a domain.")(pause)
app.command(short_help="Resume uploading a domain.")(resume)
app.command(short_help="End a host component that is not configured.")(stop_host)
app.command(short_help="Watch the DRVA's domains.")(watch)
app.add_typer(key_app)
app.command(short_help="Take a log volume from an owner that is gone.")(take_over_volume)
app.command(short_help="Remove a domain's section from a log volume.")(give_up_section)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``jetdr`` with ``arguments``, by default those of the process, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    terminal = begin_terminal(as_json="--json" in given)
    with warnings_to(terminal):
        try:
            return _run(terminal, given)
        except (KeyboardInterrupt, asyncio.CancelledError):
            return _interrupted(terminal)
        except BrokenPipeError:
            return _pipe_closed()
        except Exception as error:  # noqa: BLE001 - every error ends as one line and an exit code
            return _failed(terminal, error)


def _run(terminal: Terminal, arguments: list[str]) -> int:
    work = app(arguments or ["--help"], prog_name="jetdr", obj=terminal, standalone_mode=False)
    if isinstance(work, Work):
        terminal.interrupted = work.interrupted
        code = work.run()
    else:
        code = int(work or 0)
    terminal.out.file.flush()
    return code


def _interrupted(terminal: Terminal) -> int:
    terminal.fail("Interrupted", "; ".join(filter(None, ["interrupted", terminal.interrupted])), ExitCode.INTERRUPTED)
    return ExitCode.INTERRUPTED


def _pipe_closed() -> int:
    """End quietly: the reader has closed the pipe, as ``head`` does. The interpreter then flushes into /dev/null."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.PIPE_CLOSED


def _failed(terminal: Terminal, error: Exception) -> int:
    terminal.trace(error)
    usage = getattr(error, "format_message", None)
    if usage is not None:  # a usage error of typer's, whose class depends on the version of typer
        context = getattr(error, "ctx", None)
        said = usage().replace("Value error, ", "")
        said = f"{said} See '{context.command_path if context else 'jetdr'} --help'."
        terminal.fail("InvalidRequest", said, ExitCode.USAGE)
        return ExitCode.USAGE
    code = exit_code_of(error)
    kind = error.kind if isinstance(error, ControlError) else type(error).__name__
    terminal.fail(kind, _message(error, code), code)
    return code


def _message(error: Exception, code: ExitCode) -> str:
    if isinstance(error, JetdrError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; {remedy_of(error.errno)}"
    assert code is ExitCode.INTERNAL
    return f"{type(error).__name__}: {error}; this is a bug: 'jetdr --debug' shows where it is"
