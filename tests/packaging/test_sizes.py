"""The house stays readable: no function over 40 lines, no file over 500, in the product and its tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 40
FILE_LINES_MAX = 500
FOLDERS = ("jetdr_core", "native", "benchmarks", "tests")
GENERATED = {ROOT / f"native/python/{name}.c" for name in ("core", "iscsi", "kernels")}


def sources(*suffixes: str) -> list[Path]:
    """The files written by hand, with one of these suffixes."""
    found = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return sorted(set(found) - GENERATED)


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Signature and number of lines of each function; the formatter puts a function's braces into the first column."""
    begun, signature = None, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line == "{":
            begun = number
        elif line == "}" and begun is not None:
            yield signature, number - begun + 2
            begun = None
        elif begun is None and line and line[0].isalpha():
            signature = line


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", sources(".py"), ids=name)
def test_python_functions_are_short(path: Path) -> None:
    assert [found for found in python_functions(path) if found[1] > FUNCTION_LINES_MAX] == []


@pytest.mark.parametrize("path", sources(".c", ".h"), ids=name)
def test_c_functions_are_short(path: Path) -> None:
    assert [found for found in c_functions(path) if found[1] > FUNCTION_LINES_MAX] == []


@pytest.mark.parametrize("path", sources(".py", ".c", ".h", ".pyx", ".pxi", ".pyi"), ids=name)
def test_files_are_short(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= FILE_LINES_MAX
