"""QEMU records what primary and log get (blklogwrites). What power losses leave of both is opened and compared."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workloads import mounts, write_log
from tests.workloads.crash_replay import DISK_BYTES, VOLUME_BYTES, check, left, record
from tests.workloads.recorded_devices import recorded_files

INTERVALS = int(os.environ.get("JETDR_CRASH_INTERVALS", "8"))
STATES = 3
"""Of each interval: nothing of it, all of it, and then random ones."""


def test_every_power_loss_leaves_what_was_flushed(tmp_path: Path, peer: Callable[[str], str]) -> None:
    if why := mounts.why_not():
        pytest.skip(why)
    seed = int(os.environ.get("JETDR_CRASH_SEED", "1"))
    sizes = {"disk": DISK_BYTES, "volume": VOLUME_BYTES}
    with recorded_files(peer("qemu-storage-daemon"), tmp_path, sizes) as files:
        intervals = asyncio.run(record(files["disk"], files["volume"], random.Random(seed), INTERVALS))
    of_disk, of_log = (list(write_log.entries(file.log)) for file in (files["disk"], files["volume"]))
    images, done, chance = {"disk": bytearray(DISK_BYTES), "log": bytearray(VOLUME_BYTES)}, [0, 0], random.Random(seed)
    for interval in intervals:
        for place, entries, (name, begin) in zip(
            (0, 1), (of_disk, of_log), (("disk", interval.disk[0]), ("log", interval.log[0])), strict=True
        ):
            for entry in entries[done[place] : begin]:
                write_log.apply(entry, images[name])
            done[place] = begin
        assert images["disk"] == interval.image, "the record of the primary is what was written"
        disk_entries, log_entries = of_disk[slice(*interval.disk)], of_log[slice(*interval.log)]
        for state in range(STATES):
            disk_end, log_end = (0, 0) if state == 0 else (len(disk_entries), len(log_entries))
            check(
                interval,
                left(disk_entries, bytes(images["disk"]), disk_end, chance),
                left(log_entries, bytes(images["log"]), log_end, chance),
            )
