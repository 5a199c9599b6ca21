"""Scores of both modes of thinking side by side, and what choosing by both is worth.

    python benchmarks/mode_scores.py --out mode-scores

It needs the extra `posttrain`. The task and the training are those of
`examples/reasoning/tiny.py`, of a parent whose layers are all alike: with thinking it solves the
task, without it by chance. Its library is fitted to a mixture of both modes. Every block of it is
scored alone, exactly, on conversations of each mode. For each budget of parameters, three layouts
are chosen: by the scores with thinking, by those without, and by their mean. Their children are
healed on the mixture, and measured on conversations and questions that nothing was fitted to or
chosen with.
"""

from __future__ import annotations

import argparse
import json
import runpy
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.machine import print_machine
from transformers import AutoConfig, AutoModelForCausalLM

import puzzle
from puzzle import choice, pipeline
from puzzle.choice.program import program_of
from puzzle.costs.by_name import cost_model
from puzzle.hardware.precision import Precision
from puzzle.library.settings import LibraryConfig
from puzzle.limits.scenario import Scenario, Workload
from puzzle.posttraining import PairSettings, sft
from puzzle.scoring import Score, Scores, replace_one
from puzzle.text import DataConfig, TextMix, Windows
from puzzle.text.chat import render_chat
from search_space import Block, Layout, SearchSpace
from solvers import solve

TINY = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "reasoning" / "tiny.py"))
LAYERS, WIDTH, ROWS = 4, 192, 128
BUDGETS = (0.65, 0.6, 0.55, 0.5, 0.45)
HARDWARE, SCENARIO = "roofline:h100-sxm", Scenario(batch=8, prompt_tokens=8, generated_tokens=24)


