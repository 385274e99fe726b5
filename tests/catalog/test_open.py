"""A catalog opens from a URL alone, and releases what it opened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jetdr_core.catalog import Catalog
from jetdr_core.catalog.footer import TAIL_BYTES
from jetdr_core.errors import InvalidRequest, StoreError
from jetdr_core.record import Kind
from jetdr_core.store import DirectoryStore, MemoryStore, StoreWrapper
from tests.catalog.chains import domain, run


async def copied(source: MemoryStore, directory: Path) -> str:
    """Put the objects of ``source`` into a directory store; returns its URL."""
    target = DirectoryStore(directory, create=True)
    async for info in source.list_prefix(""):
        await target.put_if_absent(info.key, [await source.get(info.key)])
    await target.close()
    return f"file://{directory}"


async def opened(url: str, cache: Path | None = None) -> tuple[str, int]:
    async with await Catalog.open(url, cache=cache) as catalog:
        await catalog.index(4)
        return catalog.name, (await catalog.resolve("latest")).lsn


def test_url_is_enough(tmp_path: Path) -> None:
    url = run(copied(domain(3).store, tmp_path / "store"))
    assert run(opened(url)) == ("payroll", 4)
    assert run(opened(url, tmp_path / "cache.sqlite")) == ("payroll", 4)


def test_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        run(opened(f"file://{tmp_path}/nowhere"))


def test_directory_without_a_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="holds no protected domain"):
        run(opened(f"file://{tmp_path}"))


def test_footer_longer_than_one_read_is_read_whole() -> None:
    maker = domain(1)
    text = random.Random(1).randbytes(100_000).hex()
    maker.control(Kind.CONFIG, name="db01.vmx", text=text)
    maker.mark("after it")
    maker.segment()
    catalog = maker.open()
    assert int(catalog.segments["index_stored_bytes"][-1]) > TAIL_BYTES
    assert catalog.history.configs_at(catalog.lsn_last) == {"db01.vmx": text}
    assert "after it" in catalog.marks


class Failing(StoreWrapper):
    """Fails the n-th range read, for good."""

    def __init__(self, reads_left: int) -> None:
        super().__init__(domain(3).store)
        self.reads_left = reads_left

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        self.reads_left -= 1
        if self.reads_left < 0:
            raise StoreError("get range", key, "injected", transient=False)
        return await super().get_range(key, offset, length)


@pytest.mark.parametrize("reads", range(5))
def test_store_that_fails_is_no_hole(reads: int) -> None:
    with pytest.raises(StoreError, match="injected"):
        run(Catalog.open(Failing(reads)))
