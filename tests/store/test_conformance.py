"""What every object store promises, run unchanged against each implementation, the remote one and the wrappers."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from jetdr_core.errors import InvalidRequest, ObjectExists, ObjectNotFound, StoreError
from jetdr_core.store import ObjectInfo, ObjectRange, ObjectStore
from tests.store.conftest import Container

BAD_KEYS = [
    *("", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/../b", ".hidden", "a/.tmp", "-a", "a b", "a\\b"),
    *("a\n", "a\0", "ä", "a?b", "a#b", "a%2e", "x" * 201, "/".join(["abcdefg"] * 80)),
]


async def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key async for info in store.list_prefix(prefix)]


async def failure(store: ObjectStore, key: str, offset: int, length: int) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await store.get_range(key, offset, length)
    return caught.value


def test_object_reads_back_as_the_buffers_one_after_the_other(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        words = memoryview(bytearray(range(16))).cast("I")
        await store.put_if_absent("chain/00000000/0000000001", [b"head", b"", bytearray(b"body"), words[1:3]])
        assert await store.get("chain/00000000/0000000001") == b"headbody" + bytes(range(4, 12))

    container.run(scenario)


def test_second_handle_sees_a_put_at_once(container: Container) -> None:
    async def scenario(writer: ObjectStore, reader: ObjectStore) -> None:
        for number in range(20):
            key = f"chain/{number:010d}"
            await writer.put_if_absent(key, [key.encode()])
            assert await reader.get(key) == key.encode()
            assert (await keys(reader, "chain/"))[-1] == key

    container.run(scenario, handles=2)


def test_put_if_absent_leaves_what_is_there(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("k", [b"first"])
        with pytest.raises(ObjectExists) as caught:
            await store.put_if_absent("k", [b"second"])
        assert caught.value.key == "k"
        assert not caught.value.transient
        assert await store.get("k") == b"first"

    container.run(scenario)


def test_of_sixteen_concurrent_puts_exactly_one_wins(container: Container) -> None:
    async def scenario(store: ObjectStore, other: ObjectStore) -> None:
        async def put(number: int) -> int | None:
            try:
                await (store, other)[number % 2].put_if_absent("race", [bytes([number]) * 5000])
            except ObjectExists:
                return None
            return number

        winners = [number for number in await asyncio.gather(*map(put, range(16))) if number is not None]
        assert len(winners) == 1
        assert await store.get("race") == bytes(winners) * 5000

    container.run(scenario, handles=2)


def test_replace_creates_and_replaces_whole(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.replace("heartbeat/0000000001", [b"a long first version"])
        await store.replace("heartbeat/0000000001", [b"short"])
        assert await store.get("heartbeat/0000000001") == b"short"
        assert await keys(store) == ["heartbeat/0000000001"]

    container.run(scenario)


def test_reader_of_a_replaced_object_sees_one_version_whole(container: Container) -> None:
    async def scenario(store: ObjectStore, reader: ObjectStore) -> None:
        versions = [bytes([number]) * (1000 + number * 500) for number in range(12)]
        await store.replace("k", [versions[0]])

        async def write() -> None:
            for version in versions:
                await store.replace("k", [version])

        writing = asyncio.ensure_future(write())
        while not writing.done():
            assert await reader.get("k") in versions
            await asyncio.sleep(0)  # a store in memory never waits by itself
        await writing

    container.run(scenario, handles=2)


def test_large_object_of_many_buffers_survives(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        block = random.Random(1).randbytes(5003)
        parts = [block[number % 100 :] for number in range(1500)]
        await store.put_if_absent("large", parts)
        assert await store.get("large") == b"".join(parts)

    container.run(scenario)


def test_empty_object_exists_and_is_empty(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("empty", [])
        with pytest.raises(ObjectExists):
            await store.put_if_absent("empty", [b""])
        assert await store.get("empty") == b""
        assert await store.get_range("empty", 0, 0) == b""
        assert [info async for info in store.list_prefix("")] == [ObjectInfo("empty", 0)]

    container.run(scenario)


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 1000), (999, 1), (250, 500), (0, 0), (500, 0), (1000, 0)])
def test_range_is_exactly_the_bytes_asked_for(container: Container, offset: int, length: int) -> None:
    async def scenario(store: ObjectStore) -> None:
        body = random.Random(2).randbytes(1000)
        await store.put_if_absent("k", [body])
        assert await store.get_range("k", offset, length) == body[offset : offset + length]

    container.run(scenario)


@pytest.mark.parametrize(("offset", "length"), [(0, 1001), (999, 2), (1000, 1), (5000, 1), (1001, 0)])
def test_range_beyond_the_end_is_a_lasting_error(container: Container, offset: int, length: int) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("k", [bytes(1000)])
        error = await failure(store, "k", offset, length)
        assert not error.transient
        assert not isinstance(error, ObjectNotFound)
        assert "ends before" in str(error)

    container.run(scenario)


def test_missing_object_is_not_found(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("chain/1", [b"x"])
        for key in ("chain/2", "nowhere/1", "chain"):
            with pytest.raises(ObjectNotFound) as caught:
                await store.get(key)
            assert (caught.value.key, caught.value.transient) == (key, False)
            assert isinstance(await failure(store, key, 0, 1), ObjectNotFound)
            assert isinstance(await failure(store, key, 0, 0), ObjectNotFound)

    container.run(scenario)


def test_listing_is_in_key_order_with_sizes(container: Container) -> None:
    names = [
        "a",
        "a-b",
        "a.b",
        "a0",
        "aZ",
        "a_b",
        "b/c",
        "b-c/d",
        "b.c/d",
        "b/c-d/e",
        "b/c.d",
        "b0/c",
        "b/C",
        "Z",
        "0",
        "9/9",
    ]

    async def scenario(store: ObjectStore) -> None:
        shuffled = random.Random(3).sample(names, len(names))
        for name in shuffled:
            await store.put_if_absent(name, [b"x" * len(name)])
        assert [info async for info in store.list_prefix("")] == [ObjectInfo(name, len(name)) for name in sorted(names)]

    container.run(scenario)


def test_prefix_is_any_beginning_of_a_key(container: Container) -> None:
    names = sorted(
        ["chain/00000000/0000000001", "chain/00000000/0000000002", "chain/00000001/0000001024", "catalog/0", "c"]
    )

    async def scenario(store: ObjectStore) -> None:
        for name in names:
            await store.put_if_absent(name, [b""])
        prefixes = {name[:length] for name in names for length in range(len(name) + 1)} | {"d", "chain/1", "c/", "c/x"}
        for prefix in prefixes:
            assert await keys(store, prefix) == [name for name in names if name.startswith(prefix)], prefix

    container.run(scenario)


def test_empty_container_lists_nothing(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        assert await keys(store) == []
        assert await keys(store, "chain/") == []

    container.run(scenario)


def test_deleted_object_is_gone_and_its_key_free(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("a/b", [b"first"])
        await store.delete("a/b")
        with pytest.raises(ObjectNotFound):
            await store.get("a/b")
        assert await keys(store) == []
        await store.put_if_absent("a/b", [b"second"])
        assert await store.get("a/b") == b"second"

    container.run(scenario)


def test_deleting_what_is_not_there_is_no_error(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("a/b", [b"x"])
        for key in ("a/c", "x/y/z", "a", "a/b/c"):
            await store.delete(key)
        assert await keys(store) == ["a/b"]

    container.run(scenario)


@pytest.mark.parametrize("key", BAD_KEYS)
def test_bad_key_is_refused_and_changes_nothing(container: Container, key: str) -> None:
    async def scenario(store: ObjectStore) -> None:
        calls = [
            store.put_if_absent(key, [b"x"]),
            store.replace(key, [b"x"]),
            store.get(key),
            store.get_range(key, 0, 1),
            store.delete(key),
        ]
        for call in calls:
            with pytest.raises(InvalidRequest, match="key"):
                await call
        assert await keys(store) == []

    container.run(scenario)


@pytest.mark.parametrize("prefix", ["/", "..", "../", "a/../", "a//", ".tmp", "a/.", "ä", "a b", "a\n"])
def test_prefix_that_begins_no_key_is_refused(container: Container, prefix: str) -> None:
    async def scenario(store: ObjectStore) -> None:
        with pytest.raises(InvalidRequest, match="prefix"):
            await keys(store, prefix)

    container.run(scenario)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
def test_negative_range_is_refused(container: Container, offset: int, length: int) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("k", [b"x"])
        with pytest.raises(InvalidRequest, match="negative"):
            await store.get_range("k", offset, length)

    container.run(scenario)


def test_one_buffer_in_place_of_a_sequence_is_refused(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        with pytest.raises(InvalidRequest, match="sequence of buffers"):
            await store.put_if_absent("k", b"data")  # type: ignore[arg-type]
        assert await keys(store) == []

    container.run(scenario)


def test_caller_may_reuse_its_buffers_after_the_call(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        buffer = bytearray(b"first")
        await store.put_if_absent("k", [buffer])
        buffer[:] = b"other"
        buffer.clear()
        assert await store.get("k") == b"first"

    container.run(scenario)


def test_closing_is_idempotent_and_a_closed_store_says_so(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        await store.put_if_absent("k", [b"x"])
        await store.close()
        await store.close()
        with pytest.raises(StoreError, match="closed") as caught:
            await store.put_if_absent("l", [b"x"])
        assert not caught.value.transient
        for call in (store.get("k"), store.get_range("k", 0, 1), store.delete("k"), keys(store)):
            with pytest.raises(StoreError, match="closed"):
                await call

    container.run(scenario)


def test_ranges_are_got_together_and_each_has_its_own_error(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        bodies = {f"k/{number}": random.Random(number).randbytes(1000) for number in range(40)}
        for key, body in bodies.items():
            await store.put_if_absent(key, [body])
        wanted = [ObjectRange(key, 10, 500 + number) for number, key in enumerate(bodies)]
        wanted[7], wanted[20] = ObjectRange("k/none", 0, 1), ObjectRange("k/20", 999, 2)
        found = await store.get_ranges(wanted)
        assert isinstance(found[7], ObjectNotFound)
        beyond = found[20]
        assert isinstance(beyond, StoreError)
        assert not beyond.transient
        assert "ends before" in str(beyond)
        for place in set(range(40)) - {7, 20}:
            key, offset, length = wanted[place]
            assert found[place] == bodies[key][offset : offset + length]
        assert await store.get_ranges([]) == []
        for bad in (ObjectRange("../k", 0, 1), ObjectRange("k/1", -1, 1)):
            with pytest.raises(InvalidRequest):
                await store.get_ranges([wanted[0], bad])

    container.run(scenario)


def test_objects_outlive_the_handle(container: Container) -> None:
    container.run(lambda store: store.put_if_absent("k", [b"kept"]))

    async def scenario(store: ObjectStore) -> None:
        assert await store.get("k") == b"kept"

    container.run(scenario)


def test_url_and_repr_say_where(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        assert "://" in store.url
        assert store.url in repr(store)

    container.run(scenario)


def test_many_operations_at_once_do_not_disturb_each_other(container: Container) -> None:
    async def scenario(store: ObjectStore) -> None:
        async def life(number: int) -> None:
            body = os.urandom(number * 997)
            await store.put_if_absent(f"k/{number}", [body])
            assert await store.get(f"k/{number}") == body
            if number % 2:
                await store.delete(f"k/{number}")

        await asyncio.gather(*map(life, range(40)))
        assert await keys(store, "k/") == sorted(f"k/{number}" for number in range(0, 40, 2))

    container.run(scenario)
