"""Children of `compare.py` after the same distillation.

    OMP_NUM_THREADS=1 python benchmarks/peers/distil.py --out peers-run

Each child at 85 % is distilled from the parent by `puzzle.distill` with one setting: Muon at the
default peak rate or at --rate, cosine and KL, 20 steps of 8 windows of 256 tokens of docstrings, of
which the first 8,192 tokens are the calibration text; bfloat16 autocast, weights in float32. That
takes about 300 CPU-seconds. KL is measured on the validation text of the comparison. The figures
go to OUT/distilled.json, each with its rate, and are not made again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from compare import OURS, Study, figures, healed, open_study
from safetensors.torch import load_file

import puzzle
from puzzle.models.assembling import assemble
from puzzle.scoring.scores import combine
from puzzle.text.windows import DataConfig, windows
from search_space import Block, Layout


def training_text(study: Study, tokens: int, seed: int) -> torch.Tensor:
    """Returns windows of text, none of them of the validation text."""
    documents = json.loads((study.out / "texts.json").read_text(encoding="utf-8"))
    data = DataConfig(fit_tokens=tokens, score_tokens=1024, validation_tokens=4096, seed=seed)
    cut = windows(documents, study.parent.tokenizer, data)
    assert torch.equal(cut.validation, study.cut.validation)
    return cut.fit


def distilled(study: Study, method: str, row: dict[str, Any], args: Any) -> dict[str, Any]:
    """Returns the figures of one child after distillation, and its CPU-seconds."""
    layout = Layout(study.parent.shape, tuple(map(Block.from_label, row["layout"])))
    if method in OURS:
        tensors = healed(study, method, layout)
    else:
        tensors = load_file(study.out / f"{method}-{args.share:g}" / "weights.safetensors")
    parts = study.parent.config, study.parent.state_dict()
    parent = assemble(parts[0], Layout.parent(study.parent.shape), parts[1], dtype=torch.float32)
    child = assemble(parts[0], layout, tensors, dtype=torch.float32)
    config = puzzle.DistillConfig(
        tokens=args.tokens,
        length=study.cut.fit.shape[1],
        batch=8,
        micro_batch=4,
        optimizer="muon",
        learning_rate=args.rate,
        mixed_precision="bf16",
        checkpoint_every=10**6,
        seed=args.seed,
    )
    text = training_text(study, args.tokens, args.seed)
    started = time.process_time()
    with tempfile.TemporaryDirectory(dir=study.out) as out:
        child = puzzle.distill(child, study.parent, text, config=config, out=out).child()
        seconds = time.process_time() - started
    return {
        **figures(parent, child.float(), study.cut.validation),
        "cpu_seconds": round(seconds, 1),
        "tokens": args.tokens,
        "rate": args.rate,
    }


def main() -> None:
    """Distils the children that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("peers-run"))
    parser.add_argument("--methods", nargs="+", default=["shortgpt", "2ssp", "puzzle"])
    parser.add_argument("--share", type=float, default=0.85)
    parser.add_argument("--tokens", type=int, default=40960)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    study = open_study(args.out, args.seed)
    rows = json.loads((args.out / "rows.json").read_text(encoding="utf-8"))
    path = args.out / "distilled.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for method in args.methods:
        child = f"{method} {args.share:g}"
        key = f"{child} at {args.rate:g}"
        if key not in done:
            done[key] = distilled(study, method, rows[child], args)
            path.write_text(json.dumps(done, indent=1), encoding="utf-8")
        print(key, round(combine(done[key]["kl"])[0], 4), done[key]["cpu_seconds"], flush=True)


if __name__ == "__main__":
    main()
