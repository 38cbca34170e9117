"""The address of Redis: REDIS_URL, parsed once. Every client's options are made from the result alone.

Managed services write their addresses in many ways. Each client library has rules of its own for reading them, and some
of those rules switch the check of certificates off.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

PORT = 6379
#: Accepted schemes, and what they mean.
_SCHEMES = {
    "redis": "redis", "valkey": "redis", "rediss": "rediss", "valkeys": "rediss", "unix": "unix",
    "redis+socket": "unix",
}  # fmt: skip
_FORMS = "write it as redis://USER:PASSWORD@HOST:PORT/0, rediss://… (TLS) or unix:///PATH?db=0"
_ESCAPES = "in a password write / as %2F, # as %23, ? as %3F, @ as %40, [ as %5B, ] as %5D and % as %25"
_TLS = {"ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_KNOWN = {"db", "virtual_host", "username", "password"} | _TLS
_YES, _NO = {"true", "1", "yes"}, {"false", "0", "no"}


@dataclass(frozen=True, slots=True)
class Address:
    """The address of one Redis, its credentials, and the prefix of our names there."""

    host: str = "localhost"
    port: int = PORT
    path: str | None = None  #: Unix socket, instead of host and port
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    verify: bool = True  #: whether the certificate and its name are checked
    ca_file: str | None = None  #: trusted in addition to the system's
    cert_file: str | None = None
    key_file: str | None = None
    prefix: str = ""

    def __str__(self) -> str:
        """The address without user and password, for people and logs."""
        return self._written("")

    @property
    def url(self) -> str:
        """The full address, for programs. `parse` reads it back."""
        user = quote(self.username or "", safe="")
        secret = "" if self.password is None else ":" + quote(self.password, safe="")
        return self._written(f"{user}{secret}@" if user or secret else "")

    def options(self) -> dict[str, Any]:
        """Return the arguments of redis-py's connections, the same for each of its clients."""
        options: dict[str, Any] = {"db": self.db, "username": self.username, "password": self.password}
        if self.path is not None:
            return options | {"path": self.path}
        options |= {"host": self.host, "port": self.port}
        if self.tls:
            # guard: tls-hostname
            # guard: tls-verify
            options |= {
                "ssl_cert_reqs": "required" if self.verify else "none", "ssl_check_hostname": self.verify,
                "ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file,
            }  # fmt: skip
        return options

    def _written(self, credentials: str) -> str:
        if self.path is not None:
            return f"unix://{credentials}{quote(self.path)}?db={self.db}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        query_items = [f"{name}={quote(value)}" for name, value in self._tls_query().items() if value]
        query = f"?{'&'.join(query_items)}" if query_items else ""
        return f"{'rediss' if self.tls else 'redis'}://{credentials}{host}:{self.port}/{self.db}{query}"

    def _tls_query(self) -> dict[str, str | None]:
        return {
            "ssl_cert_reqs": None if self.verify else "none", "ssl_ca_certs": self.ca_file,
            "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file,
        }  # fmt: skip


def parse(text: str, *, ca_file: Path | None = None, prefix: str = "") -> Address:
    """Parse an address. Raises `ValueError`, whose text contains no part of a password."""
    scheme, mark, _ = text.strip().partition("://")
    _refuse_the_unsupported(scheme.lower(), text)
    kind = _SCHEMES.get(scheme.lower())
    if not mark or kind is None:
        raise ValueError(_FORMS)
    try:
        parts = urlsplit(text.strip())
        port = None if kind == "unix" else parts.port
    except ValueError:  # its text may contain a part of the password
        raise ValueError(f"its port cannot be read: {_ESCAPES}") from None
    if parts.fragment:
        raise ValueError(f"it contains a #: {_ESCAPES}")
    if port == 0:
        raise ValueError("port 0 is no port")
    query = _query(parts.query)
    place: dict[str, Any] = (
        {"path": _socket(parts.netloc, parts.path)}
        if kind == "unix"
        else {"host": _host(parts.hostname), "port": port or PORT}
    )
    database = None if kind == "unix" else parts.path.strip("/")
    return Address(
        **place,
        db=_database(database, query.get("db"), query.get("virtual_host")),
        username=_decoded(parts.username) or query.get("username"),
        password=_decoded(parts.password) or query.get("password"),
        **_tls(kind, query, ca_file),
        prefix=prefix,
    )


