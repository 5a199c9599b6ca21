"""The console script; each subcommand is the library function of its name."""

from puzzle.cli.program import main

__all__ = ["main"]
