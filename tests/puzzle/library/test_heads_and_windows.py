"""Claims about variants with fewer groups of heads, and with windows."""

import pytest
import torch

from puzzle.errors import DataError
from puzzle.library.build import build_library, heal
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models.assembling import assemble
from puzzle.models.parent import open_parent
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import Block, Layout, SearchSpace
from tests.factories.families import family_model

TOKENS = torch.randint(3, 97, (12, 48), generator=torch.Generator().manual_seed(4))
WINDOWS = Windows(fit=TOKENS, score=TOKENS[:2], validation=TOKENS[:2])
LABELS = ("gqa1h2", "gqa2w7", "gqa1w7", "gqa1h2w7")


def opened(name, folder, edit=None):
    model = family_model(name)
    if edit:
        with torch.no_grad():
            edit(model)
    workspace = Workspace(folder)
    return workspace, open_parent(model, workspace=workspace, dtype="float32")


def library_of(workspace, parent, labels=LABELS, **config):
    space = SearchSpace.uniform(parent.shape, attentions=labels, keep=["1-4"])
    return build_library(
        parent, space, WINDOWS, workspace=workspace, config=LibraryConfig(**config)
    )


# The norms of OLMo are over all heads at once: without some, that of the rest is another one.
@pytest.mark.parametrize("name", ["llama-biased", "phi3", "qwen3", "gemma2"])
@torch.no_grad()
def test_a_removed_group_is_a_masked_one_before_the_fit(name, tmp_path):
    workspace, parent = opened(name, tmp_path)
    library = library_of(workspace, parent, ["gqa1h2"], start="puzzle")
    own, slot = parent.shape.parent_blocks[0], parent.family.attention
    for index in (0, 5):
        x_BLD, variants = parent.embed(TOKENS[:2]), library.variants(index)
        (kept,) = variants.stored["attention/gqa1h2/groups"].tolist()
        masked = parent.layer(index)
        out = getattr(getattr(masked, slot.module), slot.out)
        columns = out.weight.clone().unflatten(1, (parent.shape.kv_heads, -1))
        columns[:, 1 - kept] = 0
        out.weight = torch.nn.Parameter(columns.flatten(1))
        reduced = variants.layer_module(Block.from_label(f"gqa1h2+{own.ffn.label}"))
        torch.testing.assert_close(
            parent.run(reduced, x_BLD), parent.run(masked, x_BLD), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("silent", [0, 1])
def test_the_group_that_is_missed_least_goes_first(silent, tmp_path):
    def quieten(model):
        for layer in model.model.layers:
            columns = layer.self_attn.o_proj.weight.unflatten(1, (2, -1))
            columns[:, silent] *= 0.05

    library = library_of(*opened("llama", tmp_path, quieten), ["gqa1h2"])
    for index in (0, 5):
        kept = library.variants(index).stored["attention/gqa1h2/groups"].tolist()
        assert kept == [1 - silent]
        assert library.errors(index)["attention/gqa1h2"].fitted < 0.01


@pytest.mark.parametrize("name", ["llama-biased", "mistral-windowed", "gemma3_text", "olmo3"])
@torch.no_grad()
def test_each_stage_makes_variants_of_heads_and_windows_no_worse(name, tmp_path):
    workspace, parent = opened(name, tmp_path)
    steps = BLDConfig(tokens=2 * 4 * 48, evaluations=2)
    library = library_of(workspace, parent, bld=steps)
    for index in (0, 5):
        for label in LABELS:
            error = library.errors(index)[f"attention/{label}"]
            assert 0 < error.distilled <= error.fitted * (1 + 1e-5) <= error.before * (1 + 1e-4)
            layer = library.variants(index).layer_module(Block.from_label(f"{label}+none"))
            counted = Layout.parent(parent.shape).replace(0, Block.from_label(f"{label}+none"))
            assert sum(p.numel() for p in layer.parameters()) == (
                counted.parameters()
                - counted.replace(0, Block.from_label("none+none")).parameters()
            )


@torch.no_grad()
def test_scores_are_those_of_children_with_one_such_block(tmp_path):
    workspace, parent = opened("gemma3_text", tmp_path)
    library = library_of(workspace, parent)
    space = SearchSpace.uniform(parent.shape, attentions=LABELS, keep=["0-4"])
    exact = replace_one(library, space, WINDOWS, workspace=workspace)
    estimated = fisher(library, space, WINDOWS, workspace=workspace, config=FisherConfig(probes=8))
    own = Layout.parent(parent.shape)

    def log_probabilities(layout):
        tensors = library.child_tensors(layout)
        child = assemble(parent.config, layout, tensors, dtype=torch.float32)
        return child(WINDOWS.score).logits.log_softmax(-1)

    p = log_probabilities(own)
    for label in LABELS:
        block = Block.from_label(f"{label}+{own.blocks[5].ffn.label}")
        q = log_probabilities(own.replace(5, block))
        kl = float((p.exp() * (p - q)).sum(-1).mean())
        assert exact.kl(5, block.label) == pytest.approx(kl, rel=1e-3)
        assert 0.2 * kl < estimated.kl(5, block.label) < 5 * kl


def test_a_healed_child_keeps_its_heads_and_windows(tmp_path):
    workspace, parent = opened("qwen2", tmp_path)
    labels = ["gqa1h2+gated40", "gqa2w7+gated80", "gqa1h2w7+none"] * 2
    layout = Layout(parent.shape, tuple(map(Block.from_label, labels)))
    library = heal(parent, layout, WINDOWS, workspace=workspace)
    for index in range(parent.shape.layers):
        error = library.errors(index)[f"attention/{layout.blocks[index].attention.label}"]
        assert error.fitted <= error.before
    tensors = library.child_tensors(layout)
    count = sum(t.numel() for name, t in tensors.items() if name != "lm_head.weight")
    assert count == layout.parameters() - parent.shape.vocab * parent.shape.hidden


@pytest.mark.parametrize(("window", "said"), [(48, "refused"), (13, "warned"), (12, "")])
def test_text_too_short_for_a_window_is_said(window, said, tmp_path, caplog):
    workspace, parent = opened("llama", tmp_path)
    if said == "refused":
        with pytest.raises(DataError, match=r"allowed: windows below 48, .*window=192"):
            library_of(workspace, parent, [f"gqa2w{window}"])
        return
    library_of(workspace, parent, [f"gqa2w{window}"])
    assert ("use DataConfig(window=52) or more" in caplog.text) == (said == "warned")
