"""What the product tells people to do exists in just those words: commands, options, parameters, keys.

Every text of the package is looked at, so a remedy cannot be told that nobody has. A remedy that names a command, with
its options, has a test that walks it: see :data:`WALKED`. A new one must be placed there.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import jetdr_core
from jetdr_core import remedies
from jetdr_core.options import DomainOptions
from jetdr_core.replication_log import format_volume, give_up_section
from tests.cli.jetdr_command import jetdr

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "jetdr_core"
EXAMPLE = (ROOT / "packaging" / "drva.example.toml").read_text(encoding="utf-8")

COMMAND = re.compile(r"(?<![/\w.-])jetdr (?P<command>[a-z][a-z-]*(?: (?:new|show)\b)?)(?P<rest>[^'\"`;]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
PARAMETER = re.compile(r"\b([a-z]+(?:_[a-z]+)+)=|\b(discard|overwrite)=")
KEYS = re.compile(r"\b([a-z]+(?:_[a-z]+)+) = ")

OTHER_PROGRAMS = {"--tls", "--foreground", "--unix", "--ipaddr", "--port", "--key", "--value", "--help"}
"""Options of other programs that the product runs or explains."""


class Told(NamedTuple):
    """A text that may be told to somebody, with ``{}`` for each value."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def joined(node: ast.expr) -> str | None:
    """The text of a literal, with shared remedies written out. None for anything else."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_part(part) for part in parts)
    return None


def _part(part: ast.expr) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name):
        return str(getattr(remedies, part.value.id, "{}"))
    return "{}"


@cache
def texts() -> tuple[Told, ...]:
    """Every text of the package that is no docstring."""
    found: list[Told] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        found += [
            Told(str(path.relative_to(PACKAGE)), node.lineno, text)
            for node in ast.walk(tree)
            if isinstance(node, ast.expr) and id(node) not in docs | inner and (text := joined(node))
        ]
    return tuple(found)


def hints() -> Iterator[Told]:
    """What is told as a remedy of an error."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "hint" and (text := joined(node.value)):
                yield Told(str(path.relative_to(PACKAGE)), node.value.lineno, text)


@cache
def help_of(command: str) -> str:
    done = jetdr(*command.split(), "--help")
    assert done.code == 0, f"there is no command {command!r}"
    return done.out


def commands() -> dict[str, list[Told]]:
    """The commands that are told, each with its options: ``drva --take-over``, for example."""
    found: dict[str, list[Told]] = {}
    for told in texts():
        for match in COMMAND.finditer(told.text):
            options = sorted(set(OPTION.findall(match["rest"])))
            found.setdefault(" ".join([match["command"], *options]), []).append(told)
    return found


NOT_COMMANDS = {"found", "process", "plugin", "cannot"}
"""Words that follow the product's name in a sentence."""

WALKED = {
    "doctor": "tests/drva/test_doctor.py::test_exit_code_and_json",
    "drva": "tests/drva/test_hosted.py::test_a_drva_that_is_stopped_and_started_misses_nothing_its_guests_wrote",
    "drva --begin-anew": "tests/drva/test_begin_anew.py::test_a_container_that_was_lost_and_made_again",
    "drva --discard-log --take-over": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "drva --give-up-from --take-over": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "drva --on-mismatch": "tests/domain/test_state_folder_lost.py::test_each_way_out_ends_well_and_stays_well",
    "drva --take-over": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "give-up-section": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "give-up-section --uuid": "tests/log/test_given_up.py::test_the_commands_that_errors_name_give_the_section_up",
    "inspect": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "grow-disk": "tests/drva/test_failed_disks.py::test_a_disk_that_grew_is_an_alarm_until_an_operator_takes_the_rest",
    "key new": "tests/drva/test_begin_anew.py::"
    "test_a_key_file_of_the_lost_domain_is_refused_before_anything_is_given_up",
    "key show": "tests/cli/test_key.py::test_a_key_is_made_and_shown_without_the_secret",
    "move-disk": "tests/drva/test_failed_disks.py::"
    "test_a_disk_that_was_moved_is_used_there_after_restarts_until_the_configuration_is_corrected",
    "protect": "tests/drva/test_given_up_disks.py::test_a_lost_disk_that_was_given_up_is_no_fault_and_is_not_made_anew",
    "resume": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "scrub": "tests/drva/test_own_scrub.py::"
    "test_the_last_verified_point_is_shown_and_what_differs_is_an_alarm_until_it_is_repaired",
    "repair": "tests/drva/test_repair.py::test_a_frame_that_is_damaged_in_the_store_is_copied_from_the_disk_again",
    "status": "tests/cli/test_drva.py::test_status_tells_how_every_domain_stands",
    "stop-host": "tests/drva/test_hosted.py::"
    "test_host_component_of_a_domain_that_was_taken_out_of_the_configuration_is_an_alarm_with_a_way_out",
    "take-over-volume --from": "tests/drva/test_ways_out.py::test_the_way_out_leads_to_a_protected_domain",
    "unprotect": "tests/drva/test_failed_disks.py::"
    "test_without_the_file_that_names_it_an_added_disk_is_an_alarm_with_a_way_on",
    "points": "tests/cli/test_demo.py::test_what_the_demo_keeps_can_be_recovered_again",
    "verify": "tests/cli/test_commands.py::test_verify_says_that_all_is_well",
}
"""What is told, and the test that does it and comes to a good end."""


