"""Every instant resolves to the one right point, or is refused with the nearest ones."""

from __future__ import annotations

from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetdr_core.catalog import Catalog, heartbeat, iso_time
from jetdr_core.errors import ChainBroken, InstantInGap, InvalidRequest, NoSuchPoint
from jetdr_core.record import Kind
from jetdr_core.store import MemoryStore
from tests.catalog.chains import STEP_NS, ChainMaker, domain, run, time_ns


def with_gap() -> ChainMaker:
    """LSN 1 disk, 2 to 4 writes, 5 gap opens, 6 mark inside, 7 write, 8 gap closes, 9 mark, 10 and 11 writes."""
    maker = domain()
    for _ in range(3):
        maker.write()
    maker.control(Kind.GAP_OPEN, reason="overload")
    maker.mark("inside")
    maker.segment()
    maker.write()
    maker.control(Kind.GAP_CLOSE)
    maker.mark("after")
    maker.segment()
    maker.segment(2)
    return maker


def test_points_are_first_marks_and_latest_in_order() -> None:
    catalog = with_gap().open()
    assert [(point.lsn, point.name) for point in catalog.points()] == [(1, None), (9, "after"), (11, None)]
    assert [point.time_ns for point in catalog.points()] == [time_ns(1), time_ns(9), time_ns(11)]


def test_mark_inside_a_gap_is_known_but_not_offered() -> None:
    catalog = with_gap().open()
    assert set(catalog.marks) == {"inside", "after"}
    with pytest.raises(InstantInGap, match=r"inside.*overload.*before it: LSN 4 .*after it: LSN 8 "):
        run(catalog.resolve("inside"))


def test_intervals_leave_the_gap_out() -> None:
    intervals = with_gap().open().intervals()
    assert [(part.lsn_first, part.lsn_last) for part in intervals] == [(1, 4), (8, 11)]
    assert [(part.time_first_ns, part.time_last_ns) for part in intervals] == [
        (time_ns(1), time_ns(5) - 1),
        (time_ns(8), time_ns(11)),
    ]


def test_every_lsn_resolves_to_itself_with_its_time() -> None:
    catalog = with_gap().open()
    for lsn in (1, 2, 3, 4, 8, 9, 10, 11):
        point = run(catalog.resolve(lsn))
        assert (point.lsn, point.time_ns) == (lsn, time_ns(lsn))


@settings(max_examples=80)
@given(st.integers(time_ns(1), time_ns(11)))
def test_every_instant_resolves_to_the_last_lsn_at_or_before_it(instant: int) -> None:
    catalog = CATALOG_WITH_GAP
    want = bisect_right(range(1, 12), instant, key=time_ns)
    if 5 <= want < 8:
        with pytest.raises(InstantInGap) as caught:
            run(catalog.resolve(iso_time(instant)))
        assert [caught.value.facts[side].lsn for side in ("before", "after")] == [4, 8]  # type: ignore[attr-defined]
    else:
        assert run(catalog.resolve(iso_time(instant))).lsn == want


CATALOG_WITH_GAP = with_gap().open()


def test_instant_between_two_records_resolves_to_the_earlier() -> None:
    catalog = domain(3).open()
    assert run(catalog.resolve(iso_time(time_ns(3) + STEP_NS - 1))).lsn == 3


def test_records_of_one_instant_resolve_to_the_last_of_them() -> None:
    maker = domain()
    maker.segment(3)  # LSN 2 to 4
    maker.clock = lambda lsn: time_ns(max(5, lsn - 4))
    maker.segment(4)  # LSN 5 to 8, all at one instant
    maker.segment(4)  # LSN 9 at that instant too, 10 to 12 later
    catalog = maker.open()
    times = [time_ns(3), time_ns(4), time_ns(5), time_ns(6), time_ns(7)]
    assert [run(catalog.resolve(iso_time(instant))).lsn for instant in times] == [3, 4, 9, 10, 11]


def test_latest_before_an_open_gap_is_the_last_consistent_lsn() -> None:
    maker = domain(2)
    maker.write()
    maker.control(Kind.GAP_OPEN, reason="overload")
    maker.write()
    maker.segment()
    catalog = maker.open()
    assert not catalog.history.consistent
    latest = run(catalog.resolve("latest"))
    assert (latest.lsn, latest.time_ns) == (4, time_ns(4))
    assert catalog.points()[-1] == latest


