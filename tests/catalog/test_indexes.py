"""Indexes come verified, newest first, up to the LSN asked for; the local repository only makes that quicker."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import tracemalloc
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from jetdr_core.catalog import Catalog, MetadataRepository, repository
from jetdr_core.errors import ChainBroken, DamagedObject, InvalidRequest, JetdrError, StoreAccessDenied
from jetdr_core.record import Kind
from jetdr_core.store import MemoryStore, StoreWrapper
from tests.catalog.chains import DOMAIN, ChainMaker, domain, run, time_ns
from tests.faults.store import Fault, FaultyStore, on


class Counting(StoreWrapper):
    """Counts the range reads."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.reads = 0

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.reads += 1
        return await super().get_range(key, offset, length)


async def newest_first(catalog: Catalog, lsn: int) -> list[tuple[int, list[int]]]:
    async with aclosing(catalog.indexes_newest_first(lsn)) as found:
        batches = [batch async for batch in found]
    return [(read.number, [int(at) for at in read.index.entries["lsn"]]) for batch in batches for read in batch]


def three_segments() -> ChainMaker:
    maker = domain()
    for _ in range(3):
        maker.segment(2)
    return maker


def test_indexes_come_newest_first_up_to_the_lsn() -> None:
    catalog = three_segments().open()
    assert run(newest_first(catalog, 7)) == [(5, [6, 7]), (4, [4, 5]), (3, [2, 3])]
    assert run(newest_first(catalog, 4)) == [(4, [4]), (3, [2, 3])]
    assert run(newest_first(catalog, 1)) == []


def test_leaving_early_leaves_nothing_running() -> None:
    async def leave() -> int:
        async with aclosing(catalog.indexes_newest_first(70)) as found:
            async for batch in found:
                return batch[0].number
        return 0

    catalog = domain(60).open()
    assert run(leave()) == 62


def test_damaged_index_is_raised_or_told() -> None:
    maker = three_segments()
    maker.damage("chain/00000000/0000000004", -300)
    catalog = maker.open()
    with pytest.raises(DamagedObject, match="0000000004"):
        run(newest_first(catalog, 7))
    assert run(told(catalog)) == ([5, 3], [4])


async def told(catalog: Catalog) -> tuple[list[int], list[int]]:
    """Numbers read, numbers told as damaged."""
    damaged: list[int] = []

    def tell(number: int, _error: JetdrError) -> None:
        damaged.append(number)

    found = [batch async for batch in catalog.indexes_newest_first(7, on_damage=tell)]
    return [segment.number for batch in found for segment in batch], damaged


def test_damage_is_told_after_everything_newer_and_before_everything_older() -> None:
    """A plan then knows which bytes only the damaged segment could have had."""
    maker = three_segments()
    maker.damage("chain/00000000/0000000004", -300)
    catalog = maker.open()
    seen: list[str] = []

    async def look() -> None:
        found = catalog.indexes_newest_first(7, on_damage=lambda number, _error: seen.append(f"damaged {number}"))
        async for batch in found:
            seen.extend(f"read {segment.number}" for segment in batch)

    run(look())
    assert seen == ["read 5", "damaged 4", "read 3"]


def test_batches_grow_and_read_ahead_is_bounded() -> None:
    """Who needs little fetches little, and thousands of small indexes come by the hundred."""
    maker = domain(1)
    for _ in range(400):
        maker.segment(1)
    store = Counting(maker.store)

    async def look() -> tuple[list[int], int]:
        async with await Catalog.open(store) as catalog:
            store.reads = 0
            async with aclosing(catalog.indexes_newest_first(10**6)) as found:
                first = await anext(found)
                await asyncio.sleep(0)
                reads = store.reads
                sizes = [len(first)] + [len(batch) async for batch in found]
        return sizes, reads

    sizes, reads = run(look())
    assert sum(sizes) == 401
    assert sizes[:5] == [4, 8, 16, 32, 64]
    assert max(sizes) == 64
    assert reads <= 4 + 8 + 16 + 32 + 64


