"""The offline conversation keeps its promises."""

from datetime import datetime

import pytest

from agent_runtime.offline.reply import Conversation, spoken_time

NOON = datetime(2026, 5, 4, 15, 42)


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ("What time is it?", "It is 3 42 in the afternoon."),
        ("Please say good morning.", "good morning."),
        ("Repeat after me, red lorry", "after me, red lorry"),
        ("My name is Grace.", "Nice to meet you, Grace."),
        ("How many times have I spoken?", "You have spoken to me once."),
        ("Who are you?", "I am a small offline agent."),
        ("Blue elephants.", "I heard: Blue elephants."),
        ("", "I heard: ."),
    ],
)
def test_the_reply_answers_the_user(heard: str, said: str) -> None:
    assert Conversation().answer(heard, NOON).startswith(said.replace("after me, ", ""))


def test_the_reply_greets_by_name_and_remembers_it() -> None:
    talk = Conversation(name="Ada")
    assert talk.greeting() == "Hello Ada. How can I help you?"
    assert Conversation().greeting() == "Hello. How can I help you?"
    talk.answer("Call me Grace")
    assert talk.answer("Who am I?") == "You are Grace."


def test_the_reply_counts_and_repeats() -> None:
    talk = Conversation()
    talk.answer("hello")
    assert talk.answer("How many turns?") == "You have spoken to me two times."
    assert talk.answer("Say that again") == "You have spoken to me two times."


@pytest.mark.parametrize("heard", ["Goodbye.", "Good-bye!", "bye", "please hang up"])
def test_the_reply_hangs_up_on_request(heard: str) -> None:
    talk = Conversation(name="Ada")
    assert talk.answer(heard) == "Goodbye Ada. It was nice talking to you."
    assert talk.over


@pytest.mark.parametrize(
    ("hour", "minute", "said"),
    [(0, 0, "12 o'clock in the morning"), (9, 5, "9 oh 5 in the morning"), (23, 59, "11 59 in the evening")],
)
def test_the_time_is_spoken_naturally(hour: int, minute: int, said: str) -> None:
    assert spoken_time(datetime(2026, 1, 1, hour, minute)) == said