def test_instant_outside_the_history_is_refused_with_the_nearest_point() -> None:
    catalog = domain(3).open()
    with pytest.raises(NoSuchPoint, match=r"before the first recovery point; after it: LSN 1 "):
        run(catalog.resolve(iso_time(time_ns(1) - 1)))
    with pytest.raises(NoSuchPoint, match=r"after the last recovery point.*before it: LSN 4 "):
        run(catalog.resolve(iso_time(time_ns(4) + 1)))
    with pytest.raises(NoSuchPoint, match="LSN 5 lies after"):
        run(catalog.resolve(5))
    with pytest.raises(NoSuchPoint, match="LSN 0 lies before"):
        run(catalog.resolve(0))


def test_heartbeat_makes_later_instants_valid() -> None:
    maker = domain(3)
    maker.beat(4, seconds_later=60)
    catalog = maker.open()
    assert run(catalog.resolve(iso_time(time_ns(4) + 59 * STEP_NS))).lsn == 4
    assert catalog.intervals()[-1].time_last_ns == catalog.time_last_ns == time_ns(4) + 60 * STEP_NS
    with pytest.raises(NoSuchPoint):
        run(catalog.resolve(iso_time(time_ns(4) + 61 * STEP_NS)))


@pytest.mark.parametrize("lsn", [3, 5])
def test_heartbeat_that_the_chain_contradicts_is_ignored(lsn: int) -> None:
    maker = domain(3)
    maker.beat(lsn, seconds_later=60)
    assert maker.open().time_last_ns == time_ns(4)


def test_damaged_heartbeat_is_ignored() -> None:
    maker = domain(3)
    maker.beat(4, seconds_later=60)
    maker.damage("heartbeat/0000000001", 20)
    assert maker.open().time_last_ns == time_ns(4)


