"""Claims about the budget of a thought, in generation with a child."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from puzzle.errors import DataError
from puzzle.models.thinking_budget import ThinkingBudget
from tests.factories.children import child_of
from tests.factories.posttraining import character_tokenizer

TOKENIZER = character_tokenizer()
SPECIAL = character_tokenizer()
SPECIAL.add_tokens(["<think>", "</think>"])


def ids(text, tokenizer=TOKENIZER):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_thought_ends_at_exactly_its_budget_in_every_row_of_a_batch():
    child = child_of(
        ["gqa3+gated64", "none+gated9", "gqa1+none"], vocab_size=len(TOKENIZER), eos_token_id=None
    )
    prompts = ["ab<think>", "<think>no</think>d"]
    rows = [ids(prompt) for prompt in prompts]
    length = max(map(len, rows))
    batch = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    mask = (batch != 0).long()
    how = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0, "attention_mask": mask}
    free = child.generate(batch, **how)[:, length:]
    assert "</think>" not in TOKENIZER.decode(free[0])
    for tokens in (0, 1, 7):
        budget = LogitsProcessorList([ThinkingBudget(TOKENIZER, tokens)])
        limited = child.generate(batch, logits_processor=budget, **how)[:, length:]
        end = ids("</think>")
        assert limited[0, :tokens].tolist() == free[0, :tokens].tolist()
        assert limited[0, tokens : tokens + len(end)].tolist() == end
        # What has ended, or was never opened, is left alone.
        assert limited[1].tolist() == free[1].tolist()


@pytest.mark.parametrize("tokenizer", [TOKENIZER, SPECIAL], ids=["characters", "tokens"])
@settings(max_examples=60, deadline=None)
@given(text=st.text("ab<>/thin", max_size=12), tokens=st.integers(0, 12))
def test_what_is_forced_follows_from_the_text_alone(tokenizer, text, tokens):
    budget = ThinkingBudget(tokenizer, tokens, end="STOP</think>")
    row = ids("q<think>", tokenizer)
    thought = ids(text, tokenizer)
    end = ids("STOP</think>", tokenizer)
    written = []
    for token in [*thought, *([ids("x")[0]] * 30)]:
        forced = budget.next_forced(row + written)
        written.append(token if forced is None else forced)
    assert tokenizer.decode(written).count("</think>") == 1
    assert written[tokens : tokens + len(end)] == end


def test_an_end_that_does_not_close_the_thought_is_refused():
    for end in ("stop", "</think> now"):
        with pytest.raises(DataError, match="does not end with '</think>'"):
            ThinkingBudget(TOKENIZER, 3, end=end)
    with pytest.raises(DataError, match="tokens=-1"):
        ThinkingBudget(TOKENIZER, -1)