def trained_parent(out: Path, tokenizer: Any, steps: int, seed: int) -> Any:
    """Returns a parent that thinks, as the example trains its child."""
    config = AutoConfig.for_model(
        "llama",
        num_hidden_layers=LAYERS,
        hidden_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=128,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    rows, _ = TINY["exercises"](seed, 32 * steps)
    return sft(
        AutoModelForCausalLM.from_config(config),
        [TINY["conversation"](row) for row in rows],
        out=out,
        tokenizer=tokenizer,
        settings=PairSettings(curriculum=False, seed=seed),
        training={
            "learning_rate": 3e-3,
            "adam_beta2": 0.98,
            "weight_decay": 0.01,
            "warmup_steps": 30,
            "per_device_train_batch_size": 64,
            "max_steps": steps,
            "bf16": False,
            "logging_steps": 50,
            "save_strategy": "no",
        },
    ).path


def windows_of(rows: list[dict[str, Any]], tokenizer: Any, mode: str) -> torch.Tensor:
    """Returns conversations of a mode, of those that are equally long, a window each."""
    ids = []
    for row in rows:
        messages = TINY["conversation"](row)["messages"]
        text = render_chat(messages, tokenizer, thinking=mode)
        ids.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    lengths = [len(each) for each in ids]
    common = max(set(lengths), key=lengths.count)
    return torch.tensor([each for each in ids if len(each) == common])


def spearman(one: list[float], other: list[float]) -> float:
    """Returns the correlation of ranks."""
    ranks = [np.argsort(np.argsort(each)) for each in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def compared(scores: dict[str, Scores], shape: Any) -> dict[str, Any]:
    """Returns how far the scores of both modes agree, over all blocks and over some kinds."""
    own = {f"{a.label}" for a in shape.parent_blocks}
    found: dict[str, Any] = {}
    chosen = {
        "all blocks": lambda label: True,
        "attention removed": lambda label: label == f"none+gated{WIDTH}",
        "FFN removed": lambda label: label.endswith("+none") and label.startswith("gqa2"),
    }
    for name, wanted in chosen.items():
        pairs = [
            (score.kl, scores["off"].kl(layer, label))
            for layer, label, score in scores["on"].items()
            if label not in own and wanted(label)
        ]
        on, off = (list(each) for each in zip(*pairs, strict=True))
        found[name] = {"blocks": len(pairs), "spearman": round(spearman(on, off), 3)}
        if name != "all blocks":
            found[name] |= {
                "on": [round(each, 3) for each in on],
                "off": [round(each, 4) for each in off],
            }
    return found


def mixed(scores: dict[str, Scores]) -> Scores:
    """Returns the mean of both modes' scores."""
    return Scores(
        tuple(
            {
                label: Score(kl=(score.kl + scores["off"].kl(layer, label)) / 2)
                for label, score in row.items()
            }
            for layer, row in enumerate(scores["on"].layers)
        )
    )


def measured(child: Any, parent: Any, tokenizer: Any, held: dict[str, Any]) -> dict[str, float]:
    """Returns a child's accuracy and KL in both modes."""
    found = TINY["measured"](child, tokenizer, held["tests"])
    figures = {f"accuracy {mode}": round(found[f"accuracy {mode}"], 3) for mode in ("on", "off")}
    for mode in ("on", "off"):
        text = puzzle.evaluate(child, parent=parent, data=held[mode], tokenizer=tokenizer).text
        figures[f"kl {mode}"] = round(text["child"]["kl"].value, 4)
    return figures


def main() -> None:
    """Trains the parent, scores, chooses, and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("mode-scores"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=240)
    given = parser.parse_args()
    print_machine(packages=("torch", "transformers", "trl"))
    torch.manual_seed(given.seed)
    tokenizer = TINY["make_tokenizer"]()
    parent = trained_parent(given.out / "sft", tokenizer, given.steps, given.seed)
    taught, tests = TINY["exercises"](given.seed + 1, 8 * ROWS)
    parts = [taught[: 6 * ROWS], taught[6 * ROWS : 7 * ROWS], taught[7 * ROWS :]]
    held: dict[str, Any] = {m: windows_of(parts[2], tokenizer, m) for m in ("on", "off")}
    held["tests"] = tests
    print(json.dumps({"parent": measured(parent, parent, tokenizer, held)}), flush=True)
    rows = [TINY["conversation"](row) for row in parts[0]]
    inputs = pipeline.Inputs(
        parent=parent,
        text=TextMix(texts={"on": rows, "off": rows}, shares={"on": 1, "off": 1}),
        workload=Workload.of(SCENARIO),
        hardware=HARDWARE,
        device="cpu",
        precision=Precision.of("float32"),
        data=DataConfig(window=32, fit_tokens=4096, score_tokens=512, validation_tokens=512),
    )
    place = pipeline.open_workspace(given.out / "run")
    opened = pipeline.open_run(inputs, place, seed=given.seed)
    shape = opened.run.parent.shape
    space = SearchSpace.preset(shape, "small")
    steps = pipeline.Steps(
        space=space,
        workload=opened.workload,
        hardware=HARDWARE,
        effort=choice.effort_named("fast"),
        config=LibraryConfig(),
    )
    library = opened.run.get(steps.library)
    fit = opened.run.windows.fit
    scores = {}
    for mode in ("on", "off"):
        own = windows_of(parts[1], tokenizer, mode)
        text = Windows(fit=fit, score=own, validation=own)
        scores[mode] = replace_one(library, space, text, workspace=place)
    print(json.dumps(compared(scores, shape)), flush=True)
    costs = cost_model(HARDWARE, shape=shape, scenario=SCENARIO)
    for budget in BUDGETS:
        for name, objective in {**scores, "both": mixed(scores)}.items():
            problem = program_of(objective, costs, shape, SCENARIO, f"parameters <= {budget}x")
            blocks = [Block.from_label(label) for label in solve(problem).labels]
            child = pipeline.child_of(opened, steps, Layout(shape, tuple(blocks))).child()
            figures = measured(child, parent, tokenizer, held)
            print(json.dumps({"budget": budget, "chosen by": name, **figures}), flush=True)
    print(json.dumps({"cpu_seconds": round(time.process_time(), 1)}))


if __name__ == "__main__":
    main()
