"""The host component's process: started, found again, ended; it outlives whoever started it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from jetdr_core.errors import HostDeaf, HostFailed, HostGone, InvalidRequest
from jetdr_core.host import PLUGIN_PATH, HostComponent, HostedFilter, HostOptions, StartDisk, host_client
from tests.children import run_python
from tests.host.guest import DISK_BYTES, Guest, make_disk, pause
from tests.peers.loop import needs_root
from tests.peers.port import free_port

START = """
import sys, os
from jetdr_core.host import HostComponent, HostOptions, StartDisk
runtime, disk, size = sys.argv[1:]
host = HostComponent("vm", HostOptions(runtime=runtime))
host.start(None, disks=[StartDisk(1, "boot", int(size), disk)])
print(host.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_it_outlives_the_process_that_started_it_and_is_found_again(stopped: Guest) -> None:
    child = run_python(START, stopped.host.options.runtime, stopped.disks["boot"], DISK_BYTES)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert stopped.host.running()
    assert stopped.host.pid == int(child.stdout) == stopped.host.control.hello()
    with stopped.client("boot") as client:
        client.write(0, b"x" * 4096)
    stopped.host.stop()
    assert not stopped.host.running()
    assert stopped.disks["boot"].read_bytes()[:4096] == b"x" * 4096


def test_it_is_started_once(guest: Guest) -> None:
    pid = guest.host.pid
    with pytest.raises(InvalidRequest, match="runs already"):
        guest.start()
    assert guest.host.pid == pid


def test_it_ends_when_asked_and_can_be_started_again(guest: Guest) -> None:
    pid = guest.host.pid
    guest.host.stop()
    assert not guest.host.running()
    guest.host.stop()
    with pytest.raises(HostGone):
        assert guest.host.pid
    guest.start()
    assert guest.host.control.hello() != pid


def test_it_ends_while_guests_are_connected(guest: Guest) -> None:
    with guest.client("boot") as client:
        client.write(0, b"x" * 4096)
        begun = time.monotonic()
        guest.host.stop()
        assert time.monotonic() - begun < 10
    assert not guest.host.running()


def test_it_starts_over_the_sockets_of_a_killed_one(guest: Guest) -> None:
    os.kill(guest.host.pid, signal.SIGKILL)
    _wait_until(lambda: not guest.host.running())
    assert Path(guest.host.control.path).exists()
    guest.start()
    with guest.client("boot") as client:
        client.write(0, b"x" * 512)


def test_a_terminated_one_ends_in_order(guest: Guest) -> None:
    os.kill(guest.host.pid, signal.SIGTERM)
    _wait_until(lambda: not guest.host.running())
    assert not Path(guest.host.control.path).exists()


def test_one_that_is_stopped_is_running_and_does_not_answer(guest: Guest) -> None:
    pid = guest.host.pid
    pause(pid)
    try:
        assert guest.host.running()
        with pytest.raises(InvalidRequest, match="runs already"):
            guest.start()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert guest.host.control.hello() == pid


def test_one_that_takes_no_connection_is_running_and_not_taken_for_ended(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_client, "HELLO_LIMIT_S", 0.2)
    pid = guest.host.pid
    pause(pid)
    try:
        with ExitStack() as waiting:
            with pytest.raises(BlockingIOError):
                while True:
                    caller = waiting.enter_context(socket.socket(socket.AF_UNIX))
                    caller.setblocking(False)
                    caller.connect(guest.host.control.path)
            assert guest.host.running()
            for attempt in (guest.host.stop, guest.start):
                with pytest.raises(HostDeaf, match=r"took no connection within 0\.2 s"):
                    attempt()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert guest.host.control.hello() == pid


def test_one_that_does_not_end_is_killed_and_that_is_said(folder: Path, peer: Callable[[str], str]) -> None:
    guest = Guest(folder, peer, stop_limit_s=0.3)
    guest.start()
    pause(guest.host.pid)
    with pytest.raises(HostFailed, match=r"did not end within 0\.3 s"):
        guest.host.stop()
    _wait_until(lambda: not guest.host.running())


def test_a_locked_primary_is_refused_and_said_why(stopped: Guest) -> None:
    with stopped.disks["boot"].open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HostFailed, match=r"boot.img: it is in use"):
            stopped.start()
    stopped.start()


