"""A file that cannot be made: which errors are explained, and with what remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jetdr_core.errors import DeviceAccessDenied, DeviceBusy, DeviceFull, SystemFailure
from jetdr_core.file_making import making


@pytest.mark.parametrize(
    ("number", "kind", "told"),
    [
        (errno.ENOSPC, DeviceFull, "no room ("),
        (errno.EDQUOT, DeviceFull, "raise the quota of this user"),
        (errno.EFBIG, DeviceFull, "ulimit -f"),
        (errno.EACCES, DeviceAccessDenied, f"let user {os.geteuid()} write in "),
        (errno.EPERM, DeviceAccessDenied, f"let user {os.geteuid()} write in "),
        (errno.EROFS, DeviceAccessDenied, "Read-only file system; let user"),
        (errno.EIO, SystemFailure, "Input/output error; check the device"),
    ],
)
def test_a_refusal_names_the_file_what_was_tried_and_the_remedy(
    tmp_path: Path, number: int, kind: type[SystemFailure], told: str
) -> None:
    with pytest.raises(kind) as caught, making(tmp_path / "disk", "making a disk of 512 bytes"):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"{tmp_path / 'disk'}: making a disk of 512 bytes failed: ")
    assert told in str(caught.value)
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
