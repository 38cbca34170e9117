"""The voice agent's choice of speech and language model, and of the user's name."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_runtime import providers
from agent_runtime.offline import speech
from agents import voice


class _Context:
    def __init__(self, user_id: str, metadata: dict[str, Any]) -> None:
        self.user_id, self.metadata = user_id, metadata


@pytest.mark.parametrize(
    ("user_id", "metadata", "name"),
    [
        ("ada", {}, "Ada"), ("user-8f3a", {}, None), ("ada", {"name": "Grace Hopper"}, "Grace Hopper"),
        ("ada", {"name": 7}, "Ada"), ("x", {"name": "y" * 100}, "y" * 64),
    ],
)  # fmt: skip
def test_the_users_name_comes_from_metadata_or_id(user_id: str, metadata: dict[str, Any], name: str | None) -> None:
    assert voice._name(_Context(user_id, metadata)) == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello, Ada. How can I help you?", ["Hello, Ada. How can I help you?"]),
        ("Goodbye.", ["Goodbye."]),
        (
            "You said: the quick brown fox jumps over the lazy dog and then it goes home to sleep all day.",
            ["You said:", "the quick brown fox jumps over the lazy dog and", "then it goes home to sleep all day."],
        ),
        ("...", ["..."]),
        ("", [""]),
    ],
)
def test_long_texts_are_split_for_speech(text: str, pieces: list[str]) -> None:
    assert speech.in_pieces(text) == pieces


@given(st.text(st.sampled_from("abc ,.!?"), max_size=300))
def test_splitting_a_text_loses_no_word(text: str) -> None:
    pieces = speech.in_pieces(text)
    if re.search(r"\w", text):
        assert max(map(len, pieces)) <= 80
    assert re.findall(r"\w", "".join(pieces)) == re.findall(r"\w", text)


def test_offline_models_are_used_until_a_key_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = (providers.STT_PROVIDERS, providers.LLM_PROVIDERS, providers.TTS_PROVIDERS)
    for provider in {provider for group in groups for provider in group}:
        monkeypatch.delenv(provider.key, raising=False)
    assert [providers.chosen(group) for group in groups] == [None, None, None]
    monkeypatch.setenv("DEEPGRAM_API_KEY", "k")
    assert [found.plugin if (found := providers.chosen(group)) else None for group in groups] == [
        "deepgram",
        None,
        "deepgram",
    ]
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    assert [found.plugin if (found := providers.chosen(group)) else None for group in groups] == [
        "deepgram",
        "openai",
        "deepgram",
    ]


def test_a_key_without_its_plugin_names_the_package_to_install() -> None:
    missing = providers.Provider("SOME_API_KEY", "no_such_plugin", "STT")
    for use in (missing.load, missing.make):
        with pytest.raises(ModuleNotFoundError, match=r"SOME_API_KEY is set.*\[providers\]"):
            use()
