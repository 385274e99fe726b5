"""Every system call that can fail for a user's reasons says what was tried, on what, and what to do.

The first test finds the calls by the product's source, so that a new one cannot be forgotten. The second makes calls
fail, one by one, with every errno that an operator may meet.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from jetdr_core.errors import DeviceBusy
from jetdr_core.file_making import remedy_of, trying
from tests.children import run_python
from tests.errnos.inventory import PACKAGE, unexplained
from tests.errnos.refusals import build

EXPLAINED_ELSEWHERE = {
    "cli/app.py": "ends quietly once the reader of stdout has gone",
    "cli/interrupt.py": "the second Ctrl-C ends the process whatever happens",
    "demo/": "run_demo names the folder of the demo",
    "device/linux.py": "one call a function: FileDevice and DeviceDisk name the device",
    "rehydrate/target_device.py": "zero and read_anew: DeviceDisk.writing names the device",
    "rehydrate/recheck.py": "foreign_ranges: recheck_partial reads within TargetDisk.reading",
    "store/tree.py": "DirectoryStore names operation, key and path: tests/store/test_directory.py walks the errnos",
    "store/tree_process.py": "the same, of a call that another process makes",
    "store/tree_worker.py": "the same: the owner is told by message, or by the end of the process",
}
"""Modules, and folders, whose calls are told by those who use them, and where."""

WALK = "import runpy; runpy.run_module('tests.errnos.walk', run_name='__main__')"

SAMPLES = {
    "a bare call": ("def f(path):\n    path.stat()\n", 1),
    "a call in a wrapper": ("def f(path):\n    with trying(path, 'x'):\n        path.stat()\n", 0),
    "a call whose error is caught": (
        "def f(path):\n    try:\n        path.stat()\n    except OSError:\n        pass\n",
        0,
    ),
    "a call whose other error is caught": (
        "def f(path):\n    try:\n        path.stat()\n    except FileNotFoundError:\n        pass\n",
        1,
    ),
    "a handler's call": ("def f(p):\n    try:\n        g()\n    except OSError:\n        p.unlink()\n", 1),
    "a helper that is called in a wrapper": (
        "def f(p):\n    with making(p, 'x'):\n        _g(p)\ndef _g(p):\n    p.unlink()\n",
        0,
    ),
    "a helper that is called bare": ("def f(p):\n    _g(p)\ndef _g(p):\n    _h(p)\ndef _h(p):\n    p.unlink()\n", 1),
    "a lambda in a wrapper": ("def f(p):\n    with trying(p, 'x'):\n        return lambda: p.unlink()\n", 1),
    "os": ("import os\ndef f(fd):\n    os.fsync(fd)\n", 1),
    "open": ("def f(p):\n    with open(p) as file:\n        pass\n", 1),
}


@pytest.mark.parametrize(("source", "count"), SAMPLES.values(), ids=SAMPLES)
def test_a_call_that_nobody_explains_is_found(source: str, count: int) -> None:
    assert len(unexplained(source, "module")) == count


def test_every_system_call_of_the_product_is_explained_where_it_fails() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): unexplained(path.read_text(), path.relative_to(PACKAGE).as_posix())
        for path in PACKAGE.rglob("*.py")
    }
    told = [call for module, calls in found.items() if not _is_elsewhere(module) for call in calls]
    assert not told, "wrap it in 'with trying(path, \"what is tried\")' of file_making:\n" + "\n".join(map(str, told))
    needless = [place for place in EXPLAINED_ELSEWHERE if not any(found[m] for m in found if m.startswith(place))]
    assert needless == ["store/tree_process.py"]  # it catches its own, and stays here for the next


def _is_elsewhere(module: str) -> bool:
    return any(module.startswith(place) for place in EXPLAINED_ELSEWHERE)


def test_a_walk_over_the_errnos_finds_path_attempt_and_remedy_in_every_error(tmp_path: Path) -> None:
    library = build(tmp_path)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="jd-") as folder:  # a ring lies on tmpfs
        done = run_python(WALK, f"{folder}/work", env=os.environ | {"LD_PRELOAD": str(library)})
    *badly, last = done.stdout.splitlines() or [done.stderr]
    assert (badly, done.stderr) == ([], "")
    assert int(last.removeprefix("walked ")) > 1500


@pytest.mark.parametrize("code", errno.errorcode)
def test_an_error_keeps_its_class_and_errno_and_says_what_was_tried_on_what(code: int) -> None:
    fresh = OSError(code, os.strerror(code))
    with pytest.raises(type(fresh)) as raised, trying("/vm/a", "syncing it"), trying("/vm/a", "writing 512 bytes"):
        raise OSError(code, os.strerror(code))
    assert (raised.value.errno, raised.value.filename) == (code, "/vm/a")
    assert raised.value.strerror == f"writing 512 bytes failed: {os.strerror(code)}"
    assert remedy_of(code)


def test_what_was_said_about_another_file_is_kept() -> None:
    with pytest.raises(FileNotFoundError) as raised, trying("/vm/a", "copying it"):
        Path("/nowhere/b").stat()
    assert (raised.value.filename, raised.value.strerror) == ("/nowhere/b", "No such file or directory")
    with pytest.raises(DeviceBusy, match=r"^it is busy$"), trying("/vm/a", "copying it"):
        raise DeviceBusy("it is busy", errno=errno.EBUSY)
