"""Writes previous.json: the Lua scripts of the previous release, which run beside the current ones for a deploy.

`.venv/bin/python -m tests.releases.make COMMIT` takes them from a commit of this repository.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PREVIOUS = Path(__file__).parent / "previous.json"
#: Run in a tree of that commit. Up to 71f88d6 the module was called `scripts`.
_PRINT = """
import json
try:
    from orchestrator.store.loader import sources
except ModuleNotFoundError:
    from orchestrator.store.scripts import sources
print(json.dumps(dict(sources())))
"""


def make(commit: str) -> None:
    """Write the scripts of a commit; what all of them begin with is written once, as `_prelude`."""
    repository = Path(__file__).parents[2]
    tree = subprocess.run(["git", "archive", commit, "orchestrator"], cwd=repository, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(tree.stdout)) as archive:
            archive.extractall(folder, filter="data")
        printed = subprocess.run([sys.executable, "-c", _PRINT], cwd=folder, capture_output=True, check=True)
    sources: dict[str, str] = json.loads(printed.stdout)
    common = os.path.commonprefix(list(sources.values()))  # noqa: RUF071 - of texts, not of paths
    prelude = common[: common.rfind("\n") + 1]
    scripts = {name: source.removeprefix(prelude) for name, source in sorted(sources.items())}
    PREVIOUS.write_text(json.dumps({"_prelude": prelude} | scripts, indent=0) + "\n")


if __name__ == "__main__":
    make(sys.argv[1])
