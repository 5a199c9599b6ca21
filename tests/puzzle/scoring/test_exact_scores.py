"""Claims about replace-one scores, against assembled children."""

import pytest
import torch

import puzzle
from puzzle.evaluation.text_quality import quality
from puzzle.library.build import build_library
from puzzle.scoring.exact_scores import replace_one
from search_space import Block, Layout
from tests.factories.parents import opened


def test_a_replace_one_score_is_the_kl_of_the_child_with_that_block(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    library = build_library(parent, space, cut, workspace=workspace)
    scores = replace_one(library, space, cut, workspace=workspace)
    own = Layout.parent(parent.shape)
    reference = puzzle.models.assemble(
        parent.config, own, library.child_tensors(own), dtype=torch.float32
    )
    for layer, label in [(0, "none+gated32"), (1, "gqa1+linear"), (2, "linear+none")]:
        layout = own.replace(layer, Block.from_label(label))
        child = puzzle.models.assemble(
            parent.config, layout, library.child_tensors(layout), dtype=torch.float32
        )
        measured = quality(reference, child, cut.score).kl
        assert scores.kl(layer, label) == pytest.approx(measured, rel=1e-3, abs=1e-5)
        assert scores.kl(layer, own.blocks[0].label) == 0.0
