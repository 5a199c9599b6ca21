"""The subcommands, in the order of their work."""

from puzzle.cli.commands.build_command import BUILD
from puzzle.cli.commands.child_command import CHILD
from puzzle.cli.commands.compare_command import COMPARE
from puzzle.cli.commands.devices_command import DEVICES
from puzzle.cli.commands.distill_command import DISTILL
from puzzle.cli.commands.doctor_command import DOCTOR
from puzzle.cli.commands.env_command import ENV
from puzzle.cli.commands.evaluate_command import EVALUATE
from puzzle.cli.commands.explore_command import EXPLORE
from puzzle.cli.commands.export_command import EXPORT
from puzzle.cli.commands.family_command import FAMILY
from puzzle.cli.commands.layouts_command import LAYOUTS
from puzzle.cli.commands.new_command import NEW
from puzzle.cli.commands.pick_command import PICK
from puzzle.cli.commands.plan_command import PLAN
from puzzle.cli.commands.posttrain_command import POSTTRAIN
from puzzle.cli.commands.profile_command import PROFILE
from puzzle.cli.commands.report_command import REPORT
from puzzle.cli.commands.runs_command import RUNS
from puzzle.cli.commands.score_command import SCORE
from puzzle.cli.commands.search_command import SEARCH
from puzzle.cli.commands.serve_check_command import SERVE_CHECK
from puzzle.cli.commands.share_command import SHARE
from puzzle.cli.commands.solve_command import SOLVE
from puzzle.cli.commands.workload_command import WORKLOAD
from puzzle.cli.subcommand import Subcommand

_STAGES = (WORKLOAD, SEARCH, FAMILY, PLAN, PROFILE, BUILD, SCORE, SOLVE, CHILD)
_CHILDREN = (DISTILL, POSTTRAIN, EVALUATE, EXPORT, SERVE_CHECK, REPORT, EXPLORE)
_SHARING = (SHARE, PICK)
_ALL = (NEW, *_STAGES, *_CHILDREN, *_SHARING, LAYOUTS, DEVICES, RUNS, COMPARE, DOCTOR, ENV)
COMMANDS: dict[str, Subcommand] = {command.name: command for command in _ALL}

__all__ = ["COMMANDS"]
