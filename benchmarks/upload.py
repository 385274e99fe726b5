"""upload: payload a second from a full log to the store.

To the directory store, the peer is ``lz4.block.compress`` of exactly the same frames by as many threads. To Azurite,
the peer is the bare SDK, which uploads the same objects with as many in flight.
"""

from __future__ import annotations

import asyncio
import mmap
import shutil
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import lz4.block
from azure.storage.blob.aio import BlobServiceClient

from benchmarks.command_line import main
from benchmarks.material import compressible
from benchmarks.measure import AtLeast, PeerMissing, Row, Scale, interleaved, median
from jetdr_core._core import IoFilter, Ring
from jetdr_core.catalog import Catalog, chain_key
from jetdr_core.control_bodies import DiskAdd, EpochOwner
from jetdr_core.device import FileDevice
from jetdr_core.domain.log_source import DurableLog
from jetdr_core.options import DomainOptions
from jetdr_core.record import control_payload
from jetdr_core.rehydrate import rehydrate
from jetdr_core.replication_log import Cursor, ReplicationLog, open_volume
from jetdr_core.segment import NO_PREDECESSOR, decode_frame
from jetdr_core.store import ObjectStore, RetryingStore, open_store
from jetdr_core.store.azure import AzureBlobStore
from jetdr_core.store.azure_target import azure_target
from jetdr_core.uploader import ChainEnd, ChainWriter, Uploader
from tests.peers import azurite

__all__ = ["run"]

DOMAIN_UUID = UUID("0b5e7c5e-0000-4000-8000-00000000be5d")
OWNER = UUID(int=1)
WRITE_BYTES = 16 << 10
PUTS = 4
Upload = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Size:
    payload_bytes: int
    azure_payload_bytes: int
    rounds: int


SIZES = {
    Scale.FULL: _Size(payload_bytes=1 << 30, azure_payload_bytes=512 << 20, rounds=7),
    Scale.QUICK: _Size(payload_bytes=256 << 20, azure_payload_bytes=128 << 20, rounds=3),
    Scale.TINY: _Size(payload_bytes=4 << 20, azure_payload_bytes=4 << 20, rounds=1),
}


def run(scale: Scale, work: Path) -> list[Row]:
    size = SIZES[scale]
    with _full_log(work / "log", size.payload_bytes) as log:
        rows = _to_directory(log, work, size)
    with _full_log(work / "azure-log", size.azure_payload_bytes) as log:
        return rows + _to_azurite(log, work, size)


# -- a log full of writes ----------------------------------------------------------------------------------------------


class _KeptLog(DurableLog):
    """The log of a domain. An upload does not move its tail, so the next upload finds the same records."""

    def checkpoint(self, cursor: Cursor) -> None:
        """Leave the tail where it is."""


@dataclass(frozen=True, slots=True)
class _FullLog:
    source: _KeptLog
    begin: Cursor
    lsn_last: int
    payload: memoryview
    ring: Ring


@contextmanager
def _full_log(path: Path, payload_bytes: int) -> Iterator[_FullLog]:
    """Write ``payload_bytes`` through the filter in writes of 16 KiB, and make them durable in a log on a file."""
    payload = memoryview(compressible(payload_bytes))
    with ExitStack() as opened:
        lease = open_volume(path, owner=OWNER, create=True)
        opened.callback(lease.close)
        lease.volume.create_section(
            "bench", DOMAIN_UUID, payload_bytes * 9 // 8 + (64 << 20), timeline=1, initial_lsn=1, time_ns=0
        )
        log = ReplicationLog(lease.volume.open_section("bench", DOMAIN_UUID))
        opened.callback(log.close, clean=False)
        log.begin(1)
        ring = Ring(payload_bytes=64 << 20, slots=1 << 15, lsn_next=1)
        log.start(ring)
        begin = log.tail
        lsn = _write_all(ring, payload, path.with_suffix(".primary"))
        yield _FullLog(_KeptLog(log, ring, "bench"), begin, lsn, payload, ring)


