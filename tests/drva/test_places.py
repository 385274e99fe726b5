"""The places that a configuration names: a wrong one is refused by name, by the start and by --check, and stays."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from jetdr_core.drva.config import load_config
from jetdr_core.drva.daemon import Drva
from jetdr_core.errors import DeviceBusy, InvalidRequest
from jetdr_core.unix_socket import UnixListener
from tests.children import run_python
from tests.cli.jetdr_command import jetdr_process
from tests.drva.running_drva import InProcess, Place, embedded, place, running
from tests.faults.refusal import refusing

CONTENT = b"a virtual machine"


def control_socket_is_a_disk(here: Place) -> Path:
    victim = here.path / "precious.img"
    victim.write_bytes(CONTENT)
    here.write(drva=f'control_socket = "{victim}"')
    return victim


def control_socket_is_a_link_to_a_disk(here: Place) -> Path:
    victim = here.path / "precious.img"
    victim.write_bytes(CONTENT)
    (here.path / "link").symlink_to(victim)
    here.write(drva=f'control_socket = "{here.path}/link"')
    return victim


def control_socket_in_a_folder_that_all_may_write(here: Place) -> Path:
    (here.path / "open").mkdir()
    (here.path / "open").chmod(0o777)
    here.write(drva=f'control_socket = "{here.path}/open/socket"')
    return here.path / "open"


def runtime_dir_below_one_that_all_may_write(here: Place) -> Path:
    (here.path / "open" / "run").mkdir(parents=True, mode=0o700)
    (here.path / "open").chmod(0o777)
    here.file.write_text(here.file.read_text().replace(str(here.run), f"{here.path}/open/run"))
    return here.path / "open" / "run"


def runtime_folder_of_a_domain_open(here: Place) -> Path:
    here.run.mkdir(mode=0o700)
    (here.run / "payroll").mkdir()
    (here.run / "payroll").chmod(0o755)
    return here.run / "payroll"


def state_dir_open(here: Place) -> Path:
    (here.path / "state").mkdir()
    (here.path / "state").chmod(0o777)
    return here.path / "state"


def state_folder_of_a_domain_open(here: Place) -> Path:
    (here.path / "state" / "payroll").mkdir(parents=True)
    (here.path / "state" / "payroll").chmod(0o750)
    return here.path / "state" / "payroll"


def log_that_all_may_write(here: Place) -> Path:
    (here.path / "log").write_bytes(CONTENT)
    (here.path / "log").chmod(0o666)
    return here.path / "log"


def runtime_dir_on_a_disk(here: Place) -> Path:
    folder = Path("/var/tmp/jetdr-no-tmpfs")
    here.file.write_text(here.file.read_text().replace(str(here.run), str(folder)))
    return here.path


WRONG = {
    runtime_dir_on_a_disk: "runtime_dir /var/tmp/jetdr-no-tmpfs lies on ",
    control_socket_is_a_disk: "control_socket {}/precious.img is a regular file that exists",
    control_socket_is_a_link_to_a_disk: "control_socket {}/link is a symbolic link that exists",
    control_socket_in_a_folder_that_all_may_write: "the folder of control_socket {}/open may be changed by others",
    runtime_dir_below_one_that_all_may_write: "runtime_dir {0}/open/run: {0}/open may be changed by others",
    runtime_folder_of_a_domain_open: "domain 'payroll': the runtime folder {}/run/payroll belongs to user",
    state_dir_open: "state_dir {}/state may be changed by others (mode 0777); make it root's",
    state_folder_of_a_domain_open: "domain 'payroll': the state folder {}/state/payroll belongs to user",
    log_that_all_may_write: "volume 'main': path {}/log may be changed by others",
}


@pytest.mark.parametrize(("spoil", "told"), WRONG.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_place_that_will_not_do_is_refused_by_the_start_and_by_check(
    spoil: Callable[[Place], Path], told: str
) -> None:
    with place("payroll") as here:
        victim = spoil(here)
        before = victim.lstat().st_mode, victim.lstat().st_ino, sorted(here.path.rglob("*"))
        with pytest.raises(InvalidRequest) as caught:
            InProcess(Drva(load_config(here.file), opener=embedded)).join()
        assert told.format(here.path) in str(caught.value)
        said = jetdr_process("drva", here.file, "--check")
        assert (said.returncode, said.stdout) == (2, "")
        assert told.format(here.path) in said.stderr
        assert victim.is_dir() or victim.read_bytes() == CONTENT
        assert (victim.lstat().st_mode, victim.lstat().st_ino, sorted(here.path.rglob("*"))) == before


def test_a_control_socket_in_use_is_not_taken_away() -> None:
    with place("payroll") as here:
        listener = UnixListener("the test's socket", here.path / "socket")
        here.write(drva=f'control_socket = "{here.path}/socket"')
        with pytest.raises(DeviceBusy, match=r"control_socket .*/socket is in use by another process; stop that"):
            InProcess(Drva(load_config(here.file), opener=embedded)).join()
        listener.remove_name()
        listener.socket.close()


def test_check_is_no_obstacle_while_the_drva_runs() -> None:
    with place("payroll") as here, running(here):
        assert jetdr_process("drva", here.file, "--check").returncode == 0


def test_a_configuration_that_others_may_write_is_refused() -> None:
    with place("payroll") as here:
        here.file.chmod(0o666)
        for arguments in ([], ["--check"]):
            said = jetdr_process("drva", here.file, *arguments)
            assert said.returncode == 2
            assert f"the configuration {here.file} may be changed by others (mode 0666)" in said.stderr
        assert os.listdir(here.path) == ["drva.toml"]


def test_metrics_address_that_is_taken_does_not_keep_domains_from_being_protected() -> None:
    with place("payroll") as here, socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        here.write(drva=f'metrics = "127.0.0.1:{port}"')
        said = jetdr_process("drva", here.file, "--check")
        assert said.returncode == 0
        assert f"metrics = '127.0.0.1:{port}': Address already in use; another program listens there" in said.stderr
        with running(here) as drva:
            here.until(lambda found: found["consistent"])
            about = here.ask("status")["drva"]
            assert about["metrics"] is None
            (alarm,) = about["alarms"]
            assert alarm["name"] == "metrics_away"
            assert f"127.0.0.1:{port}" in alarm["text"]
            assert "ALARM" in jetdr_process("status", "--socket", here.socket).stdout
            other.close()
            drva.drva._metrics.listen()
            assert here.ask("status")["drva"]["alarms"] == []
            assert here.ask("status")["drva"]["metrics"] == f"http://127.0.0.1:{port}/metrics"


@pytest.mark.parametrize("what", ["log", "runtime_dir"])
def test_lock_service_that_is_down_is_told_so(tmp_path: Path, what: str) -> None:
    scripts = {
        "log": "from jetdr_core.device import FileDevice;"
        "FileDevice(sys.argv[1] + '/log', create_bytes=4096, lock=True)",
        "runtime_dir": "from pathlib import Path; from jetdr_core.drva import daemon;"
        "daemon._sole_use(Path(sys.argv[1])).__enter__()",
    }
    tmp_path.chmod(0o700)
    with refusing(tmp_path, "int flock(int fd, int how)", "ENOLCK") as environment:
        told = run_python("import sys;" + scripts[what], tmp_path, env=environment)
    assert "locking it failed: No locks available; start the lock service of the share" in told.stderr
    assert "in use" not in told.stderr
