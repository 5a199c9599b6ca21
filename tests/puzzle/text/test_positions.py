"""Claims about texts that are longer than what a model can read: they are refused before work."""

import pytest
from transformers import LlamaConfig, PretrainedConfig

import puzzle
from puzzle.errors import ConstraintError, DataError
from puzzle.text.positions import most_positions
from tests.factories.distillation import child_model, tokens
from tests.factories.distillation import parent_model as trained_parent
from tests.factories.parents import DATA, SCENARIO, parent_model, text, tokenizer

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN["original_max_position_embeddings"] = 64


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LlamaConfig(max_position_embeddings=32), 32),
        (LlamaConfig(max_position_embeddings=64, rope_parameters=YARN), 256),
        (LlamaConfig(max_position_embeddings=512, rope_parameters=YARN), 512),
        (PretrainedConfig(), None),
    ],
)
def test_scaled_positions_count_where_the_config_says_less(config, positions):
    assert most_positions(config) == positions


def search(tmp_path, **more):
    return puzzle.search(
        parent_model(max_position_embeddings=15),
        text(),
        **{
            "constraints": ["parameters <= 0.9x"],
            "scenario": puzzle.Scenario(prompt_tokens=7, generated_tokens=8),
            "data": puzzle.DataConfig(window=15, fit_tokens=512),
            "tokenizer": tokenizer(),
            "out": tmp_path / "run",
            **more,
        },
    )


def test_a_search_refuses_windows_and_scenarios_beyond_the_positions(tmp_path):
    with pytest.raises(DataError, match=r"windows of 16 tokens: .* at most 15 .*lower window="):
        search(tmp_path, data=DATA)
    named = {"short": puzzle.Scenario(prompt_tokens=4, generated_tokens=4), "long": SCENARIO}
    with pytest.raises(ConstraintError, match=r"'long': .* of 16 tokens: .* at most 15"):
        search(tmp_path, scenario=named)
    made = {path.parent.parent.name for path in (tmp_path / "run").glob("*/*/manifest.json")}
    assert made <= {"parent", "format"}  # the live model is stored, and its device tried


def test_distillation_and_evaluation_refuse_windows_beyond_the_positions(tmp_path):
    child = child_model(max_position_embeddings=15)
    parent = trained_parent(max_position_embeddings=15)
    config = puzzle.DistillConfig(tokens=64, length=16, batch=2, micro_batch=2)
    with pytest.raises(DataError, match=r"windows of 16 tokens: .* at most 15"):
        puzzle.distill(child, parent, tokens(8, 16), config=config, out=tmp_path / "run")
    with pytest.raises(DataError, match=r"windows of 16 tokens: .* at most 15"):
        puzzle.evaluate(child, data=tokens(8, 16))
    with pytest.raises(DataError, match=r"windows of 20 tokens: .* at most 15"):
        puzzle.evaluate(child, data=text(), tokenizer=tokenizer(), length=20)
    assert puzzle.evaluate(child, data=tokens(2, 15)).text["child"]["perplexity"].value > 1
