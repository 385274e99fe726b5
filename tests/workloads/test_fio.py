"""fio writes to three disks of one domain at once, and verifies. fio's own records judge other recovery points."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.workloads.fio_jobs import DISK_BYTES, JOBS, all_issued, judge, working
from tests.workloads.protected_disks import ProtectedDisks, protected_disks

MARKS = 5
OTHER_POINTS = 8


def test_disks_written_at_once_come_back_at_any_point(
    tmp_path: Path, store: str, write_back: bool, peer: Callable[[str], str]
) -> None:
    with protected_disks(tmp_path, store, {job.disk: DISK_BYTES for job in JOBS}, write_back=write_back) as protected:
        lsn_first = protected.lsn
        marks = work(peer("fio"), tmp_path, protected)
        points = random.Random(0).sample(range(min(marks.values()), protected.lsn), OTHER_POINTS)
        points += range(lsn_first + 1, min(marks.values()), 100)
        protected.end()
        writes = all_issued(tmp_path)
        seen = []
        for point in sorted({*marks.values(), *points}):
            with protected.recovery(point) as disks:
                seen.append(judge(disks, writes))
        for mark, lsn in marks.items():
            with protected.recovery(mark) as named, protected.recovery(lsn) as numbered:
                assert contents(named) == contents(numbered)
        with protected.recovery() as newest:
            assert contents(newest) == contents(protected.primaries)
    for job in JOBS:
        counts = [point[job.disk] for point in seen]
        print(f"{job.disk}: {counts} of {len(writes[job.disk])} writes at the points")
        assert counts == sorted(counts)
        assert any(0 < count < len(writes[job.disk]) for count in counts), "no point is in the midst of the work"


def work(fio: str, folder: Path, protected: ProtectedDisks) -> dict[str, int]:
    """Run all jobs, and take marks at even distances meanwhile. Return the LSN of each mark by its name."""
    lsn_first, expected = protected.lsn, sum(job.requests for job in JOBS)
    marks: dict[str, int] = {}
    with working(fio, folder, protected.uris) as process:
        while process.poll() is None and len(marks) < MARKS:
            if protected.lsn > lsn_first + (len(marks) + 1) * expected // (MARKS + 1):
                name = f"mark {len(marks)}"
                marks[name] = protected.mark(name)
    assert len(marks) == MARKS
    return marks


def contents(disks: Mapping[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in disks.items()}
