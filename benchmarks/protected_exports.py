"""The protected exports: our plugin beside a process that owns the domain and uploads to a store."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import jetdr_core
from benchmarks.domain_process import Answer, Spec
from benchmarks.exports import Export, Place
from benchmarks.file_state import written_file
from benchmarks.material import same_bytes
from benchmarks.measure import PeerMissing
from jetdr_core.rehydrate import rehydrate
from jetdr_core.store import ObjectStore, open_store
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from tests.peers import azurite
from tests.peers.tgt import Tgt

__all__ = ["Protected", "log_file", "protected_exports"]

END_LIMIT_S = 60.0
VOLUME_BYTES = 8 << 20
"""More than a log volume needs besides its sections."""
_ROOT = Path(__file__).resolve().parent.parent
_RUN = f"""import runpy, sys
sys.path.append({str(_ROOT)!r})
runpy.run_module("benchmarks.domain_process", run_name="__main__")"""
"""The package under test comes first on the path, the benchmarks after it."""


class Protected(Export):
    """A protected disk, and the two processes that protect it."""

    def __init__(
        self,
        spec: Spec,
        work: Path,
        environment: Mapping[str, str] | None = None,
        servers: tuple[int, ...] = (),
    ) -> None:
        self.name, self.spec, self.primary = spec.name, spec, Path(spec.primary)
        self._work, self._environment, self._servers = work, environment or {}, servers
        self._host_pid: int | None = None
        self._said = work / f"{spec.name}.said"
        with self._said.open("wb") as said:
            self._drva = subprocess.Popen(
                [sys.executable, "-P", "-c", _RUN, json.dumps(asdict(spec))],
                env={**os.environ, "PYTHONPATH": str(Path(jetdr_core.__file__).parents[1]), **self._environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
            )
        try:
            begun = self._answer()
        except BaseException:
            self.end()
            raise
        self.uri, self._host_pid = begun.uri, begun.host_pid

    @property
    def pids(self) -> list[int]:
        assert self._host_pid is not None
        return [self._drva.pid, self._host_pid, *self._servers]

    def ask(self, request: str) -> Answer:
        assert self._drva.stdin is not None
        self._drva.stdin.write(f"{request}\n")
        self._drva.stdin.flush()
        return self._answer()

    def settle(self) -> None:
        """Wait until the store has everything."""
        self.ask("settle")

    def kill(self, *, host: bool) -> None:
        """Kill the process that owns the domain, and perhaps the host component. The files stay."""
        self._drva.kill()
        self._drva.wait()
        if host and self._host_pid is not None:
            host_fd = os.pidfd_open(self._host_pid)
            signal.pidfd_send_signal(host_fd, signal.SIGKILL)
            select.select([host_fd], [], [], END_LIMIT_S)
            os.close(host_fd)
        self.end()

    def check(self) -> None:
        """Close the domain, rehydrate its newest point, and compare that with the primary."""
        self.end()
        asyncio.run(self._check())

    def end(self) -> None:
        assert self._drva.stdin is not None
        assert self._drva.stdout is not None
        self._drva.stdin.close()
        try:
            self._drva.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._drva.kill()
            self._drva.wait()
            if self._host_pid is not None:
                os.kill(self._host_pid, signal.SIGTERM)
        self._drva.stdout.close()

    async def _check(self) -> None:
        store = self._open_store()
        try:
            report = await rehydrate(
                store, at="latest", target=self._work / f"{self.spec.name}.rehydrated", format="raw"
            )
        finally:
            await store.close()
        rehydrated = report.disks[0].path
        if not same_bytes(rehydrated, Path(self.spec.primary)):
            raise RuntimeError(f"{self.name}: the newest recovery point is not the primary")
        rehydrated.unlink()

    def _open_store(self) -> ObjectStore:
        if self.spec.store.startswith("az:"):
            return AzureBlobStore(azure_target(self.spec.store, self._environment))
        return open_store(self.spec.store)

    def _answer(self) -> Answer:
        assert self._drva.stdout is not None
        line = self._drva.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: the DRVA ended: {self._said.read_text(errors='replace').strip()}")
        return Answer(**json.loads(line))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mode:
    """How a domain is protected, by name."""

    name: str
    write_back: bool
    on_lun: bool


MODES = (
    _Mode(name="write-through-file", write_back=False, on_lun=False),
    _Mode(name="write-back-file", write_back=True, on_lun=False),
    _Mode(name="write-through-LUN", write_back=False, on_lun=True),
    _Mode(name="write-back-LUN", write_back=True, on_lun=True),
)


@contextmanager
def protected_exports(place: Place) -> Iterator[list[Export]]:
    """Start one export per mode, each with a store of its own. They stop at the end of the context."""
    log_bytes = 3 * place.disk_bytes
    with ExitStack() as opened:
        target = opened.enter_context(_target(place.work))
        exports: list[Export] = []
        for mode in MODES:
            log = _lun(target, log_bytes) if mode.on_lun else log_file(place, mode.name, log_bytes)
            export = Protected(
                Spec(
                    name=mode.name,
                    log=log,
                    log_bytes=log_bytes,
                    store=(place.work / f"{mode.name}.store").as_uri(),
                    primary=str(place.primary(mode.name)),
                    runtime=str(place.runtime),
                    state=str(place.work),
                    write_back=mode.write_back,
                ),
                place.work,
                servers=(target.pid,) if mode.on_lun else (),
            )
            opened.callback(export.end)
            exports.append(export)
        yield exports


def log_file(place: Place, name: str, log_bytes: int) -> str:
    """Make a blank log volume with room for a section, on a file that has been written once, and return its path."""
    return str(written_file(place.work / f"{name}.log", log_bytes + VOLUME_BYTES))


@contextmanager
def _target(work: Path) -> Iterator[Tgt]:
    """Start an iSCSI target whose LUNs are files in ``work``, on the same disk as everything else."""
    folder = work / "tgt"
    folder.mkdir()
    try:
        target = Tgt(folder)
    except azurite.PeerMissing as error:
        raise PeerMissing(str(error)) from error
    target.start()
    try:
        yield target
    finally:
        target.stop()


def _lun(target: Tgt, log_bytes: int) -> str:
    lun = target.add(log_bytes + VOLUME_BYTES)
    written_file(lun.image, log_bytes + VOLUME_BYTES)
    return lun.url
