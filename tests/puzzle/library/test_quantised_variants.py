"""Claims about variants and children whose weights have formats of llama.cpp."""

import pytest
import torch
from gguf import GGUFReader, dequantize

import puzzle
from puzzle.errors import ConstraintError, DataError
from puzzle.evaluation.text_quality import quality
from puzzle.library.build import build_library, heal
from puzzle.models.assembling import assemble
from puzzle.models.child_config import layout_from_config, shape_of
from puzzle.models.parent import open_parent
from puzzle.models.weight_rounding import rounded_to
from puzzle.scoring.exact_scores import replace_one
from puzzle.scoring.fisher_scores import FisherConfig, fisher
from puzzle.serving.exporting import export
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import WEIGHT_FORMATS, Block, Layout, SearchSpace
from tests.factories.parents import SCENARIO, parent_model

TOKENS = torch.randint(2, 62, (24, 16), generator=torch.Generator().manual_seed(4))
WINDOWS = Windows(fit=TOKENS, score=TOKENS[:4], validation=TOKENS[:4])
MIXED = ["gqa4@q8_0+gated64@q4_0", "gqa2+gated128@q5_1", "none+gated64"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A parent, a space of heads, widths and formats, and its library."""
    model = parent_model(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=4, intermediate_size=128
    )
    workspace = Workspace(tmp_path_factory.mktemp("run"))
    parent = open_parent(model, workspace=workspace, dtype="float32")
    space = SearchSpace.from_options(
        parent.shape, attention=["gqa", "none"], kv_heads=[2], ffn="gated", ffn_shares=[0.5],
        multiple=32, weights=tuple(WEIGHT_FORMATS),
    )  # fmt: skip
    return workspace, parent, space, build_library(parent, space, WINDOWS, workspace=workspace)


def child_of(parent, library, layout):
    return assemble(parent.config, layout, library.child_tensors(layout), dtype=torch.float32)


@pytest.mark.parametrize("kind", WEIGHT_FORMATS)
def test_what_is_in_a_format_stays_as_it_is(kind):
    matrix = {"weight": torch.randn(48, 96, generator=torch.Generator().manual_seed(1))}
    once = rounded_to(matrix, kind)
    torch.testing.assert_close(rounded_to(once, kind)["weight"], once["weight"], rtol=1e-6, atol=0)
    step = matrix["weight"].abs().max() / 2 ** (int(kind[1]) - 1)
    assert 0 < (once["weight"] - matrix["weight"]).abs().max() <= step


def test_formats_need_no_fits_of_their_own(made):
    workspace, parent, space, library = made
    plain = SearchSpace(
        space.shape,
        tuple(tuple(a for a in row if a.weights is None) for row in space.attentions),
        tuple(tuple(f for f in row if f.weights is None) for row in space.ffns),
    )
    assert build_library(parent, plain, WINDOWS, workspace=workspace).refs == library.refs


@torch.no_grad()
def test_scores_are_those_of_the_dequantised_child(made):
    workspace, parent, space, library = made
    labels = ("gqa4+gated64@q8_0", "gqa4+gated128@q4_0", "gqa2@q5_0+gated64@q4_0")
    wanted = SearchSpace(
        space.shape,
        tuple(row if layer == 2 else row[:1] for layer, row in enumerate(space.attentions)),
        tuple(tuple(f for f in row if f.weights in (None, "q8_0", "q4_0")) for row in space.ffns),
    )
    scores = replace_one(library, wanted, WINDOWS, workspace=workspace)
    reference = child_of(parent, library, Layout.parent(parent.shape))
    for layer, label in enumerate(labels):
        block = Block.from_label(label)
        layout = Layout.parent(parent.shape).replace(layer, block)
        plain = child_of(parent, library, layout.unquantised)
        for name, half in (("self_attn", block.attention), ("mlp", block.ffn)):
            module = getattr(plain.model.layers[layer], name)
            module.load_state_dict(rounded_to(module.state_dict(), half.weights))
        measured = quality(reference, plain, WINDOWS.score).kl
        assert scores.kl(layer, label) == pytest.approx(measured, rel=1e-3, abs=1e-5)
    # The estimate by gradients sees the rounding, too: it is of what a block returns.
    estimates = fisher(library, wanted, WINDOWS, workspace=workspace, config=FisherConfig(rounds=1))
    coarse, fine = (estimates.kl(1, f"gqa4+gated128@{kind}") for kind in ("q4_0", "q8_0"))
    assert coarse > 10 * fine > 0


@torch.no_grad()
def test_a_healed_child_is_written_in_its_formats(made, tmp_path):
    workspace, parent, _, _ = made
    layout = Layout(parent.shape, [Block.from_label(label) for label in MIXED])
    healed = heal(parent, layout, WINDOWS, workspace=workspace)
    child = child_of(parent, healed, layout)
    assert layout_from_config(child.config) == layout
    assert shape_of(child.config).parent_blocks == layout.unquantised.blocks
    done = export(child, tmp_path / "child.gguf", engine="llama.cpp", quantisation="f32")
    tensors = {tensor.name: tensor for tensor in GGUFReader(str(done.path)).tensors}
    kinds = {name: tensor.tensor_type.name.lower() for name, tensor in tensors.items()}
    for layer, block in enumerate(layout.blocks):
        for names, half in (("qkv", block.attention), (("gate", "up", "down"), block.ffn)):
            of = [f"attn_{n}" if n in "qkv" else f"ffn_{n}" for n in names]
            own = {kinds.get(f"blk.{layer}.{n}.weight") for n in of}
            assert own == {None if half.kind == "none" else half.weights or "f32"}
    for layer, part in ((0, "down_proj"), (1, "up_proj")):
        stored = tensors[f"blk.{layer}.ffn_{part.removesuffix('_proj')}.weight"]
        values = torch.from_numpy(dequantize(stored.data, stored.tensor_type))
        torch.testing.assert_close(
            values, getattr(child.model.layers[layer].mlp, part).weight, rtol=1e-6, atol=0
        )
    assert done.layout == layout
    size = sum(tensor.n_bytes for tensor in tensors.values())
    # Norms are counted in the format of their sublayer's matrices, and stored in float32.
    assert size == pytest.approx(layout.weight_bytes(4), rel=0.01)


@torch.no_grad()
def test_healing_makes_up_for_what_rounding_loses_within_a_layer(made):
    workspace, parent, _, library = made
    half = Block.from_label("gqa4@q4_0+gated128@q4_0")
    layout = Layout.parent(parent.shape).replace(0, half)
    healed, plain = (
        heal(parent, each, WINDOWS, workspace=workspace) for each in (layout, layout.unquantised)
    )
    own = child_of(parent, library, Layout.parent(parent.shape))
    wanted, *lost = (
        child(TOKENS, output_hidden_states=True).hidden_states[1]
        for child in (own, child_of(parent, healed, layout), child_of(parent, plain, layout))
    )
    # The same stream enters both: what differs is that one was fitted behind the rounded maps.
    with_formats, rounded_later = ((one - wanted).square().sum() for one in lost)
    assert with_formats < 0.9 * rounded_later


def test_formats_are_costed_by_bytes_and_not_by_torch(made, tmp_path):
    workspace, parent, space, library = made
    block, costs = Block.from_label(MIXED[0]), puzzle.Roofline("h100-sxm", parent.shape)
    quantised, usual = (costs.block_cost(0, one, SCENARIO) for one in (block, block.unquantised))
    weights = Layout.parent(parent.shape).replace(0, block).weight_bytes(4)
    plain = Layout.parent(parent.shape).replace(0, block.unquantised).weight_bytes(4)
    assert usual["memory"] - quantised["memory"] == plain - weights > 0
    assert quantised["decode_seconds"] < usual["decode_seconds"]
    with pytest.raises(ConstraintError, match="cannot be timed with torch"):
        puzzle.MeasuredCosts.measure(parent, space, SCENARIO, workspace=workspace)
    child = child_of(parent, library, Layout.parent(parent.shape).replace(0, block))
    with pytest.raises(DataError, match="gradient steps would leave"):
        puzzle.distill(child, parent_model(), TOKENS, out=tmp_path)
