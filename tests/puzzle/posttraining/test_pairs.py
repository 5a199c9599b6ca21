"""Claims about rows of supervised fine-tuning: where the loss is, and their order."""

import pytest

from puzzle.errors import DataError
from puzzle.posttraining.conversation_rows import rows
from puzzle.posttraining.pair_tokens import pair_rows
from puzzle.posttraining.stage_settings import PairSettings
from puzzle.text.switch import add_thinking_switch
from tests.factories.posttraining import character_tokenizer

TOKENIZER = add_thinking_switch(character_tokenizer())
DATA = rows(
    [{"prompt": f"{n}+1=", "completion": f"<think>{'so ' * n}</think>{n + 1}"} for n in range(1, 9)]
)


def made(**settings):
    return pair_rows(DATA, TOKENIZER, PairSettings(**settings), settings.get("max_length", 999))


def text(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def with_loss(row):
    return text([token for token in row.labels if token != -100])


def test_the_loss_is_on_what_the_model_writes_and_the_rest_is_its_prompt():
    found, counts = made(cut_share=0)
    assert counts["rows, thinking on"] == counts["rows, thinking off"] == 8
    for row in found:
        prompt, written = text(row.ids).split("<|assistant|>")
        opened = {"on": "<think>\n", "off": "<think></think>"}[row.mode]
        assert written == opened + with_loss(row)
        assert with_loss(row).endswith(f"{eval(prompt[8:-6])}<eos>")
        assert ("</think>" in with_loss(row)) == (row.mode == "on")


def test_of_a_cut_thought_only_the_answer_is_learned():
    found, counts = made(cut_share=1, balanced=False)
    assert counts["rows with a cut thought"] == 8
    for row in (each for each in found if each.mode == "on"):
        prompt, _, thought = text(row.ids).partition("<think>\n")
        whole = "so " * (int(prompt[8]))
        cut = thought.partition("</think>")[0]
        assert 0 < len(cut) < len(whole.strip())
        assert whole.startswith(cut)
        assert with_loss(row) == f"\n\n{int(prompt[8]) + 1}<eos>"


def test_a_curriculum_has_short_rows_first_and_both_modes_throughout():
    found, _ = made(cut_share=0)
    for mode in ("on", "off"):
        lengths = [len(row.ids) for row in found if row.mode == mode]
        assert lengths == sorted(lengths)
    assert all({found[n].mode, found[n + 1].mode} == {"on", "off"} for n in range(0, 16, 2))
    mixed, _ = made(cut_share=0, curriculum=False)
    assert sorted(map(vars_of, mixed)) == sorted(map(vars_of, found))
    assert [row.ids for row in mixed] != [row.ids for row in found]


def vars_of(row):
    return row.mode, row.ids, row.labels


def test_rows_are_balanced_and_those_that_are_too_long_left_out_and_counted():
    longest = max(len(row.ids) for row in made(cut_share=0)[0]) - 1
    found, counts = made(cut_share=0, max_length=longest)
    assert counts["rows that are too long"] == counts["rows left out for balance"] == 1
    assert counts["rows, thinking on"] == counts["rows, thinking off"] == 7
    assert counts["tokens"] == sum(len(row.ids) for row in found)
    with pytest.raises(DataError, match="give a higher max_length"):
        made(max_length=5)
    with pytest.raises(DataError, match=r"row 0 \(from 0\).*add_thinking_switch"):
        pair_rows(DATA, character_tokenizer(), PairSettings(), 99)
