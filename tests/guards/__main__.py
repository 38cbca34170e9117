"""Removes each guard in a copy of the project, and checks that its test then fails: `make guards`.

python -m tests.guards              all of them, two at a time
python -m tests.guards takeover     those whose name or test contains the word
python -m tests.guards --table      only print the table of docs/testing.md
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.guards.anchors import REPOSITORY, tracked
from tests.guards.table import GUARDS, Guard

#: Maximum time of one test, in seconds.
SECONDS = 600


def take_away(each: Guard) -> tuple[bool, str]:
    """Run a guard's test without the guard; returns whether the test failed, as it must, and a text."""
    began = time.monotonic()
    # One folder for all files of the test, with a short path because a Unix socket's path is bounded.
    with tempfile.TemporaryDirectory(prefix="g", ignore_cleanup_errors=True) as folder:
        root, temporary = Path(folder) / "project", Path(folder) / "tmp"
        temporary.mkdir()
        for path in tracked(REPOSITORY):
            copy = root / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
        for change in each.changes:
            change.make(root)
        environment = os.environ | {"PYTHONPATH": str(root), "TMPDIR": str(temporary), **each.environment}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-x", each.test]
        try:
            done = subprocess.run(
                command, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return False, f"not over after {SECONDS} s"
    took = f"{time.monotonic() - began:.0f} s"
    if re.search(r"^FAILED ", done.stdout, re.MULTILINE):
        error = re.search(r"^E +(.*)$", done.stdout, re.MULTILINE)
        return True, f"{took}: {error[1][:100] if error else ''}"
    return False, f"{took}: {done.stdout[-600:]}{done.stderr[-300:]}"


def main() -> None:
    """Run the guards that the command line selects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="run those guards whose name or test has one of these words")
    parser.add_argument("--table", action="store_true", help="print the table of docs/testing.md and do nothing else")
    parser.add_argument("-j", type=int, default=2, help="how many at a time")
    arguments = parser.parse_args()
    chosen = [
        each for each in GUARDS if not arguments.words or any(word in each.name + each.test for word in arguments.words)
    ]
    if arguments.table:
        print("\n".join(each.row for each in chosen))  # noqa: T201
        return
    held = 0
    with ThreadPoolExecutor(arguments.j) as threads:
        for each, (failed, how) in zip(chosen, threads.map(take_away, chosen), strict=True):
            held += failed
            print("held    " if failed else "NOT HELD", each.name, f"({each.test}): {how}", flush=True)  # noqa: T201
    print(f"{held} of {len(chosen)} guards are held by their test")  # noqa: T201
    sys.exit(held != len(chosen))


if __name__ == "__main__":
    main()
