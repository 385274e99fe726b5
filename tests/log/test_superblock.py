"""Superblocks: two of four copies decide, an interrupted write leaves the old or the new, nothing else is believed."""

from __future__ import annotations

import itertools
from contextlib import suppress
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.errors import JetdrError, LogDamaged, LogFailed, LogNotALog, UnsupportedVersion
from jetdr_core.limits import SECTION_SUPERBLOCK_AREA_BYTES, SECTIONS_MAX
from jetdr_core.replication_log import superblock as codec
from jetdr_core.replication_log.batch import Cursor
from jetdr_core.replication_log.superblock import (
    SECTION_LAYOUT,
    VOLUME_LAYOUT,
    Layout,
    SectionBody,
    SectionRow,
    Superblock,
    VolumeBody,
)
from jetdr_core.replication_log.superblock_copies import SuperblockCopies
from tests.faults.device import CrashDevice

AREA = 1 << 20
ROW = SectionRow("payroll", UUID(int=5), 1 << 20, 1 << 20)
VOLUME = VolumeBody(UUID(int=3), UUID(int=4), 2 << 20, (ROW,))
SECTION = SectionBody(
    name="payroll",
    domain_uuid=UUID(int=5),
    section_id=77,
    data_offset=(1 << 20) + SECTION_SUPERBLOCK_AREA_BYTES,
    data_bytes=(1 << 20) - SECTION_SUPERBLOCK_AREA_BYTES,
    epoch=4,
    timeline=2,
    clean=True,
    lsn_uploaded=10,
    initial_lsn=1,
    tail=Cursor(4096, 2, 8, 0xABC, 100),
    head=Cursor(16384, 4, 12, 0xDEF, 200),
)
LAYOUTS = pytest.mark.parametrize("layout", [VOLUME_LAYOUT, SECTION_LAYOUT], ids=lambda layout: layout.what)


def generation(layout: Layout, *bodies: bytes) -> list[bytes]:
    """The raw copies of successive superblocks."""
    parent: Superblock | None = None
    raws = []
    for body in bodies:
        raws.append(codec.seal(layout, body, parent=parent))
        parent = codec.unseal(layout, raws[-1])
    return raws


def copies_on(device: CrashDevice, layout: Layout = SECTION_LAYOUT) -> SuperblockCopies:
    return SuperblockCopies(device, layout, 0, where="log")


def test_volume_body_survives_the_round_trip() -> None:
    assert codec.decode_volume(codec.encode_volume(VOLUME), where="log") == VOLUME


def test_section_body_survives_the_round_trip() -> None:
    assert codec.decode_section(codec.encode_section(SECTION), where="log") == SECTION


def test_a_full_section_table_fits() -> None:
    rows = tuple(SectionRow(f"{n:064d}", UUID(int=n), (1 + n) << 20, 1 << 20) for n in range(SECTIONS_MAX))
    body = VOLUME._replace(sections=rows, size_bytes=(SECTIONS_MAX + 1) << 20)
    (raw,) = generation(VOLUME_LAYOUT, codec.encode_volume(body))
    unsealed = codec.unseal(VOLUME_LAYOUT, raw)
    assert unsealed is not None
    assert codec.decode_volume(unsealed.body, where="log") == body


@LAYOUTS
def test_any_two_equal_copies_are_a_quorum(layout: Layout) -> None:
    (raw,) = generation(layout, b"one")
    torn = raw[:50] + b"x" * (len(raw) - 50)
    for pair in itertools.combinations(range(4), 2):
        copies = [raw if index in pair else torn for index in range(4)]
        election = codec.elect(layout, copies, where="log")
        assert election.winner.body == b"one"
        assert set(election.losers) == set(range(4)) - set(pair)


@LAYOUTS
def test_one_copy_is_no_quorum(layout: Layout) -> None:
    (raw,) = generation(layout, b"one")
    with pytest.raises(LogDamaged, match="quorum lost: 1 of 4"):
        codec.elect(layout, [raw, *[layout.magic.ljust(layout.copy_bytes, b"x")] * 3], where="log")


