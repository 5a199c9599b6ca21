"""The errors that puzzle raises on purpose, under one root."""

__all__ = ["ConstraintError", "CostModelError", "DamagedArtifactError", "DataError"]
__all__ += ["DivergedError", "EngineError", "ExportError", "ParentError", "PuzzleError"]
__all__ += ["SettingError", "WorkspaceError"]


class PuzzleError(Exception):
    """Root of every error that puzzle raises on purpose."""


class ConstraintError(PuzzleError, ValueError):
    """A constraint, or the scenario it is stated for, is malformed or cannot be applied."""


class CostModelError(PuzzleError, ValueError):
    """A cost model is unknown, lacks a cost, or returns an invalid one: NaN, text, wrong names."""


class ParentError(PuzzleError, ValueError):
    """The parent model cannot be searched: its family is unknown or its weights are not finite."""


class DataError(PuzzleError, ValueError):
    """A data set, or a value that has to be stored, is unusable."""


class SettingError(DataError):
    """An argument has a value that is not allowed, whatever the model and the text are."""


class DivergedError(PuzzleError):
    """Training reached a loss or a gradient that is not finite."""


class WorkspaceError(PuzzleError):
    """The workspace cannot be used: its disk, a lock or a stored artifact is at fault."""


class DamagedArtifactError(WorkspaceError):
    """A stored artifact differs from what was written: a file is missing, cut short or altered."""


class ExportError(PuzzleError, ValueError):
    """A child cannot be written for an engine, or the engine cannot be run here."""


class EngineError(PuzzleError):
    """A serving engine is missing, crashed, hung or returned something other than figures."""
