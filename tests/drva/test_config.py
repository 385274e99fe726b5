"""The configuration: the example names every option, and every error is named before anything starts."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from jetdr_core.drva.config import DiskConfig, DomainConfig, DrvaConfig, VolumeConfig, load_config
from jetdr_core.errors import InvalidRequest
from jetdr_core.options import DomainOptions

EXAMPLE = Path(__file__).resolve().parents[2] / "packaging" / "drva.example.toml"

ONCE = ("take_over", "give_up_from", "discard_log", "on_mismatch", "begin_anew", "given_up_disks")
"""What only the command line asks for."""

GOOD = """
[drva]
metrics = "127.0.0.1:0"
[[volume]]
name = "main"
path = "/log"
[[volume]]
name = "second"
path = "/log2"
[[domain]]
name = "payroll"
volume = "main"
store = "az://payroll"
[[domain.disk]]
name = "db01"
path = "/vm/db01"
[[domain]]
name = "web"
volume = "second"
store = "az://web"
listen = "10.0.0.1:10809"
[domain.options]
segment_age_s = 2
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "drva.toml"
    path.write_text(text)
    return path


def names(kind: Any, *but: str) -> set[str]:
    return {field.name for field in fields(kind)} - set(but)


def test_the_example_names_every_option_and_nothing_else() -> None:
    content = tomllib.loads(EXAMPLE.read_text())
    (volume,), (domain,) = content["volume"], content["domain"]
    (disk,) = domain["disk"]
    assert set(content) == {"drva", "volume", "domain"}
    assert set(content["drva"]) == names(DrvaConfig, "file", "volumes", "domains")
    assert set(volume) == names(VolumeConfig)
    assert set(domain) == names(DomainConfig, "host", *ONCE) | {"mode", "listen", "nbdkit_args"}
    assert set(domain["options"]) == names(DomainOptions)
    assert set(disk) == names(DiskConfig)


def test_the_example_is_good_and_says_the_defaults(tmp_path: Path) -> None:
    example = load_config(EXAMPLE)
    bare = load_config(
        written(
            tmp_path,
            '[[volume]]\nname = "main"\npath = "/var/lib/jetdr/log"\n[[domain]]\nname = "payroll"\nvolume = "main"\n'
            'store = "az://payroll"\n',
        )
    )
    for name in names(DrvaConfig, "file", "domains", "metrics"):
        assert getattr(example, name) == getattr(bare, name), name
    for name in names(DomainConfig, "options", "disk"):
        assert getattr(example.domains[0], name) == getattr(bare.domains[0], name), name
    for name in names(DomainOptions, "upload_workers"):
        assert getattr(example.domains[0].options, name) == getattr(DomainOptions(), name), name


