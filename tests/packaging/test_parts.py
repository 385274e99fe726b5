"""What a machine that only recovers lacks is left out, and whoever needs it is told which Debian package has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import run_python

ROOT = Path(__file__).resolve().parents[2]

COMPILER = """#!/bin/sh
# Finds no header but those in $FOUND, and compiles nothing else.
for argument; do
    case "$argument" in
    *has_header.c) header=$(sed -n 's/#include <\\(.*\\)>/\\1/p' "$argument") ;;
    esac
done
case " $FOUND " in
*" $header "*) exit 0 ;;
esac
echo "no such header: $header" >&2
exit 1
"""
ALL = ("stddef.h", "Python.h", "xxhash.h", "iscsi/iscsi.h", "nbdkit-plugin.h")


def build(folder: Path, *, without: str, complete: bool) -> str:
    """What a build prints if ``without`` is a header that is missing."""
    compiler = folder / "cc"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    environment = os.environ | {
        "CC": str(compiler),
        "FOUND": " ".join(header for header in ALL if header != without),
        "JETDR_COMPLETE": str(int(complete)),
    }
    command = [sys.executable, "setup.py", "build_ext", f"--build-lib={folder}/lib", f"--build-temp={folder}/temp"]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=100, check=False)
    assert done.returncode != 0, "there is no real compiler"
    return done.stderr


@pytest.mark.parametrize(
    ("header", "package"),
    [("stddef.h", "gcc and libc6-dev"), ("Python.h", "python3-dev"), ("xxhash.h", "libxxhash-dev")],
)
def test_build_names_the_package_of_a_header_that_it_needs(tmp_path: Path, header: str, package: str) -> None:
    told = build(tmp_path, without=header, complete=False)
    assert f"{header} is missing; apt-get install {package}" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("header", "package", "part"),
    [("iscsi/iscsi.h", "libiscsi-dev", "_iscsi"), ("nbdkit-plugin.h", "nbdkit-plugin-dev", "nbdkit-jetdr-plugin")],
)
def test_build_leaves_out_what_has_no_header_and_says_so(tmp_path: Path, header: str, package: str, part: str) -> None:
    told = build(tmp_path, without=header, complete=True)
    assert f"error: jetdr_core.{part} is left out: " in told
    assert f"{header} is missing; apt-get install {package}" in told


WITHOUT = """
import sys
sys.modules["jetdr_core._iscsi"] = None
import jetdr_core, jetdr_core.cli
from jetdr_core.device.place import open_device
from jetdr_core.errors import InvalidRequest
try:
    open_device("iscsi://127.0.0.1/iqn.2026-11.a:b/1")
except InvalidRequest as error:
    print(error)
"""


def test_without_iscsi_everything_else_is_there() -> None:
    told = run_python(WITHOUT)
    assert told.returncode == 0, told.stderr
    assert told.stdout == (
        "iscsi://127.0.0.1:3260/iqn.2026-11.a:b/1: this jetdr_core was built without iSCSI; "
        "install the Debian packages libiscsi-dev and gcc, and build jetdr_core here\n"
    )


def test_missing_library_is_told_with_its_package(tmp_path: Path) -> None:
    """The module is there, and its library is not."""
    broken = "raise ImportError('libiscsi.so.7: cannot open shared object file: No such file or directory')"
    finder = WITHOUT.replace(
        'sys.modules["jetdr_core._iscsi"] = None',
        "import importlib.abc, importlib.util\n"
        "class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        return importlib.util.spec_from_loader(name, self) if name == 'jetdr_core._iscsi' else None\n"
        f"    def exec_module(self, module): {broken}\n"
        "sys.meta_path.insert(0, Broken())",
    )
    told = run_python(finder)
    assert told.returncode == 0, told.stderr
    assert "libiscsi is missing: libiscsi.so.7: cannot open" in told.stdout
    assert told.stdout.endswith("install the Debian package libiscsi7\n")


def test_recovery_needs_no_compiled_part_but_core_and_kernels() -> None:
    script = (
        "import sys; import jetdr_core.rehydrate, jetdr_core.cli;"
        "print(sorted(name for name in sys.modules if name.startswith('jetdr_core._')))"
    )
    told = run_python(script)
    assert told.stdout == "['jetdr_core._core', 'jetdr_core._kernels']\n", told.stderr
