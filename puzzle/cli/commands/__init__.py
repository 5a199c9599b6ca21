"""The subcommands, in the order of their work."""

from puzzle.cli.command import Command
from puzzle.cli.commands.build import BUILD
from puzzle.cli.commands.devices import DEVICES
from puzzle.cli.commands.distill import DISTILL
from puzzle.cli.commands.evaluate import EVALUATE
from puzzle.cli.commands.export import EXPORT
from puzzle.cli.commands.layouts import LAYOUTS
from puzzle.cli.commands.profile import PROFILE
from puzzle.cli.commands.report import REPORT
from puzzle.cli.commands.score import SCORE
from puzzle.cli.commands.search import SEARCH
from puzzle.cli.commands.serve_check import SERVE_CHECK
from puzzle.cli.commands.solve import SOLVE

_STAGES = (SEARCH, PROFILE, BUILD, SCORE, SOLVE)
_CHILDREN = (DISTILL, EVALUATE, EXPORT, SERVE_CHECK, REPORT)
_ALL = (*_STAGES, *_CHILDREN, LAYOUTS, DEVICES)
COMMANDS: dict[str, Command] = {command.name: command for command in _ALL}

__all__ = ["COMMANDS"]
