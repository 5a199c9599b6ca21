"""Children in the forms that serving engines read."""

from puzzle.export.export import Exported, export, readable_by

__all__ = ["Exported", "export", "readable_by"]