def test_the_newest_quorum_wins() -> None:
    old, new = generation(SECTION_LAYOUT, b"old", b"new")
    assert codec.elect(SECTION_LAYOUT, [new, new, old, old], where="log").winner.body == b"new"
    assert codec.elect(SECTION_LAYOUT, [new, old, old, old], where="log").winner.body == b"old"
    assert codec.elect(SECTION_LAYOUT, [new, bytes(4096), old, old], where="log").winner.body == b"old"


def test_quorum_that_missed_several_writes_is_not_believed() -> None:
    one, _, three = generation(SECTION_LAYOUT, b"1", b"2", b"3")
    with pytest.raises(LogDamaged, match="sequence 3, which does not follow from 1"):
        codec.elect(SECTION_LAYOUT, [three, bytes(4096), one, one], where="log")


def test_copy_of_another_history_is_not_taken_for_an_interrupted_write() -> None:
    one = generation(SECTION_LAYOUT, b"1")[0]
    other = generation(SECTION_LAYOUT, b"x", b"y")[1]
    with pytest.raises(LogDamaged, match="does not follow"):
        codec.elect(SECTION_LAYOUT, [one, one, other, one], where="log")


def test_blank_or_foreign_bytes_are_not_a_log() -> None:
    for raw in (bytes(65536), b"\x55" * 65536):
        with pytest.raises(LogNotALog):
            codec.elect(VOLUME_LAYOUT, [raw] * 4, where="log")