def _write_all(ring: Ring, payload: memoryview, primary: Path) -> int:
    added = DiskAdd(name="disk", uuid="bench", path="disk", size_bytes=len(payload), holds_data=False)
    ring.control(added.kind, 1, control_payload(added.encode()), stall_limit_s=30)
    device = FileDevice(primary, direct=False, create_bytes=len(payload))
    io_filter = IoFilter(ring, device, disk=1, size_bytes=len(payload), record_bytes_max=1 << 20, stall_limit_s=30)
    for offset in range(0, len(payload), WRITE_BYTES):
        io_filter.write(offset, payload[offset : offset + WRITE_BYTES])
    lsn = io_filter.flush()
    io_filter.close()
    device.close()
    primary.unlink()
    return lsn


# -- one upload --------------------------------------------------------------------------------------------------------


async def _ship(log: _FullLog, store: ObjectStore, options: DomainOptions) -> float:
    """Return the seconds from the uploader's start, after the epoch object, until the store holds everything."""
    chain = ChainWriter(
        RetryingStore(store), domain="bench", domain_uuid=DOMAIN_UUID, timeline=1, end=ChainEnd(0, NO_PREDECESSOR, 0)
    )
    owner = EpochOwner(owner=str(OWNER), host="bench", domain="bench", domain_uuid=str(DOMAIN_UUID))
    await chain.claim(1, 0, owner)
    uploader = Uploader(log.source, chain, options, log.begin, on_segment=lambda *_: None)
    begun = time.perf_counter()
    uploader.start()
    await uploader.wait_uploaded(log.lsn_last)
    took = time.perf_counter() - begun
    await uploader.stop()
    return took


async def _check(store: ObjectStore, payload: memoryview, work: Path) -> None:
    """Check that a recovery from the store returns the bytes that were written."""
    target = work / f"check-{uuid4()}"
    report = await rehydrate(store, at="latest", target=target, format="raw")
    with report.disks[0].path.open("rb") as disk, mmap.mmap(disk.fileno(), 0, prot=mmap.PROT_READ) as there:
        same = there.size() == len(payload) and memoryview(there).cast("B").tobytes() == bytes(payload)
    shutil.rmtree(target)
    if not same:
        raise RuntimeError(f"{store.url} does not hold what was written")


async def _frames(store: ObjectStore) -> list[bytes]:
    """Return the raw bytes of every frame in the store."""
    frames = []
    async with await Catalog.open(store) as catalog:
        for row in catalog.segments:
            number = int(row["number"])
            key, table = chain_key(number), (await catalog.index(number)).frames
            data = memoryview(await store.get(key))
            for frame in table:
                stored = data[int(frame["offset"]) :][: int(frame["stored_bytes"])]
                frames.append(bytes(decode_frame(stored, frame, key)))
    return frames


# -- directory ---------------------------------------------------------------------------------------------------------


def _to_directory(log: _FullLog, work: Path, size: _Size) -> list[Row]:
    first = work / "store-checked"
    frames = asyncio.run(_ship_and_take_frames(log, first, work))
    stored = sum(path.stat().st_size for path in first.rglob("*") if path.is_file())
    note = f"data {len(log.payload) / stored:.2f} : 1, writes of {WRITE_BYTES >> 10} KiB"
    return [
        _directory_row(log, work, size, frames, workers, verify=verify, note=note)
        for workers in (1, 2)
        for verify in (True, False)
    ]


async def _ship_and_take_frames(log: _FullLog, folder: Path, work: Path) -> list[bytes]:
    store = open_store(folder.as_uri(), create=True)
    try:
        await _ship(log, store, DomainOptions())
        await _check(store, log.payload, work)
        return await _frames(store)
    finally:
        await store.close()


