"""A file that cannot be made: which errors are explained, and with what remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jetdr_core.errors import DeviceAccessDenied, DeviceBusy, DeviceFull, InvalidRequest, SystemFailure
from jetdr_core.file_making import Asked, making, read_regular_file, remedy_of

USER = os.geteuid()
EVERYTHING = Asked.SIZE | Asked.PLACE


@pytest.mark.parametrize(
    ("number", "kind", "kept", "asked"),
    [
        (errno.ENOSPC, DeviceFull, "bytes are free); free space on that file system", ", or ask for less"),
        (errno.EDQUOT, DeviceFull, "raise the quota of this user", ", or ask for less"),
        (errno.EFBIG, DeviceFull, "(ulimit -f), takes no file so long: use another, raise it", ", or ask for less"),
        (errno.EACCES, DeviceAccessDenied, f"let user {USER} write in {{folder}}", ", or name another place"),
        (errno.EPERM, DeviceAccessDenied, f"let user {USER} write in {{folder}}", ", or name another place"),
        (errno.EROFS, DeviceAccessDenied, "mount that file system for writing", ", or name another place"),
        (errno.EMFILE, SystemFailure, "Too many open files; raise the limit on open files (ulimit -n)", ""),
        (errno.EIO, SystemFailure, "Input/output error; check the device and its file system", ""),
    ],
)
def test_a_refusal_names_the_file_what_was_tried_and_a_remedy_that_helps(
    tmp_path: Path, number: int, kind: type[SystemFailure], kept: str, asked: str
) -> None:
    for ask, more in ((Asked.NOTHING, ""), (EVERYTHING, asked)):
        with pytest.raises(kind) as caught, making(tmp_path / "disk", "making a disk of 512 bytes", ask):
            raise OSError(number, os.strerror(number))
        assert str(caught.value).startswith(f"{tmp_path / 'disk'}: making a disk of 512 bytes failed: ")
        assert str(caught.value).endswith(kept.format(folder=tmp_path) + more)
        assert caught.value.errno == number
        assert isinstance(caught.value, PermissionError) == (kind is DeviceAccessDenied)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "x", "y"), FileExistsError(errno.EEXIST, "x", "y")])
def test_what_is_said_of_the_name_stays_as_it_is(error: OSError) -> None:
    with pytest.raises(type(error)) as caught, making("disk", "making it"):
        raise error
    assert caught.value is error


def test_what_was_explained_already_stays_as_it_is() -> None:
    error = DeviceBusy("it is in use", errno=errno.EBUSY)
    with pytest.raises(DeviceBusy) as caught, making("disk", "making it"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize("code", [*errno.errorcode, 0, None])
def test_every_errno_has_a_remedy(code: int | None) -> None:
    assert remedy_of(code)


def test_reading_never_waits_for_a_pipe_and_never_reads_without_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(bytes(11))
    (tmp_path / "open").write_bytes(b"secret")
    (tmp_path / "open").chmod(0o640)
    for place, told in (("pipe", "is no regular file"), ("long", "is longer than 10 bytes"), ("open", "chmod 600")):
        with pytest.raises(InvalidRequest, match=told):
            read_regular_file(tmp_path / place, 10, private=place == "open")
    with pytest.raises(InvalidRequest, match="is no regular file"):
        read_regular_file("/dev/zero", 10)
    assert read_regular_file(tmp_path / "open", 10) == b"secret"
