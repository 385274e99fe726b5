"""The control socket: every command, and clients that send garbage or hang."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from jetdr_core._core import FilterStats
from jetdr_core.errors import DeviceBusy, HostDeaf, HostGone, InvalidRequest
from jetdr_core.host import HostControl
from jetdr_core.unix_socket import connect_unix
from tests.host.guest import DISK_BYTES, Guest, make_disk

LINE_BYTES_MAX = 8192
CONNECTIONS_MAX = 32


class Line:
    """A connection that sends what it is told to, byte by byte if need be."""

    def __init__(self, guest: Guest) -> None:
        self.socket = connect_unix(guest.host.control.path, 20)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> str:
        """One line without its end; empty once the connection is closed."""
        line = bytearray()
        while not line.endswith(b"\n"):
            piece = self.socket.recv(1)
            if not piece:
                break
            line += piece
        return line.decode().rstrip("\n")

    def ask(self, line: str) -> str:
        self.send(line.encode() + b"\n")
        return self.reply()

    def closed(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def test_hello_names_the_process(guest: Guest) -> None:
    with Line(guest) as line:
        assert line.ask("HELLO") == f"OK jetdr-host 1 {guest.host.pid}"
    assert guest.host.control.hello() == guest.host.pid


def test_the_socket_is_its_owners_alone(guest: Guest) -> None:
    assert stat.S_IMODE(os.stat(guest.host.control.path).st_mode) == 0o600
    assert stat.S_IMODE(guest.host.folder.stat().st_mode) == 0o700


def test_a_disk_is_added_once_and_the_same_again_is_harmless(guest: Guest) -> None:
    path = str(make_disk(guest.folder / "a disk.img"))
    control = guest.host.control
    for _ in range(2):
        control.add(3, DISK_BYTES, 65536, "third", path)
    assert list(control.stats()) == [1, 2, 3]
    with guest.client("third") as client:
        client.write(0, b"x" * 512)
    assert control.stats()[3].filter.write_bytes == 512


def test_statistics_are_all_that_a_filter_counts(guest: Guest) -> None:
    with Line(guest) as line:
        assert line.ask("STATS") == "OK 2"
        words = line.reply().split(" ")[2:]
    assert [word.partition("=")[0] for word in words] == list(FilterStats._fields)


@pytest.mark.parametrize(
    ("number", "size_bytes", "record_bytes_max", "name", "file"),
    [
        (1, DISK_BYTES, 4096, "boot", "boot"),
        (1, DISK_BYTES - 512, 0, "boot", "boot"),
        (1, DISK_BYTES, 0, "boot2", "boot"),
        (3, DISK_BYTES, 0, "boot", "new"),
        (1, DISK_BYTES, 0, "boot", "data"),
    ],
)
def test_a_number_or_name_in_use_is_refused(
    guest: Guest, number: int, size_bytes: int, record_bytes_max: int, name: str, file: str
) -> None:
    make_disk(guest.folder / "new.img")
    with pytest.raises(InvalidRequest, match="disk 1 is boot") as refused:
        guest.host.control.add(number, size_bytes, record_bytes_max, name, str(guest.folder / f"{file}.img"))
    assert refused.value.facts["errno"] == errno.EEXIST
    assert len(guest.host.control.stats()) == 2


def test_a_primary_that_is_missing_or_no_disk_or_too_short_is_refused(guest: Guest) -> None:
    control = guest.host.control
    with pytest.raises(FileNotFoundError, match=r"/nowhere/x.img"):
        control.add(3, DISK_BYTES, 0, "third", "/nowhere/x.img")
    with pytest.raises(InvalidRequest, match="neither a regular file nor a block device"):
        control.add(3, DISK_BYTES, 0, "third", "/dev/null")
    short = make_disk(guest.folder / "short.img", DISK_BYTES - 512)
    with pytest.raises(InvalidRequest, match=f"has {DISK_BYTES - 512} bytes, fewer than the disk's {DISK_BYTES}"):
        control.add(3, DISK_BYTES, 0, "third", str(short))
    with pytest.raises(InvalidRequest, match="not a disk's size"):
        control.add(3, 1000, 0, "third", str(short))
    assert len(control.stats()) == 2


def test_a_primary_in_use_is_refused(guest: Guest) -> None:
    with pytest.raises(DeviceBusy, match=r"boot.img: it is in use"):
        guest.host.control.add(3, DISK_BYTES, 0, "third", str(guest.disks["boot"]))


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 65, "é"])
def test_a_name_that_is_none_is_refused(guest: Guest, name: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid"):
        guest.host.control.add(3, DISK_BYTES, 0, name, "/x")
    with Line(guest) as line:
        assert line.ask(f"ADD 3 {DISK_BYTES} 0 {name} /x").startswith("ERR 22 ")


def test_commands_for_a_disk_that_is_not_there_are_refused(guest: Guest) -> None:
    control = guest.host.control
    with pytest.raises(InvalidRequest, match="there is no disk 9"):
        control.remove(9)
    for command in (lambda: control.trust(9), lambda: control.copy(9, 0, 512)):
        with pytest.raises(HostGone, match="there is no disk 9"):
            command()


def test_trust_is_answered(guest: Guest) -> None:
    guest.host.control.trust(1)


def test_a_copy_without_a_ring_is_refused(guest: Guest) -> None:
    with pytest.raises(InvalidRequest, match="copy of 4096 bytes at 0"):
        guest.host.control.copy(1, 0, 4096)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        b"HELLO ",
        b"HELLO you",
        b" HELLO",
        b"ADD",
        b"ADD 1 2 3 name",
        b"ADD -1 512 512 name /x",
        b"ADD 4294967296 512 512 name /x",
        b"ADD 1 18446744073709551616 512 name /x",
        b"ADD 1  512 512 name /x",
        b"COPY 1 0",
        b"COPY 1 0 512 1",
        b"COPY 1 0x0 512",
        b"REMOVE one",
        b"STATS\0",
        b"STATS 1",
        b"QUIT now",
        b"GET / HTTP/1.1\r",
        b"\xff" * 100,
        b"x" * (LINE_BYTES_MAX - 1),
    ],
)
def test_garbage_is_refused_and_ends_its_connection(guest: Guest, line: bytes) -> None:
    with Line(guest) as other, Line(guest) as bad:
        bad.send(line + b"\n")
        assert bad.reply().startswith("ERR 22 ")
        assert bad.closed()
        assert other.ask("HELLO").startswith("OK ")


def test_a_line_that_is_too_long_is_refused(guest: Guest) -> None:
    with Line(guest) as bad:
        bad.send(b"x" * LINE_BYTES_MAX)
        assert bad.reply() == "ERR 22 the line is longer than 8192 bytes"
        assert bad.closed()


def test_several_commands_in_one_piece_are_answered_in_order(guest: Guest) -> None:
    with Line(guest) as line:
        line.send(b"TRUST 1\nTRUST 9\nHEL")
        assert line.reply() == "OK"
        assert line.reply() == "ERR 2 there is no disk 9"
        line.send(b"LO\n")
        assert line.reply().startswith("OK jetdr-host 1 ")


def test_a_client_that_hangs_in_a_line_is_hung_up_on_and_disturbs_nobody(guest: Guest) -> None:
    with Line(guest) as hanging:
        hanging.send(b"STAT")
        assert guest.host.control.hello() == guest.host.pid
        with guest.client("boot") as client:
            client.write(0, b"x" * 512)
        assert hanging.reply() == "ERR 22 the line was not complete within 5 s"
        assert hanging.closed()


def test_more_clients_than_there_is_room_for_push_out_the_idlest(guest: Guest) -> None:
    with ExitStack() as open_lines:
        lines = [open_lines.enter_context(Line(guest)) for _ in range(CONNECTIONS_MAX - 4)]  # the fixture has some, too
        for line in lines:
            assert line.ask("HELLO").startswith("OK ")
        gone: list[socket.socket] = []
        for _ in range(8):
            late = open_lines.enter_context(Line(guest))
            assert late.ask("HELLO").startswith("OK ")
            if gone := select.select([line.socket for line in lines], [], [], 0.5)[0]:
                break
        assert len(gone) == 1
        assert gone[0] in [line.socket for line in lines[: CONNECTIONS_MAX // 2]]
        assert lines[-1].ask("HELLO").startswith("OK ")


def test_a_client_that_takes_no_reply_disturbs_nobody(guest: Guest) -> None:
    with Line(guest) as deaf:
        deaf.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                deaf.send(b"STATS\n" * 1000)
        assert guest.host.control.hello() == guest.host.pid


def test_many_threads_ask_at_once(guest: Guest) -> None:
    failures: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(50):
                assert guest.host.control.hello() == guest.host.pid
                assert len(guest.host.control.stats()) == 2
        except Exception as error:  # noqa: BLE001 - it is shown by the test
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_clients_that_come_and_go_quickly_take_nobodys_place(guest: Guest) -> None:
    for _ in range(100):
        os.kill(guest.host.pid, signal.SIGSTOP)  # so that it finds all of them at once
        for _ in range(CONNECTIONS_MAX + 16):
            connect_unix(guest.host.control.path, 20).close()
        with Line(guest) as line:
            line.send(b"HELLO\n")
            os.kill(guest.host.pid, signal.SIGCONT)
            assert line.reply() == f"OK jetdr-host 1 {guest.host.pid}"


def test_the_client_says_that_nobody_is_there(folder: Path) -> None:
    control = HostControl(folder / "host.sock")
    with pytest.raises(HostGone, match="no host component can be reached"):
        control.hello()


def test_the_client_does_not_wait_for_ever(folder: Path) -> None:
    path = folder / "host.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        control = HostControl(path, limit_s=0.2)
        with pytest.raises(HostGone, match=r"did not answer within 0\.2 s"):
            control.stats()


def test_the_client_waits_while_more_call_than_are_heard(folder: Path) -> None:
    path = folder / "host.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as first:
        server.bind(str(path))
        server.listen(0)
        first.connect(str(path))

        def answer() -> None:
            time.sleep(0.2)
            server.accept()[0].close()
            with server.accept()[0] as late:
                late.recv(100)
                late.sendall(b"OK jetdr-host 1 77\n")

        thread = threading.Thread(target=answer)
        thread.start()
        control = HostControl(path)
        assert control.hello() == 77
        thread.join()
        control.close()


@contextmanager
def replying(folder: Path, *replies: bytes) -> Iterator[HostControl]:
    """A client of something at the control socket that gives one reply to each connection, and is then gone."""
    path = folder / "host.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            for reply in replies:
                with server.accept()[0] as client:
                    client.recv(100)
                    client.sendall(reply)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        control = HostControl(path)
        yield control
        thread.join()
        control.close()


def test_a_host_component_with_too_many_clients_is_to_be_asked_again(folder: Path) -> None:
    with replying(folder, b"ERR 11 too many connections are at work\n", b"OK 7\n") as control:
        with pytest.raises(HostDeaf, match="too many connections are at work"):
            control.copy(1, 0, 4096)
        assert control.copy(1, 0, 4096) == 7


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\n", b"ERR much\n", b"OK", b"OK jetdr-host 2 1\n", b""])
def test_the_client_recognises_a_stranger(folder: Path, said: bytes) -> None:
    with replying(folder, said) as control, pytest.raises(HostGone):
        control.hello()


def test_a_host_component_of_the_first_release_is_asked_what_it_counts(folder: Path) -> None:
    """It goes on serving while its DRVA is upgraded."""
    counted = (
        "writes write_bytes zeros zero_bytes reads read_bytes flushes background_bytes overlaps_waited stalls stall_ns "
        "stall_ns_max failed_writes unlogged_writes unlogged_bytes suspect sync_failed"
    )
    line = " ".join(["1 db01", *(f"{word}=3" for word in counted.split())])
    with replying(folder, f"OK 1\n{line}\n".encode()) as control:
        stats = control.stats()[1].filter
    assert (stats.writes, stats.sync_failed, stats.throttled, stats.trouble) == (3, 3, 0, 0)
