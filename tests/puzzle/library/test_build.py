"""Claims about the block library: fits, coupling, distillation, second rounds, faults."""

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from puzzle.errors import DataError, ParentError, PuzzleError, WorkspaceError
from puzzle.library.bld import LayerDistill
from puzzle.library.build import build_library, heal
from puzzle.library.layer_outputs import LayerOutputs
from puzzle.library.layers import FittedLayer
from puzzle.library.least_squares import HeldOut, Moments, fit
from puzzle.library.settings import BLDConfig, LibraryConfig
from puzzle.models import boundaries as activations
from puzzle.models.boundaries import in_batches
from puzzle.models.parent import open_parent
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import Windows
from search_space import Block, Layout, SearchSpace

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 64,
}


def opened(tmp_path, *, windows=24, dtype="float32", edit=None, **changes):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).float()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" not in name:
                tensor.copy_(0.3 * torch.randn_like(tensor))
        if edit:
            edit(model)
    workspace = Workspace(tmp_path / "run")
    parent = open_parent(model, workspace=workspace, dtype=dtype)
    tokens = torch.randint(0, SIZES["vocab_size"], (windows, 16))
    return workspace, parent, Windows(fit=tokens, score=tokens[:2], validation=tokens[:2])


def space_of(parent, attentions=("gqa1", "linear", "none"), ffns=("gated24", "linear", "none")):
    return SearchSpace.uniform(parent.shape, attentions=attentions, ffns=ffns)


@torch.no_grad()
def missed(library, layer, label, tokens):
    """The power that a block misses of what the parent's layer adds, as a share."""
    parent, x = library.parent, library.parent.embed(tokens)
    for index in range(layer):
        x = parent.run(parent.layer(index), x)
    y = parent.run(parent.layer(layer), x)
    ((_, out),) = LayerOutputs(library.variants(layer))([Block.from_label(label)], x)
    return float((out - y).square().sum() / (y - x).square().sum())


def test_a_coupled_ffn_makes_up_for_a_removed_attention(tmp_path):
    workspace, parent, cut = opened(tmp_path)
    space = space_of(parent)
    apart = LibraryConfig(coupling="none")
    decoupled = build_library(parent, space, cut, workspace=workspace, config=apart)
    coupled = build_library(parent, space, cut, workspace=workspace)
    label = "none+gated24"
    assert missed(coupled, 1, label, cut.fit) < missed(decoupled, 1, label, cut.fit)
    held_out = cut.fit[-3:]  # an eighth of the windows
    error = coupled.errors(1)["ffn/none/gated24"].value
    assert error == pytest.approx(missed(coupled, 1, label, held_out), rel=1e-3)


def test_decoupled_ffns_are_the_same_whatever_attention_they_follow(tmp_path):
    workspace, parent, cut = opened(tmp_path)
    library = build_library(parent, space_of(parent), cut, workspace=workspace)
    one, two, three = (
        library.variants(0).block_tensors(Block.from_label(f"{attention}+gated24"))
        for attention in ("gqa2", "gqa1", "none")
    )
    name = "mlp.down_proj.weight"
    assert torch.equal(one[name], two[name])
    assert not torch.equal(one[name], three[name])
    everywhere = LibraryConfig(coupling="all")
    coupled = build_library(parent, space_of(parent), cut, workspace=workspace, config=everywhere)
    behind = coupled.variants(0).block_tensors(Block.from_label("gqa1+gated48"))
    assert not torch.equal(behind[name], parent.layer_tensors(0)[name])


def test_every_fit_is_at_least_as_good_on_held_out_text_as_what_it_started_from(tmp_path):
    workspace, parent, cut = opened(tmp_path)
    library = build_library(parent, space_of(parent), cut, workspace=workspace)
    errors = library.errors(0)
    gated = errors["ffn/gqa2/gated24"]
    assert gated.fitted < gated.before
    assert gated.ridge in LibraryConfig().ridges
    assert errors["attention/gqa1"].fitted < errors["attention/gqa1"].before
    paper = LibraryConfig(start="puzzle", coupling="none")
    sliced = build_library(parent, space_of(parent), cut, workspace=workspace, config=paper)
    for name, error in sliced.errors(0).items():
        assert error.fitted == error.before, name
        if name in errors and "/none/" not in name:
            assert error.before == pytest.approx(errors[name].before, rel=1e-4), name


