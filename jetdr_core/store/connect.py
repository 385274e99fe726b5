"""How a URL becomes a store: the table of schemes, and the one place that stacks wrappers.

:func:`connected` gives a store that is ready for use. :func:`open_store` gives the bare store, on which a caller may
stack something else. Help texts and error texts take the forms of URLs from :data:`SCHEMES`, so another kind of store
is one more row there. The row also names the secrets of its kind of store. Log lines and messages go without what these
names stand for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from jetdr_core.errors import InvalidRequest
from jetdr_core.store import azure_target as azure
from jetdr_core.store import s3_target as s3
from jetdr_core.store.bandwidth import BandwidthLimitedStore
from jetdr_core.store.credential_file import credential_variables
from jetdr_core.store.directory import DirectoryStore
from jetdr_core.store.memory import MemoryStore
from jetdr_core.store.protocol import ObjectStore
from jetdr_core.store.retry import RetryingStore, RetryPolicy
from jetdr_core.store.url import StoreUrl

__all__ = [
    "SCHEMES",
    "Scheme",
    "azure_target_of",
    "connected",
    "directory_of",
    "is_lasting_url",
    "open_store",
    "secret_names",
    "secret_variables",
    "url_forms",
    "variables_of",
]

_DIRECTORY_FORM = "file:///PATH"
_MEMORY_FORM = "memory://NAME"


@asynccontextmanager
async def connected(
    place: str | ObjectStore,
    *,
    create: bool = False,
    retry: RetryPolicy | None = None,
    bandwidth_bytes_per_s: float | None = None,
    apart: bool = False,
) -> AsyncIterator[RetryingStore]:
    """Give the store at a URL, or an open one, with retries and, if asked for, a limit on the bandwidth of uploads.

    A store that was opened here is closed at the end. An open one stays open: it is its owner's to close. ``apart``: no
    call and no close waits for a file system that hangs.
    """
    store = open_store(place, create=create, apart=apart) if isinstance(place, str) else place
    try:
        limited = BandwidthLimitedStore(store, bandwidth_bytes_per_s) if bandwidth_bytes_per_s else store
        retrying = RetryingStore(limited, retry)
        try:
            yield retrying
        finally:
            retrying.forget()
    finally:
        if isinstance(place, str):
            await store.close()


def open_store(url: str, *, create: bool = False, apart: bool = False) -> ObjectStore:
    """Return the bare store at ``url``: no retries, no limits. :class:`InvalidRequest` for a bad URL.

    A missing container is created with ``create``. Without it a missing directory is refused here, and a missing Azure
    container at the first operation, as is a missing directory with ``apart``: see :class:`DirectoryStore`.
    """
    if not isinstance(url, str) or not url.isprintable():
        raise InvalidRequest("the store URL is not printable text", hint=f"use {url_forms()}")
    try:
        parsed = StoreUrl.of(url)
    except ValueError:
        raise InvalidRequest("the store URL is malformed", hint=f"use {url_forms()}") from None
    for scheme in SCHEMES:
        if scheme.name == parsed.scheme:
            return scheme.open(parsed, StoreOpening(create=create, apart=apart, place=url))
    if not parsed.scheme:
        raise InvalidRequest(f"store {parsed.path!r} is not a URL", hint=f"use {url_forms()}")
    raise InvalidRequest(
        f"store URL {str(parsed)!r} has the unknown scheme {parsed.scheme!r}", hint=f"use {url_forms()}"
    )


def url_forms(*, lasting: bool = False) -> str:
    """Return the forms of URLs for a message: ``A, B or C``. ``lasting``: only of stores that outlive a process."""
    forms = [scheme.form for scheme in SCHEMES if scheme.is_lasting or not lasting]
    return f"{', '.join(forms[:-1])} or {forms[-1]}"


def is_lasting_url(url: str) -> bool:
    """Whether ``url`` begins like that of a store which outlives the process. The rest of it is not looked at."""
    return any(scheme.is_lasting and url.startswith(scheme.prefix) for scheme in SCHEMES)


def secret_variables() -> set[str]:
    """Return the environment variables that hold credentials of stores."""
    return {name for scheme in SCHEMES for name in scheme.secret_variables}


def secret_names() -> set[str]:
    """Return the names after which a text may give a credential: ``NAME=secret``."""
    return secret_variables() | {name for scheme in SCHEMES for name in scheme.secret_fields}


# -- the kinds of stores -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StoreOpening:
    """How a store is opened. ``create``: make a missing container. ``apart``: blocking I/O is done in a process.

    ``place`` is the URL as it was given, perhaps with a credential file of its own.
    """

    create: bool
    apart: bool
    place: str


@dataclass(frozen=True, slots=True)
class Scheme:
    """One kind of URL: its ``form``, with names of its parts in capitals, and what opens the bare store.

    A store that is not ``is_lasting`` ends with its process. ``variables`` are the environment variables that say where
    it is and how to sign in, ``secret_variables`` those of them with credentials. ``secret_fields`` are names that
    precede a credential inside a URL or another text of its kind of store.
    """

    form: str
    open: Callable[[StoreUrl, StoreOpening], ObjectStore]
    is_lasting: bool = True
    variables: tuple[str, ...] = ()
    secret_variables: tuple[str, ...] = ()
    secret_fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.form.partition(":")[0]

    @property
    def prefix(self) -> str:
        """What stands before the first name of a part: ``file:///`` of ``file:///PATH``."""
        return self.form[: next(at for at, character in enumerate(self.form) if character.isupper())]


