"""Devices and file systems that hang under a DRVA: it ends all the same, and nobody waits who does not need them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cli.jetdr_command import jetdr_process
from tests.drva.running_drva import LIMIT_S, Place, end, place, process
from tests.host.nbd_client import NbdClient
from tests.peers.sick_disk import children, hanging_threads, sick_disk, slow_file

STOP_LIMIT_S = 2
PLACE_LIMIT_S = 1
HURRIED = f"""
from jetdr_core import patience
patience.PLACE_LIMIT_S = {PLACE_LIMIT_S}
from jetdr_core.drva import daemon
daemon.STOP_LIMIT_S = {STOP_LIMIT_S} - 0.5
from jetdr_core.cli import main
main()
"""
"""A DRVA whose limits are short: what hangs here never returns in time, so a longer wait would show no more."""

OPENING_NS = 2 * PLACE_LIMIT_S * 10**9
"""So long after it began, an opening is past the looks at places that are bounded."""


def put_on(disk: Path, name: Path) -> None:
    """Let ``name`` lead to a folder of the disk."""
    (disk / name.name).mkdir()
    name.symlink_to(disk / name.name)


def guest(here: Place, domain: str = "payroll", disk: str = "db01") -> NbdClient:
    return NbdClient(str(here.run / domain / "nbd.sock"), disk)


def test_a_stop_ends_in_order_while_the_store_hangs(peer: Callable[[str], str], tmp_path: Path) -> None:
    with sick_disk(peer, tmp_path) as disk, place("payroll") as here:
        put_on(disk.folder, here.path / "store-payroll")
        here.write(close_limit_s=1)
        with process(here) as daemon:
            here.until(lambda s: s["state"] == "open" and s["lsn_uploaded"] == s["lsn_reserved"])
            disk.hang()
            with disk.well_at_the_end(), guest(here) as client:
                client.write(0, b"before the stop " * 32)
                client.flush()
                lsn = here.ask("mark", domain="payroll", name="not uploaded")["point"]["lsn"]
                _until(lambda: any(hanging_threads(child) for child in children(daemon.pid)))
                logged = end(daemon)
                assert daemon.returncode == 0, logged
                assert f"to {lsn} not uploaded" in logged
                client.write(4096, b"after the stop  " * 32)  # to the ring: a flush would wait, and open a gap
        with process(here) as daemon:
            found = here.until(lambda s: s["lsn_uploaded"] >= lsn and s["consistent"])
            assert found["epoch"] == 2
            end(daemon)
        points = jetdr_process("points", here.store("payroll")).stdout
        assert "not uploaded" in points
        assert "gap" not in points.lower()  # neither the host component nor the ring has missed anything


def give_web_a_volume(here: Place, path: str) -> None:
    """Put the log of domain web on a volume of its own."""
    here.write(close_limit_s=0.5)
    head, web = here.file.read_text().rsplit("[[domain]]", 1)
    volume = f'[[volume]]\nname = "sick"\npath = "{path}"\n'
    web = web.replace('volume = "main"', 'volume = "sick"')
    here.file.write_text(f"{head}{volume}[[domain]]{web}")


def has_ended(pid: int) -> bool:
    """Whether a process has ended, but for threads that the kernel does not let go."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")


def ask_in_time(here: Place, command: str, **arguments: object) -> Any:
    started = time.monotonic()
    answer = here.ask(command, **arguments)
    assert time.monotonic() - started < 10
    return answer


