"""A key file is made once, is this user's alone, and is bound to one domain."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.domain_key import KeyFile
from jetdr_core.errors import InvalidRequest, WrongKey

DOMAIN = UUID("7f1d2c3b-0000-4000-8000-00000000d0a1")
OTHER = UUID("7f1d2c3b-0000-4000-8000-00000000d0a2")


def made(folder: Path) -> KeyFile:
    file = KeyFile(folder / "key")
    file.make()
    return file


def test_a_key_is_read_as_it_was_made(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "key")
    key = file.make()
    assert file.read() == key
    assert (key.domain_uuid, key.number_first) == (None, 1)
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    file = made(tmp_path)
    before = file.path.read_bytes()
    with pytest.raises(InvalidRequest, match="exists, and a key is never overwritten"):
        file.make()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidRequest, match="exists"):
        KeyFile(link).make()
    assert file.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "link"]


def test_a_key_is_bound_in_its_file_and_stays_bound(tmp_path: Path) -> None:
    file = made(tmp_path)
    unbound = file.read()
    bound = file.bind(DOMAIN)
    assert file.read() == bound == file.bind(DOMAIN)
    assert (bound.domain_uuid, bound.secret) == (DOMAIN, unbound.secret)
    assert file.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(WrongKey, match=str(OTHER)):
        file.bind(OTHER)
    assert file.read() == bound


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = made(tmp_path)
    file.path.chmod(mode)
    with pytest.raises(InvalidRequest, match=f"{file.path}.*mode {mode:04o}"):
        file.read()


def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    file = made(tmp_path)
    os.chown(file.path, 65534, 65534)
    with pytest.raises(InvalidRequest, match="belongs to user 65534"):
        file.read()


def test_a_file_in_a_folder_that_others_may_change_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    file = made(folder)
    folder.chmod(0o777)
    with pytest.raises(InvalidRequest, match="may be changed by others"):
        file.read()


def test_a_missing_file_and_a_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="does not exist"):
        KeyFile(tmp_path / "key").read()
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(InvalidRequest, match="is no key file"):
        KeyFile(tmp_path / "pipe").read()


WRONG: list[dict[str, object]] = [
    {"key": "12"},
    {"key": "zz" * 32},
    {"key": 5},
    {"version": 2},
    {"format": "other"},
    {"number_first": 0},
    {"number_first": True},
    {"domain_uuid": "no"},
    {"domain_uuid": 7},
    {"mode": "none"},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_an_odd_file_is_refused_and_its_key_is_not_shown(tmp_path: Path, fields: dict[str, object]) -> None:
    file = made(tmp_path)
    content = json.loads(file.path.read_bytes())
    file.path.write_text(json.dumps(content | fields))
    with pytest.raises(InvalidRequest, match="is no key file of this engine") as refused:
        file.read()
    assert content["key"] not in str(refused.value)
    assert "zz" * 32 not in str(refused.value)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"\xff", b"[" * 4000, b" " * 5000, b'{"format": "jetdr-domain-key"}']
)
def test_noise_is_refused(tmp_path: Path, data: bytes) -> None:
    file = made(tmp_path)
    file.path.write_bytes(data)
    with pytest.raises(InvalidRequest, match="is no key file of this engine"):
        file.read()
