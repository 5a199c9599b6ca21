from puzzle.distillation.distiller import Distiller as Distiller
from puzzle.distillation.distiller import boundary_pairs as boundary_pairs
from puzzle.distillation.distilling import distill as distill
from puzzle.distillation.head_losses import head_losses as head_losses
from puzzle.distillation.outcome import DistillResult as DistillResult
from puzzle.distillation.settings import DistillConfig as DistillConfig
