"""The fold of control records says at every LSN what a recomputation from scratch says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.catalog import DomainHistory
from jetdr_core.errors import DamagedObject
from jetdr_core.record import ControlRecord, Kind

SIZE = 1 << 20


def record(lsn: int, kind: Kind, disk: int = 0, **body: object) -> ControlRecord:
    return ControlRecord(lsn, 1000 + lsn, kind, disk, body)


def add(lsn: int, disk: int, *, holds_data: bool = False, name: str = "") -> ControlRecord:
    return record(lsn, Kind.DISK_ADD, disk, name=name or f"disk{disk}", size_bytes=SIZE, holds_data=holds_data)


def folded(*records: ControlRecord) -> DomainHistory:
    history = DomainHistory()
    for item in records:
        history.apply(item)
    return history


@st.composite
def histories(draw: st.DrawFn) -> list[ControlRecord]:
    """Any sequence that a domain could have written."""
    lsn, known, ahead_ns, present, ready, records = 0, 0, 0, set[int](), set[int](), []
    for _ in range(draw(st.integers(1, 25))):
        lsn += draw(st.integers(1, 4))
        choices = ["add", "open", "close", "mark", "void", "clock"]
        choices += ["remove", "grow"] * bool(present) + ["ready"] * 2 * bool(present - ready)
        choice = draw(st.sampled_from(choices))
        if choice == "clock":
            ahead_ns += draw(st.integers(0, 30))
            records.append(record(lsn, Kind.GAP_OPEN, since_ns=900 + lsn, ahead_ns=ahead_ns))
        elif choice == "add":
            known += 1
            present.add(known)
            holds_data = draw(st.booleans())
            ready |= set() if holds_data else {known}
            records.append(add(lsn, known, holds_data=holds_data))
        elif choice == "ready":
            disk = draw(st.sampled_from(sorted(present - ready)))
            ready.add(disk)
            records.append(record(lsn, Kind.DISK_READY, disk))
        elif choice in {"remove", "grow"}:
            disk = draw(st.sampled_from(sorted(present)))
            if choice == "remove":
                present.discard(disk)
                records.append(record(lsn, Kind.DISK_REMOVE, disk))
            else:
                records.append(record(lsn, Kind.DISK_GROW, disk, size_bytes=SIZE + 512 * lsn))
        else:
            kind = {"open": Kind.GAP_OPEN, "close": Kind.GAP_CLOSE, "mark": Kind.MARK, "void": Kind.VOID}[choice]
            records.append(record(lsn, kind, name=f"m{lsn}"))
    return records


class Naive:
    """What holds at one LSN, from the records up to it, without any state kept between questions."""

    def __init__(self, records: list[ControlRecord], lsn: int) -> None:
        self.records = [item for item in records if item.lsn <= lsn]

    def gap(self) -> bool:
        gaps = [item.kind for item in self.records if item.kind in (Kind.GAP_OPEN, Kind.GAP_CLOSE)]
        return bool(gaps) and gaps[-1] == Kind.GAP_OPEN

    def disks(self) -> dict[int, tuple[bool, int]]:
        """Ready, and size, of each disk present."""
        disks: dict[int, tuple[bool, int]] = {}
        for item in self.records:
            if item.kind == Kind.DISK_ADD:
                disks[item.disk] = (not item.body["holds_data"], SIZE)
            elif item.kind == Kind.DISK_READY:
                disks[item.disk] = (True, disks[item.disk][1])
            elif item.kind == Kind.DISK_GROW:
                disks[item.disk] = (disks[item.disk][0], SIZE + 512 * item.lsn)
            elif item.kind == Kind.DISK_REMOVE:
                del disks[item.disk]
        return disks

    def baseline(self) -> bool:
        """Whether at some record's LSN up to now every disk then present was ready."""
        moments = [Naive(self.records, item.lsn).disks().values() for item in self.records]
        return any(disks and all(ready for ready, _ in disks) for disks in moments)

    def consistent(self) -> bool:
        return not self.gap() and self.baseline() and any(ready for ready, _ in self.disks().values())


@settings(max_examples=150)
@given(histories())
def test_every_lsn_is_consistent_exactly_when_the_rule_says(records: list[ControlRecord]) -> None:
    history = folded(*records)
    last = records[-1].lsn + 2
    want = [lsn for lsn in range(1, last + 1) if Naive(records, lsn).consistent()]
    assert [lsn for lsn in range(1, last + 1) if history.consistent_at(lsn)] == want
    intervals = history.intervals(last, 1 << 60)
    assert [lsn for part in intervals for lsn in range(part.lsn_first, part.lsn_last + 1)] == want


@settings(max_examples=150)
@given(histories())
def test_a_point_has_the_disks_and_sizes_of_its_lsn(records: list[ControlRecord]) -> None:
    history = folded(*records)
    for lsn in range(records[-1].lsn + 2):
        want = {disk: size for disk, (ready, size) in Naive(records, lsn).disks().items() if ready}
        assert {disk.disk: disk.size_bytes for disk in history.disks_at(lsn)} == want


@settings(max_examples=60)
@given(histories(), st.integers(0, 25))
def test_applying_records_again_changes_nothing(records: list[ControlRecord], begin: int) -> None:
    history, again = folded(*records), folded(*records, *records[begin:])
    last = records[-1].lsn
    assert history.intervals(last, last) == again.intervals(last, last)
    assert (history.disks, history.marks, history.gaps) == (again.disks, again.marks, again.gaps)


