from puzzle.testing.cost_model_checks import check_cost_model as check_cost_model
from puzzle.testing.family_checks import FamilyFigures as FamilyFigures
from puzzle.testing.family_checks import check_family as check_family
