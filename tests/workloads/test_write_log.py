"""The reader of write logs reads QEMU's own log of a plain file, and refuses what is no log."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workloads import write_log
from tests.workloads.write_log import DamagedWriteLog

DISK_BYTES = 1 << 20
COMMANDS = """write -P 1 0 8k
write -f -P 2 4k 4k
write -z 1k 2k
aio_write -P 3 64k 512
aio_write -P 4 70k 64k
aio_flush
discard 72k 8k
flush
write -P 5 512 512
"""


@pytest.fixture
def recorded(tmp_path: Path, peer: Callable[[str], str]) -> Path:
    """A log of COMMANDS, which qemu-io did on ``disk.img`` beside it."""
    disk, log = tmp_path / "disk.img", tmp_path / "log"
    disk.write_bytes(bytes(DISK_BYTES))
    log.touch()
    options = f"driver=blklogwrites,file.driver=file,file.filename={disk},file.discard=unmap"
    options += f",log.driver=file,log.filename={log}"
    subprocess.run(
        [peer("qemu-io"), "-t", "writeback", "--image-opts", options],
        input=COMMANDS,
        text=True,
        check=True,
        capture_output=True,
        timeout=30,
    )
    return log


def test_replayed_log_is_the_disk(recorded: Path) -> None:
    image = bytearray(DISK_BYTES)
    for write in write_log.entries(recorded):
        write_log.apply(write, image)
    assert image == (recorded.parent / "disk.img").read_bytes()


def test_every_entry_is_there_in_order(recorded: Path) -> None:
    found = [(write.offset, write.length, write.flags) for write in write_log.entries(recorded)]
    in_flight = sorted(found[4:6])
    assert [*found[:4], *in_flight, *found[6:]] == [
        (0, 8192, 0),
        (4096, 4096, 0),
        (0, 0, write_log.FLUSH),
        (1024, 2048, 0),
        (65536, 512, 0),
        (71680, 65536, 0),
        (73728, 8192, write_log.DISCARD),
        (0, 0, write_log.FLUSH),
        (512, 512, 0),
        (0, 0, write_log.FLUSH),
    ]
    assert write_log.count(recorded) == len(found)


def test_log_cut_anywhere_is_refused(recorded: Path, tmp_path: Path) -> None:
    whole = recorded.read_bytes()
    cut = tmp_path / "cut"
    for length in [1, 27, *range(28, len(whole), 509)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(DamagedWriteLog):
            list(write_log.entries(cut))


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, b"\0"),  # magic
        (8, b"\2"),  # version
        (16, b"\xff\xff\xff\xff"),  # entries
        (24, b"\1\0\0\0"),  # sector size
        (24, b"\0\0\0\x80"),
        (512 + 7, b"\xff"),  # first sector of entry 0
        (512 + 15, b"\xff"),  # its length
        (512 + 11, b"\1"),
        (512 + 16, b"\x10"),  # its flags
        (512 + 30, b"\1"),  # its bytes of data
    ],
)
def test_damaged_field_is_refused(recorded: Path, position: int, value: bytes) -> None:
    damaged = bytearray(recorded.read_bytes())
    damaged[position : position + len(value)] = value
    recorded.write_bytes(damaged)
    with pytest.raises(DamagedWriteLog):
        list(write_log.entries(recorded))


def test_write_beyond_the_disk_is_refused(recorded: Path) -> None:
    image = bytearray(4096)
    with pytest.raises(DamagedWriteLog, match="ends at 8192"):
        for write in write_log.entries(recorded):
            write_log.apply(write, image)


def test_log_that_was_never_flushed_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    assert write_log.count(tmp_path / "log") == 0
