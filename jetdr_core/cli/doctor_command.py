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
_FOLLOWS = "so also"
_STYLES = {"good": "green", "unchecked": "yellow", "doubtful": "yellow", "wrong": "bold red"}

Config = Annotated[
    Path, typer.Argument(metavar="[CONFIG]", help="The configuration of the DRVA, which may run or not.")
]


def doctor(ctx: typer.Context, config: Config = CONFIG_DEFAULT, as_json: Json = False) -> Work:
    """Make every check that changes nothing, and show what is wrong with its remedy, one line a check.

    What only follows from something that is wrong is named in one line after it, and goes away with it.

    It looks at the machine, the configuration, the places that it names, log volumes, stores, keys, disks, rooms, and
    what runs. Nothing is written, locked or waited for without limit. Exit code 9 if something is wrong.
    """
    terminal = ctx.ensure_object(Terminal)
    return Work(lambda: _doctor(terminal, config, as_json=as_json))


def _doctor(terminal: Terminal, config: Path, *, as_json: bool) -> int:
    """Examine everything. It is imported here, so that no other command waits for its imports."""
    from jetdr_core.drva.doctor import Verdict, diagnose, with_causes  # noqa: PLC0415

    diagnosis = diagnose(config)
    found = with_causes(diagnosis)
    if as_json:
        terminal.say_json(_document(config, found))
    else:
        _show(terminal, found)
        terminal.say(_summary(found))
    code = ExitCode.UNSOUND if any(finding.verdict is Verdict.WRONG for finding in found) else ExitCode.OK
    if diagnosis.is_hanging:  # Python would wait for a thread that may never end
        terminal.out.file.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _show(terminal: Terminal, found: Sequence[Finding]) -> None:
    """Show each finding, and in one line after it those that follow from it."""
    for finding in found:
        if finding.cause:
            continue
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        style = _STYLES[finding.verdict.value]
        terminal.say(f"{finding.verdict.value:<10}{finding.check}: {finding.text}{remedy}", style)
        if followers := [one for one in found if one.cause == finding.check and _is_first(finding, found)]:
            terminal.say(f"{_FOLLOWS:<10}{finding.check}: {', '.join(_told(one) for one in followers)}", style)


def _is_first(finding: Finding, found: Sequence[Finding]) -> bool:
    """Whether this is the first wrong finding of its check, which may have several."""
    return finding is next((one for one in found if one.check == finding.check and one.verdict.value == "wrong"), None)


def _told(finding: Finding) -> str:
    """Alarms have names that say more than that of their check."""
    names, colon, _ = finding.text.partition(": ")
    return f"{finding.check} ({names})" if finding.check.endswith(": alarms") and colon else finding.check


def _summary(found: Sequence[Finding]) -> str:
    counts = Counter(_FOLLOWS if finding.cause else finding.verdict.value for finding in found)
    words = [*_STYLES, *([_FOLLOWS] if counts[_FOLLOWS] else [])]
    return f"{plural(len(found), 'check')}: " + ", ".join(f"{counts[word]} {word}" for word in words)


def _document(config: Path, found: Sequence[Finding]) -> dict[str, object]:
    return {
        "config": str(config),
        "sound": all(finding.verdict.value != "wrong" for finding in found),
        "checks": [
            {
                "check": one.check,
                "verdict": one.verdict.value,
                "text": one.text,
                "remedy": one.remedy or None,
                "cause": one.cause or None,
            }
            for one in found
        ],
    }
