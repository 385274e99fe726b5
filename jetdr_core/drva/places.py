"""The places that a configuration names: store, log volume and key file of a domain. Which log volumes are believed.

Invariant: nothing is changed.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from jetdr_core.device.iscsi_url import IscsiLun, is_iscsi
from jetdr_core.drva.config import DomainConfig, VolumeConfig
from jetdr_core.ownership import check_guarded
from jetdr_core.store.credential_file import UrlWithCredential

__all__ = ["check_volume", "log_of", "own_key_file", "store_of"]

KEY_FILE = "domain.key"
"""The file in a domain's state folder with the key that was made for it."""


def store_of(config: DomainConfig) -> str:
    """The URL of the domain's store, with its credential file if it has one."""
    return UrlWithCredential(config.store, Path(config.credential_file)) if config.credential_file else config.store


def log_of(volume: VolumeConfig) -> str | PathLike[str]:
    """Return the volume's path or URL, with its password file if it has one."""
    return IscsiLun(volume.path, Path(volume.password_file)) if volume.password_file else volume.path


def own_key_file(config: DomainConfig) -> Path:
    """The key file that the DRVA makes for the domain when it creates it."""
    return Path(config.host.state) / config.name / KEY_FILE


def check_volume(volume: VolumeConfig, *, user: int | None = None) -> None:
    """Refuse a volume that others than root and ``user``, by default this user, can change."""
    if not is_iscsi(volume.path):
        check_guarded(f"volume {volume.name!r}: path", Path(volume.path), user=user)
