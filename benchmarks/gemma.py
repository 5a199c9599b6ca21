"""A whole search of Gemma 3 270M, and what becomes of its children.

    OMP_NUM_THREADS=1 nice python benchmarks/gemma.py --out gemma-run
    OMP_NUM_THREADS=1 nice python benchmarks/gemma.py --out gemma-run --plain

The child of a fast search is healed, saved, opened again and evaluated beside its parent; so is the
child with one block in all layers (--plain), which stock transformers then opens as the
`gemma3_text` it is, in a process without puzzle. Limits are on parameters, so that
nothing is timed. It prints one JSON object; a finished search is not repeated.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common.gemma import fetch_gemma
from common.held_out import lm_loss
from common.machine import print_machine
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.demo import demo_text
from puzzle.models.assembling import assemble
from puzzle.models.parent import Parent
from search_space import Layout

DATA = puzzle.DataConfig(fit_tokens=8192, score_tokens=1024, validation_tokens=4096)
SCENARIO = puzzle.Scenario(batch=1, prompt_tokens=128, generated_tokens=128)
HARDWARE = "roofline:h100-sxm"
STOCK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoConfig
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
with torch.no_grad():
    logits = model(torch.tensor([[2, *range(1000, 1031)]])).logits
assert "puzzle" not in sys.modules
torch.save(logits, sys.argv[2])
print(model.config.model_type)
"""


@torch.no_grad()
def beginning(parent: Parent, tokens_BL: torch.Tensor) -> dict[str, float]:
    """Returns how many windows start with the tokenizer's first token, and losses with and without.

    The loss is that of the same tokens, the first of which follows the one that is left out.
    """
    own = Layout.parent(parent.shape)
    model = assemble(parent.config, own, parent.state_dict(), dtype=parent.dtype)
    first = tokens_BL[:, 0] == parent.tokenizer.bos_token_id
    without = [lm_loss(model, tokens_BL[:, at:]) for at in (0, 1)]
    return {
        "windows": len(first),
        "with_first_token": int(first.sum()),
        "loss": round(without[0], 4),
        "loss_without": round(without[1], 4),
    }


def opened_again(result: puzzle.SearchResult, place: Path) -> float:
    """Returns the largest difference of logits of the child that is saved and opened again."""
    result.save(place)
    again = AutoModelForCausalLM.from_pretrained(place).eval()
    tokens = torch.tensor([[2, *range(1000, 1031)]])
    with torch.no_grad():
        return float((again(tokens).logits - result.child()(tokens).logits).abs().max())


def in_stock_transformers(result: puzzle.SearchResult, place: Path) -> dict[str, Any]:
    """Returns what a process without puzzle makes of the exported child, beside the child."""
    exported = puzzle.export(result, place / "plain", engine="plain", dtype="float32")
    command = [sys.executable, "-c", STOCK, str(exported.path), str(place / "logits.pt")]
    model_type = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    tokens = torch.tensor([[2, *range(1000, 1031)]])
    with torch.no_grad():
        own = result.child().float()(tokens).logits
    apart = (torch.load(place / "logits.pt", weights_only=True) - own).abs().max()
    return {"model_type": model_type, "largest_difference": float(apart)}


def main() -> None:
    """Runs it all and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gemma-run"))
    parser.add_argument("--constraint", default="parameters <= 0.9x")
    parser.add_argument("--plain", action="store_true", help="one block in all layers")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--fit-tokens", type=int, default=DATA.fit_tokens)
    parser.add_argument("--validation-tokens", type=int, default=DATA.validation_tokens)
    options = parser.parse_args()
    sizes = {"fit_tokens": options.fit_tokens, "validation_tokens": options.validation_tokens}
    machine = print_machine(dtype=options.dtype, seed=DATA.seed)
    started = time.process_time()
    result = puzzle.search(
        fetch_gemma(),
        demo_text(),
        constraints=[options.constraint],
        scenario=SCENARIO,
        space="plain" if options.plain else "small",
        distinct=1 if options.plain else None,
        data=replace(DATA, **sizes),
        effort="fast",
        hardware=HARDWARE,
        precision=options.dtype,
        out=options.out,
    )
    seconds = time.process_time() - started
    parent = result.library.parent
    place = options.out / ("plain-child" if options.plain else "own-child")
    report = {
        "machine": machine,
        "search_cpu_seconds": round(seconds),
        "layout": [block.label for block in result.layout.blocks],
        "parameters": result.layout.parameters() / Layout.parent(parent.shape).parameters(),
        "beginning": beginning(parent, result.validation),
        "opened_again": opened_again(result, place / "saved"),
        "result": result.to_dict()["measured"],
        "evaluated": result.evaluate().to_dict(),
    }
    if options.plain:
        report["stock"] = in_stock_transformers(result, place)
    print(json.dumps(report, indent=1, default=str))


if __name__ == "__main__":
    main()
