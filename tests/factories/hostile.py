"""Model directories that want to run code of their own."""

import json

CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({mark!r}).write_text("this ran")


class Config(LlamaConfig):
    model_type = "unknown"


class Model(LlamaForCausalLM):
    config_class = Config


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def want_code(directory, mark, *, tokenizer=False):
    """Makes a model, or its tokenizer, need code from its directory, which writes a file."""
    (directory / "own.py").write_text(CODE.format(mark=str(mark)))
    if tokenizer:
        file, changes = "tokenizer_config.json", {"tokenizer_class": "OwnTokenizer"}
        changes["auto_map"] = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
    else:
        file, changes = "config.json", {"model_type": "unknown"}
        changes["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    values = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps({**values, **changes}))