def _directory_row(
    log: _FullLog, work: Path, size: _Size, frames: Sequence[bytes], workers: int, *, verify: bool, note: str
) -> Row:
    options = DomainOptions(upload_workers=workers, puts_max=PUTS, verify_frames=verify)

    def ours() -> float:
        folder = work / "store"
        took = asyncio.run(_to_new_directory(log, folder, options))
        shutil.rmtree(folder)
        return took

    seconds = [median(column) for column in interleaved(size.rounds, ours, lambda: _compress(frames, workers))]
    return Row(
        measure=f"to a directory, {_count(workers, 'worker')}{'' if verify else ', verify_frames=False'}",
        ours=len(log.payload) / seconds[0] / 1e6,
        unit="MB/s",
        peer=f"lz4.block.compress, {_count(workers, 'thread')}",
        theirs=len(log.payload) / seconds[1] / 1e6,
        target=AtLeast(0.85) if verify else None,
        note=note,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


async def _to_new_directory(log: _FullLog, folder: Path, options: DomainOptions) -> float:
    store = open_store(folder.as_uri(), create=True)
    try:
        return await _ship(log, store, options)
    finally:
        await store.close()


def _compress(frames: Sequence[bytes], threads: int) -> float:
    def part(nth: int) -> None:
        for frame in frames[nth::threads]:
            lz4.block.compress(frame, store_size=False)

    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        list(pool.map(part, range(threads)))
        return time.perf_counter() - begun


# -- Azurite -----------------------------------------------------------------------------------------------------------


def _to_azurite(log: _FullLog, work: Path, size: _Size) -> list[Row]:
    try:
        with azurite.running_azurite() as server:
            return asyncio.run(_azurite_rows(log, work, size, server))
    except azurite.PeerMissing as error:
        raise PeerMissing(str(error)) from error


async def _azurite_rows(log: _FullLog, work: Path, size: _Size, server: azurite.Azurite) -> list[Row]:
    numbers = count()
    objects = await _objects(log, work)
    options = DomainOptions(puts_max=PUTS)

    async def through_uploader() -> float:
        return await _in_container(server, next(numbers), lambda store: _ship(log, store, options))

    async def through_store() -> float:
        return await _in_container(
            server, next(numbers), lambda store: _put_all(objects, RetryingStore(store).put_if_absent)
        )

    async def bare() -> float:
        return await _bare_sdk(server, f"bare-{next(numbers)}", objects)

    async def checked(store: ObjectStore) -> float:
        await _ship(log, store, options)
        await _check(store, log.payload, work)
        return 0.0

    await _in_container(server, next(numbers), checked)
    columns = await _in_turns(size.rounds, through_uploader, through_store, bare)
    shipped, stored, alone = (len(log.payload) / median(column) / 1e6 for column in columns)
    peer = f"bare SDK, the same objects, {PUTS} at once"
    note = "the server, the compression and both clients share the machine"
    return [
        Row(
            measure=f"sealed objects to Azurite, {PUTS} at once",
            ours=stored,
            unit="MB/s",
            peer=peer,
            theirs=alone,
            target=AtLeast(0.95),
        ),
        Row(measure="from the log to Azurite", ours=shipped, unit="MB/s", peer=peer, theirs=alone, note=note),
    ]


async def _in_turns(rounds: int, *steps: Callable[[], Awaitable[float]]) -> list[list[float]]:
    """Return the figures of each step. Every round reverses the order: the server slows down with all it ever held."""
    figures: list[list[float]] = [[] for _ in steps]
    order = list(zip(steps, figures, strict=True))
    for _ in range(rounds):
        for step, column in order:
            column.append(await step())
        order.reverse()
    return figures


async def _objects(log: _FullLog, work: Path) -> list[bytes]:
    """Return the objects that an upload of ``log`` makes."""
    folder = work / "store-objects"
    await _to_new_directory(log, folder, DomainOptions())
    return [path.read_bytes() for path in sorted((folder / "chain").rglob("*")) if path.is_file()]


async def _in_container(server: azurite.Azurite, number: int, step: Callable[[ObjectStore], Awaitable[float]]) -> float:
    store = AzureBlobStore(azure_target(f"az://bench-{number}", server.environment()), create=True)
    try:
        async for _ in store.list_prefix("none"):
            pass  # now the container exists and a connection is open
        took = await step(store)
        async for info in store.list_prefix(""):
            await store.delete(info.key)  # the server keeps objects in memory
        return took
    finally:
        await store.close()


async def _bare_sdk(server: azurite.Azurite, container: str, objects: Sequence[bytes]) -> float:
    async with (
        BlobServiceClient.from_connection_string(server.connection_string, max_single_put_size=64 << 20) as service,
        service.get_container_client(container) as client,
    ):
        await client.create_container()

        async def put(key: str, data: Sequence[bytes]) -> None:
            await client.upload_blob(key, data[0])

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # aiohttp warns of bodies as large as these
            took = await _put_all(objects, put)
        await client.delete_container()
        return took


async def _put_all(objects: Sequence[bytes], put: Callable[[str, Sequence[bytes]], Awaitable[object]]) -> float:
    rest = iter(enumerate(objects))

    async def worker() -> None:
        for nth, data in rest:
            await put(f"object/{nth:06d}", [data])

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(PUTS)))
    return time.perf_counter() - begun


if __name__ == "__main__":
    main({"upload": run})
