from puzzle.report.answer_seconds import AnswerSeconds as AnswerSeconds
from puzzle.report.comparison import Comparison as Comparison
from puzzle.report.comparison import Figures as Figures
from puzzle.report.evidence import Evidence as Evidence
from puzzle.report.evidence import describe_run as describe_run
from puzzle.report.record import SearchRecord as SearchRecord
