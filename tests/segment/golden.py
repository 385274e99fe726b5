"""Golden chain objects: written by each released version, read by every later one. ``python -m tests.segment.golden``
writes those of this version; commit them with the release and never change them.
"""

from __future__ import annotations

import random
from pathlib import Path

import jetdr_core
from jetdr_core.control_bodies import EpochOwner
from jetdr_core.domain_key import DomainKey, KeyMode
from jetdr_core.record import Kind
from jetdr_core.segment import NO_PREDECESSOR, build_body, seal, seal_epoch
from tests.segment.sample import DOMAIN, Records, object_bytes, sealed

FOLDER = Path(__file__).resolve().parent.parent / "golden"
WRITTEN = {1: b"first write of the domain".ljust(512, b".") * 20, 5: random.Random(5).randbytes(300 << 10)}


SECRET = bytes(range(32))
KEYS = {mode: DomainKey(SECRET, DOMAIN, mode=mode) for mode in KeyMode}
SALT, NUMBER = bytes(range(16)), 7


def segment() -> bytes:
    return object_bytes(sealed(records().batch(), predecessor=bytes(range(16))))


def keyed_segment(mode: KeyMode) -> bytes:
    """The same as object 7 of a domain with a key."""
    key = KEYS[mode]
    body = build_body([records().batch()], content_key=key.content_key(SALT))
    place = {"domain_uuid": DOMAIN, "epoch": 1, "timeline": 1, "predecessor": bytes(range(16))}
    return object_bytes(seal(body, **place, number=NUMBER, domain_key=key))  # type: ignore[arg-type]


def records() -> Records:
    """LSN 1 text, 2 a discard, 3 a mark, 4 zeros between noise, 5 noise longer than a frame, 6 void."""
    records = Records()
    records.write(1, 0, WRITTEN[1])
    records.zero(2, 1 << 20, 3 << 30, flags=2)
    records.control(Kind.MARK, body={"name": "before upgrade"})
    records.write(1, 8192, bytes(64 << 10))
    records.write(2, 512, WRITTEN[5], flags=1)
    records.control(Kind.VOID)
    return records


def epoch() -> bytes:
    return object_bytes(
        seal_epoch(
            domain_uuid=DOMAIN,
            epoch=1,
            timeline=1,
            predecessor=NO_PREDECESSOR,
            lsn_next=1,
            time_ns=1_700_000_000_000_000_000,
            owner=EpochOwner(owner="drva", host="host", domain="payroll"),
        )
    )


def main() -> None:
    version = getattr(jetdr_core, "__version__", "0.1.0")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"segment-{version}.bin").write_bytes(segment())
    (FOLDER / f"segment-epoch-{version}.bin").write_bytes(epoch())
    for mode in KeyMode:
        (FOLDER / f"segment-{mode}-{version}.bin").write_bytes(keyed_segment(mode))


if __name__ == "__main__":
    main()
