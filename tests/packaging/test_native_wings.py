"""The wings of native/ meet in public headers only, and inside the core the ring's memory stays the ring's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parents[2] / "native"
INCLUDE = re.compile(r'^\s*(?:#\s*include|cdef extern from) "([^"]+)"', re.MULTILINE)

OF_OTHERS = {
    ".": set(),
    "core": {"jetdr.h", "checksum.h", "simulation.h"},
    "host": {"jetdr.h"},
    "iscsi": {"jetdr.h"},
    "kernels": {"checksum.h"},
    "python": {
        "jetdr.h",
        "simulation.h",
        "iscsi/session.h",
        "kernels/interval_map.h",
        "kernels/scan.h",
        "kernels/scatter.h",
        "kernels/tables.h",
    },
}
"""By wing: the headers outside of it that its files may include."""

RING_FILES = {
    "admission.c",
    "log_writer.c",
    "pending.c",
    "ring.c",
    "ring_file.c",
    "ring_memory.c",
    "ring_pressure.c",
    "ring_shared.h",
}
"""What of the core may see the ring's memory and fields."""


def sources(wing: str) -> list[Path]:
    files = [path for pattern in ("*.[ch]", "*.py[x]", "*.pxi") for path in (NATIVE / wing).glob(pattern)]
    return sorted(path for path in files if not path.with_suffix(".pyx").exists() or path.suffix == ".pyx")


def includes(source: Path) -> set[str]:
    """Our own headers that ``source`` includes, as paths from native/."""
    found = set()
    for name in INCLUDE.findall(source.read_text(encoding="utf-8")):
        path = next((path for path in (source.parent / name, NATIVE / name) if path.exists()), None)
        if path is not None and not name.endswith(".pxi"):
            found.add(path.relative_to(NATIVE).as_posix())
    return found


def test_every_wing_has_its_rule() -> None:
    assert set(OF_OTHERS) == {".", *(path.name for path in NATIVE.iterdir() if path.is_dir())}


@pytest.mark.parametrize("wing", OF_OTHERS)
def test_a_wing_includes_of_the_others_only_what_is_public(wing: str) -> None:
    assert sources(wing)
    for source in sources(wing):
        foreign = {name for name in includes(source) if Path(name).parent.as_posix() != wing}
        assert foreign <= OF_OTHERS[wing], source.relative_to(NATIVE)


def test_only_the_ring_sees_its_memory() -> None:
    seeing = {source.name for source in sources("core") if "core/ring_shared.h" in includes(source)}
    assert seeing <= RING_FILES


def test_a_primary_is_changed_at_one_door() -> None:
    calls = re.compile(r"(?:->|\.)(?:write|zero)\(")
    calling = {
        source.relative_to(NATIVE).as_posix()
        for wing in ("core", "host")
        for source in sources(wing)
        if calls.search(source.read_text(encoding="utf-8"))
    }
    assert calling == {"core/primary.h", "core/log_writer.c", "core/map_file.c"}, (
        "log and sidecar are written by others"
    )
