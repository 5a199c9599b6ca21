"""Teaches a searched child of SmolLM2 to think: fine-tuning, reinforcement learning, alignment.

    puzzle search --demo --out search --hardware roofline:h100-sxm --working-dtype float32 \
        --constraint "parameters <= 0.9x" --constraint "kv_cache <= 0.7x"
    python examples/reasoning/smollm2.py search/child --out smollm2-run

It needs the extra `posttrain`. The task is chained sums of reasoning-gym, of three to five
digits. First the child learns both modes from pairs: with thinking on, it writes every running sum;
off, the answer alone. Then GRPO rewards right, consistent and brief answers. At last DPO prefers
right answers to wrong ones, and with thinking off an answer to one with its steps. All stages train
adapters, which are merged into what is saved. After each, and before, the child answers sums that
it is not trained on, greedily, in both modes. The program exits with 1 if the alignment leaves
fewer answers in the form of their mode.

What is done is kept in the run directory: the same command goes on from the last step that was
saved, and prints what there is at its end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import puzzle
from puzzle.evaluation import AnswerTask
from puzzle.posttraining import (
    PairSettings,
    align,
    gym_equal,
    gym_tasks,
    rl,
    sft,
    switched_tokenizer,
)

SUMS = {"chain_sum": {"min_terms": 3, "max_terms": 5, "min_digits": 1, "max_digits": 1}}
LONGEST = 48  # tokens of a thought and its answer


def sums(seed: int, count: int, without: list[dict[str, str]]) -> list[dict[str, str]]:
    """Returns chained sums without differences, with the running sums as a thought.

    Args:
        seed: Seed of the rows.
        count: How many.
        without: Rows whose questions are left out.
    """
    found: list[dict[str, str]] = []
    known = {row["question"] for row in without}
    # At least one row in sixteen has no difference.
    for row in gym_tasks(SUMS, size=20 * count, seed=seed):
        entry = json.loads(row["answer"])["entry"]
        first, *others = str(entry["metadata"]["expression"]).split(" + ")
        if row["question"] in known or not all(each.isdigit() for each in (first, *others)):
            continue
        steps, total = [], int(first)
        for each in others:
            steps.append(f"{total} + {each} = {total + int(each)}")
            total += int(each)
        found.append({**row, "thought": "; ".join(steps), "right": str(entry["answer"])})
    return found[:count]


def conversation(row: dict[str, str]) -> dict[str, Any]:
    """Returns a sum as supervised fine-tuning reads it, to be shown in both modes."""
    answer = {"role": "assistant", "content": row["right"], "reasoning_content": row["thought"]}
    return {"messages": [{"role": "user", "content": row["question"]}, answer]}


def preferences(row: dict[str, str]) -> list[dict[str, Any]]:
    """Returns what is preferred in the answers to a sum.

    A row that names no mode is one of each: right steps and answer to wrong ones, and the right
    answer alone to a wrong one.
    """
    *steps, last = row["thought"].split("; ")
    wrong = str(int(row["right"]) + 1)
    missed = "; ".join([*steps, f"{last.partition(' = ')[0]} = {wrong}"])
    answers = {"chosen": (row["thought"], row["right"]), "rejected": (missed, wrong)}
    return [
        {
            "prompt": row["question"],
            **{name: f"<think>{thought}</think>{own}" for name, (thought, own) in answers.items()},
        },
        {
            "prompt": row["question"],
            "reasoning": "off",
            "chosen": row["right"],
            "rejected": f"{row['thought']}; {row['right']}",
        },
    ]


def adapters() -> Any:
    """Returns small matrices beside every map of the child, which alone are trained."""
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def measured(model: Any, tokenizer: Any, tests: list[dict[str, str]]) -> dict[str, Any]:
    """Returns what a model answers in both modes."""
    task = AnswerTask(
        name="sums",
        questions=[row["question"] for row in tests],
        answers=[row["answer"] for row in tests],
        scorer=gym_equal,
    )
    answers = puzzle.evaluate(
        model, tokenizer=tokenizer, tasks=[task], thinking="both", max_tokens=LONGEST, batch=32
    ).answers["child"]
    return {
        f"{name} {mode}": round(value, 3)
        for (_, mode), own in answers.items()
        for name, value in {
            "accuracy": own.accuracy.value,
            "error": own.accuracy.error,
            "tokens": float(own.tokens.mean()),
            "finished": float(own.finished.mean()),
            "thoughts": float(own.thought.mean()),
        }.items()
    }


class Figures:
    """Figures of stages, kept in a file, with the CPU-seconds that each took this time.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = json.loads(path.read_text()) if path.is_file() else {}
        self.begun = time.process_time()

    def add(self, name: str, values: dict[str, Any]) -> None:
        """Adds the figures of a stage."""
        seconds = round(time.process_time() - self.begun, 1)
        self.begun = time.process_time()
        self.values[name] = {**values, "cpu_seconds": seconds}
        self.path.write_text(json.dumps(self.values, indent=1) + "\n")
        print(json.dumps({name: self.values[name]}), flush=True)


