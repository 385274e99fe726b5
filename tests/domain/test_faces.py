"""The two faces of a protected domain: what a caller may say, and what is refused before anything is opened."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import jetdr_core as jetdr
from jetdr_core.domain.request import DomainSettings
from jetdr_core.errors import InvalidRequest, LogTooSmall
from jetdr_core.identity import host_owner

FACES = [jetdr.ProtectedDomain, jetdr.HostedDomain]


@pytest.mark.parametrize("way", ["create", "open", "take_over"])
def test_the_faces_take_the_same_keywords_but_for_what_is_of_their_mode(way: str) -> None:
    embedded, hosted = (inspect.signature(getattr(face, way)).parameters for face in FACES)
    assert embedded.keys() - hosted.keys() == {"clock"}
    of_write_back = {"on_mismatch", "give_up_disks"} if way == "open" else set()
    assert hosted.keys() - embedded.keys() == {"host"} | of_write_back
    assert {name: embedded[name] for name in embedded.keys() & hosted.keys()} == {
        name: hosted[name] for name in embedded.keys() & hosted.keys()
    }


@pytest.mark.parametrize("face", FACES)
def test_a_domain_that_was_not_entered_is_not_open(face: type[jetdr.ProtectedDomain], tmp_path: Path) -> None:
    host = {"host": jetdr.HostOptions(runtime=str(tmp_path), state=str(tmp_path))} if face is FACES[1] else {}
    domain = face.create("payroll", log=tmp_path / "log", store="memory://x", **host)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="domain 'payroll' is not open; use it inside 'async with'"):
        domain.status()
    with pytest.raises(LogTooSmall):
        face.create("payroll", log=tmp_path / "log", log_bytes=4096, store="memory://x", **host)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_folder_too_deep_for_sockets_is_refused_at_once(tmp_path: Path) -> None:
    host = jetdr.HostOptions(runtime=str(tmp_path / ("deep" * 30)), state=str(tmp_path))
    with pytest.raises(InvalidRequest, match="is longer than 107 bytes"):
        jetdr.HostedDomain.create("payroll", log=tmp_path / "log", store="memory://x", host=host)


def test_settings_that_are_left_out_are_the_defaults_and_this_machine() -> None:
    settings = DomainSettings.of("log", "memory://x", None, None)
    assert settings.options == jetdr.DomainOptions()
    assert settings.owner == host_owner()


def test_the_package_names_all_that_it_offers_and_the_base_of_its_errors() -> None:
    assert issubclass(InvalidRequest, jetdr.JetdrError)
    assert all(hasattr(jetdr, name) for name in jetdr.__all__)
