"""What a new configuration changes in a DRVA that runs, and what needs a restart. Pure.

Invariants: every difference is either taken over or named as refused. Nothing that a running host component, an open
log or an open store depends on is taken over.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from jetdr_core.drva.config import DomainConfig, DrvaConfig

__all__ = ["Reload", "reload_of"]

_OF_DRVA = frozenset({"log_level"})
_OF_DOMAIN = frozenset({"rpo_alarm_s", "create", "disk", "config_files", "credential_file"})
"""What may change while a domain is open."""
_OF_STORE = frozenset({"create", "credential_file"})
"""What was written for the store that is named beside it. With another store it waits for that one's restart."""
_OF_COMMANDS = frozenset({"take_over", "give_up_from", "discard_log", "on_mismatch", "begin_anew"})


@dataclass(frozen=True, slots=True)
class Reload:
    """``config`` is what applies from now on. ``changed`` and ``refused`` have a text for each difference."""

    config: DrvaConfig
    changed: tuple[str, ...]
    refused: tuple[str, ...]


def reload_of(running: DrvaConfig, new: DrvaConfig) -> Reload:
    """Compare the configuration that runs with the one that the file has now."""
    changed, refused = _differences("", running, new, _OF_DRVA, frozenset({"domains", "file"}))
    wanted = {domain.name: domain for domain in new.domains}
    present = {domain.name for domain in running.domains}
    refused += [f"domain {name!r} is new" for name in wanted if name not in present]
    domains = []
    for domain in running.domains:
        other = wanted.get(domain.name)
        if other is None:
            refused.append(f"domain {domain.name!r} is no longer named")
            domains.append(domain)
            continue
        changeable = _OF_DOMAIN if other.store == domain.store else _OF_DOMAIN - _OF_STORE
        here, not_here = _differences(f"domain {domain.name!r}: ", domain, other, changeable, _OF_COMMANDS)
        changed, refused = changed + here, refused + not_here
        domains.append(replace(domain, **{name: getattr(other, name) for name in changeable}))
    config = replace(running, domains=tuple(domains), **{name: getattr(new, name) for name in _OF_DRVA})
    return Reload(config, tuple(changed), tuple(refused))


def _differences(
    place: str,
    running: DrvaConfig | DomainConfig,
    new: DrvaConfig | DomainConfig,
    changeable: frozenset[str],
    left_out: frozenset[str],
) -> tuple[list[str], list[str]]:
    """A text for each field that differs: those that may change, and those that may not."""
    changed: list[str] = []
    refused: list[str] = []
    for name in (field.name for field in fields(running)):
        before, after = getattr(running, name), getattr(new, name)
        if name in left_out or before == after:
            continue
        (changed if name in changeable else refused).append(f"{place}{name}{_told(before, after)}")
    return changed, refused


def _told(before: object, after: object) -> str:
    """The two values, if they are short."""
    simple = (str, int, float, bool)
    return f" {before!r} -> {after!r}" if isinstance(before, simple) and isinstance(after, simple) else ""
