"""What the newest data in the store lacks is copied from the disks of the running DRVA, and read back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from jetdr_core.segment import HEADER_BYTES
from tests.cli.jetdr_command import Said
from tests.cli.jetdr_command import jetdr as run
from tests.domain.fixture import recovered
from tests.drva.running_drva import InProcess, Place, place, running

WRITTEN = 96 << 10


def objects(here: Place) -> list[Path]:
    """The chain's objects, the largest last."""
    return sorted(
        (here.path / "store-payroll" / "chain").rglob("0*[0-9]"), key=lambda path: (path.is_file(), path.stat().st_size)
    )


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.unlink()
    path.write_bytes(data)


def write_and_upload(drva: InProcess, offset: int, data: bytes) -> None:
    lsn = drva.disk().write(offset, data)
    asyncio.run(drva.domain().held(lsn))


def repair(here: Place, *more: object) -> Said:
    return run("repair", "payroll", "--socket", here.socket, *key(here), *more)


def key(here: Place) -> tuple[object, ...]:
    return ("--key-file", here.path / "state/payroll/domain.key")


def newest(here: Place) -> bytes:
    return asyncio.run(recovered(here.store("payroll")))["db01"]


def test_a_frame_that_is_damaged_in_the_store_is_copied_from_the_disk_again() -> None:
    with place("payroll") as here, running(here, create=True) as drva:
        here.until(lambda s: s["consistent"])
        write_and_upload(drva, 4096, os.urandom(WRITTEN))
        write_and_upload(drva, 8192, os.urandom(512))
        flip(objects(here)[-1], HEADER_BYTES + 100)
        with pytest.raises(jetdr.errors.DamagedObject):
            newest(here)
        assert run("verify", here.store("payroll"), *key(here)).code == 4
        planned = repair(here, "--dry-run")
        assert planned.code == 0
        assert "95.5 KiB of disk 'db01' [4096, 8192)" in planned.out
        assert "are to be copied" in planned.out
        said = repair(here)
        assert said.code == 0
        assert "were copied once more, up to LSN" in said.out
        assert "may lack some of it, and stay so" in said.out
        assert newest(here) == here.disk("payroll").read_bytes()
        found = run("verify", here.store("payroll"), *key(here), "--json").json
        assert found["points"][-1]["survives"]
        assert repair(here).out == f"domain payroll: the newest data in {here.store('payroll')} is whole\n"


def test_what_the_disk_holds_and_was_never_logged_is_found_by_a_scrub_and_repaired() -> None:
    with place("payroll") as here, running(here, create=True) as drva:
        here.until(lambda s: s["consistent"])
        write_and_upload(drva, 0, os.urandom(4096))
        with here.disk("payroll").open("r+b") as primary:  # as a filter that skips a record leaves it
            primary.seek(8192)
            primary.write(os.urandom(4096))
        assert asyncio.run(drva.domain().record_digests()) > 0
        asyncio.run(drva.domain().held(drva.domain().status().lsn_reserved))
        assert run("verify", here.store("payroll"), *key(here)).code == 0
        said = run("scrub", here.store("payroll"), *key(here))
        assert said.code == 4
        assert "DIFFERENT disk 'db01' [0, 131072)" in said.out
        assert "'jetdr repair payroll'" in said.err
        assert repair(here, "--json").json["lost"][0]["problem"] == "differs from what the disk held"
        assert newest(here) == here.disk("payroll").read_bytes()
        assert not repair(here, "--json").json["lost"], "later digests of the same place are equal"


def test_what_cannot_be_repaired_is_refused_and_nothing_is_copied() -> None:
    with place("payroll", "web") as here, running(here, create=True) as drva:
        here.until(lambda s: s["consistent"])
        before = drva.domain().status().lsn_reserved
        said = run("repair", "payroll", "--socket", here.socket, "--url", here.store("web"))
        assert (said.code, "is the store of domain 'web'" in said.err) == (2, True)
        for extents in ([[0, 100]], [[1 << 20, 512]], [[0]], "all", None):
            with pytest.raises(jetdr.drva.errors.ControlError):
                ask(here, extents)
        assert drva.domain().status().lsn_reserved == before
        assert ask(here, [[0, 4096], [8192, 512]])["copied_bytes"] == 4608


def ask(here: Place, extents: object) -> Any:
    return here.ask("copy_extents", domain="payroll", disk="db01", extents=extents)
