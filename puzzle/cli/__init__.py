"""The console script; each subcommand is the library function of its name."""

from puzzle.cli.entry import main

__all__ = ["main"]
