"""Builds the native modules and the nbdkit plugin. Everything else is in pyproject.toml.

A machine that only recovers needs neither the plugin nor iSCSI. So both are left out, and named, where their headers
are missing. JETDR_COMPLETE=1 makes that an error.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, ExecError, SetupError

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
ISCSI = extension("_iscsi", "native/python/iscsi.pyx", *wing("iscsi"), libraries=("iscsi",))

NEEDED = {"stddef.h": "gcc and libc6-dev", "Python.h": "python3-dev", "xxhash.h": "libxxhash-dev"}
"""Headers without which nothing can be built, and their Debian packages."""

OPTIONAL = {
    ISCSI.name: ("iscsi/iscsi.h", "libiscsi-dev", "logs on iSCSI LUNs"),
    PLUGIN.name: ("nbdkit-plugin.h", "nbdkit-plugin-dev", "the host component, which protects the disks of guests"),
}
"""Extensions that may be left out: their header, its Debian package, and what is then missing."""


def each_once(compiled: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Return a ``compile`` of several files at a time, which compiles a file that two extensions share only once."""
    pool = ThreadPoolExecutor(os.cpu_count())
    objects: dict[str, Future[list[str]]] = {}

    def compile_files(sources: list[str], **settings: Any) -> list[str]:
        asked = [f"{source} {settings}" for source in sources]
        for source, key in zip(sources, asked, strict=True):
            if key not in objects:
                objects[key] = pool.submit(compiled, [source], **settings)
        return [path for key in asked for path in objects[key].result()]

    return compile_files


class BuildExt(build_ext):
    """Leaves out what has no headers, and gives the plugin the file name that nbdkit looks for.

    The plugin is not a Python module.
    """

    def build_extensions(self) -> None:
        for header, packages in NEEDED.items():
            if not self.has_header(header):
                raise SetupError(f"jetdr_core cannot be built here: {header} is missing; apt-get install {packages}")
        for name, (header, package, use) in OPTIONAL.items():
            if not self.has_header(header):
                self.leave_out(name, f"{name} is left out: {use}. {header} is missing; apt-get install {package}")
        self.compiler.compile = each_once(self.compiler.compile)
        super().build_extensions()

    def leave_out(self, name: str, reason: str) -> None:
        if os.environ.get("JETDR_COMPLETE") == "1":
            raise SetupError(reason)
        print(f"jetdr_core: {reason}", file=sys.stderr)
        self.extensions = [extension for extension in self.extensions if extension.name != name]

    def has_header(self, header: str) -> bool:
        with TemporaryDirectory() as folder:
            source = Path(folder, "has_header.c")
            source.write_text(f"#include <{header}>\n")
            try:
                self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=["-w"], include_dirs=self.include_dirs
                )
            except (CompileError, ExecError):
                return False
        return True

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("nbdkit-jetdr-plugin"):
            return f"{fullname.replace('.', os.sep)}.so"
        return str(super().get_ext_filename(fullname))  # type: ignore[no-untyped-call]


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        extension("_core", "native/python/core.pyx", *wing("core"), *CHECKSUM),
        ISCSI,
        extension("_kernels", "native/python/kernels.pyx", *wing("kernels"), *CHECKSUM),
        PLUGIN,
    ],
)
