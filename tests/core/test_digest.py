"""The digest of a range is that of the disk exactly at its LSN, whoever writes meanwhile."""

from __future__ import annotations

import errno
import threading

import pytest
import xxhash

from jetdr_core.device import MemoryDevice
from jetdr_core.errors import InvalidRequest, LoggingOff, PrimaryFailed
from tests.core.rig import Rig, replay
from tests.core.test_primary_failure import Broken

SIZE = 64 << 10
HOT = 8192


def test_a_digest_is_of_the_disk_at_its_lsn_while_others_write() -> None:
    rig = Rig(log_bytes=64 << 20)
    disk = rig.disk(MemoryDevice(SIZE))
    rig.writer.start()
    done = threading.Event()

    def write(seed: int) -> None:
        for n in range(400):
            disk.write((seed + n) % 14 * 512, bytes([(seed * 50 + n) % 255 + 1]) * 1024)
        done.set()

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    found = [disk.digest(0, HOT)]
    while not done.is_set():
        found.append(disk.digest(0, HOT))
    for thread in threads:
        thread.join()
    disk.flush()
    rig.writer.stop()
    records = rig.records()
    for lsn, digest in found[:: max(1, len(found) // 50)]:
        assert digest == xxhash.xxh3_128_digest(replay(records[:lsn], SIZE)[:HOT])


def test_a_digest_logs_nothing_and_has_the_lsn_of_the_last_record() -> None:
    rig = Rig()
    disk = rig.disk(MemoryDevice(SIZE))
    assert disk.digest(0, 512) == (0, xxhash.xxh3_128_digest(bytes(512)))
    disk.write(512, b"a" * 512)
    rig.disk(MemoryDevice(SIZE), 2).write(0, b"b" * 512)
    assert disk.digest(0, 1024) == (2, xxhash.xxh3_128_digest(bytes(512) + b"a" * 512))
    assert rig.ring.lsn_reserved == 2


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 100), (SIZE, 512), (0, 2 << 20)])
def test_a_range_that_is_none_of_the_disk_is_refused(offset: int, length: int) -> None:
    with pytest.raises(InvalidRequest, match=f"digest of {length} bytes at {offset}"):
        Rig().disk(MemoryDevice(SIZE)).digest(offset, length)


def test_a_disk_that_may_differ_from_its_log_gives_no_digest_until_it_is_trusted() -> None:
    primary = Broken(errno.EIO)
    disk = Rig().disk(primary)
    with pytest.raises(PrimaryFailed):
        disk.digest(0, 512)
    with pytest.raises(PrimaryFailed):
        disk.zero(0, 4096)
    assert disk.stats().suspect
    primary.failing = False
    with pytest.raises(LoggingOff):
        disk.digest(0, 512)
    disk.trust()
    assert disk.digest(0, 512)[0] == 0
