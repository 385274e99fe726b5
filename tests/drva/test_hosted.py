"""End to end: real guests on real host components lose nothing while the DRVA is stopped, killed and restarted."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import jetdr_core as jetdr
from tests.cli.jetdr_command import jetdr_process
from tests.drva.running_drva import DISK_BYTES, LIMIT_S, Place, end, place, process
from tests.drva.test_metrics import scraped
from tests.host.nbd_client import NbdClient

OPERATIONS = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("nbdkit")


@pytest.fixture
def nbdkit(peer: Callable[[str], str]) -> str:
    return peer("nbdkit")


PACE_S = 0.002
ROOMY = "ring_bytes = 33_554_432"
"""A ring that guests at this pace do not fill in a minute, however slowly a DRVA starts."""


class Guest:
    """Writes stamped sectors to a disk, one after the other, inside the context. ``written``: the last per sector."""

    def __init__(self, here: Place, domain: str) -> None:
        self.written: dict[int, bytes] = {}
        self.failed: Exception | None = None
        self._socket = str(here.run / domain / "nbd.sock")
        self._stopping = threading.Event()
        self._goes_on = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"guest-{domain}")

    def __enter__(self) -> Guest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop writing, and raise the error that stopped it earlier. Idempotent."""
        self._stopping.set()
        self._thread.join(LIMIT_S)
        if self.failed is not None:
            raise self.failed

    def goes_on(self, writes: int = 100) -> None:
        """Wait until ``count`` more writes have been acknowledged."""
        with self._goes_on:
            target = self._count + writes
            assert self._goes_on.wait_for(lambda: self._count >= target or self.failed, LIMIT_S)

    _count = 0

    def _run(self) -> None:
        chance = random.Random(self._socket)
        try:
            with NbdClient(self._socket, "db01") as client:
                while not self._stopping.wait(PACE_S):
                    sector, stamp = chance.randrange(DISK_BYTES // 512), chance.randbytes(512)
                    client.write(sector * 512, stamp)
                    with self._goes_on:
                        self.written[sector], self._count = stamp, self._count + 1
                        self._goes_on.notify_all()
        except Exception as error:  # noqa: BLE001 - raised where the guest is left
            with self._goes_on:
                self.failed = error
                self._goes_on.notify_all()


@contextmanager
def guests(here: Place) -> Iterator[dict[str, Guest]]:
    with Guest(here, "payroll") as payroll, Guest(here, "web") as web:
        yield {"payroll": payroll, "web": web}


def assert_store_has_what_guests_wrote(here: Place, found: dict[str, Guest], tmp_path: Path) -> None:
    """Check, while nobody writes, that the store's newest point is the primary with every acknowledged write."""
    for name, guest in found.items():
        report = asyncio.run(jetdr.rehydrate(here.store(name), at="latest", target=tmp_path / name, format="raw"))
        image = Path(report.disks[0].path).read_bytes()
        assert image == here.disk(name).read_bytes(), f"{name}: the replica differs from the primary"
        assert len(guest.written) > 100
        for sector, stamp in guest.written.items():
            assert image[sector * 512 :][:512] == stamp, f"{name}: sector {sector}"


def is_open_and_whole(status: Any) -> bool:
    return bool(status["state"] == "open" and status["consistent"] and status["lsn_uploaded"] == status["lsn_reserved"])


def was_off_and_is_on(status: Any) -> bool:
    unlogged = any(disk["unlogged_writes"] for disk in status["disks"])
    return bool(status["host"]["off_times"] and status["host"]["logging"] and unlogged)


def gaps(here: Place, domain: str) -> int:
    async def count() -> int:
        async with await jetdr.Catalog.open(here.store(domain)) as catalog:
            return len(catalog.gaps)

    return asyncio.run(count())


@pytest.mark.parametrize("mode", ["write-through", "write-back"])
def test_a_drva_that_is_stopped_and_started_misses_nothing_its_guests_wrote(mode: str, tmp_path: Path) -> None:
    with place() as here:
        here.write(domain=f'mode = "{mode}"', options=ROOMY)
        with process(here) as daemon, guests(here) as found:
            found["payroll"].goes_on()
            pids = [host_pid(here, name) for name in here.domains]
            assert "Traceback" not in end(daemon)
            assert daemon.returncode == 0
            found["web"].goes_on()
            with process(here) as again:
                found["web"].goes_on()
                for name in here.domains:
                    here.until(lambda s: s["state"] == "open" and s["consistent"], name)
                    assert here.status(name)["epoch"] == 2
                assert [host_pid(here, name) for name in here.domains] == pids, "guests kept their host component"
                found["payroll"].goes_on()
                here.ask("mark", domain="payroll", name="while it runs")
                for guest in found.values():
                    guest.stop()
                for name in here.domains:
                    here.until(is_open_and_whole, name)
                end(again)
        assert_store_has_what_guests_wrote(here, found, tmp_path)
        assert [gaps(here, name) for name in here.domains] == [0, 0]


def host_pid(here: Place, domain: str) -> int:
    return here.component(domain).pid


def test_a_drva_that_is_killed_under_load_misses_nothing(tmp_path: Path) -> None:
    with place() as here:
        here.write(options=ROOMY)
        with process(here) as daemon, guests(here) as found:
            found["payroll"].goes_on()
            found["web"].goes_on()
            daemon.kill()
            daemon.wait(LIMIT_S)
            found["web"].goes_on()
            with process(here) as again:
                found["payroll"].goes_on()
                for guest in found.values():
                    guest.stop()
                for name in here.domains:
                    here.until(is_open_and_whole, name)
                end(again)
        assert_store_has_what_guests_wrote(here, found, tmp_path)
        assert [gaps(here, name) for name in here.domains] == [0, 0]


def test_a_host_component_that_is_killed_is_an_alarm_and_started_again() -> None:
    with place() as here, process(here) as daemon:
        pid = host_pid(here, "payroll")
        with Guest(here, "web") as web:
            os.kill(pid, signal.SIGKILL)
            found = here.until(lambda s: s["host"]["restarts"] == 1 and is_open_and_whole(s))
            assert (found["restarts"], found["host"]["alive"]) == (0, True)
            assert host_pid(here, "payroll") != pid
            web.goes_on()
            assert here.status("web")["host"]["restarts"] == 0
        end(daemon)


def test_host_component_of_a_domain_that_was_taken_out_of_the_configuration_is_an_alarm_with_a_way_out() -> None:
    with place("payroll", "web") as here:
        both, guests = here.domains, here.component("payroll")
        with process(here) as drva:
            here.until(lambda found: found["consistent"])
            end(drva)
        assert guests.running()
        here.domains = ("web",)
        here.write()
        with process(here) as drva:
            about = until_alarmed(here)
            assert [alarm["name"] for alarm in about["alarms"]] == ["host_not_configured"]
            assert about["hosts_not_configured"] == [{"domain": "payroll", "pid": guests.pid}]
            shown = jetdr_process("status", "--socket", here.socket).stdout
            assert f"host component of domain 'payroll' (process {guests.pid}) runs" in shown
            assert "jetdr stop-host payroll" in shown
            refused = jetdr_process("stop-host", "web", "--socket", here.socket)
            assert (refused.returncode, "is configured" in refused.stderr) == (2, True)
            unknown = jetdr_process("stop-host", "nobody", "--socket", here.socket)
            assert (unknown.returncode, "those that are not configured: payroll" in unknown.stderr) == (2, True)
            assert here.component("web").running()
            assert jetdr_process("stop-host", "payroll", "--socket", here.socket).returncode == 0
            assert not guests.running()
            assert here.ask("status")["drva"]["alarms"] == []
            assert "its guests are not protected" in end(drva)
        here.domains = both


def until_alarmed(here: Place) -> Any:
    """What a DRVA says of itself once it has an alarm of its own."""
    deadline = time.monotonic() + LIMIT_S
    while not (about := here.ask("status")["drva"])["alarms"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return about


def test_hosts_that_are_not_configured_end_with_the_drva_where_that_is_wanted() -> None:
    with place("payroll", "web") as here:
        with process(here) as drva:
            end(drva)
        both, here.domains = here.domains, ("web",)
        here.write(drva='hosts_on_stop = "stop"')
        with process(here) as drva:
            until_alarmed(here)
            end(drva)
        assert not here.component("payroll").running()
        here.domains = both


def test_hosts_end_with_the_drva_where_that_is_wanted() -> None:
    with place("payroll") as here:
        here.write(drva='hosts_on_stop = "stop"\n')
        with process(here) as daemon:
            assert here.component("payroll").running()
            end(daemon)
        assert not here.component("payroll").running()
        with process(here) as daemon:
            assert here.until(is_open_and_whole)["consistent"]
            end(daemon)
        assert gaps(here, "payroll") == 0, "it was closed cleanly"


def test_a_disk_is_protected_written_with_qemu_and_marked(peer: Callable[[str], str], tmp_path: Path) -> None:
    with place("payroll") as here, process(here) as daemon:
        uri = here.ask("protect", domain="payroll", disk="db02", path=str(here.path / "b"), size_bytes=1 << 20)["disk"]
        command = [peer("qemu-io"), "-f", "raw", "-c", "write -P 0x61 0 64k", "-c", "flush", uri["nbd_uri"]]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        source = tmp_path / "image"
        source.write_bytes(random.Random(1).randbytes(DISK_BYTES))
        (db01,) = [disk for disk in here.status()["disks"] if disk["name"] == "db01"]
        subprocess.run([peer("nbdcopy"), str(source), db01["nbd_uri"]], check=True, capture_output=True, timeout=60)
        found = here.until(lambda s: all(disk["writes"] for disk in s["disks"]))
        assert {disk["name"] for disk in found["disks"]} == {"db01", "db02"}
        lsn = here.ask("mark", domain="payroll", name="copied")["point"]["lsn"]
        assert here.ask("await_upload", domain="payroll", lsn=lsn)["uploaded"]
        end(daemon)
        asyncio.run(jetdr.rehydrate(here.store("payroll"), at="copied", target=tmp_path / "out", format="raw"))
        assert (tmp_path / "out/db01.raw").read_bytes() == source.read_bytes()
        assert (tmp_path / "out/db02.raw").read_bytes()[: 64 << 10] == b"a" * (64 << 10)


def test_the_documented_options_of_qemu_open_a_disk(peer: Callable[[str], str]) -> None:
    (parts,) = re.findall(r"-drive (driver=raw,\S+,)\\\n(\S+)", OPERATIONS)
    with place("payroll") as here, process(here) as daemon:
        ours = "".join(parts).replace("if=virtio,cache=none,discard=unmap,", "").replace("/run/jetdr", str(here.run))
        command = [peer("qemu-io"), "--image-opts", ours, "-c", "write -P 1 0 4k"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        here.until(lambda s: s["disks"][0]["writes"] == 1)
        end(daemon)


def test_guests_go_on_unprotected_while_the_drva_is_stopped_in_its_tracks(tmp_path: Path) -> None:
    with place("payroll") as here:
        here.write(drva='metrics = "127.0.0.1:0"\n', options="stall_limit_s = 0.3\nring_slots = 256")
        with process(here) as daemon:
            with Guest(here, "payroll") as guest:
                guest.goes_on()
                daemon.send_signal(signal.SIGSTOP)
                guest.goes_on(1000)
                daemon.send_signal(signal.SIGCONT)
                here.until(was_off_and_is_on)
            found = here.until(is_open_and_whole)
            metrics = scraped(here)
            assert metrics["jetdr_logging_off_total", "payroll"] == found["host"]["off_times"]
            assert metrics["jetdr_disk_unlogged_writes_total", "payroll", "db01"] > 0
            assert metrics["jetdr_host_alive", "payroll"] == 1
            end(daemon)
        assert_store_has_what_guests_wrote(here, {"payroll": guest}, tmp_path)
        assert 1 <= gaps(here, "payroll") <= found["host"]["off_times"], "a busy machine may pause it once more"
