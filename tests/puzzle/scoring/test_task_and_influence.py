"""Claims about task scores, cosine scores and block influence, against the assembled models."""

import pytest
import torch
from torch import nn

from puzzle.errors import DataError
from puzzle.models.assembling import assemble
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.influence import block_influence
from puzzle.scoring.task import task_scores
from search_space import Block, Layout


def child_of(library, layout):
    parent = library.parent
    return assemble(parent.config, layout, library.child_tensors(layout), dtype=parent.dtype)


def test_a_task_score_is_the_fall_of_the_number_from_the_parent_to_the_assembled_child(built):
    workspace, parent, space, cut, library = built
    calls = []

    def task(model):
        calls.append(model)
        # Generation needs the cache to fit the swapped layer.
        out = model.generate(cut.score[:1, :4], max_new_tokens=4, do_sample=False)
        return -model(out, labels=out).loss.item()

    found = task_scores(library, space, task, name="loss", workspace=workspace)
    own = Layout.parent(parent.shape)
    whole = task(child_of(library, own))
    for layer, label in [(0, "none+gated32"), (1, "gqa1+gated64"), (2, "none+none")]:
        child = child_of(library, own.replace(layer, Block.from_label(label)))
        assert found.kl(layer, label) == pytest.approx(whole - task(child), abs=1e-5)
        assert found[layer][label].method == "task"
    assert all(found.kl(layer, own.blocks[0].label) == 0.0 for layer in range(len(found)))
    before = len(calls)
    assert task_scores(library, space, task, name="loss", workspace=workspace) == found
    assert len(calls) == before  # stored under its name


def test_a_task_that_returns_no_number_is_refused_by_layer_and_block(built):
    workspace, _, space, _, library = built
    results = iter([1.0, 2.0, float("nan")])
    with pytest.raises(DataError, match=r"nan for layer 0 as .*finite"):
        task_scores(library, space, lambda _: next(results), name="bad", workspace=workspace)
    with pytest.raises(DataError, match="name is empty"):
        task_scores(library, space, lambda _: 0.0, name="", workspace=workspace)


def test_a_cosine_score_is_the_distance_of_the_final_hidden_states(built):
    workspace, parent, space, cut, library = built
    found = replace_one(library, space, cut, workspace=workspace, distance="cosine")
    own = Layout.parent(parent.shape)
    layout = own.replace(1, Block.from_label("none+gated32"))
    with torch.no_grad():
        states = [child_of(library, each).model(cut.score)[0] for each in (own, layout)]
    expected = 1 - nn.functional.cosine_similarity(*states, dim=-1).mean()
    assert found.kl(1, "none+gated32") == pytest.approx(float(expected), rel=1e-4)
    assert found[1]["none+gated32"].method == "cosine"
    assert found.kl(1, own.blocks[1].label) == 0.0


def test_an_unknown_distance_is_refused_with_those_allowed(built):
    workspace, _, space, cut, library = built
    with pytest.raises(DataError, match="allowed: kl, cosine"):
        replace_one(library, space, cut, workspace=workspace, distance="euclid")


def test_block_influence_is_one_minus_the_cosine_of_neighbouring_hidden_states(built):
    _, parent, _, cut, library = built
    child = child_of(library, Layout.parent(parent.shape))
    with torch.no_grad():
        # The last of these hidden states is normed: the last layer is left out.
        states = child.model(cut.score, output_hidden_states=True).hidden_states[:-1]
    found = block_influence(parent, cut.score)
    assert len(found) == parent.shape.layers
    for layer in range(len(states) - 1):
        alike = nn.functional.cosine_similarity(states[layer], states[layer + 1], dim=-1)
        assert found[layer] == pytest.approx(float(1 - alike.mean()), rel=1e-3)