def test_it_keeps_its_primaries_locked(guest: Guest) -> None:
    with guest.disks["boot"].open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    guest.host.stop()
    with guest.disks["boot"].open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_missing_primary_is_refused(stopped: Guest) -> None:
    stopped.disks["data"].unlink()
    with pytest.raises(HostFailed, match=r"data.img: No such file"):
        stopped.start()
    assert not stopped.host.running()


def test_a_symbolic_link_is_followed_unless_another_user_made_it(stopped: Guest) -> None:
    needs_root()
    link = stopped.disks["data"].with_name("link")
    link.symlink_to(stopped.disks["data"])
    stopped.host.start(None, disks=[StartDisk(1, "data", DISK_BYTES, str(link))])
    stopped.host.stop()
    os.lchown(link, 54321, 54321)
    with pytest.raises(HostFailed, match="link: it is a symbolic link of another user, who decides"):
        stopped.host.start(None, disks=[StartDisk(1, "data", DISK_BYTES, str(link))])


def test_two_disks_on_one_primary_are_refused(stopped: Guest) -> None:
    path = str(stopped.disks["boot"])
    with pytest.raises(HostFailed, match="in use"):
        stopped.host.start(None, disks=[StartDisk(1, "a", DISK_BYTES, path), StartDisk(2, "b", DISK_BYTES, path)])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("colour=red",), "unknown parameter 'colour'"),
        (("disk=1:a:16M",), "use NUMBER:NAME:SIZE:PATH"),
        (("disk=x:a:16M:/x",), "use NUMBER:NAME:SIZE:PATH"),
        (("disk=1:a/b:16M:/dev/shm",), "disk name 'a/b' is not valid"),
        (("stall-limit=soon",), "use seconds, 0 to 100"),
        (("domain=12",), "is not a UUID"),
        (("ring=/x", "ring=/y"), "ring= is given twice"),
        (("write-back=/x",), "write-back= needs a ring="),
        (("ring=/nowhere/ring",), "ring /nowhere/ring: "),
        ((), "nothing to serve"),
    ],
)
def test_bad_parameters_are_refused(guest: Guest, arguments: tuple[str, ...], problem: str) -> None:
    address = str(guest.folder / "other.sock")
    more = () if not arguments or "disk=" in arguments[0] else (f"control={guest.folder}/other-host.sock",)
    refused = guest.run("nbdkit", "-f", "--unix", address, str(PLUGIN_PATH), *arguments, *more, check=False)
    assert refused.returncode != 0
    assert problem in refused.stderr


def test_a_control_socket_in_use_is_not_taken_away(guest: Guest) -> None:
    address = str(guest.folder / "other.sock")
    control = f"control={guest.host.control.path}"
    refused = guest.run("nbdkit", "-f", "--unix", address, str(PLUGIN_PATH), control, check=False)
    assert "Address already in use" in refused.stderr
    assert guest.host.control.hello() == guest.host.pid


@pytest.mark.parametrize("empty", [False, True])
def test_a_file_with_the_name_of_a_socket_for_guests_is_refused_and_stays(
    folder: Path, peer: Callable[[str], str], empty: bool
) -> None:
    disk = folder / "precious.img"
    disk.write_bytes(b"" if empty else b"a virtual machine")
    guest = Guest(folder, peer, listen=str(disk))
    with pytest.raises(InvalidRequest, match=r"precious.img is a regular file that exists, and was left as it is; "):
        guest.start()
    assert disk.read_bytes() == (b"" if empty else b"a virtual machine")
    assert not guest.host.running()


