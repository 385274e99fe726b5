"""Checks of the domains' stores: reachable, readable, whose, with which key, and whether this owner may write.

The real store is listed and read, and nothing is put into it. Whether it may be written is told by owner and mode of a
directory, or by the credential. Where neither tells, that is said.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from jetdr_core.catalog import Authenticity, Catalog, iso_time
from jetdr_core.domain_key import DomainKey, KeyFile
from jetdr_core.drva.config import DomainConfig, DrvaConfig
from jetdr_core.drva.configured_domain import disk_places
from jetdr_core.drva.doctor.account import is_drva_user, is_new
from jetdr_core.drva.doctor.finding import Check, Finding, NotKnown, doubtful, good, unchecked, wrong
from jetdr_core.drva.doctor.room_checks import read_only_remedy
from jetdr_core.drva.places import own_key_file, store_of
from jetdr_core.errors import InvalidRequest, JetdrError, StoreAccessDenied, StoreMissing
from jetdr_core.limits import SECTOR_BYTES
from jetdr_core.ownership import file_system_of, nearest_existing
from jetdr_core.store import ObjectStore, RetryPolicy, connected
from jetdr_core.store.azure_target import AzureTarget
from jetdr_core.store.connect import azure_target_of, directory_of
from jetdr_core.store.url import StoreUrl

__all__ = ["DomainFacts", "StoreLook", "store_checks"]

AHEAD_S = 1.0
"""Clocks of two machines differ by less than this."""

EXPIRES_SOON = timedelta(days=2)
_NO_LINKS = frozenset({"vfat", "exfat", "msdos"})


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """What a store says of its domain. ``problem`` is the break or the lost end of its chain."""

    name: str
    epoch: int
    host: str
    time_last_ns: int
    authenticity: Authenticity
    problem: str
    disk_bytes: dict[str, int]


class StoreLook:
    """Looks at one store, once, however many checks ask. Thread-safe."""

    def __init__(self, domain: DomainConfig) -> None:
        self.domain = domain
        self._lock = threading.Lock()
        self._found: DomainFacts | Exception | None = None
        self._looked = False

    def facts(self) -> DomainFacts | None:
        """What the store says, or None if it holds nothing. Raises what it raised."""
        with self._lock:
            if not self._looked:
                try:
                    self._found = asyncio.run(self._read())
                except Exception as error:  # noqa: BLE001 - each asker gets it
                    self._found = error
                self._looked = True
        if isinstance(self._found, Exception):
            raise self._found
        return self._found

    async def _read(self) -> DomainFacts | None:
        key_file = key_file_of(self.domain)
        async with connected(store_of(self.domain), retry=RetryPolicy(attempts_max=1)) as store:
            if await _is_empty(store):
                return None
            key = _key_in(key_file) if key_file is not None else None
            async with await Catalog.open(store, domain_key=key) as catalog:
                return _facts(catalog)


def store_checks(config: DrvaConfig) -> Iterator[Check]:
    for domain in config.domains:
        look, here = StoreLook(domain), f"domain {domain.name}"
        store, key_file = f"{here}: store", f"{here}: key file"
        yield Check(key_file, partial(_look_at_key_file, domain))
        yield Check(store, partial(_look_at_store, config, look), needs=(key_file,))
        yield Check(f"{here}: rights to write", partial(_look_at_rights, config, domain), needs=(store,))
        yield Check(f"{here}: key", partial(_look_at_key, look), needs=(key_file, store))
        yield Check(f"{here}: record clock", partial(_look_at_clock, look), needs=(key_file, store))
        yield Check(f"{here}: disk sizes", partial(_look_at_sizes, look), needs=(key_file, store))


def _key_in(key_file: Path) -> DomainKey:
    """The key, which another check reads too."""
    try:
        return KeyFile(key_file).read()
    except (JetdrError, OSError) as error:
        raise NotKnown(f"the store cannot be read without the key: {error}") from error


def key_file_of(domain: DomainConfig) -> Path | None:
    """Return the file with the domain's key, or None if there is none yet."""
    made = own_key_file(domain)
    return Path(domain.key_file) if domain.key_file else made if os.path.lexists(made) else None


