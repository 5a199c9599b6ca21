from puzzle.pipeline.opening import Inputs as Inputs
from puzzle.pipeline.opening import Opened as Opened
from puzzle.pipeline.opening import open_run as open_run
from puzzle.pipeline.opening import open_workspace as open_workspace
from puzzle.pipeline.planning import ASSUMED as ASSUMED
from puzzle.pipeline.planning import Plan as Plan
from puzzle.pipeline.planning import plan as plan
from puzzle.pipeline.steps import Steps as Steps
