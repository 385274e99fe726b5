"""unpack_columns and the checks of an index's tables against models in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core._kernels import check_entries, check_frames, check_records, unpack_columns
from jetdr_core.segment import ENTRY, FRAME, NO_FRAME
from jetdr_core.segment.columns import pack_columns

pytestmark = pytest.mark.native

Table = npt.NDArray[np.void]
START, FRAME_BYTES, DISK_BYTES = 64, 256 << 10, 1 << 50
WIDE = np.dtype([*[(name, FRAME[name]) for name in FRAME.names or ()], ("tag", "V16")])

# -- models ------------------------------------------------------------------------------------------------------------


def frames_are_sound(frames: Table, stored_bytes: int) -> bool:
    sizes = frames["stored_bytes"].astype(np.uint64)
    starts = np.uint64(START) + np.cumsum(sizes, dtype=np.uint64) - sizes
    return bool(
        (frames["raw_bytes"] <= FRAME_BYTES).all()
        and (sizes > 0).all()
        and (sizes <= frames["raw_bytes"]).all()
        and (starts == frames["offset"]).all()
        and int(sizes.sum(dtype=np.uint64)) == stored_bytes
        and (frames["codec"] <= 1).all()
        and (sizes == frames["raw_bytes"])[frames["codec"] == 0].all()
    )


def entries_are_sound(entries: Table, frames: Table) -> bool:
    return all(place_is_sound(row, frames) for row in entries) and all(
        order_is_sound(before, after) for before, after in itertools.pairwise(entries)
    )


def place_is_sound(row: np.void, frames: Table) -> bool:
    offset, length, frame = int(row["offset"]), int(row["length"]), int(row["frame"])
    if not length or offset % 512 or length % 512 or offset + length > DISK_BYTES:
        return False
    if frame == NO_FRAME:
        return int(row["kind"]) == 2
    end = int(row["frame_offset"]) + length
    return int(row["kind"]) == 1 and frame < len(frames) and end <= int(frames["raw_bytes"][frame])


def order_is_sound(before: np.void, after: np.void) -> bool:
    if before["lsn"] != after["lsn"]:
        return bool(before["lsn"] < after["lsn"])
    alike = all(before[name] == after[name] for name in ("disk", "time_ns", "flags"))
    return alike and int(before["offset"]) + int(before["length"]) == int(after["offset"])


def records_are_sound(
    entries: Table, control: list[tuple[int, int]], lsns: tuple[int, int], times_ns: tuple[int, int]
) -> bool:
    first = np.append(True, np.diff(entries["lsn"]) != 0)[: len(entries)]
    records = sorted([(int(row["lsn"]), int(row["time_ns"])) for row in entries[first]] + control)
    times = [time_ns for _, time_ns in records]
    dense = [lsn for lsn, _ in records] == list(range(lsns[0], lsns[1] + 1))
    return dense and times == sorted(times) and (times[0], times[-1]) == times_ns


# -- tables ------------------------------------------------------------------------------------------------------------


@st.composite
def frame_tables(draw: st.DrawFn, dtype: np.dtype[np.void] = FRAME) -> Table:
    """Sound frames."""
    raws = draw(st.lists(st.integers(1, 8).map(lambda sectors: sectors * 512), min_size=1, max_size=6))
    table, offset = np.zeros(len(raws), dtype), START
    for row, raw in zip(table, raws, strict=True):
        stored = draw(st.sampled_from([raw, raw - 1]))
        row["offset"], row["stored_bytes"], row["raw_bytes"], row["codec"] = offset, stored, raw, stored != raw
        offset += stored
    return table


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Table, list[tuple[int, int]]]:
    """Sound frames, entries and control records."""
    frames, rows, control, time_ns = draw(frame_tables()), [], [], 5
    for lsn in range(10, 10 + draw(st.integers(1, 8))):
        time_ns += draw(st.integers(0, 2))
        offset = 512 * draw(st.integers(0, 100))
        if draw(st.booleans()):
            control.append((lsn, time_ns))
            continue
        for _ in range(draw(st.integers(1, 3))):
            frame = draw(st.integers(-1, len(frames) - 1))
            length = 512 if frame >= 0 else 4096
            place = (lsn, time_ns, offset, length, 1, frame % (1 << 32), 0, 1 + (frame < 0), 0)
            rows.append(place)
            offset += length
    return frames, np.array(rows, ENTRY), control


def changed(table: Table, data: st.DataObject) -> None:
    """Change one number of one row."""
    row, name = data.draw(st.integers(0, len(table) - 1)), data.draw(st.sampled_from(table.dtype.names or ()))
    bits = 8 * table.dtype[name].itemsize
    values = st.one_of(st.integers(0, 20), st.sampled_from([512, 1024, (1 << bits) - 1, 1 << (bits - 1)]))
    value = data.draw(values) % (1 << bits)
    table[name][row : row + 1] = np.array([value], f"u{bits // 8}").view(table.dtype[name])


# -- tests -------------------------------------------------------------------------------------------------------------


@given(frame_tables(), st.data())
def test_frames_are_judged_like_the_model(frames: Table, data: st.DataObject) -> None:
    stored_bytes = int(frames["stored_bytes"].sum())
    assert check_frames(frames, START, stored_bytes, FRAME_BYTES) == 0
    assert check_frames(frames, START, stored_bytes + 1, FRAME_BYTES) != 0
    changed(frames, data)
    assert (check_frames(frames, START, stored_bytes, FRAME_BYTES) == 0) == frames_are_sound(frames, stored_bytes)


@given(tables(), st.data())
def test_entries_are_judged_like_the_model(
    sound: tuple[Table, Table, list[tuple[int, int]]], data: st.DataObject
) -> None:
    frames, entries, _ = sound
    assert check_entries(entries, frames, DISK_BYTES) == 0
    if len(entries):
        changed(entries, data)
    assert (check_entries(entries, frames, DISK_BYTES) == 0) == entries_are_sound(entries, frames)


@given(tables(), st.data())
def test_records_are_judged_like_the_model(
    sound: tuple[Table, Table, list[tuple[int, int]]], data: st.DataObject
) -> None:
    _, entries, control = sound
    times = [int(time_ns) for time_ns in entries["time_ns"]] + [time_ns for _, time_ns in control]
    lsn_last = max([int(lsn) for lsn in entries["lsn"]] + [lsn for lsn, _ in control])
    lsns, times_ns = (10, lsn_last), (min(times), max(times))
    assert check_records(entries, control, lsns, times_ns) == 0
    lsns = (lsns[0] + data.draw(st.integers(-1, 1)), lsns[1] + data.draw(st.integers(-1, 1)))
    times_ns = (times_ns[0] + data.draw(st.integers(-1, 1)), times_ns[1] + data.draw(st.integers(-1, 1)))
    replaces: bool = data.draw(st.booleans())
    if control and replaces:
        control[data.draw(st.integers(0, len(control) - 1))] = data.draw(
            st.tuples(st.integers(9, 19), st.integers(4, 25))
        )
        control.sort()
    if len({lsn for lsn, _ in control}) == len(control):
        assert (check_records(entries, control, lsns, times_ns) == 0) == records_are_sound(
            entries, control, lsns, times_ns
        )


@given(st.integers(0, 300), st.randoms(use_true_random=False))
def test_columns_come_back_as_rows(count: int, random: object) -> None:
    table = np.frombuffer(random.randbytes(count * WIDE.itemsize), WIDE)  # type: ignore[attr-defined]
    rows = np.empty(count, WIDE)
    unpack_columns(pack_columns(table, ("offset", "raw_bytes")), rows, ("offset", "raw_bytes"))
    assert rows.tobytes() == table.tobytes()


def test_frames_of_longer_rows_are_checked_too() -> None:
    frames = np.zeros(1, WIDE)
    frames["offset"], frames["stored_bytes"], frames["raw_bytes"] = START, 512, 512
    assert check_frames(frames, START, 512, FRAME_BYTES) == 0
    assert check_frames(frames, START, 513, FRAME_BYTES) != 0


def test_arrays_that_are_no_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="planes are not"):
        unpack_columns(bytes(24), np.empty(1, FRAME), ())
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack_columns(
            bytes(32), np.empty(2, np.dtype({"names": ["a"], "formats": ["<u8"], "offsets": [8], "itemsize": 16})), ()
        )
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack_columns(bytes(WIDE.itemsize), np.empty(1, WIDE), ("tag",))
    with pytest.raises(ValueError, match="frame rows"):
        check_frames(np.zeros(1, np.dtype([("offset", "<u8")])), 0, 0, 0)
    with pytest.raises(ValueError, match="entry rows"):
        check_entries(np.zeros(1, FRAME), np.zeros(0, FRAME), DISK_BYTES)
