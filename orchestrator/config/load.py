"""Reads settings of one kind; an invalid value ends the program with one line."""

import os
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

from orchestrator.config.fields import CHECKED
from orchestrator.errors import Preflight

S = TypeVar("S", bound=BaseSettings)
#: A setting with one of these words in its name is never shown.
_SECRET_WORDS = {"TOKEN", "SECRET", "KEYS", "REDIS", "WEBHOOK"}


def load(kind: type[S]) -> S:
    """Read settings of one kind.

    Raises:
        Preflight: a value cannot be used; the message names the variable, the value and the fix.
    """
    try:
        if CHECKED in os.environ:  # `up` has put `.env` into the environment of the programs that need it
            # guard: program-dotenv
            return kind(_env_file=None)
        return kind()
    except ValidationError as failure:
        raise Preflight(f"{_first_mistake(failure)}. Correct it in the environment or in .env.") from None
    except (OSError, UnicodeDecodeError) as failure:
        raise Preflight(f".env cannot be read: {failure}. Correct the file or remove it.") from None


def _first_mistake(failure: ValidationError) -> str:
    first = failure.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["ctx"]["error"])
    name = str(first["loc"][0]).upper()
    hidden = _SECRET_WORDS & set(name.split("_")) or "@" in str(first["input"])
    shown = "" if hidden else f"={first['input']!r}"
    return f"{name}{shown}: {first['msg'].removeprefix('Value error, ')}"
