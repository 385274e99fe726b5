"""What a guest gets over NBD: real clients read, write, flush, discard and compare."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path

import pytest

from jetdr_core.host import PLUGIN_PATH, component
from tests.host.guest import DISK_BYTES, Guest
from tests.host.nbd_client import CACHE, FUA, READ, TRIM, WRITE, ZERO

MIB = 1 << 20


def _random_file(path: Path, seed: int) -> Path:
    data = bytearray(random.Random(seed).randbytes(DISK_BYTES))
    data[5 * MIB : 9 * MIB] = bytes(4 * MIB)
    path.write_bytes(data)
    return path


def test_an_export_says_what_it_can_do(guest: Guest) -> None:
    (export,) = json.loads(guest.run("nbdinfo", "--json", guest.uri("boot")).stdout)["exports"]
    assert export["export-size"] == DISK_BYTES
    assert {name: export[name] for name in export if name.startswith(("can_", "is_", "block_"))} == {
        "is_rotational": False,
        "is_read_only": False,
        "can_cache": True,
        "can_df": True,
        "can_fast_zero": True,
        "can_flush": True,
        "can_fua": True,
        "can_multi_conn": True,
        "can_trim": True,
        "can_zero": True,
        "block_size_minimum": 512,
        "block_size_preferred": 4096,
        "block_size_maximum": 32 * MIB,
    }


def test_every_disk_is_an_export(guest: Guest) -> None:
    listed = json.loads(guest.run("nbdinfo", "--json", "--list", guest.uri("")).stdout)
    assert [(export["export-name"], export["description"]) for export in listed["exports"]] == [
        ("boot", "disk 1"),
        ("data", "disk 2"),
    ]


def test_the_only_disk_is_the_default_export(stopped: Guest) -> None:
    stopped.start("data")
    (export,) = json.loads(stopped.run("nbdinfo", "--json", stopped.uri("")).stdout)["exports"]
    assert export["description"] == "disk 2"


@pytest.mark.parametrize("name", ["", "boo", "boot2", "../boot"])
def test_an_export_that_is_no_disk_is_refused(guest: Guest, name: str) -> None:
    refused = guest.run("nbdinfo", guest.uri(name), check=False)
    assert refused.returncode != 0
    assert "No such file or directory" in refused.stderr
    if name:
        assert f"there is no disk '{name}' here" in guest.host.log_path.read_text()


def test_nbdcopy_brings_every_byte_in_and_out(guest: Guest) -> None:
    source = _random_file(guest.folder / "source.img", 1)
    guest.run("nbdcopy", "--flush", str(source), guest.uri("boot"))
    assert guest.disks["boot"].read_bytes() == source.read_bytes()
    guest.run("nbdcopy", guest.uri("boot"), str(guest.folder / "copy.img"))
    assert (guest.folder / "copy.img").read_bytes() == source.read_bytes()
    assert not any(guest.disks["data"].read_bytes())


@pytest.mark.parametrize("pattern", ["randwrite", "write"])
def test_fio_reads_back_what_it_wrote(guest: Guest, pattern: str) -> None:
    job = ["--name=x", "--ioengine=nbd", f"--uri={guest.uri('data')}", f"--rw={pattern}", "--bsrange=512-64k"]
    job += ["--iodepth=16", "--size=12M", "--verify=crc32c", "--do_verify=1", "--fsync=64", "--output-format=json"]
    done = guest.run("fio", *job).stdout
    (result,) = json.loads(done[done.index("{\n") :])["jobs"]
    assert result["error"] == 0
    assert result["write"]["total_ios"] > 100
    assert result["read"]["total_ios"] == result["write"]["total_ios"]


def test_qemu_img_copies_and_compares(guest: Guest) -> None:
    source = _random_file(guest.folder / "source.img", 2)
    guest.run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(source), guest.uri("boot"))
    told = json.loads(guest.run("qemu-img", "info", "--output=json", guest.uri("boot")).stdout)
    assert told["virtual-size"] == DISK_BYTES
    assert "identical" in guest.run("qemu-img", "compare", str(source), guest.uri("boot")).stdout
    guest.qemu_io("boot", "write -P 9 1M 512")
    assert guest.run("qemu-img", "compare", str(source), guest.uri("boot"), check=False).returncode == 1


def test_qemu_writes_through_flushes_discards_and_zeroes(guest: Guest) -> None:
    said = guest.qemu_io(
        "boot",
        "write -f -P 1 0 4M",
        "discard 1M 1M",
        "write -z 2M 512k",
        "write -z -u 3M 512k",
        "flush",
        "read -P 1 0 1M",
        "read -P 0 1M 1M",
        "read -P 0 2M 512k",
        "read -P 1 2560k 512k",
        "read -P 0 3M 512k",
        "aio_write -P 3 8M 1M",
        "aio_write -P 4 8388096 1024",
        "aio_flush",
    )
    assert said.endswith("exit 0")
    stats = guest.host.control.stats()[1].filter
    assert (stats.writes, stats.zeros, stats.zero_bytes) == (3, 3, 2 * MIB)
    assert stats.flushes >= 2, "FUA and flush"


def _data(guest: Guest) -> list[tuple[int, int]]:
    """(offset, length) of what the export says is data."""
    extents = json.loads(guest.run("nbdinfo", "--json", "--map", guest.uri("boot")).stdout)
    assert sum(extent["length"] for extent in extents) == DISK_BYTES
    return [(extent["offset"], extent["length"]) for extent in extents if extent["type"] == 0]


def test_extents_are_those_of_the_primary(guest: Guest) -> None:
    assert _data(guest) == []
    guest.qemu_io("boot", "write -P 1 1M 64k", f"write -P 1 {DISK_BYTES - 4096} 4096")
    assert _data(guest) == [(MIB, 64 << 10), (DISK_BYTES - 4096, 4096)]
    guest.qemu_io("boot", "discard 1M 64k")
    assert _data(guest) == [(DISK_BYTES - 4096, 4096)]


def test_zeroes_that_may_not_be_a_hole_keep_their_space(guest: Guest) -> None:
    allocated = guest.disks["boot"].stat().st_blocks
    guest.qemu_io("boot", "write -P 1 0 1M")
    grown = guest.disks["boot"].stat().st_blocks
    guest.qemu_io("boot", "write -z 0 1M", "read -P 0 0 1M")
    assert guest.disks["boot"].stat().st_blocks == grown
    guest.qemu_io("boot", "write -z -u 0 1M")
    assert guest.disks["boot"].stat().st_blocks == allocated


@pytest.mark.parametrize(
    ("command", "offset", "length"),
    [(WRITE, 0, 100), (WRITE, 100, 512), (READ, 512, 100), (ZERO, 0, 1000), (TRIM, 1, 512)],
)
def test_an_unaligned_request_is_refused_and_changes_nothing(
    guest: Guest, command: int, offset: int, length: int
) -> None:
    with guest.client("boot") as client:
        client.write(0, b"x" * 4096)
        with pytest.raises(OSError, match="Invalid argument"):
            client.request(command, offset, length, 0, b"y" * length if command == WRITE else b"")
        assert client.read(0, 8192) == b"x" * 4096 + bytes(4096)
    assert "multiples of 512" in guest.host.log_path.read_text()


def test_a_write_longer_than_the_longest_record_is_made_in_pieces(guest: Guest) -> None:
    guest.host.control.remove(1)
    guest.host.control.add(1, DISK_BYTES, 8192, "boot", str(guest.disks["boot"]))
    (export,) = json.loads(guest.run("nbdinfo", "--json", guest.uri("boot")).stdout)["exports"]
    assert export["block_size_maximum"] == 8192
    with guest.client("boot") as client:
        client.write(4096, b"x" * 20480, FUA)
    assert guest.disks["boot"].read_bytes()[: 7 * 4096] == bytes(4096) + b"x" * 20480 + bytes(4096)
    assert guest.host.control.stats()[1].filter.writes == 3


def test_a_primary_that_got_shorter_fails_reads_and_stays_served(guest: Guest) -> None:
    os.truncate(guest.disks["boot"], MIB)
    assert "Input/output error" in guest.qemu_io("boot", "read 2M 4096")
    assert guest.qemu_io("boot", "read 0 4096").endswith("exit 0")
    assert "disk boot: read of 4096 bytes at 2097152: the primary failed" in guest.host.log_path.read_text()


def test_a_guest_that_errs_again_and_again_does_not_fill_the_log(guest: Guest) -> None:
    with guest.client("boot") as client:
        for _ in range(1000):
            with pytest.raises(OSError, match="Invalid argument"):
                client.read(1, 512)
    said = guest.host.log_path.read_text()
    assert "more requests failed" in said
    assert said.count("\n") < 500


def test_a_guest_that_makes_nbdkit_complain_without_end_does_not_fill_the_log(
    stopped: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in our plugin hears of these requests, and nobody who started the process need be there."""
    limit = 64 << 10
    monkeypatch.setattr(component, "LOG_BYTES_MAX", limit)
    stopped.start()
    log, size, longest, cuts = stopped.host.log_path, 0, 0, 0
    with stopped.client("boot") as client:
        while cuts < 3:
            with pytest.raises(OSError, match="Invalid argument"):
                client.request(READ, DISK_BYTES, 512)
            before, size = size, log.stat().st_size
            longest, cuts = max(longest, size), cuts + (size < before)
        with pytest.raises(OSError, match="Invalid argument"):
            client.read(1, 512)
        assert client.read(0, 512) == bytes(512)
    assert longest < limit + (2 << 20), "what is written until somebody looks"
    said = log.read_text()
    assert said.startswith("jetdr: this file was longer than 65536 bytes: the oldest ")
    assert "multiples of 512" in said, "the newest lines stay"


