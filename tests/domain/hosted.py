"""What tests of hosted domains share: a machine with a host component, guests that load its disks, a DRVA to be killed.

Paths of sockets are short and the ring needs tmpfs, so a machine lives in /dev/shm.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import jetdr_core as jetdr
from jetdr_core.domain import opening
from jetdr_core.errors import HostFailed
from jetdr_core.host import HostComponent, HostOptions
from tests.domain.fixture import recovered
from tests.domain.nursery import Child
from tests.host.nbd_client import NbdClient

STALL_LIMIT_S = 0.5
LONGEST_S = STALL_LIMIT_S + 5
"""What a guest may wait at most: the stall limit, and a margin for a machine that does nothing for some seconds.

It is no weaker for that: what guests could wait for is dead, stopped or full until the test has seen them go on, so
without the limit they would wait for ever.
"""

DISK_BYTES = 4 << 20
LOG_BYTES = 8 << 20
RING_BYTES = 4 << 20
OPTIONS = jetdr.DomainOptions(
    segment_age_s=0.05,
    ring_bytes=RING_BYTES,
    ring_slots=4096,
    heartbeat_s=0.2,
    upload_workers=1,
    stall_limit_s=STALL_LIMIT_S,
    close_limit_s=20,
)


opening.RETRY_BRIEFLY = replace(opening.RETRY_BRIEFLY, delay_base_s=0.01)
"""An opening asks a store that is away as often as it does for guests, but in a tenth of the time."""


class Machine:
    """Everything of domain ``vm`` in one folder: disks, log, store, and where its host component runs."""

    def __init__(self, folder: Path, *, write_back: bool = False, ring_bytes: int = RING_BYTES) -> None:
        self.folder = folder
        self.write_back = write_back
        self.options = replace(OPTIONS, ring_bytes=ring_bytes)
        self.store: Any = f"file://{folder}/store"
        self.log: Any = folder / "log"
        if not (folder / "run").exists():
            (folder / "store").mkdir()  # later it may be away
            (folder / "run").mkdir(mode=0o700)

    @property
    def host_options(self) -> HostOptions:
        return HostOptions(
            runtime=str(self.folder / "run"),
            state=str(self.folder / "state"),
            stall_limit_s=STALL_LIMIT_S,
            write_back=self.write_back,
        )

    @property
    def host(self) -> HostComponent:
        return HostComponent("vm", self.host_options)

    @property
    def ring(self) -> Path:
        return self.folder / "run/vm/ring"

    @property
    def bypassed(self) -> Path:
        return self.folder / "state/vm/bypassed"

    def create(self, **more: Any) -> jetdr.HostedDomain:
        settings: dict[str, Any] = {"log_bytes": LOG_BYTES, "options": self.options, "host": self.host_options} | more
        return jetdr.HostedDomain.create("vm", log=self.log, store=self.store, **settings)

    def open(self, **more: Any) -> jetdr.HostedDomain:
        settings: dict[str, Any] = {"options": self.options, "host": self.host_options} | more
        settings.setdefault("trust_stored_paths", "disks" not in more)
        return jetdr.HostedDomain.open("vm", log=self.log, store=self.store, **settings)

    def take_over(self) -> jetdr.HostedDomain:
        settings: dict[str, Any] = {"log_bytes": LOG_BYTES, "options": self.options}
        return jetdr.HostedDomain.take_over(
            "vm", log=self.log, store=self.store, host=self.host_options, trust_stored_paths=True, **settings
        )

    def client(self, disk: str = "db01") -> NbdClient:
        return NbdClient(str(self.folder / "run/vm/nbd.sock"), disk)

    def primary(self, disk: str = "db01") -> Path:
        return self.folder / f"{disk}.img"

    def kill_host(self) -> None:
        """SIGKILL, and wait until it is gone."""
        pid = self.host.pid
        fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _lives(fd))
        os.close(fd)

    def end(self) -> None:
        """Raises when the host component is there and cannot be asked: it would stay, without its folder."""
        with suppress(HostFailed):
            self.host.stop()


@contextmanager
def machine(**settings: Any) -> Iterator[Machine]:
    folder = Path(tempfile.mkdtemp(prefix="jetdr-", dir="/dev/shm"))
    made = Machine(folder, **settings)
    try:
        yield made
    finally:
        made.end()
        shutil.rmtree(folder)


def _lives(pid_fd: int) -> bool:
    """Until it has ended, though its parent may be stopped and not know yet."""
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    return not poll.poll(0)


def until(condition: Callable[[], object], limit_s: float = 20.0) -> None:
    """Return when ``condition`` holds; fail if it does not within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        time.sleep(0.01)