def test_store_error_of_an_index_is_raised() -> None:
    """It says nothing about the object, so nothing is left out."""
    maker = three_segments()
    store = FaultyStore(maker.store)

    async def look() -> None:
        async with await Catalog.open(store) as catalog:
            store.plan = on("get range", Fault.DENIED)
            async for _ in catalog.indexes_newest_first(7, on_damage=lambda _number, _error: None):
                pass

    with pytest.raises(StoreAccessDenied):
        run(look())


def test_catalog_opens_when_the_index_of_its_latest_point_is_damaged() -> None:
    maker = domain(1)
    key = maker.segment(3)
    maker.control(Kind.GAP_OPEN, reason="test")
    maker.segment()
    maker.damage(key, -300)
    latest = run(maker.open().resolve("latest"))
    assert (latest.lsn, latest.time_ns) == (5, time_ns(5))
    assert run(maker.open().resolve(4)).time_ns == time_ns(3)


def test_object_that_vanished_is_a_broken_chain() -> None:
    maker = three_segments()
    catalog = maker.open()
    run(maker.store.delete("chain/00000000/0000000004"))
    with pytest.raises(ChainBroken, match=r"0000000004 is missing: LSN 4 to 5.*LSN 3 or earlier"):
        run(catalog.index(4))


def test_object_that_was_replaced_is_found() -> None:
    maker = three_segments()
    catalog = maker.open()
    key = "chain/00000000/0000000004"
    other = run(maker.store.get("chain/00000000/0000000005"))
    run(maker.store.replace(key, [other]))
    with pytest.raises(DamagedObject, match="0000000004"):
        run(catalog.index(4))


@pytest.mark.parametrize("number", [0, 1, 6, 99])
def test_number_that_is_no_segment_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest, match="no segment"):
        run(three_segments().open().index(number))


# -- the metadata repository -------------------------------------------------------------------------------------------


async def reads_with(maker: ChainMaker, cache: Path) -> int:
    """Range reads that fetching every index takes, after the catalog was opened."""
    store = Counting(maker.store)
    async with await Catalog.open(store, cache=cache) as catalog:
        store.reads = 0
        indexes = [await catalog.index(int(number)) for number in catalog.segments["number"]]
        assert [len(index.entries) for index in indexes] == [0, 2, 2, 2]
        return store.reads


def test_second_look_fetches_no_index(tmp_path: Path) -> None:
    maker, cache = three_segments(), tmp_path / "cache.sqlite"
    assert run(reads_with(maker, cache)) == 4
    assert run(reads_with(maker, cache)) == 0
    assert stat.S_IMODE(cache.stat().st_mode) == 0o600


def test_deleted_repository_loses_nothing(tmp_path: Path) -> None:
    maker, cache = three_segments(), tmp_path / "cache.sqlite"
    run(reads_with(maker, cache))
    cache.unlink()
    assert run(reads_with(maker, cache)) == 4


@pytest.mark.parametrize("keep", [100, 3000])
def test_damaged_repository_is_begun_anew(tmp_path: Path, keep: int) -> None:
    maker, cache = three_segments(), tmp_path / "cache.sqlite"
    run(reads_with(maker, cache))
    for beside in tmp_path.glob("cache.sqlite-*"):
        beside.unlink()
    cache.write_bytes(cache.read_bytes()[:keep] + b"\xa5" * 20000)
    assert run(reads_with(maker, cache)) == 4
    run(reads_with(maker, cache))
    assert run(reads_with(maker, cache)) == 0


def a_disk(path: Path) -> None:
    path.write_bytes(b"\xa5" * 20000)


def a_short_file(path: Path) -> None:
    path.write_bytes(b"x")


def somebody_elses_database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE footer (domain, checksum, bytes, footer)")
    connection.close()


