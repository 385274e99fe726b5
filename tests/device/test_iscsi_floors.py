"""The files of an iSCSI session lie in floors: each calls only files below it, in the order that inner.h gives."""

from __future__ import annotations

import re
from pathlib import Path

WING = Path(__file__).resolve().parents[2] / "native" / "iscsi"
FLOORS = re.findall(r"^ \*     (\w+\.c)", (WING / "inner.h").read_text(), re.MULTILINE)


def defined(file: str) -> set[str]:
    """The functions of the file that others may call: a definition has its brace on the next line."""
    return set(re.findall(r"^\w[^;{}()]*\b(jdr_iscsi_\w+)\([^;{}]*\)\n\{", (WING / file).read_text(), re.MULTILINE))


def called(file: str) -> set[str]:
    return set(re.findall(r"\b(jdr_iscsi_\w+)\(", (WING / file).read_text()))


def test_every_file_has_its_floor() -> None:
    assert sorted(FLOORS) == sorted(path.name for path in WING.glob("*.c"))


def test_no_file_calls_one_above_it() -> None:
    for height, file in enumerate(FLOORS):
        assert defined(file), file
        for above in FLOORS[:height]:
            assert not called(file) & defined(above), f"{file} calls {above}"
