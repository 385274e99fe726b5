"""Walk: a domain in a state of the table in docs/operations.md, and the rows of that table."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from jetdr_core.drva.pause import PausedFile
from tests.drva.running_drva import InProcess, Place, running
from tests.drva.walks import is_whole

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Row:
    """A row of the table. ``says`` are the texts of its second column, ``commands`` those of its third."""

    state: str
    says: tuple[str, ...]
    commands: tuple[str, ...]
    gives_up: str


def rows() -> dict[str, Row]:
    table = PAGE.split("\n## States and the way out of each\n", 1)[1].split("\n## ", 1)[0]
    found = {}
    for line in [line for line in table.splitlines() if line.startswith("|")][2:]:
        state, says, way, gives_up = (cell.strip() for cell in line.strip("|").split("|"))
        found[state] = Row(state, tuple(re.findall(r"`([^`]+)`", says)), tuple(re.findall(r"`([^`]+)`", way)), gives_up)
    return found


TAKE_OVER = "jetdr drva CONFIG --take-over DOMAIN"
BEGIN_ANEW = "jetdr drva CONFIG --begin-anew DOMAIN=UUID"
GIVE_UP_SECTION = "jetdr give-up-section LOG DOMAIN --uuid UUID"


class Walk:
    """A domain that is protected and has some history, and what is done with it."""

    def __init__(self, here: Place, row: Row) -> None:
        self.here = here
        self.row = row

    def begin(self) -> None:
        """Write something, and end in order."""
        with running(self.here) as drva:
            self.here.until(is_whole)
            drva.disk().write(0, b"a" * 4096)
            self.here.until(is_whole)
        self.here.write(create=False)

    def finds(self, **options: Any) -> str:
        """Start the DRVA, find everything that the table says, and return why the domain is closed."""
        with running(self.here, **options) as drva:
            return self.finds_in(drva)

    def finds_in(self, _drva: InProcess) -> str:
        return str(self.here.until(self.says)["failure"])

    def says(self, status: Any) -> bool:
        """Whether the status says everything that the table says."""
        return all(said in self._told(status) for said in self.row.says)

    def _told(self, status: Any) -> str:
        alarms = [f"{alarm['name']} {alarm['text']}" for alarm in status["alarms"]]
        return "\n".join([status["failure"] or "", *alarms])

    def leaves(self, by: str = "", **options: Any) -> None:
        """Start the DRVA with what the row names, and wait until the domain is whole."""
        assert not by or by in self.row.commands, f"the table does not name {by!r}"
        with running(self.here, **options) as drva:
            self.here.until(is_whole)
            drva.disk().write(8192, b"left" * 128)
            self.here.until(is_whole)

    def takes_over(self, by: str = TAKE_OVER, **more: Any) -> None:
        self.leaves(by, take_over=("payroll",), **more)

    def begins_anew(self, lost: UUID) -> None:
        self.leaves(BEGIN_ANEW, begin_anew={"payroll": lost})

    def overwrite_log(self, offset: int, data: bytes) -> None:
        with (self.here.path / "log").open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def backlog(self, writes: int = 3) -> None:
        """Leave writes in the log that are not in the store, and upload again from the next start on."""
        with running(self.here) as drva:
            self.here.ask("pause", domain="payroll")
            for n in range(writes):
                drva.disk().write(n * 512, os.urandom(512))
                drva.disk().flush()
        PausedFile(self.here.path / "state", "payroll").remove()
