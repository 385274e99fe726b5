"""Losses against a model that asks, for every LSN and byte, who wrote it last."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.segment import ENTRY, NO_FRAME
from jetdr_core.verify.loss import Losses

SECTORS = 12
ENTRIES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, SECTORS - 1), st.integers(1, 5), st.booleans()), min_size=1, max_size=40
)


@given(ENTRIES, st.integers(1, 7))
def test_a_point_needs_a_loss_exactly_while_a_byte_of_it_is_the_newest(
    rows: list[tuple[int, int, int, bool]], segment_entries: int
) -> None:
    losses = Losses()
    for first in range(0, len(rows), segment_entries):
        part = rows[first : first + segment_entries]
        entries = np.zeros(len(part), ENTRY)
        for at, (disk, offset, length, lost) in enumerate(part):
            entry = entries[at]
            entry["lsn"], entry["disk"], entry["frame"] = first + at + 1, disk, 0 if lost else NO_FRAME
            entry["offset"], entry["length"] = offset * 512, length * 512
        losses.feed(entries, {0: "problem"} if any(row[3] for row in part) else {}, "key")
    owner: dict[tuple[int, int], tuple[int, bool]] = {}
    lsns = range(1, len(rows) + 1)
    found = [losses.needed_at(lsns, lambda disk, _: disk == 0), losses.needed_at(lsns, lambda disk, _: disk == 1)]
    for lsn, (disk, offset, length, lost) in enumerate(rows, 1):
        owner |= {(disk, sector): (lsn, lost) for sector in range(offset, offset + length)}
        for number in (0, 1):
            needed = {loss.lsn for of_disk in next(found[number]) for loss in of_disk}
            assert needed == {writer for (of, _), (writer, bad) in owner.items() if bad and of == number}


def test_a_lost_index_spoils_a_disk_until_all_of_it_is_overwritten() -> None:
    losses = Losses()
    losses.lose_disks([(1, 4096), (2, 4096)], 10, "key", "index is damaged")
    entries = np.zeros(2, ENTRY)
    entries["lsn"], entries["disk"], entries["length"], entries["frame"] = (20, 30), 1, 2048, NO_FRAME
    entries["offset"] = (0, 2048)
    losses.feed(entries, {}, "later")
    assert needed(losses, {1}, 9, 10, 29, 30) == [False, True, True, False]
    assert needed(losses, {1, 2}, 40, 1 << 60) == [True, True]


def needed(losses: Losses, disks: set[int], *lsns: int) -> list[bool]:
    return [any(of_disk) for of_disk in losses.needed_at(lsns, lambda disk, _: disk in disks)]
