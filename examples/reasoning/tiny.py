"""Thinking that pays, learned from nothing in minutes: SFT in two modes, then RL for brevity.

    pip install "puzzle-nas[posttrain]"
    python examples/reasoning/tiny.py --out tiny-run

A child of 0.27M parameters, whose layers all differ, learns to add seven digits modulo 3, such as
`a2b1c0d0e2f1g2`. With thinking it writes each term and the running sum before the answer. Of the
thoughts that it is trained on, most do this twice, and a tenth stop half way. Without, it answers
at once, which it cannot learn in this time. Reinforcement learning with `Correct` and `Brief` then
makes it write the sum once, and `Correct` with a point off for each token is the control.

Exits with 1 unless, on sums that it was not trained on: without thinking, answers have at most 3
tokens and no thought; with it, at least 5 times as many, and the accuracy is at least 0.3 higher;
`Brief` takes at least 20 % of the tokens at no more than 3 points of accuracy; and the control
costs more than 3 points more.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import puzzle
from puzzle.evaluation import AnswerTask
from puzzle.models.child_config import config_from_layout
from puzzle.models.families import family_of
from puzzle.posttraining import Brief, Correct, PairSettings, sft

TERMS, MODULUS, HELD_OUT, HASTY = "abcdefg", 3, 200, 0.1
LAYOUT = ("gqa2+gated192", "none+gated192", "gqa1+gated192", "linear+none", "gqa2+linear")
SPECIAL = ["<pad>", "<eos>", "<unk>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer() -> Any:
    """Returns a tokenizer for which a term is one token, with a switch for thinking."""
    words = [f"{name}{digit}" for name in TERMS for digit in range(MODULUS)]
    words += [*map(str, range(MODULUS)), ";", "\n", "<think>", "</think>"]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *words])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"</?think>|[a-z]\d|\n|."), "isolated")
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=TEMPLATE,
    )
    return puzzle.add_thinking_switch(tokenizer)


def make_child(tokenizer: Any) -> Any:
    """Returns a child with random weights."""
    own = AutoConfig.for_model(
        "llama",
        num_hidden_layers=len(LAYOUT),
        hidden_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=128,
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    blocks = tuple(map(puzzle.Block.from_label, LAYOUT))
    layout = puzzle.Layout(family_of(own).shape(own), blocks)
    return AutoModelForCausalLM.from_config(config_from_layout(own, layout))


def exercises(seed: int, count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns exercises to train on, and others to test with, in a random order."""
    generator = random.Random(seed)
    numbers = generator.sample(range(MODULUS ** len(TERMS)), MODULUS ** len(TERMS))
    tests, taught = numbers[:HELD_OUT], generator.choices(numbers[HELD_OUT:], k=count)
    rows = []
    for number in [*tests, *taught]:
        digits = [number // MODULUS**place % MODULUS for place in range(len(TERMS))]
        sums = [sum(digits[: place + 1]) % MODULUS for place in range(len(TERMS))]
        terms = [f"{name}{digit}" for name, digit in zip(TERMS, digits, strict=True)]
        steps = "".join(f"{term}{total}" for term, total in zip(terms, sums, strict=True))
        kind, half = generator.random(), 3 * generator.randint(2, 4)
        thought = steps[:half] if kind < HASTY else steps if kind < 0.4 else f"{steps};{steps}"
        rows.append({"question": "".join(terms), "thought": thought, "answer": str(sums[-1])})
    return rows[HELD_OUT:], rows[:HELD_OUT]


def conversation(row: dict[str, Any]) -> dict[str, Any]:
    """Returns an exercise as supervised fine-tuning reads it, to be shown in both modes."""
    answer = {"role": "assistant", "content": row["answer"], "reasoning_content": row["thought"]}
    return {"messages": [{"role": "user", "content": row["question"]}, answer]}


def measured(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Returns accuracy and tokens in both modes, and the share of thoughts without thinking."""
    task = AnswerTask(
        name="sums",
        questions=[row["question"] for row in rows],
        answers=[row["answer"] for row in rows],
    )
    found = puzzle.evaluate(
        model, tokenizer=tokenizer, tasks=[task], thinking="both", max_tokens=48, batch=100
    ).answers["child"]
    on, off = found["sums", "on"], found["sums", "off"]
    return {
        "accuracy on": on.accuracy.value,
        "accuracy off": off.accuracy.value,
        "tokens on": float(on.tokens.mean()),
        "most tokens off": float(off.tokens.max()),
        "tokens off": float(off.tokens.mean()),
        "thoughts off": float(off.thought.mean()),
    }


class Shorter:
    """The control: a point off for each token, whether the answer is right or not."""

    __name__ = "shorter"

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """Returns the reward of each completion."""
        return [-float(len(ids)) for ids in completion_ids]


def reinforced(
    start: Path, rewards: list[Any], rows: list[dict[str, Any]], out: Path, given: Any
) -> Any:
    """Returns the child after reinforcement learning with thinking on, by TRL's GRPO."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts = [
        {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"]}
        for row in rows
    ]
    args = GRPOConfig(
        output_dir=str(out),
        max_steps=given.rl_steps,
        per_device_train_batch_size=64,
        num_generations=8,
        max_completion_length=48,
        learning_rate=given.rl_rate,
        chat_template_kwargs={"enable_thinking": True},
        beta=0.0,
        bf16=False,
        use_cpu=True,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        seed=given.seed,
    )
    child = AutoModelForCausalLM.from_pretrained(start)
    trainer = GRPOTrainer(
        child,
        rewards,
        args=args,
        train_dataset=Dataset.from_list(prompts),
        processing_class=make_tokenizer(),
    )
    trainer.train()
    return child.eval()


def accepted(taught: dict[str, float], brief: dict[str, float], control: dict[str, float]) -> dict:
    """Returns what was promised, and whether it holds."""
    return {
        "off: at most 3 tokens": taught["most tokens off"] <= 3,
        "off: no thoughts": taught["thoughts off"] == 0,
        "on: at least 5 times the tokens": taught["tokens on"] >= 5 * taught["tokens off"],
        "on: accuracy higher by 0.3": taught["accuracy on"] - taught["accuracy off"] >= 0.3,
        "brief: 20 % fewer tokens": brief["tokens on"] <= 0.8 * taught["tokens on"],
        "brief: no more than 3 points": taught["accuracy on"] - brief["accuracy on"] <= 0.03,
        "the control costs more accuracy": control["accuracy on"] < brief["accuracy on"] - 0.03,
    }


def main() -> int:
    """Trains, measures, and returns 0 if all that is promised holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tiny-run"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sft-steps", type=int, default=180)
    parser.add_argument("--rl-steps", type=int, default=24)
    parser.add_argument("--rl-rate", type=float, default=3e-4)
    given = parser.parse_args()
    torch.manual_seed(given.seed)
    tokenizer = make_tokenizer()
    rows, tests = exercises(given.seed, 32 * given.sft_steps)
    taught = sft(
        make_child(tokenizer),
        [conversation(row) for row in rows],
        out=given.out / "sft",
        tokenizer=tokenizer,
        settings=PairSettings(curriculum=False, seed=given.seed),
        training={
            "learning_rate": 3e-3,
            "adam_beta2": 0.98,
            "weight_decay": 0.01,
            "warmup_steps": 30,
            "per_device_train_batch_size": 64,
            "max_steps": given.sft_steps,
            "bf16": False,
            "logging_steps": 50,
            "save_strategy": "no",
        },
    )
    figures = {"sft": measured(taught.path, tokenizer, tests)}
    print(json.dumps({**figures, "cpu_seconds": time.process_time()}), flush=True)
    right = Correct(thinking="on")
    second = {"brief": Brief(num_generations=8, thinking="on"), "control": Shorter()}
    for name, reward in second.items():
        child = reinforced(taught.path, [right, reward], rows, given.out / name, given)
        figures[name] = measured(child, tokenizer, tests)
        print(json.dumps({name: figures[name], "cpu_seconds": time.process_time()}), flush=True)
    checks = accepted(figures["sft"], figures["brief"], figures["control"])
    print(json.dumps({"holds": checks, "cpu_seconds": time.process_time()}, indent=1))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
