"""What names a point is understood exactly, or refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.catalog.at import AtLsn, AtName, AtTime, check_mark_is_no_point, parse_at
from jetdr_core.catalog.point import iso_time
from jetdr_core.errors import InvalidRequest


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_printed_time_reads_back_to_the_nanosecond(time_ns: int) -> None:
    assert parse_at(iso_time(time_ns)) == AtTime(time_ns)


def test_datetime_is_exact_in_any_zone() -> None:
    here = datetime(2026, 1, 31, 12, 0, 0, 123456, timezone(timedelta(hours=5, minutes=30)))
    assert parse_at(here) == parse_at(here.astimezone(UTC)) == parse_at(here.isoformat())
    assert parse_at(datetime(2001, 9, 9, 1, 46, 40, 1, UTC)) == AtTime(1_000_000_000_000_001_000)


@pytest.mark.parametrize(
    "text", ["2026-01-31T12:00:00,5+01:00", "2026-01-31 11:00:00.5Z", "2026-01-31T11:00:00.500000000000Z"]
)
def test_iso_forms_mean_the_same(text: str) -> None:
    assert parse_at(text) == AtTime(1_769_857_200_500_000_000)


def test_number_is_an_lsn_and_anything_else_a_name() -> None:
    assert parse_at(42) == parse_at("42") == AtLsn(42)
    assert parse_at("before upgrade") == AtName("before upgrade")
    assert parse_at("latest") == AtName("latest")


NOON = 1_769_857_200 * 10**9
"""2026-01-31T11:00:00Z"""


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-31t11:00:00z",
        "2026-01-31 11:00Z",
        "2026-01-31T11Z",
        "20260131T110000Z",
        "20260131 1100z",
        "2026-01-31T12:00:00 Europe/Berlin",
        "2026-01-31T12:00:00[Europe/Berlin]",
        "2026-01-31T12:00:00+01:00[Europe/Berlin]",
        "2026-01-31T11:00:00 UTC",
        "2026-01-31T11:00:00+00",
        "2026-W05-6T11:00:00Z",
        "-1h",
        "-60m",
        "-30m1800s",
        "time:-3600s",
        "time:2026-01-31T11:00:00Z",
    ],
)
def test_ways_to_write_one_time(text: str) -> None:
    assert parse_at(text, now_ns=lambda: NOON + 3600 * 10**9) == AtTime(NOON)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-01-31Z", "2026-01-31T00:00:00Z"),
        ("2026-01-31+01:00", "2026-01-30T23:00:00Z"),
        ("2026-01-31 Europe/Berlin", "2026-01-30T23:00:00Z"),
        ("2026-01-31T24:00:00Z", "2026-02-01T00:00:00Z"),
        ("2026-01-31T24:00Z", "2026-02-01T00:00:00Z"),
        ("2026-01-31T24:00:00.000Z", "2026-02-01T00:00:00Z"),
        ("20260131T240000z", "2026-02-01T00:00:00Z"),
    ],
)
def test_dates_and_midnight(text: str, same: str) -> None:
    assert parse_at(text) == parse_at(same)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-01-31", "has no zone"),
        ("20260131T110000", "has no zone"),
        ("2026-13-31T11:00:00Z", "is not a time"),
        ("2026-02-30Z", "is not a time"),
        ("2026-01-31T25:00:00Z", "is not a time"),
        ("2026-01-31T24:00:01Z", "is not a time"),
        ("2026-01-31T11:00:60Z", "is not a time"),
        ("2026-01-31T11:00:00 Europe/Atlantis", "is not a zone"),
        ("2026-01-31T11:00:00 CET", "is not a zone"),
        ("2026-01-31T11:00:00+02:00[Europe/Berlin]", "has another offset"),
        ("2026-03-29T02:30:00 Europe/Berlin", "does not exist there"),
        ("2026-10-25T02:30:00 Europe/Berlin", "came twice"),
        ("2026-01-31T11:00:00+25:00", "is not a time"),
        ("2026/01/31 11:00", "is not a time"),
        ("2026.01.31", "is not a time"),
        ("31.01.2026 11:00", "is not a time"),
        ("1/31/2026", "is not a time"),
        ("11:00", "is not a time"),
        ("2026-1-31T11:00:00Z", "is not a time"),
        ("Sat, 31 Jan 2026 11:00:00 GMT", "is not a time"),
        ("-1", "is not a time"),
        ("-1 hour", "is not a time"),
        ("0000-01-01Z", "is not a time"),
        ("9999-12-31T24:00Z", "is not a time"),
        ("time:yesterday", "is not a time"),
        ("time:20260131", "if that is meant, use 2026-01-31T00:00:00"),
        ("time:1769857200", "if that is meant, use 2026-01-31T11:00:00"),
        ("lsn:ten", "is no LSN"),
        ("lsn:", "is no LSN"),
    ],
)
def test_what_begins_like_a_time_is_one_or_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        parse_at(text)


def test_prefix_says_what_is_meant() -> None:
    assert parse_at("lsn:20260131") == AtLsn(20260131)
    assert parse_at("mark:2026-01-31T12:00:00Z") == AtName("2026-01-31T12:00:00Z", is_mark=True)
    assert parse_at("mark:latest") == AtName("latest", is_mark=True)


def test_number_with_the_digits_of_a_time_carries_it() -> None:
    midnight = parse_at("2026-01-31T00:00:00Z")
    for text in ("20260131", "20260131000000"):
        number = parse_at(text)
        assert isinstance(number, AtLsn)
        assert number.as_time is not None
        assert AtTime(number.as_time.time_ns) == midnight
    for text in ("1769857200", "1769857200000", str(NOON)):
        number = parse_at(text)
        assert isinstance(number, AtLsn)
        assert number.as_time is not None
        assert number.as_time.time_ns == NOON
    assert parse_at(20260131) == parse_at("lsn:20260131") == AtLsn(20260131)
    assert parse_at("20261399") == AtLsn(20261399)


@pytest.mark.parametrize("name", ["2026-01-31", "2026-01-31T11:00:00Z", "-1h"])
def test_mark_that_looks_like_a_time_is_taken_only_when_that_is_said(name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"write 'mark:{name}' or 'time:{name}'"):
        parse_at(name, {name})
    assert parse_at(f"mark:{name}", {name}) == AtName(name, is_mark=True)
    with pytest.raises(InvalidRequest, match="may be a mark or"):
        check_mark_is_no_point(name)


@pytest.mark.parametrize("name", ["2026-01-31 before upgrade", "10.0.12", "1/31/2026 x", "-1 day"])
def test_mark_that_only_begins_like_a_time_is_a_mark(name: str) -> None:
    check_mark_is_no_point(name)
    assert parse_at(name, {name}) == AtName(name)


@pytest.mark.parametrize("name", ["lsn:5", "time:now", "mark:x"])
def test_new_mark_does_not_begin_like_a_prefix(name: str) -> None:
    with pytest.raises(InvalidRequest, match="read as a point"):
        check_mark_is_no_point(name)


@pytest.mark.parametrize("at", ["2026-01-31T12:00:00", "2026-01-31", "", None, 1.5, True, datetime(2026, 1, 31)])  # noqa: DTZ001
def test_what_names_nothing_is_refused_with_the_remedy(at: object) -> None:
    with pytest.raises(InvalidRequest, match=r"append 'Z'|use an LSN"):
        parse_at(at)
