"""The offset tables of docs/formats are the layouts that the code packs and reads."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jetdr_core.catalog.heartbeat import _LAYOUT as HEARTBEAT
from jetdr_core.catalog.links import LINK
from jetdr_core.catalog.summary import _HEADER as SUMMARY
from jetdr_core.record import RECORD
from jetdr_core.replication_log import batch, superblock
from jetdr_core.segment import layout
from jetdr_core.vmdk import sparse

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ROOT / "docs" / "formats"
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8}
NO_FIELD = {"zero", "zeros", "reserved", "body"}

STRUCTS = [
    ("log-volume", "Envelope", superblock._ENVELOPE),
    ("log-volume", "Body of the volume superblock", superblock._VOLUME),
    ("log-volume", "A *cursor*", superblock._CURSOR),
    ("log-volume", "Batch", batch._HEADER),
    ("segment", "Header, 64 bytes", layout.HEADER),
    ("segment", "Trailer, 256 bytes", layout.TRAILER),
    ("chain", "Summary", SUMMARY),
    ("chain", "Heartbeat", HEARTBEAT),
    ("vmdk", "Header and footer (512 bytes)", sparse._HEADER),
]
TABLES = [("Frame table", layout.FRAME), ("Entries", layout.ENTRY), ("Control records", layout.CONTROL)]


def rows_below(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, or below a line that begins with it."""
    text = (FORMATS / f"{page}.md").read_text(encoding="utf-8")
    found = re.search(rf"^(?:#+ )?{re.escape(heading)}.*\n", text, re.MULTILINE)
    assert found, f"{page}.md has no {heading!r}"
    (table, *_) = re.findall(r"(?:^\|.*\n)+", text[found.end() :], re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.strip().strip("|").split("|")] for row in table.splitlines()[2:]]


def documented(page: str, heading: str) -> list[tuple[int, int]]:
    """Offset and size of every field; what is only zeros, or of no fixed size, is none."""
    fields = []
    for offset, size, name, *_ in rows_below(page, heading):
        if name.split(",")[0] in NO_FIELD or not offset.isdigit():
            continue
        bytes_ = SIZES.get(size, int(size.split()[0]) if re.match(r"\d+( bytes)?$", size) else 0)
        if bytes_:
            fields.append((int(offset), bytes_))
    return fields


def packed(form: str) -> Iterator[tuple[int, int]]:
    """Offset and size of every field of a ``struct`` format without alignment; ``x`` is padding."""
    at = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", form.removeprefix("<")):
        times, size = (1, int(count or 1)) if code in "sx" else (int(count or 1), struct.calcsize(f"<{code}"))
        for _ in range(times):
            if code != "x":
                yield at, size
            at += size


@pytest.mark.parametrize(
    ("page", "heading", "form"), STRUCTS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_offsets_are_those_that_are_packed(page: str, heading: str, form: struct.Struct) -> None:
    assert documented(page, heading) == list(packed(form.format))


@pytest.mark.parametrize(("heading", "table"), TABLES)
def test_columns_are_those_that_are_packed(heading: str, table: np.dtype[np.void]) -> None:
    rows = [(name.removesuffix(" Δ"), size) for name, size, *_ in rows_below("segment", heading)]
    assert rows == [(name, f"{'i' if kind.kind == 'i' else 'u'}{8 * kind.itemsize}") for name, kind in columns(table)]


def columns(table: np.dtype[np.void]) -> list[tuple[str, np.dtype[np.generic]]]:
    assert table.names is not None
    return [(name, table[name]) for name in table.names]


def test_a_summary_has_the_documented_columns() -> None:
    cells = [cell for row in rows_below("chain", "Rows, 113 bytes each") for cell in (row[:2], row[3:5])]
    sizes = {name.removesuffix(" Δ").split(":")[0]: size for name, size in cells if name}
    sizes["checksum"] = sizes.pop("checksum of the object")
    assert {name: SIZES.get(size, 16) for name, size in sizes.items()} == {n: k.itemsize for n, k in columns(LINK)}


def test_a_record_header_lies_as_documented() -> None:
    assert RECORD.fields is not None
    laid = [(at, kind.itemsize) for kind, at, *_ in RECORD.fields.values()]
    assert documented("log-volume", "Record header") == laid[:-1]
    assert sum(laid[-1]) == RECORD.itemsize


def ring_header_fields() -> list[str]:
    """The fields of ``struct jdr_ring_shared`` in order; its two producers and its clock's fields one by one."""
    parts = {
        "producers": ["producers[0]", "producers[1]"],
        "clock": [f"clock.{name}" for name in fields_of("record_clock.h", "jdr_record_clock")],
    }
    return [field for name in fields_of("ring_shared.h", "jdr_ring_shared") for field in parts.get(name, [name])]


def fields_of(header: str, structure: str) -> list[str]:
    """The names of a structure's fields in order; arrays as one."""
    source = (ROOT / "native/core" / header).read_text(encoding="utf-8")
    (body,) = re.findall(rf"struct {structure} \{{(.*?)\n\}};", source, re.DOTALL)
    declared = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL).split(";")
    return [name for one in declared for name in re.findall(r"(\w+)(?:\[\d+\])?\s*(?:,|$)", one.strip())]


def test_the_header_of_a_ring_lies_as_documented(tmp_path: Path) -> None:
    prints = " ".join(f'printf("%zu ", offsetof(struct jdr_ring_shared, {name}));' for name in ring_header_fields())
    program = tmp_path / "offsets.c"
    program.write_text(f'#include "core/ring_shared.h"\n#include <stdio.h>\nint main(void) {{ {prints} return 0; }}\n')
    flags = ["-std=gnu11", "-D_GNU_SOURCE", f"-I{ROOT / 'native'}"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "offsets", program], check=True)
    laid = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True).stdout.split()
    said = [at.strip() for row in rows_below("ring", "Header") for at in row[0].split(",")]
    assert said == laid