@LAYOUTS
def test_newer_version_is_refused_by_name(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(codec, "SUPERBLOCK_VERSION", 9)
        (raw,) = generation(layout, b"from the future")
    with pytest.raises(UnsupportedVersion, match=f"version 9, this engine reads up to {layout.version_max}"):
        codec.elect(layout, [raw] * 4, where="log")


def test_interrupted_upgrade_falls_back_to_the_version_that_has_the_quorum(monkeypatch: pytest.MonkeyPatch) -> None:
    old = generation(SECTION_LAYOUT, b"old")[0]
    with monkeypatch.context() as patch:
        patch.setattr(codec, "SUPERBLOCK_VERSION", 9)
        new = codec.seal(SECTION_LAYOUT, b"new", parent=codec.unseal(SECTION_LAYOUT, old))
    assert codec.elect(SECTION_LAYOUT, [new, old, old, old], where="log").winner.body == b"old"


def test_opening_repairs_the_copies_that_differ() -> None:
    device = CrashDevice(AREA)
    copies_on(device).write(b"one")
    device.write(16384, bytes(512))
    copies_on(device).load(repair=True)
    assert all(raw == copies_on(device).read_all()[0] for raw in copies_on(device).read_all())


def test_looking_repairs_nothing() -> None:
    device = CrashDevice(AREA)
    copies_on(device).write(b"one")
    device.write(16384, bytes(512))
    before = device.image()
    copies_on(device).load(repair=False)
    assert device.image() == before


@LAYOUTS
@pytest.mark.parametrize("permanence", ["transient", "permanent"])
def test_interrupted_superblock_write_leaves_the_old_or_the_new(layout: Layout, permanence: str) -> None:
    for n, seed in itertools.product(range(1, 8), range(8)):
        device = CrashDevice(AREA, seed=seed)
        first = copies_on(device, layout)
        first.write(b"old")
        device.fail_at(n, permanence)  # type: ignore[arg-type]
        try:
            first.write(b"new")
            expected = {b"new"}
        except LogFailed:
            expected = {b"old", b"new"}
            assert first.failed
            with pytest.raises(LogFailed):
                first.write(b"newer")
        device = device.crash(seed)
        assert copies_on(device, layout).load(repair=True) in expected
        device = device.crash(seed)
        again = copies_on(device, layout)
        assert again.load(repair=False) in expected
        again.write(b"next")
        assert copies_on(device.crash(seed), layout).load(repair=False) == b"next"


def test_power_loss_during_the_repair_is_harmless() -> None:
    for n, seed in itertools.product(range(1, 4), range(20)):
        device = CrashDevice(AREA)
        copies_on(device).write(b"old")
        device.sync()
        device = interrupted_write(device, seed)
        found = copies_on(device).load(repair=False)
        device.fail_at(4 + n, "permanent")  # four reads, then the repair
        with suppress(LogFailed):
            copies_on(device).load(repair=True)
        assert copies_on(device.crash(seed)).load(repair=True) == found


def interrupted_write(device: CrashDevice, seed: int) -> CrashDevice:
    """Power fails during the write of ``new``."""
    copies = copies_on(device)
    copies.load(repair=False)
    device.fail_at(1 + seed % 6, "permanent")
    with pytest.raises(LogFailed):
        copies.write(b"new")
    return device.crash(seed)


def test_unreadable_copies_are_passed_over_while_a_quorum_is_left() -> None:
    device = CrashDevice(AREA)
    copies_on(device).write(b"one")
    device.fail_at(2, "transient")
    assert copies_on(device).load(repair=True) == b"one"
    device.fail_at(1, "permanent")
    with pytest.raises(LogFailed, match="cannot be read"):
        copies_on(device).load(repair=False)


# -- hostile bytes -----------------------------------------------------------------------------------------------------


@given(body=st.binary(max_size=600))
def test_any_body_decodes_or_is_named_as_damaged(body: bytes) -> None:
    for decode in (codec.decode_volume, codec.decode_section):
        with suppress(JetdrError):
            decode(body, where="log")


DECODERS = [
    (codec.encode_volume(VOLUME), codec.decode_volume),
    (codec.encode_section(SECTION), codec.decode_section),
]
EXTREMES = st.sampled_from([bytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f"]) | st.binary(min_size=8, max_size=8)


@given(data=st.data())
def test_mutated_bodies_decode_or_are_named_as_damaged(data: st.DataObject) -> None:
    encoded, decode = data.draw(st.sampled_from(DECODERS))
    raw = bytearray(encoded)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 8))
        raw[at : at + 8] = data.draw(EXTREMES)
    with suppress(JetdrError):
        decode(bytes(raw[: data.draw(st.integers(len(raw) - 8, len(raw)))]), where="log")


@given(data=st.data())
def test_corrupted_copies_are_outvoted_or_named(data: st.DataObject) -> None:
    (raw,) = generation(SECTION_LAYOUT, codec.encode_section(SECTION))
    copies = []
    for _ in range(4):
        copy = bytearray(raw)
        for _ in range(data.draw(st.integers(0, 2))):
            copy[data.draw(st.integers(0, 200))] ^= data.draw(st.integers(1, 255))
        copies.append(bytes(copy))
    try:
        election = codec.elect(SECTION_LAYOUT, copies, where="log")
    except (LogDamaged, LogNotALog):
        assert sum(copy == raw for copy in copies) < 2
    else:
        assert election.raw == raw


@pytest.mark.parametrize("length", [0, 7, 40, 4095, 4097, 65536])
def test_copy_of_the_wrong_length_is_not_believed(length: int) -> None:
    (raw,) = generation(SECTION_LAYOUT, b"one")
    assert codec.unseal(SECTION_LAYOUT, raw.ljust(length, b"\0")[:length]) is None


@pytest.mark.parametrize(
    "row",
    [
        ROW._replace(offset=0),
        ROW._replace(offset=(1 << 20) + 4096),
        ROW._replace(section_bytes=0),
        ROW._replace(section_bytes=1 << 62),
        ROW._replace(offset=1 << 62),
    ],
)
def test_section_outside_the_volume_is_refused(row: SectionRow) -> None:
    with pytest.raises(LogDamaged, match="overlaps one or leaves the volume"):
        codec.decode_volume(codec.encode_volume(VOLUME._replace(sections=(row,))), where="log")


def test_overlapping_sections_and_equal_names_are_refused() -> None:
    twins = (ROW, ROW._replace(name="crm"))
    with pytest.raises(LogDamaged, match="overlaps"):
        codec.decode_volume(codec.encode_volume(VOLUME._replace(sections=twins)), where="log")
    with pytest.raises(LogDamaged, match="same name"):
        codec.decode_volume(codec.encode_volume(VOLUME._replace(sections=(ROW, ROW))), where="log")


def test_section_superblock_that_contradicts_the_table_is_refused() -> None:
    for body in (
        SECTION._replace(name="crm"),
        SECTION._replace(domain_uuid=UUID(int=9)),
        SECTION._replace(data_offset=4096),
        SECTION._replace(data_bytes=1 << 40),
    ):
        with pytest.raises(LogDamaged, match="outside section"):
            codec.check_place(body, ROW, where="log")