def directory_of(url: StoreUrl) -> Path:
    """Return the folder that a ``file`` URL names. It need not exist."""
    url.refuse_extras()
    if url.host not in {"", "localhost"} or not url.path.startswith("/"):
        raise InvalidRequest(f"store URL {str(url)!r} is relative", hint=f"use an absolute path: {_DIRECTORY_FORM}")
    path = PurePosixPath(unquote(url.path))
    if ".." in path.parts or "\0" in str(path):
        raise InvalidRequest(f"store URL {str(url)!r} contains '..' or NUL", hint="write the path out")
    return Path("/", *path.parts[1:])


def _open_directory(url: StoreUrl, opening: StoreOpening) -> ObjectStore:
    return DirectoryStore(directory_of(url), create=opening.create, apart=opening.apart)


def _open_azure(_url: StoreUrl, opening: StoreOpening) -> ObjectStore:
    """Imported on use: the Azure SDK takes longer to import than a local recovery point takes to list."""
    from jetdr_core.store.azure import AzureBlobStore  # noqa: PLC0415

    def target() -> azure.AzureTarget:
        return azure_target_of(opening.place)

    return AzureBlobStore(target(), create=opening.create, renewed=target)


def azure_target_of(place: str) -> azure.AzureTarget:
    """Return which container ``place`` names, with the credential that its file or the environment has now."""
    return azure.azure_target(str(place), _settings(place))


def _open_s3(_url: StoreUrl, opening: StoreOpening) -> ObjectStore:
    """Imported on use: obstore is an extra, which only this kind of store needs."""

    def target() -> s3.S3Target:
        return s3.s3_target(str(opening.place), _settings(opening.place))

    found = target()
    try:
        from jetdr_core.store.s3 import S3Store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise InvalidRequest(
            f"store URL {found.url!r} needs the package obstore", hint="pip install 'jetdr_core[s3]'"
        ) from None
    return S3Store(found, renewed=target)


def variables_of(url: str) -> frozenset[str]:
    """Return the environment variables that say where the store at ``url`` is and how to sign in."""
    return frozenset(name for scheme in SCHEMES if url.startswith(scheme.prefix) for name in scheme.variables)


def _settings(place: str) -> Mapping[str, str]:
    """The variables with which to open ``place``: those of its credential file, and the environment's."""
    return credential_variables(place, variables_of(place), frozenset(secret_variables()), os.environ)


def _open_memory(url: StoreUrl, _opening: StoreOpening) -> ObjectStore:
    url.refuse_extras()
    if url.path.strip("/"):
        raise InvalidRequest(f"store URL {str(url)!r} has a path", hint=f"use {_MEMORY_FORM}")
    return MemoryStore(url.host)


SCHEMES = (
    Scheme(_DIRECTORY_FORM, _open_directory),
    Scheme(
        azure.CONTAINER_FORM,
        _open_azure,
        variables=azure.VARIABLES,
        secret_variables=azure.SECRET_VARIABLES,
        secret_fields=azure.SECRET_FIELDS,
    ),
    Scheme(
        azure.ACCOUNT_FORM,
        _open_azure,
        variables=azure.VARIABLES,
        secret_variables=azure.SECRET_VARIABLES,
        secret_fields=azure.SECRET_FIELDS,
    ),
    Scheme(
        s3.BUCKET_FORM,
        _open_s3,
        variables=s3.VARIABLES,
        secret_variables=s3.SECRET_VARIABLES,
        secret_fields=s3.SECRET_FIELDS,
    ),
    Scheme(_MEMORY_FORM, _open_memory, is_lasting=False),
)
