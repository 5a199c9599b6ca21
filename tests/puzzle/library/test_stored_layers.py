"""Claims about the layers of a library on disk: their errors, when they are built again."""

import pytest

from puzzle.library.build import build_library
from puzzle.scoring.exact_scores import replace_one
from puzzle.text.windows import windows
from tests.factories.parents import DATA, opened, text


def test_local_errors_are_zero_for_the_parent_and_one_for_no_layer(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    errors = build_library(parent, space, cut, workspace=workspace).errors(1)
    assert errors["ffn/gqa3/gated64"].value == errors["attention/gqa3"].value == 0.0
    assert errors["attention/none"].value == errors["ffn/gqa3/none"].value == 1.0
    assert errors["ffn/none/none"].value == pytest.approx(1.0)
    # The prior is a candidate of every fit, and for a linear FFN the prior is to do nothing.
    assert errors["ffn/none/linear"].fitted <= errors["ffn/none/none"].value


def test_finished_layers_are_not_rebuilt_and_other_text_makes_others(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    first = build_library(parent, space, cut, workspace=workspace)
    times = [(a.path / "manifest.json").stat().st_mtime_ns for a in first.layers]
    again = build_library(parent, space, cut, workspace=workspace)
    assert times == [(a.path / "manifest.json").stat().st_mtime_ns for a in again.layers]
    other = windows(text(seed=1), parent.tokenizer, DATA)
    fresh = build_library(parent, space, other, workspace=workspace)
    assert {a.path for a in fresh.layers}.isdisjoint({a.path for a in first.layers})


def test_a_damaged_layer_is_found_and_built_again_the_same(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    first = build_library(parent, space, cut, workspace=workspace)
    scores = replace_one(first, space, cut, workspace=workspace)
    path = first.layers[1].path / "variants.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    again = build_library(parent, space, cut, workspace=workspace)
    assert path.read_bytes() == whole
    assert replace_one(again, space, cut, workspace=workspace) == scores
