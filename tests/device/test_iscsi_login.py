"""What a URL may say, and how an IscsiDevice logs in: user, password, and where the password comes from."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetdr_core.device import IscsiDevice, IscsiLun, IscsiOptions
from jetdr_core.device.place import open_device
from jetdr_core.errors import (
    DeviceAccessDenied,
    InvalidRequest,
)
from tests.device.lun import SIZE
from tests.device.test_conformance import pattern, read
from tests.peers.tgt import Lun, Tgt

pytestmark = pytest.mark.native
SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    "url",
    [
        "iscsi://",
        "iscsi://host",
        "iscsi://host/iqn.2026-11.a:b",
        "iscsi://host/iqn.2026-11.a:b/x",
        "iscsi://host/iqn.2026-11.a:b/1/2",
        "iscsi://host/disk/1",
        "iscsi://host:0/iqn.2026-11.a:b/1",
        "iscsi://host:99999/iqn.2026-11.a:b/1",
        "iscsi://host/iqn.2026-11.a:b/16384",
        "iscsi://ho st/iqn.2026-11.a:b/1",
        "iscsi://host/iqn.2026-11.a:b/1\n",
        "http://host/iqn.2026-11.a:b/1",
    ],
)
def test_url_that_names_no_lun_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"iscsi://|port|iSCSI URL"):
        IscsiDevice(url)


@pytest.mark.parametrize("user", [f"backup:{SECRET}", f"backup%{SECRET}"])
def test_password_in_a_url_is_refused_and_not_repeated(user: str) -> None:
    with pytest.raises(InvalidRequest, match="password") as caught:
        IscsiDevice(f"iscsi://{user}@127.0.0.1/iqn.2026-11.a:b/1")
    assert SECRET not in str(caught.value)


@pytest.fixture
def locked_lun(tgt: Tgt) -> Iterator[Lun]:
    """A LUN that wants a password."""
    made = tgt.add(SIZE, user="backup", password=SECRET)
    yield made
    tgt.remove(made)


def test_user_and_password_open_the_lun(locked_lun: Lun) -> None:
    device = IscsiDevice(locked_lun.url, options=IscsiOptions(password=SECRET))
    device.write(0, pattern(4096))
    assert read(device, 0, 4096) == pattern(4096)
    device.close()


@pytest.mark.parametrize("options", [IscsiOptions(password="guessed-in-vain"), IscsiOptions()])
def test_wrong_or_missing_password_is_denied(locked_lun: Lun, options: IscsiOptions) -> None:
    with pytest.raises(DeviceAccessDenied, match="user and password") as caught:
        IscsiDevice(locked_lun.url, options=options)
    assert caught.value.errno == errno.EACCES


def test_user_is_wanted_where_the_target_wants_one(locked_lun: Lun) -> None:
    with pytest.raises(DeviceAccessDenied):
        IscsiDevice(locked_lun.url.replace("backup@", ""), options=IscsiOptions(password=SECRET))


def test_password_comes_from_the_environment(locked_lun: Lun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD", SECRET)
    IscsiDevice(locked_lun.url).close()


def test_password_file_is_read_when_private_and_refused_when_not(
    locked_lun: Lun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD_FILE", str(file))
    file.chmod(0o600)
    IscsiDevice(locked_lun.url).close()
    file.chmod(0o640)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        IscsiDevice(locked_lun.url)


def test_lun_with_a_password_file_of_its_own_does_without_the_environments(
    locked_lun: Lun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JETDR_ISCSI_PASSWORD", "of-another-lun")
    file = tmp_path / "password"
    file.write_text(SECRET)
    file.chmod(0o600)
    place = IscsiLun(locked_lun.url, file)
    open_device(place).close()
    assert SECRET not in repr(place)


def test_password_is_in_no_representation(locked_lun: Lun) -> None:
    options = IscsiOptions(password=SECRET)
    device = IscsiDevice(locked_lun.url, options=options)
    shown = repr(options) + repr(device) + repr(device.info()) + device.path
    device.close()
    assert SECRET not in shown
    assert "backup" not in shown
