"""The layers of docs/contributing.md are those that CI checks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("heading", "container"), [("Layers", "jetdr_core"), ("Layers of the domain", "jetdr_core.domain")]
)
def test_the_documented_layers_are_the_checked_ones(heading: str, container: str) -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    documented = [set(re.findall(r"`(\w+)`", row)) for row in section.splitlines() if row.startswith("|")][2:]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == [container])
    assert documented == [set(re.findall(r"\w+", layer)) for layer in layers]
