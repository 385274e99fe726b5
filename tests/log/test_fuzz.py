"""Hostile bytes: whatever lies on the volume, opening ends in an answer or an error of the engine, and stays small."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.errors import JetdrError
from jetdr_core.replication_log import ReplicationLog
from jetdr_core.replication_log.batch import (
    BATCH_HEADER,
    BATCH_VERSION,
    Cursor,
    DataArea,
    find_headers,
    parse_header,
    parse_records,
)
from tests.faults.device import CrashDevice
from tests.log.tools import VOLUME_BYTES, Forge, new_volume, open_volume_on, read_all, write_records

EXTREMES = [0, 1, 127, 4095, 4096, 1 << 20, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1, (1 << 64) - 1]
FIELDS = [name for name in BATCH_HEADER.names or () if name not in {"reserved", "checksum"}]


def sample() -> tuple[bytes, Forge]:
    """A volume with a log of a few batches and a wrap, and where they lie."""
    device = CrashDevice(VOLUME_BYTES)
    section = new_volume(device).open_section("payroll")
    section.update(lambda body: body._replace(clean=False, epoch=1))
    forge = Forge(device, section.body.area, section.body.tail)
    for n in range(5):
        forge.batch([bytes([n]) * 512 * (n + 1)] * (n + 1))
        forge.flushed()
    forge.wrap()
    return device.image(), forge


IMAGE, FORGE = sample()


def sealed(block: bytearray) -> bytes:
    """Return the batch header with a correct checksum."""
    block[120:128] = xxhash.xxh3_64_intdigest(bytes(block[:120])).to_bytes(8, "little")
    return bytes(block)


def open_and_read(image: bytes) -> None:
    log = ReplicationLog(open_volume_on(CrashDevice(image=image)).open_section("payroll"))
    read_all(log)
    log.close()


@given(block=st.binary(min_size=128, max_size=300))
def test_random_bytes_are_no_batch_header(block: bytes) -> None:
    assert parse_header(block) is None


@given(field=st.sampled_from(FIELDS), value=st.sampled_from(EXTREMES) | st.integers(0, (1 << 64) - 1))
def test_header_with_a_hostile_field_is_bounded_or_refused(field: str, value: int) -> None:
    offset, _ = FORGE.places[3]
    row = np.frombuffer(bytearray(IMAGE[offset : offset + 128]), BATCH_HEADER).copy()
    row[field] = np.uint64(value).astype(row[field].dtype)
    header = parse_header(sealed(bytearray(row.tobytes())))
    if header is not None and header.version == BATCH_VERSION:
        assert header.total_bytes <= 65 << 20
        assert header.record_count <= 4096


@given(number=st.integers(1, 5), field=st.sampled_from(FIELDS), value=st.sampled_from(EXTREMES))
def test_hostile_header_in_a_log_ends_in_an_answer(number: int, field: str, value: int) -> None:
    offset, _ = FORGE.places[number]
    image = bytearray(IMAGE)
    row = np.frombuffer(image[offset : offset + 128], BATCH_HEADER).copy()
    row[field] = np.uint64(value).astype(row[field].dtype)
    image[offset : offset + 128] = sealed(bytearray(row.tobytes()))
    with suppress(JetdrError):
        open_and_read(bytes(image))


@given(data=st.data())
def test_corrupted_volume_ends_in_an_answer(data: st.DataObject) -> None:
    image = bytearray(IMAGE)
    end = FORGE.area.data_offset + 65536
    spots = st.one_of(
        st.integers(0, 255), st.integers(1 << 20, (1 << 20) + 255), st.integers(FORGE.area.data_offset, end)
    )
    for _ in range(data.draw(st.integers(1, 8))):
        image[data.draw(spots)] ^= data.draw(st.integers(1, 255))
    with suppress(JetdrError):
        open_and_read(bytes(image))


@pytest.mark.parametrize("seed", range(20))
def test_truncated_volume_ends_in_an_error(seed: int) -> None:
    length = random.Random(seed).randrange(1, len(IMAGE) // 512) * 512
    with pytest.raises(JetdrError):
        open_and_read(IMAGE[:length])


@given(count=st.integers(0, 5), changes=st.lists(st.tuples(st.integers(0, 319), st.integers(0, 255)), max_size=6))
def test_records_with_a_right_checksum_but_hostile_content_are_checked(
    count: int, changes: list[tuple[int, int]]
) -> None:
    headers = bytearray(write_records(Cursor(0, 0, 0, 0, 0), [bytes(512)] * count).tobytes())
    for at, value in changes:
        if at < len(headers):
            headers[at] = value
    block = bytearray(4096)
    block[128 : 128 + len(headers)] = headers
    header = np.zeros(1, BATCH_HEADER)
    header["magic"], header["version"], header["batch_number"] = 0x42524A4C, 1, 1
    header["record_count"], header["header_bytes"], header["first_lsn"] = count, 4096, 1
    header["payload_bytes"] = 512 * count
    header["records_checksum"] = xxhash.xxh3_64_intdigest(bytes(headers))
    parsed = parse_header(sealed(bytearray(header.tobytes())))
    assert parsed is not None
    records = parse_records(parsed, memoryview(block))
    if records is not None:
        assert int(records["payload_bytes"].sum()) == 512 * count
        assert records["lsn"].tolist() == list(range(1, count + 1))


def test_payload_that_imitates_headers_of_another_place_is_no_witness() -> None:
    area = DataArea(77, 0, 1 << 20)
    device = CrashDevice(1 << 20)
    forge = Forge(device, area, Cursor(0, 0, 0, 0, 0))
    forge.batch([b"x" * 512])
    copy = device.image()[:4096]
    assert [header.batch_number for header in find_headers(memoryview(copy * 3), 0, area, number_above=0)] == [1]


def test_hostile_lengths_allocate_nothing_large() -> None:
    offset, _ = FORGE.places[2]
    image = bytearray(IMAGE)
    row = np.frombuffer(image[offset : offset + 128], BATCH_HEADER).copy()
    row["payload_bytes"], row["header_bytes"], row["record_count"] = (1 << 64) - 512, (1 << 32) - 4096, (1 << 32) - 1
    image[offset : offset + 128] = sealed(bytearray(row.tobytes()))
    volume = open_volume_on(CrashDevice(image=bytes(image)))
    tracemalloc.start()
    with pytest.raises(JetdrError):
        ReplicationLog(volume.open_section("payroll"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 << 20
