"""Serving engines whose speed can be learned as that of a black box."""

from puzzle.costs.engines.base import Engine, Timing
from puzzle.costs.engines.command import Command
from puzzle.costs.engines.llama_cpp import LlamaCpp
from puzzle.costs.engines.torch_generate import TorchGenerate
from puzzle.costs.engines.vllm import Vllm

__all__ = ["Command", "Engine", "LlamaCpp", "Timing", "TorchGenerate", "Vllm"]
