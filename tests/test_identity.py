"""What a machine is known by."""

from __future__ import annotations

from pathlib import Path

from jetdr_core.identity import host_owner


def test_a_clone_of_a_machine_is_another_owner(tmp_path: Path) -> None:
    """A clone has the same machine id, and the hypervisor gives its firmware another UUID."""
    machine, first, clone = tmp_path / "machine-id", tmp_path / "first", tmp_path / "clone"
    machine.write_text("5d2c0b7f4a\n")
    first.write_text("4C4C4544-0001\n")
    clone.write_text("4C4C4544-0002\n")
    assert host_owner(machine, first) == host_owner(machine, first)
    assert len({host_owner(machine, first), host_owner(machine, clone), host_owner(machine, tmp_path / "none")}) == 3


def test_a_machine_without_ids_is_known_by_its_name(tmp_path: Path) -> None:
    assert host_owner(tmp_path / "none", tmp_path / "none") == host_owner(tmp_path / "none", tmp_path / "no")