def test_a_file_with_the_name_of_the_control_socket_is_refused_and_stays(stopped: Guest) -> None:
    disk = stopped.folder / "precious.img"
    disk.write_bytes(b"a virtual machine")
    address = str(stopped.folder / "other.sock")
    refused = stopped.run("nbdkit", "-f", "--unix", address, str(PLUGIN_PATH), f"control={disk}", check=False)
    assert "precious.img: Address already in use; stop the process that listens there, or, if that" in refused.stderr
    assert disk.read_bytes() == b"a virtual machine"


def test_a_file_that_took_the_name_of_the_control_socket_stays(guest: Guest) -> None:
    pid_fd = os.pidfd_open(guest.host.pid)
    os.unlink(guest.host.control.path)
    Path(guest.host.control.path).write_bytes(b"a virtual machine")
    signal.pidfd_send_signal(pid_fd, signal.SIGTERM)
    assert select.select([pid_fd], [], [], 20)[0]
    os.close(pid_fd)
    assert Path(guest.host.control.path).read_bytes() == b"a virtual machine"


def test_a_runtime_folder_that_others_can_change_is_refused(stopped: Guest) -> None:
    (stopped.folder / "run").mkdir()
    (stopped.folder / "run").chmod(0o777)
    with pytest.raises(InvalidRequest, match=r"the runtime folder .*/run may be changed by others \(mode 0777\)"):
        stopped.start()
    assert os.listdir(stopped.folder / "run") == []


def test_it_listens_on_tcp(folder: Path, peer: Callable[[str], str]) -> None:
    address = f"127.0.0.1:{free_port()}"
    guest = Guest(folder, peer, listen=address)
    guest.start()
    try:
        assert guest.uri("boot") == f"nbd://{address}/boot"
        assert guest.qemu_io("boot", "write -P 1 0 4096", "read -P 1 0 4096").endswith("exit 0")
    finally:
        guest.end()


def test_a_missing_nbdkit_is_said(folder: Path) -> None:
    host = HostComponent("vm", HostOptions(runtime=str(folder), nbdkit="/nowhere/nbdkit"))
    with pytest.raises(HostFailed, match="cannot be run"):
        host.start(None)


@pytest.mark.parametrize(
    "options", [{"runtime": "run"}, {"listen": "port"}, {"listen": "host:0"}, {"stall_limit_s": 101.0}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(options))):
        HostOptions(**options)  # type: ignore[arg-type]


def test_a_socket_path_that_is_too_long_is_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="longer than 107 bytes"):
        HostComponent("vm", HostOptions(runtime=str(folder / ("x" * 100))))


def test_a_hosted_filter_counts_and_can_be_taken_away(guest: Guest) -> None:
    hosted = HostedFilter(guest.host.control, 1, DISK_BYTES, 1 << 20)
    with guest.client("boot") as client:
        client.write(0, b"x" * 4096)
    assert hosted.stats().write_bytes == 4096
    assert hosted.stats().suspect == 0
    hosted.trust()
    hosted.remove()
    with pytest.raises(InvalidRequest, match="serves no disk 1"):
        hosted.stats()
    with pytest.raises(InvalidRequest, match="disk 1 is closed"):
        hosted.copy_background(0, 512)


def test_a_disk_added_later_is_served(guest: Guest) -> None:
    path = make_disk(guest.folder / "late.img")
    guest.host.control.add(3, DISK_BYTES, 0, "late", str(path))
    assert guest.qemu_io("late", "write -P 1 0 4096").endswith("exit 0")


def test_it_inherits_no_credential(stopped: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "AZURE_STORAGE_KEY": "c2VjcmV0LWtleS1tYXRlcmlhbA==",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=abcdefgh",
        "JETDR_ISCSI_PASSWORD": "hunter2hunter2",
        "https_proxy": "http://user:hunter3@proxy",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    stopped.start()
    inherited = Path(f"/proc/{stopped.host.pid}/environ").read_bytes().decode()
    assert not [name for name, value in secrets.items() if name in inherited or value in inherited]
    assert f"PATH={os.environ['PATH']}" in inherited.split("\0")
