from puzzle.costs.calibrated.engines.command import Command as Command
from puzzle.costs.calibrated.engines.engine import Engine as Engine
from puzzle.costs.calibrated.engines.engine import Timing as Timing
from puzzle.costs.calibrated.engines.llama_cpp import LlamaCpp as LlamaCpp
from puzzle.costs.calibrated.engines.torch_generate import TorchGenerate as TorchGenerate
from puzzle.costs.calibrated.engines.vllm import Vllm as Vllm
