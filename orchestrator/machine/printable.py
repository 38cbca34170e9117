"""Makes text from strangers safe to print on a terminal and in a log.

A user's id, a reason, a room's name or an agent's output may contain characters that move a terminal's cursor, begin a
new line or change the direction of writing. Such characters are escaped (`\\x9b`, `\\u202e`); all others stay.
"""

import re

#: C0, DEL, C1; the soft hyphen and other invisible marks; the marks, embeddings, overrides and isolates of direction;
#: Unicode's line ends; surrogates, which cannot be encoded for a terminal; tags. Joiners stay: some scripts and emoji
#: need them.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def one_line(text: str) -> str:
    """Return a text as one line that is safe on any terminal and in any log."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def json_safe(document: str) -> str:
    """Return an equal JSON document that is safe on any terminal."""

    def escaped(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

    return "\n".join(_UNSAFE.sub(escaped, line) for line in document.split("\n"))
