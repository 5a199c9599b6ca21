"""Claims about mixtures of experts: which experts are kept, what is counted, what is written."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import puzzle
from puzzle.library.build import build_library
from puzzle.library.settings import LibraryConfig
from puzzle.library.variants import TENSORS
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import FFN, Block, Layout, ModelShape, SearchSpace, counting
from search_space.options import LayerOptions
from tests.factories.families import family_config, family_model, shaken
from tests.factories.parents import SCENARIO, text, tokenizer

MIXTURES = ("qwen3_moe", "mixtral", "gpt_oss")
TOKENS = torch.randint(3, 97, (24, 24), generator=torch.Generator().manual_seed(0))
CUT = Windows(fit=TOKENS, score=TOKENS[:4], validation=TOKENS[:4])


def opened(model, folder, **options):
    return open_parent(model, workspace=Workspace(folder), dtype="float32", **options)


def test_experts_that_no_token_goes_to_are_given_up_first_at_no_loss(tmp_path):
    model = family_model("gpt_oss")
    unused = [[1, 4, 6], [0, 2, 7]] * 3
    with torch.no_grad():
        for layer, experts in zip(model.model.layers, unused, strict=True):
            layer.mlp.router.bias[experts] = -1e4
    parent = opened(model, tmp_path)
    own = parent.shape.parent_blocks[0]
    label = f"{own.attention.label}+moe5x24k2"
    space = SearchSpace.uniform(parent.shape, ffns=["moe5x24k2"])
    library = build_library(parent, space, CUT, workspace=Workspace(tmp_path))
    layout = Layout(parent.shape, (Block.from_label(label),) * 6)
    for layer, gone in enumerate(unused):
        key = f"ffn/{own.attention.label}/moe5x24k2"
        kept = library.layers[layer].load_tensors(TENSORS)[f"{key}/experts"]
        assert sorted({*range(8)} - set(gone)) == kept.tolist()
        error = library.errors(layer)[key]
        assert error.before == pytest.approx(0, abs=1e-10)
    child = puzzle.models.assemble(
        parent.config, layout, library.child_tensors(layout), dtype=torch.float32
    )
    torch.testing.assert_close(child(TOKENS).logits, model(TOKENS).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", MIXTURES)
def test_channels_that_add_nothing_are_given_up_first_at_no_loss(name, tmp_path):
    """Whatever the axes on which a family's files have them."""
    model = family_model(name)
    torch.manual_seed(1)
    used = torch.stack([torch.randperm(24)[:16] for _ in range(8)])
    with torch.no_grad():
        for layer in model.model.layers:
            experts = getattr(layer.mlp, "experts", None)
            for expert in range(8) if experts is not None else ():
                down = experts.down_proj[expert]
                rows = down if name == "gpt_oss" else down.T
                rows[[c for c in range(24) if c not in used[expert]]] = 0
    parent = opened(model, tmp_path)
    mixed = [i for i, block in enumerate(parent.shape.parent_blocks) if block.ffn.kind == "moe"]
    space = SearchSpace.uniform(
        parent.shape, ffns=["moe8x16k2"], keep=[layer for layer in range(6) if layer not in mixed]
    )
    library = build_library(parent, space, CUT, workspace=Workspace(tmp_path))
    layout = Layout.parent(parent.shape)
    for layer in mixed:
        layout = layout.replace(layer, Block.from_label("gqa2+moe8x16k2"))
        assert library.errors(layer)["ffn/gqa2/moe8x16k2"].before == pytest.approx(0, abs=1e-9)
    child = puzzle.models.assemble(
        parent.config, layout, library.child_tensors(layout), dtype=torch.float32
    )
    assert layout.parameters() == sum(p.numel() for p in child.parameters())
    torch.testing.assert_close(child(TOKENS).logits, model(TOKENS).logits, atol=1e-3, rtol=1e-3)


def test_of_channels_that_are_the_same_each_expert_keeps_one(tmp_path):
    model = family_model("mixtral")
    with torch.no_grad():
        for layer in model.model.layers:
            up = layer.mlp.experts.gate_up_proj.unflatten(1, (2, 2, -1))  # gate and up, two halves
            up[:, :, 1] = up[:, :, 0]
    parent = opened(model, tmp_path)
    space = SearchSpace.uniform(parent.shape, ffns=["moe8x12k2"])
    libraries = {
        channels: build_library(
            parent,
            space,
            CUT,
            workspace=Workspace(tmp_path),
            config=LibraryConfig(channels=channels),
        )
        for channels in ("eliminated", "largest")
    }
    for layer in range(6):
        eliminated, largest = (
            built.errors(layer)["ffn/gqa2/moe8x12k2"] for built in libraries.values()
        )
        assert eliminated.before == largest.before
        assert eliminated.fitted < 0.5 * largest.fitted