def test_biases_of_the_parents_own_maps_are_fitted_too(tmp_path):
    workspace, parent, cut = opened(tmp_path, attention_bias=True, mlp_bias=True)
    library = build_library(parent, space_of(parent), cut, workspace=workspace)
    own = parent.layer_tensors(0)
    found = library.variants(0).block_tensors(Block.from_label("gqa1+gated24"))
    for name in ("self_attn.o_proj.bias", "mlp.down_proj.bias"):
        assert found[name].shape == own[name].shape
        assert not torch.equal(found[name], own[name])
    layout = Layout.parent(parent.shape).replace(0, Block.from_label("gqa1+gated24"))
    assert set(library.child_tensors(layout)) == set(
        library.child_tensors(Layout.parent(parent.shape))
    )


def test_a_kv_head_that_nothing_listens_to_is_dropped_without_loss(tmp_path):
    def deafen(model):
        # The two query heads of KV head 0 write nothing.
        model.model.layers[0].self_attn.o_proj.weight[:, :16] = 0.0

    workspace, parent, cut = opened(tmp_path, edit=deafen)
    library = build_library(parent, space_of(parent), cut, workspace=workspace)
    error = library.errors(0)["attention/gqa1"]
    assert error.fitted < 1e-6 < error.before


def test_distillation_never_makes_a_variant_worse_and_is_deterministic(tmp_path):
    workspace, parent, cut = opened(tmp_path)
    config = LibraryConfig(bld=BLDConfig(tokens=4096, learning_rate=3e-3))
    space = space_of(parent)
    library = build_library(parent, space, cut, workspace=workspace, config=config)
    trained = [e for e in library.errors(1).values() if e.distilled is not None]
    assert (
        len(trained) == 10
    )  # two attentions; two FFNs behind gqa2, three behind linear and none each
    assert all(error.distilled <= error.fitted + 1e-6 for error in trained)
    assert sum(e.distilled for e in trained) < 0.99 * sum(e.fitted for e in trained)
    label = "gqa1+gated24"
    start = build_library(parent, space, cut, workspace=workspace)
    assert missed(library, 1, label, cut.fit) < missed(start, 1, label, cut.fit)
    other = Workspace(tmp_path / "other")
    again = build_library(parent, space, cut, workspace=other, config=config)
    for one, two in zip(library.layers, again.layers, strict=True):
        assert (one.path / "variants.safetensors").read_bytes() == (
            two.path / "variants.safetensors"
        ).read_bytes()


def test_a_variant_whose_loss_is_not_finite_keeps_its_start(tmp_path):
    workspace, parent, cut = opened(tmp_path)
    wild = LibraryConfig(bld=BLDConfig(tokens=2048, learning_rate=1e30))
    library = build_library(parent, space_of(parent), cut, workspace=workspace, config=wild)
    for error in library.errors(0).values():
        assert error.value <= error.fitted + 1e-6


def test_distillation_goes_on_in_smaller_parts_where_memory_runs_out(tmp_path, monkeypatch, caplog):
    config = LibraryConfig(bld=BLDConfig(tokens=1024))
    found = []
    backward = LayerDistill._backward

    def narrow(self, rows, weight):
        if len(rows.x) > 1:
            raise torch.OutOfMemoryError("too much")
        backward(self, rows, weight)

    for name in ("whole", "parts"):
        workspace, parent, cut = opened(tmp_path / name)
        if name == "parts":
            monkeypatch.setattr(LayerDistill, "_backward", narrow)
        library = build_library(parent, space_of(parent), cut, workspace=workspace, config=config)
        found.append(library.errors(1))
    assert "parts of 1" in caplog.text
    for name, error in found[0].items():
        # A part's error is a share of its own power, so the steps are not quite the same.
        assert found[1][name].value == pytest.approx(error.value, rel=0.02), name


