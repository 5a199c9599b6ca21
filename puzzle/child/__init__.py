"""The child: a Llama whose layers differ, registered with the transformers Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from puzzle.child.assemble import assemble, layer_from_block
from puzzle.child.config import PuzzleConfig, config_from_layout, layout_from_config
from puzzle.child.model import PuzzleDecoderLayer, PuzzleForCausalLM, PuzzleModel

AutoConfig.register(PuzzleConfig.model_type, PuzzleConfig, exist_ok=True)
AutoModel.register(PuzzleConfig, PuzzleModel, exist_ok=True)
AutoModelForCausalLM.register(PuzzleConfig, PuzzleForCausalLM, exist_ok=True)

__all__ = [
    "PuzzleConfig",
    "PuzzleDecoderLayer",
    "PuzzleForCausalLM",
    "PuzzleModel",
    "assemble",
    "config_from_layout",
    "layer_from_block",
    "layout_from_config",
]