@pytest.mark.parametrize("name", MIXTURES)
def test_kept_experts_miss_less_once_their_last_maps_are_fitted(name, tmp_path):
    parent = opened(family_model(name), tmp_path)
    # Channels of random experts say little of each other.
    ffns = {"moe4x24k2": 0.95, "moe8x24k1": 0.95, "moe8x16k2": 0.99}
    mixed = [i for i, block in enumerate(parent.shape.parent_blocks) if block.ffn.kind == "moe"]
    keep = [layer for layer in range(6) if layer not in mixed]
    space = SearchSpace.uniform(parent.shape, ffns=ffns, keep=keep)
    library = build_library(parent, space, CUT, workspace=Workspace(tmp_path))
    for ffn, most in ffns.items():
        errors = [library.errors(layer)[f"ffn/gqa2/{ffn}"] for layer in mixed]
        assert all(0 < error.fitted <= error.before for error in errors)
        before, fitted = (sum(getattr(e, n) for e in errors) for n in ("before", "fitted"))
        assert fitted < most * before, ffn


def test_parameters_of_a_token_are_those_of_the_modules_it_passes_through():
    config = family_config("qwen3_moe")
    model = AutoModelForCausalLM.from_config(config)
    shape = puzzle.models.family_of(config).shape(config)
    whole = sum(parameter.numel() for parameter in model.parameters())
    experts = [m for m in model.modules() if type(m).__name__ == "Qwen3MoeExperts"]
    each = sum(parameter.numel() for m in experts for parameter in m.parameters()) // 8
    assert counting.active_parameters(Layout.parent(shape)) == whole - 6 * each
    moe = shape.parent_blocks[0].ffn
    read = [counting.active_ffn_parameters(shape, moe, tokens) for tokens in (1, 4, 1e6)]
    assert read[0] < read[1] < read[2] == pytest.approx(counting.ffn_parameters(shape, moe))


def test_options_and_labels_of_mixtures():
    moe = FFN("moe", 24, experts=8, top_k=2)
    assert FFN.from_label(moe.label) == moe
    assert Block.from_dict(Block.from_label("gqa2+moe8x24k2").to_dict()).ffn == moe
    shape = ModelShape(
        layers=2, hidden=32, heads=4, head_dim=8, kv_heads=2, ffn_width=64, vocab=97,
        blocks=(Block.from_label("gqa2+moe8x24k2"), Block.from_label("gqa2+gated64")),
    )  # fmt: skip
    options = LayerOptions(ffn_shares=(0.5, 0.1), top_k_shares=(0.5,), expert_shares=(0.5,))
    labels = [ffn.label for ffn in options.ffns(shape, 0)]
    assert labels == ["moe8x24k1", "moe8x12k2", "moe4x24k2", "moe2x24k2", "linear", "none"]
    assert [ffn.label for ffn in options.ffns(shape, 1)] == ["gated32", "gated6", "linear", "none"]
    for layer, ffn in ((0, FFN("gated", 24)), (1, moe), (0, FFN("moe", 24, experts=9, top_k=2))):
        with pytest.raises(ValueError, match=r"cannot take the place|larger than the parent's"):
            shape.check(layer, ffn)
    with pytest.raises(ValueError, match="top_k=3"):
        FFN("moe", 24, experts=2, top_k=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_a_plain_child_is_a_checkpoint_of_its_parents_own_kind(name, tmp_path):
    config = family_config(name, **({"mlp_only_layers": []} if name == "qwen3_moe" else {}))
    torch.manual_seed(0)
    model = shaken(AutoModelForCausalLM.from_config(config).eval())
    model.save_pretrained(tmp_path / "parent")
    tokenizer().save_pretrained(tmp_path / "parent")
    result = puzzle.search(
        tmp_path / "parent",
        text(count=120),
        constraints="parameters <= 0.8x",
        scenario=SCENARIO,
        data=puzzle.DataConfig(window=24, fit_tokens=1536, score_tokens=192, validation_tokens=192),
        space="uniform",
        effort="fast",
        hardware="roofline:h100-sxm",
        precision="float32",
        out=tmp_path / "run",
    )
    assert {block.ffn.kind for block in result.layout.blocks} == {"moe"}
    result.export(engine="plain", directory=tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert plain.config.model_type == name
    torch.testing.assert_close(plain(TOKENS).logits, result.child()(TOKENS).logits)
    with (
        safe_open(tmp_path / "plain" / "model.safetensors", "pt") as ours,
        safe_open(tmp_path / "parent" / "model.safetensors", "pt") as theirs,
    ):
        own = {f".experts.{number}." for number in range(8)}
        layers = {n for n in theirs.keys() if not any(e in n for e in own)}  # noqa: SIM118
        assert layers - {"lm_head.weight"} <= set(ours.keys())
        assert any(".experts.0." in each for each in ours.keys())  # noqa: SIM118
