"""Global distillation: the whole child is trained to imitate its parent."""

from puzzle.distill.config import DistillConfig
from puzzle.distill.distiller import Distiller, boundary_pairs
from puzzle.distill.head_losses import head_losses
from puzzle.distill.result import DistillResult
from puzzle.distill.run import distill
from puzzle.distill.stream import PackedStream

__all__ = [
    "DistillConfig",
    "DistillResult",
    "Distiller",
    "PackedStream",
    "boundary_pairs",
    "distill",
    "head_losses",
]
