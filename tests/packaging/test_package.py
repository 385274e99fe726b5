"""The installed package is complete: typed, with its command and its version."""

from __future__ import annotations

import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest

import jetdr_core

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.mark.parametrize("name", ["py.typed", "_core.pyi", "_kernels.pyi"])
def test_types_are_shipped(name: str) -> None:
    assert resources.files("jetdr_core").joinpath(name).is_file()


@pytest.fixture
def installed() -> metadata.Distribution:
    try:
        return metadata.distribution("jetdr_core")
    except metadata.PackageNotFoundError:
        pytest.skip("jetdr_core is not installed here, only built in place; ./check installs it")


def test_the_installed_version_is_the_declared_one(installed: metadata.Distribution) -> None:
    assert jetdr_core.__version__ == installed.version == PROJECT["version"]


def test_the_command_is_installed(installed: metadata.Distribution) -> None:
    assert {entry.name for entry in installed.entry_points if entry.group == "console_scripts"} == {"jetdr"}


def test_the_nbdkit_plugin_is_shipped_and_has_no_python_in_it() -> None:
    plugin = resources.files("jetdr_core").joinpath("nbdkit-jetdr-plugin.so").read_bytes()
    assert b"plugin_init" in plugin
    assert b"libpython" not in plugin
    assert b"PyInit" not in plugin
