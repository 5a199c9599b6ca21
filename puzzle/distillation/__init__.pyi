from puzzle.distillation.distill_config import DistillConfig as DistillConfig
from puzzle.distillation.distill_result import DistillResult as DistillResult
from puzzle.distillation.distiller import Distiller as Distiller
from puzzle.distillation.distiller import boundary_pairs as boundary_pairs
from puzzle.distillation.distilling import distill as distill
from puzzle.distillation.logit_losses import head_losses as head_losses
from puzzle.distillation.offline_teacher import OfflineTeacher as OfflineTeacher
from puzzle.distillation.offline_teacher import cache_teacher as cache_teacher
