"""What every test relies on: the right package is under test, and a test whose peer is missing is skipped by name.

Under ``python -P`` the installed package is tested, never the source tree. With ``JETDR_REQUIRE_PEERS=1``, as in CI, a
skipped test is a failed one. Helper modules beside the tests are imported as ``tests.<area>.<module>``.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

import jetdr_core

if TYPE_CHECKING:
    from tests.peers.azurite import Azurite
    from tests.peers.s3_server import S3Server
    from tests.peers.tgt import Tgt

ROOT = Path(__file__).resolve().parent.parent
PEERS_REQUIRED = os.environ.get("JETDR_REQUIRE_PEERS") == "1"

settings.register_profile(
    "jetdr",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    derandomize=PEERS_REQUIRED,
)
settings.load_profile("jetdr")


def pytest_configure() -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background shell: children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _use_memory()
    if sys.flags.safe_path and Path(jetdr_core.__file__).is_relative_to(ROOT / "jetdr_core"):
        raise pytest.UsageError("python -P tests the installed package, but the source tree was imported")


MEMORY = Path("/dev/shm")
MEMORY_BYTES_MIN = 4 << 30


def _use_memory() -> None:
    """Let temporary folders lie on tmpfs, where a sync costs nothing. Tests of files ask for ``disk_path``."""
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """A folder on the machine's disk. It takes the place of ``tmp_path`` where a file system is tested."""
    with tempfile.TemporaryDirectory(prefix="jetdr-", dir="/var/tmp") as folder:
        yield Path(folder)


NATIVE_AREAS = {"core", "host", "kernels", "log"}
"""The folders whose tests drive the C code closely. All tests in them are marked ``native``."""

assert all((ROOT / "tests" / area).is_dir() for area in NATIVE_AREAS), "an area that is gone would never be marked"


def _in_native_area(path: Path) -> bool:
    return bool(NATIVE_AREAS & set(path.relative_to(ROOT).parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _in_native_area(item.path):
            item.add_marker(pytest.mark.native)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m native`` import no module that has no such test. Under sanitizers imports are slow."""
    if config.getoption("markexpr") != "native" or collection_path.suffix != ".py" or _in_native_area(collection_path):
        return None
    return None if "mark.native" in collection_path.read_text(encoding="utf-8") else True


def _importable(name: str) -> None:
    """Make the repository's folder ``name`` importable without putting the repository on ``sys.path``."""
    module = sys.modules.setdefault(name, ModuleType(name))
    module.__path__ = [str(ROOT / name)]


_importable("tests")
_importable("benchmarks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if PEERS_REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped, and JETDR_REQUIRE_PEERS=1 forbids it: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if PEERS_REQUIRED and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped, and JETDR_REQUIRE_PEERS=1 forbids it: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def peer() -> Callable[[str], str]:
    """``peer("qemu-img")`` returns the path of a program, or skips the test if it is not installed."""

    def find(program: str) -> str:
        places = [os.environ.get("PATH", ""), "/usr/sbin", "/sbin", str(ROOT / ".peers/node_modules/.bin")]
        found = shutil.which(program, path=os.pathsep.join(places))
        if found is None:
            pytest.skip(f"{program} is not installed; ./check installs it")
        return found

    return find


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """A running Azurite. All tests of the session share it."""
    from tests.peers.azurite import PeerMissing, running_azurite  # noqa: PLC0415 - after _importable

    try:
        with running_azurite() as server:
            yield server
    except PeerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A running S3 server. All tests of the session share it."""
    from tests.peers.s3_server import running_s3_server  # noqa: PLC0415

    with running_s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def tgt() -> Iterator[Tgt]:
    """A running iSCSI target daemon. All tests of the session that do not kill it share it."""
    yield from _tgt()


@pytest.fixture
def own_tgt() -> Iterator[Tgt]:
    """A target daemon that the test may kill."""
    yield from _tgt()


def _tgt() -> Iterator[Tgt]:
    from tests.peers.azurite import PeerMissing  # noqa: PLC0415
    from tests.peers.tgt import running_tgt  # noqa: PLC0415

    try:
        with running_tgt() as server:
            yield server
    except PeerMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["file", "loop", "partition", "lun", "lun_of_4k_blocks"])
def log_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place for a log volume."""
    from tests.peers.places import opened_place  # noqa: PLC0415

    with opened_place(request.param, tmp_path, request) as place:
        yield place
