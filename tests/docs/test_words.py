"""Names use the words of docs/glossary.md and docs/glossary-classes.md, and only these.

Everything is read from the pages: the tables of forbidden words, and the classes that they explain.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
CLASSES = (ROOT / "docs" / "glossary-classes.md").read_text(encoding="utf-8")
PYTHON = [*sorted((ROOT / "jetdr_core").rglob("*.py")), *sorted((ROOT / "jetdr_core").glob("*.pyi"))]
NATIVE = sorted(
    path
    for path in (ROOT / "native").rglob("*")
    if path.suffix in {".c", ".h", ".pxi", ".pyx"} and not (path.suffix == ".c" and path.with_suffix(".pyx").exists())
)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

C_COMMENT_OR_TEXT = re.compile(
    r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|^\s*#\s*include[^\n]*', re.DOTALL | re.MULTILINE
)
IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class Forbidden:
    """A word that names do not use; ``allowed_in`` are the beginnings of paths where it has its one meaning."""

    name: str
    instead: str
    allowed_in: tuple[str, ...]

    def is_in(self, name: str, *, of_class: bool) -> bool:
        if self.name[0].isupper():
            return of_class and name == self.name
        return f" {words(self.name)} " in f" {words(name)} "


@dataclass(frozen=True)
class Name:
    """An identifier, and where it stands."""

    text: str
    path: str
    line: int
    of_class: bool


@cache
def words(name: str) -> str:
    """``jdr_ring_is_abandoned`` and ``JdrRingIsAbandoned`` are the words ``jdr ring is abandoned``."""
    return " ".join(word.lower() for word in WORD.findall(name))


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of the page of classes, as cells."""
    section = CLASSES.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


@cache
def forbidden() -> list[Forbidden]:
    rows = table("Words that names do not use")
    return [Forbidden(name.strip("`"), instead, tuple(re.findall(r"`([^`]+)`", but))) for name, instead, but in rows]


def python_names(path: Path) -> Iterator[tuple[str, int, bool]]:
    """Every name that a module gives to something: itself, classes, functions, arguments, attributes, variables."""
    yield path.stem if path.stem != "__init__" else path.parent.name, 1, False
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef():
                yield node.name, node.lineno, True
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno, False
            case ast.arg():
                yield node.arg, node.lineno, False
            case ast.Attribute():
                yield node.attr, node.lineno, False
            case ast.Name():
                yield node.id, node.lineno, False


def native_names(path: Path) -> Iterator[tuple[str, int, bool]]:
    yield path.stem, 1, False
    text = path.read_text(encoding="utf-8")
    if path.suffix in {".pxi", ".pyx"}:
        text = re.sub(r'""".*?"""|#[^\n]*|"[^"\n]*"', lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)
    else:
        text = C_COMMENT_OR_TEXT.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(text.splitlines(), 1):
        for identifier in IDENTIFIER.findall(line):
            yield identifier, number, False


@cache
def names() -> list[Name]:
    found = []
    for path in PYTHON + NATIVE:
        where = str(path.relative_to(ROOT))
        all_of = python_names(path) if path in PYTHON else native_names(path)
        found += [Name(text, where, line, of_class) for text, line, of_class in all_of]
    return found


@pytest.mark.parametrize("word", forbidden(), ids=lambda word: word.name)
def test_no_name_uses_a_forbidden_word(word: Forbidden) -> None:
    users = {
        f"{name.path}:{name.line}: {name.text}"
        for name in names()
        if word.is_in(name.text, of_class=name.of_class) and not name.path.startswith(word.allowed_in or "\0")
    }
    assert not users, f"use {word.instead} instead of {word.name!r}:\n" + "\n".join(sorted(users))


def test_every_public_class_is_explained() -> None:
    explained = {part for quoted in re.findall(r"`([^`]+)`", CLASSES) for part in IDENTIFIER.findall(quoted)}
    public = {name.text for name in names() if name.of_class and not name.text.startswith("_")}
    assert not public - explained, f"docs/glossary-classes.md does not explain {sorted(public - explained)}"


def test_no_two_public_classes_have_one_name() -> None:
    defined = [name for name in names() if name.of_class and not name.text.startswith("_")]
    counts = Counter(name.text for name in defined)
    assert not {f"{name.path}: {name.text}" for name in defined if counts[name.text] > 1}


@pytest.mark.parametrize("page", [GLOSSARY, CLASSES], ids=["glossary", "glossary-classes"])
def test_no_class_is_explained_that_is_gone(page: str) -> None:
    """What stands in CamelCase in the column "in the code" is a class, or a name of the code."""
    known = {name.text for name in names()}
    explained = {
        part
        for line in page.split("\n## Words that names do not use\n", maxsplit=1)[0].splitlines()
        for quoted in re.findall(r"`([^`]+)`", line)
        if "/" not in quoted and " " not in quoted
        for part in IDENTIFIER.findall(quoted)
    }
    assert not explained - known, f"no code has {sorted(explained - known)}"


def phrases() -> list[str]:
    return [phrase for row in table("Words that prose does not use") for phrase in row[0].split(", ")]


def comments_and_texts(source: Path) -> str:
    """All of a source in one line of words, so that a phrase is found across the ends of lines."""
    text = re.sub(r"^\s*(?:\*|#)? ?", " ", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return " ".join(text.lower().split())


def prose(page: Path) -> str:
    """A page without its code, and without the tables that name what is forbidden."""
    text = page.read_text(encoding="utf-8").split("\n## Words that names do not use\n")[0]
    return " ".join(re.sub(r"```.*?```|`[^`]*`", " ", text, flags=re.DOTALL).lower().split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_uses_a_forbidden_word(page: Path) -> None:
    text = prose(page)
    used = [phrase for phrase in phrases() if re.search(rf"\b{phrase}", text)]
    assert not used, f"{page.name} says {used}"


def test_no_source_uses_a_forbidden_word() -> None:
    said = {
        f"{path.relative_to(ROOT)}: {phrase}"
        for path in PYTHON + NATIVE
        for phrase in phrases()
        if re.search(rf"\b{phrase}", comments_and_texts(path))
    }
    assert not said


def test_names_are_split_into_their_words() -> None:
    assert words("jdr_ring_is_abandoned") == "jdr ring is abandoned"
    assert words("BypassedFile") == "bypassed file"
    assert words("JDR_RING") == "jdr ring"
    assert Forbidden("open_gap", "", ()).is_in("_open_gap_now", of_class=False)
    assert not Forbidden("open_gap", "", ()).is_in("reopen_gap", of_class=False)
    assert not Forbidden("Extent", "", ()).is_in("DamagedExtent", of_class=True)