def _refuse_the_unsupported(scheme: str, text: str) -> None:
    host = text.partition("://")[2].rpartition("@")[2].partition("/")[0].partition("?")[0]
    if "sentinel" in scheme or re.search(r"[?&](master_name|sentinel\w*|service_name)=", text):
        raise ValueError(
            "Sentinel is not supported: give the address of the primary, or of a proxy that follows it, as redis://…"
        )
    if "cluster" in scheme:
        raise ValueError("a cluster is not supported: the scripts need one Redis that holds every key, as redis://…")
    if scheme != "unix" and re.search("[,;]", host):
        raise ValueError(
            f"it names several servers, and one is needed: Sentinel and cluster are not supported; {_ESCAPES}"
        )


def _host(name: str | None) -> str:
    if name and "%" in name:
        raise ValueError("its host contains a %; write a socket as unix:///PATH?db=0")
    return name or "localhost"


def _decoded(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("user, password or a parameter is not UTF-8 after its %xx are decoded") from None


def _query(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in filter(None, text.split("&")):
        name, _, value = pair.partition("=")
        if name not in _KNOWN:
            # Without its text: after an unescaped ? it may be the rest of a password.
            known = " ".join(sorted(_KNOWN))
            raise ValueError(f"it has an unknown parameter after ? (known: {known}): leave it out; {_ESCAPES}")
        if name in parameters:
            raise ValueError(f"it has {name} twice")
        parameters[name] = _decoded(value) or ""
    return parameters


def _database(*candidates: str | None) -> int:
    databases = {each for each in candidates if each not in {None, ""}}
    if not databases:
        return 0
    if len(databases) > 1:
        raise ValueError("it names two databases: after the / and after the ?")
    (text,) = databases
    if text is None or not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("its database is no number: write redis://HOST:PORT/0 or unix:///PATH?db=0")
    return int(text)


def _socket(netloc: str, path: str) -> str:
    file = _decoded(netloc.rpartition("@")[2] + path)
    if not file or file.endswith("/"):
        raise ValueError("it names no socket: write it as unix:///PATH?db=0")
    return str(Path(file).absolute())


def _tls(kind: str, query: Mapping[str, str], ca_file: Path | None) -> dict[str, Any]:
    if kind != "rediss":
        if tls_options := sorted(_TLS & query.keys()):
            raise ValueError(f"{tls_options[0]} needs TLS: write rediss:// in front")
        return {}
    verification = query.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if verification not in {"required", "none"}:
        raise ValueError("ssl_cert_reqs must be required (the default) or none, which trusts any server")
    named = query.get("ssl_check_hostname", "true").lower()
    if named not in _YES | _NO or (verification == "required" and named in _NO):
        raise ValueError("ssl_check_hostname=false is refused: the certificate must be for the server's name")
    trusted = query.get("ssl_ca_certs") or None
    if trusted and ca_file and Path(trusted).absolute() != ca_file.absolute():
        raise ValueError("ssl_ca_certs names another file than REDIS_CA_FILE: leave one of them out")
    files = {
        "ca_file": str(ca_file) if ca_file else trusted,
        "cert_file": query.get("ssl_certfile") or None,
        "key_file": query.get("ssl_keyfile") or None,
    }
    for name, path in files.items():
        if path is None:
            continue
        if not Path(path).is_file():
            raise ValueError(f"{name.replace('_', ' ')} {path} is not there")
        files[name] = str(Path(path).absolute())
    return {"tls": True, "verify": verification == "required", **files}
