"""Text from strangers: shown as what it is, wherever it is shown, and never obeyed.

A user's id, a reason, a room's name or an agent's output may hold what moves a terminal's cursor, begins a line of its
own or turns the direction of writing. Such characters are written out (`\\x9b`, `\\u202e`); everything else stays.
"""

import re

#: C0, DEL, C1; the soft hyphen and other marks that cannot be seen; the marks, embeddings, overrides and
#: isolates of direction; Unicode's line ends; surrogates, which no terminal can be sent; tags. Joiners stay: some
#: scripts and emoji are written with them.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
    "\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)


def one_line(text: str) -> str:
    """Return a text that is one line on any terminal and in any log."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def json_safe(document: str) -> str:
    """Return a JSON document that means the same, and that a terminal can be shown."""

    def escaped(found: re.Match[str]) -> str:
        units = found[0].encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

    return "\n".join(_UNSAFE.sub(escaped, line) for line in document.split("\n"))
