"""Writes the golden dirty map. Run it for a new version of the format only, under a new name.

A released golden file never changes. ``python -m tests.golden.make_dirty_map`` from the repository's root.
"""

from pathlib import Path

from jetdr_core._core import MapStart
from tests.core.map_rig import REGION, begin_map, sidecar_device

GOLDEN = Path(__file__).with_name("dirty-map-v1.bin")


if __name__ == "__main__":
    sidecar = sidecar_device()
    begin_map(sidecar, MapStart.AGREES).owe(REGION, 512)
    GOLDEN.write_bytes(sidecar.image())
