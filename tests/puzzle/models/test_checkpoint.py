"""Claims about model directories: opened as transformers does, and compared when opened."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from puzzle.errors import ParentError
from puzzle.models.parent import open_parent
from puzzle.serving.writers.source import open_source
from puzzle.storage.workspace import Workspace
from tests.factories.parents import parent_model, save_parent, tokenizer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def logits_of(parent, length=40):
    x = parent.embed(torch.arange(length)[None])
    for index in range(parent.shape.layers):
        x = parent.run(parent.layer(index), x)
    return parent.head()(x)


def as_transformers(directory, tmp_path):
    """The parent, after its logits were compared with those of transformers' own model."""
    parent = open_parent(directory, workspace=Workspace(tmp_path / "run"), dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = model(torch.arange(40)[None]).logits
    torch.testing.assert_close(logits_of(parent), expected, rtol=1e-5, atol=1e-5)
    return parent


def rewrite(directory, change):
    """Changes the tensors in a directory's one file."""
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE, {"format": "pt"})


def sharded(directory, **changes):
    model = parent_model(**changes)
    model.save_pretrained(directory, max_shard_size="40KB")
    tokenizer().save_pretrained(directory)
    return model


def test_one_file_wins_over_an_index_whose_shards_are_gone_or_old(tmp_path):
    for keep in (False, True):
        place = tmp_path / f"kept-{keep}"
        model = sharded(place)
        old = {path.name: path.read_bytes() for path in place.glob("model-*")}
        index = (place / INDEX).read_bytes()
        assert len(old) > 2
        with torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        model.save_pretrained(place)
        (place / INDEX).write_bytes(index)
        if keep:
            for name, content in old.items():
                (place / name).write_bytes(content)
        parent = as_transformers(place, tmp_path)
        assert torch.equal(parent.tensors["model.norm.weight"], model.model.norm.weight.data)


def test_shards_are_read_and_may_lie_in_folders_with_equal_names(tmp_path):
    place = tmp_path / "shards"
    sharded(place, tie_word_embeddings=False)
    first = as_transformers(place, tmp_path)
    index = json.loads((place / INDEX).read_text())
    for number, name in enumerate(sorted(set(index["weight_map"].values()))):
        (place / f"part{number}").mkdir()
        (place / name).rename(place / f"part{number}" / "weights.safetensors")
        for tensor, file in index["weight_map"].items():
            if file == name:
                index["weight_map"][tensor] = f"part{number}/weights.safetensors"
    (place / INDEX).write_text(json.dumps(index))
    parent = as_transformers(place, tmp_path)
    assert parent.identity != first.identity
    # Each of the files of the same name counts.
    for folder in sorted(place.glob("part*")):
        tensors = load_file(folder / "weights.safetensors")
        changed = {name: tensor + 0.01 for name, tensor in tensors.items()}
        save_file(changed, folder / "weights.safetensors", {"format": "pt"})
        again = as_transformers(place, tmp_path)
        assert again.identity != parent.identity
        parent = again


def test_a_checkpoint_of_the_bare_model_is_opened_and_its_head_is_the_embedding(tmp_path):
    place = save_parent(tmp_path / "bare")
    AutoModel.from_pretrained(place).save_pretrained(place)
    assert "embed_tokens.weight" in load_file(place / SINGLE)
    parent = as_transformers(place, tmp_path)
    assert set(parent.tensors) == set(parent_model().state_dict())


def test_a_missing_head_is_refused_where_nothing_says_that_it_is_the_embedding(tmp_path):
    place = tmp_path / "untied"
    parent_model(tie_word_embeddings=False).model.save_pretrained(place)
    tokenizer().save_pretrained(place)
    with pytest.raises(ParentError, match=r"lacks the tensors 'lm_head\.weight'.*random numbers"):
        open_parent(place, workspace=Workspace(tmp_path / "run"))


@pytest.mark.parametrize("rest", ["head", "embedding", "both"])
def test_of_tied_tables_either_may_be_stored_and_two_different_ones_are_both_used(rest, tmp_path):
    place = save_parent(tmp_path / "tied")

    def change(tensors):
        head = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = head * 2 if rest == "both" else head.clone()
        if rest == "head":
            del tensors["model.embed_tokens.weight"]
        if rest == "embedding":
            del tensors["lm_head.weight"]

    rewrite(place, change)
    parent = as_transformers(place, tmp_path)
    assert parent.shape.tied is (rest != "both")
    again = parent.ref(Workspace(tmp_path / "run")).open()
    torch.testing.assert_close(logits_of(again), logits_of(parent), rtol=0, atol=0)


def test_left_over_buffers_are_ignored_and_other_heads_left_out(tmp_path):
    place = save_parent(tmp_path / "old")

    def change(tensors):
        for layer in range(3):
            tensors[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        tensors["score.weight"] = torch.ones(2, 48)

    rewrite(place, change)
    parent = as_transformers(place, tmp_path)
    assert set(parent.tensors) == set(parent_model().state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"lacks .*1\.mlp\.up_proj"),
        (lambda t: t.pop("model.norm.weight"), r"lacks .*model\.norm"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(8)}),
            r"has the tensors .*q_norm.* do not have",
        ),
        (
            lambda t: t.update({"model.layers.3.input_layernorm.weight": torch.ones(48)}),
            r"layers\.3\.input_layernorm.*3 layers\) do not have",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(50)}),
            r"'model\.norm\.weight' is \[50\], and the config asks for \[48\]",
        ),
    ],
)
def test_what_does_not_fit_the_config_is_named_when_opening(change, message, tmp_path):
    place = save_parent(tmp_path / "odd")
    rewrite(place, change)
    with pytest.raises(ParentError, match=message):
        open_parent(place, workspace=Workspace(tmp_path / "run"), dtype="float32")
    with pytest.raises(ParentError, match=message):
        open_source(place)
    assert not list((tmp_path / "run").glob("*/*/manifest.json"))
