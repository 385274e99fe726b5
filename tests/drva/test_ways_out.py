"""Every state of the table in docs/operations.md has a way out, which is walked here to its end.

A walk brings a domain into the state by real means and finds what the table says that it says. It then does what the
table says, and ends with a domain that is protected and consistent, also after two restarts.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest

import jetdr_core as jetdr
from jetdr_core.catalog import chain_key
from jetdr_core.domain_key import KeyFile
from jetdr_core.identity import host_owner
from jetdr_core.limits import SECTION_BYTES_MIN
from jetdr_core.replication_log import ReplicationLog, describe_volume, open_volume, take_over_volume
from tests.cli.jetdr_command import jetdr as command
from tests.drva.running_drva import place, running
from tests.drva.walk import GIVE_UP_SECTION, ROOT, TAKE_OVER, Walk, rows
from tests.drva.walks import assert_lasts, chain_files, empty_store, is_whole, own_key, section_uuid, store_folder
from tests.log.tools import Forge, damage

# -- walks -------------------------------------------------------------------------------------------------------------


def initial_copy(walk: Walk) -> None:
    walk.here.disk("payroll").write_bytes(os.urandom(1 << 20))
    with running(walk.here):
        walk.here.until(is_whole)
    walk.here.write(create=False)
    os.utime(walk.here.disk("payroll"), ns=(1, 1))  # it looks changed, so it is resynced
    walk.leaves()


def no_disk(walk: Walk) -> None:
    walk.begin()
    with running(walk.here) as drva:
        walk.here.ask("unprotect", domain="payroll", disk="db01")
        walk.finds_in(drva)
        assert "jetdr protect DOMAIN DISK PATH" in walk.row.commands
        said = command("protect", "payroll", "db01", walk.here.disk("payroll"), "--socket", walk.here.socket)
        assert said.code == 0
        walk.here.until(lambda status: is_whole(status) and not status["alarms"])


def paused(walk: Walk) -> None:
    walk.begin()
    with running(walk.here) as drva:
        walk.here.ask("pause", domain="payroll")
        walk.finds_in(drva)
    with running(walk.here) as drva:
        walk.finds_in(drva)
        assert "jetdr resume DOMAIN" in walk.row.commands
        assert command("resume", "payroll", "--socket", walk.here.socket).code == 0
        walk.here.until(lambda status: is_whole(status) and not status["alarms"])


def log_lost(walk: Walk) -> None:
    walk.begin()
    (walk.here.path / "log").unlink()
    walk.finds()
    walk.takes_over()


def volume_damaged(walk: Walk) -> None:
    walk.begin()
    for copy in range(4):
        walk.overwrite_log(copy * (256 << 10) + 64, os.urandom(64))
    assert "take the domain over" in walk.finds()
    walk.takes_over()


def section_damaged(walk: Walk) -> None:
    walk.begin()
    for copy in range(4):
        walk.overwrite_log((1 << 20) + copy * (16 << 10) + 64, os.urandom(64))
    assert "take the domain over" in walk.finds()
    walk.takes_over()


def log_damaged(walk: Walk) -> None:
    walk.begin()
    walk.backlog(8)
    with open_volume(walk.here.path / "log", owner=host_owner()) as volume:
        section = volume.open_section("payroll")
        log = ReplicationLog(section)
        middle = log.read(log.tail, payload_bytes_max=1)[0].end.position
        area = section.body.area
        section.close()
    walk.overwrite_log(area.physical(middle), os.urandom(4096))
    walk.finds()
    walk.takes_over()


def log_cut_short(walk: Walk) -> None:
    """A crash leaves a torn batch among others, and no flush after it."""
    walk.begin()
    with open_volume(walk.here.path / "log", owner=host_owner()) as volume:
        section = volume.open_section("payroll")
        body = section.body
        forge = Forge(section.device, body.area, body.head, epoch=body.epoch)
        for _ in range(4):
            forge.batch([b"z" * 4096])
        damage(section.device, forge.places[body.head.batch_number + 2][0])
        section.update(lambda body: body._replace(clean=False))
        section.close()
    with running(walk.here) as drva:
        walk.finds_in(drva)
        assert "2 whole batches lie after it" in str(walk.here.status()["alarms"])
        assert "log_cut" in walk.here.ask("acknowledge", domain="payroll")["over"]
        assert walk.here.until(is_whole)["alarms"] == []
    walk.leaves()


def log_away(walk: Walk) -> None:
    """Another process has the log, and lets it go."""
    walk.begin()
    with (walk.here.path / "log").open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with running(walk.here) as drva:
            walk.finds_in(drva)
            fcntl.flock(other, fcntl.LOCK_UN)
            walk.here.until(lambda status: is_whole(status) and not status["alarms"])


def file_lost(walk: Walk) -> None:
    walk.begin()
    with running(walk.here) as drva:
        walk.here.until(is_whole)
        files = (walk.here.path / "log", walk.here.disk("payroll"), own_key(walk.here))
        for file in files:
            file.rename(f"{file}.aside")
        found = walk.here.until(lambda status: str(status["alarms"]).count("file_lost") == len(files))
        assert all(f" at {file}, since" in str(found["alarms"]) for file in files)
        for file in files:
            Path(f"{file}.aside").rename(file)
        walk.here.until(lambda status: not status["alarms"])
        walk.here.disk("payroll").unlink()
        alarm = walk.here.until(walk.says)["alarms"][0]
        (descriptor,) = re.findall(r"cp --sparse=always (/proc/\d+/fd/\d+) COPY", alarm["text"])
        drva.disk().write(0, b"late" * 128)
        shutil.copyfile(descriptor, walk.here.path / "saved")
    (walk.here.path / "saved").rename(walk.here.disk("payroll"))
    assert walk.here.disk("payroll").read_bytes()[:512] == b"late" * 128
    walk.leaves()


def log_older(walk: Walk) -> None:
    walk.begin()
    shutil.copy(walk.here.path / "log", walk.here.path / "older")
    walk.leaves()
    (walk.here.path / "older").replace(walk.here.path / "log")
    walk.finds()
    walk.takes_over()


def another_log_used(walk: Walk) -> None:
    walk.begin()
    elsewhere(walk)
    walk.finds()
    walk.takes_over()


def elsewhere(walk: Walk) -> None:
    """Take the domain over with another log, and lose that."""

    async def take_over() -> None:
        taken = jetdr.ProtectedDomain.take_over(
            "payroll",
            log=walk.here.path / "other",
            log_bytes=4 << 20,
            store=walk.here.store("payroll"),
            disks={"db01": walk.here.disk("payroll")},
            key_file=own_key(walk.here),
        )
        async with taken as domain:
            await domain.wait_consistent()

    asyncio.run(take_over())


def another_owner(walk: Walk) -> None:
    walk.begin()
    other = uuid4()
    take_over_volume(walk.here.path / "log", other)
    (advice,) = re.findall(r"'jetdr (take-over-volume [^']*)'", walk.finds())
    assert advice == f"take-over-volume {walk.here.path / 'log'} --from {other}"
    assert "jetdr take-over-volume LOG --from UUID" in walk.row.commands
    assert command(*advice.split()).code == 0
    walk.leaves()


def foreign_section(walk: Walk) -> None:
    """The container was lost, and the domain created anew with another volume. Then the first volume is named again."""
    walk.begin()
    own_key(walk.here).unlink()
    empty_store(walk.here)

    async def create() -> None:
        created = jetdr.ProtectedDomain.create(
            "payroll", log=walk.here.path / "other", log_bytes=4 << 20, store=walk.here.store("payroll")
        )
        async with created as domain:
            await domain.protect("db01", walk.here.disk("payroll"))

    asyncio.run(create())
    (advice,) = re.findall(r"'jetdr (give-up-section [^']*)'", walk.finds())
    assert GIVE_UP_SECTION in walk.row.commands
    assert command(*advice.split()).code == 0
    walk.takes_over()


def unneeded_section(walk: Walk) -> None:
    log = walk.here.path / "log"
    walk.begin()
    with open_volume(log, owner=host_owner()) as volume:
        volume.create_section("gone", UUID(int=5), SECTION_BYTES_MIN)
    told = command("inspect", log).out
    assert f"{UUID(int=5)}" in told
    assert GIVE_UP_SECTION in walk.row.commands
    assert command("give-up-section", log, "gone", "--uuid", UUID(int=5)).code == 0
    assert [section.name for section in describe_volume(log).sections] == ["payroll"]


def larger_section(walk: Walk) -> None:
    walk.begin()
    before = walk.here.file.read_text()
    assert "section_bytes" in walk.row.commands
    walk.here.file.write_text(before.replace("8_388_608", "16_777_216"))
    walk.takes_over()
    (section,) = describe_volume(walk.here.path / "log").sections
    assert section.section_bytes == 16 << 20


def data_only_in_log(walk: Walk) -> None:
    walk.begin()
    walk.backlog()
    (log,) = re.findall(r"--discard-log payroll=(\w{16})", walk.finds(take_over=("payroll",)))
    walk.leaves()  # without the take-over
    walk.backlog()
    walk.takes_over(f"{TAKE_OVER} --discard-log DOMAIN=LOG", discard_log={"payroll": log})


def container_missing(walk: Walk) -> None:
    walk.begin()
    aside = store_folder(walk.here).rename(walk.here.path / "aside")
    walk.finds()
    aside.rename(store_folder(walk.here))
    walk.leaves()


def container_emptied(walk: Walk) -> None:
    walk.begin()
    walk.here.write()
    lost = section_uuid(walk.here)
    empty_store(walk.here)
    assert f"--begin-anew payroll={lost}" in walk.finds()
    walk.begins_anew(lost)


def object_left(walk: Walk) -> None:
    walk.begin()
    for file in chain_files(walk.here)[:-1]:
        file.unlink()
    assert "--begin-anew payroll=UUID" in walk.finds()
    walk.begins_anew(section_uuid(walk.here))


def heartbeat_left(walk: Walk) -> None:
    walk.here.write(options="heartbeat_s = 0.05")
    with running(walk.here):
        walk.here.until(lambda _: (store_folder(walk.here) / "heartbeat").exists())
        walk.here.until(is_whole)
    shutil.rmtree(store_folder(walk.here) / "chain")
    assert "--begin-anew payroll=UUID" in walk.finds()
    walk.begins_anew(section_uuid(walk.here))


def store_older(walk: Walk) -> None:
    walk.begin()
    shutil.copytree(store_folder(walk.here), walk.here.path / "older")
    walk.leaves()
    walk.leaves()
    shutil.rmtree(store_folder(walk.here))
    (walk.here.path / "older").rename(store_folder(walk.here))
    walk.finds()
    walk.takes_over()


def store_lost(walk: Walk) -> None:
    walk.begin()
    walk.here.write(options="store_check_s = 0.05", create=False)
    with running(walk.here) as drva:
        walk.here.until(is_whole)
        newest = chain_files(walk.here)[-1]
        aside = newest.rename(walk.here.path / "aside")
        walk.finds_in(drva)
        aside.rename(newest)
        walk.here.until(lambda status: is_whole(status) and not status["alarms"])  # the first way
        chain_files(walk.here)[-1].unlink()
        walk.finds_in(drva)
    walk.here.write(create=False)
    walk.takes_over()


def object_lost(walk: Walk) -> None:
    walk.begin()
    with running(walk.here):
        for n in range(12):
            walk.here.ask("mark", domain="payroll", name=f"mark {n}")
            walk.here.until(is_whole)
    (store_folder(walk.here) / chain_key(5)).unlink()
    assert "--take-over payroll --give-up-from payroll=5" in walk.finds(take_over=("payroll",))
    walk.takes_over(f"{TAKE_OVER} --give-up-from DOMAIN=NUMBER", give_up_from={"payroll": 5})


def object_damaged(walk: Walk) -> None:
    walk.begin()
    newest = chain_files(walk.here)[-1]
    newest.write_bytes(newest.read_bytes()[:-300] + bytes(300))
    walk.finds()
    newest.unlink()
    with running(walk.here):
        status = walk.here.until(lambda status: is_whole(status) or status["restarts"])
    if not is_whole(status):
        assert "take the domain over" in status["failure"]
        walk.takes_over()


def forged(walk: Walk) -> None:
    walk.begin()
    planted = chain_files(walk.here)[-1]
    planted = planted.with_name(f"{int(planted.name) + 1:010d}")
    planted.write_bytes(chain_files(walk.here)[-1].read_bytes())
    walk.finds()
    planted.unlink()
    walk.leaves()


def key_missing(walk: Walk) -> None:
    walk.begin()
    aside = own_key(walk.here).rename(walk.here.path / "copy")
    walk.finds()
    aside.rename(own_key(walk.here))
    walk.leaves()


def key_lost(walk: Walk) -> None:
    walk.begin()
    own_key(walk.here).unlink()
    assert "--begin-anew payroll=UUID" in walk.finds()
    old = store_folder(walk.here)
    old.rename(walk.here.path / "kept")
    old.mkdir()
    walk.begins_anew(section_uuid(walk.here))


def wrong_key(walk: Walk) -> None:
    walk.begin()
    genuine = own_key(walk.here).rename(walk.here.path / "genuine")
    KeyFile(own_key(walk.here)).make()
    walk.finds()
    genuine.replace(own_key(walk.here))
    walk.leaves()


def fenced(walk: Walk) -> None:
    walk.begin()
    with running(walk.here) as drva:
        walk.here.until(is_whole)
        other = walk.here.path / "copy.img"
        shutil.copy(walk.here.disk("payroll"), other)
        disk = walk.here.disk("payroll").rename(walk.here.path / "own.img")
        other.rename(walk.here.disk("payroll"))
        elsewhere(walk)
        disk.replace(walk.here.disk("payroll"))
        drva.disk().write(0, b"late" * 128)
        walk.finds_in(drva)
    walk.takes_over()


WALKS: dict[str, Callable[[Walk], None]] = {
    "initial copy or resync": initial_copy,
    "no disk": no_disk,
    "paused": paused,
    "log lost": log_lost,
    "log volume damaged": volume_damaged,
    "log section damaged": section_damaged,
    "log damaged in the middle": log_damaged,
    "log away": log_away,
    "file removed or replaced in use": file_lost,
    "log cut short": log_cut_short,
    "log older than the store": log_older,
    "another log used since": another_log_used,
    "log volume of another owner": another_owner,
    "section of another domain": foreign_section,
    "section that nobody needs": unneeded_section,
    "larger section wanted": larger_section,
    "take-over refused: data only in the log": data_only_in_log,
    "container missing": container_missing,
    "container emptied": container_emptied,
    "container emptied while an upload was in flight": object_left,
    "only a heartbeat left in the container": heartbeat_left,
    "store older than the log": store_older,
    "store that lost something": store_lost,
    "object lost in the chain": object_lost,
    "newest object damaged": object_damaged,
    "forged object": forged,
    "key file missing": key_missing,
    "key lost": key_lost,
    "wrong key": wrong_key,
    "fenced": fenced,
}

ELSEWHERE = {
    "logging off": "tests/domain/test_hosted_full.py::"
    "test_a_full_log_is_bypassed_and_made_up_for_when_the_store_is_back",
    "take-over refused: disks wait for the log": "tests/domain/test_hosted_takeover.py::"
    "test_a_log_that_the_disks_wait_for_is_not_given_up",
    "store away": "tests/drva/test_outages.py::test_a_drva_that_starts_without_its_store_serves_and_logs",
    "uploads refused": "tests/drva/test_refused_writes.py::"
    "test_uploads_that_are_refused_are_an_alarm_and_go_on_when_they_are_granted",
    "log and container lost": "tests/drva/test_begin_anew.py::test_a_lost_log_and_a_lost_container",
    "log, store, state or disks from different moments": "tests/domain/test_state_folder_lost.py::"
    "test_each_way_out_ends_well_and_stays_well",
    "disk failed": "tests/drva/test_failed_disks.py::test_a_disk_that_is_gone_is_an_alarm_that_ends_when_it_is_back",
    "disk not configured": "tests/drva/test_failed_disks.py::"
    "test_without_the_file_that_names_it_an_added_disk_is_an_alarm_with_a_way_on",
    "state folder not writable": "tests/domain/test_known_file.py::"
    "test_a_file_that_cannot_be_written_is_told_and_written_once_it_can_be",
    "host component without a domain": "tests/drva/test_hosted.py::"
    "test_host_component_of_a_domain_that_was_taken_out_of_the_configuration_is_an_alarm_with_a_way_out",
    "write mode changed": "tests/domain/test_write_back.py::test_the_mode_is_changed_only_where_nothing_is_pending",
    "configuration not applied": "tests/drva/test_reload.py::test_reload_takes_over_what_may_change_and_tells_the_rest",
    "written by a newer engine": "tests/log/test_superblock.py::test_newer_version_is_refused_by_name",
}
"""States of a host component, and others that a test of their own walks."""


def test_every_state_of_the_table_is_walked() -> None:
    assert set(rows()) == WALKS.keys() | ELSEWHERE.keys()
    assert not WALKS.keys() & ELSEWHERE.keys()
    for node in ELSEWHERE.values():
        file, _, name = node.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), node


@pytest.mark.parametrize("state", WALKS)
def test_the_way_out_leads_to_a_protected_domain(state: str) -> None:
    with place("payroll") as here:
        WALKS[state](Walk(here, rows()[state]))
        assert_lasts(here)
