"""The fenced shell commands of README.md and docs/: `tests/e2e/test_documents.py` runs all but those listed here.

So a new command in a document is run, unless a reason is given here why it cannot be.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support import documents
from tests.support.documents import REPOSITORY

#: Starts the node on which the other commands are run.
START = "AGENT_MODULE=my_agent.py make up"
#: The first words of commands that are not run, with the reason. Their options, files and variables are checked
#: nevertheless (tests/support/printed.py).
NOT_RUN = {
    "make up": "`AGENT_MODULE=my_agent.py make up` starts the node that all others are run on",
    "AGENT_MODULE=path/to/agent.py make up": "tests/e2e/test_unchanged.py starts such files",
    "AGENT_COMMAND=": "tests/e2e/test_programs.py and test_pipecat.py start such programs",
    "make test": "it is this run",
    "make check": "it runs these tests again, and the linters",
    "make chaos": "an hour of what `make test` does for minutes",
    "make guards": "half an hour: it runs tests in copies of the project",
    "make fuzz": "minutes of what tests/integration/test_fuzz.py does for seconds",
    "make image": "`make image-test` builds it, as root with podman",
    "docker run": "tests/image/test_image.py starts the image with these options, by podman",
    "docker compose -f docker-compose.celery.yml up": "tests/image/test_compose.py brings it up, by podman",
    "npm ci": "the Makefile runs it, when it builds the page for tests/e2e/test_frontend.py",
    "npm run dev": "it does not end; the same page is built for tests/e2e/test_frontend.py",
    "npm test": "tests/integration/test_frontend_tests.py runs it",
    "npm install -g @railway/cli": "it changes the machine, and needs an account at Railway",
    "source .venv/bin/activate && pip install": "it changes the environment that the tests run in",
    "railway": "it needs an account at Railway; tests/unit/test_railway.py loads the files that it reads",
    "kubectl": "it needs a cluster; tests/unit/test_kubernetes.py validates the manifests and the names in the Secret",
    "lk": "LiveKit's command line is not Debian's or PyPI's; tests/e2e/test_door.py sends the same requests",
    "ROOT_PATH=": "settings, not a command; tests/unit/test_settings.py and the check of every value read them",
    "TRUSTED_PROXY=": "as ROOT_PATH",
    "ALLOWED_HOSTS=": "as ROOT_PATH",
}


@dataclass(frozen=True)
class Block:
    """One fenced block: its place, and its command lines, with continued lines joined."""

    where: str
    lines: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """The lines that are run."""
        return tuple(line for line in self.lines if reason(line) is None and line != START)


def reason(line: str) -> str | None:
    """Return why a command is not run, or None when it is run."""
    return next((why for begin, why in NOT_RUN.items() if begins(line, begin)), None)


def begins(line: str, begin: str) -> bool:
    """Return whether a command line begins with these words, or with this variable."""
    return re.match(re.escape(begin) + ("" if begin.endswith("=") else r"(?![\w-])"), line) is not None


def blocks() -> Iterator[Block]:
    """Yield the shell blocks of README.md and docs/*.md: only the lines after `$ ` if there are any, otherwise all."""
    for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]:
        for where, language, text in documents.blocks(path):
            if language in {"", "sh"}:
                lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
                shown = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
                yield Block(where, tuple(shown or lines))