def test_what_is_written_is_what_is_meant(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, GOOD))
    payroll, web = config.domains
    assert config.control_socket == Path("/run/jetdr/control.sock")
    assert config.metrics == ("127.0.0.1", 0)
    assert payroll.volume.path == "/log"
    assert (payroll.host.listen, payroll.host.write_back, payroll.host.stall_limit_s) == ("", False, 2)
    assert payroll.disk == (DiskConfig(name="db01", path="/vm/db01"),)
    assert web.host.listen == "10.0.0.1:10809"
    assert web.options.segment_age_s == 2


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "[drva]",
            "[drva]\ncolour = 'red'",
            "the key 'colour' (= 'red') is unknown; the keys here are: control_socket",
        ),
        ("[drva]", "[appliance]", "the key 'appliance'"),
        ('path = "/log"', 'path = "/log"\nsize = 1', "volume 'main': the key 'size' (= 1) is unknown"),
        ('store = "az://web"', 'store = "az://web"\ncache = true', "domain 'web': the key 'cache' (= True)"),
        ("segment_age_s = 2", "segment_ages = 2", "domain 'web': options: the key 'segment_ages'"),
        ('path = "/vm/db01"', 'path = "/vm/db01"\nuuid = "x"', "domain 'payroll': disk 'db01': the key 'uuid'"),
        ('path = "/vm/db01"', 'path = "/log2"', "path '/log2' is named twice"),
        ('path = "/log2"', 'path = "/log/../log"', "path '/log' is named twice"),
        ('name = "web"', 'name = "payroll"', "domain 'payroll' is named twice; name each thing once"),
        ('name = "second"', 'name = "main"', "volume 'main' is named twice"),
        ('store = "az://web"', 'store = "az://payroll/"', "store 'az://payroll' is named twice"),
        (
            'path = "/vm/db01"',
            'path = "/vm/db01"\n[[domain.disk]]\nname = "db02"\npath = "/vm/db01"',
            "path '/vm/db01' is named twice",
        ),
        (
            'path = "/vm/db01"',
            'path = "/vm/db01"\n[[domain.disk]]\nname = "db01"\npath = "/vm/db02"',
            "disk of a domain 'payroll/db01' is named twice",
        ),
        (
            'volume = "second"',
            'volume = "third"',
            "volume = 'third' is not valid; name a [[volume]]",
        ),
        ('store = "az://web"', "", "domain 'web': the key 'store' is missing; write store = ..."),
        ('store = "az://web"', 'store = "/srv/dr"', "store = '/srv/dr' is not valid; use file:///PATH"),
        (
            '"127.0.0.1:0"',
            '"0.0.0.0:9753"',
            "metrics = '0.0.0.0:9753' is not valid; metrics are served to this machine only",
        ),
        ('"127.0.0.1:0"', '"dr.example:9753"', "metrics are served to this machine only"),
        ('"127.0.0.1:0"', '"9753"', "metrics = '9753' is not valid; use HOST:PORT"),
        ('"127.0.0.1:0"', "9753", "metrics = 9753 is not valid"),
        ('"10.0.0.1:10809"', '"10.0.0.1:99999"', "listen = '10.0.0.1:99999' is not valid"),
        ("segment_age_s = 2", "segment_age_s = 0", "options: option segment_age_s=0 is not valid; use 0.001 to 3600"),
        ("segment_age_s = 2", "segment_age_s = true", "options: segment_age_s = true is not valid"),
        ("segment_age_s = 2", 'puts_max = "4"', "options: puts_max = '4' is not valid"),
        ("segment_age_s = 2", "ring_slots = 1000", "option ring_slots=1000 is not valid; use a power of two"),
        ('path = "/vm/db01"', 'path = "vm/db01"', "path = 'vm/db01' is not valid; write an absolute path"),
        ('path = "/vm/db01"', 'path = "/vm/db01"\nsize_bytes = -1', "size_bytes = -1 is not valid; use a whole number"),
        ('path = "/log"', 'path = "nbd://x"', "path = 'nbd://x' is not valid; use the absolute path of a file"),
        ('path = "/log"', 'path = "/log"\npassword_file = "/p"', "password_file = '/p' is not valid; name its user"),
        ('path = "/log"', 'path = "iscsi://u%p@h/iqn.2026-01.a/1"', "volume 'main': the iSCSI URL carries a password"),
        ('path = "/log"', 'path = "iscsi://h/disk/1"', "does not name a LUN"),
        ('name = "db01"', 'name = "../db01"', "disk name '../db01' is not valid; use 1 to 64 letters"),
        ("[drva]", '[drva]\nlog_level = "loud"', "log_level = 'loud' is not valid; use 'debug' or 'info'"),
        ("[drva]", '[drva]\nhosts_on_stop = "ask"', "hosts_on_stop = 'ask' is not valid; use 'keep' or 'stop'"),
        ("[drva]", f'[drva]\nruntime_dir = "/{"x" * 120}"', "is not valid; use at most 107 bytes"),
        ('store = "az://web"', 'store = "az://web"\nmode = "fast"', "mode = 'fast' is not valid; use 'write-through'"),
        ('store = "az://web"', 'store = "az://web"\ncreate = "yes"', "create = 'yes' is not valid; use true or false"),
        ("[[domain.disk]]", "[domain.disk]", "disk = {'name': 'db01', 'path': '/vm/db01'} is not valid"),
        ("[drva]", "[drva", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_key_value_and_remedy(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(InvalidRequest) as caught:
        load_config(written(tmp_path, GOOD.replace(old, new, 1)))
    assert told in str(caught.value)


def test_a_disk_behind_a_symbolic_link_is_the_same_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    text = GOOD.replace('"/vm/db01"', f'"{tmp_path}/disk"\n[[domain.disk]]\nname = "db02"\npath = "{tmp_path}/link"')
    with pytest.raises(InvalidRequest, match=r"path .*/disk' is named twice"):
        load_config(written(tmp_path, text))


def test_a_disk_with_two_names_is_one_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").touch()
    (tmp_path / "other").hardlink_to(tmp_path / "disk")
    text = GOOD.replace('"/vm/db01"', f'"{tmp_path}/disk"\n[[domain.disk]]\nname = "db02"\npath = "{tmp_path}/other"')
    with pytest.raises(InvalidRequest, match=r"/disk' and '.*/other' are one file \(inode .*; name each file"):
        load_config(written(tmp_path, text))


def test_a_file_without_a_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="names no domain"):
        load_config(written(tmp_path, ""))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "drva.toml"
    path.write_bytes(b"\xff\xfe[drva]")
    with pytest.raises(InvalidRequest, match="is not TOML"):
        load_config(path)


def test_a_configuration_saved_by_a_windows_editor_is_read(tmp_path: Path) -> None:
    """It begins with a byte order mark, and its lines end with CR and LF."""
    file = tmp_path / "drva.toml"
    file.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.read_bytes().replace(b"\n", b"\r\n"))
    assert load_config(file).domains == load_config(EXAMPLE).domains


def test_a_credential_file_needs_a_store_that_has_credentials(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace('"az://payroll"', '"file:///srv/dr"')
    file = written(tmp_path, text.replace('credential_file = ""', 'credential_file = "/etc/jetdr/payroll"'))
    with pytest.raises(InvalidRequest, match="a store in a directory has no credential"):
        load_config(file)
