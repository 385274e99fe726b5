"""What the README shows is what happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import jetdr_core

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE_PARENT = Path(jetdr_core.__file__).parents[1]


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(code)


def printed() -> str:
    (text,) = re.findall(r"It prints:\n\n```\n(.*?)```", README, re.DOTALL)
    return str(text)


def without_times(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)


def test_the_python_example_protects_a_disk_and_rebuilds_it(tmp_path: Path) -> None:
    code = example().replace("/srv/dr/payroll", str(tmp_path / "store"))
    environment = os.environ | {"PYTHONPATH": str(PACKAGE_PARENT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert without_times(done.stdout) == without_times(printed())
    assert b"createType" in (tmp_path / "out" / "db01.vmdk").read_bytes()
