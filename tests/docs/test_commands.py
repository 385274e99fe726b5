"""The commands that the documentation shows, and their options, are those that ``jetdr`` has."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.cli.jetdr_command import jetdr

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "packaging").iterdir())]
INLINE = re.compile(r"[`\"](?:/opt/jetdr/bin/)?jetdr ([^`\"\n]+)[`\"]")
IN_BLOCK = re.compile(r"^\s*(?:\$ )?(?:/opt/jetdr/bin/)?jetdr ([^#\n]+)", re.MULTILINE)


def lines_of(page: Path) -> list[str]:
    """What the page has after ``jetdr``, up to a comment."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:sh)?\n(.*?)```", text, re.DOTALL))
    return [*INLINE.findall(text), *IN_BLOCK.findall(blocks)]


SHOWN = sorted({line.strip() for page in PAGES for line in lines_of(page) if re.match(r"[a-z-]+", line)})


@cache
def help_of(command: str) -> str:
    done = jetdr(command, "--help")
    assert done.code == 0, f"there is no command {command!r}"
    return done.out


@pytest.mark.parametrize("shown", SHOWN)
def test_every_shown_command_and_option_exists(shown: str) -> None:
    command = shown.split(maxsplit=1)[0]
    text = jetdr("--help").out if command.startswith("--") else help_of(command)
    for option in re.findall(r"(?<=\s)--[a-z-]+", f" {shown}"):
        assert option in text, f"'jetdr {command}' has no {option}"


def test_commands_are_shown() -> None:
    assert len({shown.split()[0] for shown in SHOWN}) >= 12