async def _is_empty(store: ObjectStore) -> bool:
    async for _ in store.list_prefix(""):
        return False
    return True


def _facts(catalog: Catalog) -> DomainFacts:
    problems = [str(problem) for problem in (catalog.chain.chain_break, catalog.tail_loss) if problem]
    return DomainFacts(
        name=catalog.name,
        epoch=catalog.chain.tail.epoch,
        host=catalog.chain.owner.host or "unknown",
        time_last_ns=catalog.time_last_ns or 0,
        authenticity=catalog.authenticity,
        problem="; ".join(problems),
        disk_bytes={disk.name: disk.size_bytes for disk in catalog.history.disks},
    )


def _look_at_store(config: DrvaConfig, look: StoreLook) -> Finding:
    domain = look.domain
    try:
        facts = look.facts()
    except StoreMissing as error:
        if domain.create and is_new(domain):
            return doubtful(f"{domain.store} does not exist", "it is made with the domain; is the share mounted?")
        raise StoreMissing(error.message, hint=f"{error.hint}; is the share mounted?") from None
    except StoreAccessDenied as error:
        if is_drva_user(config):
            raise
        return unchecked(str(error), "run this as the DRVA's user")
    if facts is None:
        return _empty(domain)
    told = f"domain {facts.name!r}, epoch {facts.epoch} of {facts.host}"
    if facts.name != domain.name:
        return wrong(f"{domain.store} holds {told}, not {domain.name!r}", "correct name or URL: one store, one domain")
    if facts.problem:
        return wrong(f"{domain.store}: {facts.problem}", f"jetdr verify {domain.store}")
    return good(f"{domain.store} can be listed and read: {told}")


def _empty(domain: DomainConfig) -> Finding:
    if domain.create and is_new(domain):
        return good(f"{domain.store} is empty, and the domain will be created in it")
    return wrong(
        f"{domain.store} is empty",
        "mount its file system, or correct the URL; for a new domain set create = true; if all its objects are lost: "
        f"jetdr drva CONFIG --begin-anew {domain.name}=UUID",
    )


def _look_at_key_file(domain: DomainConfig) -> Finding:
    key_file = key_file_of(domain)
    if key_file is None:
        return good("there is none")
    KeyFile(key_file).read()
    return good(f"{key_file} is a key file of this user")


def _look_at_key(look: StoreLook) -> Finding:
    key_file = key_file_of(look.domain)
    facts = _facts_or_none(look)
    if key_file is None and facts is None:
        return good("there is none yet, and a new domain gets one")
    if facts is None:
        return good(f"{key_file} is a key file of this user; the store holds nothing to compare it with")
    match facts.authenticity:
        case Authenticity.CHECKED:
            return good(f"{key_file} is the domain's key")
        case Authenticity.NOT_CHECKED:
            return wrong("the domain has a key, and there is none here", "bring domain.key back from its copy")
    if key_file is not None:
        return wrong(f"{key_file} exists, and the domain has no key", "name the right store, or move the file away")
    return doubtful("the domain has no key", "protect the container: whoever may write to it can change history")


def _look_at_clock(look: StoreLook) -> Finding:
    facts = _facts_or_none(look)
    if facts is None or not facts.time_last_ns:
        return good("nothing was captured yet")
    ahead_s = facts.time_last_ns / 1e9 - time.time()
    if ahead_s > AHEAD_S:
        return wrong(
            f"the newest record is of {iso_time(facts.time_last_ns)}, {ahead_s:.1f} s ahead of this machine's clock",
            "correct the clock; until it has passed that time, find points by LSN or mark",
        )
    age = f"{-ahead_s:.1f} s ago" if ahead_s <= 0 else f"{ahead_s:.1f} s ahead of this machine's clock"
    return good(f"the newest proven moment is {iso_time(facts.time_last_ns)}, {age}")


