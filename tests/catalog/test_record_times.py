"""The time of an LSN, and the last LSN at an instant: from the chain's table, or from one segment's index."""

from __future__ import annotations

import logging

import pytest

from jetdr_core.catalog.history import ClockTurn
from jetdr_core.catalog.indexes import IndexReader
from jetdr_core.catalog.record_times import RecordTimes
from tests.catalog.chains import ChainMaker, domain, run, time_ns
from tests.catalog.test_indexes import Counting

SECOND_NS = 10**9


def three_segments() -> ChainMaker:
    """LSN 1 is a disk, 2 to 6 a segment with a mark at 4, 7 to 9 a segment of writes."""
    maker = domain()
    for _ in range(2):
        maker.write()
    maker.mark("m")
    for _ in range(2):
        maker.write()
    maker.segment()
    maker.segment(3)
    return maker


def times_of(maker: ChainMaker) -> tuple[RecordTimes, Counting]:
    catalog, store = maker.open(), Counting(maker.store)
    indexes = IndexReader(store, catalog.chain.domain_uuid, catalog.segments, None)
    return RecordTimes(catalog.segments, indexes), store


def test_every_lsn_has_its_time_and_is_the_last_one_until_the_next() -> None:
    times, _ = times_of(three_segments())
    for lsn in range(1, 10):
        assert run(times.time_ns_of(lsn)) == time_ns(lsn)
        assert run(times.lsn_at(time_ns(lsn))) == lsn
        assert run(times.lsn_at(time_ns(lsn + 1) - 1)) == lsn


def test_last_of_several_lsns_of_one_instant_is_meant() -> None:
    maker = domain()
    maker.clock = lambda lsn: time_ns(max(1, lsn // 4 * 4))
    maker.segment(6)
    maker.segment(6)
    times, _ = times_of(maker)
    assert [run(times.lsn_at(time_ns(4) + past)) for past in (0, 1)] == [7, 7]
    assert run(times.lsn_at(time_ns(8))) == 11


@pytest.mark.parametrize(("lsn", "requests"), [(1, 0), (2, 0), (6, 0), (3, 1), (4, 1), (8, 1)])
def test_a_segments_ends_cost_no_request_and_what_lies_between_costs_one(lsn: int, requests: int) -> None:
    times, store = times_of(three_segments())
    run(times.time_ns_of(lsn))
    assert store.reads == requests


def test_time_of_an_lsn_in_a_damaged_segment_is_its_first_records(caplog: pytest.LogCaptureFixture) -> None:
    maker = three_segments()
    times, _ = times_of(maker)
    maker.damage("chain/00000000/0000000003", -300)
    with caplog.at_level(logging.WARNING):
        assert run(times.time_ns_of(4)) == time_ns(2)
    assert "the time of LSN 4" in caplog.text


def test_of_an_instant_that_the_clock_showed_several_times_the_last_one_is_meant() -> None:
    """Three turns: the clock was 198 seconds ahead, then 102, then 150. Their true times do not increase."""
    maker = three_segments()
    catalog = maker.open()
    turns = [
        ClockTurn(lsn, time_ns(lsn) - ahead_s * SECOND_NS, ahead_s * SECOND_NS)
        for lsn, ahead_s in ((3, 198), (5, 102), (7, 150))
    ]
    indexes = IndexReader(maker.store, catalog.chain.domain_uuid, catalog.segments, None)
    times = RecordTimes(catalog.segments, indexes, turns)
    assert run(times.lsn_at(turns[2].time_ns)) == 7
    assert run(times.lsn_at(turns[2].time_ns - 1)) == 4, "of the first turn, until the second"
    assert run(times.lsn_at(turns[1].time_ns)) == 9, "the last turn had come before"
