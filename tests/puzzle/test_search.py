"""Claims about the whole path and its stages, on a tiny random parent."""

import json

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
from puzzle.data import DataConfig, windows
from puzzle.errors import ConstraintError, DataError, ParentError
from puzzle.evaluate import quality
from puzzle.library import build_library
from puzzle.library.fit import Moments, fit
from puzzle.parents import open_parent
from puzzle.scoring import replace_one
from puzzle.workspace import Workspace
from search_space import Block, Layout, SearchSpace

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


def test_a_replace_one_score_is_the_kl_of_the_child_with_that_block(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    library = build_library(parent, space, cut, workspace=workspace)
    scores = replace_one(library, space, cut, workspace=workspace)
    own = Layout.parent(parent.shape)
    reference = puzzle.child.assemble(
        parent.config, own, library.child_tensors(own), dtype=torch.float32
    )
    for layer, label in [(0, "none+gated32"), (1, "gqa1+linear"), (2, "linear+none")]:
        layout = own.replace(layer, Block.from_label(label))
        child = puzzle.child.assemble(
            parent.config, layout, library.child_tensors(layout), dtype=torch.float32
        )
        measured = quality(reference, child, cut.score)["child"]["kl"]
        assert scores[layer][label] == pytest.approx(measured, rel=1e-3, abs=1e-5)
        assert scores[layer][own.blocks[0].label] == 0.0


def test_local_errors_are_zero_for_the_parent_and_one_for_no_layer(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    errors = build_library(parent, space, cut, workspace=workspace).errors(1)
    assert errors[parent.shape.parent_block.label] == 0.0
    assert errors["none+none"] == pytest.approx(1.0)
    # The prior is a candidate of every fit, and for a linear FFN the prior is to do nothing.
    assert errors["none+linear"] <= errors["none+none"]


def test_finished_layers_are_not_rebuilt_and_other_text_makes_others(saved, tmp_path):
    workspace, parent, space, cut = opened(saved, tmp_path)
    first = build_library(parent, space, cut, workspace=workspace)
    times = [(a.path / "manifest.json").stat().st_mtime_ns for a in first.layers]
    again = build_library(parent, space, cut, workspace=workspace)
    assert times == [(a.path / "manifest.json").stat().st_mtime_ns for a in again.layers]
    other = windows(text(seed=1), parent.tokenizer, DATA)
    fresh = build_library(parent, space, other, workspace=workspace)
    assert {a.path for a in fresh.layers}.isdisjoint({a.path for a in first.layers})


def test_the_fit_recovers_a_map_and_never_loses_to_its_prior():
    generator = torch.Generator().manual_seed(0)
    phi, truth = (torch.randn(shape, generator=generator) for shape in ((200, 5), (5, 3)))
    train, held_out = Moments(5, 3), Moments(5, 3)
    train.add(phi[:150], phi[:150] @ truth)
    held_out.add(phi[150:], phi[150:] @ truth)
    found = fit(train, held_out, torch.zeros(5, 3), (1e-6,))
    torch.testing.assert_close(found.weight, truth, rtol=1e-3, atol=1e-3)
    assert fit(train, held_out, truth).ridge is None or found.error < 1e-3


def test_search_gives_a_child_within_its_limits_that_reloads(saved, tmp_path):
    arguments = dict(constraints=["parameters <= 0.8x"], scenario=SCENARIO, data=DATA)
    result = puzzle.search(saved, text(), out=tmp_path / "run", space="default", **arguments)
    own = Layout.parent(result.layout.shape)
    assert result.layout.parameters() <= 0.8 * own.parameters()
    assert result.measured["child"]["parameters"] == result.layout.parameters()
    assert result.measured["child"]["kv_cache"] == result.predicted["child"]["kv_cache"]
    assert result.measured["child"]["memory"] == result.predicted["child"]["memory"]
    path = result.save(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, result.child()(tokens).logits)
    assert "child meas." in result.table()
    json.dumps(result.to_dict(), allow_nan=False)
    second = puzzle.search(saved, text(), out=tmp_path / "run", space="default", **arguments)
    assert second.layout == result.layout


def test_what_cannot_be_reached_is_refused_before_the_library_is_built(saved, tmp_path):
    with pytest.raises(puzzle.InfeasibleError, match=r"throughput >= 900x cannot be reached: the most this space reaches is \d"):
        puzzle.search(
            saved,
            text(),
            constraints=["throughput >= 900x"],
            scenario=SCENARIO,
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
    with pytest.raises(DataError, match="too short"):
        windows("one\n\ntwo", tokenizer(), DATA)


def test_the_command_line_tells_usage_from_errors(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search"]) == 1
    assert "--demo" in capsys.readouterr().err
    with pytest.raises(ConstraintError, match="throughput"):
        puzzle.search("nowhere", text(), constraints=["troughput >= 2x"], out=tmp_path / "run")
