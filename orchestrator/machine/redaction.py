"""Removes secrets from other programs' text: SDKs log answers of providers and LiveKit, which may repeat a key."""

import os
import re

#: Values shorter than this are words that a log may contain anyway.
_SHORTEST = 8
#: Names of environment variables whose values are secrets. API_KEYS holds several, separated by commas.
_SECRET_NAME = re.compile(r"(?:KEYS?|SECRETS?|TOKENS?|PASSWORD|PASSWD)$", re.IGNORECASE)
_TOKEN = re.compile(r"\beyJ[\w-]*\.[\w-]+(?:\.[\w-]*)?")
#: Prefixes of providers' keys, which error messages quote with stars in the middle.
_KEY = re.compile(r"\b(?:sk|pk|rk|gsk|xai|whsec)[-_][\w*-]{8,}")
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^\s:/@]*):[^\s/@]+(?=@)")


class Redaction:
    """The secrets of this process: those of its environment at construction, and any text that looks like a secret."""

    def __init__(self) -> None:
        found = {
            part.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name) for part in value.split(",")
        }
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
    """Return a text without what looks like a provider's key, or a password in a URL."""
    return _PASSWORD_IN_URL.sub(r"\1:(secret)", _KEY.sub("(key)", text))
