"""AzureTarget: which container a URL and the environment mean, and with which credential. Pure: opens nothing.

The environment variables are those of the Azure command line: AZURE_STORAGE_CONNECTION_STRING, _ACCOUNT, _KEY,
_SAS_TOKEN and _SERVICE_ENDPOINT.

Invariants: no repr and no message contains a secret (key, shared access signature, connection string). A credential is
used only for the account that it belongs to.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from jetdr_core.errors import InvalidRequest
from jetdr_core.store.keys import check_prefix
from jetdr_core.store.url import StoreUrl

__all__ = [
    "ACCOUNT_FORM",
    "CONTAINER_FORM",
    "SECRET_FIELDS",
    "SECRET_VARIABLES",
    "VARIABLES",
    "AzureTarget",
    "azure_target",
]

CONTAINER_FORM = "az://CONTAINER[/PREFIX]"
ACCOUNT_FORM = "https://ACCOUNT.blob.core.windows.net/CONTAINER[/PREFIX]"

SECRET_VARIABLES = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN")
VARIABLES = (*SECRET_VARIABLES, "AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_SERVICE_ENDPOINT")
SECRET_FIELDS = ("AccountKey", "SharedAccessSignature", "sig")
"""The names of secrets within a connection string, and within the query of a URL."""

_CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_PUBLIC_HOST = re.compile(
    r"(?P<account>[a-z0-9]{3,24})(?:\.z[0-9]{2})?\.blob\."
    r"(?:core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net|storage\.azure\.net)"
)
_SETTINGS_HINT = (
    "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN "
    "(with neither, azure-identity signs in)"
)


@dataclass(frozen=True, slots=True)
class AzureTarget:
    """``prefix`` is empty or ends with ``/``. At most one credential is set. Without one, azure-identity signs in."""

    url: str
    container: str
    prefix: str
    endpoint: str = ""
    account: str = ""
    connection_string: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)

    @property
    def can_sign(self) -> bool:
        """Whether the credential is the account's key, which allows everything."""
        return bool(self.key or _setting(self.connection_string, "AccountKey"))

    @property
    def has_signature(self) -> bool:
        """Whether the credential is a shared access signature, whose fields say what it allows."""
        return bool(self._signature)

    @property
    def permissions(self) -> str | None:
        """The rights of the shared access signature, one letter each. None if a policy of the container has them."""
        return self._signature.get("sp")

    @property
    def expires(self) -> datetime | None:
        """When the shared access signature ends. None if it does not say."""
        try:
            found = datetime.fromisoformat(self._signature.get("se", ""))
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    @property
    def _signature(self) -> dict[str, str]:
        return dict(parse_qsl(self.sas or _setting(self.connection_string, "SharedAccessSignature")))


def azure_target(url: str, environment: Mapping[str, str]) -> AzureTarget:
    """Read :data:`CONTAINER_FORM`, or :data:`ACCOUNT_FORM` with or without a SAS as its query."""
    parsed = StoreUrl.of(url)
    shown = str(parsed).rstrip("/")
    if parsed.fragment or parsed.has_user:
        raise InvalidRequest(f"store URL {shown!r} has a user or a fragment", hint="give container and prefix only")
    if parsed.scheme == "az":
        if parsed.query:
            raise InvalidRequest(f"store URL {shown!r} has a query", hint="put the SAS into AZURE_STORAGE_SAS_TOKEN")
        return _with_environment(_place(shown, parsed.host, parsed.path), environment)
    container, _, prefix = parsed.path.lstrip("/").partition("/")
    return _with_account(_place(shown, container, prefix), parsed.host, parsed.query, environment)


def _place(shown: str, container: str, path: str) -> AzureTarget:
    if not _CONTAINER.fullmatch(container):
        raise InvalidRequest(
            f"store URL {shown!r} names no valid container",
            hint=f"use {CONTAINER_FORM}, the container of 3 to 63 lower-case letters, digits or single hyphens",
        )
    prefix = path.strip("/")
    if prefix:
        check_prefix(f"{prefix}/")
    return AzureTarget(shown, container, f"{prefix}/" if prefix else "")


def _with_environment(target: AzureTarget, environment: Mapping[str, str]) -> AzureTarget:
    connection_string = environment.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if connection_string:
        return replace(target, connection_string=connection_string)
    account = environment.get("AZURE_STORAGE_ACCOUNT", "")
    endpoint = environment.get("AZURE_STORAGE_SERVICE_ENDPOINT", "").rstrip("/")
    if not endpoint:
        if not _ACCOUNT.fullmatch(account):
            raise InvalidRequest(f"no Azure storage account is named for {target.url!r}", hint=_SETTINGS_HINT)
        endpoint = f"https://{account}.blob.core.windows.net"
    elif not endpoint.startswith(("https://", "http://")) or set("?#@") & set(endpoint):
        raise InvalidRequest(
            "AZURE_STORAGE_SERVICE_ENDPOINT is no plain http(s) URL", hint="https://HOST[:PORT][/ACCOUNT]"
        )
    return _with_secret(replace(target, account=account, endpoint=endpoint), environment)


def _with_account(target: AzureTarget, host: str, query: str, environment: Mapping[str, str]) -> AzureTarget:
    match = _PUBLIC_HOST.fullmatch(host)
    if match is None:
        raise InvalidRequest(
            f"store URL {target.url!r} is not at a host of Azure Blob Storage",
            hint=f"use {ACCOUNT_FORM}; for another endpoint use {CONTAINER_FORM}, and set "
            "AZURE_STORAGE_SERVICE_ENDPOINT",
        )
    target = replace(target, account=match["account"], endpoint=f"https://{host}")
    if query:
        if "sig=" not in query:
            raise InvalidRequest(f"the query of {target.url!r} is no shared access signature", hint="leave it out")
        return replace(target, sas=query)
    connection_string = environment.get("AZURE_STORAGE_CONNECTION_STRING", "")
    if re.search(rf"(?:^|;)AccountName={target.account}(?:;|$)", connection_string, re.IGNORECASE):
        return replace(target, connection_string=connection_string)
    if environment.get("AZURE_STORAGE_ACCOUNT", target.account) == target.account:
        return _with_secret(target, environment)
    return target


def _with_secret(target: AzureTarget, environment: Mapping[str, str]) -> AzureTarget:
    key, sas = environment.get("AZURE_STORAGE_KEY", ""), environment.get("AZURE_STORAGE_SAS_TOKEN", "")
    if not key and not sas and not target.endpoint.startswith("https://"):
        raise InvalidRequest("azure-identity signs in over https only", hint=_SETTINGS_HINT)
    if not key:
        return replace(target, sas=sas.lstrip("?"))
    if not _is_base64(key):
        raise InvalidRequest(
            "AZURE_STORAGE_KEY is not an account key", hint="copy it whole: it is base64, 88 characters"
        )
    if not target.account:
        raise InvalidRequest("AZURE_STORAGE_KEY is set without its account", hint="set AZURE_STORAGE_ACCOUNT too")
    return replace(target, key=key)


def _setting(connection_string: str, name: str) -> str:
    """The value of a setting of a connection string, or an empty text."""
    found = re.search(rf"(?:^|;){name}=([^;]*)", connection_string, re.IGNORECASE)
    return found[1].lstrip("?") if found else ""


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False
