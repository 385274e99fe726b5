"""Bodies of control records and epoch objects: the same bytes as ever, and nothing believed that was read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetdr_core.control_bodies import (
    ConfigFile,
    ControlBody,
    Digest,
    Digests,
    DiskAdd,
    DiskGrow,
    DiskReady,
    DiskRemove,
    EpochOwner,
    GapClose,
    GapOpen,
    Mark,
    Void,
    body_of,
)
from jetdr_core.errors import DamagedObject
from jetdr_core.record import ControlRecord, Kind, control_payload

SIZE = 1 << 20
ADDED = DiskAdd(name="db01", uuid="u1", size_bytes=SIZE, path="/vm/db01", holds_data=True)

WIRE: list[tuple[ControlBody, str]] = [
    (Mark("vor dem Umzug"), '{"name":"vor dem Umzug"}'),
    (GapOpen("unclean stop"), '{"reason":"unclean stop"}'),
    (GapOpen("unclean stop", 7), '{"reason":"unclean stop","since_ns":7}'),
    (GapClose(), "{}"),
    (ADDED, '{"holds_data":true,"name":"db01","path":"/vm/db01","size_bytes":1048576,"uuid":"u1"}'),
    (DiskReady(), "{}"),
    (DiskRemove(), "{}"),
    (DiskGrow(SIZE), '{"size_bytes":1048576}'),
    (ConfigFile("büro 1.vmx", "a"), '{"name":"büro 1.vmx","text":"a"}'),
    (
        Digests((Digest(7, 512, 1024, bytes(range(16))),)),
        '{"extents":[[7,512,1024,"000102030405060708090a0b0c0d0e0f"]]}',
    ),
    (Void(), "{}"),
]


def read(kind: Kind, body: dict[str, object]) -> ControlBody:
    return body_of(ControlRecord(9, 1000, kind, 1, body))


@pytest.mark.parametrize(("body", "wire"), WIRE)
def test_body_has_the_bytes_of_its_format(body: ControlBody, wire: str) -> None:
    assert control_payload(body.encode()).decode() == wire
    assert read(body.kind, json.loads(wire)) == body


def test_every_control_kind_has_a_body() -> None:
    assert {body.kind for body, _ in WIRE} == set(Kind) - {Kind.WRITE, Kind.ZERO}


def test_fields_of_a_newer_engine_are_ignored() -> None:
    assert read(Kind.MARK, {"name": "m", "colour": 3}) == Mark("m")
    assert EpochOwner.decode({"host": "drva", "colour": 3}, "chain/1") == EpochOwner(host="drva")


def test_fields_that_an_old_record_may_lack_have_a_meaning() -> None:
    added = read(Kind.DISK_ADD, {"name": "db01", "size_bytes": SIZE})
    assert added == DiskAdd(name="db01", uuid="", size_bytes=SIZE, path="", holds_data=False)
    assert read(Kind.GAP_OPEN, {}) == GapOpen("")
    assert read(Kind.DIGESTS, {}) == Digests()


@pytest.mark.parametrize(
    ("kind", "body", "problem"),
    [
        (Kind.MARK, {}, "'name' is None"),
        (Kind.MARK, {"name": "latest"}, "mark name 'latest' would be read as a point"),
        (Kind.GAP_OPEN, {"reason": 5}, "'reason' is 5"),
        (Kind.DIGESTS, {"extents": 5}, "'extents' is 5"),
        (Kind.DIGESTS, {"extents": [5]}, "'extents' is"),
        (Kind.DIGESTS, {"extents": [[]] * 9}, "'extents' is"),
        (Kind.DIGESTS, {"extents": [[7, 0, 512]]}, ".*is no digest of an extent"),
        (Kind.DIGESTS, {"extents": [[True, 0, 512, "0" * 32]]}, ".*is no digest of an extent"),
        (Kind.DIGESTS, {"extents": [[-1, 0, 512, "0" * 32]]}, ".*is no digest of an extent"),
        (Kind.DIGESTS, {"extents": [[7, 1, 512, "0" * 32]]}, ".*is no digest of an extent"),
        (Kind.DIGESTS, {"extents": [[7, 0, 2 << 20, "0" * 32]]}, ".*is no digest of an extent"),
        (Kind.DIGESTS, {"extents": [[7, 1 << 60, 512, "0" * 32]]}, ".*is no digest of an extent"),
        (Kind.DIGESTS, {"extents": [[7, 0, 512, "0" * 31 + "x"]]}, ".*is no digest of an extent"),
        (Kind.GAP_OPEN, {"since_ns": -1}, "'since_ns' is -1"),
        (Kind.GAP_OPEN, {"since_ns": None}, "'since_ns' is None"),
        (Kind.GAP_OPEN, {"since_ns": True}, "'since_ns' is True"),
        (Kind.DISK_ADD, {"name": "../x", "size_bytes": SIZE}, "disk name '../x' is not valid"),
        (Kind.DISK_ADD, {"name": "db01", "size_bytes": SIZE, "uuid": 1}, "'uuid' is 1"),
        (Kind.DISK_ADD, {"name": "db01", "size_bytes": SIZE, "path": None}, "'path' is None"),
        (Kind.DISK_ADD, {"name": "db01", "size_bytes": SIZE, "holds_data": "no"}, "'holds_data' is 'no'"),
        (Kind.DISK_ADD, {"name": "db01", "size_bytes": 0}, "'size_bytes' is 0"),
        (Kind.DISK_GROW, {"size_bytes": 1e6}, "'size_bytes' is 1000000.0"),
        (Kind.DISK_GROW, {"size_bytes": 513}, "'size_bytes' is 513"),
        (Kind.CONFIG, {"name": "a/b", "text": ""}, "configuration file name 'a/b' is not valid"),
        (Kind.CONFIG, {"name": "a"}, "'text' is None"),
    ],
)
def test_damaged_field_is_named_with_its_record(kind: Kind, body: dict[str, object], problem: str) -> None:
    with pytest.raises(DamagedObject, match=f"LSN 9: {kind.name} record: {problem}"):
        read(kind, body)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.none())
KEYS = st.sampled_from(
    ["name", "reason", "since_ns", "uuid", "size_bytes", "path", "holds_data", "text", "domain", "host"]
)


@given(st.sampled_from([kind for kind in Kind if kind not in (Kind.WRITE, Kind.ZERO)]), st.dictionaries(KEYS, VALUES))
def test_any_body_is_read_whole_or_refused(kind: Kind, body: dict[str, object]) -> None:
    try:
        found = read(kind, body)
    except DamagedObject:
        return
    assert read(kind, found.encode()) == found


@given(st.dictionaries(KEYS, VALUES))
def test_any_epoch_body_is_read_whole_or_refused(body: dict[str, object]) -> None:
    try:
        found = EpochOwner.decode(body, "chain/1")
    except DamagedObject:
        return
    assert EpochOwner.decode(found.encode(), "chain/1") == found


def test_epoch_body_has_the_bytes_of_its_format() -> None:
    owner = EpochOwner(domain="payroll", domain_uuid="d", host="drva", log="00ff", nonce="n", owner="o")
    wire = '{"domain":"payroll","domain_uuid":"d","host":"drva","log":"00ff","nonce":"n","owner":"o"}'
    assert control_payload(owner.encode()).decode() == wire
    assert EpochOwner.decode(json.loads(wire), "chain/1") == owner


@pytest.mark.parametrize("body", [{"domain": "a/b"}, {"domain": None}, {"host": 5}, {"log": ["x"]}])
def test_damaged_epoch_body_is_named_with_its_object(body: dict[str, object]) -> None:
    with pytest.raises(DamagedObject, match="chain/1: epoch: "):
        EpochOwner.decode(body, "chain/1")