def test_a_log_that_grew_while_nothing_ran_is_cut_at_the_next_start(
    stopped: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "LOG_BYTES_MAX", 64 << 10)
    stopped.start()
    stopped.host.stop()
    stopped.host.log_path.write_bytes(b"old\n" * 100_000 + b"last words\n")
    stopped.start()
    assert 0 < stopped.host.log_path.stat().st_size <= 17 << 10
    assert "last words\n" in stopped.host.log_path.read_text()


@pytest.mark.parametrize("limit", ["1", "2G", "soon", "4096"])
def test_only_a_log_file_is_cut(stopped: Guest, limit: str) -> None:
    """The last one is a good limit, but standard error is a pipe here."""
    control = f"control={stopped.folder}/control"
    command = ["-f", "--unix", str(stopped.folder / "socket"), str(PLUGIN_PATH), control, f"log-limit={limit}"]
    refused = stopped.run("nbdkit", *command, check=False)
    assert refused.returncode != 0
    assert "log-limit=" in refused.stderr


def test_cache_reads_ahead(guest: Guest) -> None:
    with guest.client("boot") as client:
        client.cache(0, MIB)


def test_several_connections_see_one_disk(guest: Guest) -> None:
    with guest.client("boot") as one, guest.client("boot") as other:
        one.write(0, b"a" * 4096)
        assert other.read(0, 4096) == b"a" * 4096
        other.write(0, b"b" * 4096)
        one.flush()
    assert guest.disks["boot"].read_bytes()[:4096] == b"b" * 4096


def test_a_removed_disk_refuses_its_guest_and_frees_its_primary(guest: Guest) -> None:
    with guest.client("boot") as client:
        client.write(0, b"a" * 4096)
        guest.host.control.remove(1)
        for command, data in ((WRITE, b"b" * 4096), (CACHE, b"")):
            with pytest.raises(OSError, match="shutdown") as told:
                client.request(command, 0, 4096, 0, data)
            assert told.value.errno == errno.ESHUTDOWN
        with pytest.raises(OSError, match="shutdown"):
            client.flush()
        guest.host.control.add(1, DISK_BYTES, 0, "boot", str(guest.disks["boot"]))
        with guest.client("boot") as again:
            assert again.read(0, 4096) == b"a" * 4096
        with pytest.raises(OSError, match="shutdown"):
            client.read(0, 4096)
