"""Opening a parent and reading it one decoder layer at a time."""

from puzzle.parents.family import FAMILIES, Family, family_of
from puzzle.parents.llama import LLAMA
from puzzle.parents.parent import Parent, open_parent

__all__ = ["FAMILIES", "LLAMA", "Family", "Parent", "family_of", "open_parent"]