def test_what_is_kept_of_the_parents_own_pass_gives_the_same_library(tmp_path, monkeypatch):
    workspace, parent, cut = opened(tmp_path, num_hidden_layers=1)
    computed, features = [], type(parent.family).ffn_features
    monkeypatch.setattr(
        type(parent.family), "ffn_features", lambda *args: computed.append(1) or features(*args)
    )
    kept = build_library(parent, space_of(parent), cut, workspace=workspace)
    first = len(computed)
    monkeypatch.setattr("puzzle.library.layer_streams.KEPT", 0)
    again = build_library(parent, space_of(parent), cut, workspace=Workspace(tmp_path / "other"))
    assert first < len(computed) - first
    for name, error in again.errors(0).items():
        assert error.value == pytest.approx(kept.errors(0)[name].value, rel=1e-4, abs=1e-9), name


def test_a_healed_child_stays_nearer_to_the_parents_stream(tmp_path):
    workspace, parent, cut = opened(tmp_path, windows=64, num_hidden_layers=4)
    label = "none+gated24"
    layout = Layout(parent.shape, (Block.from_label(label),) * 4)
    space = space_of(parent)
    library = build_library(parent, space, cut, workspace=workspace)
    healed = heal(parent, layout, cut, workspace=workspace)
    around = build_library(parent, space, cut, workspace=workspace, around=layout)
    # The same choices; only a child's own weights are fitted to the held-out windows, too.
    errors = around.errors(0)
    assert all(error == errors[name] for name, error in healed.errors(0).items())
    one, two = (found.variants(0).block_tensors(layout.blocks[0]) for found in (healed, around))
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"mlp.down_proj.weight"}
    far = []
    for found in (library, healed):
        x, y = parent.embed(cut.fit), parent.embed(cut.fit)
        with torch.no_grad():
            for layer in range(4):
                y = parent.run(parent.layer(layer), y)
                ((_, x),) = LayerOutputs(found.variants(layer))([layout.blocks[layer]], x)
        far.append(float((x - y).square().sum()))
    assert far[1] < far[0]


def test_a_block_that_the_library_lacks_is_named(tmp_path):
    workspace, parent, cut = opened(tmp_path)
    library = build_library(parent, space_of(parent), cut, workspace=workspace)
    own = Layout.parent(parent.shape)
    for label, part in (
        ("gqa2+gated16", "'gqa2\\+gated16' for layer 0"),
        ("gqa1+gated8", "gated8"),
    ):
        with pytest.raises(PuzzleError, match=part):
            library.child_tensors(own.replace(0, Block.from_label(label)))


def test_only_a_missing_layer_is_built_again(tmp_path, monkeypatch):
    workspace, parent, cut = opened(tmp_path, num_hidden_layers=3)
    config = LibraryConfig(bld=BLDConfig(tokens=256))
    space = space_of(parent)
    first = build_library(parent, space, cut, workspace=workspace, config=config)
    damaged = first.layers[1].path / "variants.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fitted, fit_layer = [], FittedLayer.build
    monkeypatch.setattr(FittedLayer, "build", lambda *a: (fitted.append(1), fit_layer(*a)))
    again = build_library(parent, space, cut, workspace=workspace, config=config)
    assert damaged.read_bytes() == whole
    assert not fitted  # the closed form of the layer was sound
    assert again.errors(1) == first.errors(1)


def test_values_beyond_float16_are_refused_by_layer(tmp_path):
    def loud(model):
        model.model.layers[1].mlp.down_proj.weight.mul_(3e4)

    workspace, parent, cut = opened(tmp_path, dtype="float16", edit=loud)
    with pytest.raises(ParentError, match=r"layer 1 .*float16.*bfloat16"):
        build_library(parent, space_of(parent), cut, workspace=workspace)
    assert not list((workspace.root / "tmp").iterdir())


def test_silent_and_constant_channels_and_one_repeated_token_give_finite_variants(tmp_path):
    def silence(model):
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[:24] = 0.0
            layer.mlp.gate_proj.weight[24:36] = 0.0
            layer.mlp.up_proj.weight[24:36] = 0.0

    workspace, parent, cut = opened(tmp_path, edit=silence)
    flat = Windows(fit=torch.full_like(cut.fit, 3), score=cut.score, validation=cut.validation)
    for text in (cut, flat):
        library = build_library(parent, space_of(parent), text, workspace=workspace)
        for layer in range(2):
            stored = library.variants(layer).stored
            assert all(bool(torch.isfinite(tensor).all()) for tensor in stored.values())


