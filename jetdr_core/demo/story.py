"""The story of the demo: build, protect, change, mark, recover, check. It leaves nothing unless it is told to."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from jetdr_core import Disk, DomainStatus, ProtectedDomain, RecoveryPoint, rehydrate
from jetdr_core.demo.checks import Moment, check_disk
from jetdr_core.demo.demo_report import Capture, DemoReport, Recovered
from jetdr_core.demo.ext4_guest import BLOCK_BYTES, IMAGE_BYTES, Guest
from jetdr_core.demo.files import STEPS_BEFORE_LSN, Step, attack, files_at_first, month
from jetdr_core.demo.programs import DemoFailed, Programs, find_programs
from jetdr_core.errors import DeviceFull, InvalidRequest
from jetdr_core.file_making import trying

__all__ = ["run_demo"]

MARK_INSTALLED = "installed"
MARK_CLOSED = "month closed"
MARK_ATTACKED = "files attacked"

_LOG_BYTES = 64 << 20
_SPACE_BYTES = 256 << 20

Tell = Callable[[str], None]
Run = Callable[[Coroutine[Any, Any, None]], None]


def run_demo(*, parent: Path | None, keep: bool, tell: Tell, run: Run = asyncio.run) -> DemoReport:
    """Run the demo in a new folder below ``parent``, by default the system's temporary directory.

    ``tell`` is called with each step as it begins. ``run`` runs a coroutine in a loop of its own, to the end of all its
    threads. Raises :class:`ProgramMissing` or :class:`InvalidRequest` before anything is done, and :class:`DemoFailed`
    if a check fails.
    """
    programs = find_programs()
    started = time.perf_counter()
    with _work_folder(parent, keep=keep) as folder:
        story = _Story(programs, folder, tell)
        with trying(folder, "working in it"):
            run(story.run())  # returns once all its threads have ended, so nobody uses the folder when it is removed
        total_s = time.perf_counter() - started
        return DemoReport(
            folder, keep, IMAGE_BYTES, story.build_s, total_s, tuple(story.captured), tuple(story.recovered)
        )


@contextmanager
def _work_folder(parent: Path | None, *, keep: bool) -> Iterator[Path]:
    if parent is not None and not parent.is_dir():
        raise InvalidRequest(f"{str(parent)!r} is not a directory", hint="name one that exists")
    where = tempfile.gettempdir() if parent is None else parent
    with trying(where, "making a directory in it"):
        folder = Path(tempfile.mkdtemp(prefix="jetdr-demo-", dir=where)).resolve()
    try:
        with trying(folder, "looking at the room of its file system"):
            free_bytes = shutil.disk_usage(folder).free
        if free_bytes < _SPACE_BYTES:
            raise DeviceFull(
                f"{folder.parent} has {free_bytes >> 20} MiB free, the demo needs {_SPACE_BYTES >> 20}",
                hint="name another directory with --dir",
            )
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


class _Story:
    """One run. ``moments`` holds, by LSN, what recoveries are compared with."""

    def __init__(self, programs: Programs, folder: Path, tell: Tell) -> None:
        self.programs = programs
        self.folder = folder
        self.tell = tell
        self.build_s = 0.0
        self.moments: dict[int, Moment] = {}
        self.captured: list[Capture] = []
        self.recovered: list[Recovered] = []

    async def run(self) -> None:
        guest = await asyncio.to_thread(self._build)
        between = await self._protect(guest)
        await self._recover(f"mark {MARK_CLOSED!r}", MARK_CLOSED, "flat")
        await self._recover(f"LSN {between}", between, "stream")
        await self._recover(f"mark {MARK_ATTACKED!r}", MARK_ATTACKED, "flat")

    @property
    def store(self) -> str:
        return (self.folder / "store").as_uri()

    def _build(self) -> Guest:
        files = files_at_first()
        self.tell(f"building an ext4 file system of {IMAGE_BYTES >> 20} MiB with {len(files)} files")
        started = time.perf_counter()
        (self.folder / "guest").mkdir()
        guest = Guest(self.programs, self.folder / "guest", files)
        self.build_s = time.perf_counter() - started
        return guest

    # -- capture -------------------------------------------------------------------------------------------------------

    async def _protect(self, guest: Guest) -> int:
        """Protect the disk, and make both changes as live writes. Return an LSN in the middle of the second."""
        primary = self.folder / "db01-flat.vmdk"
        shutil.copyfile(guest.image, primary)
        domain = ProtectedDomain.create("payroll", log=self.folder / "log", log_bytes=_LOG_BYTES, store=self.store)
        async with domain:
            self.tell("protecting it: its data is copied in the background")
            started = time.perf_counter()
            disk = await domain.protect("db01", primary)
            await self._mark(domain, guest, MARK_INSTALLED, time.perf_counter() - started)
            self.tell("a month of work: files are written and removed, with a flush after each step")
            await self._live(domain, guest, disk, month(), MARK_CLOSED)
            self.tell("an attack: noise replaces one file after the other")
            between = await self._live(domain, guest, disk, attack(guest.files), MARK_ATTACKED)
        if xxhash.xxh3_128_digest(primary.read_bytes()) != guest.checksum:
            raise DemoFailed("the primary is not what the guest wrote", hint="this is a bug: please report it")
        return between

    async def _live(self, domain: ProtectedDomain, guest: Guest, disk: Disk, steps: Iterable[Step], mark: str) -> int:
        """Do ``steps`` as live writes, and mark the end. Return the LSN after the step in the middle."""
        capture_s, between = 0.0, 0
        for nth, step in enumerate(steps, 1):
            lsn, seconds = await asyncio.to_thread(_write_step, guest, disk, step)
            capture_s += seconds
            if nth == STEPS_BEFORE_LSN:
                between = self._remember(lsn, guest)
        await self._mark(domain, guest, mark, capture_s)
        return between

    def _remember(self, lsn: int, guest: Guest) -> int:
        self.moments[lsn] = Moment(guest.checksum, IMAGE_BYTES, guest.files)
        return lsn

    async def _mark(self, domain: ProtectedDomain, guest: Guest, name: str, capture_s: float) -> None:
        point = domain.mark(name)
        marked = time.perf_counter()
        await domain.uploaded(point.lsn)
        self._note(point, domain.status(), capture_s, time.perf_counter() - marked)
        self._remember(point.lsn, guest)

    def _note(self, point: RecoveryPoint, status: DomainStatus, capture_s: float, upload_s: float) -> None:
        """Note the work since the last mark. The uploader counts from the start, so earlier marks are subtracted."""
        self.captured.append(
            Capture(
                point=point,
                writes=sum(disk.writes for disk in status.disks) - sum(row.writes for row in self.captured),
                payload_bytes=status.payload_bytes_uploaded - sum(row.payload_bytes for row in self.captured),
                stored_bytes=status.stored_bytes_uploaded - sum(row.stored_bytes for row in self.captured),
                segments=status.segments_uploaded - sum(row.segments for row in self.captured),
                capture_s=capture_s,
                upload_s=upload_s,
            )
        )

    # -- recovery ------------------------------------------------------------------------------------------------------

    async def _recover(self, label: str, at: str | int, form: str) -> None:
        """Rehydrate the disk from the store alone, and check it."""
        self.tell(f"recovering {label} as a {form} VMDK, and checking it")
        started = time.perf_counter()
        target = self.folder / f"recovered-{len(self.recovered) + 1}"
        report = await rehydrate(self.store, at=at, target=target, format=form)
        rehydrated = time.perf_counter()
        (disk,) = report.disks
        moment = self.moments[report.point.lsn]
        shown = await asyncio.to_thread(check_disk, self.programs, disk.path, moment)
        self.recovered.append(
            Recovered(
                label=label,
                point=report.point,
                path=disk.path,
                format=form,
                bytes_written=disk.bytes_written,
                bytes_fetched=disk.bytes_fetched,
                rehydrate_s=rehydrated - started,
                check_s=time.perf_counter() - rehydrated,
                files=len(moment.files),
                shown=shown,
            )
        )


def _write_step(guest: Guest, disk: Disk, step: Step) -> tuple[int, float]:
    """Write the blocks that changed, then flush, as the guest's kernel would.

    Return the LSN that is durable, and the seconds that writes and flush took.
    """
    changes = guest.do(step)
    started = time.perf_counter()
    for change in changes:
        if any(change.data):
            disk.write(change.offset, change.data)
        else:
            disk.zero(change.offset, BLOCK_BYTES)
    return disk.flush(), time.perf_counter() - started
