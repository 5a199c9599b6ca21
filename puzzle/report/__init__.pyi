from puzzle.report.evidence import Evidence as Evidence
from puzzle.report.evidence import describe_run as describe_run