def test_few_tokens_are_said_and_leave_the_prior(tmp_path, caplog):
    workspace, parent, cut = opened(tmp_path, windows=2)
    with caplog.at_level(logging.WARNING):
        library = build_library(parent, space_of(parent), cut, workspace=workspace)
    assert "16 tokens are fitted and the widest map has 48 inputs" in caplog.text
    assert all(error.fitted <= error.before for error in library.errors(0).values())
    moments, held_out = Moments(4, 2), HeldOut()
    moments.add(torch.zeros(3, 4), torch.zeros(3, 2))
    held_out.add(torch.ones(1, 4), torch.ones(1, 2))
    prior = torch.ones(4, 2)
    assert torch.equal(fit(moments, held_out, prior).weight, prior)


def test_a_disk_that_fills_during_the_sweep_is_named_and_the_build_goes_on_later(
    tmp_path, monkeypatch
):
    workspace, parent, cut = opened(tmp_path, num_hidden_layers=3)
    reserve, targets = activations._reserve, []

    def full(path, size):
        targets.append(path)
        if len(targets) > 2:  # each layer has two
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        reserve(path, size)

    with monkeypatch.context() as patch:
        patch.setattr(activations, "_reserve", full)
        with pytest.raises(WorkspaceError, match="disk is full"):
            build_library(parent, space_of(parent), cut, workspace=workspace)
    done = list((workspace.root / FittedLayer.kind).glob("*/manifest.json"))
    assert len(done) == 1
    times = done[0].stat().st_mtime_ns
    build_library(parent, space_of(parent), cut, workspace=workspace)
    assert done[0].stat().st_mtime_ns == times
    assert not list((workspace.root / "tmp").iterdir())


def test_batches_are_halved_until_the_device_can_hold_them(caplog):
    def compute(rows):
        if rows.stop - rows.start > 2:
            raise torch.OutOfMemoryError("too much")
        return list(range(rows.start, rows.stop))

    found = [row for _, part in in_batches(range(1, 8), 8, compute) for row in part]
    assert found == list(range(1, 8))
    assert "batches of 2 windows" in caplog.text

    def never(rows):
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(range(4), 4, never))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: LibraryConfig(coupling="some"), "coupling"),
        (lambda: LibraryConfig(start="zero"), "start"),
        (lambda: LibraryConfig(channels="random"), "channels"),
        (lambda: LibraryConfig(ridges=(0.0,)), "ridges"),
        (lambda: LibraryConfig(held_out=1.0), "held_out"),
        (lambda: BLDConfig(tokens=0), "tokens"),
        (lambda: BLDConfig(learning_rate=float("nan")), "learning_rate"),
        (lambda: BLDConfig(warm_up=1.0), "warm_up"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(make, name):
    with pytest.raises(DataError, match=f"{name}=.*allowed"):
        make()


PEAK = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
import puzzle
from puzzle.text.windows import Windows
from puzzle.library import build_library
from puzzle.models import open_parent
from puzzle.storage.workspace import Workspace
from search_space import SearchSpace

directory, layers = sys.argv[1], int(sys.argv[2])
workspace = Workspace(directory + "/run")
parent = open_parent(directory + "/model", workspace=workspace, tokenizer=object())
tokens = torch.randint(0, 64, (16, 128), generator=torch.Generator().manual_seed(0))
cut = Windows(fit=tokens, score=tokens, validation=tokens)
space = SearchSpace.uniform(parent.shape, attentions=["none"], ffns=["gated512"])
assert parent.shape.layers == layers
build_library(parent, space, cut, workspace=workspace)
with open("/proc/self/status") as file:
    status = dict(line.split(":", 1) for line in file)
print(int(status["VmHWM"].split()[0]) / 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_peak_memory_of_the_build_does_not_grow_with_depth(tmp_path):
    peaks = []
    for layers in (4, 32):
        sizes = {"num_hidden_layers": layers, "hidden_size": 512, "intermediate_size": 1024}
        config = LlamaConfig(**{**SIZES, **sizes, "num_attention_heads": 8})
        directory = tmp_path / str(layers)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
        model.save_pretrained(directory / "model", max_shard_size="20MB")
        out = subprocess.run(
            [sys.executable, "-c", PEAK, str(directory), str(layers)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(float(out.stdout.split()[-1]))
    # 28 more layers are 130 MB of weights and 60 MB of activations.
    assert peaks[1] - peaks[0] < 40
