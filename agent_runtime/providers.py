"""Hosted providers of speech recognition, language models and voices: which is used, and the address of its API."""

import importlib
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Provider:
    """One hosted provider: the key that turns it on, LiveKit's plugin and the class in it.

    `base` names the variable with the address of its API, for a gateway; the plugin needs `path` after it. Without
    `base` the provider's own library reads such a variable.
    """

    key: str
    plugin: str
    kind: str
    base: str = ""
    path: str = ""

    def load(self) -> ModuleType:
        """Import the plugin. Raises ModuleNotFoundError with the fix if the extra is not installed."""
        try:
            return importlib.import_module(f"livekit.plugins.{self.plugin}")
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"{self.key} is set, but LiveKit's {self.plugin} plugin is not installed: "
                ".venv/bin/pip install -c constraints.txt -e '.[providers]', or unset the key"
            ) from None

    def make(self) -> Any:
        """Create it with the plugin's own defaults."""
        address = os.environ.get(self.base, "") if self.base else ""
        options = {"base_url": address.rstrip("/") + self.path} if address else {}
        return getattr(self.load(), self.kind)(**options)


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
    """Return the first provider whose key is set; None for offline."""
    return next((provider for provider in providers if os.environ.get(provider.key)), None)
