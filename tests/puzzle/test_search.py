"""Claims about the whole path and its stages, on a tiny random parent."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import puzzle
from puzzle.cli import main
from puzzle.errors import ConstraintError, DataError, ParentError, WorkspaceError
from puzzle.evaluation.text_quality import quality
from puzzle.library import layers as library_module
from puzzle.library.build import build_library
from puzzle.library.least_squares import HeldOut, Moments, fit
from puzzle.models.parent import open_parent
from puzzle.scoring.exact_scores import replace_one
from puzzle.storage.workspace import Workspace
from puzzle.text.windows import DataConfig, windows
from search_space import Block, Layout, SearchSpace

ROOT = Path(__file__).parents[2]
DATA = DataConfig(window=16, fit_tokens=512, score_tokens=64, validation_tokens=64)
SCENARIO = puzzle.Scenario(batch=2, prompt_tokens=8, generated_tokens=8, weight_dtype="float32")
WORDS = [f"w{i}" for i in range(60)]


def tokenizer():
    vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>")


def text(seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, 60, (60, 20), generator=generator).tolist()
    return [" ".join(WORDS[i] for i in row) for row in rows]


def parent_model(**changes):
    torch.manual_seed(0)
    sizes = {
        "num_hidden_layers": 3,
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 64,
        "vocab_size": 62,
        "tie_word_embeddings": True,
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def saved(tmp_path):
    parent_model().save_pretrained(tmp_path / "parent")
    tokenizer().save_pretrained(tmp_path / "parent")
    return tmp_path / "parent"


def opened(saved, tmp_path):
    workspace = Workspace(tmp_path / "run")
    parent = open_parent(saved, workspace=workspace, dtype="float32")
    space = SearchSpace.preset(parent.shape, "default")
    return workspace, parent, space, windows(text(), parent.tokenizer, DATA)


def test_streamed_layers_give_the_parents_logits(saved, tmp_path):
    _, parent, _, cut = opened(saved, tmp_path)
    x = parent.embed(cut.score)
    for index in range(parent.shape.layers):
        x = parent.run(parent.layer(index), x)
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(saved)(cut.score).logits
    torch.testing.assert_close(parent.head()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"hardware": "cuda:99"}, {"device": "cuda:99"}])
def test_a_device_that_is_not_there_is_refused_before_any_work(saved, tmp_path, options):
    with pytest.raises(ParentError, match=r"cannot use 'cuda:99'.*'puzzle devices' lists"):
        puzzle.search(
            saved, text(), constraints=["memory <= 1x"], data=DATA, out=tmp_path / "run", **options
        )
    assert not list((tmp_path / "run").glob("*/*/manifest.json"))


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


KILLED = """
import os, signal, sys
import puzzle
from puzzle.storage import workspace
from puzzle.text.windows import DataConfig
from tests.puzzle.test_search import DATA, SCENARIO, text
builds, build = [], workspace.Artifact._build
def killing(self, builder):
    builds.append(self)
    if len(builds) == int(sys.argv[3]):
        def writes_half(directory):
            builder(directory)
            os.kill(os.getpid(), signal.SIGKILL)
        return build(self, writes_half)
    return build(self, builder)
workspace.Artifact._build = killing
puzzle.search(sys.argv[1], text(), constraints=["parameters <= 0.8x"], scenario=SCENARIO,
              precision="float32", data=DATA, out=sys.argv[2])
