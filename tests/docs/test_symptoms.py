"""The table from symptom to command has every alarm and every exit code, and leads nowhere that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetdr_core.cli.exits import ExitCode
from jetdr_core.drva.alarms import ALARMS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
HEADING = "From symptom to command"
TABLE = PAGE.split(f"\n## {HEADING}\n", 1)[1].split("\n## ", 1)[0]
ROWS = [[cell.strip() for cell in line[1:-1].split("|")] for line in TABLE.splitlines() if line.startswith("| ")]
SYMPTOMS = [row for row in ROWS[1:] if not row[0].startswith("**")]


def test_every_alarm_has_a_symptom_and_no_other_is_named() -> None:
    named = {name for row in SYMPTOMS for name in re.findall(r"`([a-z_]+)`", row[1])}
    assert named == ALARMS.keys()


def test_every_exit_code_has_a_symptom() -> None:
    named = {int(code) for row in SYMPTOMS for code in re.findall(r"\b\d+\b", row[1])}
    assert named == {int(code) for code in ExitCode} - {0}


@pytest.mark.parametrize("row", SYMPTOMS, ids=lambda row: row[0])
def test_every_row_says_what_to_do(row: list[str]) -> None:
    assert len(row) == 4
    assert row[0]
    assert row[3]


@pytest.mark.parametrize(
    "name",
    ["jetdr doctor", "unprotect", "--take-over", "--begin-anew", "--on-mismatch", "take-over-volume", "stop-host"],
)
def test_the_commands_that_leave_a_state_are_there(name: str) -> None:
    assert name in TABLE


def test_the_doctor_names_the_table() -> None:
    source = (ROOT / "jetdr_core" / "drva" / "doctor" / "operation_checks.py").read_text(encoding="utf-8")
    assert HEADING in source