def fine_tuned(given: Any, tokenizer: Any, tests: list[dict[str, str]]) -> Any:
    """Returns the child after supervised fine-tuning on both modes."""
    rows = sums(given.seed + 1, given.rows * given.sft_steps // 2, tests)
    return sft(
        given.child,
        [conversation(row) for row in rows],
        out=given.out / "sft",
        tokenizer=tokenizer,
        settings=PairSettings(curriculum=False, seed=given.seed),
        peft_config=adapters(),
        training={
            "learning_rate": given.sft_rate,
            "warmup_steps": 3,
            "max_steps": given.sft_steps,
            "per_device_train_batch_size": given.rows,
            "save_steps": 4,
            "logging_steps": 2,
            "seed": given.seed,
        },
    )


def reinforced(given: Any, taught: Any, tokenizer: Any, tests: list[dict[str, str]]) -> Any:
    """Returns the child after reinforcement learning in both modes."""
    tasks = sums(given.seed + 2, given.rl_steps, tests)
    return rl(
        taught,
        tasks,
        gym_equal,
        out=given.out / "rl",
        tokenizer=tokenizer,
        peft_config=adapters(),
        training={
            "learning_rate": given.rl_rate,
            "max_steps": given.rl_steps,
            "num_generations": 8,
            "per_device_train_batch_size": 16,
            "max_completion_length": LONGEST,
            "save_steps": 2,
            "logging_steps": 1,
            "seed": given.seed,
        },
    )


def aligned(given: Any, trained: Any, tokenizer: Any, tests: list[dict[str, str]]) -> Any:
    """Returns the child after alignment, with the share of answers in form before and after."""
    pairs = 3  # of each sum
    rows = sums(given.seed + 3, 2 * given.align_steps, tests)
    return align(
        trained,
        [pair for row in rows for pair in preferences(row)],
        out=given.out / "align",
        tokenizer=tokenizer,
        probes=[row["question"] for row in tests[:16]],
        probe_tokens=LONGEST,
        peft_config=adapters(),
        training={
            "learning_rate": given.align_rate,
            "max_steps": given.align_steps,
            "per_device_train_batch_size": 2 * pairs,
            "save_steps": 4,
            "logging_steps": 1,
            "seed": given.seed,
        },
    )


def main() -> int:
    """Trains and measures, stage by stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("child", type=Path, help="what puzzle search wrote to child/")
    parser.add_argument("--out", type=Path, default=Path("smollm2-run"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", type=int, default=64)
    parser.add_argument("--rows", type=int, default=8, help="rows of a step of fine-tuning")
    parser.add_argument("--sft-steps", type=int, default=40)
    parser.add_argument("--sft-rate", type=float, default=2e-3)
    parser.add_argument("--rl-steps", type=int, default=8)
    parser.add_argument("--rl-rate", type=float, default=2e-4)
    parser.add_argument("--align-steps", type=int, default=8)
    parser.add_argument("--align-rate", type=float, default=1e-4)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    figures = Figures(given.out / "figures.json")
    tokenizer = switched_tokenizer(given.child)
    tests = sums(given.seed, given.tests, [])
    if "searched" not in figures.values:
        figures.add("searched", measured(given.child, tokenizer, tests))
    taught = fine_tuned(given, tokenizer, tests)
    if "sft" not in figures.values:
        figures.add("sft training", taught.figures)
        figures.add("sft", measured(taught.path, tokenizer, tests))
    trained = reinforced(given, taught, tokenizer, tests)
    if "rl" not in figures.values:
        figures.add("rl training", trained.figures)
        figures.add("rl", measured(trained.path, tokenizer, tests))
    preferred = aligned(given, trained, tokenizer, tests)
    if "align" not in figures.values:
        figures.add("align training", preferred.figures)
        figures.add("align", measured(preferred.path, tokenizer, tests))
    print(json.dumps(figures.values, indent=1))
    kept = preferred.figures
    return int(
        any(
            kept[f"in form after, thinking {mode}"] < kept[f"in form before, thinking {mode}"]
            for mode in ("on", "off")
        )
    )


if __name__ == "__main__":
    sys.exit(main())
