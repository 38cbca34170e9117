"""Cuts what an agent prints into lines to ship: bounded in bytes, in lines and in the length of a line. No I/O."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

#: Bytes taken from one file at a time, and the longest line kept, in characters.
CHUNK = 262_144
LINE = 4_000
#: Bytes that LINE characters may have.
LINE_BYTES = 4 * LINE
#: Terminals' escape sequences; then the remaining control characters, including C1 and line separators.
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-Z\\^-~]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")

#: Returns up to a number of bytes of a file from an offset, and the length of the file.
Read = Callable[[int, int], tuple[bytes, int]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one file is read."""

    offset: int
    skipping: bool = False  #: the offset is within a line whose beginning is kept and whose rest is dropped
    dropped_lines: int = 0  #: since the last line that was kept
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next lines of a file, and the progress once they are stored."""

    lines: list[str]
    counted: int  #: lines that count against the rate
    progress: Progress


def next_chunk(progress: Progress, read: Read, most: int, *, final: bool) -> Chunk:
    """Return the next lines of a file, `most` at most: the newest, with a line about what is missing.

    `final`: the agent writes no more, so an unfinished line counts as whole.
    """
    lines, data, now = _next_bytes(progress, read)
    end = len(data) if final else data.rfind(b"\n") + 1
    lines += [line for line in data[:end].split(b"\n") if line.strip()]
    dropped_lines, dropped_bytes = now.dropped_lines, now.dropped_bytes
    if len(lines) > most:
        dropped_lines += len(lines) - most
        dropped_bytes += sum(len(line) + 1 for line in lines[:-most])
        lines = lines[-most:]
    kept = [text for line in lines if (text := clean(line)).strip()]
    if dropped_bytes and kept:
        count = f" in {dropped_lines} lines or more" if dropped_lines else ""
        kept.insert(0, f"[at least {dropped_bytes} bytes{count} are left out here: the agent printed too much at once]")
        dropped_lines = dropped_bytes = 0
    return Chunk(kept, len(lines), Progress(now.offset + end, now.skipping, dropped_lines, dropped_bytes))


def _next_bytes(progress: Progress, read: Read) -> tuple[list[bytes], bytes, Progress]:
    """Return the beginning of an endless line, if there is one, the bytes after it, and where those begin."""
    data, length = read(progress.offset, CHUNK)
    if length < progress.offset:  # the host has cut the file
        progress = replace(progress, offset=0, skipping=False)
        data, length = read(0, CHUNK)
    lines: list[bytes] = []
    offset, skipping, dropped = progress.offset, progress.skipping, progress.dropped_bytes
    if not skipping and len(data) >= LINE_BYTES and b"\n" not in data[:LINE_BYTES]:
        lines, data, skipping = [data[:LINE_BYTES]], data[LINE_BYTES:], True
        offset += LINE_BYTES
    if length - offset > CHUNK:
        dropped += length - CHUNK - offset
        offset, skipping = length - CHUNK, True
        data, _ = read(offset, CHUNK)
    if skipping and data:
        # Without a newline all of it belongs to the skipped line.
        end_of_line = data.find(b"\n") + 1
        offset += end_of_line or len(data)
        data, skipping = (data[end_of_line:], False) if end_of_line else (b"", True)
    return lines, data, replace(progress, offset=offset, skipping=skipping, dropped_bytes=dropped)


def clean(line: bytes) -> str:
    """Return a line as printable text on one line, no longer than LINE."""
    # guard: shipped-line
    return _CONTROL.sub("", _ESCAPE.sub("", line[:LINE_BYTES].decode(errors="replace")))[:LINE]
