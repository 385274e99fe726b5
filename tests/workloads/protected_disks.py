"""ProtectedDisks: the disks of one protected domain, served over NBD, and what the tests of workloads ask of it.

Invariant: nothing else in these tests starts or ends a domain and its host component.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jetdr_core as jetdr
from jetdr_core.host import HostComponent, HostOptions

_T = TypeVar("_T")

STALL_LIMIT_S = 30.0
"""A busy machine loses no recovery point unless it stands still for longer than this."""

OPTIONS = jetdr.DomainOptions(segment_bytes=4 << 20, segment_age_s=0.5, stall_limit_s=STALL_LIMIT_S)
LOG_BYTES = 512 << 20
LIMIT_S = 60.0


class ProtectedDisks:
    """A running domain. Thread-safe. Every method returns, or raises TimeoutError, within a minute."""

    def __init__(self, domain: jetdr.HostedDomain, store: str, folder: Path) -> None:
        self.store = store
        self.uris = {name: disk.nbd_uri for name, disk in domain.disks.items()}
        """The NBD URI of each disk."""
        self.primaries = {name: Path(disk.path) for name, disk in domain.disks.items()}
        self._domain = domain
        self._folder = folder

    @property
    def lsn(self) -> int:
        """The last LSN given out. Every write acknowledged before has this LSN or a lower one."""
        return self._domain.status().lsn_reserved

    def mark(self, name: str) -> int:
        return self._domain.mark(name).lsn

    def end(self) -> None:
        """Stop serving. At return the primaries and the store have everything."""
        finish(self._domain.close(stop_host=True))

    @contextlib.contextmanager
    def recovery(self, at: int | str = "latest") -> Iterator[dict[str, Path]]:
        """Rehydrate every disk at that point, from the store alone, as a raw file. It is removed with the context."""
        with _tmpfs() as target:
            yield recovered(self.store, Path(target), at=at, form="raw", cache=self._folder / "cache")


def recovered(store: str, target: Path, *, at: int | str, form: str, cache: Path | None = None) -> dict[str, Path]:
    """Rehydrate every disk at that point into the folder ``target``, and return the files by disk name."""
    work = jetdr.rehydrate(store, at=at, target=target, format=form, cache=cache)
    return {disk.name: Path(disk.path) for disk in finish(work).disks}


@contextlib.contextmanager
def protected_disks(
    folder: Path, store: str, disks: Mapping[str, int | Path], *, write_back: bool = False
) -> Iterator[ProtectedDisks]:
    """Protect these disks inside the context. Each has an NBD export of its name.

    A new disk is given by its size. An existing one is given by its image, which becomes its primary.
    """
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(_tmpfs())
        host = HostOptions(
            runtime=runtime, state=str(folder / "state"), stall_limit_s=STALL_LIMIT_S, write_back=write_back
        )
        domain = jetdr.HostedDomain.create(
            "guests", log=folder / "log", log_bytes=LOG_BYTES, store=store, options=OPTIONS, host=host
        )
        stack.callback(stop_host, HostComponent("guests", host))
        finish(domain.__aenter__())
        stack.callback(lambda: finish(domain.close(stop_host=True)))
        for name, disk in disks.items():
            path, size_bytes = (disk, None) if isinstance(disk, Path) else (folder / f"{name}.img", disk)
            finish(domain.protect(name, path, size_bytes=size_bytes))
        yield ProtectedDisks(domain, store, folder)


def _tmpfs() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="jetdr-", dir="/dev/shm")


def stop_host(host: HostComponent) -> None:
    """Stop the host component if it runs, whatever happened to its domain."""
    if host.running():
        host.stop()


def finish(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(asyncio.wait_for(work, LIMIT_S))
