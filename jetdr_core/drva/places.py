"""The places that a configuration names, looked at before anything starts: who can change them, and what is there.

Invariant: nothing is changed. A place that does not exist yet is not refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from jetdr_core.device.iscsi_url import is_iscsi
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.config import DrvaConfig, VolumeConfig
from jetdr_core.drva.patience import PLACE_LIMIT_S, each_within
from jetdr_core.ownership import check_guarded, check_in_memory, check_private
from jetdr_core.unix_socket import check_socket_place

__all__ = ["check_keys", "check_places", "check_volume"]

log = logging.getLogger(__name__)


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
