"""What becomes of a search's child: distilled, evaluated beside its parent, run in llama.cpp.

    puzzle search --demo
    OMP_NUM_THREADS=1 python benchmarks/child.py --run puzzle-run --tokens 24576

Distils on the demo's text, on windows that begin where those of the search end; evaluates parent,
child and distilled child on text after those and in offline tasks; measures all three in llama.cpp.
It prints one JSON object and leaves the distilled child in RUN/distilled/child.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.demo_parent import as_child, open_demo_parent
from common.machine import print_machine
from serve_speed import speed

import puzzle
from puzzle.demo import DEMO_DATA, demo_text
from puzzle.evaluation.questions import fetch_bigbench
from puzzle.serving.exporting import export
from puzzle.text.windows import windows

# Multiple choice; a parent of this size is better than chance in the addition alone.
TASKS = ("arithmetic/1_digit_addition", "entailed_polarity", "implicatures", "sports_understanding")


def evaluated(models: dict[str, Any], text: Any, tokenizer: Any, limit: int) -> dict[str, Any]:
    """Returns figures of each model, and what each keeps of the first, in percent."""
    tasks = ["mmlu-dev", *fetch_bigbench(TASKS)]
    figures = {}
    for name, model in list(models.items())[1:]:
        both = puzzle.evaluate(
            model,
            parent=models["parent"],
            data=text,
            tasks=tasks,
            tokenizer=tokenizer,
            limit=limit,
        )
        figures[name] = both.to_dict()
    return figures


def served(models: dict[str, Any], tokenizer: Any, rounds: int) -> dict[str, Any]:
    """Returns prefill and decode tokens per CPU-second in llama.cpp, q8_0, medians of turns."""
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: export(
                model,
                Path(folder) / name,
                engine="llama.cpp",
                quantisation="q8_0",
                tokenizer=tokenizer,
            ).path
            for name, model in models.items()
        }
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
        for _ in range(rounds):
            for name, file in files.items():
                rates[name].append(speed(file, 128, 128))
        sizes = {name: file.stat().st_size for name, file in files.items()}
    return {
        name: {
            "bytes": sizes[name],
            "prefill": [round(value, 1) for value, _ in rows],
            "decode": [round(value, 1) for _, value in rows],
            "decode_median": round(statistics.median(value for _, value in rows), 1),
        }
        for name, rows in rates.items()
    }


def main() -> None:
    """Runs it all and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("puzzle-run"))
    parser.add_argument("--tokens", type=int, default=24576)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--limit", type=int, default=200, help="questions per task")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    result = puzzle.load_result(options.run)
    parent = open_demo_parent(options.run)
    machine = print_machine(dtype=parent.dtype, seed=DEMO_DATA.seed)
    used = DEMO_DATA.fit_tokens + DEMO_DATA.score_tokens + DEMO_DATA.validation_tokens
    size = replace(DEMO_DATA, fit_tokens=2 * used + options.tokens, validation_tokens=8192)
    cut = windows(demo_text(), parent.tokenizer, size)
    # The documents come in the search's order, so that it has not seen these.
    unseen = cut.fit[-(options.tokens // cut.fit.shape[1]) :]
    started = time.process_time()
    distilled = puzzle.distill(
        result.child(),
        parent,
        unseen,
        config=puzzle.DistillConfig(
            tokens=options.tokens,
            length=cut.fit.shape[1],
            batch=8,
            micro_batch=4,
            optimizer="adamw",
            learning_rate=options.learning_rate,
            mixed_precision="bf16",
        ),
        validation=cut.validation,
        out=options.run / "distilled",
    )
    seconds = round(time.process_time() - started)
    models = {
        "parent": as_child(parent),
        "child": result.child(),
        "distilled": distilled.child(),
    }
    report = {
        "machine": machine,
        "tokens": options.tokens,
        "distillation_cpu_seconds": seconds,
        "search": result.to_dict()["speedup"],
        "evaluated": evaluated(models, cut.validation, parent.tokenizer, options.limit),
        "llama.cpp": served(models, parent.tokenizer, options.rounds),
    }
    print(json.dumps(report, indent=1, default=str))


if __name__ == "__main__":
    main()
