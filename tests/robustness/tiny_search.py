"""A search so small that it can be run for each of its file operations."""

import json
from pathlib import Path

import puzzle
from tests.factories.parents import parent_model, text, tokenizer

DATA = puzzle.DataConfig(window=8, fit_tokens=64, score_tokens=16, validation_tokens=16)
SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
}


def write_inputs(directory: Path) -> None:
    """Saves a parent and a text."""
    parent_model(**SIZES).save_pretrained(directory / "parent")
    tokenizer().save_pretrained(directory / "parent")
    rows = [json.dumps({"text": each}) for each in text(count=12)]
    (directory / "text.jsonl").write_text("\n".join(rows))


def search_and_save(inputs: Path, out: Path) -> None:
    """Runs a search in `out / "run"`, and saves its child in `out / "child"`.

    Its costs are modelled, not measured, so that every byte but those of times is the same again.
    """
    result = puzzle.search(
        inputs / "parent",
        inputs / "text.jsonl",
        constraints=["parameters <= 0.8x"],
        scenario=puzzle.Scenario(batch=2, prompt_tokens=4, generated_tokens=4),
        effort="fast",
        hardware="roofline:h100-sxm",
        device="cpu",
        precision="float32",
        data=DATA,
        out=out / "run",
    )
    result.save(out / "child")
