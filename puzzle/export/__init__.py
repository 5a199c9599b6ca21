"""Children in the forms that serving engines read."""

from puzzle.export.dispatch import Exported, export
from puzzle.export.self_contained import add_modelling_file

__all__ = ["Exported", "add_modelling_file", "export"]
