"""A domain whose container or key is lost begins anew: under its name, on its volume, with its disks."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

import jetdr_core as jetdr
from jetdr_core.domain_key import KeyFile
from jetdr_core.drva.begin_anew import begin_anew
from jetdr_core.drva.config import load_config
from jetdr_core.drva.daemon import Drva
from jetdr_core.errors import InvalidRequest, LogForeign
from tests.domain.hosted import until
from tests.domain.test_known_file import DOMAIN, kept_file
from tests.drva.running_drva import Place, end, place, process, running
from tests.drva.test_key import without_key
from tests.drva.walks import (
    assert_lasts,
    assert_recovered,
    chain_files,
    empty_store,
    is_whole,
    own_key,
    section_uuid,
    store_folder,
)
from tests.host.nbd_client import NbdClient


def told(here: Place) -> str:
    """Why the domain does not open."""
    with running(here):
        return str(here.until(lambda s: s["restarts"])["failure"])


def test_a_container_that_was_lost_and_made_again() -> None:
    with place("payroll") as here:
        with running(here) as drva:
            drva.disk().write(0, b"a" * 4096)
            here.until(is_whole)
        old, key = section_uuid(here), own_key(here).read_bytes()
        empty_store(here)
        assert f"--begin-anew payroll={old}" in told(here)
        here.write(create=False)
        failure = told(here)
        assert "holds no protected domain" in failure
        assert "--begin-anew payroll=UUID" in failure
        with running(here, begin_anew={"payroll": old}) as drva:
            here.until(is_whole)
            drva.disk().write(4096, b"b" * 4096)
            here.until(is_whole)
        assert section_uuid(here) != old
        assert own_key(here).with_name(f"domain.key.{old}").read_bytes() == key
        assert_lasts(here)


def test_what_a_lost_domain_left_in_the_container_is_removed() -> None:
    with place("payroll") as here:
        here.write(options="heartbeat_s = 0.1")
        with running(here):
            here.until(is_whole)
            until((store_folder(here) / "heartbeat").exists)
        shutil.rmtree(store_folder(here) / "chain")
        old = section_uuid(here)
        assert "holds no protected domain" in told(here)
        left = {file.name: file.read_bytes() for file in (store_folder(here) / "heartbeat").iterdir()}
        with running(here, begin_anew={"payroll": old}):
            here.until(is_whole)
            for file in (store_folder(here) / "heartbeat").iterdir():
                assert file.read_bytes() != left.get(file.name)
        assert_lasts(here)


def emptied_but_for_the_newest(here: Place) -> UUID:
    """A container that was emptied while an upload was in flight. Returns the UUID of the domain."""
    with running(here) as drva:
        for nth in range(4):
            drva.disk().write(nth * 512, bytes([nth]) * 512)
            here.until(is_whole)
    for file in chain_files(here)[:-1]:
        file.unlink()
    return section_uuid(here)


def test_what_was_put_into_an_emptied_container_is_set_aside_and_never_met_again() -> None:
    with place("payroll") as here:
        old = emptied_but_for_the_newest(here)
        (left,) = chain_files(here)
        data, number = left.read_bytes(), int(left.name)
        assert re.search(r"is missing, the first object.*--begin-anew payroll=UUID", told(here))
        with running(here, begin_anew={"payroll": old}) as drva:
            here.until(is_whole)
            for nth in range(number + 2):
                drva.disk().write(0, bytes([nth]) * 512)
                here.until(is_whole)
        assert int(chain_files(here)[-1].name) > number
        assert (store_folder(here) / "left" / str(old) / left.relative_to(store_folder(here))).read_bytes() == data
        assert_lasts(here)
        assert asyncio.run(jetdr.verify(here.store("payroll"))).is_sound


def test_what_may_still_be_reached_or_is_of_another_domain_is_not_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    with place("payroll") as here:
        old = emptied_but_for_the_newest(here)
        (left,) = chain_files(here)
        config = load_config(here.file).domains[0]
        with pytest.raises(InvalidRequest, match="is not empty"):
            asyncio.run(begin_anew(config, uuid4()))
        monkeypatch.setattr("jetdr_core.drva.begin_anew.UNREACHABLE_MAX", 0)
        with pytest.raises(InvalidRequest, match="name an empty container"):
            asyncio.run(begin_anew(config, old))
        assert chain_files(here) == [left]
        assert not (store_folder(here) / "left").exists()


def test_setting_aside_that_was_cut_off_is_continued() -> None:
    with place("payroll") as here:
        old = emptied_but_for_the_newest(here)
        (left,) = chain_files(here)
        aside = store_folder(here) / "left" / str(old) / left.relative_to(store_folder(here))
        aside.parent.mkdir(parents=True)
        shutil.copy(left, aside)
        with running(here, begin_anew={"payroll": old}):
            here.until(is_whole)
        assert_lasts(here)


def test_what_was_set_aside_does_not_count_as_a_domain() -> None:
    with place("payroll") as here:
        old = emptied_but_for_the_newest(here)
        asyncio.run(begin_anew(load_config(here.file).domains[0], old))  # and the DRVA ends before a new one is created
        with running(here):
            here.until(is_whole)
        shutil.rmtree(store_folder(here) / "chain")
        failure = told(here)
        assert f"--begin-anew payroll={section_uuid(here)}" in failure
        assert "left/" not in failure


def test_a_lost_log_and_a_lost_container() -> None:
    """Only the state folder of a hosted domain knows it then."""
    with place("payroll") as here:
        with process(here) as first:
            here.until(is_whole)
            end(first)
        old = section_uuid(here)
        empty_store(here)
        (here.path / "log").unlink()
        with process(here) as second:
            assert f"--begin-anew payroll={old}" in here.until(lambda s: s["restarts"])["failure"]
            end(second)
        with process(here, "--begin-anew", f"payroll={old}") as third:
            here.until(is_whole)
            end(third)
        with process(here) as fourth:
            here.until(is_whole)
            end(fourth)
        assert_recovered(here)


def test_a_lost_key_and_another_container() -> None:
    with place("payroll") as here:
        with running(here):
            here.until(is_whole)
        old = section_uuid(here)
        own_key(here).unlink()
        failure = told(here)
        assert "has a key, and none was given" in failure
        assert "--begin-anew" in failure
        lost = here.store("payroll")
        with pytest.raises(AssertionError), running(here, begin_anew={"payroll": old}):
            raise AssertionError(here.until(lambda s: s["restarts"])["failure"])
        here.file.write_text(here.file.read_text().replace(lost, f"{lost}-2"))
        with running(here, begin_anew={"payroll": old}):
            here.until(is_whole)
        assert asyncio.run(jetdr.verify(lost)).is_sound, "the lost domain's points are still there"
        with running(here):
            here.until(is_whole)


def test_a_domain_from_before_keys_gets_one_in_another_container() -> None:
    with place("payroll") as here:
        asyncio.run(without_key(here))
        with running(here):
            here.until(is_whole)
        lost = here.store("payroll")
        here.file.write_text(here.file.read_text().replace(lost, f"{lost}-2"))
        with running(here, begin_anew={"payroll": section_uuid(here)}):
            here.until(is_whole)
        report = asyncio.run(jetdr.verify(f"{lost}-2", domain_key=KeyFile(own_key(here)).read()))
        assert (report.is_sound, report.authenticity) == (True, "checked")


def test_a_store_with_a_chain_is_never_begun_anew() -> None:
    with place("payroll") as here:
        with running(here):
            here.until(is_whole)
        old = section_uuid(here)
        with running(here, begin_anew={"payroll": old}):
            failure = here.until(lambda s: s["restarts"])["failure"]
            assert "does not begin anew" in failure
            assert "without --begin-anew" in failure
        assert section_uuid(here) == old
        assert_lasts(here)


def test_a_wrong_uuid_gives_nothing_up() -> None:
    with place("payroll") as here:
        with running(here):
            here.until(is_whole)
        old, log = section_uuid(here), (here.path / "log").read_bytes()
        empty_store(here)
        with running(here, begin_anew={"payroll": uuid4()}):
            assert f"belongs to domain {old}" in here.until(lambda s: s["restarts"])["failure"]
        assert (here.path / "log").read_bytes() == log


def test_an_attempt_that_failed_after_it_made_a_key_costs_no_key() -> None:
    """The DRVA tries again by itself. The key of the lost domain is what recovers its points."""
    with place("payroll") as here:
        with running(here):
            here.until(is_whole)
        old, key = section_uuid(here), own_key(here).read_bytes()
        empty_store(here)
        (config,) = load_config(here.file).domains
        asyncio.run(begin_anew(config, old))
        KeyFile(own_key(here)).make()
        made = own_key(here).read_bytes()
        asyncio.run(begin_anew(config, old))
        assert own_key(here).with_name(f"domain.key.{old}").read_bytes() == key
        assert own_key(here).read_bytes() == made
        with running(here, begin_anew={"payroll": old}):
            here.until(is_whole)
        assert_lasts(here)


def test_what_the_state_folder_knows_of_another_domain_is_not_given_up() -> None:
    """The volume is that of an earlier domain. The state folder is that of a later one, whose log is elsewhere."""
    with place("payroll") as here:
        with running(here):
            here.until(is_whole)
        old = section_uuid(here)
        later = kept_file(here.path / "state", "payroll")
        empty_store(here)
        (config,) = load_config(here.file).domains
        with pytest.raises(LogForeign) as refused:
            asyncio.run(begin_anew(config, old))
        failure = str(refused.value)
        assert f"its state folder knows the domain {DOMAIN}, not {old}" in failure
        assert f"jetdr give-up-section {here.path / 'log'} payroll --uuid {old}" in failure
        assert f"--begin-anew payroll={DOMAIN}" in failure
        assert section_uuid(here) == old
        assert later.read() is not None


def test_a_key_file_of_the_lost_domain_is_refused_before_anything_is_given_up() -> None:
    with place("payroll") as here:
        file = here.path / "keys"
        KeyFile(file).make()
        here.write(domain=f'key_file = "{file}"')
        with running(here):
            here.until(is_whole)
        old = section_uuid(here)
        empty_store(here)
        with running(here, begin_anew={"payroll": old}):
            assert "jetdr key new FILE" in here.until(lambda s: s["restarts"])["failure"]
        assert section_uuid(here) == old
        file.rename(here.path / "key-of-the-lost-domain")
        KeyFile(file).make()
        with running(here, begin_anew={"payroll": old}):
            here.until(is_whole)
        with running(here):
            here.until(is_whole)


def test_a_domain_is_taken_over_or_begun_anew_but_not_both() -> None:
    with place("payroll") as here, pytest.raises(InvalidRequest, match="--take-over if its store still has"):
        Drva(load_config(here.file), take_over=["payroll"], begin_anew={"payroll": uuid4()})


@pytest.fixture
def nbdkit(peer: Callable[[str], str]) -> str:
    return peer("nbdkit")


@pytest.mark.usefixtures("nbdkit")
@pytest.mark.parametrize("mode", ["write-through", "write-back"])
def test_guests_go_on_with_the_disk_that_they_had(mode: str) -> None:
    """Their host component runs while the domain begins anew. It ends in order, and the next one serves the disk."""
    with place("payroll") as here:
        here.write(domain=f'mode = "{mode}"')
        with process(here) as first:
            here.until(is_whole)
            with NbdClient(str(here.run / "payroll" / "nbd.sock"), "db01") as guest:
                guest.write(0, b"a" * 4096)
                guest.flush()
            end(first)
        old = section_uuid(here)
        empty_store(here)
        with process(here, "--begin-anew", f"payroll={old}") as second:
            here.until(is_whole)
            with NbdClient(str(here.run / "payroll" / "nbd.sock"), "db01") as guest:
                assert guest.read(0, 4096) == b"a" * 4096
                guest.write(4096, b"b" * 4096)
                guest.flush()
            here.until(is_whole)
            end(second)
        with process(here) as third:
            here.until(is_whole)
            end(third)
        here.component("payroll").stop()
        assert_recovered(here)


@pytest.mark.usefixtures("nbdkit")
def test_in_write_back_nothing_that_only_the_log_has_is_given_up_unless_that_was_said() -> None:
    with place("payroll") as here:
        here.write(domain='mode = "write-back"')
        with process(here) as first:
            here.until(is_whole)
            end(first, signal.SIGKILL)
        here.component("payroll").stop()
        (here.run / "payroll" / "ring").unlink()
        old = section_uuid(here)
        empty_store(here)
        with process(here, "--begin-anew", f"payroll={old}") as second:
            assert "--on-mismatch payroll=copy" in here.until(lambda s: s["restarts"])["failure"]
            end(second)
        assert section_uuid(here) == old
        with process(here, "--begin-anew", f"payroll={old}", "--on-mismatch", "payroll=copy") as third:
            here.until(is_whole)
            end(third)
        with process(here) as fourth:
            here.until(is_whole)
            end(fourth)
