"""The doctor: it finds what is wrong, names the remedy, ends whatever hangs, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest

from jetdr_core.drva.alarms import ALARMS
from jetdr_core.drva.config import load_config
from jetdr_core.drva.daemon import Drva
from jetdr_core.drva.doctor import Diagnosis, Finding, Verdict, diagnose, with_causes
from jetdr_core.drva.doctor.causes import FOLLOWS, checks_that_explain, grouped
from jetdr_core.drva.doctor.diagnosis import checks_of
from jetdr_core.drva.doctor.finding import Check, good
from jetdr_core.drva.doctor.in_use import holders_of, is_running
from jetdr_core.drva.doctor.room_checks import room_checks
from jetdr_core.file_making import lock_file
from jetdr_core.replication_log import take_over_volume
from jetdr_core.store.azure_target import azure_target
from tests.children import run_python
from tests.cli.jetdr_command import jetdr_process
from tests.drva.running_drva import DISK_BYTES, Place, end, place, process, running
from tests.peers.loop import needs_root

OTHER_OWNER = "6b1d7a2e-5c0f-4a53-9a31-0d6f2f5c8e17"


@pytest.fixture(scope="module")
def used() -> Iterator[Place]:
    """A place whose DRVA has run and ended in order."""
    with place("payroll") as made:
        with running(made):
            made.until(lambda found: found["consistent"])
            for number in range(3):
                point = made.ask("mark", domain="payroll", name=f"m{number}")["point"]
                assert made.ask("await_upload", domain="payroll", lsn=point["lsn"])["uploaded"]
        yield made


@pytest.fixture
def here(used: Place) -> Iterator[Place]:
    """A copy of such a place."""
    with place("payroll") as made:
        shutil.copytree(used.path, made.path, dirs_exist_ok=True)
        made.write()
        yield made


def found_by_doctor(here: Place) -> dict[str, Finding]:
    return {finding.check: finding for finding in diagnose(here.file)}


def wrong_in(here: Place) -> dict[str, Finding]:
    return {name: one for name, one in found_by_doctor(here).items() if one.verdict is Verdict.WRONG}


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that a change of anything below the folder would alter, except when it was read last."""
    places = [folder, *folder.rglob("*")]
    status = {str(place): place.lstat() for place in places}
    return {name: (s.st_mode, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in status.items()}


# -- nothing is changed ------------------------------------------------------------------------------------------------


def test_nothing_is_changed_before_the_first_start() -> None:
    with place("payroll") as here:
        before = snapshot(here.path)
        assert wrong_in(here) == {}
        assert snapshot(here.path) == before


def test_nothing_is_changed_after_a_run(here: Place) -> None:
    before = snapshot(here.path)
    said = jetdr_process("doctor", here.file)
    assert (said.returncode, said.stderr) == (0, "")
    assert "domain payroll: key: " in said.stdout
    assert snapshot(here.path) == before


def test_no_lock_is_taken_and_a_running_drva_is_examined_too() -> None:
    with place("payroll") as here, process(here) as daemon:
        here.until(lambda found: found["consistent"])
        assert is_running(here.run)
        found = found_by_doctor(here)
        assert [one for one in found.values() if one.verdict is Verdict.WRONG] == []
        assert "is served by its host component" in found["disk payroll/db01: use"].text
        assert "serves guests" in found["domain payroll: host component"].text
        assert found["domain payroll: alarms"].text == "none"
        here.ask("pause", domain="payroll")
        alarms = wrong_in(here)["domain payroll: alarms"]
        assert alarms.text.startswith("paused: ")
        assert "docs/operations.md" in alarms.remedy
        end(daemon, signal.SIGKILL)
        (alone,) = wrong_in(here).items()
        assert alone[0] == "drva"
        assert "the guests of payroll go on unprotected" in alone[1].text
        assert f"jetdr drva {here.file}" in alone[1].remedy


# -- what is wrong is found --------------------------------------------------------------------------------------------


def disk_is_missing(here: Place) -> None:
    here.disk("payroll").unlink()


def disk_has_shrunk(here: Place) -> None:
    os.truncate(here.disk("payroll"), DISK_BYTES // 2)


def disk_has_an_odd_size(here: Place) -> None:
    os.truncate(here.disk("payroll"), DISK_BYTES + 1)


def disk_is_a_folder(here: Place) -> None:
    here.disk("payroll").unlink()
    here.disk("payroll").mkdir()


def log_is_missing(here: Place) -> None:
    (here.path / "log").unlink()


def log_is_no_log(here: Place) -> None:
    (here.path / "log").write_bytes(b"something else" * 100_000)


def log_is_anothers(here: Place) -> None:
    take_over_volume(here.path / "log", UUID(OTHER_OWNER))


def store_is_missing(here: Place) -> None:
    (here.path / "store-payroll").rename(here.path / "elsewhere")


def store_is_empty(here: Place) -> None:
    store_is_missing(here)
    (here.path / "store-payroll").mkdir()


def store_lost_an_object(here: Place) -> None:
    min((here.path / "store-payroll" / "chain").rglob("0*2")).unlink()


def key_is_lost(here: Place) -> None:
    (here.path / "state" / "payroll" / "domain.key").unlink()


def key_is_open(here: Place) -> None:
    (here.path / "state" / "payroll" / "domain.key").chmod(0o644)


def state_folder_is_open(here: Place) -> None:
    (here.path / "state" / "payroll").chmod(0o755)


def configuration_is_no_toml(here: Place) -> None:
    here.file.write_text("[drva")


def configuration_is_open(here: Place) -> None:
    here.file.chmod(0o666)


def nbdkit_is_missing(here: Place) -> None:
    here.write(drva='nbdkit = "/nowhere/nbdkit"')


WRONG = {
    disk_is_missing: ("disk payroll/db01", "there is no {}/payroll.img", "jetdr move-disk payroll db01 PATH"),
    disk_has_shrunk: (
        "domain payroll: disk sizes",
        "has 524288 bytes, and its history 1048576",
        "give it back that size",
    ),
    disk_has_an_odd_size: ("disk payroll/db01", "has 1048577 bytes", "a disk has a multiple of 512"),
    disk_is_a_folder: ("disk payroll/db01", "neither a regular file nor a block device", "name a file"),
    log_is_missing: ("volume main", "there is no {}/log", "--take-over DOMAIN"),
    log_is_no_log: ("volume main", "{}/log", "name a log volume"),
    log_is_anothers: ("volume main", f"belongs to owner {OTHER_OWNER}", f"--from {OTHER_OWNER}"),
    store_is_missing: ("domain payroll: store", "{}/store-payroll", "is the share mounted?"),
    store_is_empty: ("domain payroll: store", "store-payroll is empty", "mount its file system"),
    store_lost_an_object: ("domain payroll: store", "objects after it", "jetdr verify file://"),
    key_is_lost: ("domain payroll: key", "the domain has a key, and there is none here", "from its copy"),
    key_is_open: ("domain payroll: key file", "others may read it", "chmod 0600"),
    state_folder_is_open: ("domain payroll: state folder", "with mode 0755", "chmod 0700"),
    configuration_is_no_toml: ("configuration", "is not TOML", "packaging/drva.example.toml"),
    configuration_is_open: ("configuration", "may be changed by others (mode 0666)", "chmod go-w"),
    nbdkit_is_missing: ("nbdkit", "'/nowhere/nbdkit' is not found", "install nbdkit"),
}


FOLLOWERS: dict[Callable[[Place], None], set[str]] = {
    disk_is_missing: {"domain payroll: disk sizes"},
    disk_has_an_odd_size: {"domain payroll: disk sizes"},
    disk_is_a_folder: {"domain payroll: disk sizes"},
    log_is_missing: {"domain payroll: log"},
    log_is_no_log: {"domain payroll: log"},
    key_is_open: {f"domain payroll: {what}" for what in ("store", "key", "record clock", "disk sizes")},
    nbdkit_is_missing: {"nbdkit plugin"},
}
"""What else is not as it should be, and only because of that."""


@pytest.mark.parametrize(("spoil", "told"), WRONG.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_wrong_is_found_with_its_remedy_and_what_follows_stands_with_it(
    here: Place, spoil: Callable[[Place], None], told: tuple[str, str, str]
) -> None:
    spoil(here)
    before = snapshot(here.path)
    check, text, remedy = told
    found = with_causes(diagnose(here.file))
    (finding,) = [one for one in found if one.verdict is Verdict.WRONG and not one.cause]
    assert finding.check == check
    assert text.format(here.path) in finding.text
    assert remedy in finding.remedy
    assert {one.check: one.cause for one in found if one.cause} == dict.fromkeys(FOLLOWERS.get(spoil, ()), check)
    assert snapshot(here.path) == before


def test_every_check_of_the_start_is_one_of_the_doctors(here: Place) -> None:
    config = load_config(here.file)
    (here.path / "state").chmod(0o777)
    with pytest.raises(Exception, match="state_dir") as caught:
        asyncio.run(Drva(config).run())
    finding = wrong_in(here)["state_dir"]
    assert str(caught.value) == f"{finding.text}; {finding.remedy}"


def test_a_disk_that_has_grown_is_not_to_be_cut(here: Place) -> None:
    assert found_by_doctor(here)["domain payroll: disk sizes"] == Finding(
        Verdict.GOOD, "1 of 1 disks have the sizes that the store knows", check="domain payroll: disk sizes"
    )
    os.truncate(here.disk("payroll"), 2 * DISK_BYTES)
    finding = found_by_doctor(here)["domain payroll: disk sizes"]
    assert finding.verdict is Verdict.DOUBTFUL
    assert f"has {2 * DISK_BYTES} bytes, and its history {DISK_BYTES}" in finding.text
    assert "jetdr grow-disk payroll DISK" in finding.remedy


def test_a_disk_that_was_not_looked_at_has_no_good_size(here: Place) -> None:
    here.disk("payroll").unlink()
    finding = found_by_doctor(here)["domain payroll: disk sizes"]
    assert finding.verdict is Verdict.UNCHECKED
    assert "db01" in finding.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_file_system_that_is_read_only_is_one_cause_and_no_matter_of_owners(here: Place) -> None:
    bind = ["mount", "--bind", str(here.path), str(here.path)]
    if subprocess.run(bind, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(here.path)], check=True)
        found = with_causes(diagnose(here.file))
        causes = [one for one in found if one.verdict is Verdict.WRONG and not one.cause]
        assert [one.check for one in causes] == ["room: runtime_dir"]
        assert causes[0].remedy == f"look in dmesg why, then mount -o remount,rw {here.path}"
        assert {one.check: one.cause for one in found}["disk payroll/db01"] == "room: runtime_dir"
    finally:
        subprocess.run(["umount", "--lazy", str(here.path)], check=True)


def test_metrics_address_that_is_taken_is_doubtful(here: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        here.write(drva=f'metrics = "127.0.0.1:{other.getsockname()[1]}"')
        finding = found_by_doctor(here)["metrics"]
    assert finding.verdict is Verdict.DOUBTFUL
    assert "Address already in use" in finding.text


def test_whoever_holds_a_file_is_named_and_not_disturbed(here: Place) -> None:
    with (here.path / "log").open("rb") as log:
        assert holders_of(here.path / "log") == ()
        lock_file(log.fileno(), here.path / "log")
        (holder,) = holders_of(here.path / "log")
        assert holder.pid == os.getpid()
        finding = wrong_in(here)["volume main: use"]
        assert f"is in use by process {os.getpid()} (" in finding.text
        assert finding.remedy == "stop that process, or name another log volume"


def test_holes_of_a_copied_log_are_told(here: Place) -> None:
    log = here.path / "log"
    size = log.stat().st_size
    content = log.read_bytes().rstrip(b"\0")
    log.write_bytes(content)
    os.truncate(log, size)
    finding = found_by_doctor(here)["volume main: space"]
    assert finding.verdict is Verdict.DOUBTFUL
    assert "have no space yet" in finding.text


# -- what follows is told with its cause -------------------------------------------------------------------------------


def test_what_follows_is_shown_after_its_cause_and_not_counted_as_wrong(here: Place) -> None:
    log_is_missing(here)
    lines = jetdr_process("doctor", here.file).stdout.splitlines()
    nth = next(nth for nth, line in enumerate(lines) if line.startswith("wrong"))
    assert f"jetdr drva {here.file} --take-over" in lines[nth]
    assert lines[nth + 1] == "so also   volume main: domain payroll: log"
    assert lines[-1].endswith("1 wrong, 1 so also")


def test_one_remedy_for_one_path_mends_all_that_name_it() -> None:
    remedy = "free space on the file system at /srv"
    one, two, three = with_causes(
        [
            Finding(Verdict.WRONG, "full", remedy, "room: state_dir"),
            Finding(Verdict.WRONG, "full", remedy, "room: volume main"),
            Finding(Verdict.WRONG, "full", "free space", "other"),
        ]
    )
    assert (one.cause, two.cause, three.cause) == ("", "room: state_dir", "")


def test_a_cause_is_wrong_and_follows_from_nothing() -> None:
    bottom, middle, top, circle, apart = with_causes(
        [
            Finding(Verdict.WRONG, "", check="bottom"),
            Finding(Verdict.WRONG, "", check="middle", after=("apart", "bottom")),
            Finding(Verdict.UNCHECKED, "", check="top", after=("middle",)),
            Finding(Verdict.WRONG, "", check="circle", after=("circle",)),
            Finding(Verdict.DOUBTFUL, "", check="apart", after=("top",)),
        ]
    )
    assert [one.cause for one in (bottom, middle, top, circle, apart)] == ["", "bottom", "bottom", "", ""]


def test_alarms_that_follow_from_another_stand_with_it() -> None:
    alarms = [(name, "...") for name in ("rpo", "closed", "logging_off", "disk_changed", "not_consistent")]
    closed, changed = grouped(alarms)
    assert (closed.name, closed.followers) == ("closed", ("rpo", "logging_off", "not_consistent"))
    assert (changed.name, changed.followers) == ("disk_changed", ())
    assert set(FOLLOWS) | {cause for causes in FOLLOWS.values() for cause in causes} <= ALARMS.keys()
    for nested in FOLLOWS:  # an alarm never follows from itself
        assert nested not in {cause for first in FOLLOWS[nested] for cause in FOLLOWS.get(first, ())}


def test_alarms_of_each_part_are_explained_by_its_checks(here: Place) -> None:
    (domain,) = load_config(here.file).domains
    names = {check.name for check in checks_of(load_config(here.file))}
    for alarm in ALARMS:
        explaining = checks_that_explain(alarm, "disk 'db01' at /x", domain)
        assert set(explaining) <= names, alarm
    assert checks_that_explain("disk_failed", "disk 'db01' at /x", domain)[0] == "disk payroll/db01"
    assert checks_that_explain("paused", "uploading is paused", domain) == ()


# -- how it answers ----------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_holds_up_no_other_and_is_wrong() -> None:
    never = threading.Event()
    checks = [
        Check("hanging", lambda: good(str(never.wait()))),
        Check("failing", lambda: good(str(Path("/nowhere/at/all").stat()))),
        Check("passing", lambda: good("yes")),
    ]
    diagnosis = Diagnosis(checks, limit_s=0.05)
    hanging, failing, passing = diagnosis
    never.set()
    assert diagnosis.is_hanging
    assert (hanging.verdict, hanging.text) == (Verdict.WRONG, "no answer within 0.05 s")
    assert (failing.verdict, failing.text) == (Verdict.WRONG, "/nowhere/at/all: No such file or directory")
    assert failing.remedy == "check the path"
    assert passing == Finding(Verdict.GOOD, "yes", "", "passing")


def test_exit_code_and_json(here: Place) -> None:
    disk_is_missing(here)
    said = jetdr_process("doctor", here.file, "--json")
    assert (said.returncode, said.stderr) == (9, "")
    document = json.loads(said.stdout)
    assert (document["config"], document["sound"]) == (str(here.file), False)
    (one,) = [check for check in document["checks"] if check["check"] == "disk payroll/db01"]
    assert one["verdict"] == "wrong"
    assert one["remedy"].startswith("mount its file system")
    assert all(check["remedy"] for check in document["checks"] if check["verdict"] != "good")


def test_a_configuration_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    said = jetdr_process("doctor", tmp_path / "none.toml")
    assert said.returncode == 9
    assert (
        f"wrong     configuration: {tmp_path}/none.toml: opening it failed: No such file or directory; check the path"
        in said.stdout
    )
    assert "engine: jetdr_core" in said.stdout


AS_NOBODY = """
import json, os, sys
from contextlib import suppress
from pathlib import Path
from jetdr_core.drva.doctor import diagnose

list(diagnose(Path(sys.argv[1])))  # imports everything, which that user may not be able to read
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(json.dumps({found.check: [found.verdict.value, found.text] for found in diagnose(Path(sys.argv[1]))}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.skipif(not os.stat("/").st_mode & 0o001, reason="the root folder is closed to other users, as in a chroot")
def test_an_ordinary_user_learns_what_that_user_may_and_what_is_unchecked(here: Place) -> None:
    here.path.chmod(0o755)
    here.file.chmod(0o644)
    done = run_python(AS_NOBODY, here.file)
    found = json.loads(done.stdout)
    assert found["account"][0] == "unchecked"
    assert found["runtime_dir"][0] == "good"
    assert found["domain payroll: store"][0] == "unchecked"
    assert found["domain payroll: rights to write"][0] == "unchecked"
    assert [name for name, (verdict, _) in found.items() if verdict == "wrong"] == []


SAS = "https://acct.blob.core.windows.net/box?sv=2024&sig=x&"


@pytest.mark.parametrize(
    ("query", "permissions", "year"),
    [("sp=rlwc&se=2030-01-01", "rlwc", 2030), ("sp=rl&se=2020-01-01T00:00:00Z", "rl", 2020), ("si=policy", None, None)],
)
def test_a_signature_says_what_it_allows(query: str, permissions: str | None, year: int | None) -> None:
    target = azure_target(SAS + query, {})
    assert target.has_signature
    assert not target.can_sign
    assert target.permissions == permissions
    assert (target.expires.year if target.expires else None) == year


def test_a_full_file_system_is_wrong_only_for_what_still_needs_room(tmp_path: Path) -> None:
    needs_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)], check=True)
    try:
        here = Place(tmp_path, ("payroll",))
        for file, size in ((here.disk("payroll"), DISK_BYTES), (tmp_path / "log", 64 << 10)):
            file.write_bytes(b"d" * size)
        with (tmp_path / "neighbour").open("wb", buffering=0) as neighbour, suppress(OSError):
            while True:
                neighbour.write(bytes(4096))
        checks = {check.name: check.look for check in room_checks(load_config(here.file))}
        assert checks["room: state_dir"]().verdict is Verdict.WRONG
        assert checks["room: disk payroll/db01"]().verdict is Verdict.GOOD
        assert checks["room: volume main"]().verdict is Verdict.GOOD
        os.truncate(here.disk("payroll"), 2 * DISK_BYTES)
        assert checks["room: disk payroll/db01"]().verdict is Verdict.WRONG
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
