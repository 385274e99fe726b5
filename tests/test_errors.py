"""Errors keep their built-in families, and tell their facts."""

from __future__ import annotations

import errno

import pytest

from jetdr_core import errors
from jetdr_core.errors import JetdrError, PrimaryFailed, StoreError, SystemFailure

ALL = [getattr(errors, name) for name in errors.__all__]


def test_every_error_is_listed_and_of_the_engine() -> None:
    defined = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, JetdrError)}
    assert defined == set(ALL)


@pytest.mark.parametrize("kind", [kind for kind in ALL if issubclass(kind, OSError)])
def test_an_error_of_the_system_is_given_its_errno_in_one_way(kind: type[SystemFailure]) -> None:
    assert issubclass(kind, SystemFailure)
    if issubclass(kind, StoreError):
        return
    error = kind("/dev/sdb: no room", hint="make some", errno=errno.ENOSPC, wanted_bytes=5)
    assert (error.errno, str(error), error.facts) == (
        errno.ENOSPC,
        "/dev/sdb: no room; make some",
        {"wanted_bytes": 5} | ({"suspect": False} if kind is PrimaryFailed else {}),
    )
    assert kind("/dev/sdb: no room").errno is None