def test_number_that_may_be_a_time_of_the_history_is_refused_with_both_spellings() -> None:
    catalog = with_gap().open()
    day, second = iso_time(time_ns(1))[:10].replace("-", ""), str(time_ns(1) // 10**9)
    for text in (day, second):
        with pytest.raises(InvalidRequest, match=f"{text} may be an LSN or a time.*use lsn:{text} or "):
            run(catalog.resolve(text))
        with pytest.raises(NoSuchPoint, match="lies after the last recovery point"):
            run(catalog.resolve(f"lsn:{text}"))
    with pytest.raises(NoSuchPoint, match="lies after the last recovery point"):
        run(catalog.resolve("19700101"))
    assert run(catalog.resolve("lsn:9")) == run(catalog.resolve("9"))


def test_mark_named_like_something_else_is_found_by_its_prefix() -> None:
    maker = domain()
    maker.mark("2026-01-31")
    maker.segment(1)
    catalog = maker.open()
    assert run(catalog.resolve("mark:2026-01-31")).lsn == catalog.marks["2026-01-31"].lsn
    with pytest.raises(InvalidRequest, match="mark:2026-01-31"):
        run(catalog.resolve("2026-01-31"))
    with pytest.raises(NoSuchPoint, match="has no mark 'latest'"):
        run(catalog.resolve("mark:latest"))


def test_unknown_mark_is_answered_with_similar_ones() -> None:
    with pytest.raises(NoSuchPoint, match="similar marks: 'after'"):
        run(CATALOG_WITH_GAP.resolve("aftr"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("LATEST", "write 'latest'"),
        (" latest", "write 'latest'"),
        ("AFTER", "similar marks: 'after'"),
        ("yesterday", "marks: 'inside', 'after'; or use an LSN, 'latest', or a time such as"),
        ("27 Nov 2026", "or a time such as 2026-01-31T12:00:00Z or -1h"),
    ],
)
def test_what_is_no_mark_is_answered_with_what_may_be_meant(asked: str, told: str) -> None:
    with pytest.raises(NoSuchPoint, match=told):
        run(with_gap().open().resolve(asked))


def test_domain_whose_first_copy_is_not_complete_offers_no_point() -> None:
    maker = ChainMaker()
    maker.put(maker.begin())
    maker.add_disk(holds_data=True)
    maker.write()
    maker.segment()
    catalog = maker.open()
    assert catalog.points() == []
    assert catalog.intervals() == []
    for at in ("latest", 1, 2, iso_time(time_ns(2))):
        with pytest.raises(NoSuchPoint):
            run(catalog.resolve(at))


def test_domain_without_records_offers_no_point() -> None:
    maker = ChainMaker()
    maker.put(maker.begin())
    catalog = maker.open()
    assert (catalog.name, catalog.chain.tail.epoch, catalog.lsn_last, catalog.points()) == ("payroll", 1, 0, [])


def test_empty_container_is_no_domain() -> None:
    with pytest.raises(InvalidRequest, match="holds no protected domain"):
        run(Catalog.open(MemoryStore()))


def test_point_behind_a_hole_is_refused_by_number_and_last_lsn() -> None:
    maker = domain(5)
    run(maker.store.delete("chain/00000000/0000000005"))
    catalog = maker.open()
    assert catalog.chain_break is not None
    assert (catalog.chain_break.number, catalog.chain_break.objects_after, catalog.lsn_last) == (5, 2, 3)
    with pytest.raises(ChainBroken, match=r"0000000005 is missing.*LSN 3 is the last that can be recovered"):
        run(catalog.resolve(4))
    assert run(catalog.resolve("latest")).lsn == 3


def test_disks_and_bytes_are_told() -> None:
    catalog = domain(3).open()
    assert [(disk.name, disk.size_bytes) for disk in catalog.history.disks_at(4)] == [("db01", 1 << 30)]
    assert catalog.payload_bytes == 3 * 512
    assert catalog.stored_bytes == sum(catalog.segments["object_bytes"])
    assert (catalog.lsn_first, catalog.time_first_ns, catalog.chain.tail.epoch) == (1, time_ns(1), 1)
    assert catalog.chain.owner.owner == "owner-1"


# -- a clock that was ahead --------------------------------------------------------------------------------------------

AHEAD = 10_000 * STEP_NS


def corrected(*, beat_after_s: int = 0) -> ChainMaker:
    """LSN 1 disk, 2 to 4 writes, 5 to 7 with a clock that is ahead, 8 says so in time, 9 closes, 10 mark, 11 write.

    Record times go on ahead of the true time. LSN n was captured n seconds after the start.
    """
    maker = domain()
    maker.segment(3)
    maker.clock = lambda lsn: time_ns(lsn) + AHEAD
    maker.segment(3)
    maker.control(Kind.GAP_OPEN, reason="the clock was ahead", since_ns=time_ns(5) + AHEAD, ahead_ns=AHEAD)
    maker.control(Kind.GAP_CLOSE)
    maker.mark("true")
    maker.write()
    maker.segment()
    if beat_after_s:
        key, data = heartbeat(maker.epoch, lsn=11, time_ns=time_ns(11 + beat_after_s) + AHEAD)
        run(maker.store.replace(key, [data]))
    return maker


def test_after_a_correction_of_the_clock_points_are_found_by_their_true_times() -> None:
    catalog = corrected().open()
    assert catalog.time_last_ns == time_ns(11)
    for lsn in (2, 3, 9, 10, 11):
        found = run(catalog.resolve(iso_time(time_ns(lsn))))
        assert (found.lsn, found.time_ns) == (lsn, time_ns(lsn))
    assert catalog.marks["true"].time_ns == time_ns(10)
    assert run(catalog.resolve(iso_time(time_ns(10) + 1))).lsn == 10
    assert [gap.time_close_ns for gap in catalog.gaps] == [time_ns(9)]
    assert [(part.time_first_ns, part.time_last_ns) for part in catalog.intervals()] == [
        (time_ns(1), time_ns(4) - 1),
        (time_ns(9), time_ns(11)),
    ]


def test_instants_at_which_the_clock_was_ahead_are_refused_and_their_lsns_are_not() -> None:
    catalog = corrected().open()
    for refused in (time_ns(4) + 1, time_ns(5), time_ns(7), time_ns(8)):
        with pytest.raises(InstantInGap, match="the clock"):
            run(catalog.resolve(iso_time(refused)))
    assert [run(catalog.resolve(lsn)).lsn for lsn in (5, 6, 7)] == [5, 6, 7]
    with pytest.raises(NoSuchPoint, match="after the last recovery point"):
        run(catalog.resolve(iso_time(time_ns(6) + AHEAD)))


def test_a_heartbeat_after_a_correction_is_believed_by_its_true_time() -> None:
    catalog = corrected(beat_after_s=60).open()
    assert catalog.time_last_ns == time_ns(71)
    assert run(catalog.resolve(iso_time(time_ns(70)))).lsn == 11
