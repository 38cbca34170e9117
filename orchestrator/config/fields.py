"""The types that several settings share: how text from the environment becomes a value, and how it is refused."""

import unicodedata
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

#: `orchestrator up` sets this for the programs of its node. It has read `.env` and checked all settings together; each
#: program receives only some of them and would fail those checks.
CHECKED = "SETTINGS_CHECKED"


def plain_path(value: Path) -> Path:
    """Return a path that fits on one line of text. Raises ValueError for one that does not."""
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in str(value)):
        raise ValueError("the path contains a control character or invalid UTF-8: rename the folder")
    return value


def _empty_is_none(value: object) -> object:
    return None if value == "" else value


def _livekit_url(value: str | None) -> str | None:
    if value is None:
        return value
    parts = urlsplit(value)
    if parts.scheme not in {"ws", "wss", "http", "https"} or not parts.hostname:
        raise ValueError("write it as wss://your-project.livekit.cloud, or ws://HOST:PORT for a server without TLS")
    if parts.username or parts.password:
        raise ValueError("it contains a user or a password, and this address is given to callers")
    return value


def split_list(text: str) -> tuple[str, ...]:
    """Return the items of a comma-separated list, without empty ones."""
    return tuple(item for part in text.split(",") if (item := part.strip()))


EmptyIsNone = BeforeValidator(_empty_is_none)
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
OptionalSeconds = Annotated[Annotated[float, Field(ge=0)] | None, EmptyIsNone]
Folder = Annotated[Path, AfterValidator(plain_path)]
OptionalText = Annotated[str | None, EmptyIsNone]
OptionalSecret = Annotated[SecretStr | None, EmptyIsNone]
LivekitUrl = Annotated[str | None, EmptyIsNone, AfterValidator(_livekit_url)]
