"""The parameters of the nbdkit plugin that docs/formats/host-control.md explains are those that it takes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_parameter_of_the_plugin_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "formats" / "host-control.md").read_text(encoding="utf-8")
    table = page.split("| parameter | value | meaning |\n", 1)[1].split("\n\n", 1)[0]
    documented = re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)
    source = (ROOT / "native" / "host" / "parameters.c").read_text(encoding="utf-8")
    taken = re.findall(r'strcmp\(key, "([a-z-]+)"\)', source)
    assert sorted(documented) == sorted(taken)
    assert taken
