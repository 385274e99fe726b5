"""A ring file, and a host component without NBD (native/ring_host.c) on its other side."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from jetdr_core._core import LogWriter, Ring
from jetdr_core.device import MemoryDevice
from jetdr_core.replication_log.batch import DataArea
from jetdr_core.replication_log.reader import LogBatch, LogReader
from tests.core.rig import SECTION_ID, START, Logged, split

DOMAIN = bytes(range(16))
HERE = Path(__file__).parent
NATIVE = HERE.parent.parent / "native"
PATIENCE_S = 20.0


@cache
def program(name: str) -> Path:
    """``native/NAME.c`` with the core, less the sources that it includes itself; compiled once per process."""
    target = Path(mkdtemp(prefix="jetdr-host-")) / name
    program = HERE / f"native/{name}.c"
    own = set(re.findall(r'#include ".*/core/(.*\.c)"', program.read_text(encoding="utf-8")))
    core = [source for source in sorted((NATIVE / "core").glob("*.c")) if source.name not in own]
    parts = [program, *core, *sorted(NATIVE.glob("*.c"))]
    flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Wno-unused-parameter", "-D_GNU_SOURCE"]
    subprocess.run(["gcc", *flags, "-DXXH_INLINE_ALL", f"-I{NATIVE}", "-o", target, *parts, "-lpthread"], check=True)
    return target


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for ``condition``, within reason."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.002)


class Host:
    """One process on the host's side."""

    def __init__(self, ring: Path, primary: Path, size_bytes: int, limit_ms: int, bypassed_file: Path | None) -> None:
        arguments = [
            program("ring_host"),
            ring,
            primary,
            size_bytes,
            limit_ms,
            *([bypassed_file] if bypassed_file else []),
        ]
        self.process = subprocess.Popen(
            list(map(str, arguments)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.opened = self._answer()[0]

    def begin(self, command: str, *numbers: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join([command, *map(str, numbers)]) + "\n")

    def end(self) -> list[int]:
        return self._answer()

    def answers(self, limit_s: float = 0.01) -> bool:
        """Whether it has answered."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], limit_s)[0])

    def call(self, command: str, *numbers: int) -> int:
        self.begin(command, *numbers)
        return self._answer()[0]

    def sleeps(self, threads: int) -> bool:
        """Whether it has that many threads, and each of them waits for something."""
        stats = [path.read_text() for path in Path(f"/proc/{self.process.pid}/task").glob("*/stat")]
        return [stat.rpartition(")")[2].split()[0] for stat in stats] == ["S"] * threads

    def die(self, command: str, *numbers: int) -> None:
        """Tell it to do what kills it."""
        self.begin(command, *numbers)
        assert self.process.wait(PATIENCE_S) == -signal.SIGKILL

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.kill()
        with suppress(BrokenPipeError), self.process:
            pass

    def _answer(self) -> list[int]:
        assert self.answers(PATIENCE_S), "the host does not answer"
        assert self.process.stdout is not None
        return list(map(int, self.process.stdout.readline().split()))


class Shared:
    """A ring file with its log in memory; hosts come and go, and so does the DRVA's side."""

    def __init__(self, folder: Path, *, ring_bytes: int, slots: int, size_bytes: int, write_back: bool) -> None:
        self.folder, self.path, self.primary = folder, folder / "ring", folder / "primary"
        self.bypassed_file = folder / "bypassed"
        self.write_back = write_back
        self.size_bytes = size_bytes
        self.primary.write_bytes(bytes(size_bytes))
        self.log = MemoryDevice(8 << 20)
        self.hosts: list[Host] = []
        self.writer: LogWriter | None = None
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.ring: Ring | None = Ring.create_file(
            fd, domain=DOMAIN, payload_bytes=ring_bytes, slots=slots, lsn_next=1, write_back=write_back
        )
        os.close(fd)

    @property
    def drva(self) -> Ring:
        assert self.ring is not None
        return self.ring

    def host(self, *, limit_ms: int = 10_000) -> Host:
        bypassed_file = self.bypassed_file if self.write_back else None
        host = Host(self.path, self.primary, self.size_bytes, limit_ms, bypassed_file)
        self.hosts.append(host)
        return host

    def leave(self) -> None:
        """The DRVA's side is given up as at its death: nothing is said, nothing is finished."""
        self.ring = self.writer = None

    def come_back(self) -> Ring:
        fd = os.open(self.path, os.O_RDWR)
        self.ring = Ring.open_file(fd, domain=DOMAIN)
        os.close(fd)
        return self.ring

    def log_writer(self) -> LogWriter:
        """The log as the ring's consumer goes on with it."""
        cursor = next(reversed([START, *(batch.end for batch in self._batches())]))
        self.drva.adopt(cursor.lsn)
        self.writer = LogWriter(
            self.drva,
            self.log,
            data_offset=0,
            data_bytes=self.log.size_bytes,
            section_id=SECTION_ID,
            epoch=1,
            head_position=cursor.position,
            tail_position=0,
            batch_number=cursor.batch_number,
            previous_checksum=cursor.checksum,
        )
        return self.writer

    def drain(self) -> None:
        """Everything that the ring holds goes to the log."""
        writer = self.writer or self.log_writer()
        writer.start()
        until(lambda: self.drva.wait_durable(self.drva.lsn_reserved, 0.1), "the ring to be drained")
        writer.stop()

    def records(self) -> list[Logged]:
        return [record for batch in self._batches() for record in split(batch.records.headers, batch.records.payload)]

    def _batches(self) -> Iterator[LogBatch]:
        """Every whole batch in the log, flushed or not, as recovery finds them."""
        reader, cursor = LogReader(self.log, DataArea(SECTION_ID, 0, self.log.size_bytes), where="log"), START
        while isinstance(batch := reader.examine(cursor, self.log.size_bytes), LogBatch):
            yield batch
            cursor = batch.end

    def close(self) -> None:
        for host in self.hosts:
            host.close()


@contextmanager
def shared_ring(
    *, ring_bytes: int = 1 << 18, slots: int = 256, size_bytes: int = 1 << 20, write_back: bool = False
) -> Iterator[Shared]:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        shared = Shared(Path(folder), ring_bytes=ring_bytes, slots=slots, size_bytes=size_bytes, write_back=write_back)
        try:
            yield shared
        finally:
            shared.close()
