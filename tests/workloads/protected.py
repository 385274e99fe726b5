"""ProtectedDisks: the disks of one protected domain, served over NBD, and what a workload's test asks of the domain.

The one place of these tests that knows how a domain and its NBD server are started. Talks to: ProtectedDomain.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jetdr_core as jetdr
from tests.workloads.nbd_server import NbdServer

OPTIONS = jetdr.DomainOptions(segment_bytes=4 << 20, segment_age_s=0.5)
LOG_BYTES = 512 << 20
LIMIT_S = 60.0


@dataclass(frozen=True)
class ProtectedDisks:
    """A running domain. Any thread may call any method; each returns, or raises TimeoutError, within a minute."""

    domain: jetdr.ProtectedDomain
    store: str
    folder: Path
    uris: Mapping[str, str]
    """Of each disk's NBD export."""
    primaries: Mapping[str, Path]
    _recoveries: list[Path] = field(default_factory=list)

    @property
    def lsn(self) -> int:
        """The last LSN given out: every write that was acknowledged before has this one or a lower."""
        return self.domain.status().lsn_reserved

    def mark(self, name: str) -> int:
        return self.domain.mark(name).lsn

    def uploaded(self, lsn: int | None = None) -> None:
        """Return when the store holds everything up to ``lsn``, or up to now."""
        _finish(self.domain.uploaded(self.lsn if lsn is None else lsn))

    def recovered(self, at: int | str = "latest", form: str = "raw") -> dict[str, Path]:
        """Every disk as it was at that point, rebuilt from the store alone into a folder of its own."""
        target = self.folder / f"recovered-{len(self._recoveries)}"
        self._recoveries.append(target)
        return recovered(self.store, target, at=at, form=form, cache=self.folder / "cache")

    @contextlib.contextmanager
    def recovery(self, at: int | str = "latest", form: str = "raw") -> Iterator[dict[str, Path]]:
        """Like :meth:`recovered`; the disks are removed at the end."""
        disks = self.recovered(at, form)
        try:
            yield disks
        finally:
            for path in disks.values():
                shutil.rmtree(path.parent, ignore_errors=True)


def recovered(store: str, target: Path, *, at: int | str, form: str, cache: Path | None = None) -> dict[str, Path]:
    """Every disk by name as it was at that point, rebuilt into the folder ``target``."""
    work = jetdr.rehydrate(store, at=at, target=target, format=form, cache=cache)
    report = asyncio.run(asyncio.wait_for(work, LIMIT_S))
    return {disk.name: Path(disk.path) for disk in report.disks}


@contextlib.contextmanager
def protected_disks(folder: Path, store: str, disks: Mapping[str, int | Path]) -> Iterator[ProtectedDisks]:
    """A domain protects these disks for as long as the block runs, each with an NBD export of its name.

    A disk is given by its size, if it is to be a new one, or by its image, which is its primary from now on.
    """
    primaries = {name: disk if isinstance(disk, Path) else folder / f"{name}.img" for name, disk in disks.items()}
    domain = jetdr.ProtectedDomain.create(
        "guests", log=folder / "log", log_bytes=LOG_BYTES, store=store, options=OPTIONS
    )
    with contextlib.ExitStack() as stack:
        runtime = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jetdr-", dir="/dev/shm")))
        _finish(domain.__aenter__())
        stack.callback(lambda: _finish(domain.close()))
        for name, disk in disks.items():
            size_bytes = None if isinstance(disk, Path) else disk
            _finish(domain.protect(name, primaries[name], size_bytes=size_bytes))
        server = NbdServer(runtime / "nbd.sock", domain.disks)
        stack.callback(server.close)
        uris = {name: f"nbd+unix:///{name}?socket={runtime}/nbd.sock" for name in disks}
        yield ProtectedDisks(domain, store, folder, uris, primaries)


def _finish(work: Coroutine[Any, Any, object]) -> None:
    asyncio.run(asyncio.wait_for(work, LIMIT_S))