def test_every_remedy_that_names_a_command_has_a_test_that_walks_it() -> None:
    told = {command: where for command, where in commands().items() if command.split()[0] not in NOT_COMMANDS}
    unplaced = "\n".join(f"{command}: {where[0]}" for command, where in told.items() if command not in WALKED)
    assert not unplaced, f"walk these remedies, and place them in WALKED:\n{unplaced}"
    assert not WALKED.keys() - told.keys(), "nobody tells that any more"
    for node in WALKED.values():
        file, _, name = node.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), node


@pytest.mark.parametrize("command", WALKED)
def test_every_command_that_is_told_exists_with_its_options(command: str) -> None:
    words = command.split()
    name = " ".join(word for word in words if not word.startswith("--"))
    for option in words[len(name.split()) :]:
        assert option in help_of(name), f"'jetdr {name}' has no {option}"


def test_a_drva_is_told_to_be_started_with_its_configuration() -> None:
    for told in texts():
        for match in COMMAND.finditer(told.text):
            if match["command"] == "drva" and OPTION.search(match["rest"]):
                assert match["rest"].startswith((" CONFIG --", " {} --")), told


def test_every_option_that_is_told_is_one_of_a_command() -> None:
    names = re.findall(r"^  ([a-z][a-z-]+)  ", jetdr("--help").out, re.MULTILINE)
    assert len(names) >= 20
    known = set(OPTION.findall(jetdr("--help").out)) | OTHER_PROGRAMS
    for name in [*names, "key new", "key show"]:
        known |= set(OPTION.findall(help_of(name)))
    wrong = [str(told) for told in hints() for option in OPTION.findall(told.text) if option not in known]
    assert not wrong


FACES: list[Callable[..., Any]] = [
    *(
        getattr(face, way)
        for face in (jetdr_core.ProtectedDomain, jetdr_core.HostedDomain)
        for way in ("open", "create")
    ),
    jetdr_core.ProtectedDomain.take_over,
    jetdr_core.rehydrate,
    jetdr_core.verify,
    DomainOptions,
    format_volume,
    give_up_section,
    jetdr_core.ProtectedDomain.protect,
]


def test_every_parameter_that_is_told_is_one_of_a_public_call() -> None:
    known = {name for face in FACES for name in inspect.signature(face).parameters}
    for told in hints():
        for pair in PARAMETER.findall(told.text):
            assert (pair[0] or pair[1]) in known, told


def test_every_key_that_is_told_is_one_of_the_configuration() -> None:
    for told in hints():
        for key in KEYS.findall(told.text):
            assert re.search(rf"^#? ?{key} = ", EXAMPLE, re.MULTILINE), told


def test_the_command_line_and_the_appliance_tell_nothing_that_only_python_can_do() -> None:
    python = re.compile(r"\w+=(?:True|False|None)\b|async with|\w\(\)")
    for told in hints():
        if told.path.startswith(("cli/", "drva/")):
            assert not python.search(told.text), told


EMBEDDED_ONLY = {"domain/primary.py", "domain/domain.py", "replication_log/volume.py", "store/retry.py"}
"""Errors of an embedded domain, or of a call that no command makes."""


def test_what_python_can_do_is_told_with_its_command() -> None:
    """Whoever reads an error may have started a command, so a parameter alone is no remedy."""
    for told in hints():
        if told.path not in EMBEDDED_ONLY and PARAMETER.search(told.text):
            assert "jetdr " in told.text or OPTION.search(told.text), told


def test_whoever_is_told_to_take_a_domain_over_is_told_how() -> None:
    for told in texts():
        if "take the domain over" in told.text or "take it over" in told.text:
            assert "--take-over" in told.text, told