def test_a_log_that_hangs_holds_up_no_other_domain_and_its_own_is_named_at_the_stop(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    with sick_disk(peer, tmp_path, mounted=False) as disk, place() as here:
        give_web_a_volume(here, disk.device)
        with process(here, code=HURRIED) as daemon, disk.well_at_the_end():
            for domain in here.domains:
                here.until(lambda s: s["state"] == "open" and s["lsn_uploaded"] == s["lsn_reserved"], domain)
            disk.hang()
            with guest(here, "web") as client:
                client.write(0, b"to a hanging log" * 32)
                client.flush()
            _until(lambda: hanging_threads(daemon.pid))
            lsn = ask_in_time(here, "mark", domain="payroll", name="meanwhile")["point"]["lsn"]
            assert ask_in_time(here, "await_upload", domain="payroll", lsn=lsn)["uploaded"]
            assert len(ask_in_time(here, "status")["domains"]) == 2
            logged = _stop_but_for_what_hangs(daemon)
            assert f"domain web has not closed within {STOP_LIMIT_S} s" in logged
            assert "domain payroll has not" not in logged
            with process(here, opened=False) as next_daemon:
                found = here.until(lambda s: s["state"] == "open")
                assert found["lsn_recovered"] >= lsn
                assert "gap" not in jetdr_process("points", here.store("payroll")).stdout.lower()
                assert "in use" in here.until(lambda s: s["failure"], "web")["failure"]
                disk.go_on()
                assert daemon.wait(LIMIT_S) == 1
                here.until(lambda s: s["state"] == "open" and s["consistent"], "web")
                end(next_daemon)
                assert next_daemon.returncode == 0


def test_a_log_that_hangs_at_the_start_holds_up_no_other_domain_and_no_stop(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    with sick_disk(peer, tmp_path) as disk, place() as here:
        give_web_a_volume(here, f"{disk.folder}/log")
        with process(here) as daemon:
            for domain in here.domains:
                here.until(lambda s: s["state"] == "open", domain)
            end(daemon)
        disk.forget()
        disk.hang()
        with process(here, code=HURRIED, opened=False) as daemon, disk.well_at_the_end():
            here.until(lambda s: s["state"] == "open")
            ask_in_time(here, "mark", domain="payroll", name="meanwhile")
            opening = here.until(lambda s: time.time_ns() - s["since_ns"] > OPENING_NS, "web")
            assert opening["state"] == "opening"
            _until(lambda: hanging_threads(daemon.pid))
            logged = _stop_but_for_what_hangs(daemon)
            assert f"domain web has not closed within {STOP_LIMIT_S} s" in logged
            assert "domain payroll has not" not in logged
            disk.go_on()
            assert daemon.wait(LIMIT_S) == 1


def test_a_log_that_fails_for_seconds_with_a_backlog_is_reported_and_opened_again_by_itself(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    with sick_disk(peer, tmp_path, mounted=False) as disk, place() as here:
        give_web_a_volume(here, disk.device)
        with process(here) as daemon, disk.well_at_the_end(), guest(here, "web") as client:
            here.until(lambda s: s["state"] == "open" and s["consistent"], "web")
            here.ask("pause", domain="web")
            client.write(0, b"in the backlog  " * 256)
            client.flush()
            disk.fail()
            client.write(4096, b"while it fails  " * 256)
            found = here.until(lambda s: s["state"] == "waiting", "web")
            (told,) = [alarm["text"] for alarm in found["alarms"] if alarm["name"] == "closed"]
            assert "Input/output error" in told
            client.write(8192, b"while it is shut" * 256)
            disk.heal()
            found = here.until(lambda s: s["state"] == "open" and s["host"]["logging"], "web")
            assert found["paused"]
            client.write(12288, b"afterwards      " * 256)
            client.flush()
            here.ask("resume", domain="web")
            here.until(lambda s: s["consistent"], "web")
            lsn = here.ask("mark", domain="web", name="well")["point"]["lsn"]
            here.until(lambda s: s["lsn_uploaded"] >= lsn, "web")
            assert here.status("payroll")["restarts"] == 0
            end(daemon)
        target = here.path / "recovered"
        done = jetdr_process(
            "rehydrate", here.store("web"), "--at", "well", "--to", target, "--format", "raw", "--no-cache"
        )
        assert done.returncode == 0, done.stderr
        assert (target / "db01.raw").read_bytes() == here.disk("web").read_bytes()


def test_a_slow_primary_holds_up_the_flush_of_no_other_disk_when_the_log_goes_away(
    peer: Callable[[str], str], tmp_path: Path
) -> None:
    """In write-back. A primary may lag by what it takes in a second, so all primaries soon have what is pending."""
    with place("payroll") as here, slow_file(peer, tmp_path, "8M", "32M") as slow:
        here.write(domain='mode = "write-back"', options="ring_bytes = 134_217_728\nstall_limit_s = 0.5")
        here.file.write_text(here.file.read_text().replace("section_bytes = 8_388_608", "section_bytes = 268_435_456"))
        with process(here) as daemon:
            here.until(lambda s: s["state"] == "open" and s["consistent"])
            here.ask("protect", domain="payroll", disk="slow", path=str(slow))
            here.until(lambda s: all(disk["ready"] for disk in s["disks"]))
            with guest(here) as client, guest(here, disk="slow") as other:
                for number in range(36):
                    other.write((number % 8) << 20, bytes([number + 1]) * (1 << 20))
                other.flush()
                daemon.kill()
                daemon.wait()
                started = time.monotonic()
                client.write(0, b"on a quick disk " * 32)
                client.flush()
                assert time.monotonic() - started < 6.5  # 0.5 s for the log, 1 s for the slow disk; 9 s without a bound


def _stop_but_for_what_hangs(daemon: subprocess.Popen[str]) -> str:
    """Stop a DRVA one of whose threads hangs. It has ended within its limit, but the kernel keeps that thread."""
    started = time.monotonic()
    daemon.send_signal(signal.SIGTERM)
    _until(lambda: has_ended(daemon.pid))
    assert time.monotonic() - started < STOP_LIMIT_S + 10
    assert daemon.stderr is not None
    return os.read(daemon.stderr.fileno(), 1 << 20).decode()


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
