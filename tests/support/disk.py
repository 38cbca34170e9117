"""A small disk under a folder, which a test can fill."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def full_disk(folder: Path, size: str = "16M") -> Iterator[Callable[[], Path]]:
    """Mount a tmpfs over an empty folder; yields a function that fills it and returns the file to delete for space."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting a disk needs root: {mounted.stderr.strip()}")

    def fill() -> Path:
        ballast = folder / "ballast"
        with ballast.open("ab", buffering=0) as file:
            for piece in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * piece):
                        pass
        return ballast

    try:
        yield fill
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
