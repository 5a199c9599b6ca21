from puzzle.fusion.choice import FusionChoice as FusionChoice
from puzzle.fusion.choice import choose_fusion as choose_fusion
from puzzle.fusion.fused import FusionCandidate as FusionCandidate
from puzzle.fusion.fused import block_dependency as block_dependency
from puzzle.fusion.fused import fuse_child as fuse_child
from puzzle.fusion.fused import fused_cost as fused_cost
from puzzle.fusion.fused import fusion_candidates as fusion_candidates
from puzzle.fusion.fused import propose_fusion as propose_fusion
