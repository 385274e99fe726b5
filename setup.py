"""Builds the three native modules and the nbdkit plugin; everything else is in pyproject.toml."""

import os

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEFINES: list[tuple[str, str | None]] = [("_GNU_SOURCE", None), ("XXH_INLINE_ALL", None)]
FLAGS = ["-std=c11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
LINK: list[str] = []
if os.environ.get("JETDR_SANITIZE") == "1":
    FLAGS += ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]


CHECKSUM = ("checksum.c", "checksum_avx2.c")


def extension(name: str, *sources: str, libraries: tuple[str, ...] = ()) -> Extension:
    return Extension(
        f"jetdr_core.{name}",
        sources=[f"native/{source}" for source in sources],
        depends=[
            "native/jetdr.h",
            "native/core_jetdr.pxi",
            "native/core_device.pxi",
            "native/core_ring.pxi",
            "native/core_log_writer.pxi",
            "native/core_io_filter.pxi",
            "native/host.h",
            "native/host_commands.h",
            "native/nbdkit_parameters.h",
            "native/ring_shared.h",
            "native/interval_map.h",
            "native/checksum.h",
            "native/scan.h",
            "native/scatter.h",
            "native/iscsi_session.h",
            "native/iscsi_inner.h",
        ],
        include_dirs=["native"],
        define_macros=DEFINES,
        extra_compile_args=FLAGS,
        extra_link_args=LINK,
        libraries=list(libraries),
    )


PLUGIN = extension(
    "nbdkit-jetdr-plugin",
    *("nbdkit_plugin.c", "nbdkit_parameters.c", "host_life.c", "host_disks.c", "host_primary.c"),
    *("host_control.c", "host_commands.c"),
    *("ring.c", "ring_file.c", "filter.c", "applier.c", "device.c"),
    *CHECKSUM,
)
PLUGIN.extra_link_args = [*LINK, "-pthread", "-Wl,-z,nodelete"]  # a thread may still return when nbdkit unloads it


class BuildExt(build_ext):
    """The plugin is no Python module: it has the file name that nbdkit looks for, and exports nothing for Python."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("nbdkit-jetdr-plugin"):
            return f"{fullname.replace('.', os.sep)}.so"
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        extension(
            "_core", "core.pyx", "ring.c", "ring_file.c", "filter.c", "applier.c", "log_writer.c", "device.c", *CHECKSUM
        ),
        extension("_iscsi", "iscsi.pyx", "iscsi_session.c", "iscsi_login.c", "iscsi_retained.c", libraries=("iscsi",)),
        extension("_kernels", "kernels.pyx", "interval_map.c", "scan.c", "scatter.c", *CHECKSUM),
        PLUGIN,
    ],
)