def _look_at_sizes(look: StoreLook) -> Finding:
    """Whether the disks have the sizes that their history has."""
    facts = _facts_or_none(look)
    known = {} if facts is None else facts.disk_bytes
    places = {disk: Path(place) for disk, place in disk_places(look.domain).items() if disk in known}
    shrunk: list[str] = []
    grown: list[str] = []
    unseen: list[str] = []
    for disk, path in places.items():
        wanted, found = known[disk], _bytes_of(path)
        if found is None:
            unseen.append(f"disk {disk!r} ({path})")
        elif found != wanted:
            told = f"disk {disk!r} ({path}) has {found} bytes, and its history {wanted}"
            (grown if found > wanted else shrunk).append(told)
    if shrunk:
        return wrong(
            "; ".join(shrunk), "give it back that size, or name the right file; or unprotect it, and protect it anew"
        )
    after = tuple(f"disk {look.domain.name}/{disk}" for disk in places)
    if grown:
        take = f"if it was enlarged: jetdr grow-disk {look.domain.name} DISK; the next opening does so too"
        return replace(doubtful("; ".join(grown), take), after=after)
    if unseen:
        seen = unchecked(f"not looked at: {', '.join(unseen)}", "see the checks of those disks")
        return replace(seen, after=after)
    return good(f"{len(places)} of {len(known)} disks have the sizes that the store knows")


def _bytes_of(path: Path) -> int | None:
    """The size of a disk's file or device, which is not opened. None if there is none, or the system does not tell."""
    try:
        status = path.stat()
        if not stat.S_ISBLK(status.st_mode):
            return status.st_size if stat.S_ISREG(status.st_mode) else None
        device = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return SECTOR_BYTES * int(Path(f"/sys/dev/block/{device}/size").read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _facts_or_none(look: StoreLook) -> DomainFacts | None:
    """What the store says. A store that cannot be read is a finding of its own, and not of each check that needs it."""
    try:
        return look.facts()
    except StoreMissing:
        return None
    except NotKnown:
        raise
    except Exception as error:
        raise NotKnown(f"the store cannot be read: {error}") from error


# -- rights ------------------------------------------------------------------------------------------------------------


def _look_at_rights(config: DrvaConfig, domain: DomainConfig) -> Finding:
    """Whether the credential or the directory allows what a DRVA does, as far as that shows without writing."""
    if domain.store.startswith("file:"):
        return _directory_rights(config, directory_of(StoreUrl.of(domain.store)))
    if domain.store.startswith("s3:"):
        return unchecked("a key of S3 does not tell what it allows", "allow it to list, get, put and delete")
    target = azure_target_of(store_of(domain))
    if target.can_sign:
        return good("the account's key allows everything")
    if not target.has_signature:
        return unchecked(
            "azure-identity signs in, and does not tell what it allows",
            "give that identity the role 'Storage Blob Data Contributor' on the container",
        )
    return _signature_rights(target)


def _signature_rights(target: AzureTarget) -> Finding:
    now = datetime.now(UTC)
    if target.expires is not None and target.expires < now + EXPIRES_SOON:
        ended = target.expires < now
        told = f"the shared access signature {'has expired' if ended else 'expires'} at {target.expires.isoformat()}"
        remedy = "issue another, and put it into credential_file"
        return wrong(told, remedy) if ended else doubtful(told, remedy)
    if target.permissions is None:
        return unchecked("the signature's rights are in a policy of the container", "see that it allows r, l, w and c")
    if lacking := [right for right in "rlwc" if right not in target.permissions]:
        return wrong(
            f"the shared access signature allows {target.permissions!r}, and lacks {', '.join(lacking)}",
            "issue one with read, list, write and create",
        )
    return good(f"the shared access signature allows {target.permissions!r}")


def _directory_rights(config: DrvaConfig, path: Path) -> Finding:
    there = nearest_existing(path)
    kind = file_system_of(there)
    if kind in _NO_LINKS:
        return wrong(f"{path} lies on {kind}, which has no hard links", "use another file system, such as ext4 or xfs")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return wrong(f"{there}: its file system is mounted read-only", read_only_remedy(there))
    if not is_drva_user(config):
        return unchecked(f"whether the DRVA's user may write to {there}", "run this as that user")
    folders = [there, *(entry for entry in there.iterdir() if entry.is_dir())] if path.exists() else [there]
    for folder in folders:
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            raise InvalidRequest(f"{folder} cannot be written by this user", hint=f"chown {os.geteuid()} {folder}")
    return good(f"{there} on {kind or 'an unknown file system'} may be written")