def test_first_point_is_where_every_first_copy_was_complete() -> None:
    history = folded(
        add(1, 1, holds_data=True),
        add(2, 2, holds_data=True),
        record(9, Kind.DISK_READY, 1),
        record(12, Kind.DISK_READY, 2),
    )
    assert history.intervals(20, 5000)[0].lsn_first == 12
    assert history.baseline is not None
    assert history.baseline.lsn == 12


def test_disk_added_later_is_left_out_until_it_is_ready() -> None:
    history = folded(add(1, 1), add(5, 2, holds_data=True), record(9, Kind.DISK_READY, 2))
    assert history.intervals(20, 5000)[0].lsn_first == 1
    assert [len(history.disks_at(lsn)) for lsn in (4, 5, 8, 9)] == [1, 1, 1, 2]


def test_domain_says_why_it_is_not_consistent() -> None:
    assert "no disk" in DomainHistory().why_inconsistent
    assert "'disk1'" in folded(add(1, 1, holds_data=True)).why_inconsistent
    assert "since LSN 2 (overload)" in folded(add(1, 1), record(2, Kind.GAP_OPEN, reason="overload")).why_inconsistent
    assert folded(add(1, 1)).why_inconsistent == ""


def test_first_mark_of_a_name_keeps_it() -> None:
    history = folded(record(1, Kind.MARK, name="m"), record(2, Kind.MARK, name="m"))
    assert history.marks["m"].lsn == 1


def test_configuration_is_the_newest_at_each_lsn() -> None:
    history = folded(
        record(1, Kind.CONFIG, name="db 01.vmx", text="a"), record(5, Kind.CONFIG, name="db 01.vmx", text="b")
    )
    assert [history.configs_at(lsn) for lsn in (0, 1, 4, 5)] == [{}, *[{"db 01.vmx": "a"}] * 2, {"db 01.vmx": "b"}]


@pytest.mark.parametrize(
    "bad",
    [
        add(9, 1, name="other"),
        add(9, 2, name="disk1"),
        add(9, 2, name="../../etc/passwd"),
        record(9, Kind.DISK_ADD, 2, name=5, size_bytes=SIZE),
        record(9, Kind.DISK_ADD, 2, name="d2", size_bytes=100),
        record(9, Kind.DISK_ADD, 2, name="d2", size_bytes=1 << 60),
        record(9, Kind.DISK_ADD, 2, name="d2", size_bytes=True),
        record(9, Kind.DISK_READY, 7),
        record(9, Kind.DISK_REMOVE, 7),
        record(9, Kind.DISK_GROW, 1, size_bytes=512),
        record(9, Kind.DISK_GROW, 1),
        record(9, Kind.MARK, name="two\nlines"),
        record(9, Kind.MARK),
        record(9, Kind.GAP_OPEN, reason=["no text"]),
        record(9, Kind.CONFIG, name="../vm.vmx", text=""),
        record(9, Kind.CONFIG, name=".hidden", text=""),
        record(9, Kind.CONFIG, name="vm.vmx", text=None),
    ],
)
def test_record_that_contradicts_the_history_is_refused_and_changes_nothing(bad: ControlRecord) -> None:
    history = folded(add(1, 1))
    with pytest.raises(DamagedObject, match="LSN 9"):
        history.apply(bad)
    assert (history.lsn_folded, len(history.disks), history.consistent) == (1, 1, True)


# -- the clock ---------------------------------------------------------------------------------------------------------


def test_times_after_a_turn_of_the_clock_are_true_and_those_before_stay() -> None:
    history = folded(
        add(1, 1),
        record(2, Kind.MARK, name="before"),
        record(3, Kind.GAP_OPEN, since_ns=990, ahead_ns=500),
        record(4, Kind.GAP_CLOSE),
        record(5, Kind.MARK, name="after"),
    )
    assert history.ahead_ns == 500
    assert {name: mark.time_ns for name, mark in history.marks.items()} == {"before": 1002, "after": 505}
    assert [(gap.time_open_ns, gap.time_close_ns) for gap in history.gaps] == [(490, 504)]
    assert history.clock_turns == ((3, 503, 500),)


def test_a_clock_that_turns_while_a_gap_is_open_counts_all_the_same() -> None:
    history = folded(
        add(1, 1), record(2, Kind.GAP_OPEN), record(3, Kind.GAP_OPEN, ahead_ns=500), record(4, Kind.GAP_CLOSE)
    )
    assert [(gap.lsn_open, gap.time_open_ns, gap.time_close_ns) for gap in history.gaps] == [(2, 1002, 504)]


@pytest.mark.parametrize("body", [{"ahead_ns": 499}, {"ahead_ns": 1005}, {"ahead_ns": 600, "since_ns": 599}])
def test_a_turn_of_the_clock_that_cannot_be_is_damage(body: dict[str, int]) -> None:
    history = folded(add(1, 1), record(3, Kind.GAP_OPEN, ahead_ns=500))
    with pytest.raises(DamagedObject, match=r"record times would be ahead|it begins at"):
        history.apply(ControlRecord(4, 1004, Kind.GAP_OPEN, 0, dict(body)))
    assert history.ahead_ns == 500
