"""The process: signals end it in order, a kill loses nothing, systemd hears of it, and the unit is sound."""

from __future__ import annotations

import configparser
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.drva.notify import Notifier
from tests.cli.jetdr_command import jetdr_process
from tests.drva.running_drva import DISK_BYTES, LIMIT_S, end, place, process

UNIT = Path(__file__).resolve().parents[2] / "packaging" / "jetdr-drva.service"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_uploads_what_is_left_and_ends_cleanly(number: signal.Signals) -> None:
    with place("payroll") as here:
        here.write(options="heartbeat_s = 600")
        with process(here) as daemon:
            here.ask("mark", domain="payroll", name="last words")
            logged = end(daemon, number)
        assert daemon.returncode == 0, logged
        assert "Traceback" not in logged
        assert "last words" in jetdr_process("points", here.store("payroll")).stdout
        assert not here.socket.exists()


def test_a_second_signal_hurries_the_end() -> None:
    """The data of the disk would take an hour to upload, and close_limit_s is as long."""
    with place("payroll") as here:
        here.write(options="bandwidth_bytes_per_s = 300")
        here.file.write_text(here.file.read_text().replace("close_limit_s = 5\n", "close_limit_s = 4000\n"))
        here.disk("payroll").write_bytes(os.urandom(DISK_BYTES))
        with process(here) as daemon:
            here.until(lambda s: s["lsn_reserved"] > 2)
            daemon.send_signal(signal.SIGTERM)
            here.until(lambda s: s["state"] == "closing")
            started = time.monotonic()
            logged = end(daemon, signal.SIGTERM)
        assert daemon.returncode == 0, logged
        assert "stopping at once" in logged
        assert time.monotonic() - started < 60


def test_a_killed_drva_goes_on_where_its_log_ends() -> None:
    with place() as here:
        with process(here) as daemon:
            lsn = here.ask("mark", domain="payroll", name="before")["point"]["lsn"]
            daemon.kill()
            daemon.wait(LIMIT_S)
        with process(here) as daemon:
            found = here.until(lambda s: s["consistent"] and s["lsn_uploaded"] == s["lsn_reserved"])
            assert found["lsn_recovered"] >= lsn
            assert found["epoch"] == 2
            end(daemon)
        assert "before" in jetdr_process("points", here.store("payroll")).stdout


def test_systemd_is_told_that_it_is_ready_alive_and_stopping() -> None:
    """Nobody listens while the DRVA opens. The socket's queue of ten has room for messages a second apart."""
    with place("payroll") as here, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(here.path / "notify"))
        systemd.settimeout(LIMIT_S)
        with process(here, NOTIFY_SOCKET=str(here.path / "notify"), WATCHDOG_USEC="2000000") as daemon:
            ready, told = "READY=1\nSTATUS=1 of 1 domains open", [""]
            while ready not in told or told.count("WATCHDOG=1") < 2:
                assert len(told) < 30, told
                told.append(systemd.recv(1000).decode())
            daemon.send_signal(signal.SIGTERM)
            while not told[-1].startswith("STOPPING=1"):
                told.append(systemd.recv(1000).decode())
            daemon.wait(LIMIT_S)


def test_a_systemd_that_does_not_listen_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "notify")
    notifier = Notifier({"NOTIFY_SOCKET": path})
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
    ):
        systemd.bind(path)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                other.sendto(b"x", path)
        notifier.ready("all open")
        notifier.alive()
        assert len(caplog.messages) == 1
        systemd.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                assert systemd.recv(1000) == b"x"
        notifier.alive()
        assert systemd.recv(1000) == b"READY=1\nSTATUS=all open\nWATCHDOG=1"
        notifier.alive()
        assert systemd.recv(1000) == b"WATCHDOG=1"
    notifier.alive()  # nobody holds the socket
    os.unlink(path)
    for _ in range(3):
        notifier.alive()
    notifier.stopping()
    assert len(caplog.messages) == 3, caplog.messages


def test_without_the_socket_of_systemd_the_appliance_runs_and_ends_in_order() -> None:
    with place("payroll") as here:
        with process(here, NOTIFY_SOCKET=str(here.path / "gone"), WATCHDOG_USEC="200000") as daemon:
            here.until(lambda s: s["state"] == "open")
            time.sleep(0.5)  # some beats
            here.ask("mark", domain="payroll", name="last words")
            logged = end(daemon)
        assert daemon.returncode == 0, logged
        assert logged.count("systemd does not listen") == 1
        assert "last words" in jetdr_process("points", here.store("payroll")).stdout


def test_no_child_inherits_the_way_to_systemd() -> None:
    environ = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    assert Notifier(environ).watchdog_s == 15
    assert environ == {"HOME": "/"}
    assert Notifier({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}).watchdog_s is None
    Notifier({}).ready("nobody listens")


def test_a_configuration_is_checked_without_starting_anything(tmp_path: Path) -> None:
    with place() as here:
        said = jetdr_process("drva", here.file, "--check")
        assert (said.returncode, said.stdout) == (0, f"{here.file} is good: 2 domains, 1 volume\n")
        assert [path.name for path in here.path.iterdir()] == ["drva.toml"]
        here.file.write_text(here.file.read_text().replace("volume = ", "volum = ", 1))
        said = jetdr_process("drva", here.file)
        assert said.returncode == 2
        assert "jetdr: error: " in said.stderr
        assert [path.name for path in here.path.iterdir()] == ["drva.toml"]


def test_the_unit_is_sound(peer: Callable[[str], str], tmp_path: Path) -> None:
    unit = tmp_path / "jetdr-drva.service"
    unit.write_text(UNIT.read_text().replace("/opt/jetdr/bin/jetdr", sys.executable))
    command = [peer("systemd-analyze"), "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_keeps_host_components_and_shuts_everything_else_out() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text())
    service = unit["Service"]
    kept = {"KillMode": "process", "RuntimeDirectoryPreserve": "yes", "Type": "notify", "RuntimeDirectoryMode": "0700"}
    sandbox = {"ProtectSystem": "strict", "NoNewPrivileges": "yes", "ProtectHome": "yes", "UMask": "0077"}
    assert kept.items() | sandbox.items() <= dict(service).items()
    assert int(service["WatchdogSec"]) > 0
