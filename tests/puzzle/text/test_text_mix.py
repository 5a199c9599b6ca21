"""Mixtures of texts: the shares of windows, and figures that are weighted by them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import puzzle
from puzzle.pipeline.loading import load_result
from puzzle.text import DataConfig, TextMix, documents
from puzzle.text.switch import add_thinking_switch
from puzzle.text.text_mix import interleaved
from tests.factories.parents import text
from tests.factories.posttraining import character_tokenizer
from tests.robustness.tiny_search import DATA, write_inputs

SHARES = st.dictionaries(
    st.sampled_from("abcde"), st.floats(0.01, 100), min_size=1, max_size=5
)  # fmt: skip


@given(SHARES, st.integers(5, 200))
def test_windows_are_dealt_out_by_the_shares(shares, total):
    counts = TextMix(texts=dict.fromkeys(shares, "text"), shares=shares).counts(total)
    whole = sum(shares.values())
    assert sum(counts.values()) == total
    assert min(counts.values()) >= 1
    for name, count in counts.items():
        # What small shares are given beyond theirs is taken from the others.
        assert count - total * shares[name] / whole < 1 + 1e-6
        assert total * shares[name] / whole - count < len(shares)


def test_each_text_is_spread_over_the_whole():
    rows = [torch.full((count, 1), value) for value, count in enumerate((2, 6))]
    assert interleaved(rows).flatten().tolist() == [1, 0, 1, 1, 1, 0, 1, 1]


def test_a_search_of_a_mixture_reports_the_kl_on_each_text(tmp_path):
    write_inputs(tmp_path)
    texts = {"a": text(seed=1, count=40), "b": text(seed=2, count=40)}
    config = puzzle.DataConfig(
        window=8, fit_tokens=96, score_tokens=32, validation_tokens=32, seed=3
    )
    result = puzzle.search(
        tmp_path / "parent",
        TextMix(texts=texts, shares={"a": 1, "b": 3}),
        constraints="parameters <= 0.8x",
        scenario=puzzle.Scenario(batch=2, prompt_tokens=4, generated_tokens=4),
        effort="fast",
        hardware="roofline:h100-sxm",
        device="cpu",
        precision="float32",
        data=config,
        out=tmp_path / "run",
    )
    own = result.evidence.by_text
    assert {name: each["share"] for name, each in own.items()} == {"a": 0.25, "b": 0.75}
    first = puzzle.evaluate(result, parent=tmp_path / "parent", data=result.validation)
    assert result.measured.child.kl == pytest.approx(first.text["child"]["kl"].value, rel=1e-4)
    assert "KL on 'b', 75% of the text" in result.table()
    read = load_result(result.save(tmp_path / "child"))
    assert read.evidence.by_text == own


def test_answers_are_rendered_in_the_mode_that_a_text_is_named_after():
    tokenizer = add_thinking_switch(character_tokenizer())
    thought = {"role": "assistant", "content": "2", "reasoning_content": "one and one"}
    rows = [
        {"messages": [{"role": "user", "content": "1+1"}, thought]},
        {"messages": [{"role": "user", "content": "2"}, {"role": "assistant", "content": "2"}]},
    ]
    on, off = (documents(rows, tokenizer, thinking=mode) for mode in ("on", "off"))
    assert len(on) == 1
    assert "one and one" in on[0]
    assert len(off) == 2
    assert not any("one and one" in each for each in off)
    config = DataConfig(window=8, fit_tokens=64, score_tokens=16, validation_tokens=16)
    both = {"on": rows * 40, "off": rows * 40}
    cut = TextMix(texts=both, shares={"on": 1, "off": 1}).windows(tokenizer, config)
    assert set(cut.by_text) == {"on", "off"}
    assert len(cut.fit) == config.windows("fit")


@pytest.mark.parametrize("shares", [{}, {"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": -1}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(puzzle.PuzzleError, match="share above zero"):
        TextMix(texts={"a": "x", "b": "y"}, shares=shares)


def test_a_text_that_is_too_short_is_named(tmp_path):
    tokenizer = character_tokenizer()
    mix = TextMix(texts={"long": text(count=40), "short": "no"}, shares={"long": 1, "short": 1})
    with pytest.raises(puzzle.PuzzleError, match="'short'"):
        mix.windows(tokenizer, DATA)
