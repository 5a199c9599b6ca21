"""How fast the models of `compare.py` decode in torch beside their parent, in turns.

    OMP_NUM_THREADS=1 python benchmarks/peers/speeds.py --out peers-run

One thread, float32, batch 1, greedy `generate()` from 192 cached tokens, which is the middle of a
reply of 128 to a prompt of 128. Speed does not depend on weights, so that random ones are run, each
layout once. In each round every model has a turn, the parent too; a speed-up is the median over
rounds of the parent's seconds over the model's, with its range. CPU-seconds are counted, which
equal the clock's with one thread on a quiet machine; on a busy one the figures are worth nothing.
SliceGPT's model is a Llama whose residual stream is narrower and changes its basis in every half of
a layer. The figures go to OUT/rows.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compare import Study, open_study
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from puzzle.costs.measured.replies import generate_seconds
from puzzle.models.assembling import random_model
from puzzle.models.child_config import config_from_layout
from search_space import Block, Layout

CACHED, STEPS = 192, 16


class SlicedLayer(LlamaDecoderLayer):
    """A layer of SliceGPT: each residual is multiplied with a matrix of its own."""

    def __init__(self, config: LlamaConfig, index: int, width_out: int) -> None:
        super().__init__(config, index)
        self.attention_shortcut = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.ffn_shortcut = nn.Linear(config.hidden_size, width_out, bias=False)
        self.mlp.down_proj = nn.Linear(config.intermediate_size, width_out, bias=False)

    def forward(self, hidden_states: torch.Tensor, **more: Any) -> torch.Tensor:
        """Returns the residual stream after the layer."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **more)
        between = self.attention_shortcut(hidden_states) + attended
        return self.ffn_shortcut(between) + self.mlp(self.post_attention_layernorm(between))


def sliced_model(study: Study, size: int) -> LlamaForCausalLM:
    """Returns a random model as SliceGPT leaves it: all sizes cut but that of the last output."""
    values = study.parent.config.to_dict()
    hidden = values["hidden_size"]
    config = LlamaConfig(**values | {"tie_word_embeddings": False, "dtype": "float32"})
    config.head_dim = study.parent.shape.head_dim
    # A config with a size that heads do not divide is refused, although Llama does not need it.
    config.hidden_size = size
    model = LlamaForCausalLM(config)
    last = config.num_hidden_layers - 1
    model.model.layers = nn.ModuleList(
        SlicedLayer(config, index, hidden if index == last else size) for index in range(last + 1)
    )
    model.model.norm = LlamaRMSNorm(hidden)
    model.lm_head = nn.Linear(hidden, config.vocab_size, bias=False)
    return model.eval()


def sliced_parameters(model: LlamaForCausalLM) -> tuple[int, int]:
    """Returns the parameters of a sliced model's layers and of all of it, without norms.

    The repository merges the norms' weights into the maps beside them.
    """
    counts = {name: p.numel() for name, p in model.named_parameters() if "norm" not in name}
    layers = sum(count for name, count in counts.items() if ".layers." in name)
    return layers, sum(counts.values())


def model_of(study: Study, row: dict[str, Any]) -> Any:
    """Returns a random model as large as that of a row."""
    if "layout" in row:
        layout = Layout(study.parent.shape, tuple(map(Block.from_label, row["layout"])))
        return random_model(config_from_layout(study.parent.config, layout), "float32")
    wanted = row["parameters"]["layers"], row["parameters"]["model"]
    hidden = study.parent.shape.hidden
    # The head stays as wide as the parent's.
    size = wanted[1] - wanted[0] - study.parent.shape.vocab * hidden
    model = sliced_model(study, size // study.parent.shape.vocab)
    assert sliced_parameters(model) == wanted, (sliced_parameters(model), wanted)
    return model


@dataclass
class Decoder:
    """A model and the cache that it decodes from."""

    model: Any
    tokens: torch.Tensor
    cache: Any

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any) -> Decoder:
        """Returns a model with the cache of random tokens."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(1, model.config.vocab_size, (1, CACHED + 1), generator=generator)
        return cls(model, tokens, model(tokens[:, :-1], use_cache=True).past_key_values)

    @torch.no_grad()
    def seconds(self) -> float:
        """Returns the CPU-seconds of `STEPS` decode steps."""
        one, all_ = (
            generate_seconds(self.model, self.tokens, count, "cpu", copy.deepcopy(self.cache))[0]
            for count in (1, 1 + STEPS)
        )
        return all_ - one


def in_turns(decoders: list[Decoder], rounds: int) -> list[list[float]]:
    """Returns the seconds of each model in each round, after one that warms up."""
    turns = []
    for turn in range(1 + rounds):
        # Every other round goes backwards, so that no model always follows the same one.
        order = range(len(decoders)) if turn % 2 else reversed(range(len(decoders)))
        seconds = {at: decoders[at].seconds() for at in order}
        turns.append([seconds[at] for at in range(len(decoders))])
        print(f"round {turn} of {rounds}: {sum(turns[-1]):.1f} s", flush=True)
    return turns[1:]


def speed(ratios: Iterable[float]) -> dict[str, float]:
    """Returns the median of a model's speed-ups and their range."""
    values = sorted(ratios)
    figures = {"ratio": statistics.median(values), "low": values[0], "high": values[-1]}
    return {name: round(value, 4) for name, value in figures.items()}


def main() -> None:
    """Times the models of all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("peers-run"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    study = open_study(args.out, args.seed)
    path = args.out / "rows.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    # Rows that differ in weights alone are timed once.
    kinds = {key: json.dumps(row.get("layout", row["parameters"])) for key, row in rows.items()}
    models = {kind: model_of(study, rows[key]) for key, kind in kinds.items()}
    own = Layout.parent(study.parent.shape)
    parent = random_model(config_from_layout(study.parent.config, own), "float32")
    turns = in_turns([Decoder.of(model) for model in (parent, *models.values())], args.rounds)
    for kind, seconds in zip(models, list(zip(*turns, strict=True))[1:], strict=True):
        figures = speed(turn[0] / own for turn, own in zip(turns, seconds, strict=True))
        for key in (key for key in rows if kinds[key] == kind):
            rows[key]["decode"] = {**figures, "rounds": args.rounds}
            print(key, figures)
    print("parent:", round(statistics.median(turn[0] for turn in turns) / STEPS, 4), "s a token")
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
