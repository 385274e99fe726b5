"""The errors that docs/operations.md explains are those that the engine raises."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
EXPLAINED = PAGE.split("\n## What an error means\n", 1)[1].split("\n## ", 1)[0]
ROWS = [line.split("|")[1] for line in EXPLAINED.splitlines() if line.startswith("|")]
FRAGMENTS = [fragment for row in ROWS for fragment in re.findall(r"`([^`]+)`", row)]


def texts_of(path: Path) -> Iterator[str]:
    """The texts of a module: plain ones, and f-strings with their values left out."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Constant(value=str() as text):
                yield text
            case ast.JoinedStr(values=parts):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)


@cache
def said() -> str:
    """Everything that the engine may say, and the hint that follows a message with a semicolon."""
    modules = [text for path in (ROOT / "jetdr_core").rglob("*.py") for text in texts_of(path)]
    native = [path.read_text(encoding="utf-8") for path in (ROOT / "native").rglob("*.[cp]*") if path.suffix != ".pxd"]
    return "\n".join(modules + native)


@pytest.mark.parametrize("fragment", FRAGMENTS)
def test_every_explained_error_is_one_that_is_raised(fragment: str) -> None:
    message, _, hint = fragment.partition("; ")
    assert message in said()
    assert hint in said()


def test_many_errors_are_explained() -> None:
    assert len(FRAGMENTS) >= 25
