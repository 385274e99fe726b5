"""Names of sockets: only that of a socket of ours, which nobody listens on, is ever removed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from jetdr_core.errors import DeviceBusy, InvalidRequest
from jetdr_core.unix_socket import UnixListener, check_socket_place, clear_socket_place, connect_unix


@pytest.fixture
def place() -> Iterator[Path]:
    """A name, in a folder with a short path, that nothing has yet."""
    with TemporaryDirectory(prefix="js-", dir="/dev/shm") as folder:
        yield Path(folder) / "socket"


def left_behind(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_UNIX, kind) as dead:
        dead.bind(str(path))


def a_file(path: Path) -> None:
    path.write_bytes(b"a virtual machine")


def an_empty_file(path: Path) -> None:
    path.touch()


def a_link_to_a_file(path: Path) -> None:
    (path.parent / "disk.img").write_bytes(b"a virtual machine")
    path.symlink_to("disk.img")


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("disk.img")


def a_link_to_a_socket(path: Path) -> None:
    left_behind(path.parent / "other")
    path.symlink_to("other")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_strangers_socket(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a socket to another user needs root")
    left_behind(path)
    os.chown(path, 54321, 54321)


THINGS = {
    a_file: "is a regular file",
    an_empty_file: "is a regular file",
    a_link_to_a_file: "is a symbolic link",
    a_link_to_nothing: "is a symbolic link",
    a_link_to_a_socket: "is a symbolic link",
    a_folder: "is a folder",
    a_pipe: "is a pipe",
    a_strangers_socket: "is a socket of user 54321",
}


@pytest.mark.parametrize("act", [check_socket_place, clear_socket_place, UnixListener])
@pytest.mark.parametrize(("thing", "reason"), THINGS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_no_socket_of_ours_is_refused_and_stays(
    place: Path, thing: Callable[[Path], None], reason: str, act: Callable[[str, Path], object]
) -> None:
    thing(place)
    before = place.lstat(), sorted(os.listdir(place.parent))
    with pytest.raises(InvalidRequest) as caught:
        act("control_socket", place)
    assert str(caught.value).startswith(f"control_socket {place} {reason}")
    assert "another path" in str(caught.value) or "a path of its own" in str(caught.value)
    assert (place.lstat(), sorted(os.listdir(place.parent))) == before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_in_use_stays(place: Path, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(place))
        if kind != socket.SOCK_DGRAM:
            other.listen()
        inode = place.stat().st_ino
        check_socket_place("control_socket", place)
        for act in (clear_socket_place, UnixListener):
            with pytest.raises(DeviceBusy, match=r"control_socket .* is in use by another process"):
                act("control_socket", place)
        assert place.stat().st_ino == inode


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_socket_that_a_dead_process_left_is_replaced(place: Path, kind: socket.SocketKind) -> None:
    left_behind(place, kind)
    listener = UnixListener("control_socket", place)
    connect_unix(place, 1).close()
    assert place.stat().st_mode & 0o777 == 0o600
    listener.remove_name()
    listener.socket.close()
    assert os.listdir(place.parent) == []


@pytest.mark.parametrize("thing", [a_file, left_behind, a_folder])
def test_a_name_that_somebody_else_took_meanwhile_stays(place: Path, thing: Callable[[Path], None]) -> None:
    listener = UnixListener("control_socket", place)
    place.unlink()
    thing(place)
    inode = place.stat().st_ino
    listener.remove_name()
    listener.socket.close()
    assert place.stat().st_ino == inode


def test_a_folder_that_others_can_change_is_no_place_for_a_socket(place: Path) -> None:
    place.parent.chmod(0o777)
    with pytest.raises(InvalidRequest, match=r"the folder of control_socket .* may be changed by others \(mode 0777\)"):
        UnixListener("control_socket", place)
    assert os.listdir(place.parent) == []


def test_a_missing_folder_is_named(place: Path) -> None:
    with pytest.raises(InvalidRequest, match="its folder does not exist; make it"):
        UnixListener("control_socket", place.parent / "missing" / "socket")
