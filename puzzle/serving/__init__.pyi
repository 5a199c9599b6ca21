from puzzle.serving.exporting import Exported as Exported
from puzzle.serving.exporting import export as export
from puzzle.serving.writers.self_contained import add_modelling_file as add_modelling_file
