"""``python -m tests.mutants [NAME...]``: plants bugs in a copy of the source, one at a time, and sees each noticed.

The copy is built once. A mutant in C is compiled alone and linked with the rest. Each test must pass without its
mutant, and fail with it. A table tells which test noticed what.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 300
BUILD_S = 1800
SEEDS = ("--first", "1", "--seeds", "200", "--seconds", "120")
"""What the simulator runs: it ends with the first seed that fails."""


class Copy:
    """A built copy of the source in ``folder``, in which one file at a time is changed."""

    def __init__(self, folder: Path) -> None:
        self._source, self._lib, self._objects = folder / "source", folder / "lib", folder / "objects"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in filter(None, tracked.split("\0")):
            target = self._source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target)
        self._python(
            "setup.py", "-q", "build_ext", "--build-lib", self._lib, "--build-temp", self._objects, limit_s=BUILD_S
        )
        shutil.copytree(self._source / "jetdr_core", self._lib / "jetdr_core", dirs_exist_ok=True)

    @contextmanager
    def changed(self, file: str, old: str, new: str) -> Iterator[None]:
        """Let ``file`` have ``new`` instead of ``old``, which occurs once in it, until the end of the block."""
        place = (self._source if file.startswith("native/") else self._lib) / file
        text = place.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
        self._write(place, text.replace(old, new))
        try:
            yield
        finally:
            self._write(place, text)

    def _write(self, place: Path, text: str) -> None:
        place.write_text(text, encoding="utf-8")
        if place.suffix == ".c":
            self._link(place)

    def passes(self, test: str) -> tuple[bool, str]:
        """Whether a test passes with the copy, or the simulator if there is a name of no test. And what was said."""
        command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
        if "/" not in test:
            command = ["tests/sim/__main__.py", *SEEDS]
        done = self._python(*command, check=False)
        assert done.returncode in {0, 1}, done.stdout + done.stderr  # 2 and more: the test could not be run
        return done.returncode == 0, done.stdout

    def _link(self, place: Path) -> None:
        """Compile one file in C, and link it with the objects of the others."""
        there = next(self._objects.rglob(str(place.relative_to(self._source).with_suffix(".o"))))
        flags = ["-fPIC", "-std=c11", "-O2", "-w", "-D_GNU_SOURCE", "-DXXH_INLINE_ALL", "-Inative"]
        subprocess.run(["gcc", *flags, "-c", place, "-o", there], cwd=self._source, check=True)
        wings = ["native/core/*.o", "native/checksum*.o", "native/python/core.o"]
        objects = [found for wing in wings for found in self._objects.rglob(wing)]
        library = self._lib / f"jetdr_core/_core{sysconfig.get_config_var('EXT_SUFFIX')}"
        subprocess.run(["gcc", "-shared", "-pthread", *objects, "-o", library], check=True)
        plugin = self._lib / "jetdr_core/nbdkit-jetdr-plugin.so"
        if plugin.exists():
            wings = ["native/host/*.o", "native/core/*.o", "native/checksum*.o"]
            objects = [found for wing in wings for found in self._objects.rglob(wing)]
            subprocess.run(["gcc", "-shared", "-pthread", "-Wl,-z,nodelete", *objects, "-o", plugin], check=True)

    def _python(
        self, *arguments: object, check: bool = True, limit_s: int = LIMIT_S
    ) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self._lib), "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0"}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self._source,
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=check,
        )


def main(arguments: Sequence[str]) -> int:
    sys.modules["tests"] = tests = ModuleType("tests")
    tests.__path__ = [str(ROOT / "tests")]
    from tests.mutants.planted import MUTANTS  # noqa: PLC0415 - tests is importable only now

    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description="Plants bugs, and sees them noticed.")
    parser.add_argument("names", nargs="*", help="only mutants whose name contains one of these")
    names = parser.parse_args(arguments).names
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    survivors, sound = 0, set[str]()
    with tempfile.TemporaryDirectory(prefix="jetdr-mutants-") as folder:
        copy = Copy(Path(folder))
        for mutant in chosen:
            if mutant.test not in sound:
                passes, told = copy.passes(mutant.test)
                assert passes, f"{mutant.test} fails without a mutant:\n{told}"
                sound.add(mutant.test)
            begun = time.monotonic()
            with copy.changed(mutant.file, mutant.old, mutant.new):
                survived, _ = copy.passes(mutant.test)
            survivors += survived
            verdict = "SURVIVED" if survived else "noticed"
            print(f"| {mutant.name} | {verdict} | `{mutant.test}` | {time.monotonic() - begun:.0f} s |", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were noticed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