@pytest.mark.parametrize("make", [a_disk, a_short_file, somebody_elses_database])
def test_a_file_that_is_no_repository_stays_and_is_done_without(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    maker, cache = three_segments(), tmp_path / "precious.img"
    make(cache)
    cache.chmod(0o640)
    before = cache.read_bytes()
    for _ in range(2):
        assert run(reads_with(maker, cache)) == 4
    assert cache.read_bytes() == before
    assert stat.S_IMODE(cache.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [cache]
    told = f"{cache} is no metadata repository, and was left as it is; name another file, or use none (--no-cache)"
    assert caplog.messages == [told] * 2


def test_changed_row_is_not_believed(tmp_path: Path) -> None:
    maker, cache = three_segments(), tmp_path / "cache.sqlite"
    run(reads_with(maker, cache))
    with sqlite3.connect(cache) as connection:
        connection.execute("UPDATE footer SET footer = (SELECT footer FROM footer LIMIT 1)")
    connection.close()
    assert run(reads_with(maker, cache)) == 3
    assert run(reads_with(maker, cache)) == 0


def test_repository_that_cannot_be_opened_is_done_without(tmp_path: Path) -> None:
    assert run(reads_with(three_segments(), tmp_path / "missing" / "cache.sqlite")) == 4


PLANTED: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "link to a file": lambda path: path.symlink_to("precious"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_planted_repository_is_left_alone_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, kind: str
) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    planted = tmp_path / f"cache.sqlite{suffix}"
    PLANTED[kind](planted)
    found = [run(reads_with(three_segments(), tmp_path / "cache.sqlite")) for _ in range(2)]
    assert found == [4, 4]
    message = f"{planted} is no regular file, and was left as it is; name another file, or use none (--no-cache)"
    assert caplog.messages == [message] * 2
    assert not stat.S_ISREG(planted.lstat().st_mode)
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_row_of_another_length_is_no_footer_and_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    maker = three_segments()
    run(reads_with(maker, path))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE footer SET footer = zeroblob(50000000)")
    tracemalloc.start()
    assert run(reads_with(maker, path)) == 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20


OTHER_LAYOUTS = {
    "later": f"PRAGMA application_id = {repository._APPLICATION}; PRAGMA user_version = 77;",
    "first": """
        PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA user_version = 1;
CREATE TABLE IF NOT EXISTS footer (
    domain BLOB NOT NULL, checksum BLOB NOT NULL, bytes INTEGER NOT NULL, footer BLOB NOT NULL,
    UNIQUE (domain, checksum)
);
""",
}


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
def test_repository_of_another_layout_is_begun_anew(tmp_path: Path, layout: str) -> None:
    cache = tmp_path / "cache.sqlite"
    with sqlite3.connect(cache) as connection:
        connection.executescript(OTHER_LAYOUTS[layout])
    connection.close()
    maker = three_segments()
    run(reads_with(maker, cache))
    run(reads_with(maker, cache))
    assert run(reads_with(maker, cache)) == 0


def test_repository_stays_within_its_bytes(tmp_path: Path) -> None:
    async def fill() -> int:
        repository = MetadataRepository(tmp_path / "cache.sqlite", bytes_max=10_000)
        for number in range(100):
            await repository.put(DOMAIN, [(number.to_bytes(16, "little"), bytes(500))])
        kept = await repository.get(DOMAIN, [(number.to_bytes(16, "little"), 500) for number in range(100)])
        await repository.close()
        assert kept[-1] == bytes(500)
        return sum(len(row) for row in kept if row)

    assert run(fill()) <= 10_000


def test_batch_larger_than_the_repository_leaves_it_within_its_bytes(tmp_path: Path) -> None:
    async def fill() -> list[bytes | None]:
        repository = MetadataRepository(tmp_path / "cache.sqlite", bytes_max=10_000)
        await repository.put(DOMAIN, [(number.to_bytes(16, "little"), bytes(500)) for number in range(100)])
        kept = await repository.get(DOMAIN, [(number.to_bytes(16, "little"), 500) for number in range(100)])
        await repository.close()
        return kept

    kept = run(fill())
    assert 0 < sum(len(row) for row in kept if row) <= 10_000
    assert kept[-1] == bytes(500)
