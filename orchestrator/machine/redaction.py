"""Removes secrets from other programs' text: SDKs log answers of providers and LiveKit, which may repeat a key."""

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

#: Words in the name of an environment variable that mark a secret.
_SECRET_WORDS = frozenset(
    "KEY KEYS SECRET SECRETS TOKEN TOKENS PASSWORD PASSWORDS PASSWD CREDENTIAL CREDENTIALS AUTH".split()
)
#: Shorter values are words that a log may contain anyway.
_SHORTEST = 8
#: Longest part of a text that is taken for one password.
_LONGEST = 256
#: Where one begins: not within a word, but after the escaped end of a line.
_BEGIN = r"(?:(?<![\w-])|(?<=\\[nrt]))"
_TOKEN = re.compile(_BEGIN + r"eyJ[\w-]*\.[\w-]+(?:\.[\w-]*)?")
#: Prefixes of providers' keys, which error messages quote with stars in the middle.
_KEY = re.compile(_BEGIN + r"(?:sk|pk|rk|gsk|xai|whsec)[-_][\w*-]{8,}")
_PASSWORD_IN_URL = re.compile(rf"(?<=://)([^\s:/@]*):([^\s/]{{1,{_LONGEST}}})(?=@)")
#: A password that is not quoted may hold any character: such an address is mistyped, and logged for that.
_PASSWORD_OF_REDIS = re.compile(rf"\b((?:rediss?|valkeys?|unix)://[^\s:/@]*):(\S{{1,{_LONGEST}}})(?=@)")
_PASSWORD_IN_QUERY = re.compile(r"(?<=[?&]password=)[^\s&]+")


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret."""
    return not _SECRET_WORDS.isdisjoint(name.upper().split("_"))


class Redaction:
    """The secrets of this process: those of its environment at construction, and any text that looks like a secret."""

    def __init__(self) -> None:
        found = {secret for name, value in os.environ.items() for secret in _secrets(name, value)}
        self._values = sorted((value for value in found if len(value) >= _SHORTEST), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return a text without secrets."""
        for value in self._values:
            if value in text:
                text = text.replace(value, "(secret)")
        return without_keys(without_tokens(text))


def without_tokens(text: str) -> str:
    """Return a text without JSON Web Tokens."""
    return _TOKEN.sub("(token)", text) if "eyJ" in text else text


def without_keys(text: str) -> str:
    """Return a text without passwords in URLs and what looks like a provider's key."""
    if "://" in text:
        text = _PASSWORD_OF_REDIS.sub(r"\1:(secret)", text)
        text = _PASSWORD_IN_URL.sub(r"\1:(secret)", text)
        text = _PASSWORD_IN_QUERY.sub("(secret)", text)
    return _KEY.sub("(key)", text)


def _secrets(name: str, value: str) -> Iterator[str]:
    if is_secret_name(name):
        yield value.strip()
        yield from re.split(r"[,;:\s]+", value)  # API_KEYS and LIVEKIT_KEYS hold several
    if "://" in value:
        found = (match[2] for each in (_PASSWORD_OF_REDIS, _PASSWORD_IN_URL) for match in each.finditer(value))
        quoted = [*found, *_PASSWORD_IN_QUERY.findall(value)]
        for each in quoted:
            yield each
            yield unquote(each)
