from puzzle.upkeep.bug_report import environment as environment
from puzzle.upkeep.diagnosis import Diagnosis as Diagnosis
from puzzle.upkeep.diagnosis import Finding as Finding
from puzzle.upkeep.diagnosis import doctor as doctor
from puzzle.upkeep.run_listing import RunEntry as RunEntry
from puzzle.upkeep.run_listing import runs as runs
