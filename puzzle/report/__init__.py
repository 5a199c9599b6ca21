"""What a search found, for others to see: the report page, its figures, the model card."""

from puzzle.report.evidence import Evidence, describe_run

__all__ = ["Evidence", "describe_run"]
