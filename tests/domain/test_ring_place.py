"""The place of the ring: a file that cannot be made is named, and nothing is left of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from jetdr_core.domain.generation import Generation
from jetdr_core.domain.hosting.ring_place import RingPlace
from jetdr_core.errors import DeviceFull, InvalidRequest
from tests.peers.loop import needs_root


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A runtime folder on a tmpfs of 4 MiB."""
    needs_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path / "vm"
    subprocess.run(["umount", str(tmp_path)], check=True)


def make(place: RingPlace, payload_bytes: int) -> None:
    place.make(
        payload_bytes=payload_bytes, slots=64, lsn_next=1, time_ns_last=0, record_bytes_max=1 << 12, write_back=False
    ).leave()


def test_a_ring_without_room_is_named_with_its_size_and_leaves_nothing(small: Path) -> None:
    place = RingPlace(small, uuid4())
    with pytest.raises(DeviceFull, match=f"{small}/ring.new: making a ring of {16 << 20} bytes failed: no room"):
        make(place, 16 << 20)
    assert os.listdir(small) == []
    make(place, 1 << 16)


def test_a_note_without_room_is_named_and_the_last_one_stays(small: Path) -> None:
    place = RingPlace(small, uuid4())
    make(place, 1 << 16)
    place.publish(Generation(7))
    with (small / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
        while True:
            filler.write(bytes(4096))
    with pytest.raises(DeviceFull, match=r"ring.epochs: writing a line failed: no room"):
        place.note(Generation(8))
    assert place.goes_on_with(Generation(7))


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vm").mkdir()
    (tmp_path / "vm").chmod(0o750)
    place = RingPlace(tmp_path / "vm", uuid4())
    with pytest.raises(InvalidRequest, match=r"the runtime folder .*/vm belongs to user .* with mode 0750"):
        place.open()
    with pytest.raises(InvalidRequest, match="chmod 0700 /"):
        make(place, 1 << 16)
    assert os.listdir(tmp_path / "vm") == []
