"""``jetdr key``, and what the other commands do in a domain with a key."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from jetdr_core.catalog import chain_key
from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.store import DirectoryStore
from tests.cli.jetdr_command import jetdr
from tests.rehydrate.chains import Chain
from tests.segment.tampering import changed

NOISE = random.Random(1).randbytes(4096)
UNAUTHENTICATED = "no key was given: nothing that {url} holds was authenticated"


async def build(path: Path, domain_key: DomainKey) -> str:
    store = DirectoryStore(path, create=True)
    chain = Chain(store, domain_key=domain_key)
    await chain.begin()
    chain.add_disk(1, "db01", 65536)
    chain.write(1, 0, NOISE)
    await chain.seal()
    chain.write(1, 8192, b"b" * 4096)
    await chain.seal()
    await store.close()
    return path.as_uri()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    KeyFile(tmp_path / "key").make()
    return tmp_path / "key"


@pytest.fixture
def url(tmp_path: Path, key_file: Path) -> str:
    return asyncio.run(build(tmp_path / "store", KeyFile(key_file).read()))


def test_a_key_is_made_and_shown_without_the_secret(tmp_path: Path) -> None:
    file = tmp_path / "key"
    made = jetdr("key", "new", file)
    key = KeyFile(file).read()
    assert (made.code, made.err) == (0, "")
    assert key.key_id.hex() in made.out
    assert "not known yet" in made.out
    shown = jetdr("key", "show", file, "--json")
    assert shown.json == {
        "file": str(file),
        "key_id": key.key_id.hex(),
        "domain_uuid": None,
        "mode": "authenticate",
        "number_first": 1,
    }
    assert key.secret.hex() not in made.out + shown.out + jetdr("key", "show", file).out
    again = jetdr("key", "new", file)
    assert (again.code, KeyFile(file).read()) == (2, key)
    assert "never overwritten" in again.error


def test_a_key_file_that_others_may_read_is_refused_by_every_command(url: str, key_file: Path, tmp_path: Path) -> None:
    key_file.chmod(0o644)
    for command in (["points"], ["status"], ["verify"], ["rehydrate", "--at", "latest", "--to", tmp_path / "out"]):
        said = jetdr(command[0], url, *command[1:], "--key-file", key_file)
        assert (said.code, said.out) == (2, "")
        assert "others may read it" in said.error
    assert jetdr("key", "show", key_file).code == 2


@pytest.mark.parametrize("command", ["points", "status"])
def test_a_store_is_read_with_the_key_and_warned_of_without_it(url: str, key_file: Path, command: str) -> None:
    with_key = jetdr(command, url, "--key-file", key_file, "--json")
    assert (with_key.code, with_key.err) == (0, "")
    without = jetdr(command, url, "--json")
    assert without.code == 0
    assert without.err.count("warning") == 1
    assert UNAUTHENTICATED.format(url=url) in without.err
    assert (with_key.json["authenticity"], without.json["authenticity"]) == ("checked", "not-checked")
    assert with_key.json["lsn_last"] == without.json["lsn_last"]


def test_the_key_file_may_be_named_in_the_environment(
    url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JETDR_KEY_FILE", str(key_file))
    assert jetdr("points", url, "--json").json["authenticity"] == "checked"


def test_verify_without_the_key_is_no_success_unless_that_is_meant(url: str, key_file: Path) -> None:
    assert jetdr("verify", url, "--key-file", key_file).code == 0
    without = jetdr("verify", url)
    assert without.code == 8
    assert "nothing was authenticated" in without.error
    assert "--without-key" in without.error
    assert jetdr("verify", url, "--without-key").code == 0


def test_rehydrate_without_the_key_says_so_and_recovers(url: str, key_file: Path, tmp_path: Path) -> None:
    """A lost key must not lose the data."""
    said = jetdr("rehydrate", url, "--at", "latest", "--to", tmp_path / "out", "--format", "raw", "--no-cache")
    assert said.code == 0
    assert UNAUTHENTICATED.format(url=url) in said.err
    assert (tmp_path / "out" / "db01.raw").read_bytes()[:4096] == NOISE


def test_the_wrong_key_is_told_before_anything_is_written(url: str, tmp_path: Path) -> None:
    KeyFile(tmp_path / "other").make()
    said = jetdr(
        "rehydrate", url, "--at", "latest", "--to", tmp_path / "out", "--key-file", tmp_path / "other", "--no-cache"
    )
    assert said.code == 2
    assert f"key file {tmp_path / 'other'} holds key" in said.error
    assert not (tmp_path / "out").exists()


def test_a_forged_object_is_named_by_every_command(url: str, key_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "store" / chain_key(3)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(changed(data, 70))
    for command in (["points"], ["status"], ["verify"], ["rehydrate", "--at", "latest", "--to", tmp_path / "out"]):
        said = jetdr(command[0], url, *command[1:], "--key-file", key_file)
        assert said.code == 4, said
        assert chain_key(3) in said.err + said.out
        assert "has a wrong tag" in said.err + said.out
    assert not (tmp_path / "out").exists()


def test_inspect_shows_tags_and_checks_them_with_the_key(url: str, key_file: Path, tmp_path: Path) -> None:
    key = KeyFile(key_file).read()
    said = jetdr("inspect", url, "--number", 2, "--key-file", key_file)
    assert said.code == 0
    assert f"made as object 2, tagged with key {key.key_id.hex()}" in said.out
    (document,) = jetdr("inspect", url, "--number", 2, "--json").json
    assert (document["number"], document["key_id"]) == (2, key.key_id.hex())
    forged = tmp_path / "forged"
    forged.write_bytes(changed((tmp_path / "store" / chain_key(2)).read_bytes(), 70))
    assert jetdr("inspect", forged).code == 0
    told = jetdr("inspect", forged, "--key-file", key_file)
    assert (told.code, "has a wrong tag" in told.out) == (4, True)


def test_an_encrypted_store_is_refused_without_the_key(tmp_path: Path) -> None:
    file = tmp_path / "encrypting"
    assert "mode encrypt" in jetdr("key", "new", file, "--encrypt").out
    url = asyncio.run(build(tmp_path / "encrypted", KeyFile(file).read()))
    for command in (
        ["points"],
        ["status"],
        ["verify", "--without-key"],
        ["rehydrate", "--at", "2", "--to", tmp_path / "out"],
    ):
        said = jetdr(command[0], url, *command[1:])
        assert (said.code, said.out) == (2, "")
        assert "is encrypted, and no key was given" in said.error
    assert not (tmp_path / "out").exists()
    assert jetdr("inspect", url, "--number", 2).code == 2
    assert jetdr("inspect", url, "--number", 2, "--key-file", file).code == 0
    assert jetdr("verify", url, "--key-file", file).code == 0
    said = jetdr("rehydrate", url, "--at", "latest", "--to", tmp_path / "out", "--format", "raw", "--key-file", file)
    assert said.code == 0
    assert (tmp_path / "out" / "db01.raw").read_bytes()[:4096] == NOISE
