"""Claims about text that only healing reads."""

import dataclasses

import pytest
import torch

import puzzle
from puzzle.library.build import heal
from puzzle.storage.workspace import Workspace
from puzzle.text.data_config import DataConfig
from puzzle.text.windows import windows
from tests.factories.parents import DATA, SCENARIO, WORDS, text, tokenizer

PLAIN = DataConfig(window=8, fit_tokens=64, score_tokens=16, validation_tokens=16)
# Rows of different lengths; every word says which row it is of.
ROWS = [" ".join([word] * (3 + row % 4)) for row, word in enumerate(WORDS)]


def rows_in(tokens):
    return set(tokens.flatten().tolist()) - {tokenizer().eos_token_id}


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("wanted", [None, 8, 64, 120, 100_000])
def test_further_windows_change_no_part_and_share_no_row_with_the_others(kind, wanted):
    cut = windows(kind(ROWS), tokenizer(), PLAIN)
    more = windows(kind(ROWS), tokenizer(), dataclasses.replace(PLAIN, healing_tokens=wanted))
    for part in ("fit", "score", "validation"):
        assert torch.equal(getattr(more, part), getattr(cut, part))
        assert more.hash(part) == cut.hash(part)
    if wanted in (None, 8, 64):
        assert more.further is None
        assert more.for_healing is more
        return
    whole = more.for_healing
    assert torch.equal(whole.fit[: len(cut.fit)], cut.fit)
    assert not rows_in(whole.fit) & (rows_in(cut.score) | rows_in(cut.validation))
    assert rows_in(whole.fit) > rows_in(cut.fit)
    assert more.further.shape[1] == 8
    # As many as wanted, and where there are fewer, all there are.
    if wanted == 120:
        assert whole.fit.numel() == 120
    else:
        words = sum(len(row.split()) + 1 for row in ROWS)
        assert whole.fit.numel() > words - 16 - 16 - 7 * 2 - 8


def test_a_search_heals_its_layout_on_further_text(saved, tmp_path):
    given = {"scenario": SCENARIO, "precision": "float32", "hardware": "roofline:h100-sxm"}
    given |= {"constraints": ["parameters <= 0.8x"], "effort": "fast"}
    data = dataclasses.replace(DATA, healing_tokens=640, seed=0)
    result = puzzle.search(saved, text(), data=data, out=tmp_path / "run", **given)
    parent, place = result.library.parent, Workspace(tmp_path / "hand")
    cut = windows(text(), parent.tokenizer, data)
    assert len(cut.for_healing.fit) == 40
    own = result.library.child_tensors(result.layout)
    for part, same in {cut.for_healing: True, cut: False}.items():
        library = heal(parent, result.layout, part, workspace=place)
        tensors = library.child_tensors(result.layout)
        assert all(torch.equal(tensors[name], each) for name, each in own.items()) == same


def test_the_effort_says_how_much_text_is_healed_on():
    wanted = {
        effort: puzzle.pipeline.healed_on(PLAIN, effort).healing_tokens
        for effort in ("fast", "default", "thorough")
    }
    assert wanted == {"fast": 64, "default": 256, "thorough": 256}
    own = dataclasses.replace(PLAIN, healing_tokens=96)
    assert puzzle.pipeline.healed_on(own, "thorough") == own
