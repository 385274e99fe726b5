"""fio writes to three disks of one domain at once, and verifies; points in the midst are judged by fio's own records.

At any LSN a disk holds what some of fio's writes put there, whole blocks only. When fio issued the newest of them, it
had at most ``depth`` - 1 others in flight; all older ones had been acknowledged, so they are at lower LSNs and must be
there. A job of depth 1 must be there to the last write, without exception.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.workloads.fio import Issued, Job, issued, job_file, missing, numbers
from tests.workloads.protected import ProtectedDisks, protected_disks

DISK_BYTES = 16 << 20
JOBS = (Job("db", 1, 4096, 1200), Job("web", 4, 8192, 1600), Job("mail", 16, 16384, 2000))
MARKS = 5
OTHER_POINTS = 8
LIMIT_S = 90.0


def test_disks_written_at_once_come_back_at_any_point(tmp_path: Path, store: str, peer: Callable[[str], str]) -> None:
    with protected_disks(tmp_path, store, {job.disk: DISK_BYTES for job in JOBS}) as protected:
        marks = run(peer("fio"), tmp_path, protected)
        protected.uploaded()
        lsn_last = protected.lsn
        points = random.Random(0).sample(range(min(marks.values()), lsn_last), OTHER_POINTS)
        writes = {job.disk: issued(tmp_path / f"{job.disk}.iolog") for job in JOBS}
        seen = [check(protected, point, writes) for point in sorted({*marks.values(), *points})]
        for mark, lsn in marks.items():
            with protected.recovery(mark) as named, protected.recovery(lsn) as numbered:
                assert contents(named) == contents(numbered)
        with protected.recovery() as newest:
            assert contents(newest) == contents(protected.primaries)
    for job in JOBS:
        counts = [point[job.disk] for point in seen]
        print(f"{job.disk}: {counts} of {len(writes[job.disk])} writes at the points")
        assert counts == sorted(counts)
        assert 0 < counts[0] < len(writes[job.disk]), "the first point is not in the midst of the work"


def run(fio: str, folder: Path, protected: ProtectedDisks) -> dict[str, int]:
    """Run all jobs at once; marks made meanwhile, at even distances, by name with their LSN."""
    sections = [job.section(protected.uris[job.disk], DISK_BYTES, folder / f"{job.disk}.iolog") for job in JOBS]
    (folder / "jobs.fio").write_text(job_file(sections, seed=1))
    lsn_first, expected = protected.lsn, sum(job.requests for job in JOBS)
    marks: dict[str, int] = {}
    with subprocess.Popen(
        [fio, folder / "jobs.fio"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    ) as process:
        try:
            while process.poll() is None and len(marks) < MARKS:
                if protected.lsn > lsn_first + (len(marks) + 1) * expected // (MARKS + 1):
                    name = f"mark {len(marks)}"
                    marks[name] = protected.mark(name)
            said, _ = process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert len(marks) == MARKS
    return marks


def check(protected: ProtectedDisks, lsn: int, writes: dict[str, list[Issued]]) -> dict[str, int]:
    """Judge all disks at that point; returns how many writes fio had issued to each."""
    counts = {}
    with protected.recovery(lsn) as disks:
        for job in JOBS:
            counts[job.disk], lacked = missing(numbers(disks[job.disk].read_bytes()), writes[job.disk])
            assert len(lacked) < job.depth, f"LSN {lsn}: {job.disk} lacks writes {lacked} of {counts[job.disk]}"
    return counts


def contents(disks: Mapping[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in disks.items()}
