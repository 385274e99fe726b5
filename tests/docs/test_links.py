"""Links and paths in the documentation lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOP = "benchmarks|docs|jetdr_core|native|packaging|tests"
PATH = re.compile(rf"(?<![\w/.-])(?:{TOP})/[\w./-]*[\w/]")


def links(page: Path) -> list[str]:
    """The targets of a page's relative links."""
    return re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}, which has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_repository_path_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    assert not missing, f"{name(page)} names {missing}"


def test_every_native_file_named_alone_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.[ch])`", page))
    assert named <= {path.name for path in (ROOT / "native").rglob("*.[ch]")}
    core = {path.name for path in (ROOT / "native" / "core").glob("*.c")}
    assert not core - named, "docs/architecture.md says what each file of the core does"


def test_every_native_function_named_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+_\w+)`", page.split("\n## What completes when\n", 1)[1].split("\n## ", 1)[0]))
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "native").rglob("*.[ch]")))
    missing = {name for name in named if not re.search(rf"\b{name}\b", source)}
    assert len(named) >= 10
    assert not missing, f"docs/architecture.md names {sorted(missing)}"


def test_paths_are_found_where_pages_name_them() -> None:
    found = PATH.findall("see `native/core/ring.c`, docs/formats/ring.md. and (jetdr_core/store/); /x/native/y")
    assert found == ["native/core/ring.c", "docs/formats/ring.md", "jetdr_core/store/"]
