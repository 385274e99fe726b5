"""What the README says can be done as it says it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jetdr_core

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE_PARENT = Path(jetdr_core.__file__).parents[1]


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(code)


def test_the_python_example_protects_a_disk_and_rebuilds_it(tmp_path: Path) -> None:
    code = example().replace("/srv/dr/payroll", str(tmp_path / "store"))
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "before upgrade" in done.stdout
    assert b"createType" in (tmp_path / "out" / "db01.vmdk").read_bytes()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_every_relative_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
