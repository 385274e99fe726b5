"""The DRVA compares its newest digests by itself: the last verified point is shown, and what differs is an alarm."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from jetdr_core.drva.own_scrub import PacedStore
from jetdr_core.store import MemoryStore, ObjectRange
from tests.cli.jetdr_command import jetdr
from tests.drva.running_drva import InProcess, place, running
from tests.drva.test_repair import key, repair, write_and_upload


def record(drva: InProcess) -> None:
    """Record digests, half of them of the first 128 KiB, because nothing else was written."""
    domain = drva.domain()
    assert asyncio.run(domain.record_digests()) > 0
    asyncio.run(domain.held(domain.status().lsn_reserved))


def alarms(status: Any) -> dict[str, str]:
    return {alarm["name"]: alarm["text"] for alarm in status["alarms"]}


def test_the_last_verified_point_is_shown_and_what_differs_is_an_alarm_until_it_is_repaired() -> None:
    with place("payroll") as here:
        here.write(domain="scrub_s = 0.05")
        with running(here, create=True) as drva:
            here.until(lambda s: s["consistent"])
            write_and_upload(drva, 0, os.urandom(4096))
            record(drva)
            lsn = here.until(lambda s: s["verified"] and s["verified"]["lsn"])["verified"]["lsn"]
            said = jetdr("status", "payroll", "--socket", here.socket)
            assert f"LSN {lsn} at 20" in said.out
            with here.disk("payroll").open("r+b") as primary:  # as a filter that skips a record leaves it
                primary.seek(8192)
                primary.write(os.urandom(4096))
            record(drva)
            found = here.until(lambda s: "replica_differs" in alarms(s))
            assert "disk 'db01' [0, 131072)" in alarms(found)["replica_differs"]
            assert "'jetdr repair payroll'" in alarms(found)["replica_differs"]
            assert found["verified"]["lsn"] == lsn, "nothing newer is called verified"
            assert repair(here).code == 0
            found = here.until(lambda s: "replica_differs" not in alarms(s) and s["verified"]["lsn"] > lsn)
            assert jetdr("scrub", here.store("payroll"), "--sample", "1", *key(here)).code == 0


def test_what_differs_on_a_disk_is_no_alarm_any_more_once_the_disk_is_given_up() -> None:
    with place("payroll") as here:
        here.write(domain="scrub_s = 0.05")
        with running(here, create=True) as drva:
            here.until(lambda s: s["consistent"])
            write_and_upload(drva, 0, os.urandom(4096))
            record(drva)
            with here.disk("payroll").open("r+b") as primary:
                primary.seek(8192)
                primary.write(os.urandom(4096))
            record(drva)
            here.until(lambda s: "replica_differs" in alarms(s))
            here.ask("unprotect", domain="payroll", disk="db01")
            ended = here.until(lambda s: "replica_differs" not in alarms(s))["verified"]["ended_ns"]
            here.until(lambda s: s["verified"]["ended_ns"] > ended)
            assert "replica_differs" not in alarms(here.status())


def test_without_an_interval_nothing_is_compared_and_nothing_called_verified() -> None:
    with place("payroll") as here:
        here.write(domain="scrub_s = 0")
        with running(here, create=True) as drva:
            here.until(lambda s: s["consistent"])
            write_and_upload(drva, 0, b"x" * 512)
            record(drva)
            said = jetdr("status", "payroll", "--socket", here.socket)
            assert "nothing yet: no digests were compared since the start" in said.out
            assert here.status()["verified"] is None


def test_a_paced_store_takes_as_long_as_its_bytes_cost() -> None:
    async def scenario() -> None:
        store, slept = MemoryStore(), list[float]()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        await store.put_if_absent("a", [bytes(1000)])
        paced = PacedStore(store, 100, sleep=sleep)
        assert await paced.get("a") == bytes(1000)
        assert await paced.get_ranges([ObjectRange("a", 0, 100), ObjectRange("a", 100, 300)]) == [
            bytes(100),
            bytes(300),
        ]
        assert slept == [10.0, 1.0, 3.0]

    asyncio.run(scenario())
