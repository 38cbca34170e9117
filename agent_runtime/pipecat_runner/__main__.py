"""Entry point: `python …/pipecat_runner FILE`, with the Python of the bot's virtual environment."""

import sys
from importlib import import_module
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Import the package without its folder on the path, where its modules would hide the bot's of the same names."""
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != FOLDER]
    loader = SourceFileLoader("pipecat_runner", str(FOLDER / "__init__.py"))
    spec = spec_from_loader("pipecat_runner", loader, is_package=True)
    assert spec
    package = sys.modules["pipecat_runner"] = module_from_spec(spec)
    loader.exec_module(package)
    import_module("pipecat_runner.program").main(sys.argv[1:])


if __name__ == "__main__":
    main()
