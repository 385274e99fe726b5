"""The user whose DRVA is examined. What that user may do is checked, and not what the doctor's own user may."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from jetdr_core.drva.config import DomainConfig, DrvaConfig
from jetdr_core.drva.doctor.finding import Finding, doubtful, good, unchecked

__all__ = ["drva_user", "is_drva_user", "is_new", "look_at_account", "may_write"]


def drva_user(config: DrvaConfig) -> int:
    """Return the owner of the folders that the DRVA made. Before its first start it is whoever asks."""
    for folder in (config.state_dir, config.runtime_dir):
        try:
            return folder.stat().st_uid
        except OSError:
            continue
    return os.geteuid()


def is_drva_user(config: DrvaConfig) -> bool:
    return os.geteuid() == drva_user(config)


def look_at_account(config: DrvaConfig) -> Finding:
    """Whether this user sees what the DRVA sees."""
    user, own = drva_user(config), os.geteuid()
    if user == own:
        return good(f"this is the DRVA's user, {_named(own)}")
    remedy = f"run it as that user: sudo -u '#{user}' jetdr doctor {config.file}"
    if own == 0:
        return doubtful(f"this is root, and the DRVA's folders belong to {_named(user)}", remedy)
    return unchecked(f"this is {_named(own)}, who may not see all that the DRVA of {_named(user)} sees", remedy)


def _named(user: int) -> str:
    try:
        return f"{pwd.getpwuid(user).pw_name} ({user})"
    except KeyError:
        return f"user {user}"


def may_write(config: DrvaConfig, path: Path) -> bool | None:
    """Whether the DRVA's user may write to ``path``. None if only that user can tell."""
    if not is_drva_user(config):
        return None
    return os.access(path, os.W_OK, effective_ids=True)


def is_new(domain: DomainConfig) -> bool:
    """Whether the domain was never open here, as far as this user can see: it has no state folder."""
    return not os.path.lexists(Path(domain.host.state) / domain.name)
