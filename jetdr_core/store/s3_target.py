"""S3Target: which bucket a URL and the environment mean, and with which credential. Pure: opens nothing.

The environment variables are those of the AWS command line: AWS_ACCESS_KEY_ID, _SECRET_ACCESS_KEY, _SESSION_TOKEN,
_REGION (or _DEFAULT_REGION), and _ENDPOINT_URL_S3 (or _ENDPOINT_URL) for another server that speaks the protocol.

Invariant: no repr and no message contains a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jetdr_core.errors import InvalidRequest
from jetdr_core.store.endpoint import refuse_unencrypted
from jetdr_core.store.keys import check_prefix
from jetdr_core.store.url import StoreUrl

__all__ = ["BUCKET_FORM", "SECRET_FIELDS", "SECRET_VARIABLES", "VARIABLES", "S3Target", "s3_target"]

BUCKET_FORM = "s3://BUCKET[/PREFIX]"

SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
VARIABLES = (*SECRET_VARIABLES, *_REGIONS, *_ENDPOINTS)
SECRET_FIELDS = ("X-Amz-Credential", "X-Amz-Security-Token", "X-Amz-Signature")
"""The names of secrets within the query of a signed URL."""

_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNORDERED = "--x-s3"  # the end of the name of a directory bucket, whose listings have no order
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_REGION_ELSEWHERE = "us-east-1"  # what servers other than Amazon's expect in a signature when nothing is configured


@dataclass(frozen=True, slots=True)
class S3Target:
    """``prefix`` is empty or ends with ``/``. ``endpoint`` is empty for Amazon's own.

    Without ``key_id`` the machine's role signs in.
    """

    url: str
    bucket: str
    prefix: str
    region: str
    endpoint: str = ""
    key_id: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @property
    def place(self) -> tuple[str, str, str]:
        """What a renewed credential must not change."""
        return self.endpoint, self.region, self.bucket


def s3_target(url: str, environment: Mapping[str, str]) -> S3Target:
    """Read :data:`BUCKET_FORM`. Raises :class:`InvalidRequest` if URL or environment cannot mean a bucket."""
    parsed = StoreUrl.of(url)
    shown = str(parsed).rstrip("/")
    if parsed.query or parsed.fragment or parsed.has_user:
        raise InvalidRequest(
            f"store URL {shown!r} has a query, a fragment or a user", hint="credentials come from the environment"
        )
    if not _BUCKET.fullmatch(parsed.host) or parsed.host.endswith(_UNORDERED):
        raise InvalidRequest(
            f"store URL {shown!r} names no valid bucket",
            hint=f"use {BUCKET_FORM} with a general purpose bucket: 3 to 63 lower-case letters, digits, '-' or '.'",
        )
    prefix = parsed.path.strip("/")
    if prefix:
        check_prefix(f"{prefix}/")
    endpoint = _endpoint(environment)
    key_id, key = _keys(environment)
    return S3Target(
        shown,
        parsed.host,
        f"{prefix}/" if prefix else "",
        _region(shown, endpoint, environment),
        endpoint,
        key_id,
        key,
        environment.get("AWS_SESSION_TOKEN", "") if key else "",
    )


def _endpoint(environment: Mapping[str, str]) -> str:
    endpoint = _first(_ENDPOINTS, environment).rstrip("/")
    if not endpoint:
        return ""
    if not re.fullmatch(r"https?://[^/?#@]+[^?#@]*", endpoint):
        raise InvalidRequest("AWS_ENDPOINT_URL_S3 is no plain http(s) URL", hint="use https://HOST[:PORT]")
    refuse_unencrypted(endpoint)
    return endpoint


def _region(shown: str, endpoint: str, environment: Mapping[str, str]) -> str:
    region = _first(_REGIONS, environment) or (_REGION_ELSEWHERE if endpoint else "")
    if not _REGION.fullmatch(region):
        raise InvalidRequest(
            f"no AWS region is named for {shown!r}",
            hint="set AWS_REGION to the bucket's, or AWS_ENDPOINT_URL_S3 for a server of another maker",
        )
    return region


def _keys(environment: Mapping[str, str]) -> tuple[str, str]:
    key_id, key = environment.get("AWS_ACCESS_KEY_ID", ""), environment.get("AWS_SECRET_ACCESS_KEY", "")
    if bool(key_id) != bool(key):
        raise InvalidRequest(
            "one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is set without the other",
            hint="set both, or neither to sign in with the machine's role",
        )
    return key_id, key


def _first(names: tuple[str, ...], environment: Mapping[str, str]) -> str:
    return next((value for name in names if (value := environment.get(name, ""))), "")
