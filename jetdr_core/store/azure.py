"""AzureBlobStore: a container, or a prefix in one, of Azure Blob Storage or of a server that speaks its protocol.

Each put is one Put Blob request. So it is atomic, and durable once the service has answered. put-if-absent sends
``If-None-Match: *``, and the service decides. The SDK's own retries are off.

Invariants: every SDK error becomes a :class:`StoreError` here, and is classified as transient or lasting. An error
quotes status, error code and request id of the service's answer, never the SDK's words, because those quote URLs and
signatures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from xml.etree import ElementTree as ET

import aiohttp
from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.identity.aio import DefaultAzureCredential
from azure.storage.blob.aio import BlobServiceClient, ContainerClient
from typing_extensions import Buffer

from jetdr_core.errors import (
    InvalidRequest,
    ObjectExists,
    ObjectNotFound,
    ObjectUnavailable,
    StoreAccessDenied,
    StoreError,
    StoreLost,
    StoreMissing,
)
from jetdr_core.store.azure_target import AzureTarget
from jetdr_core.store.azure_transport import PatientTransport
from jetdr_core.store.denial import denial_of
from jetdr_core.store.endpoint import refuse_unencrypted
from jetdr_core.store.keys import byte_views, check_key, check_prefix, check_range, is_key, store_closed, too_short
from jetdr_core.store.protocol import ObjectInfo, ObjectRange
from jetdr_core.store.ranges import get_each

__all__ = ["AzureBlobStore"]

log = logging.getLogger(__name__)
T = TypeVar("T")

STALL_LIMIT_S_DEFAULT = 30.0
PUT_BYTES_MAX = 5000 << 20
"""Longest body of one Put Blob request."""

REQUESTS_MAX = 8
"""How many ranges of one :meth:`AzureBlobStore.get_ranges` are in flight."""

_CREATE = "create container"
_PAGE_ROWS = 5000
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"AccountBeingCreated", "ContainerBeingDeleted"}
_EXISTS_CODES = {"BlobAlreadyExists", "ConditionNotMet", "LeaseIdMissing", "UnauthorizedBlobOverwrite"}
_DENIED_HINT = "the container can be listed: check the permission to read, and conditions on this object"
_QUOTED_QUERY = re.compile(r"\?\S+")


class AzureBlobStore:
    """The place that ``target`` names. With ``create``, the first operation creates the container if it is missing.

    A request that stands still for ``stall_limit_s`` fails as transient. ``renewed`` gives the same place with the
    credential of now. It is asked when the service refuses the credential, and the request is repeated if that changed.
    """

    def __init__(
        self,
        target: AzureTarget,
        *,
        create: bool = False,
        stall_limit_s: float = STALL_LIMIT_S_DEFAULT,
        renewed: Callable[[], AzureTarget] | None = None,
    ) -> None:
        self._renewed = renewed or (lambda: target)
        self._stall_limit_s = stall_limit_s
        self._client = _Client.of(target, stall_limit_s)
        self._given_up: list[_Client] = []
        self._create = create
        self._creating = asyncio.Lock()
        self._has_answered = False
        self._closed = False

    def __repr__(self) -> str:
        return f"AzureBlobStore({self.url!r})"

    @property
    def url(self) -> str:
        return self._target.url

    @property
    def _target(self) -> AzureTarget:
        return self._client.target

    @property
    def _container(self) -> ContainerClient:
        return self._client.container

    async def put_if_absent(self, key: str, data: Sequence[Buffer]) -> None:
        await self._put("put", key, data, overwrite=False)

    async def replace(self, key: str, data: Sequence[Buffer]) -> None:
        await self._put("replace", key, data, overwrite=True)

    async def get(self, key: str) -> bytes:
        check_key(key)
        return await self._call("get", key, lambda: self._download(key))

    async def get_range(self, key: str, offset: int, length: int) -> bytes:
        check_key(key)
        check_range(key, offset, length)
        if not length:
            return await self._empty_range(key, offset)
        data = await self._call("get range", key, lambda: self._download(key, offset=offset, length=length))
        if len(data) != length:
            raise too_short(key, offset, length)
        return data

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        return await get_each(self.get_range, ranges, requests_max=REQUESTS_MAX)

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        check_prefix(prefix)
        listing = _Listing(self._target.prefix + prefix)
        start = len(self._target.prefix)
        while (rows := await self._call("list", prefix, lambda: listing.next_page(self._container))) is not None:
            for name, size in rows:
                if is_key(name[start:]):
                    yield ObjectInfo(name[start:], size)

    async def delete(self, key: str) -> None:
        check_key(key)
        try:
            await self._call("delete", key, lambda: self._blob(key).delete_blob())
        except ObjectNotFound:
            return

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            for client in (*self._given_up, self._client):
                await client.close()

    async def _put(self, operation: str, key: str, data: Sequence[Buffer], *, overwrite: bool) -> None:
        check_key(key)
        body = b"".join(byte_views(data))
        try:
            await self._call(operation, key, lambda: self._blob(key).upload_blob(body, overwrite=overwrite))
        except _Conflict:
            if overwrite or not await self._is_there(key):
                raise
            raise ObjectExists(operation, key) from None

    async def _is_there(self, key: str) -> bool:
        return key in [info.key async for info in self.list_prefix(key)]

    async def _download(self, key: str, **bounds: int) -> bytes:
        stream = await self._blob(key).download_blob(**bounds)
        chunks = [chunk async for chunk in stream.chunks()]
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _empty_range(self, key: str, offset: int) -> bytes:
        """Return an empty range. The protocol has none, so ask for the size instead."""
        properties = await self._call("get range", key, lambda: self._blob(key).get_blob_properties())
        if offset > properties.size:
            raise too_short(key, offset, 0)
        return b""

    def _blob(self, key: str) -> Any:
        return self._container.get_blob_client(self._target.prefix + key)

    async def _call(self, operation: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``request``, whose SDK errors become store errors.

        ``request`` is made once more if its credential was refused and there is another now.
        """
        if self._closed:
            raise store_closed(operation, key)
        if self._create and operation != _CREATE:
            await self._create_container()
        used = self._client
        try:
            return await self._answer(operation, key, request)
        except StoreAccessDenied as error:
            if not await self._renew(used, error):
                raise await denial_of(self, error, _DENIED_HINT) from None
        try:
            return await self._answer(operation, key, request)
        except StoreAccessDenied as error:
            raise await denial_of(self, error, _DENIED_HINT) from None

    async def _renew(self, used: _Client, refused: StoreAccessDenied) -> bool:
        """Take the credential of now. Whether it is another than the one ``used``, which was refused."""
        try:
            target = await asyncio.to_thread(self._renewed)
            if self._client is not used or self._closed:
                return not self._closed
            if target == used.target:
                return False
            client = _Client.of(target, self._stall_limit_s)
            if client.place != used.place:
                await client.close()
                raise InvalidRequest("the renewed credential is of another account", hint="reopen the domain with it")
            self._client = client
        except (InvalidRequest, OSError) as error:
            log.warning("%s: %s; the credential cannot be renewed: %s", self.url, refused.cause, error)
            return False
        self._given_up.append(used)
        log.info("%s: the credential was renewed", self.url)
        return True

    async def _answer(self, operation: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await request()
            self._has_answered = True
            return answer
        except AzureError as error:
            if isinstance(error, HttpResponseError) and error.response is not None:
                failure = _refused(operation, key, self._target, error)
                if self._has_answered and isinstance(failure, _ContainerMissing):
                    failure = StoreLost(operation, key, f"container {self._target.container!r} is gone")
            else:
                failure = _unanswered(operation, key, self._target, error)
        raise failure  # outside the except block, so that the SDK's error, which quotes URLs, is not its context

    async def _create_container(self) -> None:
        async with self._creating:
            if self._create:
                with contextlib.suppress(ObjectExists, StoreAccessDenied):  # one that exists needs no right to create
                    await self._call(_CREATE, self._target.container, self._container.create_container)
                self._create = False


@dataclass(frozen=True, slots=True, eq=False)
class _Client:
    """The SDK's objects for one target with one credential."""

    target: AzureTarget
    credential: Any = field(repr=False)
    service: BlobServiceClient = field(repr=False)
    container: ContainerClient = field(repr=False)

    @classmethod
    def of(cls, target: AzureTarget, stall_limit_s: float) -> _Client:
        credential = _credential(target)
        service = _service(target, credential, stall_limit_s)
        refuse_unencrypted(service.url)
        return cls(target, credential, service, service.get_container_client(target.container))

    @property
    def place(self) -> str:
        """The container's URL without a signature. Connection strings name accounts that the target does not."""
        return str(self.container.url).partition("?")[0]

    async def close(self) -> None:
        await self.service.close()
        if isinstance(self.credential, DefaultAzureCredential):
            await self.credential.close()


def _credential(target: AzureTarget) -> AzureNamedKeyCredential | AzureSasCredential | DefaultAzureCredential | None:
    if target.connection_string:
        return None
    if target.key:
        return AzureNamedKeyCredential(target.account, target.key)
    return AzureSasCredential(target.sas) if target.sas else DefaultAzureCredential()


def _service(target: AzureTarget, credential: Any, stall_limit_s: float) -> BlobServiceClient:
    options: dict[str, Any] = {
        "transport": PatientTransport(stall_limit_s=stall_limit_s),
        "retry_total": 0,
        "permit_redirects": False,  # a signature goes where it was meant to go, and nowhere else
        "max_single_put_size": PUT_BYTES_MAX,
        "max_single_get_size": PUT_BYTES_MAX,
        "max_chunk_get_size": PUT_BYTES_MAX,
    }
    if not target.connection_string:
        return BlobServiceClient(target.endpoint, credential, **options)
    with contextlib.suppress(ValueError):  # its text may quote the secret, so it is neither shown nor chained
        return BlobServiceClient.from_connection_string(target.connection_string, **options)
    raise InvalidRequest(
        "AZURE_STORAGE_CONNECTION_STRING is malformed",
        hint="copy it whole: DefaultEndpointsProtocol=...;AccountName=...;AccountKey=...;EndpointSuffix=...",
    )


class _ContainerMissing(StoreError, StoreMissing):
    """The container does not exist. If it has answered before, the store is lost."""

    is_refusal = False


class _Conflict(StoreError):
    """The state of blob, container or account forbids the operation. The code does not say whether the blob exists."""


class _Listing:
    """Names and sizes, page by page, read from the XML of the answers.

    The SDK has a fast listing of names, and one with sizes that takes a quarter of a millisecond for each blob. So this
    turns the pages of the first, and takes the sizes from the same answers.
    """

    def __init__(self, name_prefix: str) -> None:
        self._name_prefix = name_prefix
        self._container: ContainerClient | None = None
        self._pages: Any = None
        self._body = b""

    async def next_page(self, container: ContainerClient) -> list[tuple[str, int]] | None:
        """Return the rows of the next page, or None after the last. A client that is new continues the old one's."""
        if container is not self._container:
            token = self._pages.continuation_token if self._pages is not None else None
            names = container.list_blob_names(
                name_starts_with=self._name_prefix, results_per_page=_PAGE_ROWS, raw_response_hook=self._keep
            )
            self._container, self._pages = container, names.by_page(continuation_token=token)
        if await anext(self._pages, None) is None:
            return None
        blobs = ET.fromstring(self._body).iter("Blob")
        return [(blob.findtext("Name", ""), int(blob.findtext("Properties/Content-Length", "0"))) for blob in blobs]

    def _keep(self, response: Any) -> None:
        self._body = response.http_response.body()


def _unanswered(operation: str, key: str, target: AzureTarget, error: AzureError) -> StoreError:
    """Return the error of a request without an answer: the connection failed, or the SDK did not send the request."""
    cause = f"{type(error).__name__}: {_plain(error, target)}"
    if isinstance(error, ClientAuthenticationError):
        hint = "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or sign in with azure-identity"
        return StoreAccessDenied(operation, key, cause, hint=hint)
    if isinstance(error.inner_exception, aiohttp.ClientConnectorCertificateError):
        return StoreError(operation, key, cause, transient=False, hint="check the endpoint's TLS certificate")
    if isinstance(error.inner_exception, aiohttp.ClientConnectorDNSError):
        cause = f"the name of the host {error.inner_exception.host!r} cannot be resolved"
        hint = f"check the name of the account ({target.account or 'in the connection string'}), and the network"
        return StoreError(operation, key, cause, transient=True, hint=hint)
    transient = error.inner_exception is not None  # without one, the SDK itself refused to send
    return StoreError(operation, key, cause, transient=transient, hint="check the network and the endpoint")


def _refused(operation: str, key: str, target: AzureTarget, error: HttpResponseError) -> StoreError:
    """Return the error that the HTTP status and error code of the answer mean for this operation."""
    headers = error.response.headers  # type: ignore[union-attr]
    status, code = error.status_code or 0, headers.get("x-ms-error-code", "")
    cause = f"HTTP {status} {code} (request {headers.get('x-ms-request-id', 'unnamed')})"
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return StoreError(operation, key, cause, transient=True)
    if code == "ContainerNotFound" or (status == 404 and operation in {"put", "replace", "list"}):
        hint = "check account and container, or create it; a new domain creates it with create = true or --create"
        cause = f"container {target.container!r} does not exist"
        return _ContainerMissing(operation, key, cause, transient=False, hint=hint)
    if status == 404:
        return ObjectNotFound(operation, key)
    if status == 409 and operation.startswith("get"):
        archived = code in {"BlobArchived", "BlobBeingRehydrated"}
        cause = f"the object is in the archive tier ({cause})" if archived else cause
        hint = "rehydrate it to the hot or cool tier, which takes hours" if archived else "check the object's state"
        return ObjectUnavailable(operation, key, cause, hint=hint)
    if (operation == _CREATE and status == 409) or (operation == "put" and code in _EXISTS_CODES):
        return ObjectExists(operation, key)
    if status in {409, 412}:
        hint = "check the container's policies, leases and limits"
        return _Conflict(operation, key, cause, transient=False, hint=hint)
    if status in {401, 403}:
        return StoreAccessDenied(operation, key, cause, hint="check the credentials, their permissions and the clock")
    if 300 <= status < 400:
        hint = "redirects are not followed: name the endpoint that is meant"
        return StoreError(operation, key, cause, transient=False, hint=hint)
    if code == "InvalidRange":
        return ObjectUnavailable(operation, key, f"the object ends before the range ({cause})")
    return StoreError(operation, key, cause, transient=False)


def _plain(error: AzureError, target: AzureTarget) -> str:
    """Return the first line of the error's text, without queries and without the secrets of ``target``."""
    text = _QUOTED_QUERY.sub("?...", str(error).partition("\n")[0])
    for secret in (target.key, target.sas, target.connection_string):
        text = text.replace(secret, "...") if secret else text
    return text[:300]
