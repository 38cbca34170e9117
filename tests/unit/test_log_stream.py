"""Programs' logs on standard output: whole lines, without blocking supervisord."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.node.log_stream import LogStream


def event(name: str, data: bytes) -> Any:
    return SimpleNamespace(process=SimpleNamespace(config=SimpleNamespace(name=name)), data=data)


@pytest.fixture
def pipe() -> Any:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        os.close(end)


def test_lines_are_whole_and_named(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1], named=True)
    stream.take(event("api", b"first\nsec"))
    stream.take(event("worker", b"other\n"))
    stream.take(event("api", b"ond\nlast"))
    stream.flush()
    assert os.read(pipe[0], 9999) == b"api: first\nworker: other\napi: second\napi: last\n"


def test_json_lines_are_unchanged(pipe: tuple[int, int]) -> None:
    LogStream(pipe[1], named=False).take(event("api", b'{"level": "info"}\n'))
    assert os.read(pipe[0], 9999) == b'{"level": "info"}\n'


def test_output_that_is_not_read_is_dropped_without_blocking(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1], named=True)
    for _ in range(1000):
        stream.take(event("api", b"x" * 999 + b"\n"))  # ten times the capacity of a pipe
    taken = os.read(pipe[0], 1 << 20)
    assert 30 < taken.count(b"\n") < 1000
    stream.take(event("api", b"again\n"))
    told, again = os.read(pipe[0], 9999).splitlines()
    assert told == b"supervisord: %d lines dropped: the output was not read" % (1000 - taken.count(b"\n"))
    assert again == b"api: again"


def test_a_line_without_end_is_bounded(pipe: tuple[int, int]) -> None:
    stream = LogStream(pipe[1], named=True)
    stream.take(event("api", b"x" * 30_000))
    stream.take(event("api", b"x" * 30_000))
    os.set_blocking(pipe[0], False)
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 1)
    stream.take(event("api", b"x" * 10_000))
    assert os.read(pipe[0], 1 << 20).startswith(b"api: xxx")


def test_a_closed_reader_of_the_log_stream_raises_nothing() -> None:
    read, write = os.pipe()
    stream = LogStream(write, named=True)
    os.close(read)
    stream.take(event("api", b"lost\n"))
    os.close(write)
