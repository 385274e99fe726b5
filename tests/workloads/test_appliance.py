"""The appliance is killed under a working guest.

If the appliance is back at once, the guest waits for it, no write is missed, and every LSN is a recovery point. If it
stays away, the guest goes on by itself, and a gap is open until the appliance is back and has copied the disk.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workloads.appliance import appliance
from tests.workloads.fio_jobs import DISK_BYTES, JOBS, all_issued, judge, working
from tests.workloads.guest_software import Machine, make_root
from tests.workloads.linux_guest import running
from tests.workloads.protected_disks import recovered
from tests.workloads.test_guest import assert_boots_with, drive

ROOT_MB = 48
LSN_FIRST = 300
"""From here on the appliance is killed. There are about 5000 LSNs."""
KILLS = 3
"""The most kills. A busy machine restarts the appliance so slowly that fio may be done before."""
POINTS = 8
PATIENT_S = 45.0
IMPATIENT_S = 0.5


@pytest.fixture
def is_second(store: str) -> bool:
    """Whether to run the second of two cases. Appliances and guests start slowly, so each store runs one case."""
    return store.startswith("az://")


def test_guest_outlives_its_appliance(
    tmp_path: Path, store: str, host: Machine, is_second: bool, peer: Callable[[str], str]
) -> None:
    stays_away, stall_limit_s = is_second, IMPATIENT_S if is_second else PATIENT_S
    root = tmp_path / "root.img"
    make_root(root, ROOT_MB, peer("busybox"), peer("mkfs.ext4"))
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(appliance(tmp_path, store, {"root": root}, stall_limit_s=stall_limit_s))
        first = stack.enter_context(vm.on())
        guest = stack.enter_context(running(host, drive(vm.uris["root"], "raw")))
        guest.said(r"^done 10\b")
        vm.mark("before")
        first.kill()
        first.wait()
        if stays_away:
            guest.said(r"^done 20\b")
        stack.enter_context(vm.on())
        guest.said(r"^done 30\b")
        vm.mark("after")
        guest.switch_off_hard()
        status = vm.until(lambda status: status["lsn_uploaded"] == status["lsn_reserved"])
        assert (status["host"]["off_times"] > 0) == stays_away
        vm.end()
    for mark, files in (("before", 10), ("after", 30)):
        vm.recover(mark, tmp_path / mark)
        assert_boots_with(host, drive(tmp_path / mark / "root.vmdk", "vmdk"), files)


def test_no_write_is_missed_by_an_appliance_that_is_killed_again_and_again(
    tmp_path: Path, store: str, is_second: bool, peer: Callable[[str], str]
) -> None:
    mode = "write-back" if is_second else "write-through"
    disks = {job.disk: DISK_BYTES for job in JOBS}
    with contextlib.ExitStack() as stack:
        vm = stack.enter_context(appliance(tmp_path, store, disks, stall_limit_s=PATIENT_S, mode=mode))
        daemon = stack.enter_context(vm.on())
        kills = 0
        with working(peer("fio"), tmp_path, vm.uris, rest_ms=50) as fio:
            vm.until_lsn(LSN_FIRST)
            while fio.poll() is None and kills < KILLS:
                daemon.kill()
                daemon.wait()
                kills += 1
                daemon = stack.enter_context(vm.on())
        print(f"killed {kills} times before fio was done")
        assert kills > 0
        lsn_last = vm.lsn
        assert vm.until(lambda status: status["consistent"])["host"]["off_times"] == 0
        vm.end()
    writes = all_issued(tmp_path)
    for lsn in sorted(random.Random(0).sample(range(LSN_FIRST, lsn_last), POINTS)):
        counts = judge(recovered(store, tmp_path / str(lsn), at=lsn, form="raw"), writes)
        print(f"LSN {lsn}: {counts}")
    newest = recovered(store, tmp_path / "newest", at="latest", form="raw")
    for name, path in newest.items():
        assert path.read_bytes() == vm.primaries[name].read_bytes()
