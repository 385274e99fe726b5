"""The point that an interrupted recovery was asked for, when it is given again in the same words.

``latest`` or ``-1h`` name another point a minute later, and the same command must still continue its recovery. So each
journal keeps the words, and words that are given again mean what they meant when the recovery began.

Invariants: looking changes nothing. A journal only chooses among the points that the store offers. Whether its files
are this recovery's own is checked before any of them is used (:mod:`~jetdr_core.rehydrate.standing`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from jetdr_core.catalog import At, Catalog, RecoveryPoint
from jetdr_core.errors import JetdrError
from jetdr_core.rehydrate.disk_files import DATA, JOURNAL, WORK, DiskFiles
from jetdr_core.rehydrate.journal import HEADER_BYTES_MAX, RecoveryIdentity, decode_journal
from jetdr_core.rehydrate.target_folder import TargetFolder

__all__ = ["resolve_asked", "words_of"]

log = logging.getLogger(__name__)

_WORDS_CHARS_MAX = 1000


def words_of(at: object) -> str:
    """The words that name a point, as a journal keeps them."""
    return str(at)[:_WORDS_CHARS_MAX]


async def resolve_asked(catalog: Catalog, at: At, target: Path, disks: Iterable[str] | None) -> RecoveryPoint:
    """The point that ``at`` names, or named when the recovery in ``target`` of these disks (None: of any) began."""
    names = set(catalog.history.disk_names.values()) if disks is None else disks
    begun = _begun(target, names, words_of(at))
    lsns = {identity.lsn for identity in begun if _is_of(identity, catalog)}
    if len(lsns) != 1:
        return await catalog.resolve(at)
    (lsn,) = lsns
    meant_now: RecoveryPoint | None = None
    with suppress(JetdrError):  # the words may name nothing now, but they did
        meant_now = await catalog.resolve(at)
    point = await catalog.resolve(lsn)
    if meant_now is not None and meant_now.lsn == lsn:
        return meant_now
    log.warning(
        "the recovery begun in %s is continued: %r named %s then; to recover another point, use another directory",
        target,
        words_of(at),
        point,
    )
    return point


def _is_of(identity: RecoveryIdentity, catalog: Catalog) -> bool:
    """Whether the recovery is one of this history."""
    return (identity.domain_uuid, identity.timeline) == (str(catalog.chain.domain_uuid), catalog.history.timeline)


def _begun(target: Path, names: Iterable[str], asked: str) -> list[RecoveryIdentity]:
    """The recoveries of disks of these names that were begun with the words ``asked``."""
    with ExitStack() as opened:
        folder = TargetFolder.look(target)
        top = opened.enter_context(folder).find_folder(WORK) if folder else None
        if folder is None or top is None:
            return []
        opened.enter_context(top)
        found = [_journal(folder, top, DiskFiles(target, name, "raw"), asked) for name in names]
    return [identity for identity in found if identity is not None]


def _journal(folder: TargetFolder, top: TargetFolder, files: DiskFiles, asked: str) -> RecoveryIdentity | None:
    """Whose journal the disk has. None if it has none, or other words. What is wrong with it is refused later."""
    try:
        work = top.find_folder(files.work.name)
        if work is None:
            return None
        with work:
            data = work.read_file(JOURNAL, HEADER_BYTES_MAX)
            has_data = work.file_status(DATA) is not None
        journal = None if data is None else decode_journal(data, str(files.journal))
    except JetdrError:
        return None
    if journal is None or journal.asked != asked:
        return None
    outputs = DiskFiles(files.directory, files.name, journal.identity.format).outputs
    is_on_device = not outputs
    is_begun = is_on_device or has_data or any(folder.status(path.name) is not None for path in outputs)
    return journal.identity if is_begun else None
