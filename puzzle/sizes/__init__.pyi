from puzzle.sizes.family_result import FamilyResult as FamilyResult
from puzzle.sizes.family_search import family as family
from puzzle.sizes.given_sizes import Size as Size
