"""Each command on a sound domain: the text for a person, and the JSON that programs rely on."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

import jetdr_core as engine
from jetdr_core.control_bodies import Digest, Digests
from jetdr_core.record import Kind
from jetdr_core.store import DirectoryStore
from tests.cli.domains import LSN_AFTER, LSN_BEFORE, LSN_CLOSED, LSN_GAP, LSN_LAST, SIZE_BYTES, Payroll
from tests.cli.jetdr_command import environment, jetdr, jetdr_process
from tests.rehydrate.chains import Chain

POINT = {"lsn", "time", "time_ns", "name", "timeline"}
DOMAIN = {
    *("url", "domain", "domain_uuid", "timeline", "epoch", "consistent", "lsn_first", "lsn_last"),
    *("intervals", "gaps", "latest_is_old", "hole", "tail_loss", "disks", "authenticity"),
}
EXTENT = {"disk", "offset", "length", "lsn_first", "lsn_last", "key", "problem"}


def test_points_lists_marks_intervals_and_gaps(payroll: Payroll) -> None:
    said = jetdr("points", payroll.url)
    assert (said.code, said.err) == (0, "")
    assert "before upgrade" in said.out
    assert f"recovery point from LSN {LSN_CLOSED} to {LSN_LAST}" in said.out
    assert (
        f"none from LSN {LSN_GAP} (2023-11-14T22:13:28.000000000Z) until before LSN {LSN_CLOSED}: unclean stop"
        in said.out
    )


def test_points_as_json_has_its_documented_keys(payroll: Payroll) -> None:
    said = jetdr("points", payroll.url, "--json")
    found = said.json
    assert set(found) == DOMAIN | {"points"}
    assert all(set(point) == POINT for point in found["points"])
    assert [point["name"] for point in found["points"]] == [None, "before upgrade", "after upgrade"]
    assert found["points"][1]["lsn"] == LSN_BEFORE
    assert found["points"][1]["time"] == "2023-11-14T22:13:26.000000000Z"
    assert found["points"][1]["time_ns"] == payroll.chain.time_ns(LSN_BEFORE)
    assert set(found["gaps"][0]) == {
        *("lsn_open", "lsn_close", "time_open", "time_open_ns", "time_close", "time_close_ns", "reason")
    }
    assert set(found["intervals"][0]) == {
        *("lsn_first", "lsn_last", "time_first", "time_first_ns", "time_last", "time_last_ns")
    }
    assert set(found["disks"][0]) == {"name", "size_bytes", "ready", "path", "uuid"}


def test_in_a_gap_every_command_says_that_guests_wrote_on_after_the_latest_point(tmp_path: Path) -> None:
    async def build() -> str:
        store = DirectoryStore(tmp_path / "store", create=True)
        chain = Chain(store)
        await chain.begin()
        chain.add_disk(1, "db01", SIZE_BYTES)
        chain.write(1, 0, b"a" * 4096)
        chain.control(Kind.GAP_OPEN, reason="the log was full")
        chain.write(1, 4096, b"b" * 4096)
        await chain.seal()
        await store.close()
        return (tmp_path / "store").as_uri()

    url = asyncio.run(build())
    said = jetdr("rehydrate", url, "--at", "latest", "--to", tmp_path / "out", "--format", "raw")
    told = "the domain has not been consistent since 2023-11-14T22:13:23.000000000Z (the log was full)"
    assert said.code == 0
    assert f"warning: the latest recovery point is LSN 2 at 2023-11-14T22:13:22.000000000Z; {told}" in said.err
    assert "what guests wrote since then is not in it" in said.err
    assert told in jetdr("points", url).err
    assert told in jetdr("status", url).err
    assert told in jetdr("points", url, "--json").json["latest_is_old"]
    out = tmp_path / "json"
    again = jetdr("rehydrate", url, "--at", "lsn:2", "--to", out, "--format", "raw", "--json").json
    assert told in again["latest_is_old"]


def test_outside_a_gap_and_before_it_nothing_is_said(payroll: Payroll, tmp_path: Path) -> None:
    assert jetdr("points", payroll.url, "--json").json["latest_is_old"] is None
    said = jetdr("rehydrate", payroll.url, "--at", "latest", "--to", tmp_path / "out", "--format", "raw")
    assert "consistent" not in said.err


@pytest.mark.parametrize(
    ("form", "file"),
    [("flat", "db01-flat.vmdk"), ("vmfs", "db01-flat.vmdk"), ("stream", "db01.vmdk"), ("raw", "db01.raw")],
)
def test_rehydrate_writes_every_format(payroll: Payroll, tmp_path: Path, form: str, file: str) -> None:
    said = jetdr("rehydrate", payroll.url, "--at", "before upgrade", "--to", tmp_path / "out", "--format", form)
    assert said.code == 0
    assert "rehydrated LSN 6 at 2023-11-14T22:13:26.000000000Z 'before upgrade'" in said.out
    assert "db01: 100 % of" in said.err
    assert (tmp_path / "out" / "db01.vmx").read_text() == "memsize = 4096\n"
    if form != "stream":
        assert (tmp_path / "out" / file).read_bytes() == payroll.chain.replay(1, SIZE_BYTES, LSN_BEFORE)


@pytest.mark.parametrize(
    "at", [LSN_AFTER, "latest", "after upgrade", "2023-11-14T22:13:32Z", "2023-11-14T23:13:31.5+01:00"]
)
def test_rehydrate_takes_every_kind_of_instant(payroll: Payroll, tmp_path: Path, at: object) -> None:
    said = jetdr("rehydrate", payroll.url, "--at", at, "--to", tmp_path / "out", "--disk", "db01", "--format", "raw")
    assert said.code == 0
    assert (tmp_path / "out" / "db01.raw").read_bytes() == payroll.chain.replay(1, SIZE_BYTES, LSN_AFTER)
    assert not (tmp_path / "out" / "web01.raw").exists()


def test_rehydrate_as_json_has_its_documented_keys(payroll: Payroll, tmp_path: Path) -> None:
    said = jetdr("rehydrate", payroll.url, "--at", "latest", "--to", tmp_path / "out", "--json")
    assert said.err == "", "a program that reads JSON gets no progress"
    assert set(said.json) == {"point", "latest_is_old", "target", "format", "seconds", "disks", "configs"}
    assert set(said.json["point"]) == POINT
    assert set(said.json["disks"][0]) == {
        *("name", "path", "size_bytes", "bytes_written", "bytes_resumed", "bytes_fetched"),
        *("lsn", "time", "time_ns", "damaged"),
    }
    assert said.json["configs"] == [str(tmp_path / "out" / "db01.vmx")]


def test_scrub_says_what_it_compared_and_what_differs(payroll: Payroll) -> None:
    said = jetdr("scrub", payroll.url)
    assert said.code == 0
    assert "nothing was compared, so nothing is verified: the store holds no digests yet" in said.out
    chain, held = payroll.chain, payroll.chain.replay(1, SIZE_BYTES, payroll.chain.lsn)
    chain.store = DirectoryStore(payroll.path)
    right = Digest(chain.lsn, 0, 8192, xxhash.xxh3_128_digest(held[:8192]))
    chain.control(Kind.DIGESTS, 1, **Digests((right,)).encode())
    asyncio.run(chain.seal())
    said = jetdr("scrub", payroll.url)
    assert said.code == 0
    assert re.search(rf"^db01 +1 +8.0 KiB +0 +0 +LSN {right.lsn} at 20", said.out, re.MULTILINE)
    wrong = right._replace(lsn=chain.lsn, digest=bytes(16))
    chain.control(Kind.DIGESTS, 1, **Digests((wrong,)).encode())
    asyncio.run(chain.seal())
    said = jetdr("scrub", payroll.url, "--disk", "db01", "--sample", "9")
    assert said.code == 4
    assert f"DIFFERENT disk 'db01' [0, 8192) at LSN {wrong.lsn}: the disk held other bytes" in said.out
    assert "1 extent of the store differ" in said.err
    found = jetdr("scrub", payroll.url, "--json").json
    assert set(found) == {
        *("url", "domain", "sound", "authenticity", "digests", "verified", "disks", "comparisons", "unread"),
    }
    assert (found["sound"], found["digests"], found["verified"]["lsn"]) == (False, 2, right.lsn)
    assert found["comparisons"][0]["agreement"] == "different"
    assert jetdr("scrub", payroll.url, "--disk", "none").code == 2


def test_verify_says_that_all_is_well(payroll: Payroll) -> None:
    said = jetdr("verify", payroll.url)
    assert said.code == 0
    assert "4 objects, 3 segments" in said.out
    assert said.out.count(" yes") == 3
    found = jetdr("verify", payroll.url, "--json").json
    assert set(found) == {
        *("url", "domain", "sound", "authenticity", "objects", "segments", "frames", "bytes_read"),
        *("damage", "chain_problem", "tail_problem", "orphans", "strangers", "points"),
    }
    assert found["sound"] is True
    assert found["chain_problem"] is None
    assert set(found["points"][0]) == POINT | {"survives", "lost_extents", "lost"}


def test_status_tells_owner_age_and_bytes(payroll: Payroll) -> None:
    said = jetdr("status", payroll.url)
    assert said.code == 0
    assert "epoch 1, timeline 1" in said.out
    assert "db01 (256.0 KiB), web01 (256.0 KiB)" in said.out
    assert " d " in said.out.split("newest point")[1].split("old")[0]
    found = jetdr("status", payroll.url, "--json").json
    assert set(found) == DOMAIN | {
        *("owner", "host", "why_inconsistent", "marks", "newest_point", "time_first", "time_first_ns", "time_last"),
        *("time_last_ns", "age_s", "segments", "payload_bytes", "stored_bytes"),
    }
    assert found["age_s"] > 365 * 86400
    assert found["host"] == "test"


def test_inspect_describes_a_segment_by_path_number_and_key(payroll: Payroll) -> None:
    by_path = jetdr("inspect", payroll.object(2))
    by_number = jetdr("inspect", payroll.url, "--number", 2)
    by_key = jetdr("inspect", payroll.url, "--key", payroll.chain.keys[1])
    assert (by_path.code, by_number.code) == (0, 0)
    assert by_number.out == by_key.out == by_path.out.replace(f"{payroll.path}/", "")
    assert "LSN 1 to 6, 2023-11-14T22:13:21.000000000Z to" in by_path.out
    assert "LSN 6 MARK {'name': 'before upgrade'}" in by_path.out


def test_inspect_as_json_is_a_list_with_documented_keys(payroll: Payroll) -> None:
    epoch, segment = jetdr("inspect", payroll.object(1), payroll.object(2), "--json", "--entries").json
    place = {
        *("kind", "name", "object_bytes", "domain_uuid", "epoch", "timeline", "predecessor", "checksum", "damage"),
        *("lsn_first", "lsn_last", "time_first", "time_first_ns", "time_last", "time_last_ns"),
        *("payload_bytes", "stored_bytes", "number", "key_id"),
    }
    assert set(epoch) == place | {"epoch_body"}
    assert epoch["epoch_body"]["domain"] == "payroll"
    assert set(segment) == place | {"frames", "entry_count", "control", "entries"}
    assert set(segment["frames"][0]) == {"offset", "stored_bytes", "raw_bytes", "codec", "checksum"}
    assert set(segment["control"][0]) == {"lsn", "time", "time_ns", "kind", "disk", "body"}
    assert set(segment["entries"][0]) == {
        *("lsn", "time_ns", "disk", "kind", "flags", "offset", "length", "frame", "frame_offset")
    }
    assert "entries" not in jetdr("inspect", payroll.object(2), "--json").json[0]


# -- with a log --------------------------------------------------------------------------------------------------------


@pytest.fixture
def protected(tmp_path: Path) -> Path:
    """A folder with the log, the store and the disk of a real domain that was closed."""

    async def scenario() -> None:
        log, store = tmp_path / "log", (tmp_path / "live").as_uri()
        async with engine.ProtectedDomain.create("payroll", log=log, log_bytes=2 << 20, store=store) as domain:
            disk = await domain.protect("db01", tmp_path / "disk", size_bytes=SIZE_BYTES)
            disk.write(0, b"x" * 4096)
            domain.mark("written")

    asyncio.run(scenario())
    return tmp_path


def test_status_compares_log_and_store(protected: Path) -> None:
    said = jetdr("status", (protected / "live").as_uri(), "--log", protected / "log")
    assert said.code == 0
    assert "closed cleanly" in said.out
    assert "log and store: even" in said.out
    found = jetdr("status", (protected / "live").as_uri(), "--log", protected / "log", "--json").json
    assert found["log_ahead"] == {"lsns": 0, "meet": True}
    assert set(found["log"]) == {
        *("kind", "path", "volume_uuid", "owner", "size_bytes", "device_bytes", "superblock_sequence", "sections")
    }


def test_status_tells_what_is_not_yet_uploaded(tmp_path: Path) -> None:
    async def scenario() -> None:
        log, store = tmp_path / "log", (tmp_path / "live").as_uri()
        options = engine.DomainOptions(segment_age_s=3600)
        domain = engine.ProtectedDomain.create("payroll", log=log, log_bytes=2 << 20, store=store, options=options)
        await domain.__aenter__()
        disk = await domain.protect("db01", tmp_path / "disk", size_bytes=SIZE_BYTES)
        await domain.uploaded(disk.write(0, b"x" * 4096))
        for n in range(3):
            disk.write(n * 4096, b"y" * 4096)
        await domain.close(upload=False)

    asyncio.run(scenario())
    said = jetdr("status", (tmp_path / "live").as_uri(), "--log", tmp_path / "log", "--json")
    assert said.code == 0
    assert said.json["log_ahead"] == {"lsns": 3, "meet": True}


def test_a_running_domain_can_be_looked_at(tmp_path: Path) -> None:
    log, store = tmp_path / "log", (tmp_path / "live").as_uri()

    async def scenario() -> None:
        async with engine.ProtectedDomain.create("payroll", log=log, log_bytes=2 << 20, store=store) as domain:
            disk = await domain.protect("db01", tmp_path / "disk", size_bytes=SIZE_BYTES)
            await domain.uploaded(disk.write(0, b"x" * 4096))
            said = await asyncio.to_thread(jetdr, "status", store, "--log", log)
            assert said.code == 0
            assert "in use, or not closed cleanly" in said.out
            assert (
                await asyncio.to_thread(jetdr, "rehydrate", store, "--at", "latest", "--to", tmp_path / "out")
            ).code == 0

    asyncio.run(scenario())
    assert (tmp_path / "out" / "db01-flat.vmdk").read_bytes() == (tmp_path / "disk").read_bytes()


def test_another_domains_log_is_told(payroll: Payroll, protected: Path) -> None:
    said = jetdr("status", payroll.url, "--log", protected / "log")
    assert said.code == 2
    assert "holds no section of domain 'payroll'" in said.err
    assert "name the log volume of that domain" in said.err


def test_a_damaged_log_is_described_and_ends_with_4(protected: Path) -> None:
    log = protected / "log"
    (section,) = jetdr("inspect", log, "--json").json[0]["sections"]
    with log.open("r+b") as file:
        for copy in range(4):
            file.seek(section["offset"] + copy * (16 << 10) + 100)
            file.write(b"damage")
    for arguments in (["inspect", log], ["status", (protected / "live").as_uri(), "--log", log]):
        said = jetdr(*arguments)
        assert said.code == 4
        assert "DAMAGED" in said.out
        assert "damage in" in said.err or "the log of domain 'payroll'" in said.error


def test_inspect_describes_a_log_volume(protected: Path) -> None:
    said = jetdr("inspect", protected / "log")
    assert said.code == 0
    assert "section payroll" in said.out
    (found,) = jetdr("inspect", protected / "log", "--json").json
    assert found["kind"] == "log volume"
    assert found["sections"][0]["name"] == "payroll"
    assert found["sections"][0]["clean"] is True


# -- the process -------------------------------------------------------------------------------------------------------


def test_the_module_runs_as_the_command_does(payroll: Payroll) -> None:
    done = jetdr_process("points", payroll.url)
    assert done.returncode == 0
    assert done.stdout == jetdr("points", payroll.url).out


def test_colours_appear_on_a_terminal_only_and_not_with_no_color(payroll: Payroll) -> None:
    for changes, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        ours, theirs = os.openpty()
        env = environment(TERM="xterm", **changes)
        done = jetdr_process("points", "no URL", env=env, stderr=theirs)
        os.close(theirs)
        said = os.read(ours, 65536).decode()
        os.close(ours)
        assert done.returncode == 2
        assert ("31m" in said) is coloured
    assert "\x1b" not in jetdr("points", "no URL").err


def test_progress_is_a_bar_on_a_terminal(payroll: Payroll, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    command = ("rehydrate", payroll.url, "--at", "latest", "--to", tmp_path / "out")
    done = jetdr_process(*command, env=environment(TERM="xterm", COLUMNS="100"), stderr=theirs)
    os.close(theirs)
    said = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "━" in said
    assert "db01" in said


def test_a_reader_that_leaves_ends_it_quietly(payroll: Payroll) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = jetdr_process("points", payroll.url, "--json", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_without_unicode_is_still_output(payroll: Payroll) -> None:
    done = jetdr_process("points", payroll.url, env=environment(PYTHONIOENCODING="ascii"), stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert "before upgrade" in done.stdout


# -- cache -------------------------------------------------------------------------------------------------------------


def test_the_cache_is_private_and_no_cache_leaves_it_out(payroll: Payroll, cache_home: Path) -> None:
    assert jetdr("points", payroll.url, "--no-cache").code == 0
    assert not cache_home.exists()
    assert jetdr("points", payroll.url).code == 0
    assert (cache_home / "jetdr").stat().st_mode & 0o777 == 0o700
    assert (cache_home / "jetdr" / "indexes.sqlite").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_was_planted_as_the_cache_is_a_warning(
    payroll: Payroll, cache_home: Path, plant: Callable[[Path], None]
) -> None:
    (cache_home / "jetdr").mkdir(parents=True)
    plant(cache_home / "jetdr" / "indexes.sqlite")
    result = jetdr("points", payroll.url)
    assert result.code == 0
    assert "no metadata cache" in result.err


def test_a_cache_that_cannot_be_written_is_a_warning(payroll: Payroll, cache_home: Path) -> None:
    cache_home.write_text("a file where a directory should be")
    said = jetdr("points", payroll.url)
    assert said.code == 0
    (warning,) = said.err.splitlines()
    assert warning.startswith("jetdr: warning: no metadata cache: ")
