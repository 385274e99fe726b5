"""Builds the three native modules and the nbdkit plugin. Everything else is in pyproject.toml."""

import os
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEFINES: list[tuple[str, str | None]] = [("_GNU_SOURCE", None), ("XXH_INLINE_ALL", None)]
FLAGS = ["-std=c11", "-O2", "-g", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
LINK: list[str] = []
if os.environ.get("JETDR_SANITIZE") == "1":
    FLAGS += ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    LINK += ["-fsanitize=address,undefined"]


def wing(name: str, *, without: str = "") -> list[str]:
    """Return the C sources of a wing of ``native/``."""
    return [source for source in sorted(glob(f"native/{name}/*.c")) if not source.endswith(f"/{without}")]


CHECKSUM = ["native/checksum.c", "native/checksum_avx2.c"]
HEADERS = sorted(glob("native/**/*.h", recursive=True)) + sorted(glob("native/python/*.pxi"))


def extension(name: str, *sources: str, libraries: tuple[str, ...] = ()) -> Extension:
    return Extension(
        f"jetdr_core.{name}",
        sources=list(sources),
        depends=HEADERS,
        include_dirs=["native"],
        define_macros=DEFINES,
        extra_compile_args=FLAGS,
        extra_link_args=LINK,
        libraries=list(libraries),
    )


PLUGIN = extension("nbdkit-jetdr-plugin", *wing("host"), *wing("core", without="log_writer.c"), *CHECKSUM)
PLUGIN.extra_link_args = [*LINK, "-pthread", "-Wl,-z,nodelete"]  # a thread may still return when nbdkit unloads it


class BuildExt(build_ext):
    """Gives the plugin the file name that nbdkit looks for. The plugin is not a Python module."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("nbdkit-jetdr-plugin"):
            return f"{fullname.replace('.', os.sep)}.so"
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        extension("_core", "native/python/core.pyx", *wing("core"), *CHECKSUM),
        extension("_iscsi", "native/python/iscsi.pyx", *wing("iscsi"), libraries=("iscsi",)),
        extension("_kernels", "native/python/kernels.pyx", *wing("kernels"), *CHECKSUM),
        PLUGIN,
    ],
)