"""


@pytest.mark.parametrize("build", [1, 4, 7, 10])
def test_a_killed_search_goes_on_and_finds_the_same(saved, tmp_path, build):
    def run(out):
        return puzzle.search(
            saved,
            text(),
            constraints=["parameters <= 0.8x"],
            scenario=SCENARIO,
            precision="float32",
            data=DATA,
            out=tmp_path / out,
        )

    arguments = [sys.executable, "-c", KILLED, str(saved), str(tmp_path / "run"), str(build)]
    killed = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    finished = {
        p: p.stat().st_mtime_ns
        for p in (tmp_path / "run").glob("*/*/manifest.json")
        if p.parents[1].name != "boundary"  # streams are deleted when nothing needs them
    }
    resumed, whole = run("run"), run("other")
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert resumed.layout == whole.layout
    one, other = (result.child().state_dict() for result in (resumed, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "run" / "tmp").iterdir())
    with pytest.raises(WorkspaceError, match="earlier run"):
        puzzle.search(
            saved, text(), constraints=[], precision="float32", out=tmp_path / "run", resume=False
        )


def test_a_search_on_a_full_disk_says_so_and_goes_on_later(saved, tmp_path, monkeypatch):
    arguments = dict(
        constraints=["parameters <= 0.8x"], scenario=SCENARIO, precision="float32", data=DATA
    )
    real = library_module.save_tensors
    calls = []

    def full(path, tensors, metadata=None):
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, tensors, metadata)

    monkeypatch.setattr(library_module, "save_tensors", full)
    with pytest.raises(WorkspaceError, match="the disk is full"):
        puzzle.search(saved, text(), out=tmp_path / "run", **arguments)
    assert len(list((tmp_path / "run" / "library-layer").iterdir())) == 1
    assert puzzle.search(saved, text(), out=tmp_path / "run", **arguments).layout
    # The first of three layers was kept; the child's three are fitted once more.
    assert len(calls) == 4 + 3


def test_the_fit_recovers_a_map():
    generator = torch.Generator().manual_seed(0)
    phi, truth = (torch.randn(shape, generator=generator) for shape in ((200, 5), (5, 3)))
    train, held_out = Moments(5, 3), HeldOut()
    train.add(phi[:150], phi[:150] @ truth)
    held_out.add(phi[150:], phi[150:] @ truth)
    found = fit(train, held_out, torch.zeros(5, 3), (1e-6,))
    torch.testing.assert_close(found.weight, truth, rtol=1e-3, atol=1e-3)


def test_a_fit_never_loses_to_its_prior_on_held_out_tokens():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        # As many features as tokens and pure noise: an unguarded fit would lose every time.
        phi, y = (torch.randn(60, n, generator=generator) for n in (30, 3))
        prior = torch.zeros(30, 3)
        train, held_out = Moments(30, 3), HeldOut()
        train.add(phi[:30], y[:30])
        held_out.add(phi[30:], y[30:])
        unguarded = torch.linalg.lstsq(phi[:30], y[:30]).solution
        assert held_out.error(unguarded) > held_out.error(prior)
        found = fit(train, held_out, prior)
        assert found.error == held_out.error(found.weight) <= held_out.error(prior)


def test_search_gives_a_child_within_its_limits_that_reloads(saved, tmp_path):
    arguments = dict(
        constraints=["parameters <= 0.8x"], scenario=SCENARIO, precision="float32", data=DATA
    )
    result = puzzle.search(saved, text(), out=tmp_path / "run", space="default", **arguments)
    own = Layout.parent(result.layout.shape)
    assert result.layout.parameters() <= 0.8 * own.parameters()
    assert result.measured.child.parameters == result.layout.parameters()
    assert result.measured.child.kv_cache == result.predicted.child.kv_cache
    assert result.measured.child.memory == result.predicted.child.memory
    (tmp_path / "out").mkdir()
    for stale in ("model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / "out" / stale).write_text("of an earlier, larger child")
    path = result.save(tmp_path / "out")
    assert not (path / stale).exists()
    assert not list(tmp_path.glob(".out-*"))
    again = AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, result.child()(tokens).logits)
    assert "child meas." in result.table()
    json.dumps(result.to_dict(), allow_nan=False)
    second = puzzle.search(saved, text(), out=tmp_path / "run", space="default", **arguments)
    assert second.layout == result.layout


def test_what_cannot_be_reached_is_refused_before_the_library_is_built(saved, tmp_path):
    with pytest.raises(
        puzzle.InfeasibleError,
        match=r"throughput >= 900x cannot be reached: the most this space reaches is \d",
    ):
        puzzle.search(
            saved,
            text(),
            constraints=["throughput >= 900x"],
            scenario=SCENARIO,
            precision="float32",
            data=DATA,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run" / "library-layer").exists()


def test_bad_parents_and_texts_are_named(saved, tmp_path):
    workspace = Workspace(tmp_path / "run")
    broken = parent_model()
    broken.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    with pytest.raises(ParentError, match=r"layers\.1\.mlp\.up_proj\.weight' holds 1 NaN"):
        open_parent(broken, workspace=workspace, tokenizer=tokenizer())
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(ParentError, match=r"'gpt2' is not supported; known families: \['llama'\]"):
        open_parent(saved, workspace=workspace)
    with pytest.raises(DataError, match="no tokenizer"):
        windows(text(), None, DATA)
    with pytest.raises(DataError, match="too short"):
        windows("one\n\ntwo", tokenizer(), DATA)


def test_the_command_line_tells_usage_from_errors(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in (["search"], ["search", "model"], ["search", "model", "--demo"]):
        assert main(wrong) == 2
        assert "--demo" in capsys.readouterr().err
    (tmp_path / "text").write_text("words")
    assert main(["search", "./nowhere.gguf", "--text", "text"]) == 1
    assert "nowhere.gguf" in capsys.readouterr().err
    with pytest.raises(ConstraintError, match="throughput"):
        puzzle.search("nowhere", text(), constraints=["troughput >= 2x"], out=tmp_path / "run")
