"""Hosted providers of hearing, thinking and speaking: which one is used, and where its API is."""

import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Provider:
    """One hosted provider: the key that turns it on, LiveKit's plugin and the class in it.

    `base` names the variable that holds the address of its API, for a proxy of one's own, and `path` is what the plugin
    wants behind it. Without `base` the provider's own library reads such a variable by itself.
    """

    key: str
    plugin: str
    kind: str
    base: str = ""
    path: str = ""

    def load(self) -> ModuleType:
        """Import the plugin. Raises ModuleNotFoundError with the mend when the extra is not installed."""
        try:
            return importlib.import_module(f"livekit.plugins.{self.plugin}")
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{self.key} is set, but LiveKit's {self.plugin} plugin is not installed: "
                ".venv/bin/pip install -c constraints.txt -e '.[providers]', or unset the key"
            ) from None

    def make(self) -> Any:
        """Make one of it, with the plugin's own defaults."""
        given = os.environ.get(self.base, "") if self.base else ""
        where = {"base_url": given.rstrip("/") + self.path} if given else {}
        return getattr(self.load(), self.kind)(**where)


#: The first whose key is set is used.
STT_PROVIDERS = (
    Provider("DEEPGRAM_API_KEY", "deepgram", "STT", "DEEPGRAM_BASE_URL", "/v1/listen"),
    Provider("OPENAI_API_KEY", "openai", "STT"),
)
LLM_PROVIDERS = (
    Provider("OPENAI_API_KEY", "openai", "LLM"),
    Provider("ANTHROPIC_API_KEY", "anthropic", "LLM"),
    Provider("GOOGLE_API_KEY", "google", "LLM"),
)
TTS_PROVIDERS = (
    Provider("CARTESIA_API_KEY", "cartesia", "TTS", "CARTESIA_BASE_URL"),
    Provider("ELEVEN_API_KEY", "elevenlabs", "TTS", "ELEVEN_BASE_URL", "/v1"),
    Provider("DEEPGRAM_API_KEY", "deepgram", "TTS", "DEEPGRAM_BASE_URL", "/v1/speak"),
    Provider("OPENAI_API_KEY", "openai", "TTS"),
)


def chosen(providers: tuple[Provider, ...]) -> Provider | None:
    """Return the provider whose key is set, None for offline."""
    return next((provider for provider in providers if os.environ.get(provider.key)), None)
