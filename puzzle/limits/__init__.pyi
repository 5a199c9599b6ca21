from puzzle.limits.constraints import Constraint as Constraint
from puzzle.limits.constraints import parse_constraint as parse_constraint
from puzzle.limits.constraints import parse_constraints as parse_constraints
from puzzle.limits.scenario import Scenario as Scenario
from puzzle.limits.scenario import Workload as Workload
