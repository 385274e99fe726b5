"""``jetdr doctor``: checks a DRVA's machine and configuration, and changes nothing.

Invariant: whatever hangs, the command ends.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jetdr_core.cli.exits import ExitCode
from jetdr_core.cli.shared_options import Json
from jetdr_core.cli.terminal import Terminal, Work
from jetdr_core.cli.words import plural

if TYPE_CHECKING:
    from jetdr_core.drva.doctor import Finding

__all__ = ["doctor"]

CONFIG_DEFAULT = Path("/etc/jetdr/drva.toml")
_STYLES = {"good": "green", "unchecked": "yellow", "doubtful": "yellow", "wrong": "bold red"}

Config = Annotated[
    Path, typer.Argument(metavar="[CONFIG]", help="The configuration of the DRVA, which may run or not.")
]


def doctor(ctx: typer.Context, config: Config = CONFIG_DEFAULT, as_json: Json = False) -> Work:
    """Make every check that changes nothing, and show what is wrong with its remedy, one line a check.

    It looks at the machine, the configuration, the places that it names, log volumes, stores, keys, disks, rooms, and
    what runs. Nothing is written, locked or waited for without limit. Exit code 9 if something is wrong.
    """
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _doctor(terminal, config, as_json=as_json))


def _doctor(terminal: Terminal, config: Path, *, as_json: bool) -> int:
    """Examine everything. It is imported here, so that no other command waits for its imports."""
    from jetdr_core.drva.doctor import Verdict, diagnose  # noqa: PLC0415

    diagnosis = diagnose(config)
    found = []
    for finding in diagnosis:
        found.append(finding)
        if not as_json:
            _show(terminal, finding)
    if as_json:
        terminal.say_json(_document(config, found))
    else:
        terminal.say(_summary(found))
    code = ExitCode.UNSOUND if any(finding.verdict is Verdict.WRONG for finding in found) else ExitCode.OK
    if diagnosis.is_hanging:  # Python would wait for a thread that may never end
        terminal.out.file.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _show(terminal: Terminal, finding: Finding) -> None:
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    terminal.say(f"{finding.verdict.value:<10}{finding.check}: {finding.text}{remedy}", _STYLES[finding.verdict.value])


def _summary(found: Sequence[Finding]) -> str:
    counts = Counter(finding.verdict.value for finding in found)
    return f"{plural(len(found), 'check')}: " + ", ".join(f"{counts[word]} {word}" for word in _STYLES)


def _document(config: Path, found: Sequence[Finding]) -> dict[str, object]:
    return {
        "config": str(config),
        "sound": all(finding.verdict.value != "wrong" for finding in found),
        "checks": [
            {"check": one.check, "verdict": one.verdict.value, "text": one.text, "remedy": one.remedy or None}
            for one in found
        ],
    }
