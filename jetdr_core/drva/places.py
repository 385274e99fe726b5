"""The places that a configuration names, and a look at them before anything starts: who can change them, what is there.

Invariant: nothing is changed. A place that does not exist yet is not refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from jetdr_core.device.iscsi_url import IscsiLun, is_iscsi
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import DomainConfig, DrvaConfig, VolumeConfig
from jetdr_core.drva.patience import PLACE_LIMIT_S, each_within
from jetdr_core.ownership import check_guarded, check_in_memory, check_private
from jetdr_core.store.credential_file import UrlWithCredential
from jetdr_core.unix_socket import check_socket_place

__all__ = ["check_keys", "check_places", "check_volume", "log_of", "own_key_file", "store_of"]

log = logging.getLogger(__name__)

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


def check_places(config: DrvaConfig) -> None:
    """Raise ``InvalidRequest`` for the first place that the DRVA would not use, naming its key."""
    check_private("runtime_dir", config.runtime_dir)
    check_in_memory("runtime_dir", config.runtime_dir)
    check_guarded("state_dir", config.state_dir)
    for domain in config.domains:
        check_private(f"domain {domain.name!r}: the runtime folder", config.runtime_dir / domain.name)
        check_private(f"domain {domain.name!r}: the state folder", config.state_dir / domain.name)
        if domain.credential_file:
            check_guarded(f"domain {domain.name!r}: credential_file", Path(domain.credential_file))
        if domain.key_file:
            check_guarded(f"domain {domain.name!r}: key_file", Path(domain.key_file))
    if config.control_socket.parent != config.runtime_dir or config.runtime_dir.exists():
        check_socket_place("control_socket", config.control_socket)
    for volume in config.volumes:
        if volume.password_file:
            check_guarded(f"volume {volume.name!r}: password_file", Path(volume.password_file))
    _check_volumes(config.volumes)


def check_keys(config: DrvaConfig) -> None:
    """Raise ``InvalidRequest`` for the first key file that does not hold a key. Its domain alone would not open."""
    for domain in config.domains:
        if domain.key_file:
            KeyFile(Path(domain.key_file)).read()


def check_volume(volume: VolumeConfig) -> None:
    """Refuse a volume that others can change."""
    if not is_iscsi(volume.path):
        check_guarded(f"volume {volume.name!r}: path", Path(volume.path))


def _check_volumes(volumes: Sequence[VolumeConfig]) -> None:
    """Check all that answer. One that hangs is checked before it is opened."""
    for volume, checked in zip(volumes, each_within(PLACE_LIMIT_S, check_volume, volumes), strict=True):
        if checked.done():
            checked.result()
        else:
            log.error("volume %s: %s does not answer, and its domains wait for it", volume.name, volume.path)
