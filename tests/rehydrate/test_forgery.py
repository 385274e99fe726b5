"""A recovery with the domain's key writes nothing that no owner of the domain has stored."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest
import xxhash

from jetdr_core.catalog import Catalog
from jetdr_core.domain_key import DomainKey
from jetdr_core.errors import Forged, TargetExists, WrongKey
from jetdr_core.rehydrate import Report, rehydrate
from jetdr_core.store import MemoryStore
from jetdr_core.verify import VerifyReport, verify
from tests.rehydrate.chains import Chain
from tests.segment.tampering import changed

SIZE = 64 << 10
KEY = DomainKey(bytes(range(32)))
OTHER_KEY = DomainKey(bytes(32))


def colliding() -> tuple[bytes, bytes]:
    """Two sectors' worth of noise with the same XXH3-64, as anybody can make them who looks at its definition.

    In both, the low halves of two lanes are those of the hash's own secret, so that their product is zero. What is left
    of these lanes is a sum, in which the high halves may be exchanged.
    """
    left = bytearray(random.Random(3).randbytes(4096))
    left[0:4], left[64:68] = bytes.fromhex("b8fe6c39"), bytes.fromhex("7c01812c")
    right = bytearray(left)
    right[4:8], right[68:72] = left[68:72], left[4:8]
    return bytes(left), bytes(right)


async def build(domain_key: DomainKey | None = KEY) -> Chain:
    """Object 3 has a frame of noise, object 4 another write."""
    chain = Chain(MemoryStore(), domain_key=domain_key)
    await chain.begin()
    chain.add_disk(1, "a", SIZE)
    await chain.seal()
    chain.write(1, 0, colliding()[0])
    await chain.seal()
    chain.write(1, 8192, b"x" * 512)
    await chain.seal()
    return chain


async def replace(chain: Chain, number: int, old: bytes, new: bytes) -> None:
    key = chain.keys[number - 1]
    data = await chain.store.get(key)
    assert old in data
    await chain.store.replace(key, [data.replace(old, new)])


async def recover(
    chain: Chain, target: Path, domain_key: DomainKey | None, *, at: int | str = "latest", cache: Path | None = None
) -> Report:
    return await rehydrate(chain.store, at=at, target=target, format="raw", domain_key=domain_key, cache=cache)


def test_disks_are_recovered_with_the_key_and_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> bytes:
        chain = await build()
        await recover(chain, tmp_path / "with", KEY)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
        await recover(chain, tmp_path / "without", None)
        assert "no key was given" in caplog.text
        return chain.replay(1, SIZE, chain.lsn)

    whole = asyncio.run(scenario())
    assert (tmp_path / "with" / "a.raw").read_bytes() == whole
    assert (tmp_path / "without" / "a.raw").read_bytes() == whole


def test_content_with_the_same_checksum_is_written_without_a_key_and_refused_with_it(tmp_path: Path) -> None:
    """One frame is changed in place, and every checksum of the object still fits."""
    genuine, forged = colliding()
    assert xxhash.xxh3_64_intdigest(genuine) == xxhash.xxh3_64_intdigest(forged)

    async def scenario() -> VerifyReport:
        chain = await build()
        await replace(chain, 3, genuine, forged)
        await recover(chain, tmp_path / "without", None)
        with pytest.raises(Forged, match=r"0000000003: disk 'a' \[0, 4096\) of LSN 2: frame at 64: has a wrong tag"):
            await recover(chain, tmp_path / "with", KEY)
        assert (await verify(chain.store)).is_sound
        return await verify(chain.store, domain_key=KEY)

    report = asyncio.run(scenario())
    assert (tmp_path / "without" / "a.raw").read_bytes()[:4096] == forged
    assert not (tmp_path / "with" / "a.raw").exists()
    (damage,) = report.damage
    assert (damage.key[-4:], damage.part) == ("0003", "frame 0")
    assert "has a wrong tag" in damage.problem
    assert not report.is_sound


def test_another_key_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        chain = await build()
        with pytest.raises(WrongKey):
            await recover(chain, tmp_path / "out", OTHER_KEY)
        with pytest.raises(WrongKey):
            await verify(chain.store, domain_key=OTHER_KEY)

    asyncio.run(scenario())
    assert not (tmp_path / "out").exists()


def test_a_key_for_a_domain_that_has_none_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(Forged, match="has no tag"):
            await recover(await build(None), tmp_path / "out", KEY)

    asyncio.run(scenario())
    assert not (tmp_path / "out").exists()


def test_a_forged_end_is_not_stepped_over_silently(tmp_path: Path) -> None:
    """Without it "latest" would quietly be an older point."""

    async def scenario() -> None:
        chain = await build()
        key = chain.keys[3]
        await chain.store.replace(key, [changed(await chain.store.get(key), 70)])
        with pytest.raises(Forged, match="recover LSN 2 or an earlier point"):
            await recover(chain, tmp_path / "out", KEY)
        assert not (tmp_path / "out").exists()
        await recover(chain, tmp_path / "out", KEY, at=2)

    asyncio.run(scenario())
    assert (tmp_path / "out" / "a.raw").read_bytes()[:4096] == colliding()[0]


def test_what_was_recovered_without_the_key_is_not_continued_with_it(tmp_path: Path) -> None:
    genuine, forged = colliding()

    async def scenario() -> None:
        chain = await build()
        await replace(chain, 3, genuine, forged)
        await chain.store.delete(chain.keys[3])
        await recover(chain, tmp_path / "done", None)
        with pytest.raises(TargetExists):
            await recover(chain, tmp_path / "done", KEY)

    asyncio.run(scenario())


def test_an_index_that_was_cached_without_the_key_is_checked_with_it(tmp_path: Path) -> None:
    """The cache of an earlier look, which authenticated nothing, is not believed either."""

    async def scenario() -> Catalog:
        chain = await build()
        cache = tmp_path / "cache"
        await recover(chain, tmp_path / "without", None, cache=cache)
        async with await Catalog.open(chain.store, cache=cache, domain_key=KEY) as catalog:
            index = await catalog.index(3)
            assert index.content_key is not None
            return catalog

    asyncio.run(scenario())
