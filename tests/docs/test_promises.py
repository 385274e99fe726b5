"""Each promise of docs/promises.md is held by tests, and each test that it or docs/trust.md names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
TRUST = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
PROMISES = re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)
HELD_BY = dict(re.findall(r"^### Promise (\d+)\n((?:(?!##).*\n)*)", PAGE, re.MULTILINE))
TEST = re.compile(r"`(tests/[\w/]+\.py)::([\w:]+)`")


@cache
def names_in(path: str) -> set[str]:
    """The tests of a module as pytest names them, without parameters; a test case is one by its name."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                found.add(name)
            case ast.ClassDef(name=name) if name.startswith("Test"):
                found.add(name)
                found |= {f"{name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
            case ast.Assign(targets=[ast.Name(id=name)]) if name.startswith("Test"):
                found.add(name)
    return found


def test_there_are_nine_promises() -> None:
    assert [str(n) for n in range(1, 10)] == PROMISES


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_is_held_by_tests(promise: str) -> None:
    assert TEST.search(HELD_BY[promise]), f"no test holds promise {promise}"


@pytest.mark.parametrize(("path", "test"), TEST.findall(PAGE + TRUST))
def test_every_named_test_exists(path: str, test: str) -> None:
    assert (ROOT / path).exists(), f"the documentation names {path}, which is gone"
    assert test in names_in(path), f"the documentation names {test}, which {path} does not have"


def test_every_party_is_held_by_a_test() -> None:
    rows = [line for line in TRUST.splitlines() if line.startswith("| **")]
    assert len(rows) > 9
    assert all(TEST.search(row) for row in rows)