def gaps(domain: jetdr.HostedDomain) -> list[str]:
    """Why the domain was not consistent, so far."""
    return [gap.reason for gap in domain._alive.control_log.history.gaps]


async def assert_replica_equals_primary(domain: jetdr.HostedDomain, made: Machine) -> None:
    """The newest point, with nobody writing, is what the primaries hold once they have all of it."""
    ring = domain._alive.parts.ring
    await asyncio.to_thread(until, lambda: not ring.write_back or ring.lsn_in_primaries >= ring.lsn_reserved)
    point = domain.mark(f"check {time.time_ns()}")
    await domain.uploaded(point.lsn)
    images = await recovered(made.store, point.lsn)
    assert images.keys() == domain.disks.keys()
    for name, image in images.items():
        assert image == made.primary(name).read_bytes(), f"disk {name} differs"


@asynccontextmanager
async def written_domain(made: Machine) -> AsyncIterator[jetdr.HostedDomain]:
    """A new domain with one disk, which guests have written to."""
    async with made.create() as domain:
        await domain.protect("db01", made.primary(), size_bytes=DISK_BYTES)
        with Load(made) as load:
            await asyncio.to_thread(load.goes_on)
        yield domain


async def assert_whole_and_end(domain: jetdr.HostedDomain, made: Machine) -> None:
    """Replica and primaries are equal. The domain is then closed, with its host component."""
    await assert_replica_equals_primary(domain, made)
    await domain.close(stop_host=True)


class Load:
    """Guests that write, in a process of their own (load_process.py), until the block is left.

    ``longest_s``: the longest that an answered request took; ``answered``: how many were.
    """

    def __init__(
        self, made: Machine, *, guests: int = 3, disk: str = "db01", pause_s: float = 0.001, flushes: bool = True
    ) -> None:
        self.longest_s = 0.0
        self.answered = 0
        self.failed: list[str] = []
        socket = str(made.folder / "run/vm/nbd.sock")
        settings = {"guests": guests, "pause_s": pause_s, "flushes": flushes, "disk_bytes": DISK_BYTES}
        self._order = {"socket": socket, "disk": disk} | settings
        self._ended = False
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Load:
        self._process = Child("load_process", self._order)
        self._listener.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process:
            self._process.stdin.close()
            self._listener.join(30)
            self._process.kill()
        if kind is None:
            assert self._ended, "a guest hangs"
            assert not self.failed, self.failed

    def goes_on(self, requests: int = 50) -> None:
        """Return when so many more have been answered."""
        begun = self.answered
        until(lambda: self.answered >= begun + requests)

    def _listen(self) -> None:
        for line in self._process.stdout:
            self.answered, self.longest_s, self.failed, self._ended = json.loads(line)


class Drva:
    """A DRVA in a process of its own, which has the machine's domain open; :meth:`ask` it, or kill it."""

    def __init__(
        self, made: Machine, how: str, *, dies_at: tuple[str, str] | None = None, expect_open: bool = True
    ) -> None:
        """``how``: ``create`` (with a disk db01) or ``open``.

        ``dies_at``: the process kills itself when it is about to call that function of a module, ``CLASS.NAME``.
        """
        settings = {"write_back": made.write_back, "ring_bytes": made.options.ring_bytes}
        order = {"folder": str(made.folder), "how": how, "settings": settings, "dies_at": dies_at}
        self._process = Child("drva_process", order)
        try:
            self.opened: Any = self._answer() if expect_open else None
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Drva:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.kill()

    def ask(self, *words: Any) -> Any:
        """status; wait (until it is consistent); equal; pause; applied (to the primaries); close [stop_host]."""
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        assert line, "the DRVA's process ended"
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def close(self, *, stop_host: bool = False) -> None:
        self.ask("close", stop_host)
        self._end()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._end()

    def died(self) -> None:
        """Wait until the process has killed itself."""
        ended = self._process.wait(30)
        assert ended == -signal.SIGKILL, (ended, self._process.stdout.read())
        self._end()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def _end(self) -> None:
        self._process.wait(20)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
