"""The `orchestrator` command, and the programs of a node that are no part of its api."""


def main() -> None:
    """Run the command line."""
    # Not at import: a node's programs are in this package too, and would hold what every command needs (40 MB each).
    from orchestrator.cli.main import main as run  # noqa: PLC0415

    run()


__all__ = ["main"]
