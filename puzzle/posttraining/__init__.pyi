from puzzle.posttraining.rewards import Brief as Brief
from puzzle.posttraining.rewards import Consistent as Consistent
from puzzle.posttraining.rewards import Correct as Correct
from puzzle.posttraining.rewards import math_equal as math_equal
