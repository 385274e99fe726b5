"""S3Store: a bucket, or a prefix in one, of Amazon S3 or of a server that speaks its protocol.

obstore makes the requests: the object_store crate signs, and moves bytes, at a small part of what botocore takes of the
CPU. Each put is one request. So it is atomic, and durable once the service has answered. put-if-absent sends
``If-None-Match: *``, and the service decides. obstore's own retries are off.

obstore tells a failure as a text, with status and body of the answer in it. Status and error code are read from there.

Invariants: every error of obstore becomes a :class:`StoreError` here, and is classified as transient or lasting. An
error quotes status, error code and request id of the service's answer, never obstore's words, because those quote
whatever the service says. An upload follows no redirect. The library lets a read follow one, without the signature, and
from https to https only.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Client
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
from jetdr_core.store.denial import denial_of
from jetdr_core.store.keys import byte_views, check_key, check_prefix, check_range, is_key, store_closed, too_short
from jetdr_core.store.protocol import ObjectInfo, ObjectRange
from jetdr_core.store.ranges import get_each
from jetdr_core.store.s3_target import S3Target

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutMode
    from obstore.store import S3Credential

__all__ = ["S3Store"]

log = logging.getLogger(__name__)
T = TypeVar("T")

STALL_LIMIT_S_DEFAULT = 30.0
SLOWEST_BYTES_PER_S = 64 << 10
"""A request may take the stall limit, and as long again as its bytes take on a line of this speed."""

REQUESTS_MAX = 16
"""How many ranges of one :meth:`S3Store.get_ranges` are in flight."""

_LIST_ROWS = 1000
_CONNECT_LIMIT = "10s"
_FOREVER = "3650d"  # each call has a limit of its own

_FAILURES = (BaseError, OSError)  # some of obstore's errors are built-in ones, such as FileNotFoundError
_DENIED_HINT = "the bucket can be listed: check the permission s3:GetObject, and conditions on this object"
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted"}
_DENIED_CODES = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}
_REGION_CODES = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
_TRANSIENT_KINDS = {"Connect", "Timeout", "Request", "Interrupted", "Unknown"}


class S3Store:
    """The place that ``target`` names. A missing bucket is never created: its region and policy are its owner's.

    A request that takes longer than ``stall_limit_s``, and what its bytes allow, fails as transient. ``renewed`` gives
    the same place with the credential of now. It is asked when the service refuses the credential, and the request is
    repeated if that changed.
    """

    def __init__(
        self,
        target: S3Target,
        *,
        stall_limit_s: float = STALL_LIMIT_S_DEFAULT,
        renewed: Callable[[], S3Target] | None = None,
    ) -> None:
        self._target = target
        self._renewed = renewed or (lambda: target)
        self._stall_limit_s = stall_limit_s
        self._client = _client(target, self._credential)
        self._has_answered = False
        self._closed = False

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        return self._target.url

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
        data = await self._call("get range", key, lambda: self._download_range(key, offset, length))
        if len(data) != length:
            raise too_short(key, offset, length)
        return data

    async def get_ranges(self, ranges: Sequence[ObjectRange]) -> list[bytes | StoreError]:
        return await get_each(self.get_range, ranges, requests_max=REQUESTS_MAX)

    async def list_prefix(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List. The crate lists whole folders, so a listing begins shortly before ``prefix`` and ends after it.

        The crate takes the ``/`` from the name of an object that stands for a folder, so that object always seems to
        come next.
        """
        check_prefix(prefix)
        wanted = self._target.prefix + prefix
        folder = wanted.rpartition("/")[0]
        seen = wanted[:-1].rstrip("/")  # the listing has what comes after this name
        start = len(self._target.prefix)
        while rows := await self._call("list", prefix, partial(self._rows, folder, seen)):
            if rows[-1][0] == seen:
                return
            for path, size_bytes in rows:
                if path.startswith(wanted) and is_key(path[start:]):
                    yield ObjectInfo(path[start:], size_bytes)
            seen = rows[-1][0]
            if seen > wanted and not seen.startswith(wanted):
                return

    async def delete(self, key: str) -> None:
        check_key(key)
        try:
            await self._call("delete", key, lambda: self._remove(key))
        except ObjectNotFound:
            return

    async def close(self) -> None:
        self._closed = True

    async def _put(self, operation: str, key: str, data: Sequence[Buffer], *, overwrite: bool) -> None:
        check_key(key)
        body = b"".join(byte_views(data))
        mode: PutMode = "overwrite" if overwrite else "create"

        async def request() -> None:
            await self._within(
                len(body), obstore.put_async(self._client, self._path(key), body, mode=mode, use_multipart=False)
            )

        await self._call(operation, key, request)

    async def _download(self, key: str) -> bytes:
        answer = await self._within(0, obstore.get_async(self._client, self._path(key)))
        return bytes(await self._within(answer.meta["size"], answer.bytes_async()))

    async def _download_range(self, key: str, offset: int, length: int) -> bytes:
        request = obstore.get_range_async(self._client, self._path(key), start=offset, length=length)
        return bytes(await self._within(length, request))

    async def _head(self, key: str) -> ObjectMeta:
        return await self._within(0, obstore.head_async(self._client, self._path(key)))

    async def _empty_range(self, key: str, offset: int) -> bytes:
        """Return an empty range. The protocol has none, so ask for the size instead."""
        found = await self._call("get range", key, lambda: self._head(key))
        if offset > found["size"]:
            raise too_short(key, offset, 0)
        return b""

    async def _remove(self, key: str) -> None:
        await self._within(0, obstore.delete_async(self._client, self._path(key)))

    async def _rows(self, folder: str, after: str) -> list[tuple[str, int]]:
        """Names and sizes of the next objects of ``folder`` in order, or nothing after the last."""
        stream = obstore.list(self._client, folder or None, offset=after or None, chunk_size=_LIST_ROWS)
        rows = await self._within(0, anext(stream, []))
        return sorted((row["path"], row["size"]) for row in rows)

    def _path(self, key: str) -> str:
        return self._target.prefix + key

    def _credential(self) -> S3Credential:
        """The credential of now. obstore asks before each request, because it has always just expired."""
        target = self._target
        return {
            "access_key_id": target.key_id,
            "secret_access_key": target.key,
            "token": target.token or None,
            "expires_at": datetime.now(UTC),
        }

    async def _call(self, operation: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        """Return the result of ``request``, whose errors become store errors.

        ``request`` is made once more if its credential was refused and there is another now.
        """
        if self._closed:
            raise store_closed(operation, key)
        used = self._target
        try:
            return await self._answer(operation, key, request)
        except StoreAccessDenied as error:
            if not await self._renew(used, error):
                raise await denial_of(self, error, _DENIED_HINT) from None
        try:
            return await self._answer(operation, key, request)
        except StoreAccessDenied as error:
            raise await denial_of(self, error, _DENIED_HINT) from None

    async def _answer(self, operation: str, key: str, request: Callable[[], Awaitable[T]]) -> T:
        try:
            answer = await request()
            self._has_answered = True
            return answer
        except TimeoutError:
            cause = f"the request stood still for {self._stall_limit_s:g} s, or its line is too slow"
            failure = StoreError(operation, key, cause, transient=True, hint="check the network and the endpoint")
        except _FAILURES as error:
            failure = _failure(operation, key, self._target, _Told.of(str(error)))
            if self._has_answered and isinstance(failure, _BucketMissing):
                failure = StoreLost(operation, key, f"bucket {self._target.bucket!r} is gone")
        raise failure  # outside the except block, so that obstore's error is not its context

    async def _within(self, size_bytes: int, request: Awaitable[T]) -> T:
        """Await ``request``, which moves so many bytes. Raises ``TimeoutError`` if that takes too long."""
        async with asyncio.timeout(self._stall_limit_s + size_bytes / SLOWEST_BYTES_PER_S):
            return await request

    async def _renew(self, used: S3Target, refused: StoreAccessDenied) -> bool:
        """Take the credential of now. Whether it is another than the one ``used``, which was refused."""
        try:
            target = await asyncio.to_thread(self._renewed)
        except (InvalidRequest, OSError) as error:
            log.warning("%s: %s; the credential cannot be renewed: %s", self.url, refused.cause, error)
            return False
        if self._target is not used:
            return True
        if target == used or target.place != used.place or not target.key_id or not used.key_id:
            return False
        self._target = target
        log.info("%s: the credential was renewed", self.url)
        return True


def _client(target: S3Target, credential: Callable[[], S3Credential]) -> Client:
    """Everything is said that obstore would otherwise take from the environment, save the role of the machine."""
    signs = {"credential_provider": credential} if target.key_id else {}
    place = {"endpoint": target.endpoint, "aws_endpoint_url_s3": target.endpoint} if target.endpoint else {}
    by_host = not target.endpoint and "." not in target.bucket
    return Client(
        target.bucket,
        region=target.region,
        virtual_hosted_style_request=by_host,
        conditional_put="etag",
        skip_signature=False,
        disable_bulk_delete=True,
        client_options={
            "allow_http": target.endpoint.startswith("http:"),
            "connect_timeout": _CONNECT_LIMIT,
            "timeout": _FOREVER,
        },
        retry_config={"max_retries": 0},
        **place,  # type: ignore[arg-type]
        **signs,  # type: ignore[arg-type]
    )


class _BucketMissing(StoreError, StoreMissing):
    """The bucket does not exist. If it has answered before, the store is lost."""

    is_refusal = False


class _Told(NamedTuple):
    """What obstore's text tells of a failure. ``status`` is 0 if there was no answer, ``kind`` is why then."""

    status: int
    code: str
    request: str
    kind: str
    detail: str

    @classmethod
    def of(cls, text: str) -> _Told:
        def found(pattern: str) -> str:
            match = re.search(pattern, text)
            return match[1] if match else ""

        status = found(r"status code: (\d{3})\b")
        request = found(r"<RequestId>([\w/+=-]{1,100})</RequestId>")
        code = found(r"<Code>(\w{1,100})</Code>")
        kind = found(r"HttpError \{\s*kind: (\w+)")
        detail = found(r'(?:message|error): "([^"]{1,200})"') or kind
        return cls(int(status or 0), code, request, kind, detail)

    @property
    def cause(self) -> str:
        return f"HTTP {self.status} {self.code} (request {self.request or 'unnamed'})"


def _failure(operation: str, key: str, target: S3Target, told: _Told) -> StoreError:
    """Return the error that status and error code of the answer mean for this operation."""
    if not told.status:
        return _unanswered(operation, key, target, told)
    status, code, cause = told.status, told.code, told.cause
    if status in _TRANSIENT_STATUS or code in _TRANSIENT_CODES:
        return StoreError(operation, key, cause, transient=True)
    if code in _REGION_CODES or 300 <= status < 400:
        hint = f"the bucket may lie in another region than {target.region!r}: set AWS_REGION"
        return StoreError(operation, key, cause, transient=False, hint=hint)
    if code == "NoSuchBucket" or (status == 404 and operation in {"put", "replace", "list"}):
        hint = "check bucket and endpoint, or create the bucket; it is not created for a new domain"
        return _BucketMissing(operation, key, f"bucket {target.bucket!r} does not exist", transient=False, hint=hint)
    if code == "InvalidObjectState":
        hint = "restore it to a class that can be read at once, which takes hours"
        return ObjectUnavailable(operation, key, f"the object is in an archive class ({cause})", hint=hint)
    if status == 404:
        return ObjectNotFound(operation, key)
    if status == 412 and operation == "put":
        return ObjectExists(operation, key)
    if status in {401, 403} or code in _DENIED_CODES:
        return StoreAccessDenied(operation, key, cause, hint="check the credentials, their permissions and the clock")
    if status == 416:
        return ObjectUnavailable(operation, key, f"the object ends before the range ({cause})")
    return StoreError(operation, key, cause, transient=False, hint="check the bucket's policies")


def _unanswered(operation: str, key: str, target: S3Target, told: _Told) -> StoreError:
    """Return the error of a request without an answer."""
    cause = told.detail or "the request was not sent"
    if "certificate" in cause:
        return StoreError(operation, key, cause, transient=False, hint="check the endpoint's TLS certificate")
    if not target.key_id and told.kind not in _TRANSIENT_KINDS:
        hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role"
        return StoreAccessDenied(operation, key, cause, hint=hint)
    transient = told.kind in _TRANSIENT_KINDS
    return StoreError(operation, key, cause, transient=transient, hint="check the network, endpoint and region")
